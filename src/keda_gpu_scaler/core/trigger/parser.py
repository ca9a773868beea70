# SPDX-License-Identifier: Apache-2.0
"""What does a ScaledObject's metadata ask for? A Trigger, or every problem with it at once.

The law of this module: whatever the metadata holds, the outcome is a ``Trigger`` or a ``TriggerError``.
"""

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from keda_gpu_scaler.core.aggregation import AGGREGATIONS
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.selectors import LabelSelector, SelectorError, parse_labels
from keda_gpu_scaler.core.state.fleet import DEFAULT_WINDOW_SECONDS, MAX_WINDOW_SECONDS
from keda_gpu_scaler.core.trigger.engine_params import (
    ENGINE_PARAMETERS,
    DemandQuery,
    EngineQuery,
    read_demand,
    read_engine,
)
from keda_gpu_scaler.core.trigger.metadata import MAX_NUMBER, MetadataReader, Parameter, nearest
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS, METRICS, PROFILES, EngineMetric, Metric, Profile

DEFAULT_METRIC = "gpu_utilization"
DEFAULT_METRIC_NAME = "keda_gpu_metric"
"""As in the original: an HPA made for that one still finds its metric."""
DEFAULT_TARGET = 80.0
DEFAULT_ACTIVATION = 0.0
DEFAULT_AGGREGATION = "max"
DEFAULT_POLL_INTERVAL_SECONDS = 10.0
DEFAULT_STARTUP_GRACE_SECONDS = 600.0
"""Loading a large model may take that long."""
DEFAULT_MIN_COVERAGE = 0.5
MAX_POLL_INTERVAL_SECONDS = 3600.0
MAX_STARTUP_GRACE_SECONDS = 86400.0
MIN_TARGET = 0.001
"""KEDA keeps three decimals: a smaller target would reach the HPA as 0."""


class Scope(enum.StrEnum):
    """Whose devices, or engines, are meant."""

    WORKLOAD = "workload"
    FLEET = "fleet"
    NODE = "node"
    ENDPOINT = "endpoint"
    """What one URL tells; nobody sets this, it comes with the URL."""


SCOPES = (Scope.WORKLOAD, Scope.FLEET, Scope.NODE)
METRIC_TYPES: MappingProxyType[str, Metric | EngineMetric] = MappingProxyType({**METRICS, **ENGINE_METRICS})
"""Every value of ``metricType``."""
REPORTS = ("auto", "total", "average")
"""What is handed out: "auto" finds out from the ScaledObject which of the others its ``metricType`` needs."""

SHORTHANDS: MappingProxyType[str, str] = MappingProxyType(
    {"targetGpuUtilization": "gpu_utilization", "targetMemoryUtilization": "memory_used_percent"}
)
"""Keys that say metric and target at once. ``targetMemoryUtilization`` means how full the memory is."""


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("profile", "none", "a named set of defaults; any key overrides it"),
    Parameter("metricType", DEFAULT_METRIC, "the metric"),
    Parameter(
        "targetValue",
        "80",
        f"what the metric should be, in the metric's unit: {MIN_TARGET:g} to {MAX_NUMBER:g}",
    ),
    Parameter(
        "targetGpuUtilization",
        "none",
        "shorthand for `metricType: gpu_utilization` and its `targetValue`, which it overrules",
    ),
    Parameter(
        "targetMemoryUtilization",
        "none",
        "shorthand for `metricType: memory_used_percent` and its `targetValue`, which it overrules",
    ),
    Parameter(
        "activationThreshold",
        "0",
        f"active means strictly above it, in the metric's unit: 0 to {MAX_NUMBER:g}",
    ),
    Parameter(
        "scope",
        "workload",
        "whose devices: `workload`, those its pods hold; `fleet`, all there are; `node`, those of the instance asked. "
        "Without access to the API server the default is `fleet`",
    ),
    Parameter("gpuModel", "all", "only devices whose model fits, `*` and `?` being wildcards: `*H100*`"),
    Parameter(
        "nodeSelector",
        "all",
        "only devices of nodes with these labels: `key=value`, `key!=value`, `key`, `!key`, with commas",
    ),
    Parameter("gpuIndex", "-1", "only devices with this index on their node; -1 for all"),
    Parameter(
        "aggregation",
        DEFAULT_AGGREGATION,
        "how several devices of one pod (or of the scope `fleet` or `node`) become one value: "
        + ", ".join(AGGREGATIONS),
    ),
    Parameter(
        "report",
        "auto",
        "what is handed out: the `total` over the replicas, for `metricType: AverageValue`, or their `average`, for "
        "`metricType: Value`; `auto` reads the type from the ScaledObject, and assumes AverageValue where it cannot",
    ),
    Parameter(
        "startupGraceSeconds",
        "600",
        f"a pod younger than this that is not ready yet is starting, and keeps its workload active: "
        f"0 to {MAX_STARTUP_GRACE_SECONDS:g}",
    ),
    Parameter(
        "minCoverage",
        "0.5",
        "the least share of the ready pods (or devices) in scope that must be seen for an answer: 0 to 1",
    ),
    Parameter(
        "pollIntervalSeconds",
        "10",
        f"how often a stream re-evaluates at the latest: 1 to {MAX_POLL_INTERVAL_SECONDS:g}",
    ),
    Parameter(
        "windowSeconds",
        "10",
        f"readings are averaged over this much history: 0 to {MAX_WINDOW_SECONDS:g}; 0 is the newest sample alone",
    ),
    Parameter(
        "metricName",
        "keda_gpu_<profile>",
        f"the name handed to KEDA: lower-case letters, digits, `-` and `_`; `{DEFAULT_METRIC_NAME}` without a profile",
    ),
    *ENGINE_PARAMETERS,
)
"""Every key we read. KEDA sends others, and they are none of our business."""

_OURS = frozenset(parameter.key for parameter in PARAMETERS)
# Sent along by KEDA, or read by it beside us: never a misspelling of ours.
_KEDAS = frozenset(
    {"scalerAddress", "enableTLS", "unsafeSsl", "caCert", "tlsClientCert", "tlsClientKey", "tlsCertFile"}
)

_INTEGER = re.compile(r"[+-]?\d{1,9}", re.ASCII)
_UNSAFE_IN_NAME = re.compile(r"[^a-z0-9_-]+")
_MAX_NAME_LENGTH = 60  # with KEDA's "s0-" before it still a legal label value
_MAX_PATTERN_LENGTH = 256
_MAX_METADATA_LENGTH = 16_384  # a dozen short values; parsed triggers are remembered, so their size is bounded
_HINTED_KEYS = 50  # near misses are looked for among so many unknown keys, and not in a flood of them


class TriggerError(Exception):
    """Metadata that cannot be served. ``problems`` holds one sentence for each thing that is wrong."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Trigger:
    """Parsed metadata.

    ``target`` and ``activation`` are in the metric's unit. ``gpu_index``, ``gpu_model`` and ``node_selector`` are
    None where they narrow nothing; ``scope`` is None where it was not said. ``min_coverage`` is a ratio.
    ``hints`` are sentences about keys that look like ours misspelt, and about values that were changed. ``engine`` says
    what engines are asked, and is None where the metric is a device's; ``demand`` is None where none was named.
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
    report: str = "auto"
    gpu_model: str | None = None
    node_selector: LabelSelector | None = None
    startup_grace_seconds: float = DEFAULT_STARTUP_GRACE_SECONDS
    min_coverage: float = DEFAULT_MIN_COVERAGE
    profile: str | None = None
    hints: tuple[str, ...] = ()
    engine: EngineQuery | None = None
    demand: DemandQuery | None = None

    @property
    def is_scraped(self) -> bool:
        """Whether engines or a source of demand have a say."""
        return self.engine is not None or self.demand is not None

    @property
    def is_narrowed(self) -> bool:
        """Whether it means some devices only, of those in its scope."""
        return not (self.gpu_index is None and self.gpu_model is None and self.node_selector is None)


def parse_trigger(metadata: Mapping[str, str]) -> Trigger:
    """Read a trigger's metadata as KEDA sends it.

    A key may arrive with KEDA's suffix ``FromEnv``, its value already resolved.

    Raises:
        TriggerError: with every problem there is, each naming the key, the value and what is allowed.
    """
    length = sum(len(key) + len(value) for key, value in metadata.items())
    if length > _MAX_METADATA_LENGTH:
        raise TriggerError([f"metadata: Too long: {length} characters: must have at most {_MAX_METADATA_LENGTH}"])
    return _TriggerParser(metadata).parse()


class _TriggerParser:
    """Collects problems on the way, so that one round of mending is enough."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._metadata = metadata
        self._read = MetadataReader(metadata, _OURS)

    def parse(self) -> Trigger:
        """Read every key, then either answer or complain about all of them."""
        profile = self._profile()
        metric = self._metric(profile)
        engine = self._engine(METRIC_TYPES[metric], profile)
        target = self._target(METRIC_TYPES[metric], profile)
        activation = self._read.number(
            "activationThreshold", profile.activation if profile else DEFAULT_ACTIVATION, at_least=0
        )
        gpu_index = self._gpu_index()
        aggregation = self._read.choice("aggregation", DEFAULT_AGGREGATION, AGGREGATIONS)
        poll = self._read.number(
            "pollIntervalSeconds",
            DEFAULT_POLL_INTERVAL_SECONDS,
            at_least=1,
            at_most=MAX_POLL_INTERVAL_SECONDS,
        )
        window = self._read.number("windowSeconds", DEFAULT_WINDOW_SECONDS, at_least=0, at_most=MAX_WINDOW_SECONDS)
        name = self._metric_name(profile.metric_name if profile else DEFAULT_METRIC_NAME)
        scope = self._scope(metric, engine)
        report = self._read.choice("report", "auto", REPORTS)
        model, selector = self._gpu_model(), self._node_selector()
        grace = self._read.number(
            "startupGraceSeconds", DEFAULT_STARTUP_GRACE_SECONDS, at_least=0, at_most=MAX_STARTUP_GRACE_SECONDS
        )
        coverage = self._read.number("minCoverage", DEFAULT_MIN_COVERAGE, at_least=0, at_most=1)
        demand = read_demand(self._read)
        if self._read.problems:
            raise TriggerError(self._read.problems)
        self._suggest_keys()
        return Trigger(
            metric=METRIC_TYPES[metric],
            target=target,
            activation=activation,
            gpu_index=None if engine else gpu_index,
            aggregation=aggregation,
            poll_interval_seconds=poll,
            window_seconds=window,
            metric_name=name,
            scope=scope,
            report=report,
            gpu_model=None if engine else model,
            node_selector=None if engine else selector,
            startup_grace_seconds=grace,
            min_coverage=coverage,
            profile=profile.name if profile else None,
            hints=tuple(self._read.hints),
            engine=engine,
            demand=demand,
        )

    def _profile(self) -> Profile | None:
        if "profile" not in self._read.given:
            return None
        return PROFILES.get(self._read.choice("profile", "", PROFILES))

    def _metric(self, profile: Profile | None) -> str:
        default = profile.metric if profile else DEFAULT_METRIC
        metric = self._read.choice("metricType", default, METRIC_TYPES)
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
        if query is not None:
            for key in ("gpuModel", "gpuIndex", "nodeSelector"):
                if key in self._read.given:
                    self._read.hints.append(
                        f"metadata.{key}: is not read: {metric.name} is told by engines, whatever devices they run on"
                    )
        return query

    def _scope(self, metric: str, engine: EngineQuery | None) -> Scope | None:
        scope = Scope(self._read.choice("scope", Scope.WORKLOAD, SCOPES)) if "scope" in self._read.given else None
        if engine is None:
            return scope
        if scope not in (None, Scope.WORKLOAD):
            self._read.invalid(
                "scope", f"{metric} is told by the workload's pods: remove scope, or name one endpoint: engineEndpoint"
            )
        return Scope.ENDPOINT if engine.url else Scope.WORKLOAD

    def _target(self, metric: Metric | EngineMetric, profile: Profile | None) -> float:
        shorthand = self._read.one_of(SHORTHANDS)
        default = self._default_target(metric, profile, is_given=shorthand is not None)
        target = self._read.number("targetValue", default, at_least=MIN_TARGET)
        if shorthand is not None:
            if "targetValue" in self._read.given:
                given, ruling = quoted(self._read.given["targetValue"]), quoted(self._read.given[shorthand])
                self._read.hints.append(f"metadata.targetValue: {given} is overruled by {shorthand} {ruling}")
            target = self._read.number(shorthand, default, at_least=MIN_TARGET)
        return target

    def _default_target(self, metric: Metric | EngineMetric, profile: Profile | None, *, is_given: bool) -> float:
        """The target where none is given; a hint, or a problem, where no default suits."""
        if profile is not None and profile.metric == metric.name:
            return profile.target
        is_given = is_given or "targetValue" in self._read.given
        if isinstance(metric, EngineMetric):
            if metric.target is None and not is_given:
                self._read.problems.append(
                    f"metadata.targetValue: Required value: {metric.name} has no default: say how much of it one "
                    "replica should have"
                )
            return metric.target or DEFAULT_TARGET
        default, meant_for = (profile.target, profile.metric) if profile else (DEFAULT_TARGET, DEFAULT_METRIC)
        if not is_given and METRIC_TYPES[meant_for].unit != metric.unit:
            self._read.hints.append(
                f"metadata.targetValue: not given, so the target is {default:g} {metric.unit}, a default meant for "
                f"{meant_for}; set what suits {metric.name}"
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
        # KEDA lower-cases and replaces some characters itself, in some versions; what it sends back must match.
        name = _UNSAFE_IN_NAME.sub("-", given.lower()).strip("-_")
        if not name or len(name) > _MAX_NAME_LENGTH:
            self._read.invalid(
                "metricName",
                f"must be 1 to {_MAX_NAME_LENGTH} letters, digits, '-' and '_', one letter or digit at least",
            )
        elif name != given:
            self._read.hints.append(f"metadata.metricName: {quoted(given)} is handed to KEDA as {quoted(name)}")
        return name

    def _suggest_keys(self) -> None:
        unknown = sorted(key for key in self._metadata if key.removesuffix("FromEnv") not in _OURS | _KEDAS)
        ours = {key.lower(): key for key in _OURS}
        for key in unknown[:_HINTED_KEYS]:
            near = nearest(key, ours)
            if near:
                meant = ours[near]
                self._read.hints.append(
                    f'metadata: {quoted(key)} is no key of ours, nothing reads it: did you mean "{meant}"?'
                )
