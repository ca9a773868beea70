# SPDX-License-Identifier: Apache-2.0
"""The effective settings of a trigger after its profile and the defaults, each with its origin.

Law: each value is the one that is used. A key that has no effect on this trigger is not listed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from keda_gpu_scaler.core.trigger.demand_params import DemandQuery
from keda_gpu_scaler.core.trigger.engine_params import ENDPOINT_KEYS, KEYS_OF_READING, EngineQuery
from keda_gpu_scaler.core.trigger.metadata import MetadataReader
from keda_gpu_scaler.core.trigger.metrics import EngineMetric
from keda_gpu_scaler.core.trigger.parser import PARAMETERS, SHORTHANDS, Scope, Trigger
from keda_gpu_scaler.core.trigger.port_list import format_ports
from keda_gpu_scaler.core.trigger.profiles import PROFILES, Profile

_KEYS = tuple(parameter.key for parameter in PARAMETERS)
_PROFILE_KEYS = ("metricType", "targetValue", "activationThreshold", "metricName", "engine")
_ALIASES = {
    "metricType": (*SHORTHANDS, "engineMetric"),
    "targetValue": tuple(SHORTHANDS),
    "engineEndpoint": ENDPOINT_KEYS,
    "demandMetric": ("demand",),
}
_LOCATION_KEYS = ("engine", "engineEndpoint", "enginePort", "enginePath", "engineScheme", "engineModel")


@dataclass(frozen=True, slots=True)
class Setting:
    """One key's effective value, and its origin.

    The origin is "given", "given as KEY", "metricType NAME" (which implies the value), "profile NAME" or "default".
    """

    key: str
    value: str
    origin: str


def effective_settings(trigger: Trigger, metadata: Mapping[str, str], scope: Scope) -> tuple[Setting, ...]:
    """Return every setting that has an effect, the most important first.

    Args:
        trigger: the parsed metadata.
        metadata: as KEDA sent it.
        scope: the scope that was used. If the metadata has none, it depends on the instance that answers.
    """
    given = MetadataReader(metadata, _KEYS).given
    profile = PROFILES.get(trigger.profile) if trigger.profile else None
    pairs = [*_general_settings(trigger, given, scope), *_engine_settings(trigger)]
    pairs += _demand_settings(trigger.demand, given)
    origins = {key: _origin(key, given, profile) for key, _ in pairs}
    if "engine" not in given and (implied := _engine_origin(trigger, given)):
        origins["engine"] = implied
    return tuple(Setting(key, value, origins[key]) for key, value in pairs)


def _general_settings(trigger: Trigger, given: Mapping[str, str], scope: Scope) -> Iterator[tuple[str, str]]:
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
    if scope is Scope.WORKLOAD:
        for key in ("groupBy", "groupSize", "groupLeader"):
            if key in given:
                yield key, given[key]
    yield "windowSeconds", f"{trigger.window_seconds:g}"
    yield "minCoverage", f"{trigger.min_coverage:g}"
    yield "startupGraceSeconds", f"{trigger.startup_grace_seconds:g}"
    yield "missingHoldSeconds", f"{trigger.missing_hold_seconds:g}"
    yield "pollIntervalSeconds", f"{trigger.poll_interval_seconds:g}"
    yield "metricName", trigger.metric_name


def _engine_settings(trigger: Trigger) -> Iterator[tuple[str, str]]:
    query, metric = trigger.engine, trigger.metric
    if query is None or not isinstance(metric, EngineMetric):
        return
    values = _engine_values(query)
    for key in (*_LOCATION_KEYS, *KEYS_OF_READING.get(metric.reading, ())):
        if values[key]:
            yield key, values[key]


def _engine_values(query: EngineQuery) -> dict[str, str]:
    return {
        "engine": query.engine,
        "engineEndpoint": query.url,
        "enginePort": format_ports(query.ports),
        "enginePath": query.path or "",
        "engineScheme": query.scheme or "",
        "engineModel": ",".join(query.models),
        "engineMetric": query.selector.text if query.selector else "",
        "quantile": f"{query.quantile:g}",
        "queueTarget": f"{query.queue_target:g}",
        "kvTarget": f"{query.kv_target:g}",
        "maxSeqs": f"{query.max_seqs:g}" if query.max_seqs else "",
        "itlTargetMs": f"{1000 * query.itl_target_seconds:g}",
        "itlFloorMs": f"{1000 * query.itl_floor_seconds:g}" if query.itl_floor_seconds else "",
        "headroom": f"{query.headroom:g}",
        "drainSeconds": f"{query.drain_seconds:g}",
        "forecast": "trend" if query.is_forecast else "none",
    }


def _demand_settings(demand: DemandQuery | None, given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if demand is None:
        return
    yield "demandEndpoint", demand.url
    if "demand" in given:
        yield "demand", given["demand"]
    first, *others = (selector.text for selector in demand.selectors)
    yield "demandMetric", " or ".join((" + ".join((first, *(one.text for one in demand.plus))), *others))
    yield "demandThreshold", f"{demand.threshold:g}"
    yield "demandHoldSeconds", f"{demand.hold_seconds:g}"
    if demand.per_replica is not None:
        yield "demandPerReplica", f"{demand.per_replica:g}"


def _engine_origin(trigger: Trigger, given: Mapping[str, str]) -> str:
    """Return which other key implies the engine; empty where none does, or where the profile does."""
    if isinstance(trigger.metric, EngineMetric) and trigger.metric.engine:
        return f"metricType {trigger.metric.name}"
    return next((f"given as {key}" for key in ENDPOINT_KEYS[1:] if key in given), "")


def _origin(key: str, given: Mapping[str, str], profile: Profile | None) -> str:
    # A shorthand overrides the key that it stands for.
    for alias in _ALIASES.get(key, ()):
        if alias in given and alias != key and (alias in SHORTHANDS or key not in given):
            return f"given as {alias}"
    if key in given:
        return "given"
    if profile is not None and key in _PROFILE_KEYS and (key != "engine" or profile.engine):
        return f"profile {profile.name}"
    return "default"
