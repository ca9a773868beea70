# SPDX-License-Identifier: Apache-2.0
"""Recent snapshots of every node, and whether they are fresh."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from keda_gpu_scaler.core.state.data_run import DataRun
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.types import KUBELET_ONLY, ClusterAssignments, Snapshot, Unavailable

MAX_WINDOW_SECONDS = 300.0
"""As long as the HPA's default for scaling down; every sampler keeps this much history."""

PEERS_UNKNOWN = "(peers)"
"""Key in ``Fleet.unavailable`` while discovery has not listed the peers yet."""

NOT_ANSWERED_YET = "it has not answered yet"
"""The reason in ``Fleet.unavailable`` of a peer that is called for the first time."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """One node's recent snapshots, oldest first, at least one. Two histories are equal only if they are one object.

    ``received_at_seconds`` is when the newest snapshot was taken, on the clock of this instance. A snapshot that was
    delayed is dated by the clock of its peer and not by its arrival. ``run`` is the time without a long gap to which
    the newest snapshot belongs. ``allocated_at_seconds`` is when the newest snapshot with known allocations was taken,
    None where none is known.
    ``cache`` holds results that were computed from these snapshots. It is dropped with them. ``holders`` has results of
    the newest snapshot's devices and allocations alone. The next history keeps it while both are the same.
    """

    snapshots: tuple[Snapshot, ...]
    received_at_seconds: float
    run: DataRun | None = None
    allocated_at_seconds: float | None = None
    cache: dict[object, Any] = field(default_factory=dict, repr=False)
    holders: dict[object, Any] = field(default_factory=dict, repr=False)

    @property
    def newest(self) -> Snapshot:
        """The snapshot that was taken last."""
        return self.snapshots[-1]

    def age_seconds(self, now: float) -> float:
        """Return how long ago the newest snapshot was taken; never negative."""
        return max(0.0, now - self.received_at_seconds)

    def within(self, window_seconds: float) -> Iterator[Snapshot]:
        """Yield the newest snapshot, and before it every snapshot that was taken less than ``window_seconds`` earlier.

        The window ends at the newest snapshot and not at the time of the call. A second call gives the same answer.
        """
        newest = self.newest
        yield newest
        for snapshot in reversed(self.snapshots[:-1]):
            if newest.at_seconds - snapshot.at_seconds >= window_seconds:
                return
            yield snapshot


def next_history(previous: History | None, snapshots: tuple[Snapshot, ...], received_at_seconds: float) -> History:
    """Return a node's history after another snapshot came.

    Args:
        previous: the history before it, None for the first one.
        snapshots: the snapshots that are kept, the new one last.
        received_at_seconds: when it was taken, on the monotonic clock of this instance.
    """
    run, allocated_at, holders = DataRun(received_at_seconds), None, None
    if previous is not None:
        allocated_at = previous.allocated_at_seconds
        if _is_held_alike(previous.newest, snapshots[-1]):
            holders = previous.holders
        if previous.run is not None:
            run = previous.run.continued(previous.received_at_seconds, received_at_seconds)
    if snapshots[-1].allocations is not None:
        allocated_at = received_at_seconds
    return History(snapshots, received_at_seconds, run, allocated_at, holders={} if holders is None else holders)


def _is_held_alike(before: Snapshot, after: Snapshot) -> bool:
    """Whether two snapshots of a node are equal in what says who holds which device: devices, memory, allocations.

    Snapshots share these objects while they are the same, so they are not compared by their content.
    """
    if after.allocations is not before.allocations or len(after.samples) != len(before.samples):
        return False
    for one, other in zip(before.samples, after.samples, strict=True):
        if one.device is not other.device or one.memory_total_bytes != other.memory_total_bytes:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Fleet:
    """The snapshots and scrape results that an evaluation is computed from.

    ``history`` is this instance's own, None until the first snapshot. ``stale_after_seconds`` is the age from which a
    snapshot, and a reading within a snapshot, is unknown. ``deviceless`` says that this instance has no device by
    design, and ``failure`` says why there is no newer snapshot of its own. ``peers`` has the histories of the other
    nodes by name. ``unavailable`` says why a peer has sent no snapshot, by node, or by address where the node is not
    known; under ``PEERS_UNKNOWN`` it says why the peers are not listed yet. ``own_node`` is the node of this instance.
    ``node_labels`` are by node, or the reason why they are not known; None without access to the API server.
    ``assignments`` are those of the workload that is evaluated.
    ``started_at_seconds`` is when this instance started: before, it could not receive any data.
    """

    history: History | None
    stale_after_seconds: float
    deviceless: bool = False
    failure: str | None = None
    peers: Mapping[str, History] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    node_labels: Mapping[str, Mapping[str, str]] | Unavailable | None = None
    own_node: str = ""
    scrape_results: Mapping[Endpoint, ScrapeResult] = field(default_factory=dict)
    assignments: ClusterAssignments = KUBELET_ONLY
    started_at_seconds: float = -math.inf

    def node(self, name: str) -> History | None:
        """Return the history of a node, also where it is stale; None where there is none."""
        if self.history is not None and not self.deviceless and self.history.newest.node == name:
            return self.history
        return self.peers.get(name)

    def nodes(self) -> list[tuple[str, History]]:
        """Return every node with a history, in the order of their names, the node of this instance included."""
        known = dict(self.peers)
        if self.history is not None and not self.deviceless:
            known[self.history.newest.node] = self.history
        return sorted(known.items())

    def is_history_fresh(self, history: History, now: float) -> bool:
        """Whether the newest snapshot of a history is not stale."""
        return history.age_seconds(now) <= self.stale_after_seconds

    def expires_at_seconds(self, history: History) -> float:
        """Return when a history becomes stale, if no newer snapshot comes."""
        return history.received_at_seconds + self.stale_after_seconds

    def missing_reason(self, node: str, now: float) -> str:
        """Say why a node has no fresh snapshot."""
        history = self.node(node)
        is_own = history is self.history if history is not None else self._is_own_without_history(node)
        cause = self.failure if is_own else self._peer_failure(node)
        suffix = f": {cause}" if cause else ""
        if history is not None:
            age = f"last answered {history.age_seconds(now):.0f} s ago (limit {self.stale_after_seconds:g} s)"
            return f"node {node} {age}{suffix}"
        if is_own:
            return f"node {node}, the node of this instance, has no sample yet{suffix}"
        return f"node {node} has no snapshot{suffix or ': is an instance running there, and does discovery find it?'}"

    def is_first_call(self, node: str) -> bool:
        """Whether the peer on a node without a history, or one whose node is not known yet, has not answered yet."""
        if node in self.unavailable:
            return self.unavailable[node] == NOT_ANSWERED_YET
        return NOT_ANSWERED_YET in self._of_unknown_nodes().values()

    def _peer_failure(self, node: str) -> str:
        """Return why the peer on a node sends nothing; empty where no peer can be the one of the node.

        A peer whose node is not known may be the one of any node without a history.
        """
        if node in self.unavailable:
            return self.unavailable[node]
        unknown = self._of_unknown_nodes() if self.node(node) is None else {}
        if not unknown:
            return ""
        address = min(unknown, key=lambda one: (not _names_node(one, node), unknown[one] == NOT_ANSWERED_YET, one))
        if len(unknown) == 1 or _names_node(address, node):
            return f"{address}, whose node is not known: {unknown[address]}"
        return f"{address} and {len(unknown) - 1} more, whose nodes are not known: {unknown[address]}"

    def _of_unknown_nodes(self) -> Mapping[str, str]:
        """Return the unavailable peers whose node is not known, by address. A node's name has no colon."""
        return {name: reason for name, reason in self.unavailable.items() if ":" in name}

    def _is_own_without_history(self, node: str) -> bool:
        return node == self.own_node and self.history is None and not self.deviceless

    def nodes_without_snapshot(self) -> Mapping[str, str]:
        """Return every node without a snapshot (or its address, where the node is not known), and why."""
        why = {
            name: reason
            for name, reason in self.unavailable.items()
            if name != PEERS_UNKNOWN and self.node(name) is None
        }
        if self.own_node and self.node(self.own_node) is None and self._is_own_without_history(self.own_node):
            why[self.own_node] = self.failure or "it has no sample yet"
        return dict(sorted(why.items()))

    def is_fresh(self, now: float) -> bool:
        """Whether this instance has a fresh snapshot of its own."""
        return self.history is not None and self.is_history_fresh(self.history, now)

    def own_missing_reason(self, now: float) -> str:
        """Say why this instance has no fresh snapshot of its own, where ``is_fresh`` is false."""
        if self.history is not None:
            return f"no fresh sample: {self.missing_reason(self.history.newest.node, now)}"
        return "no sample yet" + (f": {self.failure}" if self.failure else "")

    def not_ready_reason(self, now: float) -> str | None:
        """Say why this instance is not ready, or return None where it is.

        An instance is ready if it has fresh readings, or if it has no device by design.
        """
        if self.deviceless:
            return None
        if self.history is None or not self.is_fresh(now):
            return self.own_missing_reason(now)
        samples = self.history.newest.samples
        if not any(sample.has_reading for sample in samples):
            failures = [(sample.device.index, failure) for sample in samples for failure in sample.failures[:1]]
            why = f": GPU {failures[0][0]}: {failures[0][1].reason}" if failures else ""
            return f"node {self.history.newest.node}: no device has a reading{why}"
        return None


def _names_node(address: str, node: str) -> bool:
    """Whether the host of an address is the name of a node, with or without a domain."""
    host = address.rpartition(":")[0]
    is_ip_address = host.startswith("[") or host.replace(".", "").isdigit()
    return host == node or (not is_ip_address and host.partition(".")[0] == node.partition(".")[0])
