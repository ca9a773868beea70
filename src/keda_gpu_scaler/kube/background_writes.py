# SPDX-License-Identifier: Apache-2.0
"""Writes to the API server in tasks of their own, at a limited rate, with a pause after a refusal.

Law: no caller waits for a write, and no failure of one prevents the next. A failure is logged once.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.core.token_bucket import TokenBucket
from keda_gpu_scaler.kube.client import ApiError

FORBIDDEN_PAUSE_SECONDS = 600.0
"""How long nothing is written after the API server has forbidden it: an operator must change something."""

_log = logging.getLogger(__name__)


class BackgroundWrites:
    """The writes of one kind. ``running`` has those that have not ended; ``limit`` is their rate.

    Args:
        what: the subject of the log line, such as "an event".
        remedy: what to grant where the API server forbids a write.
        limit: the rate of the writes.
        clock: monotonic seconds.
    """

    def __init__(self, what: str, remedy: str, limit: TokenBucket, clock: Callable[[], float]) -> None:
        self._what = what
        self._remedy = remedy
        self._clock = clock
        self._paused_until = float("-inf")
        self._failure = ""
        self.limit = limit
        self.running: set[asyncio.Task[None]] = set()

    def is_paused(self, now: float) -> bool:
        """Whether a write was forbidden recently."""
        return now < self._paused_until

    def start(self, write: Coroutine[Any, Any, bool], name: str) -> None:
        """Start a write, which returns whether it got its answer; to be called in the event loop."""
        task = asyncio.create_task(self._run(write), name=name)
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def close(self) -> None:
        """Cancel what is being written."""
        tasks = tuple(self.running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, write: Coroutine[Any, Any, bool]) -> None:
        try:
            if await write:
                self._failure = ""
        except KubeError as error:
            self._record_failure(error)
        except Exception:  # an unexpected response must not prevent the next write
            _log.exception("%s cannot be written", self._what)

    def _record_failure(self, error: KubeError) -> None:
        is_permanent = isinstance(error, ApiError) and error.is_permanent
        if is_permanent:
            self._paused_until = self._clock() + FORBIDDEN_PAUSE_SECONDS
        if str(error) != self._failure:
            remedy = f"; {self._remedy}" if is_permanent else ""
            _log.warning("%s cannot be written: %s%s", self._what, error, remedy)
        self._failure = str(error)
