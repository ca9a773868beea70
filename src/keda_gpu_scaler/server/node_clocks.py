# SPDX-License-Identifier: Apache-2.0
"""Finds nodes whose wall clock differs from that of this instance, for display.

Law: no evaluation compares wall clocks. A wrong clock breaks certificates and the ages of pods, so it is
shown.
"""

from collections.abc import Iterable, Mapping

from keda_gpu_scaler.core.state.fleet import Fleet

MAX_DIFFERENCE_SECONDS = 5.0
"""A smaller difference is not shown: a snapshot may be dated a little late."""


def clock_differences(fleet: Fleet, nodes: Iterable[str], now: float, unix_seconds: float) -> Mapping[str, float]:
    """Return how far the clock of each of these nodes is ahead of this instance's, where that is several seconds.

    Args:
        fleet: the snapshots. Each is dated by the wall clock of its node, and by the monotonic clock of this instance.
        nodes: the names of nodes.
        now: monotonic seconds.
        unix_seconds: the same time on the wall clock of this instance.
    """
    differences = {}
    for node in sorted(set(nodes)):
        history = fleet.node(node)
        if history is None or history is fleet.history:
            continue
        ahead = history.newest.unix_seconds + (now - history.received_at_seconds) - unix_seconds
        if abs(ahead) > MAX_DIFFERENCE_SECONDS:
            differences[node] = ahead
    return differences
