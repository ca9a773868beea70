# SPDX-License-Identifier: Apache-2.0
"""The position in a recording of engines that is played in a loop, and the addresses of its pods.

Law: with every loop each pod has another address. A counter that begins again is then one of another engine, and its
growth over the end of the recording is not known.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import replace

from keda_gpu_scaler.core.types import Pod, Unavailable, Workload
from keda_gpu_scaler.wire.engine_recording import MAX_PODS, EngineRecording, index_at

_NETWORK = ipaddress.IPv4Network("198.18.0.0/15")
"""The network for benchmarks (RFC 2544), which no cluster routes. It has an address for each pod in 511 loops."""
_LOOPS = _NETWORK.num_addresses // MAX_PODS - 1


class Playback:
    """A recording of engines that is played in a loop, from the time at which this object is made.

    Args:
        recording: the recording.
        clock: monotonic seconds.
    """

    def __init__(self, recording: EngineRecording, clock: Callable[[], float]) -> None:
        self.recording = recording
        self._clock = clock
        self._began_at_seconds = clock()
        self._numbers = {ref: number for number, ref in enumerate(recording.pods)}
        self._states: dict[tuple[str, str], tuple[tuple[int, int], Workload]] = {}

    def position(self) -> tuple[int, float]:
        """Return the number of the loop, from 0, and the time in it, on the clock of the recording."""
        loop, seconds = divmod(self._clock() - self._began_at_seconds, self.recording.duration_seconds)
        return int(loop), self.recording.begins_at_seconds + seconds

    def delay_seconds(self, loop: int, at_seconds: float) -> float:
        """Return the time until a moment of a loop, 0 where it has passed."""
        return max(0.0, self._to_clock(loop) + at_seconds - self._clock())

    def address(self, namespace: str, pod: str, loop: int) -> str:
        """Return the address of a pod in a loop; empty for a pod that the recording does not have."""
        number = self._numbers.get((namespace, pod))
        if number is None:
            return ""
        return str(_NETWORK[MAX_PODS * (1 + loop % _LOOPS) + number])

    def workload(self, namespace: str, name: str) -> Workload | Unavailable:
        """Return the state of a workload now, the same object while it does not change."""
        states = self.recording.workloads.get((namespace, name))
        if states is None:
            known = ", ".join(f"{one}/{other}" for one, other in self.recording.workloads)
            return Unavailable(f"{namespace}/{name}: the recording has {known} only", is_permanent=True)
        loop, at_seconds = self.position()
        version = (loop, max(0, index_at(states, at_seconds)))
        known_state = self._states.get((namespace, name))
        if known_state is None or known_state[0] != version:
            known_state = (version, self._played(states[version[1]].workload, loop))
            self._states[namespace, name] = known_state
        return known_state[1]

    def _to_clock(self, loop: int) -> float:
        """Return what is added to a time of the recording to have it on the clock."""
        recording = self.recording
        return self._began_at_seconds + loop * recording.duration_seconds - recording.begins_at_seconds

    def _played(self, workload: Workload, loop: int) -> Workload:
        shift = self._to_clock(loop)
        return replace(
            workload,
            pods=tuple(self._played_pod(pod, loop, shift) for pod in workload.pods),
            removed_at_seconds=workload.removed_at_seconds + shift,
        )

    def _played_pod(self, pod: Pod, loop: int, shift: float) -> Pod:
        return replace(
            pod,
            address=self.address(pod.ref.namespace, pod.ref.name, loop) if pod.address else "",
            created_at_seconds=pod.created_at_seconds + shift,
            ready_at_seconds=None if pod.ready_at_seconds is None else pod.ready_at_seconds + shift,
        )
