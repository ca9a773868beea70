# SPDX-License-Identifier: Apache-2.0
"""The trigger parameters about engines and about demand.

Law: the operator, the pod's annotations or the engine's defaults say where an engine is, in this order of precedence.
No engine is looked for anywhere else.
"""

from dataclasses import dataclass
from types import MappingProxyType

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import AUTO
from keda_gpu_scaler.core.trigger.demand_params import DEFAULT_DEMAND_HOLD_SECONDS, MAX_DEMAND_HOLD_SECONDS
from keda_gpu_scaler.core.trigger.demand_presets import DEMANDS
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.trigger.metadata import MetadataReader, Parameter
from keda_gpu_scaler.core.trigger.metadata_values import read_series, read_url
from keda_gpu_scaler.core.trigger.metrics import EngineMetric, Metric
from keda_gpu_scaler.core.trigger.port_list import MAX_PORTS, PortsError, parse_ports
from keda_gpu_scaler.core.urls import is_path

DEFAULT_QUANTILE = 0.95
DEFAULT_QUEUE_TARGET = 5.0
DEFAULT_KV_TARGET = 0.8
DEFAULT_ITL_TARGET_MS = 50.0
DEFAULT_HEADROOM = 1.15
DEFAULT_DRAIN_SECONDS = 60.0
FORECASTS = ("none", "trend")
ENDPOINT_KEYS = ("engineEndpoint", "vllmEndpoint", "tritonEndpoint")
KEYS_OF_READING: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "load": ("itlTargetMs", "itlFloorMs", "headroom", "drainSeconds", "kvTarget", "maxSeqs", "forecast"),
        "saturation": ("queueTarget", "kvTarget", "maxSeqs"),
        "ttft_ms": ("quantile",),
        "engine": ("engineMetric",),
    }
)
"""The keys that change a reading of an engine. They have no effect on another reading."""
PLAUSIBLE_ITL_MS = 5.0
"""Few models generate a token in less, also for one request alone: 8B on an H100 needs about 6 ms."""
_REPLACED_KEYS = {"queueTarget": "drainSeconds"}  # by what the metric load counts instead
_ENGINE_OF_KEY = {"vllmEndpoint": "vllm", "tritonEndpoint": "triton"}
_SCHEMES = ("http", "https")
MAX_MODELS = 16
_MAX_MODEL_LENGTH = 256

ENGINE_PARAMETERS: tuple[Parameter, ...] = (
    Parameter("engine", AUTO, "the engine that runs in the pods: {choices}. `auto` recognises it by its page", ENGINES),
    Parameter(
        "enginePort",
        "the engine's",
        "the port of the engine's metrics, or a list with ranges for a pod with several engines or ranks: "
        f"`8000-8007,9000`, at most {MAX_PORTS} ports. Without this key, the pod's annotation `prometheus.io/port` and "
        "the ports that its containers declare are tried, and then the engine's default port",
    ),
    Parameter(
        "enginePath",
        "the engine's",
        "the path of the engine's metrics; a path that ends with `/` may also be the base of the engine's own paths. "
        "Without this key, the pod's annotation `prometheus.io/path` and the engine's default path are tried",
    ),
    Parameter(
        "engineScheme",
        "http",
        "`http` or `https`. Without this key, the pod's annotation `prometheus.io/scheme` is used, and without the "
        "annotation `http`. Where a port of the pod accepts only the other one, that is used",
    ),
    Parameter(
        "engineModel",
        "every model",
        f"the models whose series are read, at most {MAX_MODELS}, with commas between them. Without this key, all "
        "models of a server are added up. A Triton ensemble counts what its steps count: select the ensemble for its "
        "requests, and the step with the queue for waiting times",
    ),
    Parameter(
        "engineEndpoint",
        "none",
        "one URL to scrape instead of the pods. Its value counts as the value of one replica; with `aggregation: sum` "
        "it counts as the total of all replicas. If the URL is a Service, each scrape reaches one random pod",
    ),
    Parameter("vllmEndpoint", "none", "the same as `engineEndpoint`, with `engine: vllm`"),
    Parameter("tritonEndpoint", "none", "the same as `engineEndpoint`, with `engine: triton`"),
    Parameter(
        "engineMetric",
        "none",
        'any series that an engine exports: `name{label="value"}`. Several matching series are added up; of a counter, '
        "the rate per second is used. It sets `metricType` to `engine`",
    ),
    Parameter(
        "quantile", f"{DEFAULT_QUANTILE:g}", "the quantile of the time to the first token that `ttft_ms` reports: "
        "0.001 to 0.999",
    ),
    Parameter("queueTarget", f"{DEFAULT_QUEUE_TARGET:g}", "the number of waiting requests that is 100 % `saturation`"),
    Parameter(
        "kvTarget",
        f"{DEFAULT_KV_TARGET:g}",
        "the share of the KV cache in use that is 100 % `load` and `saturation`: 0.01 to 1. Above it the engine soon "
        "preempts requests and computes them again",
    ),
    Parameter(
        "maxSeqs",
        "the engine's",
        "the number of requests that may run at once (vLLM: `--max-num-seqs`); 0.8 times this number is 100 % `load` "
        "and `saturation`. It is not needed for engines that export the number: 1 to 1000000. For Triton it is the "
        "number of model instances in a pod",
    ),
    Parameter(
        "itlTargetMs",
        f"{DEFAULT_ITL_TARGET_MS:g}",
        "`load`: the time per generated token, in milliseconds, that a full replica should have: 1 to 60000. Set it to "
        "about half of the time per token that your users accept, because a burst doubles it before a new replica is "
        "ready",
    ),
    Parameter(
        "itlFloorMs",
        "found by itself",
        "`load`: the time per token, in milliseconds, of an engine that serves one request alone: 0.1 to 60000, and "
        "below `itlTargetMs`. It is found from the engines' own counters; state it if `explain` shows a floor that is "
        "far too low",
    ),
    Parameter(
        "headroom",
        f"{DEFAULT_HEADROOM:g}",
        "`load`: the factor by which the work counts more than it is, because new replicas take time to start: 1 to 3",
    ),
    Parameter(
        "drainSeconds",
        f"{DEFAULT_DRAIN_SECONDS:g}",
        "`load`: the time, in seconds, in which waiting requests should be served: 5 to 3600. A shorter time asks for "
        "more replicas for the same queue, but never for more than run all of it at once, with what comes within this "
        "time while the queue grows. About the time that a "
        "replica needs to start is right: an earlier end of the queue is not possible",
    ),
    Parameter(
        "forecast",
        "none",
        "`load`: `none` or `trend`. `trend` adds the growth that is certain over the workload's own measured cold "
        "start. It helps where bursts are faster than a cold start, and costs replicas where the load is smooth",
    ),
    Parameter(
        "demandEndpoint",
        "none",
        "the URL of a gateway, router, endpoint picker or interceptor that knows of requests while no pod runs. Each "
        "address that its host name resolves to is scraped, and the values are added up",
    ),
    Parameter(
        "demand",
        "none",
        "the kind of source at `demandEndpoint`: {choices}. With it, `demandMetric` is optional",
        DEMANDS,
    ),
    Parameter(
        "demandMetric",
        "the preset's",
        'the series that reports the demand: `name{label="value"}`; of a counter, the rate per second is used. Labels '
        "without a name narrow the series of the preset that `demand` sets",
    ),
    Parameter(
        "demandThreshold",
        "0",
        "demand strictly above this number makes the workload active, also while it is scaled to zero",
    ),
    Parameter(
        "demandHoldSeconds",
        f"{DEFAULT_DEMAND_HOLD_SECONDS:g}",
        "the seconds for which the workload stays active after demand was last above `demandThreshold`: "
        f"0 to {MAX_DEMAND_HOLD_SECONDS:g}",
    ),
    Parameter(
        "demandPerReplica",
        "none",
        "the demand that one replica can serve. While no pod is ready, the number of replicas is the demand divided by "
        "this number, so that a burst starts several replicas at once",
    ),
)  # fmt: skip
"""Every key about engines and demand."""


@dataclass(frozen=True, slots=True)
class EngineQuery:
    """A trigger's query to engines: where they are, and how their readings become a value.

    ``engine`` is a name in ``ENGINES`` or ``AUTO``. ``url`` is empty where the workload's pods are scraped, and
    ``models`` where every model counts. ``kv_target`` is a ratio. ``max_seqs`` is None where only the engine knows the
    limit. The fields before ``models`` are for the metric ``load``: the aimed time per token, the stated floor (None
    where it is found by itself), a factor, the time in which a queue should be empty, and whether the load is forecast.
    ``namespace`` and ``credentials_namespace`` are those of ``Endpoint``.
    """

    engine: str = AUTO
    ports: tuple[int, ...] = ()
    path: str | None = None
    scheme: str | None = None
    url: str = ""
    selector: SeriesSelector | None = None
    quantile: float = DEFAULT_QUANTILE
    queue_target: float = DEFAULT_QUEUE_TARGET
    kv_target: float = DEFAULT_KV_TARGET
    max_seqs: float | None = None
    itl_target_seconds: float = DEFAULT_ITL_TARGET_MS / 1000
    itl_floor_seconds: float | None = None
    headroom: float = DEFAULT_HEADROOM
    drain_seconds: float = DEFAULT_DRAIN_SECONDS
    is_forecast: bool = False
    models: tuple[str, ...] = ()
    namespace: str | None = None
    credentials_namespace: str | None = None

    @property
    def selectors(self) -> tuple[SeriesSelector, ...]:
        """The series that are requested in addition to the readings of every engine."""
        return (self.selector,) if self.selector else ()


def read_engine(read: MetadataReader, metric: Metric | EngineMetric, engine: str | None) -> EngineQuery | None:
    """Read the keys about engines; None where the metric is a device's.

    Args:
        read: the trigger's metadata.
        metric: the trigger's metric.
        engine: the engine that the metric or the profile is restricted to, None for any engine.
    """
    endpoint_key = read.one_of(ENDPOINT_KEYS)
    itl_target_ms = _itl_target(read)
    query = EngineQuery(
        engine=_engine_name(read, engine, endpoint_key),
        ports=_ports(read),
        path=_path(read),
        scheme=read.choice("engineScheme", "http", _SCHEMES) if "engineScheme" in read.given else None,
        url=read_url(read, endpoint_key),
        selector=_selector(read, metric),
        quantile=read.number("quantile", DEFAULT_QUANTILE, at_least=0.001, at_most=0.999),
        queue_target=read.number("queueTarget", DEFAULT_QUEUE_TARGET, at_least=0.001),
        kv_target=read.number("kvTarget", DEFAULT_KV_TARGET, at_least=0.01, at_most=1),
        max_seqs=read.number("maxSeqs", 0, at_least=1, at_most=1e6) if "maxSeqs" in read.given else None,
        itl_target_seconds=itl_target_ms / 1000,
        itl_floor_seconds=_itl_floor(read, itl_target_ms),
        headroom=read.number("headroom", DEFAULT_HEADROOM, at_least=1, at_most=3),
        drain_seconds=read.number("drainSeconds", DEFAULT_DRAIN_SECONDS, at_least=5, at_most=3600),
        is_forecast=read.choice("forecast", "none", FORECASTS) == "trend",
        models=_models(read),
    )
    _check_models(read, query)
    if endpoint_key:
        for key in ("enginePort", "enginePath", "engineScheme"):
            if key in read.given:
                read.invalid(key, f"{endpoint_key} contains it already; keep one of the two")
        if query.is_forecast:
            read.hints.append(
                f"metadata.forecast: is not used with {endpoint_key}, whose replicas are not known: remove it, or let "
                f"the pods be scraped and remove {endpoint_key}"
            )
    if isinstance(metric, EngineMetric):
        _hint_at_keys_of_other_readings(read, metric)
        return query
    _hint_at_unused_engine_key(read, metric)
    return None


def _itl_target(read: MetadataReader) -> float:
    """Return the aimed time per token in milliseconds."""
    milliseconds = read.number("itlTargetMs", DEFAULT_ITL_TARGET_MS, at_least=1, at_most=60_000)
    if milliseconds < PLAUSIBLE_ITL_MS:
        read.hints.append(
            f"metadata.itlTargetMs: {milliseconds:g} ms per token is less than most models need for one request alone, "
            f"so a replica counts as full with a few requests: set {PLAUSIBLE_ITL_MS:g} or more, about half of the "
            "time per token that your users accept"
        )
    return milliseconds


def _itl_floor(read: MetadataReader, itl_target_ms: float) -> float | None:
    if "itlFloorMs" not in read.given:
        return None
    milliseconds = read.number("itlFloorMs", 0, at_least=0.1, at_most=60_000)
    if milliseconds >= itl_target_ms:
        read.invalid(
            "itlFloorMs",
            f"must be below itlTargetMs ({itl_target_ms:g}): it is the time per token of one request alone; remove "
            "the key, so that it is found by itself, or set a higher itlTargetMs",
        )
    return milliseconds / 1000


def _engine_name(read: MetadataReader, engine: str | None, endpoint_key: str | None) -> str:
    name = read.choice("engine", engine or AUTO, (AUTO, *ENGINES))
    required = engine or (_ENGINE_OF_KEY.get(endpoint_key) if endpoint_key else None)
    if required and name == AUTO and "engine" not in read.given:
        return required
    if required and name != required:
        read.invalid("engine", f"the other keys select {required}; remove engine")
    return name


def _hint_at_unused_engine_key(read: MetadataReader, metric: Metric) -> None:
    engine_keys = (parameter.key for parameter in ENGINE_PARAMETERS if not parameter.key.startswith("demand"))
    for key in (*ENDPOINT_KEYS, *engine_keys):
        if key in read.given:
            read.hints.append(f"metadata.{key}: is not used: {metric.name} is reported by devices, not by engines")
            return


def _hint_at_keys_of_other_readings(read: MetadataReader, metric: EngineMetric) -> None:
    own_keys = KEYS_OF_READING.get(metric.reading, ())
    for key in dict.fromkeys(key for keys in KEYS_OF_READING.values() for key in keys):
        if key not in read.given or key in own_keys:
            continue
        users = " and ".join(reading for reading, keys in KEYS_OF_READING.items() if key in keys)
        replaced = _REPLACED_KEYS.get(key, "")
        remedy = f"set {replaced} instead" if replaced in own_keys else "remove it, or change metricType"
        read.hints.append(f"metadata.{key}: is not used by {metric.name}, only by {users}: {remedy}")


def _selector(read: MetadataReader, metric: Metric | EngineMetric) -> SeriesSelector | None:
    if metric.name == "engine" and "engineMetric" not in read.given:
        read.problems.append('metadata.engineMetric: Required value: name the series: name{label="value"}')
    selector = read_series(read, "engineMetric")
    if selector is not None and not selector.name:
        read.invalid("engineMetric", 'must begin with the series\' name: name{label="value"}')
    return selector


def _models(read: MetadataReader) -> tuple[str, ...]:
    models = tuple(dict.fromkeys(name.strip() for name in read.given.get("engineModel", "").split(",")))
    if models == ("",):
        return ()
    if len(models) > MAX_MODELS or not all(it.isprintable() and 0 < len(it) <= _MAX_MODEL_LENGTH for it in models):
        read.invalid(
            "engineModel",
            f"must be at most {MAX_MODELS} names of models with commas between them, each of at most "
            f"{_MAX_MODEL_LENGTH} printable characters",
        )
        return ()
    return models


def _check_models(read: MetadataReader, query: EngineQuery) -> None:
    engine = ENGINES.get(query.engine)
    if query.models and engine is not None and not engine.model_labels:
        read.invalid("engineModel", f"{engine.name} names no models in its series; remove the key")


def _ports(read: MetadataReader) -> tuple[int, ...]:
    text = read.given.get("enginePort")
    if text is None:
        return ()
    try:
        return parse_ports(text)
    except PortsError as error:
        read.invalid("enginePort", str(error))
        return ()


def _path(read: MetadataReader) -> str | None:
    text = read.given.get("enginePath")
    if text is not None and not is_path(text):
        read.invalid("enginePath", "must begin with / and have at most 256 printable characters without blanks")
        return None
    return text
