# SPDX-License-Identifier: Apache-2.0
"""What does a ScaledObject say that matters to an answer? Its triggers, its sizes, and what it tells the HPA.

The law of this module: what is not said is what KEDA makes of it, and what cannot be understood is a remark and no
exception; it was written by strangers.

Facts are from KEDA 2.20: apis/keda/v1alpha1/scaledobject_types.go and scaledjob_types.go, and
pkg/scaling/executor/scale_scaledobjects.go.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from keda_gpu_scaler.core.hpa.controller import (
    DEFAULT_DOWN,
    DEFAULT_MAX_REPLICAS,
    DEFAULT_UP,
    Behavior,
    Policy,
    PolicyType,
    ScalingRules,
    SelectPolicy,
)
from keda_gpu_scaler.core.hpa.replica_calculator import DEFAULT_TOLERANCE, Tolerances
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.metric_type import ASSUMED
from keda_gpu_scaler.core.trigger.parser import PARAMETERS
from keda_gpu_scaler.kube.parse import mappings, part

DEFAULT_COOLDOWN_SECONDS = 300.0
KINDS = ("ScaledObject", "ScaledJob")

_TYPES = ("external", "external-push")
_NAME = "keda-gpu-scaler"
_OURS = frozenset(parameter.key for parameter in PARAMETERS)
_FROM_ENVIRONMENT = "FromEnv"
_PAUSED = "autoscaling.keda.sh/paused"
_PAUSED_AT = "autoscaling.keda.sh/paused-replicas"


class ScaledObjectError(Exception):
    """A file holds nothing that can be explained; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class ScaledObjectTrigger:
    """One trigger of ours: its place among all (from 1), its metadata, and KEDA's ``metricType``."""

    number: int
    metadata: Mapping[str, str]
    value_type: str = ASSUMED


@dataclass(frozen=True, slots=True)
class ScaledObject:
    """A ScaledObject or ScaledJob.

    ``others`` are the types of the triggers that are not ours. ``idle_replicas`` is None where it is not said,
    ``fallback`` is what KEDA sets after so many failures: failures and replicas. ``paused`` says why KEDA does nothing.
    ``is_assumed`` says that no definition was to be had, so that the sizes are KEDA's defaults.
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
    fallback: tuple[int, int] | None = None
    paused: str = ""
    has_formula: bool = False
    hpa_name: str = ""
    remarks: tuple[str, ...] = ()
    is_assumed: bool = False

    @property
    def hpa_min(self) -> int:
        """The HPA's lower limit: KEDA never gives it less than 1."""
        return max(1, self.min_replicas)

    @property
    def asleep_replicas(self) -> int | None:
        """To how many KEDA itself takes it when it is inactive; None where it leaves that to the HPA."""
        if self.idle_replicas is not None:
            return self.idle_replicas
        return 0 if self.min_replicas == 0 else None


def scaled_object_of(item: Mapping[str, Any]) -> ScaledObject:
    """Read an object as the API server, or a file, has it."""
    metadata, spec = part(item, "metadata"), part(item, "spec")
    kind, name = str(item.get("kind", "ScaledObject")), str(metadata.get("name", ""))
    triggers, others = _triggers(spec.get("triggers"))
    advanced = part(spec, "advanced")
    config = part(advanced, "horizontalPodAutoscalerConfig")
    behavior, tolerances, remarks = _behavior(part(config, "behavior"))
    fallback = part(spec, "fallback")
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
        behavior=behavior,
        tolerances=tolerances,
        fallback=(_count(fallback, "failureThreshold", 0), _count(fallback, "replicas", 0)) if fallback else None,
        paused=_paused(part(metadata, "annotations")),
        has_formula=bool(part(advanced, "scalingModifiers").get("formula")),
        hpa_name=str(config.get("name") or f"keda-hpa-{name}"),
        remarks=remarks,
    )


def read_scaled_object(text: str, namespace: str, name: str) -> ScaledObject:
    """Find a ScaledObject or ScaledJob in YAML: the one of this name, or the only one.

    Raises:
        DefinitionError: there is none, or several.
    """
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise ScaledObjectError(
            f"not YAML that can be read: {str(error).splitlines()[0]}; render templates first"
        ) from (error)
    items = [item for document in documents for item in _items(document)]
    found = [scaled_object_of(item) for item in items if item.get("kind") in KINDS]
    fitting = [one for one in found if not name or (one.name == name and one.namespace in ("", namespace))]
    if len(fitting) == 1:
        return fitting[0]
    if not found:
        raise ScaledObjectError("there is no ScaledObject and no ScaledJob in it")
    names = ", ".join(f"{one.namespace}/{one.name}" if one.namespace else one.name for one in found)
    raise ScaledObjectError(f"say which one, as NAMESPACE/NAME; in it are: {names}")


def _items(document: object) -> list[Mapping[str, Any]]:
    if not isinstance(document, Mapping):
        return []
    items = document.get("items")
    return mappings(items if isinstance(items, list) else [document])


def _triggers(found: object) -> tuple[tuple[ScaledObjectTrigger, ...], tuple[str, ...]]:
    """Tell our triggers from others', of which the types are kept.

    Where none can be told to be ours, every external one may be: a Service may have any name.
    """
    said = [part({"it": trigger}, "it") for trigger in (found if isinstance(found, list) else ())]
    external = [
        ScaledObjectTrigger(
            number,
            {str(key): _text(value) for key, value in part(trigger, "metadata").items()},
            str(trigger.get("metricType") or ASSUMED),
        )
        for number, trigger in enumerate(said, start=1)
        if trigger.get("type") in _TYPES
    ]
    ours = [one for one in external if _is_ours(one.metadata)] or external
    numbers = {one.number for one in ours}
    others = [str(one.get("type", "?")) for number, one in enumerate(said, start=1) if number not in numbers]
    return tuple(ours), tuple(others)


def _is_ours(metadata: Mapping[str, str]) -> bool:
    """Whether a trigger is meant for this scaler: by the address, or else by keys that are ours."""
    if _NAME in metadata.get("scalerAddress", ""):
        return True
    return any(key.removesuffix(_FROM_ENVIRONMENT) in _OURS for key in metadata)


def _paused(annotations: Mapping[str, Any]) -> str:
    if _PAUSED_AT in annotations:
        return f"{_PAUSED_AT}: {_text(annotations[_PAUSED_AT])}"
    if _text(annotations.get(_PAUSED, "false")).lower() not in ("false", ""):
        return f"{_PAUSED}: {_text(annotations[_PAUSED])}"
    return ""


def _behavior(said: Mapping[str, Any]) -> tuple[Behavior | None, Tolerances, tuple[str, ...]]:
    if not said:
        return None, Tolerances(), ()
    up, down = part(said, "scaleUp"), part(said, "scaleDown")
    try:
        behavior = Behavior(_rules(up, DEFAULT_UP), _rules(down, DEFAULT_DOWN))
        tolerances = Tolerances(_tolerance(up), _tolerance(down))
    except (ValueError, KeyError, TypeError) as error:
        return None, Tolerances(), (f"behavior: {quoted(str(error), 120)}: taken for not given",)
    return behavior, tolerances, ()


def _rules(said: Mapping[str, Any], default: ScalingRules) -> ScalingRules:
    policies = said.get("policies")
    return ScalingRules(
        tuple(
            Policy(PolicyType(one["type"]), int(one["value"]), int(one["periodSeconds"]))
            for one in (policies if isinstance(policies, list) else ())
        )
        or default.policies,
        float(said.get("stabilizationWindowSeconds", default.stabilisation_seconds)),
        SelectPolicy(said.get("selectPolicy", default.select.value)),
    )


def _tolerance(said: Mapping[str, Any]) -> float:
    """Read a tolerance, a quantity of Kubernetes: "0.05", or "50m"."""
    text = str(said.get("tolerance", DEFAULT_TOLERANCE))
    return float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)


def _count(spec: Mapping[str, Any], key: str, default: int) -> int:
    value = spec.get(key, default)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _text(value: object) -> str:
    """What KEDA would make of it, had it been quoted."""
    return value if isinstance(value, str) else str(value).lower()
