from keda_gpu_scaler.wire import externalscaler_pb2 as _externalscaler_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(_message.Message):
    __slots__ = ("metric_name", "target", "scope", "value", "lack", "reason", "active", "seen", "expected", "steps", "instance")
    METRIC_NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LACK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    metric_name: str
    target: float
    scope: str
    value: float
    lack: str
    reason: str
    active: bool
    seen: int
    expected: int
    steps: _containers.RepeatedScalarFieldContainer[str]
    instance: str
    def __init__(self, metric_name: _Optional[str] = ..., target: _Optional[float] = ..., scope: _Optional[str] = ..., value: _Optional[float] = ..., lack: _Optional[str] = ..., reason: _Optional[str] = ..., active: _Optional[bool] = ..., seen: _Optional[int] = ..., expected: _Optional[int] = ..., steps: _Optional[_Iterable[str]] = ..., instance: _Optional[str] = ...) -> None: ...
