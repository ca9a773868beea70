# SPDX-License-Identifier: Apache-2.0
"""Limits the fetches that run at once, with separate slots for slow and for costly targets.

Law: a slow or costly target delays no other target, except for the slots of its own address and port, and of its own
kind. A page that takes long is of another kind than one that is a little costly.
"""

import asyncio
import math
from types import TracebackType

from keda_gpu_scaler.scrape.page_feed import PageWork
from keda_gpu_scaler.scrape.types import Target

SLOW_AFTER_SECONDS = 1.0
"""A fetch whose server takes longer uses a slow slot, and the next fetch of its target begins in one."""
COSTLY_PAGE_SECONDS = 0.01
"""A page that takes longer to read makes its target costly. The next fetch of it waits for a costly slot."""
COSTLY_CONCURRENCY = 4
LONG_PAGE_SECONDS = 0.1
"""A page that takes longer to read has a slot of its own kind next time, so that it delays no other costly page."""
_FETCHES_PER_ADDRESS = 2
_FORGET_SECONDS = 180.0  # longer than the longest pause of a target and the wait for its slot


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
        self._long_slots = asyncio.Semaphore(COSTLY_CONCURRENCY)
        self._slow: dict[Target, float] = {}
        self._costly: dict[Target, float] = {}
        self._long: dict[Target, float] = {}
        self._address_slots: dict[object, _AddressSlots] = {}
        self._timer = _SlowTimer()

    def of(self, target: Target, now: float) -> "_HeldSlot":
        """Wait for a slot and hold it: of the target's address and port, and then of all, slow or costly targets.

        The caller counts the work for the page in what the ``async with`` block is given.

        URLs of triggers and pods of one namespace have separate slots at the same address, so that a slow URL does not
        delay the scrape of a pod.
        """
        return _HeldSlot(self, target, now)

    async def take(self, target: Target) -> "_Slot":
        """Wait for a slot of a target; ``give_back`` must follow."""
        key = (target.address, target.url.port, target.namespace)
        address = self._address_slots.get(key)
        if address is None:
            address = self._address_slots[key] = _AddressSlots(key)
        address.users += 1
        try:
            await address.semaphore.acquire()
        except BaseException:
            self._leave(address)
            raise
        is_long = target in self._long
        work = PageWork(is_costly=target in self._costly, known_seconds=math.inf if is_long else LONG_PAGE_SECONDS)
        slot = _Slot(address, self._slots, self._slow_slots, work)
        try:
            if is_long:
                slot.held = self._long_slots
            elif slot.work.is_costly:
                slot.held = self._costly_slots
            elif target in self._slow:
                slot.held = self._slow_slots
            await slot.held.acquire()
        except BaseException:
            address.semaphore.release()
            self._leave(address)
            raise
        self._timer.add(slot)
        return slot

    def give_back(self, slot: "_Slot", target: Target, now: float) -> None:
        """Give a slot back, and note whether its target is slow or costly."""
        self._timer.remove(slot)
        slot.end()
        _note(self._slow, target, now, is_noted=slot.is_slow)
        _note(self._costly, target, now, is_noted=slot.work.seconds > COSTLY_PAGE_SECONDS)
        _note(self._long, target, now, is_noted=slot.work.seconds > LONG_PAGE_SECONDS)
        slot.address.semaphore.release()
        self._leave(slot.address)

    def _leave(self, address: "_AddressSlots") -> None:
        address.users -= 1
        if not address.users:
            del self._address_slots[address.key]

    def forget(self, now: float) -> None:
        """Forget the slow and the costly targets that were not fetched recently."""
        self._slow = {target: at for target, at in self._slow.items() if now - at <= _FORGET_SECONDS}
        self._costly = {target: at for target, at in self._costly.items() if now - at <= _FORGET_SECONDS}
        self._long = {target: at for target, at in self._long.items() if now - at <= _FORGET_SECONDS}


def _note(targets: dict[Target, float], target: Target, now: float, *, is_noted: bool) -> None:
    if is_noted:
        targets[target] = now
    else:
        targets.pop(target, None)


class _AddressSlots:
    """The fetch slots of one address and port; ``users`` counts running and waiting fetches."""

    def __init__(self, key: object) -> None:
        self.key = key
        self.semaphore = asyncio.Semaphore(_FETCHES_PER_ADDRESS)
        self.users = 0


class _Slot:
    """One taken slot. A fetch that takes long exchanges it for a slow slot, as soon as one is free.

    ``is_slow`` says that the fetch takes long.
    """

    def __init__(
        self, address: _AddressSlots, held: asyncio.Semaphore, slow_slots: asyncio.Semaphore, work: PageWork
    ) -> None:
        self.address = address
        self.held = held
        self.work = work
        self.is_slow = False
        self.began_at_seconds = 0.0
        self._slow_slots = slow_slots
        self._exchange_task: asyncio.Task[None] | None = None

    def become_slow(self) -> None:
        """Note that the fetch takes long."""
        self.is_slow = True
        if self.held is not self._slow_slots:
            self._exchange_task = asyncio.create_task(self._exchange())

    def end(self) -> None:
        """Release what is held."""
        if self._exchange_task is not None:
            self._exchange_task.cancel()
        self.held.release()

    async def _exchange(self) -> None:
        await self._slow_slots.acquire()
        self.held.release()
        self.held = self._slow_slots


class _HeldSlot:
    """The slot of one fetch, inside an ``async with`` block.

    It is a class because a generator takes several times as long, and there are hundreds of fetches a second.
    """

    def __init__(self, slots: FetchSlots, target: Target, now: float) -> None:
        self._slots = slots
        self._target = target
        self._now = now

    async def __aenter__(self) -> PageWork:
        self._slot = await self._slots.take(self._target)
        return self._slot.work

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.give_back(self._slot, self._target, self._now)


class _SlowTimer:
    """One timer of the event loop for all fetches: each of them is slow ``SLOW_AFTER_SECONDS`` after its begin.

    In a costly slot, the work for the page and the waits for its turns do not count: a fetch that was not slow without
    them is checked again.
    """

    def __init__(self) -> None:
        self._slow_at_seconds: dict[_Slot, float] = {}  # in the order of their begin
        self._handle: asyncio.TimerHandle | None = None

    def add(self, slot: _Slot) -> None:
        """Begin with a fetch."""
        slot.began_at_seconds = asyncio.get_running_loop().time()
        self._slow_at_seconds[slot] = slot.began_at_seconds + SLOW_AFTER_SECONDS
        if self._handle is None:
            self._set()

    def remove(self, slot: _Slot) -> None:
        """End with a fetch. The timer stays: the next fetches use it."""
        self._slow_at_seconds.pop(slot, None)

    def _set(self) -> None:
        first = next(iter(self._slow_at_seconds.values()))
        self._handle = asyncio.get_running_loop().call_at(first, self._ring)

    def _ring(self) -> None:
        self._handle = None
        now = asyncio.get_running_loop().time()
        for slot in [slot for slot, at_seconds in self._slow_at_seconds.items() if at_seconds <= now]:
            del self._slow_at_seconds[slot]
            own_seconds = slot.work.own_seconds() if slot.work.is_known_costly else 0.0
            if own_seconds and now - slot.began_at_seconds - own_seconds < SLOW_AFTER_SECONDS:
                self._slow_at_seconds[slot] = now + SLOW_AFTER_SECONDS
            else:
                slot.become_slow()
        if self._slow_at_seconds:
            self._set()
