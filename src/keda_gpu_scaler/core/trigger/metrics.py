# SPDX-License-Identifier: Apache-2.0
"""Which metrics, profiles and engines are there? The tables that parsing, serving and the reference share."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from keda_gpu_scaler.core.types import Sample

MIB = 1 << 20
FULL_UTILIZATION_RATIO = 0.8
"""GPU utilisation that is taken for 100 % saturation where no engine tells of itself: the default target."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One value of ``metricType``.

    ``read`` gives a sample's value in ``unit``, finite and not negative, or None where the driver gave no
    reading. ``is_divided`` says that pods which share a device share its value; a temperature, or the power of
    the whole board, belongs to each of them as it is.
    """

    name: str
    unit: str
    meaning: str
    read: Callable[[Sample], float | None]
    is_divided: bool = True


@dataclass(frozen=True, slots=True)
class Profile:
    """A named set of trigger defaults. ``caveat`` says where its signal misleads, and what to use instead.

    ``engine`` is the engine that it is about, None for any.
    """

    name: str
    metric: str
    target: float
    activation: float
    meant_for: str
    caveat: str = ""
    engine: str | None = None

    @property
    def metric_name(self) -> str:
        """The name handed to KEDA, as in the original: an HPA made for that one still finds its metric."""
        return "keda_gpu_" + self.name.replace("-", "_")


def _percent(ratio: float | None) -> float | None:
    # Rounded, because 100 x 0.57 is 56.99999999999999 and 100 x 0.07 is 7.000000000000001: KEDA's integer
    # field holds the ceiling, which would turn a driver's 7 into an 8.
    return None if ratio is None else round(100 * ratio, 6)


def _memory_used_percent(sample: Sample) -> float | None:
    if sample.memory_used_bytes is None or not sample.memory_total_bytes:
        return None
    return _percent(sample.memory_used_bytes / sample.memory_total_bytes)


def _temperature(sample: Sample) -> float | None:
    # A freezer's GPU is as cool as KEDA can be told: the HPA has no use for a number below 0.
    return None if sample.temperature_celsius is None else max(0.0, sample.temperature_celsius)


def _memory_used_mib(sample: Sample) -> float | None:
    return None if sample.memory_used_bytes is None else sample.memory_used_bytes / MIB


METRICS: MappingProxyType[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(
                "gpu_utilization",
                "%",
                "share of the last second in which at least one kernel ran",
                lambda sample: _percent(sample.gpu_utilization_ratio),
            ),
            Metric(
                "memory_utilization",
                "%",
                "share of the last second in which memory was being read or written (not how full it is)",
                lambda sample: _percent(sample.memory_utilization_ratio),
            ),
            Metric("memory_used_mib", "MiB", "memory in use", _memory_used_mib),
            Metric(
                "memory_used_percent",
                "%",
                "memory in use, of the device's memory",
                _memory_used_percent,
            ),
            Metric("temperature", "°C", "temperature of the GPU die", _temperature, is_divided=False),
            Metric("power_draw", "W", "power drawn by the board", lambda sample: sample.power_watts, is_divided=False),
        )
    }
)
"""Every metric by its name."""

SATURATION_OF_DEVICES = Metric(
    "saturation",
    "%",
    "GPU utilisation in place of what an engine would tell",
    lambda sample: (
        None
        if sample.gpu_utilization_ratio is None
        else _percent(sample.gpu_utilization_ratio / FULL_UTILIZATION_RATIO)
    ),
)
"""What `saturation` is where no pod has an engine that tells of itself."""


@dataclass(frozen=True, slots=True)
class EngineMetric:
    """One value of ``metricType`` that engines tell of, one value for each pod.

    ``reading`` says what is read ("queue_depth"), which several names may share; ``engine`` is the engine that a name
    is about, None for any. ``target`` is the default target, None where only its user can know one.
    """

    name: str
    reading: str
    unit: str
    meaning: str
    target: float | None = None
    engine: str | None = None


ENGINE_METRICS: MappingProxyType[str, EngineMetric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            EngineMetric(
                "saturation",
                "saturation",
                "%",
                "the fullest of queue against `queueTarget`, KV cache against `kvTarget` and, where their limit is "
                "known, running requests against 0.8 of it; 100 is as much as a replica should bear. Where no pod "
                "has an engine that tells, GPU utilisation, of which 80 % counts as 100",
                100,
            ),
            EngineMetric("queue_depth", "queue_depth", "requests", "requests that wait in the engine's queue", 5),
            EngineMetric("running_requests", "running_requests", "requests", "requests that are being worked on"),
            EngineMetric("kv_cache_usage", "kv_cache_usage", "%", "KV cache in use; of several ranks the fullest", 80),
            EngineMetric(
                "queue_wait_ms", "queue_wait_ms", "ms", "mean time in the queue, of requests that left it in the window"
            ),
            EngineMetric("request_rate", "request_rate", "requests/s", "requests that ended well"),
            EngineMetric("token_rate", "token_rate", "tokens/s", "tokens generated"),
            EngineMetric(
                "ttft_ms", "ttft_ms", "ms", "time to the first token, the `quantile` of those of the window (0.95)"
            ),
            EngineMetric("engine", "engine", "", "the series that `engineMetric` selects, of a counter its rate"),
            EngineMetric("vllm_queue_depth", "queue_depth", "requests", "`queue_depth` of vLLM", 5, "vllm"),
            EngineMetric("vllm_kv_cache_usage", "kv_cache_usage", "%", "`kv_cache_usage` of vLLM", 80, "vllm"),
            EngineMetric("triton_queue_wait_ms", "queue_wait_ms", "ms", "`queue_wait_ms` of Triton", 50, "triton"),
            EngineMetric("triton_request_rate", "request_rate", "requests/s", "`request_rate` of Triton", 50, "triton"),
        )
    }
)
"""Every metric of engines by its name."""

_PREALLOCATES = (
    "{engine} takes its memory when it starts and keeps it: this value hardly falls when the load does, so the "
    "workload may never shrink. Prefer `profile: llm`."
)

PROFILES: MappingProxyType[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                "vllm-inference",
                "memory_used_percent",
                80,
                5,
                "vLLM and other LLM servers",
                _PREALLOCATES.format(engine="vLLM (`--gpu-memory-utilization`, 0.9 by default)"),
            ),
            Profile("triton-inference", "gpu_utilization", 75, 10, "NVIDIA Triton Inference Server"),
            Profile(
                "training",
                "gpu_utilization",
                90,
                0,
                "training jobs",
                "Never asks for zero while a device shows any load at all.",
            ),
            Profile(
                "batch",
                "memory_used_percent",
                70,
                1,
                "batch inference that frees its memory between jobs",
                "Frameworks that cache freed memory (PyTorch's allocator, TensorFlow's default) hold the value up "
                "between jobs. Prefer `metricType: gpu_utilization` there.",
            ),
            Profile(
                "ollama",
                "memory_used_percent",
                70,
                3,
                "Ollama, which unloads idle models",
                "Memory shows that a model is loaded, not how busy it is: it stays until `OLLAMA_KEEP_ALIVE` "
                "(5 minutes) has passed. Use `metricType: gpu_utilization` to follow the load.",
            ),
            Profile(
                "tgi-inference",
                "memory_used_percent",
                75,
                5,
                "Hugging Face Text Generation Inference",
                _PREALLOCATES.format(engine="TGI"),
            ),
            Profile("llm", "saturation", 100, 0, "LLM servers of any kind, by their own queue and cache"),
            Profile("vllm-queue-depth", "vllm_queue_depth", 5, 1, "vLLM, by the requests that wait"),
            Profile(
                "sglang", "saturation", 100, 0, "SGLang, by its queue and cache", "Needs `--enable-metrics`.", "sglang"
            ),
            Profile("tgi", "saturation", 100, 0, "Text Generation Inference, by its queue", engine="tgi"),
            Profile("triton-queue-wait", "triton_queue_wait_ms", 50, 5, "NVIDIA Triton, by the time requests wait"),
            Profile("triton-request-rate", "triton_request_rate", 50, 1, "NVIDIA Triton, by requests per second"),
        )
    }
)
"""Every profile by its name."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One inference engine, and where it serves its metrics unless it was told otherwise.

    ``remark`` says what must be done for it to do so, or what it does not tell. ``behind`` are engines that may do its
    work, whose names its pages may then use. ``tells_queue`` and ``tells_kv_cache`` are false of one that tells, or may
    rightly tell, nothing of its queue, or of a KV cache.
    """

    name: str
    title: str
    port: int
    path: str = "/metrics"
    remark: str = ""
    behind: tuple[str, ...] = ()
    tells_queue: bool = True
    tells_kv_cache: bool = True


ENGINES: MappingProxyType[str, Engine] = MappingProxyType(
    {
        engine.name: engine
        for engine in (
            Engine("vllm", "vLLM", 8000),
            Engine("sglang", "SGLang", 30000, remark="start it with `--enable-metrics`"),
            Engine(
                "tgi", "Hugging Face Text Generation Inference", 3000, remark="tells no KV cache", tells_kv_cache=False
            ),
            Engine("triton", "NVIDIA Triton, with or without TensorRT-LLM", 8002, tells_kv_cache=False),
            Engine("trtllm-serve", "TensorRT-LLM's own server", 8000, "/prometheus/metrics"),
            Engine("nim", "NVIDIA NIM", 8000, "/v1/metrics", behind=("vllm", "sglang", "trtllm-serve")),
            Engine("lmdeploy", "LMDeploy", 23333),
            Engine(
                "llama.cpp",
                "llama.cpp",
                8080,
                remark="start it with `--metrics`; tells no KV cache",
                tells_kv_cache=False,
            ),
            Engine(
                "ollama",
                "Ollama",
                11434,
                "/api/ps",
                "tells which models are loaded, and neither queue nor cache",
                tells_queue=False,
                tells_kv_cache=False,
            ),
        )
    }
)
"""Every engine by its name in trigger metadata, in the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class DemandPreset:
    """A source of demand that is known: ``series`` are the names it may have for what waits, the first found counts."""

    name: str
    title: str
    series: tuple[str, ...]
    remark: str


DEMANDS: MappingProxyType[str, DemandPreset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            DemandPreset(
                "epp",
                "endpoint picker of the Gateway API inference extension, or of llm-d",
                ("llm_d_epp_flow_control_queue_size", "inference_extension_flow_control_queue_size"),
                'with its flow control switched on; narrow it with the `demandMetric` `{inference_pool="NAME"}`',
            ),
            DemandPreset(
                "vllm-router",
                "router of the vLLM production stack",
                ("vllm:num_incoming_requests_total",),
                'requests per second that come in; narrow it with the `demandMetric` `{model="NAME"}`',
            ),
            DemandPreset(
                "http-add-on",
                "interceptor of KEDA's HTTP add-on",
                ("http_add_on_pending_requests",),
                'requests that are held or served; narrow it with the `demandMetric` `{host="NAMESPACE/NAME"}`',
            ),
        )
    }
)
"""Every preset by its name in trigger metadata."""
