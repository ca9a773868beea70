# SPDX-License-Identifier: Apache-2.0
"""What does a trigger mean, after its profile and the defaults? Every setting that has a say, and where it is from.

The law of this module: what is told is what is used. A key that means nothing for this trigger is not told.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from keda_gpu_scaler.core.trigger.engine_params import ENDPOINT_KEYS, DemandQuery, EngineQuery
from keda_gpu_scaler.core.trigger.metadata import MetadataReader
from keda_gpu_scaler.core.trigger.metrics import PROFILES, EngineMetric, Profile
from keda_gpu_scaler.core.trigger.parser import PARAMETERS, SHORTHANDS, Scope, Trigger

_KEYS = tuple(parameter.key for parameter in PARAMETERS)
_OF_PROFILES = ("metricType", "targetValue", "activationThreshold", "metricName", "engine")
_ALIASES = {
    "metricType": (*SHORTHANDS, "engineMetric"),
    "targetValue": tuple(SHORTHANDS),
    "engineEndpoint": ENDPOINT_KEYS,
    "demandMetric": ("demand",),
}
_OF_READINGS = {
    "saturation": ("queueTarget", "kvTarget", "maxSeqs"),
    "ttft_ms": ("quantile",),
    "engine": ("engineMetric",),
}
_WHERE = ("engine", "engineEndpoint", "enginePort", "enginePath", "engineScheme")


@dataclass(frozen=True, slots=True)
class Setting:
    """One key's value in use, and its origin.

    That is "given", "given as KEY", "metricType NAME" (which implies it), "profile NAME" or "default".
    """

    key: str
    value: str
    origin: str


def effective_settings(trigger: Trigger, metadata: Mapping[str, str], scope: Scope) -> tuple[Setting, ...]:
    """Return every setting that has a say, in the order in which people ask.

    Args:
        trigger: what was parsed of the metadata.
        metadata: as KEDA sent it.
        scope: the one that was used, which depends on who was asked where the metadata does not say.
    """
    given = MetadataReader(metadata, _KEYS).given
    profile = PROFILES.get(trigger.profile) if trigger.profile else None
    pairs = [*_of_the_number(trigger, given, scope), *_of_engines(trigger), *_of_demand(trigger.demand, given)]
    origins = {key: _origin(key, given, profile) for key, _ in pairs}
    if "engine" not in given and (implied := _engine_origin(trigger, given)):
        origins["engine"] = implied
    return tuple(Setting(key, value, origins[key]) for key, value in pairs)


def _of_the_number(trigger: Trigger, given: Mapping[str, str], scope: Scope) -> Iterator[tuple[str, str]]:
    unit = trigger.metric.unit
    if trigger.profile:
        yield "profile", trigger.profile
    yield "metricType", trigger.metric.name
    yield "targetValue", f"{trigger.target:g} {unit}".rstrip()
    yield "activationThreshold", f"{trigger.activation:g} {unit}".rstrip()
    yield "scope", scope.value
    yield "report", trigger.report
    if trigger.engine is None:
        yield "aggregation", trigger.aggregation
        for key in ("gpuModel", "gpuIndex", "nodeSelector"):
            if key in given and (key, given[key]) != ("gpuIndex", "-1"):
                yield key, given[key]
    yield "windowSeconds", f"{trigger.window_seconds:g}"
    yield "minCoverage", f"{trigger.min_coverage:g}"
    yield "startupGraceSeconds", f"{trigger.startup_grace_seconds:g}"
    yield "pollIntervalSeconds", f"{trigger.poll_interval_seconds:g}"
    yield "metricName", trigger.metric_name


def _of_engines(trigger: Trigger) -> Iterator[tuple[str, str]]:
    query, metric = trigger.engine, trigger.metric
    if query is None or not isinstance(metric, EngineMetric):
        return
    values = _asked(query)
    for key in (*_WHERE, *_OF_READINGS.get(metric.reading, ())):
        if values[key]:
            yield key, values[key]


def _asked(query: EngineQuery) -> dict[str, str]:
    return {
        "engine": query.engine,
        "engineEndpoint": query.url,
        "enginePort": str(query.port or ""),
        "enginePath": query.path or "",
        "engineScheme": query.scheme or "",
        "engineMetric": query.selector.text if query.selector else "",
        "quantile": f"{query.quantile:g}",
        "queueTarget": f"{query.queue_target:g}",
        "kvTarget": f"{query.kv_target:g}",
        "maxSeqs": f"{query.max_seqs:g}" if query.max_seqs else "",
    }


def _of_demand(demand: DemandQuery | None, given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if demand is None:
        return
    yield "demandEndpoint", demand.url
    if "demand" in given:
        yield "demand", given["demand"]
    yield "demandMetric", " or ".join(selector.text for selector in demand.selectors)
    yield "demandThreshold", f"{demand.threshold:g}"
    yield "demandHoldSeconds", f"{demand.hold_seconds:g}"
    if demand.per_replica is not None:
        yield "demandPerReplica", f"{demand.per_replica:g}"


def _engine_origin(trigger: Trigger, given: Mapping[str, str]) -> str:
    """Say what implies the engine, where something but the profile does."""
    if isinstance(trigger.metric, EngineMetric) and trigger.metric.engine:
        return f"metricType {trigger.metric.name}"
    return next((f"given as {key}" for key in ENDPOINT_KEYS[1:] if key in given), "")


def _origin(key: str, given: Mapping[str, str], profile: Profile | None) -> str:
    # A shorthand overrules the key that it stands for.
    for alias in _ALIASES.get(key, ()):
        if alias in given and alias != key and (alias in SHORTHANDS or key not in given):
            return f"given as {alias}"
    if key in given:
        return "given"
    if profile is not None and key in _OF_PROFILES and (key != "engine" or profile.engine):
        return f"profile {profile.name}"
    return "default"
