# SPDX-License-Identifier: Apache-2.0
"""Which metrics and which profiles are there? The tables that parsing, serving and the reference share."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from keda_gpu_scaler.core.model import Sample

MIB = 1 << 20


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
    """A named set of trigger defaults. ``caveat`` says where its signal misleads, and what to use instead."""

    name: str
    metric: str
    target: float
    activation: float
    meant_for: str
    caveat: str = ""

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

_PREALLOCATES = (
    "{engine} takes its memory when it starts and keeps it: this value hardly falls when the load does, so the "
    "workload may never shrink. Prefer `metricType: gpu_utilization`."
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
        )
    }
)
"""Every profile by its name."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One inference engine, and where it serves its metrics unless it was told otherwise.

    ``remark`` says what must be done for it to do so, or what it does not tell.
    """

    name: str
    title: str
    port: int
    path: str = "/metrics"
    remark: str = ""


ENGINES: MappingProxyType[str, Engine] = MappingProxyType(
    {
        engine.name: engine
        for engine in (
            Engine("vllm", "vLLM", 8000),
            Engine("sglang", "SGLang", 30000, remark="start it with `--enable-metrics`"),
            Engine("tgi", "Hugging Face Text Generation Inference", 3000, remark="tells no KV cache"),
            Engine("triton", "NVIDIA Triton, with or without TensorRT-LLM", 8002),
            Engine("trtllm-serve", "TensorRT-LLM's own server", 8000, "/prometheus/metrics"),
            Engine("nim", "NVIDIA NIM", 8000, "/v1/metrics"),
            Engine("lmdeploy", "LMDeploy", 23333),
            Engine("llama.cpp", "llama.cpp", 8080, remark="start it with `--metrics`; tells no KV cache"),
            Engine("ollama", "Ollama", 11434, "/api/ps", "tells which models are loaded, and neither queue nor cache"),
        )
    }
)
"""Every engine by its name in trigger metadata, in the order in which they are tried."""
