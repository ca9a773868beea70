# SPDX-License-Identifier: Apache-2.0
"""What does a trigger ask of the engines that serve, and of whatever sends them work?

The law of this module: where an engine is to be found is said by its operator, by its pod or by its own habit, in this
order; nothing is looked for anywhere else.
"""

from dataclasses import dataclass

from keda_gpu_scaler.core.selectors import SelectorError, SeriesSelector, parse_series
from keda_gpu_scaler.core.state.scrape import AUTO, Endpoint
from keda_gpu_scaler.core.trigger.metadata import MetadataReader, Parameter
from keda_gpu_scaler.core.trigger.metrics import DEMANDS, ENGINES, EngineMetric, Metric
from keda_gpu_scaler.core.urls import MAX_PORT, UrlError, is_path, parse_url

DEFAULT_QUANTILE = 0.95
DEFAULT_QUEUE_TARGET = 5.0
DEFAULT_KV_TARGET = 0.8
DEFAULT_DEMAND_HOLD_SECONDS = 60.0
MAX_DEMAND_HOLD_SECONDS = 300.0
"""Whoever scrapes keeps this much history; KEDA's cooldownPeriod holds for longer."""
ENDPOINT_KEYS = ("engineEndpoint", "vllmEndpoint", "tritonEndpoint")
_ENGINE_OF_KEY = {"vllmEndpoint": "vllm", "tritonEndpoint": "triton"}
_SCHEMES = ("http", "https")

ENGINE_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "engine",
        AUTO,
        "what serves in the pods: " + ", ".join(f"`{name}`" for name in ENGINES) + "; `auto` recognises it",
    ),
    Parameter(
        "enginePort",
        "the engine's",
        "the port of its metrics; before the engine's own comes the pod's annotation `prometheus.io/port`",
    ),
    Parameter("enginePath", "the engine's", "their path, likewise before the annotation `prometheus.io/path`"),
    Parameter("engineScheme", "http", "`http` or `https`, likewise before the annotation `prometheus.io/scheme`"),
    Parameter(
        "engineEndpoint",
        "none",
        "a URL to scrape as it stands, in place of the pods. What it tells counts as one replica's value, or with "
        "`aggregation: sum` as all replicas' together; behind a Service it is one random pod's",
    ),
    Parameter("vllmEndpoint", "none", "the same, of vLLM"),
    Parameter("tritonEndpoint", "none", "the same, of Triton"),
    Parameter(
        "engineMetric",
        "none",
        'any series an engine exports: `name{label="value"}`, of several their sum, of a counter its rate per second; '
        "`metricType` is `engine` then",
    ),
    Parameter("quantile", f"{DEFAULT_QUANTILE:g}", "which quantile `ttft_ms` tells: above 0 and below 1"),
    Parameter("queueTarget", f"{DEFAULT_QUEUE_TARGET:g}", "waiting requests that are 100 % `saturation`"),
    Parameter("kvTarget", f"{DEFAULT_KV_TARGET:g}", "part of the KV cache that is 100 % `saturation`: 0.01 to 1"),
    Parameter(
        "maxSeqs",
        "the engine's",
        "how many requests may run at once (vLLM: `--max-num-seqs`), of which 0.8 are 100 % `saturation`; engines that "
        "tell it themselves need not be told",
    ),
    Parameter(
        "demandEndpoint",
        "none",
        "URL of a gateway, router, endpoint picker or interceptor that knows of requests while no pod runs; each "
        "address its name resolves to is asked, and what they tell is added up",
    ),
    Parameter(
        "demand",
        "none",
        "what is there: " + ", ".join(f"`{name}`" for name in DEMANDS) + "; with it `demandMetric` may be left out",
    ),
    Parameter(
        "demandMetric",
        "the preset's",
        'the series that tells the demand, `name{label="value"}`, of a counter its rate per second; labels alone '
        "narrow the preset's",
    ),
    Parameter("demandThreshold", "0", "demand strictly above it makes the workload active, even at zero"),
    Parameter(
        "demandHoldSeconds",
        f"{DEFAULT_DEMAND_HOLD_SECONDS:g}",
        f"so long after demand was last above it the workload stays active: 0 to {MAX_DEMAND_HOLD_SECONDS:g}",
    ),
    Parameter(
        "demandPerReplica",
        "none",
        "while no pod is ready, ask for one replica for each so much demand, so that a burst starts several at once",
    ),
)
"""Every key that is about engines and demand."""


@dataclass(frozen=True, slots=True)
class EngineQuery:
    """What is asked of engines: where they are, and what is made of what they tell.

    ``engine`` is a name in ``ENGINES`` or ``AUTO``. ``url`` is empty where the workload's pods are asked. ``kv_target``
    is a ratio; ``max_seqs`` is None where the engine alone knows it.
    """

    engine: str = AUTO
    port: int | None = None
    path: str | None = None
    scheme: str | None = None
    url: str = ""
    selector: SeriesSelector | None = None
    quantile: float = DEFAULT_QUANTILE
    queue_target: float = DEFAULT_QUEUE_TARGET
    kv_target: float = DEFAULT_KV_TARGET
    max_seqs: float | None = None

    @property
    def selectors(self) -> tuple[SeriesSelector, ...]:
        """What is asked for beyond what engines tell anyway."""
        return (self.selector,) if self.selector else ()


@dataclass(frozen=True, slots=True)
class DemandQuery:
    """Where demand is told of that exists without pods, and what it does.

    ``selectors`` are alternatives, of which the first that is found counts. ``per_replica`` is None where demand wakes
    and sizes nothing.
    """

    url: str
    selectors: tuple[SeriesSelector, ...]
    threshold: float = 0.0
    hold_seconds: float = DEFAULT_DEMAND_HOLD_SECONDS
    per_replica: float | None = None

    @property
    def endpoint(self) -> Endpoint:
        """What is to be scraped for it."""
        return Endpoint(url=self.url, every_address=True)


def read_engine(read: MetadataReader, metric: Metric | EngineMetric, engine: str | None) -> EngineQuery | None:
    """Read what is asked of engines; None where the metric is a device's.

    Args:
        read: the trigger's metadata.
        metric: the trigger's metric.
        engine: the engine that the metric or the profile is about, None for any.
    """
    endpoint = read.one_of(ENDPOINT_KEYS)
    said = read.choice("engine", engine or AUTO, (AUTO, *ENGINES))
    about = engine or (_ENGINE_OF_KEY.get(endpoint) if endpoint else None)
    if about and said == AUTO and "engine" not in read.given:
        said = about
    elif about and said != about:
        read.invalid("engine", f"what is asked is about {about}; leave engine out")
    query = EngineQuery(
        engine=said,
        port=_port(read),
        path=_path(read),
        scheme=read.choice("engineScheme", "http", _SCHEMES) if "engineScheme" in read.given else None,
        url=_url(read, endpoint),
        selector=_selector(read, metric),
        quantile=read.number("quantile", DEFAULT_QUANTILE, at_least=0.001, at_most=0.999),
        queue_target=read.number("queueTarget", DEFAULT_QUEUE_TARGET, at_least=0.001),
        kv_target=read.number("kvTarget", DEFAULT_KV_TARGET, at_least=0.01, at_most=1),
        max_seqs=read.number("maxSeqs", 0, at_least=1, at_most=1e6) if "maxSeqs" in read.given else None,
    )
    if endpoint:
        for key in ("enginePort", "enginePath", "engineScheme"):
            if key in read.given:
                read.invalid(key, f"{endpoint} says it already; keep one of the two")
    if isinstance(metric, EngineMetric):
        return query
    for key in (*ENDPOINT_KEYS, *(one.key for one in ENGINE_PARAMETERS if not one.key.startswith("demand"))):
        if key in read.given:
            read.hints.append(f"metadata.{key}: is not read: {metric.name} is told by devices, not by engines")
            break
    return None


def read_demand(read: MetadataReader) -> DemandQuery | None:
    """Read where demand is told of; None where that is not said."""
    keys = [one.key for one in ENGINE_PARAMETERS if one.key.startswith("demand") and one.key in read.given]
    if not keys:
        return None
    if "demandEndpoint" not in read.given:
        read.problems.append(
            f"metadata.demandEndpoint: Required value: {keys[0]} needs the URL of what tells the demand"
        )
    preset = read.choice("demand", "", DEMANDS) if "demand" in read.given else ""
    selectors = _demand_selectors(read, DEMANDS[preset].series if preset else ())
    per_replica = None
    if "demandPerReplica" in read.given:
        per_replica = read.number("demandPerReplica", 1, at_least=0.001)
    return DemandQuery(
        url=_url(read, "demandEndpoint"),
        selectors=selectors,
        threshold=read.number("demandThreshold", 0, at_least=0),
        hold_seconds=read.number(
            "demandHoldSeconds", DEFAULT_DEMAND_HOLD_SECONDS, at_least=0, at_most=MAX_DEMAND_HOLD_SECONDS
        ),
        per_replica=per_replica,
    )


def _demand_selectors(read: MetadataReader, preset: tuple[str, ...]) -> tuple[SeriesSelector, ...]:
    said = _series(read, "demandMetric")
    if said is None:
        if not preset and "demandMetric" not in read.given and "demand" not in read.given:
            read.problems.append(
                "metadata.demandMetric: Required value: say which series tells the demand, or what is there with "
                "demand: " + ", ".join(DEMANDS)
            )
        return tuple(SeriesSelector(name) for name in preset)
    if said.name:
        return (said,)
    if not preset:
        read.invalid("demandMetric", "labels alone narrow a preset, and demand names none: begin with the series' name")
    return tuple(SeriesSelector(name, said.requirements) for name in preset)


def _selector(read: MetadataReader, metric: Metric | EngineMetric) -> SeriesSelector | None:
    if metric.name == "engine" and "engineMetric" not in read.given:
        read.problems.append('metadata.engineMetric: Required value: say which series: name{label="value"}')
    selector = _series(read, "engineMetric")
    if selector is not None and not selector.name:
        read.invalid("engineMetric", 'must begin with the series\' name: name{label="value"}')
    return selector


def _series(read: MetadataReader, key: str) -> SeriesSelector | None:
    if key not in read.given:
        return None
    try:
        return parse_series(read.given[key])
    except SelectorError as error:
        read.invalid(key, str(error))
        return None


def _url(read: MetadataReader, key: str | None) -> str:
    if key is None or key not in read.given:
        return ""
    try:
        return str(parse_url(read.given[key]))
    except UrlError as error:
        read.invalid(key, str(error))
        return ""


def _port(read: MetadataReader) -> int | None:
    text = read.given.get("enginePort")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= MAX_PORT):
        read.invalid("enginePort", f"must be a whole number from 1 to {MAX_PORT}")
        return None
    return int(text)


def _path(read: MetadataReader) -> str | None:
    text = read.given.get("enginePath")
    if text is not None and not is_path(text):
        read.invalid("enginePath", "must begin with / and have at most 256 printable characters, none of them blank")
        return None
    return text
