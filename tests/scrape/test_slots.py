# SPDX-License-Identifier: Apache-2.0
"""Tests of the slots of slow targets, in virtual time."""

import asyncio

from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.scrape_pace import MAX_PAUSE_SECONDS
from keda_gpu_scaler.scrape.slots import COSTLY_CONCURRENCY, COSTLY_PAGE_SECONDS, SLOW_AFTER_SECONDS, FetchSlots
from keda_gpu_scaler.scrape.types import Target
from tests.scrape.scene import scenario

TIMEOUT_SECONDS = 5.0
QUICK_SECONDS = 0.01


def pod(number: int) -> Target:
    address = f"10.0.0.{number}"
    return Target(Url("http", address, 8000, "/metrics"), address, "ai", f"llama-{number}")


class Fetches:
    """Fetches that hold a slot for a time; ``most`` is the largest number of them that ran at once."""

    def __init__(self, slots: FetchSlots) -> None:
        self._slots = slots
        self.running = self.most = 0

    async def fetch(self, target: Target, seconds: float, work_seconds: float = 0.0) -> float:
        """Hold a slot; return how long the fetch waited for it."""
        began = asyncio.get_running_loop().time()
        async with self._slots.of(target, began) as work:
            work.add(work_seconds)
            waited = asyncio.get_running_loop().time() - began
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await asyncio.sleep(seconds)
            finally:
                self.running -= 1
        return waited


@scenario
async def test_a_fetch_that_becomes_slow_leaves_its_slot_to_others() -> None:
    fetches = Fetches(FetchSlots(2, 2))
    slow = [asyncio.create_task(fetches.fetch(pod(number), TIMEOUT_SECONDS)) for number in range(2)]
    await asyncio.sleep(0)
    assert await fetches.fetch(pod(9), QUICK_SECONDS) == SLOW_AFTER_SECONDS
    assert fetches.most == 3
    await asyncio.gather(*slow)


@scenario
async def test_targets_that_were_slow_wait_for_slow_slots_and_delay_nobody() -> None:
    fetches = Fetches(FetchSlots(2, 1))
    for number in range(4):
        await fetches.fetch(pod(number), TIMEOUT_SECONDS)
    slow = [asyncio.create_task(fetches.fetch(pod(number), TIMEOUT_SECONDS)) for number in range(4)]
    await asyncio.sleep(0)
    assert fetches.running == 1
    assert [await fetches.fetch(pod(number), QUICK_SECONDS) for number in (8, 9)] == [0.0, 0.0]
    assert await asyncio.gather(*slow) == [0.0, 5.0, 10.0, 15.0]


@scenario
async def test_the_number_of_fetches_is_limited_while_each_is_slow_for_the_first_time() -> None:
    fetches = Fetches(FetchSlots(2, 3))
    await asyncio.gather(*(fetches.fetch(pod(number), TIMEOUT_SECONDS) for number in range(40)))
    assert fetches.most == 5


@scenario
async def test_a_target_that_is_quick_again_uses_the_common_slots() -> None:
    fetches = Fetches(FetchSlots(2, 1))
    await fetches.fetch(pod(1), TIMEOUT_SECONDS)
    await fetches.fetch(pod(1), QUICK_SECONDS)
    await fetches.fetch(pod(2), TIMEOUT_SECONDS)
    slow = asyncio.create_task(fetches.fetch(pod(2), TIMEOUT_SECONDS))
    await asyncio.sleep(0)
    assert await fetches.fetch(pod(1), QUICK_SECONDS) == 0.0
    await slow


@scenario
async def test_a_target_that_is_not_fetched_any_more_is_forgotten() -> None:
    slots = FetchSlots(1, 1)
    await Fetches(slots).fetch(pod(1), TIMEOUT_SECONDS)
    now = asyncio.get_running_loop().time()
    slots.forget(now + MAX_PAUSE_SECONDS + 100)
    assert list(slots._slow) == [pod(1)], "the longest pause and a wait for a slot are no reason to forget it"
    slots.forget(now + 200)
    assert slots._slow == {}


@scenario
async def test_each_slot_is_given_back_when_fetches_are_cancelled() -> None:
    slots = FetchSlots(2, 1)
    fetches = Fetches(slots)
    for cancel_after in (0.0, SLOW_AFTER_SECONDS, 2.0):
        tasks = [asyncio.create_task(fetches.fetch(pod(number), TIMEOUT_SECONDS)) for number in range(6)]
        await asyncio.sleep(cancel_after)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert slots._address_slots == {}
    free = [asyncio.create_task(fetches.fetch(pod(number), QUICK_SECONDS)) for number in (20, 21)]
    assert await asyncio.gather(*free) == [0.0, 0.0]
    assert pod(0) in slots._slow
    assert await fetches.fetch(pod(0), QUICK_SECONDS) == 0.0, "the slow slot is free"


@scenario
async def test_targets_with_costly_pages_wait_for_costly_slots_and_delay_nobody() -> None:
    fetches = Fetches(FetchSlots(2, 1))
    targets = [pod(number) for number in range(2 * COSTLY_CONCURRENCY)]
    for target in targets:
        await fetches.fetch(target, QUICK_SECONDS, 2 * COSTLY_PAGE_SECONDS)
    costly = [asyncio.create_task(fetches.fetch(target, 0.5, 2 * COSTLY_PAGE_SECONDS)) for target in targets]
    await asyncio.sleep(0)
    assert fetches.running == COSTLY_CONCURRENCY
    assert [await fetches.fetch(pod(number), QUICK_SECONDS) for number in (90, 91)] == [0.0, 0.0]
    assert await asyncio.gather(*costly) == [0.0] * COSTLY_CONCURRENCY + [0.5] * COSTLY_CONCURRENCY


@scenario
async def test_a_target_whose_page_is_cheap_again_uses_the_common_slots() -> None:
    slots = FetchSlots(2, 1)
    fetches = Fetches(slots)
    await fetches.fetch(pod(1), QUICK_SECONDS, 2 * COSTLY_PAGE_SECONDS)
    async with slots.of(pod(1), 0.0) as work:
        assert work.is_costly
    async with slots.of(pod(1), 0.0) as work:
        assert not work.is_costly


async def known_as_costly(slots: FetchSlots, count: int) -> list[Target]:
    """Return targets whose last pages were costly."""
    targets = [pod(number) for number in range(count)]
    for target in targets:
        await Fetches(slots).fetch(target, QUICK_SECONDS, 2 * COSTLY_PAGE_SECONDS)
    return targets


@scenario
async def test_a_page_that_waits_for_its_turns_keeps_its_costly_slot() -> None:
    slots = FetchSlots(2, 8)
    running = most = 0

    async def fetch(target: Target) -> None:
        nonlocal running, most
        async with slots.of(target, 0.0) as work:
            running += 1
            most = max(most, running)
            work.add(2 * COSTLY_PAGE_SECONDS)
            for _ in range(6):
                with work.waiting():
                    await asyncio.sleep(0.5)
            running -= 1

    targets = await known_as_costly(slots, 2 * COSTLY_CONCURRENCY)
    await asyncio.gather(*map(fetch, targets))
    assert most == COSTLY_CONCURRENCY
    assert not slots._slow, "the servers are not slow"


@scenario
async def test_a_costly_page_of_a_slow_server_leaves_its_costly_slot_to_others() -> None:
    slots = FetchSlots(2, 8)
    targets = await known_as_costly(slots, COSTLY_CONCURRENCY + 1)
    fetches = Fetches(slots)
    *slow, quick = targets
    work_seconds = 2 * COSTLY_PAGE_SECONDS
    waiting = [asyncio.create_task(fetches.fetch(target, TIMEOUT_SECONDS, work_seconds)) for target in slow]
    await asyncio.sleep(0)
    assert await fetches.fetch(quick, QUICK_SECONDS) == 2 * SLOW_AFTER_SECONDS, "they are checked each second"
    await asyncio.gather(*waiting)
    assert set(slots._slow) == set(slow)
