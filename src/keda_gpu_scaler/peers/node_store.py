# SPDX-License-Identifier: Apache-2.0
"""The recent snapshots of every node, put together from all instances.

Law: the history of a node belongs to one machine and one boot of it, and is in the order of the machine's clock.
"""

import logging
from collections import deque

from keda_gpu_scaler.core.state.fleet import History, next_history
from keda_gpu_scaler.core.trigger.parser import DEFAULT_WINDOW_SECONDS
from keda_gpu_scaler.core.types import Snapshot

MAX_SNAPSHOTS = 4096
"""The limit for one node. The longest window with the shortest sample interval has 3,001 snapshots."""

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

    Args:
        stale_after_seconds: the age at which a history becomes stale. A stale history only explains why a node is
            missing.
    """

    def __init__(self, stale_after_seconds: float) -> None:
        self._stale_after = stale_after_seconds
        self._snapshots: dict[str, deque[Snapshot]] = {}
        self._sources: dict[str, str] = {}
        self._disputed: set[str] = set()
        self.window_seconds = 0.0
        self.histories: dict[str, History] = {}

    def add(self, source: str, snapshot: Snapshot, received_at: float, now: float) -> bool:
        """Add a snapshot, and return whether it is new.

        Two instances of one node (during a rollout) read the same clock, so the later snapshot wins. A clock that
        goes back has two possible causes: the machine was rebooted, or two machines have the same name. So the
        snapshots of the earlier clock are used when they come from the same source, or when the history is stale.

        Args:
            source: the address that the snapshot came from.
            snapshot: a snapshot of the source's node.
            received_at: when the snapshot was taken, on this instance's monotonic clock.
            now: monotonic seconds.
        """
        node = snapshot.node
        known = self._snapshots.get(node)
        if known and snapshot == known[-1]:  # a new stream starts with the last snapshot
            return False
        if known and snapshot.at_seconds <= known[-1].at_seconds and not self._may_restart(node, source, now):
            if snapshot.at_seconds < known[-1].at_seconds - self._stale_after and node not in self._disputed:
                self._disputed.add(node)
                _log.warning(
                    "two instances report the node name %s, and their clocks differ: give each machine its own "
                    "--node-name", node,
                )  # fmt: skip
            return False
        if known is None or snapshot.at_seconds <= known[-1].at_seconds:
            known = self._snapshots[node] = deque(maxlen=MAX_SNAPSHOTS)
        known.append(snapshot)
        while snapshot.at_seconds - known[0].at_seconds > self.window_seconds:
            known.popleft()
        self._sources[node] = source
        self.histories[node] = next_history(self.histories.get(node), tuple(known), received_at)
        return True

    def _may_restart(self, node: str, source: str, now: float) -> bool:
        return self._sources.get(node) == source or self.histories[node].age_seconds(now) > self._stale_after

    def expire(self, now: float, seconds: float) -> None:
        """Remove every node whose history is older than this."""
        for node, history in list(self.histories.items()):
            if history.age_seconds(now) > seconds:
                del self.histories[node], self._snapshots[node], self._sources[node]

    def clear(self) -> None:
        """Remove every node."""
        for table in (self._snapshots, self._sources, self.histories, self._disputed):
            table.clear()
