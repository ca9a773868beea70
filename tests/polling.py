# SPDX-License-Identifier: Apache-2.0
"""The pause between the calls of a test that waits for a state of another process.

A test waits for an event where there is one. Where there is none it asks again, and without a pause it takes the
processor from the process that it waits for. No test depends on the length of the pause.
"""

import time

PAUSE_SECONDS = 0.02


def pause() -> None:
    """Give the other processes time until the next question."""
    time.sleep(PAUSE_SECONDS)
