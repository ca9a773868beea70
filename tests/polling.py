# SPDX-License-Identifier: Apache-2.0
"""The pause between the calls of a test that waits for a state of another process.

A test waits for an event where there is one. Where there is none it asks again, and without a pause it takes the
processor from the process that it waits for. No test depends on the length of the pause.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

PAUSE_SECONDS = 0.02


def pause() -> None:
    """Give the other processes time until the next question."""
    time.sleep(PAUSE_SECONDS)


@contextlib.contextmanager
def interrupted_when(condition: Callable[[], object]) -> Iterator[None]:
    """Press Ctrl-C once a condition is true: it ends the command that runs in the block, in this process."""
    is_over = threading.Event()

    def watch() -> None:
        while not condition():
            if is_over.wait(PAUSE_SECONDS):
                return
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
