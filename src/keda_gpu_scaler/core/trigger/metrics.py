# SPDX-License-Identifier: Apache-2.0
"""The metrics of devices and of engines: every value of ``metricType``."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from keda_gpu_scaler.core.pod_use import PodUse
from keda_gpu_scaler.core.types import PerformanceReadings, Sample

MIB = 1 << 20
PERFORMANCE_SPAN_SECONDS = 6.0
"""The longest time over which a backend takes a mean of the performance readings, with the jitter of the sampler."""
FULL_UTILIZATION_RATIO = 0.8
"""GPU utilisation that counts as 100 % load where no engine reports its load. It is the default target."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One value of ``metricType`` that devices report.

    ``read`` returns a sample's value in ``unit``, finite and not negative, or None where the driver returned no
    reading. ``is_divided`` says that the pods that share a device also share its value. A temperature, or the power
    of the whole board, is not divided: each of these pods has the full value. ``reading`` is the reading that the value
    comes from, as ``ReadingFailure`` names it. ``is_performance`` says that the value comes from
    ``Sample.performance``, which is read only while it is wanted. Such a value is a mean that may begin up to
    ``span_seconds`` before the window of a trigger. ``use`` returns what a pod used of the device, by
    which the value is divided where it is measured; None where it is not known.
    """

    name: str
    unit: str
    meaning: str
    read: Callable[[Sample], float | None]
    is_divided: bool = True
    reading: str = "utilization"
    use: Callable[[PodUse], float | None] = lambda use: use.sm_ratio
    is_performance: bool = False

    @property
    def span_seconds(self) -> float:
        """How much more history than the window says which pods held a device while a value was measured."""
        return PERFORMANCE_SPAN_SECONDS if self.is_performance else 0.0


def _percent(ratio: float | None) -> float | None:
    # Rounded, because 100 x 0.57 is 56.99999999999999 and 100 x 0.07 is 7.000000000000001. KEDA's integer
    # field holds the ceiling, so a driver's 7 would become an 8.
    return None if ratio is None else round(100 * ratio, 6)


def _memory_used_percent(sample: Sample) -> float | None:
    if sample.memory_used_bytes is None or not sample.memory_total_bytes:
        return None
    return _percent(sample.memory_used_bytes / sample.memory_total_bytes)


def _temperature(sample: Sample) -> float | None:
    # A negative temperature is reported as 0: the HPA has no use for a number below 0.
    return None if sample.temperature_celsius is None else max(0.0, sample.temperature_celsius)


def _memory_used_mib(sample: Sample) -> float | None:
    return None if sample.memory_used_bytes is None else sample.memory_used_bytes / MIB


def _device_load(sample: Sample) -> float | None:
    if sample.gpu_utilization_ratio is None:
        return None
    return _percent(sample.gpu_utilization_ratio / FULL_UTILIZATION_RATIO)


def _performance(read: Callable[[PerformanceReadings], float | None]) -> Callable[[Sample], float | None]:
    return lambda sample: None if sample.performance is None else read(sample.performance)


def _mib(*directions: float | None) -> float | None:
    """Return the sum of rates in MiB/s; None if one of them is unknown."""
    known = [rate for rate in directions if rate is not None]
    return sum(known) / MIB if len(known) == len(directions) else None


def _kilobytes(rate: float | None) -> float | None:
    """Return a rate in KB/s of 1,000 bytes, as NVML counts traffic over PCIe."""
    return None if rate is None else rate / 1000


def _traffic(
    name: str,
    meaning: str,
    reading: str,
    directions: Callable[[PerformanceReadings], tuple[float | None, ...]],
    unit: str = "MiB/s",
    in_unit: Callable[..., float | None] = _mib,
) -> Metric:
    return Metric(
        name,
        unit,
        meaning,
        _performance(lambda performance: in_unit(*directions(performance))),
        is_divided=False,
        reading=reading,
        is_performance=True,
    )


def _activity(name: str, meaning: str, ratio: Callable[[PerformanceReadings], float | None]) -> Metric:
    read = _performance(lambda performance: _percent(ratio(performance)))
    # The driver does not return it for each process.
    return Metric(name, "%", meaning, read, reading="activity", is_performance=True, use=lambda use: None)


_PERFORMANCE_METRICS = (
    _traffic("pcie_rx_mib_s", "traffic over PCIe to the GPU", "pcie", lambda it: (it.pcie_rx_bytes_per_second,)),
    _traffic("pcie_tx_mib_s", "traffic over PCIe from the GPU", "pcie", lambda it: (it.pcie_tx_bytes_per_second,)),
    _traffic(
        "pcie_throughput",
        "traffic over PCIe in both directions",
        "pcie",
        lambda it: (it.pcie_rx_bytes_per_second, it.pcie_tx_bytes_per_second),
    ),
    _traffic(
        "nvlink_rx_mib_s",
        "traffic over all links between GPUs (NVLink, XGMI) to the GPU",
        "nvlink",
        lambda it: (it.nvlink_rx_bytes_per_second,),
    ),
    _traffic(
        "nvlink_tx_mib_s",
        "traffic over all links between GPUs (NVLink, XGMI) from the GPU",
        "nvlink",
        lambda it: (it.nvlink_tx_bytes_per_second,),
    ),
    _traffic(
        "nvlink_throughput",
        "traffic over all links between GPUs in both directions",
        "nvlink",
        lambda it: (it.nvlink_rx_bytes_per_second, it.nvlink_tx_bytes_per_second),
    ),
    _activity("sm_active", "share of the streaming multiprocessors that were busy", lambda it: it.sm_active_ratio),
    _activity("tensor_active", "share of the time in which tensor cores were busy", lambda it: it.tensor_active_ratio),
    _activity("dram_active", "share of the memory's bandwidth that was used", lambda it: it.dram_active_ratio),
    _traffic(
        "pcie_rx_kbps",
        "`pcie_rx_mib_s` with the name and the unit of the original",
        "pcie",
        lambda it: (it.pcie_rx_bytes_per_second,),
        "KB/s",
        _kilobytes,
    ),
    _traffic(
        "pcie_tx_kbps",
        "`pcie_tx_mib_s` with the name and the unit of the original",
        "pcie",
        lambda it: (it.pcie_tx_bytes_per_second,),
        "KB/s",
        _kilobytes,
    ),
)

_OF_A_COUNTER = (
    "use {}, a rate in MiB/s, and measure targetValue again: the original's value is a sum of counters that only grow"
)
REPLACED_METRICS: MappingProxyType[str, str] = MappingProxyType(
    {
        "nvlink_rx_mbps": _OF_A_COUNTER.format("nvlink_rx_mib_s"),
        "nvlink_tx_mbps": _OF_A_COUNTER.format("nvlink_tx_mib_s"),
    }
)
"""What to use in the place of the original's metrics whose value means something else.

Source: pmady/keda-gpu-scaler, pkg/gpu/nvml.go, which divides nvmlDeviceGetNvLinkUtilizationCounter by 1,024.
"""

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
                "share of the last second in which memory was read or written (not how full the memory is)",
                lambda sample: _percent(sample.memory_utilization_ratio),
                use=lambda use: use.memory_utilization_ratio,
            ),
            Metric(
                "memory_used_mib",
                "MiB",
                "memory in use",
                _memory_used_mib,
                reading="memory",
                use=lambda use: use.memory_bytes,
            ),
            Metric(
                "memory_used_percent",
                "%",
                "memory in use, as a share of the device's memory",
                _memory_used_percent,
                reading="memory",
                use=lambda use: use.memory_bytes,
            ),
            Metric(
                "temperature",
                "°C",
                "temperature of the GPU die",
                _temperature,
                is_divided=False,
                reading="temperature",
            ),
            Metric(
                "power_draw",
                "W",
                "power drawn by the board",
                lambda sample: sample.power_watts,
                is_divided=False,
                reading="power",
            ),
            *_PERFORMANCE_METRICS,
        )
    }
)
"""Every metric of devices by its name."""

BASIC_METRICS = tuple(name for name, metric in METRICS.items() if not metric.is_performance)
"""The metrics of devices that every sample has, also while no trigger needs them."""

LOAD_OF_DEVICES = Metric(
    "load",
    "%",
    "GPU utilisation, used where no engine reports its load",
    _device_load,
)
"""The device metric that is used where no pod has an engine that reports its load."""


@dataclass(frozen=True, slots=True)
class EngineMetric:
    """One value of ``metricType`` that engines report, with one value for each pod.

    ``reading`` names what is read ("queue_depth"); several metrics may share it. ``engine`` is the engine that the
    metric is restricted to, None for any engine. ``target`` is the default target, None where the user must set it.
    ``window_seconds`` is the default window, None for the general one. ``is_occupancy`` says that the value shows how
    full something is, and may be above 0 without any work. ``falls_back_to_devices`` says that GPU utilisation is used
    where the trigger names no engine and no pod has one that reports its load. ``rank_aggregation`` is how the values
    of several engines of one pod, each a rank of the replica, become the value of the pod.
    """

    name: str
    reading: str
    unit: str
    meaning: str
    target: float | None = None
    engine: str | None = None
    window_seconds: float | None = None
    is_occupancy: bool = False
    falls_back_to_devices: bool = False
    rank_aggregation: str = "max"


ENGINE_METRICS: MappingProxyType[str, EngineMetric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            EngineMetric(
                "load",
                "load",
                "%",
                "the work of an engine, as a share of what one replica should carry; 100 is a full replica. It is "
                "proportional to the traffic: by the time per token (`itlTargetMs`), by running requests and KV cache, "
                "and by the replicas that the waiting requests need (`drainSeconds`). With `engine: auto`, where no "
                "pod has an engine that reports its load, GPU utilisation is used, and 80 % of it counts as 100",
                100,
                window_seconds=30,
                falls_back_to_devices=True,
                rank_aggregation="avg",
            ),
            EngineMetric(
                "saturation",
                "saturation",
                "%",
                "the largest of three shares: waiting requests of `queueTarget`; KV cache in use of `kvTarget`; "
                "running requests of 0.8 times their limit, where the limit is known. 100 is the load that one "
                "replica should bear. With `engine: auto`, where no pod has an engine that reports its load, GPU "
                "utilisation is used, and 80 % of it counts as 100. It is not proportional to the traffic: the HPA "
                "overshoots with it. Prefer `load`",
                100,
                is_occupancy=True,
                falls_back_to_devices=True,
            ),
            EngineMetric(
                "queue_depth",
                "queue_depth",
                "requests",
                "requests that wait in the engine's queue",
                5,
                rank_aggregation="sum",
            ),
            EngineMetric(
                "running_requests",
                "running_requests",
                "requests",
                "requests that the engine is processing",
                rank_aggregation="sum",
            ),
            EngineMetric(
                "kv_cache_usage",
                "kv_cache_usage",
                "%",
                "KV cache in use; with several ranks, that of the fullest",
                80,
                is_occupancy=True,
            ),
            EngineMetric(
                "queue_wait_ms",
                "queue_wait_ms",
                "ms",
                "mean time in the queue, over the requests that left the queue within the window",
            ),
            EngineMetric(
                "request_rate", "request_rate", "requests/s", "requests that ended successfully", rank_aggregation="sum"
            ),
            EngineMetric("token_rate", "token_rate", "tokens/s", "tokens generated", rank_aggregation="sum"),
            EngineMetric(
                "ttft_ms",
                "ttft_ms",
                "ms",
                "time to the first token: the quantile that `quantile` sets (0.95), over the requests of the window",
            ),
            EngineMetric(
                "engine",
                "engine",
                "",
                "the series that `engineMetric` selects; for a counter, its rate per second",
                rank_aggregation="sum",
            ),
            EngineMetric(
                "vllm_queue_depth",
                "queue_depth",
                "requests",
                "`queue_depth` of vLLM",
                5,
                "vllm",
                rank_aggregation="sum",
            ),
            EngineMetric(
                "vllm_kv_cache_usage",
                "kv_cache_usage",
                "%",
                "`kv_cache_usage` of vLLM",
                80,
                "vllm",
                is_occupancy=True,
            ),
            EngineMetric("triton_queue_wait_ms", "queue_wait_ms", "ms", "`queue_wait_ms` of Triton", 50, "triton"),
            EngineMetric(
                "triton_request_rate",
                "request_rate",
                "requests/s",
                "`request_rate` of Triton",
                50,
                "triton",
                rank_aggregation="sum",
            ),
        )
    }
)
"""Every metric of engines by its name."""
