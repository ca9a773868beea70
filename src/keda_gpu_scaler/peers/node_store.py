# SPDX-License-Identifier: Apache-2.0
"""The recent snapshots of every node, put together from all instances.

Law: the history of a node belongs to one machine and one boot of it, and is in the order of the machine's clock. A
source has one node, and its history has a limit in number and in bytes.
"""

import logging
from collections import deque

from keda_gpu_scaler.core.state.fleet import History, next_history
from keda_gpu_scaler.core.trigger.parser import DEFAULT_WINDOW_SECONDS
from keda_gpu_scaler.core.types import Snapshot

MAX_SNAPSHOTS = 4096
"""The limit for one node. The longest window with the shortest sample interval has 3,001 snapshots."""

MAX_HISTORY_BYTES = 32 << 20
"""The limit for one node. The history of eight devices has less than 20 MiB with the longest window and shortest
sample interval."""
_MIN_STEP_FACTOR = 0.5

_log = logging.getLogger(__name__)


class LongestWindow:
    """The longest window that was registered recently.

    A window counts for at least ``period_seconds`` and at most twice as long.
    """

    def __init__(self, period_seconds: float) -> None:
        self._period = period_seconds
        self._period_start = 0.0
        self._previous = self._current = DEFAULT_WINDOW_SECONDS

    def register(self, window_seconds: float, now: float) -> float:
        """Register a window, and return the longest one."""
        if now - self._period_start > self._period:
            self._period_start = now
            self._previous, self._current = self._current, DEFAULT_WINDOW_SECONDS
        self._current = max(self._current, window_seconds)
        return max(self._previous, self._current)


class NodeStore:
    """The history of every followed node, by name, for the last ``window_seconds``.

    Two snapshots of a history are at least half a sample interval apart by the clock of their node, and further apart
    where they are large: the kept history is then as long, and has fewer snapshots.

    Args:
        stale_after_seconds: the age at which a history becomes stale. A stale history only explains why a node is
            missing.
        sample_interval_seconds: the requested time between two snapshots of a node.
    """

    def __init__(self, stale_after_seconds: float, sample_interval_seconds: float) -> None:
        self._stale_after = stale_after_seconds
        self._min_step = _MIN_STEP_FACTOR * sample_interval_seconds
        self._snapshots: dict[str, deque[Snapshot]] = {}
        self._sources: dict[str, str] = {}
        self._nodes: dict[str, str] = {}  # by source: the inverse of the sources
        self._disputed: set[str] = set()
        self.window_seconds = 0.0
        self.histories: dict[str, History] = {}

    def add(self, source: str, snapshot: Snapshot, taken_at: float, now: float, size_bytes: int = 0) -> bool:
        """Add a snapshot, and return whether it is new and kept.

        Two instances of one node (during a rollout) read the same clock, so the later snapshot wins. A clock that
        goes back has two possible causes: the machine was rebooted, or two machines have the same name. So the
        snapshots of the earlier clock are used when they come from the same source, or when the history is stale.

        Args:
            source: the address that the snapshot came from.
            snapshot: a snapshot of the source's node.
            taken_at: when the snapshot was taken, on this instance's monotonic clock.
            now: monotonic seconds.
            size_bytes: the memory that it takes.
        """
        node = snapshot.node
        known = self._snapshots.get(node)
        if known and snapshot == known[-1]:  # a new stream starts with the last snapshot
            return False
        if known and snapshot.at_seconds <= known[-1].at_seconds:
            if not self._may_restart(node, source, now):
                self._note_dispute(node, known[-1].at_seconds - snapshot.at_seconds)
                return False
            known = None
        if known and snapshot.at_seconds - known[-1].at_seconds < self._step_seconds(size_bytes):
            return False
        if known is None:
            known = self._snapshots[node] = deque(maxlen=MAX_SNAPSHOTS)
        known.append(snapshot)
        while snapshot.at_seconds - known[0].at_seconds > self.window_seconds:
            known.popleft()
        self._set_source(node, source)
        self.histories[node] = next_history(self.histories.get(node), tuple(known), taken_at)
        return True

    def _step_seconds(self, size_bytes: int) -> float:
        """Return the least time before a snapshot. With it, the kept snapshots together are within the limit."""
        return max(self._min_step, self.window_seconds * size_bytes / MAX_HISTORY_BYTES)

    def _set_source(self, node: str, source: str) -> None:
        """Note where a node's snapshots come from. An earlier node of the same source is removed."""
        if (before := self._nodes.get(source)) not in (None, node):
            self._remove(before)
        self._nodes.pop(self._sources.get(node, ""), None)
        self._sources[node] = source
        self._nodes[source] = node

    def _note_dispute(self, node: str, difference_seconds: float) -> None:
        if difference_seconds > self._stale_after and node not in self._disputed:
            self._disputed.add(node)
            _log.warning(
                "two instances report the node name %s, and their clocks differ: give each machine its own "
                "--node-name", node,
            )  # fmt: skip

    def _may_restart(self, node: str, source: str, now: float) -> bool:
        return self._sources.get(node) == source or self.histories[node].age_seconds(now) > self._stale_after

    def expire(self, now: float, seconds: float) -> None:
        """Remove every node whose history is older than this."""
        for node, history in list(self.histories.items()):
            if history.age_seconds(now) > seconds:
                self._remove(node)

    def _remove(self, node: str) -> None:
        del self._nodes[self._sources.pop(node)]
        del self.histories[node], self._snapshots[node]
        self._disputed.discard(node)

    def clear(self) -> None:
        """Remove every node."""
        for table in (self._snapshots, self._sources, self._nodes, self.histories, self._disputed):
            table.clear()
