# SPDX-License-Identifier: Apache-2.0
"""Logs requests that are not valid messages or not permitted, each method at most once a minute."""

import logging
from collections.abc import Callable

REPEAT_SECONDS = 60.0
"""A client may send any number of invalid messages; a method is logged once in this time."""
NOT_A_MESSAGE = "the request is not a valid message"
"""The details of the answer INVALID_ARGUMENT."""

_log = logging.getLogger(__name__)


class UndecodableLog:
    """Writes one line for the first invalid request to a method, and the number of further ones a minute later.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged_at: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def note(self, method: str, peer: str, problem: str = NOT_A_MESSAGE) -> None:
        """Note a request to one of this program's methods, from the address ``peer``, that has a problem."""
        now = self._clock()
        if now - self._logged_at.get(method, -REPEAT_SECONDS) < REPEAT_SECONDS:
            self._unlogged[method] = self._unlogged.get(method, 0) + 1
            return
        self._logged_at[method] = now
        more = self._unlogged.pop(method, 0)
        before = f"; {more} more requests since the last line" if more else ""
        _log.warning("%s from %s: %s%s", method, peer, problem, before)
