# SPDX-License-Identifier: Apache-2.0
"""The snapshots of the nodes of a simulated workload, for triggers on metrics of devices.

Law: a simulated device has the readings that a model of an engine knows: its busy time and its memory. Every other
reading is unknown, and a trigger that needs it is refused.
"""

from collections.abc import Iterable, Mapping

from keda_gpu_scaler.core.state.fleet import History, next_history
from keda_gpu_scaler.core.trigger.metrics import LOAD_OF_DEVICES, Metric
from keda_gpu_scaler.core.trigger.parser import Scope, Trigger
from keda_gpu_scaler.core.types import Allocation, Device, Sample, Snapshot, Workload
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.pods import NAMESPACE, SimulatedPod

_MEMORY_BYTES = 80 << 30
_SIMULATED = ("gpu_utilization", "memory_used_percent", LOAD_OF_DEVICES.name)


def check_device_trigger(trigger: Trigger) -> None:
    """Refuse a trigger whose devices a simulation does not have.

    Raises:
        SimulationError: with the key, and what can be simulated.
    """
    if trigger.metric.name not in _SIMULATED or not isinstance(trigger.metric, Metric):
        raise SimulationError(
            f"metadata.metricType: {trigger.metric.name}: a simulated GPU has its utilisation and its memory alone: "
            f"set {' or '.join(_SIMULATED[:2])}, or a metric of engines such as load"
        )
    if trigger.scope is Scope.NODE:
        raise SimulationError("metadata.scope: node: a simulation has no instance on a node: set workload or fleet")
    if trigger.is_narrowed:
        raise SimulationError(
            "metadata.gpuModel, gpuIndex, nodeSelector: a simulated pod has one GPU of one model: remove them"
        )


class DeviceSnapshots:
    """The recent snapshots of one GPU for each pod.

    Args:
        window_seconds: how much history is kept.
    """

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._histories: dict[str, History] = {}
        self._busy: dict[str, tuple[float, float]] = {}

    def read(self, pods: Iterable[SimulatedPod], now: float) -> None:
        """Take a snapshot of the GPU of each pod; its utilisation is that since the last one."""
        for pod in pods:
            pod.server.settle(now)
            busy = pod.server.busy_until(now)
            earlier = self._busy.get(pod.name)
            self._busy[pod.name] = (now, busy)
            if earlier is None or now <= earlier[0]:
                continue
            ratio = min(1.0, max(0.0, (busy - earlier[1]) / (now - earlier[0])))
            node = f"node-{pod.number:05d}"
            snapshot = self._snapshot(pod, node, ratio, now)
            history = self._histories.get(node)
            kept = () if history is None else history.snapshots
            begin = now - self._window_seconds
            snapshots = (*(one for one in kept if one.at_seconds > begin), snapshot)
            self._histories[node] = next_history(history, snapshots, now)

    def histories(self, workload: Workload) -> Mapping[str, History]:
        """Return the histories of the nodes of a workload, by node; those of other nodes are dropped."""
        nodes = {pod.node for pod in workload.pods}
        self._histories = {node: history for node, history in self._histories.items() if node in nodes}
        return self._histories

    def _snapshot(self, pod: SimulatedPod, node: str, ratio: float, now: float) -> Snapshot:
        uuid = f"GPU-{pod.number:05d}"
        sample = Sample(
            Device(uuid, 0, "simulated"),
            gpu_utilization_ratio=ratio,
            memory_used_bytes=int(pod.server.memory_ratio * _MEMORY_BYTES),
            memory_total_bytes=_MEMORY_BYTES,
        )
        held = Allocation(NAMESPACE, pod.name, "engine", "nvidia.com/gpu", uuid)
        return Snapshot(node, int(now), now, now, "simulated", (sample,), (held,))
