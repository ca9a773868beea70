# SPDX-License-Identifier: Apache-2.0
"""What can be seen now? The nodes' recent snapshots, and whether they are fresh enough to be believed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from keda_gpu_scaler.core.model import Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """One node's recent snapshots, oldest first, at least one. Two are equal when they are the same object.

    ``received_at_seconds`` is when the newest of them came, on the clock of whoever asks; for the node's
    own sampler that is when it was taken. ``memo`` holds what was worked out from these snapshots, by whoever
    did, and goes when they go.
    """

    snapshots: tuple[Snapshot, ...]
    received_at_seconds: float
    memo: dict[object, Any] = field(default_factory=dict, repr=False)

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
    """Everything an answer may be computed from.

    ``history`` is None until the first snapshot. ``stale_after_seconds`` is the age from which a snapshot,
    and within a snapshot a reading, is unknown. ``deviceless`` says that there is no device by design, and
    ``failure`` holds the sentence that says why there is nothing newer to see.
    """

    history: History | None
    stale_after_seconds: float
    deviceless: bool = False
    failure: str | None = None

    def is_fresh(self, now: float) -> bool:
        """Whether there is a snapshot young enough to be believed."""
        return self.history is not None and self.history.age_seconds(now) <= self.stale_after_seconds

    def blindness(self, now: float) -> str:
        """Say why nothing fresh is to be seen; meant for when ``is_fresh`` is false."""
        cause = f": {self.failure}" if self.failure else ""
        if self.history is None:
            return f"no sample yet{cause}"
        return (
            f"no fresh sample: node {self.history.newest.node} last answered {self.history.age_seconds(now):.0f} s ago "
            f"(limit {self.stale_after_seconds:g} s){cause}"
        )

    def unready(self, now: float) -> str | None:
        """Say why answers cannot be given, or None when they can.

        Ready means fresh readings, or a backend that has no device by design.
        """
        if self.deviceless:
            return None
        if self.history is None or not self.is_fresh(now):
            return self.blindness(now)
        if all(sample.is_blind for sample in self.history.newest.samples):
            return f"node {self.history.newest.node}: not one device gives a reading"
        return None
