# SPDX-License-Identifier: Apache-2.0
"""What did every node tell lately? Snapshots from many instances, put together node by node.

The law of this module: a node's history is of one machine and one run of it, in the order in which it was lived.
"""

import logging
from collections import deque

from keda_gpu_scaler.core.state.fleet import DEFAULT_WINDOW_SECONDS, History
from keda_gpu_scaler.core.types import Snapshot

MAX_SNAPSHOTS = 4096
"""Of one node; the longest window sampled at the shortest interval has 3,001."""

_log = logging.getLogger(__name__)


class LongestWindow:
    """The longest window that somebody asked for lately: in the last so many seconds, or twice as many at most."""

    def __init__(self, lately_seconds: float) -> None:
        self._lately = lately_seconds
        self._since = 0.0
        self._before = self._now = DEFAULT_WINDOW_SECONDS

    def ask(self, window_seconds: float, now: float) -> float:
        """Note another question, and return the longest."""
        if now - self._since > self._lately:
            self._since = now
            self._before, self._now = self._now, DEFAULT_WINDOW_SECONDS
        self._now = max(self._now, window_seconds)
        return max(self._before, self._now)


class NodeStore:
    """The followed nodes' histories, by name, as far back as ``window_seconds``.

    Args:
        stale_after_seconds: from which age on a history is of no use to anybody but whoever asks what became of it.
    """

    def __init__(self, stale_after_seconds: float) -> None:
        self._stale_after = stale_after_seconds
        self._snapshots: dict[str, deque[Snapshot]] = {}
        self._told_by: dict[str, str] = {}
        self._disputed: set[str] = set()
        self.window_seconds = 0.0
        self.histories: dict[str, History] = {}

    def take(self, teller: str, snapshot: Snapshot, received_at: float, now: float) -> bool:
        """Add what an instance told about its node; return whether it was news.

        Two instances of one node (one being replaced by the other) read the same clock, so the later snapshot wins,
        whoever tells it. Where the clock went back the machine was started anew, or there are two machines of one
        name: the new run is believed once the old one is silent.
        """
        node = snapshot.node
        known = self._snapshots.get(node)
        if known and snapshot == known[-1]:  # told once more, by a stream that was opened anew
            return False
        if known and snapshot.at_seconds <= known[-1].at_seconds and not self._may_start_anew(node, teller, now):
            if snapshot.at_seconds < known[-1].at_seconds - self._stale_after and node not in self._disputed:
                self._disputed.add(node)
                _log.warning(
                    "two instances say that they are node %s, and their clocks differ: give each machine a --node-name "
                    "of its own", node,
                )  # fmt: skip
            return False
        if known is None or snapshot.at_seconds <= known[-1].at_seconds:
            known = self._snapshots[node] = deque(maxlen=MAX_SNAPSHOTS)
        known.append(snapshot)
        while snapshot.at_seconds - known[0].at_seconds > self.window_seconds:
            known.popleft()
        self._told_by[node] = teller
        self.histories[node] = History(tuple(known), received_at)
        return True

    def _may_start_anew(self, node: str, teller: str, now: float) -> bool:
        return self._told_by.get(node) == teller or self.histories[node].age_seconds(now) > self._stale_after

    def forget_since(self, now: float, seconds: float) -> None:
        """Drop every node that was silent for so long."""
        for node, history in list(self.histories.items()):
            if history.age_seconds(now) > seconds:
                del self.histories[node], self._snapshots[node], self._told_by[node]

    def clear(self) -> None:
        """Forget everything."""
        for table in (self._snapshots, self._told_by, self.histories, self._disputed):
            table.clear()
