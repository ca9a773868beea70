from keda_gpu_scaler.wire import externalscaler_pb2 as _externalscaler_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PreviewRequest(_message.Message):
    __slots__ = ("scaled_object", "spec")
    SCALED_OBJECT_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    scaled_object: _externalscaler_pb2.ScaledObjectRef
    spec: str
    def __init__(self, scaled_object: _Optional[_Union[_externalscaler_pb2.ScaledObjectRef, _Mapping]] = ..., spec: _Optional[str] = ...) -> None: ...

class ListWorkloadsRequest(_message.Message):
    __slots__ = ("max_points",)
    MAX_POINTS_FIELD_NUMBER: _ClassVar[int]
    max_points: int
    def __init__(self, max_points: _Optional[int] = ...) -> None: ...

class WorkloadList(_message.Message):
    __slots__ = ("instance", "refused", "answers")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    instance: str
    refused: _containers.RepeatedCompositeFieldContainer[RefusedTrigger]
    answers: _containers.RepeatedCompositeFieldContainer[WorkloadAnswer]
    def __init__(self, instance: _Optional[str] = ..., refused: _Optional[_Iterable[_Union[RefusedTrigger, _Mapping]]] = ..., answers: _Optional[_Iterable[_Union[WorkloadAnswer, _Mapping]]] = ...) -> None: ...

class RefusedTrigger(_message.Message):
    __slots__ = ("namespace", "name", "problems", "age_seconds")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    problems: _containers.RepeatedScalarFieldContainer[str]
    age_seconds: float
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., problems: _Optional[_Iterable[str]] = ..., age_seconds: _Optional[float] = ...) -> None: ...

class WorkloadAnswer(_message.Message):
    __slots__ = ("namespace", "name", "metric_name", "metric", "unit", "target", "active", "no_value_reason", "reason", "with_value", "expected", "comparison", "demand", "age_seconds", "history")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    METRIC_NAME_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    NO_VALUE_REASON_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WITH_VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    metric_name: str
    metric: str
    unit: str
    target: float
    active: bool
    no_value_reason: str
    reason: str
    with_value: int
    expected: int
    comparison: Comparison
    demand: Demand
    age_seconds: float
    history: History
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., metric_name: _Optional[str] = ..., metric: _Optional[str] = ..., unit: _Optional[str] = ..., target: _Optional[float] = ..., active: _Optional[bool] = ..., no_value_reason: _Optional[str] = ..., reason: _Optional[str] = ..., with_value: _Optional[int] = ..., expected: _Optional[int] = ..., comparison: _Optional[_Union[Comparison, _Mapping]] = ..., demand: _Optional[_Union[Demand, _Mapping]] = ..., age_seconds: _Optional[float] = ..., history: _Optional[_Union[History, _Mapping]] = ...) -> None: ...

class History(_message.Message):
    __slots__ = ("step_seconds", "points")
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    step_seconds: float
    points: _containers.RepeatedCompositeFieldContainer[HistoryPoint]
    def __init__(self, step_seconds: _Optional[float] = ..., points: _Optional[_Iterable[_Union[HistoryPoint, _Mapping]]] = ...) -> None: ...

class HistoryPoint(_message.Message):
    __slots__ = ("steps_ago", "measured", "target", "replicas", "wanted", "min_replicas", "max_replicas", "active")
    STEPS_AGO_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    MIN_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    steps_ago: int
    measured: float
    target: float
    replicas: int
    wanted: int
    min_replicas: int
    max_replicas: int
    active: bool
    def __init__(self, steps_ago: _Optional[int] = ..., measured: _Optional[float] = ..., target: _Optional[float] = ..., replicas: _Optional[int] = ..., wanted: _Optional[int] = ..., min_replicas: _Optional[int] = ..., max_replicas: _Optional[int] = ..., active: _Optional[bool] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("measured", "plain", "reported", "report", "adjustment", "current_replicas", "desired_replicas", "limit", "activity")
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    PLAIN_FIELD_NUMBER: _ClassVar[int]
    REPORTED_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    ADJUSTMENT_FIELD_NUMBER: _ClassVar[int]
    CURRENT_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    DESIRED_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    measured: float
    plain: float
    reported: float
    report: str
    adjustment: str
    current_replicas: int
    desired_replicas: int
    limit: str
    activity: str
    def __init__(self, measured: _Optional[float] = ..., plain: _Optional[float] = ..., reported: _Optional[float] = ..., report: _Optional[str] = ..., adjustment: _Optional[str] = ..., current_replicas: _Optional[int] = ..., desired_replicas: _Optional[int] = ..., limit: _Optional[str] = ..., activity: _Optional[str] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("metric_name", "target", "scope", "value", "no_value_reason", "reason", "active", "with_value", "expected", "steps", "instance", "metric", "unit", "value_type", "settings", "hints", "workload", "observations", "observations_omitted", "demand", "activity_unknown", "fallback", "comparison", "pending", "clocks")
    METRIC_NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    NO_VALUE_REASON_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    WITH_VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    VALUE_TYPE_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    HINTS_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_OMITTED_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    CLOCKS_FIELD_NUMBER: _ClassVar[int]
    metric_name: str
    target: float
    scope: str
    value: float
    no_value_reason: str
    reason: str
    active: bool
    with_value: int
    expected: int
    steps: _containers.RepeatedScalarFieldContainer[str]
    instance: str
    metric: str
    unit: str
    value_type: str
    settings: _containers.RepeatedCompositeFieldContainer[Setting]
    hints: _containers.RepeatedScalarFieldContainer[str]
    workload: Workload
    observations: _containers.RepeatedCompositeFieldContainer[Observation]
    observations_omitted: int
    demand: Demand
    activity_unknown: bool
    fallback: str
    comparison: Comparison
    pending: bool
    clocks: _containers.RepeatedCompositeFieldContainer[ClockDifference]
    def __init__(self, metric_name: _Optional[str] = ..., target: _Optional[float] = ..., scope: _Optional[str] = ..., value: _Optional[float] = ..., no_value_reason: _Optional[str] = ..., reason: _Optional[str] = ..., active: _Optional[bool] = ..., with_value: _Optional[int] = ..., expected: _Optional[int] = ..., steps: _Optional[_Iterable[str]] = ..., instance: _Optional[str] = ..., metric: _Optional[str] = ..., unit: _Optional[str] = ..., value_type: _Optional[str] = ..., settings: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ..., hints: _Optional[_Iterable[str]] = ..., workload: _Optional[_Union[Workload, _Mapping]] = ..., observations: _Optional[_Iterable[_Union[Observation, _Mapping]]] = ..., observations_omitted: _Optional[int] = ..., demand: _Optional[_Union[Demand, _Mapping]] = ..., activity_unknown: _Optional[bool] = ..., fallback: _Optional[str] = ..., comparison: _Optional[_Union[Comparison, _Mapping]] = ..., pending: _Optional[bool] = ..., clocks: _Optional[_Iterable[_Union[ClockDifference, _Mapping]]] = ...) -> None: ...

class ClockDifference(_message.Message):
    __slots__ = ("node", "ahead_seconds")
    NODE_FIELD_NUMBER: _ClassVar[int]
    AHEAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    node: str
    ahead_seconds: float
    def __init__(self, node: _Optional[str] = ..., ahead_seconds: _Optional[float] = ...) -> None: ...

class Setting(_message.Message):
    __slots__ = ("key", "value", "origin")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    origin: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ..., origin: _Optional[str] = ...) -> None: ...

class Workload(_message.Message):
    __slots__ = ("kind", "target", "wanted", "actual", "ready", "pending")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    kind: str
    target: str
    wanted: int
    actual: int
    ready: int
    pending: int
    def __init__(self, kind: _Optional[str] = ..., target: _Optional[str] = ..., wanted: _Optional[int] = ..., actual: _Optional[int] = ..., ready: _Optional[int] = ..., pending: _Optional[int] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("pod", "node", "ready", "state", "value", "age_seconds", "sentence", "devices", "attempts", "attempts_omitted", "cause")
    POD_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_OMITTED_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    pod: str
    node: str
    ready: bool
    state: str
    value: float
    age_seconds: float
    sentence: str
    devices: _containers.RepeatedCompositeFieldContainer[ObservedDevice]
    attempts: _containers.RepeatedCompositeFieldContainer[ScrapeAttempt]
    attempts_omitted: int
    cause: str
    def __init__(self, pod: _Optional[str] = ..., node: _Optional[str] = ..., ready: _Optional[bool] = ..., state: _Optional[str] = ..., value: _Optional[float] = ..., age_seconds: _Optional[float] = ..., sentence: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[ObservedDevice, _Mapping]]] = ..., attempts: _Optional[_Iterable[_Union[ScrapeAttempt, _Mapping]]] = ..., attempts_omitted: _Optional[int] = ..., cause: _Optional[str] = ...) -> None: ...

class ScrapeAttempt(_message.Message):
    __slots__ = ("url", "engine", "status", "failure", "age_seconds", "answer_seconds", "remarks")
    URL_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REMARKS_FIELD_NUMBER: _ClassVar[int]
    url: str
    engine: bool
    status: int
    failure: str
    age_seconds: float
    answer_seconds: float
    remarks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, url: _Optional[str] = ..., engine: _Optional[bool] = ..., status: _Optional[int] = ..., failure: _Optional[str] = ..., age_seconds: _Optional[float] = ..., answer_seconds: _Optional[float] = ..., remarks: _Optional[_Iterable[str]] = ...) -> None: ...

class ObservedDevice(_message.Message):
    __slots__ = ("index", "model", "uuid", "value", "sharers")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SHARERS_FIELD_NUMBER: _ClassVar[int]
    index: int
    model: str
    uuid: str
    value: float
    sharers: int
    def __init__(self, index: _Optional[int] = ..., model: _Optional[str] = ..., uuid: _Optional[str] = ..., value: _Optional[float] = ..., sharers: _Optional[int] = ...) -> None: ...

class Demand(_message.Message):
    __slots__ = ("value", "active", "sentence")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    value: float
    active: bool
    sentence: str
    def __init__(self, value: _Optional[float] = ..., active: _Optional[bool] = ..., sentence: _Optional[str] = ...) -> None: ...
