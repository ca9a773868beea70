# SPDX-License-Identifier: Apache-2.0
"""What can be seen now? The nodes' recent snapshots, and whether they are fresh enough to be believed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.types import Snapshot, Unavailable

DEFAULT_WINDOW_SECONDS = 10.0
"""The history that a trigger's value is averaged over, unless it says otherwise."""
MAX_WINDOW_SECONDS = 300.0
"""As long as the HPA's default for scaling down; every sampler keeps this much history."""

PEERS_UNKNOWN = "(peers)"
"""In ``Fleet.unavailable``: nobody has said yet which peers there are."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """One node's recent snapshots, oldest first, at least one. Two are equal when they are the same object.

    ``received_at_seconds`` is when the newest of them came, on the clock of whoever asks; for the node's
    own sampler that is when it was taken. ``cache`` holds what was worked out from these snapshots, by whoever
    did, and goes when they go.
    """

    snapshots: tuple[Snapshot, ...]
    received_at_seconds: float
    cache: dict[object, Any] = field(default_factory=dict, repr=False)

    @property
    def newest(self) -> Snapshot:
        """The snapshot that was taken last."""
        return self.snapshots[-1]

    def age_seconds(self, now: float) -> float:
        """How long ago the newest snapshot came; never negative."""
        return max(0.0, now - self.received_at_seconds)

    def within(self, window_seconds: float) -> Iterator[Snapshot]:
        """Yield the newest snapshot, and before it every one taken less than ``window_seconds`` earlier.

        The window ends at the newest snapshot and not at the time of asking: asking twice gives the
        same answer.
        """
        newest = self.newest
        yield newest
        for snapshot in reversed(self.snapshots[:-1]):
            if newest.at_seconds - snapshot.at_seconds >= window_seconds:
                return
            yield snapshot


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything that is seen, of which an answer may be computed.

    ``history`` is this instance's own, None until the first snapshot. ``stale_after_seconds`` is the age from
    which a snapshot, and within a snapshot a reading, is unknown. ``deviceless`` says that this instance has no
    device by design, and ``failure`` holds the sentence that says why there is nothing newer to see here.
    ``peers`` holds the other nodes' histories by name, and ``unavailable`` says of peers that gave nothing why.
    Under ``PEERS_UNKNOWN`` it says why nobody knows yet which peers there are. ``own_node`` is this instance's node.
    ``node_labels`` are by node too; None where nobody can tell them, for want of access to the API server.
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

    def node(self, name: str) -> History | None:
        """Return what is known of a node's devices, however old."""
        if self.history is not None and not self.deviceless and self.history.newest.node == name:
            return self.history
        return self.peers.get(name)

    def nodes(self) -> list[tuple[str, History]]:
        """Every node of which something is known, and what, in the order of their names; this one among them."""
        known = dict(self.peers)
        if self.history is not None and not self.deviceless:
            known[self.history.newest.node] = self.history
        return sorted(known.items())

    def is_history_fresh(self, history: History, now: float) -> bool:
        """Whether a history is young enough to be believed."""
        return history.age_seconds(now) <= self.stale_after_seconds

    def expires_at_seconds(self, history: History) -> float:
        """Until when a history is believed, if nothing newer comes."""
        return history.received_at_seconds + self.stale_after_seconds

    def missing_reason(self, node: str, now: float) -> str:
        """Say why a node cannot be seen."""
        history = self.node(node)
        is_own = history is self.history if history is not None else self._is_own_without_history(node)
        cause = self.failure if is_own else self.unavailable.get(node)
        because = f": {cause}" if cause else ""
        if history is not None:
            age = f"last answered {history.age_seconds(now):.0f} s ago (limit {self.stale_after_seconds:g} s)"
            return f"node {node} {age}{because}"
        if is_own:
            return f"node {node}, this instance's own, has no sample yet{because}"
        return f"node {node} has told nothing{because or ': is an instance running there, and does discovery find it?'}"

    def _is_own_without_history(self, node: str) -> bool:
        return node == self.own_node and self.history is None and not self.deviceless

    def nodes_without_snapshot(self) -> Mapping[str, str]:
        """Return every node (or address, where the node is not known) that has told nothing so far: why."""
        why = {
            name: reason
            for name, reason in self.unavailable.items()
            if name != PEERS_UNKNOWN and self.node(name) is None
        }
        if self.own_node and self.node(self.own_node) is None and self._is_own_without_history(self.own_node):
            why[self.own_node] = self.failure or "it has no sample yet"
        return dict(sorted(why.items()))

    def is_fresh(self, now: float) -> bool:
        """Whether this instance has a snapshot of its own that is young enough to be believed."""
        return self.history is not None and self.is_history_fresh(self.history, now)

    def own_missing_reason(self, now: float) -> str:
        """Say why this instance sees nothing fresh of its own; meant for when ``is_fresh`` is false."""
        if self.history is not None:
            return f"no fresh sample: {self.missing_reason(self.history.newest.node, now)}"
        return "no sample yet" + (f": {self.failure}" if self.failure else "")

    def not_ready_reason(self, now: float) -> str | None:
        """Say why answers cannot be given, or None when they can.

        Ready means fresh readings, or a backend that has no device by design.
        """
        if self.deviceless:
            return None
        if self.history is None or not self.is_fresh(now):
            return self.own_missing_reason(now)
        if all(sample.has_no_reading for sample in self.history.newest.samples):
            return f"node {self.history.newest.node}: not one device gives a reading"
        return None
