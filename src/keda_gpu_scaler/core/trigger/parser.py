# SPDX-License-Identifier: Apache-2.0
"""Parses a trigger's metadata into a ``Trigger``, or reports every problem at once.

Law: for any metadata, the result is a ``Trigger`` or a ``TriggerError``.
"""

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

from keda_gpu_scaler.core.aggregation import AGGREGATIONS
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.selectors import LabelSelector, SelectorError, parse_labels
from keda_gpu_scaler.core.state.fleet import MAX_WINDOW_SECONDS
from keda_gpu_scaler.core.trigger.demand_params import DemandQuery, read_demand
from keda_gpu_scaler.core.trigger.engine_params import (
    ENGINE_PARAMETERS,
    EngineQuery,
    read_engine,
)
from keda_gpu_scaler.core.trigger.grouping import AUTOMATIC, GROUP_PARAMETERS, Grouping, read_grouping
from keda_gpu_scaler.core.trigger.metadata import MAX_NUMBER, MetadataReader, Parameter
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS, METRICS, REPLACED_METRICS, EngineMetric, Metric
from keda_gpu_scaler.core.trigger.near_keys import misspelt_keys, misspelt_problem, similar_key_hints
from keda_gpu_scaler.core.trigger.profiles import PROFILES, Profile

DEFAULT_METRIC = "gpu_utilization"
DEFAULT_METRIC_NAME = "keda_gpu_metric"
"""The original's name, so that an existing HPA still finds its metric."""
DEFAULT_TARGET = 80.0
DEFAULT_ACTIVATION = 0.0
DEFAULT_AGGREGATION = "max"
DEFAULT_POLL_INTERVAL_SECONDS = 10.0
DEFAULT_REPORT = "auto"
DEFAULT_STARTUP_GRACE_SECONDS = 600.0
"""Loading a large model may take this long."""
DEFAULT_MIN_COVERAGE = 0.5
DEFAULT_WINDOW_SECONDS = 10.0
MAX_POLL_INTERVAL_SECONDS = 3600.0
MAX_STARTUP_GRACE_SECONDS = 86400.0
MIN_TARGET = 0.001
"""KEDA keeps three decimals, so a smaller target would reach the HPA as 0."""


class Scope(enum.StrEnum):
    """The devices or engines that a trigger selects."""

    WORKLOAD = "workload"
    FLEET = "fleet"
    NODE = "node"
    ENDPOINT = "endpoint"
    """One URL. Metadata cannot set this scope; it follows from ``engineEndpoint``."""


SCOPES = (Scope.WORKLOAD, Scope.FLEET, Scope.NODE)
METRIC_TYPES: MappingProxyType[str, Metric | EngineMetric] = MappingProxyType({**METRICS, **ENGINE_METRICS})
"""Every value of ``metricType``."""
REPORTS = (DEFAULT_REPORT, "total", "average")
"""The kinds of reported value. "auto" reads from the ScaledObject which of the others its ``metricType`` needs."""

SHORTHANDS: MappingProxyType[str, str] = MappingProxyType(
    {"targetGpuUtilization": "gpu_utilization", "targetMemoryUtilization": "memory_used_percent"}
)
"""Keys that set metric and target together. ``targetMemoryUtilization`` is about how full the memory is."""


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("profile", "none", "a named set of defaults; every other key overrides its default"),
    Parameter("metricType", DEFAULT_METRIC, "the metric; the tables below list all of them"),
    Parameter(
        "targetValue",
        f"{DEFAULT_TARGET:g}",
        f"the value that the metric should have, in the metric's unit: {MIN_TARGET:g} to {MAX_NUMBER:g}",
    ),
    Parameter(
        "targetGpuUtilization",
        "none",
        "sets `metricType: gpu_utilization` and its `targetValue` in one key, and overrides `targetValue`",
    ),
    Parameter(
        "targetMemoryUtilization",
        "none",
        "sets `metricType: memory_used_percent` and its `targetValue` in one key, and overrides `targetValue`",
    ),
    Parameter(
        "activationThreshold",
        f"{DEFAULT_ACTIVATION:g}",
        "the workload is active while the metric is strictly above this value, in the metric's unit: "
        f"0 to {MAX_NUMBER:g}",
    ),
    Parameter(
        "scope",
        Scope.WORKLOAD,
        "the devices that count: `workload`, those that the workload's pods use; `fleet`, all devices; `node`, those "
        "of the instance that KEDA calls. Without access to the API server, the default is `fleet`",
    ),
    Parameter("gpuModel", "all", "only devices whose model matches this pattern with `*` and `?`: `*H100*`"),
    Parameter(
        "nodeSelector",
        "all",
        "only devices of nodes with these labels: `key=value`, `key!=value`, `key`, `!key`, joined by commas",
    ),
    Parameter(
        "gpuIndex",
        "-1",
        "only devices with this index on their node; -1 selects all. Each vendor counts its own devices from 0",
    ),
    Parameter(
        "aggregation",
        DEFAULT_AGGREGATION,
        "how the values of several devices become one value: for the devices of one pod, or of the scope `fleet` or "
        "`node`: " + ", ".join(AGGREGATIONS),
    ),
    Parameter(
        "report",
        DEFAULT_REPORT,
        "the reported value: `total` is the total over the replicas and fits `metricType: AverageValue` of KEDA's "
        "trigger; `average` is their average and fits `metricType: Value`; `auto` reads the type from the "
        "ScaledObject, and assumes AverageValue where it cannot be read",
    ),
    Parameter(
        "startupGraceSeconds",
        f"{DEFAULT_STARTUP_GRACE_SECONDS:g}",
        "a pod that is not ready and is younger than this is starting; it keeps its workload active: "
        f"0 to {MAX_STARTUP_GRACE_SECONDS:g}",
    ),
    Parameter(
        "missingHoldSeconds",
        "startupGraceSeconds",
        "while a ready pod has no value, the workload does not shrink for this long, because the shrink might delete "
        f"just that pod: 0 to {MAX_STARTUP_GRACE_SECONDS:g}. With scalingModifiers it has no effect",
    ),
    Parameter(
        "minCoverage",
        f"{DEFAULT_MIN_COVERAGE:g}",
        "the share of the ready pods (or devices) in scope that must have a value; with fewer, no value is reported: "
        "0 to 1",
    ),
    Parameter(
        "pollIntervalSeconds",
        f"{DEFAULT_POLL_INTERVAL_SECONDS:g}",
        f"the longest time between two evaluations of a stream: 1 to {MAX_POLL_INTERVAL_SECONDS:g}",
    ),
    Parameter(
        "windowSeconds",
        f"{DEFAULT_WINDOW_SECONDS:g}",
        f"the time over which readings are averaged: 0 to {MAX_WINDOW_SECONDS:g}; 0 uses the newest sample alone. For "
        f"`load` the default is {ENGINE_METRICS['load'].window_seconds:g}: a shorter window shows single requests",
    ),
    Parameter(
        "metricName",
        "keda_gpu_<profile>",
        "the metric name reported to KEDA: lower-case letters, digits, `-` and `_`. Without a profile the default is "
        f"`{DEFAULT_METRIC_NAME}`",
    ),
    *GROUP_PARAMETERS,
    *ENGINE_PARAMETERS,
)
"""Every key of this scaler. KEDA sends other keys too; they are ignored."""

_OWN_KEYS = tuple(parameter.key for parameter in PARAMETERS)

_INTEGER = re.compile(r"[+-]?\d{1,9}", re.ASCII)
_UNSAFE_IN_NAME = re.compile(r"[^a-z0-9_-]+")
_MAX_NAME_LENGTH = 60  # with KEDA's prefix "s0-" it is still a legal label value
_MAX_PATTERN_LENGTH = 256
_MAX_METADATA_LENGTH = 16_384  # bounded, because parsed triggers are cached

_Value = TypeVar("_Value")


class TriggerError(Exception):
    """Metadata that cannot be used. ``problems`` holds one sentence for each problem."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Trigger:
    """Parsed metadata.

    ``target`` and ``activation`` are in the metric's unit. ``gpu_index``, ``gpu_model`` and ``node_selector`` are None
    where they do not restrict the devices. ``scope`` is None where the metadata has none. ``min_coverage`` is a ratio.
    ``hints`` are sentences about keys of other names and about changed values. ``engine`` is the query to engines,
    None where the metric is a device's. ``demand`` is None where no source of demand is named. ``is_activation_given``
    says that the metadata has an activation threshold of its own. ``grouping`` says which pods are one replica.
    """

    metric: Metric | EngineMetric
    target: float
    activation: float
    gpu_index: int | None
    aggregation: str
    poll_interval_seconds: float
    window_seconds: float
    metric_name: str
    scope: Scope | None = None
    report: str = DEFAULT_REPORT
    gpu_model: str | None = None
    node_selector: LabelSelector | None = None
    startup_grace_seconds: float = DEFAULT_STARTUP_GRACE_SECONDS
    missing_hold_seconds: float = DEFAULT_STARTUP_GRACE_SECONDS
    min_coverage: float = DEFAULT_MIN_COVERAGE
    profile: str | None = None
    hints: tuple[str, ...] = ()
    engine: EngineQuery | None = None
    demand: DemandQuery | None = None
    is_activation_given: bool = False
    grouping: Grouping = AUTOMATIC

    @property
    def is_scraped(self) -> bool:
        """Whether engines or a source of demand are scraped for it."""
        return self.engine is not None or self.demand is not None

    @property
    def is_narrowed(self) -> bool:
        """Whether it selects only some of the devices in its scope."""
        return not (self.gpu_index is None and self.gpu_model is None and self.node_selector is None)


def parse_trigger(metadata: Mapping[str, str]) -> Trigger:
    """Read a trigger's metadata as KEDA sends it.

    A key may arrive with KEDA's suffix ``FromEnv``, its value already resolved.

    Raises:
        TriggerError: with every problem; each names the key, the value and the allowed values.
    """
    length = sum(len(key) + len(value) for key, value in metadata.items())
    if length > _MAX_METADATA_LENGTH:
        raise TriggerError([f"metadata: Too long: {length} characters: must have at most {_MAX_METADATA_LENGTH}"])
    return _TriggerParser(metadata).parse()


def _only_for_devices(engine: EngineQuery | None, value: _Value | None) -> _Value | None:
    """Return the value, or None where the metric is an engine's. The value is read, and checked, in both cases."""
    return value if engine is None else None


class _TriggerParser:
    """Parses one trigger's metadata and collects its problems."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._metadata = metadata
        self._read = MetadataReader(metadata, _OWN_KEYS)

    def parse(self) -> Trigger:
        """Read every key; then return the trigger, or raise all problems together."""
        read = self._read
        profile = self._profile()
        metric = METRIC_TYPES[self._metric(profile)]
        engine = self._engine(metric, profile)
        grace = self._seconds("startupGraceSeconds", DEFAULT_STARTUP_GRACE_SECONDS, MAX_STARTUP_GRACE_SECONDS)
        trigger = Trigger(
            metric=metric,
            target=self._target(metric, profile),
            activation=self._activation(profile),
            gpu_index=_only_for_devices(engine, self._gpu_index()),
            aggregation=read.choice("aggregation", DEFAULT_AGGREGATION, AGGREGATIONS),
            poll_interval_seconds=self._seconds(
                "pollIntervalSeconds", DEFAULT_POLL_INTERVAL_SECONDS, MAX_POLL_INTERVAL_SECONDS, at_least=1
            ),
            window_seconds=self._window(metric),
            metric_name=self._metric_name(profile.metric_name if profile else DEFAULT_METRIC_NAME),
            scope=self._scope(metric, engine),
            report=read.choice("report", DEFAULT_REPORT, REPORTS),
            gpu_model=_only_for_devices(engine, self._gpu_model()),
            node_selector=_only_for_devices(engine, self._node_selector()),
            startup_grace_seconds=grace,
            missing_hold_seconds=self._seconds("missingHoldSeconds", grace, MAX_STARTUP_GRACE_SECONDS),
            min_coverage=read.number("minCoverage", DEFAULT_MIN_COVERAGE, at_least=0, at_most=1),
            profile=profile.name if profile else None,
            engine=engine,
            demand=read_demand(read),
            is_activation_given="activationThreshold" in read.given,
            grouping=read_grouping(read),
        )
        misspelt = [misspelt_problem(key, meant) for key, meant in misspelt_keys(self._metadata, _OWN_KEYS)]
        if misspelt or read.problems:
            # A misspelt key may be the cause of the other problems, so it comes first.
            raise TriggerError([*misspelt, *read.problems])
        return replace(trigger, hints=(*read.hints, *similar_key_hints(self._metadata, _OWN_KEYS)))

    def _window(self, metric: Metric | EngineMetric) -> float:
        default = metric.window_seconds if isinstance(metric, EngineMetric) else None
        return self._seconds("windowSeconds", default or DEFAULT_WINDOW_SECONDS, MAX_WINDOW_SECONDS)

    def _activation(self, profile: Profile | None) -> float:
        default = profile.activation if profile else DEFAULT_ACTIVATION
        return self._read.number("activationThreshold", default, at_least=0)

    def _seconds(self, key: str, default: float, at_most: float, *, at_least: float = 0) -> float:
        return self._read.number(key, default, at_least=at_least, at_most=at_most)

    def _profile(self) -> Profile | None:
        if "profile" not in self._read.given:
            return None
        return PROFILES.get(self._read.choice("profile", "", PROFILES))

    def _metric(self, profile: Profile | None) -> str:
        default = profile.metric if profile else DEFAULT_METRIC
        metric = self._read.choice("metricType", default, METRIC_TYPES, REPLACED_METRICS)
        if "engineMetric" in self._read.given:
            if "metricType" in self._read.given and metric != "engine":
                self._read.invalid("engineMetric", f"means metricType engine, but metricType is {metric}; keep one")
            metric = "engine"
        for key, implied in SHORTHANDS.items():
            if key not in self._read.given:
                continue
            if "metricType" in self._read.given and metric != implied:
                self._read.invalid(key, f"means metricType {implied}, but metricType is {metric}; keep one of the two")
            metric = implied
        return metric

    def _engine(self, metric: Metric | EngineMetric, profile: Profile | None) -> EngineQuery | None:
        engine = metric.engine if isinstance(metric, EngineMetric) else None
        query = read_engine(self._read, metric, engine or (profile.engine if profile else None))
        for key in ("gpuModel", "gpuIndex", "nodeSelector"):
            if query is not None and key in self._read.given:
                self._read.hints.append(
                    f"metadata.{key}: is not used: {metric.name} is reported by engines, whatever devices they run on"
                )
        return query

    def _scope(self, metric: Metric | EngineMetric, engine: EngineQuery | None) -> Scope | None:
        scope = Scope(self._read.choice("scope", Scope.WORKLOAD, SCOPES)) if "scope" in self._read.given else None
        if engine is None:
            return scope
        if scope not in (None, Scope.WORKLOAD):
            self._read.invalid(
                "scope",
                f"{metric.name} is reported by the workload's pods: remove scope, or set engineEndpoint to one URL",
            )
        return Scope.ENDPOINT if engine.url else Scope.WORKLOAD

    def _target(self, metric: Metric | EngineMetric, profile: Profile | None) -> float:
        shorthand = self._read.one_of(SHORTHANDS)
        default = self._default_target(metric, profile, is_given=shorthand is not None)
        target = self._read.number("targetValue", default, at_least=MIN_TARGET)
        if shorthand is not None:
            if "targetValue" in self._read.given:
                given, winner = quoted(self._read.given["targetValue"]), quoted(self._read.given[shorthand])
                self._read.hints.append(f"metadata.targetValue: {given} is overridden by {shorthand} {winner}")
            target = self._read.number(shorthand, default, at_least=MIN_TARGET)
        # KEDA compares with three decimals, so everything here does too: 8 * 33.3333 would be more than 8 * 33.333.
        return round(target, 3)

    def _default_target(self, metric: Metric | EngineMetric, profile: Profile | None, *, is_given: bool) -> float:
        """Return the target for metadata without one. Add a hint, or a problem, where no default suits the metric."""
        if profile is not None and profile.metric == metric.name:
            return profile.target
        is_given = is_given or "targetValue" in self._read.given
        if isinstance(metric, EngineMetric):
            if metric.target is None and not is_given:
                self._read.problems.append(
                    f"metadata.targetValue: Required value: {metric.name} has no default: set how much of it one "
                    "replica should have"
                )
            return metric.target or DEFAULT_TARGET
        default, default_metric = (profile.target, profile.metric) if profile else (DEFAULT_TARGET, DEFAULT_METRIC)
        if not is_given and METRIC_TYPES[default_metric].unit != metric.unit:
            self._read.hints.append(
                f"metadata.targetValue: not given, so the target is {default:g} {metric.unit}, the default for "
                f"{default_metric}; set a target for {metric.name}"
            )
        return default

    def _gpu_index(self) -> int | None:
        text = self._read.given.get("gpuIndex", "-1")
        if not _INTEGER.fullmatch(text) or int(text) < -1:
            self._read.invalid("gpuIndex", "must be -1 (all devices) or a device's index, a whole number from 0")
            return None
        return None if int(text) == -1 else int(text)

    def _gpu_model(self) -> str | None:
        pattern = self._read.given.get("gpuModel")
        if pattern is not None and len(pattern) > _MAX_PATTERN_LENGTH:
            self._read.invalid("gpuModel", f"must have at most {_MAX_PATTERN_LENGTH} characters")
        return pattern

    def _node_selector(self) -> LabelSelector | None:
        if "nodeSelector" not in self._read.given:
            return None
        try:
            return parse_labels(self._read.given["nodeSelector"])
        except SelectorError as error:
            self._read.invalid("nodeSelector", str(error))
            return None

    def _metric_name(self, default: str) -> str:
        if "metricName" not in self._read.given:
            return default
        given = self._read.given["metricName"]
        # Some versions of KEDA convert to lower case and replace characters themselves. The name that KEDA sends
        # back must match.
        name = _UNSAFE_IN_NAME.sub("-", given.lower()).strip("-_")
        if not name or len(name) > _MAX_NAME_LENGTH:
            self._read.invalid(
                "metricName",
                f"must be 1 to {_MAX_NAME_LENGTH} letters, digits, '-' and '_', one letter or digit at least",
            )
        elif name != given:
            self._read.hints.append(f"metadata.metricName: {quoted(given)} is reported to KEDA as {quoted(name)}")
        return name
