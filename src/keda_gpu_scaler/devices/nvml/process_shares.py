# SPDX-License-Identifier: Apache-2.0
"""Reads what the processes of each pod use of a GPU, and finds the pod of a process by its cgroup.

Law: a process belongs to a pod only where its cgroup says so. Every other process is listed without a pod, and a GPU
of which the driver does not return the processes has no uses and a reason. Neither costs the GPU another reading.

``nvmlDeviceGetProcessUtilization`` returns the processes with a utilisation above 0 since a time, and NOT_FOUND where
there is none. It is not supported on a GPU in MIG mode (nvml.h of CUDA 12). Drivers also return processes that have
ended, and ratios above 100 % with old times, which nvtop filters out too (src/extract_gpuinfo_nvidia.c). NVML numbers
processes as the PID namespace of the caller does, and leaves out those that it does not have.

The cgroup of a pod has the pod's UID in its name, with containerd and CRI-O alike: kubepods/burstable/pod<UID>/… with
the kubelet's cgroup driver "cgroupfs", and …/kubepods-burstable-pod<UID with underscores>.slice/… with "systemd". In a
container with a cgroup namespace of its own the path of another pod begins with "/../".
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from keda_gpu_scaler.core.pod_use import PROCESS_UTILIZATION, PodUse
from keda_gpu_scaler.devices.failure_log import ReadingProblem
from keda_gpu_scaler.devices.nvml.driver import NvmlDriver
from keda_gpu_scaler.devices.nvml.errors import CALL_NOT_AVAILABLE, NOT_FOUND, ReadingError, call_twice
from keda_gpu_scaler.devices.nvml.gpu import IMPOSSIBLE_BYTES, DeviceReading, problem_of

PROC = Path("/proc")
_MAX_CGROUP_BYTES = 16384
_POD = re.compile(
    r"(?:^|[/-])pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=/|\.slice|$)", re.ASCII
)
_MPS_SERVER = "nvidia-cuda-mps"  # the kernel keeps 15 letters of nvidia-cuda-mps-server
_SUCCESS = 0
_OF_A_SLICE = ReadingProblem("NVML has no utilisation of processes in MIG mode", is_lasting=True)
_NOT_HOST = ReadingProblem(
    "the processes of other pods are not visible: needs hostPID (chart: measureShares)", is_lasting=True
)
_MPS = ReadingProblem("an MPS server runs on it, and does the work of its clients")


@dataclass(slots=True)
class _GpuState:
    """What is kept of a GPU between two reads: the time of its newest sample, and the pods of its processes."""

    last_seen_microseconds: int = 0
    pods: Mapping[int, str] = field(default_factory=dict)


class ProcessShares:
    """Reads the use of GPUs by pods. Reader threads call it, one thread for each GPU at a time.

    Args:
        driver: the driver, which is open.
        proc: the folder at which the kernel's proc is mounted.
    """

    def __init__(self, driver: NvmlDriver, proc: Path = PROC) -> None:
        self._driver = driver
        self._proc = proc
        self._states: dict[str, _GpuState] = {}

    def add_to(self, reading: DeviceReading, handle: Any) -> DeviceReading:
        """Return the reading of a device with what pods use of it, or with the reason why that is not known.

        Raises:
            GpuLostError: the GPU is lost.
            DriverLostError: the driver is lost.
        """
        device = reading.sample.device
        if "" in reading.problems:
            return reading
        if device.parent is not None:
            return _with_problem(reading, _OF_A_SLICE)
        if not self._is_host():
            return _with_problem(reading, _NOT_HOST)
        try:
            found = self._read(handle, self._states.setdefault(device.uuid, _GpuState()))
        except ReadingError as error:
            return _with_problem(reading, problem_of(error))
        if isinstance(found, ReadingProblem):
            return _with_problem(reading, found)
        return replace(reading, sample=replace(reading.sample, uses=found))

    def _read(self, handle: Any, state: _GpuState) -> tuple[PodUse, ...] | ReadingProblem:
        memory = self._running(handle)
        if any(_text(self._proc / str(pid) / "comm").startswith(_MPS_SERVER) for pid in memory):
            return _MPS
        cgroups = {pid: _text(self._proc / str(pid) / "cgroup") for pid in memory}
        # A process may end between two calls. Then its pod is the one that it had in the read before. A cgroup that can
        # be read always counts, because the number may be another process's by now.
        pods = {pid: pod_uid(text) if text else state.pods.get(pid, "") for pid, text in cgroups.items()}
        uses = [PodUse(pods[pid], 0.0, 0.0, used) for pid, used in memory.items()]
        for pid, sample in self._utilization(handle, state).items():
            uid = pods[pid] if pid in pods else state.pods.get(pid, "")
            uses.append(PodUse(uid, sample.smUtil / 100, sample.memUtil / 100, 0))
        state.pods = pods
        return sum_uses(uses)

    def _running(self, handle: Any) -> dict[int, int | None]:
        """Return the memory of every process on the GPU, by its number."""
        nvml = self._driver.nvml
        found: dict[int, int | None] = {}
        for process in call_twice(nvml.nvmlDeviceGetComputeRunningProcesses, handle):
            found[int(process.pid)] = _memory(process.usedGpuMemory)
        try:
            graphics = call_twice(nvml.nvmlDeviceGetGraphicsRunningProcesses, handle)
        except ReadingError as error:
            if error.code not in CALL_NOT_AVAILABLE:
                raise
            graphics = []  # without this list, a process that only draws is one of no known pod once it is at work
        for process in graphics:
            found.setdefault(int(process.pid), _memory(process.usedGpuMemory))
        return found

    def _utilization(self, handle: Any, state: _GpuState) -> dict[int, Any]:
        """Return the newest sample of every process with a utilisation since the read before, by its number."""
        last_seen = state.last_seen_microseconds
        try:
            samples = call_twice(self._driver.nvml.nvmlDeviceGetProcessUtilization, handle, last_seen)
        except ReadingError as error:
            if error.code not in (NOT_FOUND, _SUCCESS):  # the binding raises SUCCESS for an empty list
                raise
            return {}
        newest: dict[int, Any] = {}
        for sample in samples:
            if sample.timeStamp <= last_seen or sample.smUtil > 100 or sample.memUtil > 100:
                continue
            known = newest.get(int(sample.pid))
            if known is None or sample.timeStamp > known.timeStamp:
                newest[int(sample.pid)] = sample
        state.last_seen_microseconds = max([last_seen, *(int(sample.timeStamp) for sample in newest.values())])
        return newest

    def _is_host(self) -> bool:
        """Whether processes of other containers are visible. Without hostPID, process 1 is in this container."""
        return _text(self._proc / "1" / "cgroup") != _text(self._proc / "self" / "cgroup")


def pod_uid(cgroup: str) -> str:
    """Return the UID of the pod of a process, empty where it is in no pod.

    The outermost pod of a path counts: a container may make cgroups of any name within its own.

    Args:
        cgroup: the text of /proc/PID/cgroup, with one line (version 2) or one for each controller (version 1).
    """
    found: set[str] = set()
    for line in cgroup.splitlines():
        path = line.split(":", 2)[-1]
        if match := _POD.search(path):
            found.add(match[1].replace("_", "-"))
    return found.pop() if len(found) == 1 else ""


def sum_uses(uses: Iterable[PodUse]) -> tuple[PodUse, ...]:
    """Return the uses of processes added up by pod, sorted, each pod once."""
    found: dict[str, PodUse] = {}
    for use in uses:
        known = found.get(use.pod_uid)
        found[use.pod_uid] = use if known is None else _sum(known, use)
    return tuple(sorted(found.values(), key=lambda use: use.pod_uid))


def _sum(one: PodUse, other: PodUse) -> PodUse:
    memory = None
    if one.memory_bytes is not None and other.memory_bytes is not None:
        memory = one.memory_bytes + other.memory_bytes
    return PodUse(
        one.pod_uid,
        one.sm_ratio + other.sm_ratio,
        one.memory_utilization_ratio + other.memory_utilization_ratio,
        memory,
    )


def _memory(used: int | None) -> int | None:
    return used if used is not None and 0 <= used < IMPOSSIBLE_BYTES else None


def _with_problem(reading: DeviceReading, problem: ReadingProblem) -> DeviceReading:
    return replace(reading, problems={**reading.problems, PROCESS_UTILIZATION: problem})


def _text(path: Path) -> str:
    """Return the start of a small file, empty where it cannot be read: the process has ended."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_CGROUP_BYTES).decode("ascii", "replace")
    except OSError:
        return ""
