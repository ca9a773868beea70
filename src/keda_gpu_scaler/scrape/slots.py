# SPDX-License-Identifier: Apache-2.0
"""Limits the fetches that run at once, with separate slots for slow and for costly targets.

Law: a slow or costly target delays no other target, except for the slots of its own address and port.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from keda_gpu_scaler.scrape.page_feed import PageWork
from keda_gpu_scaler.scrape.types import Target

SLOW_AFTER_SECONDS = 1.0
"""A fetch that takes longer uses a slow slot, and the next fetch of its target begins in one."""
COSTLY_PAGE_SECONDS = 0.02
"""A page that takes longer to read makes its target costly. The next fetch of it waits for a costly slot."""
COSTLY_CONCURRENCY = 4
_FETCHES_PER_ADDRESS = 2
_FORGET_SECONDS = 60.0


class FetchSlots:
    """The slots of all fetches, those of slow targets and those of each address and port.

    Args:
        concurrency: the number of fetches that run at once.
        slow_concurrency: the number of fetches of slow targets that run at once, in addition.
    """

    def __init__(self, concurrency: int, slow_concurrency: int) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._slow_slots = asyncio.Semaphore(slow_concurrency)
        self._costly_slots = asyncio.Semaphore(COSTLY_CONCURRENCY)
        self._slow: dict[Target, float] = {}
        self._costly: dict[Target, float] = {}
        self._address_slots: dict[object, _AddressSlots] = {}

    @contextlib.asynccontextmanager
    async def of(self, target: Target, now: float) -> AsyncIterator[PageWork]:
        """Wait for a slot and hold it: of the target's address and port, and then of all, slow or costly targets.

        The caller counts the work for the page in what is returned.

        URLs of triggers and pods of one namespace have separate slots at the same address, so that a slow URL does not
        delay the scrape of a pod.
        """
        key = (target.address, target.url.port, target.namespace)
        slots = self._address_slots.setdefault(key, _AddressSlots())
        slots.users += 1
        try:
            async with slots.semaphore:
                work = PageWork(is_costly=target in self._costly)
                slot = _Slot(self._costly_slots if work.is_costly else self._slots, self._slow_slots)
                await slot.take(is_slow=target in self._slow and not work.is_costly)
                try:
                    yield work
                finally:
                    slot.give_back()
                    _note(self._slow, target, now, is_noted=slot.is_slow)
                    _note(self._costly, target, now, is_noted=work.seconds > COSTLY_PAGE_SECONDS)
        finally:
            slots.users -= 1
            if not slots.users:
                del self._address_slots[key]

    def forget(self, now: float) -> None:
        """Forget the slow and the costly targets that were not fetched recently."""
        self._slow = {target: at for target, at in self._slow.items() if now - at <= _FORGET_SECONDS}
        self._costly = {target: at for target, at in self._costly.items() if now - at <= _FORGET_SECONDS}


def _note(targets: dict[Target, float], target: Target, now: float, *, is_noted: bool) -> None:
    if is_noted:
        targets[target] = now
    else:
        targets.pop(target, None)


class _AddressSlots:
    """The fetch slots of one address and port; ``users`` counts running and waiting fetches."""

    def __init__(self) -> None:
        self.semaphore = asyncio.Semaphore(_FETCHES_PER_ADDRESS)
        self.users = 0


class _Slot:
    """One taken slot. After ``SLOW_AFTER_SECONDS`` it is exchanged for a slow slot, as soon as one is free."""

    def __init__(self, slots: asyncio.Semaphore, slow_slots: asyncio.Semaphore) -> None:
        self._held = slots
        self._slow_slots = slow_slots
        self._timer: asyncio.TimerHandle | None = None
        self._exchange_task: asyncio.Task[None] | None = None
        self.is_slow = False
        """Whether the fetch takes long."""

    async def take(self, *, is_slow: bool) -> None:
        if is_slow:
            self._held = self._slow_slots
        await self._held.acquire()
        self._timer = asyncio.get_running_loop().call_later(SLOW_AFTER_SECONDS, self._become_slow)

    def give_back(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._exchange_task is not None:
            self._exchange_task.cancel()
        self._held.release()

    def _become_slow(self) -> None:
        self.is_slow = True
        if self._held is not self._slow_slots:
            self._exchange_task = asyncio.create_task(self._exchange())

    async def _exchange(self) -> None:
        await self._slow_slots.acquire()
        self._held.release()
        self._held = self._slow_slots
