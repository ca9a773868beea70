# SPDX-License-Identifier: Apache-2.0
"""Profiles: named sets of trigger defaults."""

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Profile:
    """A named set of trigger defaults.

    ``meant_for`` names the workloads that it suits. ``caveat`` says where its metric misleads and what to use
    instead. ``engine`` is the engine that the profile is restricted to, None for any engine.
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
        """The metric name reported to KEDA. It is the original's, so that an existing HPA still finds its metric."""
        return "keda_gpu_" + self.name.replace("-", "_")


_PREALLOCATES = (
    "{engine} takes its memory when it starts and keeps it. The value hardly falls when the load falls, so the "
    "workload may never scale down. Prefer `profile: llm`."
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
                "The workload never scales to zero while a device has any load.",
            ),
            Profile(
                "distributed-training",
                "nvlink_tx_mib_s",
                800,
                100,
                "training over several GPUs of a node, by the traffic over their links",
                "Only GPUs with NVLink or XGMI have the value. The traffic depends on the model and on the way in "
                "which it is divided among the GPUs, so measure it before you set `targetValue`. The default is the "
                "original's.",
            ),
            Profile(
                "batch",
                "memory_used_percent",
                70,
                1,
                "batch inference that frees its memory between jobs",
                "Frameworks that cache freed memory (PyTorch's allocator, TensorFlow's default) keep the value high "
                "between jobs. For them, prefer `metricType: gpu_utilization`.",
            ),
            Profile(
                "ollama",
                "memory_used_percent",
                70,
                3,
                "Ollama, which unloads idle models",
                "Memory shows that a model is loaded, not how busy the model is. A model stays loaded until "
                "`OLLAMA_KEEP_ALIVE` (5 minutes) has passed. Use `metricType: gpu_utilization` to follow the load.",
            ),
            Profile(
                "tgi-inference",
                "memory_used_percent",
                75,
                5,
                "Hugging Face Text Generation Inference",
                _PREALLOCATES.format(engine="TGI"),
            ),
            Profile("llm", "load", 100, 0, "LLM servers of any kind, by their work"),
            Profile("vllm-queue-depth", "vllm_queue_depth", 5, 1, "vLLM, by its waiting requests"),
            Profile(
                "sglang",
                "load",
                100,
                0,
                "SGLang, by its work",
                "Start SGLang with `--enable-metrics`.",
                "sglang",
            ),
            Profile("tgi", "load", 100, 0, "Text Generation Inference, by its work", engine="tgi"),
            Profile("triton-queue-wait", "triton_queue_wait_ms", 50, 5, "NVIDIA Triton, by the time requests wait"),
            Profile("triton-request-rate", "triton_request_rate", 50, 1, "NVIDIA Triton, by requests per second"),
        )
    }
)
"""Every profile by its name."""
