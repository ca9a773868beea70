# SPDX-License-Identifier: Apache-2.0
"""Reads a ScaledObject or ScaledJob: its triggers, its sizes and the settings of its HPA.

Law: a field that is not given has KEDA's default. A field that cannot be read is a remark, not an exception, because
the object is untrusted.

Facts are from KEDA 2.20: apis/keda/v1alpha1/scaledobject_types.go and scaledjob_types.go, and
pkg/scaling/executor/scale_scaledobjects.go.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from keda_gpu_scaler.core.comparison import DEFAULT_MAX_REPLICAS
from keda_gpu_scaler.core.hpa.controller import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    DOWN_STABILISATION_SECONDS,
    Behavior,
    Policy,
    PolicyType,
    ScalingRules,
    SelectPolicy,
)
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.scaling_rules import Formula, JobRules, Tolerances
from keda_gpu_scaler.core.trigger.metric_type import ASSUMED
from keda_gpu_scaler.core.trigger.own_trigger import TRIGGER_TYPES, recognized_triggers
from keda_gpu_scaler.kube.keda_objects import formula, job_rules, tolerance, tolerances
from keda_gpu_scaler.kube.parse import mappings, part
from keda_gpu_scaler.kube.yaml_loader import PlainLoader

DEFAULT_COOLDOWN_SECONDS = 300.0
KINDS = ("ScaledObject", "ScaledJob")
_PAUSED = "autoscaling.keda.sh/paused"
_PAUSED_REPLICAS = "autoscaling.keda.sh/paused-replicas"
_PAUSED_SCALE_IN = "autoscaling.keda.sh/paused-scale-in"
_PAUSED_SCALE_OUT = "autoscaling.keda.sh/paused-scale-out"
_FALSE = ("0", "f", "false")

STDIN = "-"
"""The name of a file that stands for standard input."""


class ScaledObjectError(Exception):
    """A file has no ScaledObject that can be explained; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class ScaledObjectTrigger:
    """A trigger of this scaler: its number among all triggers (from 1), its metadata, and KEDA's ``metricType``.

    ``name`` is its name in a formula, empty where it has none.
    """

    number: int
    metadata: Mapping[str, str]
    value_type: str = ASSUMED
    name: str = ""


@dataclass(frozen=True, slots=True)
class Fallback:
    """What KEDA does with a trigger after more than ``failures`` errors in a row.

    ``behavior`` is "static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower" or
    "scalingModifiers" (KEDA 2.20: pkg/fallback/fallback.go).
    """

    failures: int
    replicas: int
    behavior: str = "static"

    def describe(self) -> str:
        """Say which size it leads to."""
        size = {
            "currentReplicas": "keeps the present size",
            "currentReplicasIfHigher": f"keeps the present size, and at least {self.replicas}",
            "currentReplicasIfLower": f"keeps the present size, and at most {self.replicas}",
            "scalingModifiers": "gives the formula nil for this trigger",
        }
        return size.get(self.behavior, f"sets the size to {self.replicas}")


@dataclass(frozen=True, slots=True)
class ScaledObject:
    """A ScaledObject or ScaledJob.

    ``others`` are the types of the triggers of other scalers. ``idle_replicas`` is None where it is not given.
    ``fallback`` is None where none is given. ``paused`` is the annotation
    that pauses KEDA, empty where none does; ``is_scale_in_paused`` and ``is_scale_out_paused`` say that one direction
    is paused. ``formula`` is None without scalingModifiers. ``jobs`` has the rules of a ScaledJob. ``remarks`` are
    sentences on fields that cannot be read. ``is_assumed`` says that no object was read, so that the sizes are KEDA's
    defaults. ``proposed_spec`` is the spec of an object in a file as JSON, and ``file`` the name of the file; both are
    empty for an object that the API server returned.
    """

    namespace: str
    name: str
    kind: str = "ScaledObject"
    triggers: tuple[ScaledObjectTrigger, ...] = ()
    others: tuple[str, ...] = ()
    min_replicas: int = 0
    max_replicas: int = DEFAULT_MAX_REPLICAS
    idle_replicas: int | None = None
    cooldown_seconds: float = DEFAULT_COOLDOWN_SECONDS
    behavior: Behavior | None = None
    tolerances: Tolerances = field(default_factory=Tolerances)
    fallback: Fallback | None = None
    paused: str = ""
    is_scale_in_paused: bool = False
    is_scale_out_paused: bool = False
    formula: Formula | None = None
    jobs: JobRules | None = None
    hpa_name: str = ""
    remarks: tuple[str, ...] = ()
    is_assumed: bool = False
    proposed_spec: str = ""
    file: str = ""

    @property
    def hpa_min(self) -> int:
        """The HPA's lower limit: KEDA never sets less than 1."""
        return max(1, self.min_replicas)

    @property
    def inactive_replicas(self) -> int | None:
        """The size that KEDA itself sets after the cooldown; None where the HPA decides on an inactive workload."""
        if self.idle_replicas is not None:
            return self.idle_replicas
        return 0 if self.min_replicas == 0 else None

    @property
    def down_window_seconds(self) -> float:
        """The HPA's stabilization window for scaling down."""
        return self.behavior.down.stabilisation_seconds if self.behavior else DOWN_STABILISATION_SECONDS


def scaled_object_of(item: Mapping[str, Any]) -> ScaledObject:
    """Read an object of the API server, or of a file."""
    metadata, spec = part(item, "metadata"), part(item, "spec")
    kind, name = str(item.get("kind", "ScaledObject")), str(metadata.get("name", ""))
    triggers, others = _triggers(spec.get("triggers"))
    advanced = part(spec, "advanced")
    config = part(advanced, "horizontalPodAutoscalerConfig")
    behavior, remarks = _behavior(part(config, "behavior"))
    annotations = part(metadata, "annotations")
    is_in_paused, is_out_paused = _is_set(annotations, _PAUSED_SCALE_IN), _is_set(annotations, _PAUSED_SCALE_OUT)
    return ScaledObject(
        namespace=str(metadata.get("namespace", "")),
        name=name,
        kind=kind,
        triggers=triggers,
        others=others,
        min_replicas=_count(spec, "minReplicaCount", 0),
        max_replicas=_count(spec, "maxReplicaCount", DEFAULT_MAX_REPLICAS),
        idle_replicas=_count(spec, "idleReplicaCount", 0) if "idleReplicaCount" in spec else None,
        cooldown_seconds=_count(spec, "cooldownPeriod", int(DEFAULT_COOLDOWN_SECONDS)),
        behavior=_with_pauses(behavior, is_in_paused=is_in_paused, is_out_paused=is_out_paused),
        tolerances=tolerances(spec),
        fallback=fallback_of(spec),
        paused=_paused(annotations),
        is_scale_in_paused=is_in_paused,
        is_scale_out_paused=is_out_paused,
        formula=formula(spec) if kind == "ScaledObject" else None,
        jobs=job_rules(spec) if kind == "ScaledJob" else None,
        hpa_name=str(config.get("name") or f"keda-hpa-{name}"),
        remarks=remarks,
    )


def read_scaled_object(text: str, namespace: str, name: str) -> ScaledObject:
    """Find a ScaledObject or ScaledJob in YAML: the one of this name, or the only one where the name is empty.

    Raises:
        ScaledObjectError: there is none, or there are several.
    """
    try:
        documents = list(yaml.load_all(text, PlainLoader))
    except yaml.YAMLError as error:
        raise ScaledObjectError(f"not valid YAML: {str(error).splitlines()[0]}; render templates first") from error
    except RecursionError as error:
        raise ScaledObjectError("not valid YAML: it is nested too deeply; name a manifest") from error
    items = [item for document in documents for item in _items(document)]
    found = [
        replace(scaled_object_of(item), proposed_spec=_spec_text(item)) for item in items if item.get("kind") in KINDS
    ]
    matching = [one for one in found if not name or (one.name == name and one.namespace in ("", namespace))]
    if len(matching) == 1:
        return matching[0]
    if not found:
        raise ScaledObjectError("the file has no ScaledObject and no ScaledJob")
    names = ", ".join(f"{one.namespace}/{one.name}" if one.namespace else one.name for one in found)
    raise ScaledObjectError(f"name one of these as NAMESPACE/NAME: {names}")


def fallback_of(spec: Mapping[str, Any]) -> Fallback | None:
    """Read a ScaledObject's fallback; None where it has none."""
    given = part(spec, "fallback")
    if not given:
        return None
    behavior = _text(given.get("behavior") or "static")
    return Fallback(_count(given, "failureThreshold", 0), _count(given, "replicas", 0), behavior)


def _spec_text(item: Mapping[str, Any]) -> str:
    """Return the spec of a ScaledObject as JSON. A ScaledJob has no workload before it is applied."""
    return json.dumps(part(item, "spec"), default=str) if item.get("kind") == "ScaledObject" else ""


def _items(document: object) -> list[Mapping[str, Any]]:
    if not isinstance(document, Mapping):
        return []
    items = document.get("items")
    return mappings(items if isinstance(items, list) else [document])


def _triggers(items: object) -> tuple[tuple[ScaledObjectTrigger, ...], tuple[str, ...]]:
    """Return the triggers of this scaler, and the types of all others.

    Where no trigger can be recognized, every external one is returned: the Service may have any name.
    """
    triggers = [item if isinstance(item, Mapping) else {} for item in (items if isinstance(items, list) else ())]
    external = [number for number, trigger in enumerate(triggers) if trigger.get("type") in TRIGGER_TYPES]
    own = recognized_triggers(triggers) or external
    others = [str(trigger.get("type", "?")) for number, trigger in enumerate(triggers) if number not in own]
    return tuple(trigger_of(number + 1, triggers[number]) for number in own), tuple(others)


def trigger_of(number: int, trigger: Mapping[str, Any]) -> ScaledObjectTrigger:
    """Read a trigger of any scaler, which has this number in its ScaledObject, from 1."""
    return ScaledObjectTrigger(
        number,
        {str(key): _text(value) for key, value in part(trigger, "metadata").items()},
        str(trigger.get("metricType") or ASSUMED),
        _text(trigger.get("name") or ""),
    )


def _paused(annotations: Mapping[str, Any]) -> str:
    if _PAUSED_REPLICAS in annotations:
        return f"{_PAUSED_REPLICAS}: {_text(annotations[_PAUSED_REPLICAS])}"
    return f"{_PAUSED}: {_text(annotations[_PAUSED])}" if _is_set(annotations, _PAUSED) else ""


def _is_set(annotations: Mapping[str, Any], key: str) -> bool:
    """Whether KEDA takes an annotation for true: it is there, and is not false."""
    return key in annotations and _text(annotations[key]).lower() not in _FALSE


def _with_pauses(behavior: Behavior | None, *, is_in_paused: bool, is_out_paused: bool) -> Behavior | None:
    """Return the behavior that KEDA gives the HPA: a paused direction has the selectPolicy Disabled."""
    if not (is_in_paused or is_out_paused):
        return behavior
    given = behavior or Behavior()
    return Behavior(
        replace(given.up, select=SelectPolicy.DISABLED) if is_out_paused else given.up,
        replace(given.down, select=SelectPolicy.DISABLED) if is_in_paused else given.down,
    )


def _behavior(item: Mapping[str, Any]) -> tuple[Behavior | None, tuple[str, ...]]:
    if not item:
        return None, ()
    up, down = part(item, "scaleUp"), part(item, "scaleDown")
    try:
        behavior = Behavior(_rules(up, DEFAULT_UP), _rules(down, DEFAULT_DOWN))
        for rules in (up, down):
            tolerance(rules)
    except (ValueError, KeyError, TypeError) as error:
        return None, (f"behavior: {quoted(str(error), 120)}: ignored, the defaults apply",)
    return behavior, ()


def _rules(item: Mapping[str, Any], default: ScalingRules) -> ScalingRules:
    policies = item.get("policies")
    return ScalingRules(
        tuple(
            Policy(PolicyType(one["type"]), int(one["value"]), int(one["periodSeconds"]))
            for one in (policies if isinstance(policies, list) else ())
        )
        or default.policies,
        float(item.get("stabilizationWindowSeconds", default.stabilisation_seconds)),
        SelectPolicy(item.get("selectPolicy", default.select.value)),
    )


def _count(spec: Mapping[str, Any], key: str, default: int) -> int:
    value = spec.get(key, default)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _text(value: object) -> str:
    """Return a value of YAML as the string that KEDA would read, if it were quoted."""
    return value if isinstance(value, str) else str(value).lower()
