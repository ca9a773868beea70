# SPDX-License-Identifier: Apache-2.0
"""Notes since when data has come without a long gap."""

from dataclasses import dataclass

LONGEST_GAP_SECONDS = 30.0
"""KEDA's default for ``pollingInterval``: a shorter gap makes at most one poll fail."""


@dataclass(frozen=True, slots=True)
class DataRun:
    """A time in which data came without a gap of more than ``LONGEST_GAP_SECONDS``; monotonic seconds.

    ``since_seconds`` is when it began. ``before_seconds`` is when the last data came before it, None where none is
    known.
    """

    since_seconds: float
    before_seconds: float | None = None

    def continued(self, last_seconds: float, at_seconds: float) -> "DataRun":
        """Return the run that data belongs to.

        Args:
            last_seconds: when the last data of this run came.
            at_seconds: when the new data came.
        """
        return self if at_seconds - last_seconds <= LONGEST_GAP_SECONDS else DataRun(at_seconds, last_seconds)
