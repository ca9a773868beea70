# SPDX-License-Identifier: Apache-2.0
"""Ends a recording at a stop signal, even if a write hangs."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE_SECONDS = 1.0
"""Time limit of a write that is in progress when the stop signal arrives."""

_ALARM_SECONDS = 0.25


class WriteAborted(BaseException):  # as KeyboardInterrupt: no handler of errors must catch it
    """The stop signal arrived, and a write still hangs one second later."""


@contextmanager
def stop_signals(on_stop: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Let SIGTERM and SIGINT call ``on_stop``, and abort a call in this block that hangs ``GRACE_SECONDS`` longer.

    The grace period lets a write finish that does not hang. An alarm is raised several times a second, because a
    signal that arrives just before a call blocks does not interrupt this call.

    The block gets a function that ends this: it is called when no write is left that could hang.

    Raises:
        WriteAborted: in the call that hangs. If closing the file hangs too, it is aborted in the same way.
    """
    abort_at, is_armed = math.inf, True

    def stop(*_: object) -> None:
        nonlocal abort_at
        if is_armed:
            abort_at = min(abort_at, time.monotonic() + GRACE_SECONDS)
        on_stop()

    def alarm(*_: object) -> None:
        if time.monotonic() >= abort_at:
            raise WriteAborted

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGALRM: alarm}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    signal.setitimer(signal.ITIMER_REAL, _ALARM_SECONDS, _ALARM_SECONDS)

    def disarm() -> None:
        nonlocal abort_at, is_armed
        abort_at, is_armed = math.inf, False

    try:
        yield disarm
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
