# SPDX-License-Identifier: Apache-2.0
"""Tests of the pacer."""

import asyncio

import pytest

from keda_gpu_scaler.scrape.pacing import Pacer
from tests.scrape.virtual_time import run_in_virtual_time


class BrokenTask:
    """A scheduled task that raises an error."""

    is_needed = True

    def __init__(self) -> None:
        self.runs = 0

    async def run(self) -> None:
        self.runs += 1
        raise RuntimeError("oops")


def test_a_broken_task_does_not_end_other_tasks(caplog: pytest.LogCaptureFixture) -> None:
    async def run_broken() -> None:
        loop = asyncio.get_running_loop()
        pacer, first, second = Pacer(loop.time), BrokenTask(), BrokenTask()
        pacer.schedule(loop.time(), first)
        pacer.schedule(loop.time() + 1, second)
        pacer.schedule(loop.time() + 2, second)
        await asyncio.sleep(1.5)
        assert (first.runs, second.runs) == (1, 0), "a new time replaces the previous one"
        await asyncio.sleep(1)
        assert second.runs == 1
        await pacer.close()

    run_in_virtual_time(run_broken())
    assert [record.name for record in caplog.records if record.exc_info] == ["keda_gpu_scaler.scrape.pacing"] * 2
