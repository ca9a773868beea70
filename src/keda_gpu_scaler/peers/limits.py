# SPDX-License-Identifier: Apache-2.0
"""Limits of one peer: its rate, the size of its snapshots and its clock.

Law: no peer, whatever it sends, takes more than a fixed amount of memory and of the event loop's time.
"""

from keda_gpu_scaler.core.token_bucket import TokenBucket
from keda_gpu_scaler.core.types import Snapshot

MAX_MESSAGE_BYTES = 1 << 20
"""The limit of one update. A snapshot of 512 devices with their assignments has half of it."""
MAX_DEVICES = 512
"""The limit of one peer. Sixteen GPUs of seven slices each are 128 devices."""
MAX_PEER_ALLOCATIONS = 4096
"""The limit of one peer. The kubelet runs a few hundred pods at most."""

_MIN_INTERVAL_FACTOR = 0.5  # a peer may send updates twice as often as requested
_FIRST_MESSAGES = 5
_SAVED_MESSAGES = 60  # after a pause of the event loop the updates of the pause come at once
_BYTES_PER_SECOND, _SAVED_BYTES = 256 << 10, 2 << 20
# NTP changes the speed of a monotonic clock by at most 500 ppm, on both sides.
_MAX_DRIFT = 0.001


class PeerError(Exception):
    """A peer exceeds a limit. The message is a sentence."""


class RateLimit:
    """The number and the bytes of the updates of one stream.

    A stream above the limit ends. It is not slowed down, because the updates that wait in a slow stream are old.

    Args:
        interval_seconds: the requested time between two updates.
        now: monotonic seconds.
    """

    def __init__(self, interval_seconds: float, now: float) -> None:
        self._interval = interval_seconds
        refill_seconds = _MIN_INTERVAL_FACTOR * interval_seconds
        self._messages = TokenBucket(_SAVED_MESSAGES, refill_seconds, now, first=_FIRST_MESSAGES)
        self._bytes = TokenBucket(_SAVED_BYTES, 1 / _BYTES_PER_SECOND, now)

    def check(self, message: bytes, now: float) -> None:
        """Count one update.

        Raises:
            PeerError: there are too many, or they are too long.
        """
        if not self._messages.take(1, now):
            raise PeerError(f"it sends more often than every {_MIN_INTERVAL_FACTOR * self._interval:g} s")
        if not self._bytes.take(len(message), now):
            raise PeerError(f"it sends more than {_BYTES_PER_SECOND} bytes a second")


class PeerClock:
    """Converts the clock of a peer to the clock of this instance, for one stream.

    The difference of the two clocks is constant, but for a small drift. An update that was delayed on its way seems to
    have a larger difference. So the smallest difference of a stream is the true one, and a snapshot is dated by it: a
    snapshot that waited in the stream is as old as it is, and not as old as the peer said when it sent it.

    Args:
        max_delay_seconds: the limit of the delay of any update, the first one included.
    """

    def __init__(self, max_delay_seconds: float) -> None:
        self._max_delay = max_delay_seconds
        self._first: tuple[float, float] | None = None  # the first difference, and when it was measured
        self._difference = self._measured_at = 0.0
        self._last = 0.0

    def to_local(self, at_seconds: float, age_seconds: float, now: float) -> float:
        """Return when a snapshot was taken, on the clock of this instance.

        Args:
            at_seconds: when it was taken, on the clock of the peer.
            age_seconds: its age when it was sent.
            now: when it was received, in monotonic seconds.

        Raises:
            PeerError: the clock of the peer goes back, runs ahead or stands still.
        """
        difference = now - age_seconds - at_seconds
        if self._first is None:
            self._first, self._difference = (difference, now), difference
        elif at_seconds < self._last:
            raise PeerError(f"its clock went back by {self._last - at_seconds:.3g} s")
        first, first_at = self._first
        if first - difference > self._max_delay + _MAX_DRIFT * (now - first_at):
            raise PeerError(f"its clock ran ahead by {first - difference:.3g} s (limit {self._max_delay:g} s)")
        self._difference = min(difference, self._difference + _MAX_DRIFT * (now - self._measured_at))
        self._measured_at, self._last = now, at_seconds
        if difference - self._difference > self._max_delay:
            raise PeerError(
                f"by its clock, what it sends is {difference - self._difference:.3g} s late "
                f"(limit {self._max_delay:g} s): does its clock stand still?"
            )
        return self._difference + at_seconds


def check_size(snapshot: Snapshot) -> None:
    """Check the size of a peer's snapshot.

    Raises:
        PeerError: it has too many devices or allocations.
    """
    if len(snapshot.samples) > MAX_DEVICES:
        raise PeerError(f"it reports {len(snapshot.samples)} devices (limit {MAX_DEVICES})")
    if len(snapshot.allocations or ()) > MAX_PEER_ALLOCATIONS:
        raise PeerError(f"it reports {len(snapshot.allocations or ())} allocations (limit {MAX_PEER_ALLOCATIONS})")
