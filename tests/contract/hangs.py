# SPDX-License-Identifier: Apache-2.0
"""The contract of every backend whose calls may hang: a call that hangs costs its own card alone."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import pytest

from keda_gpu_scaler.core.interfaces import Backend
from keda_gpu_scaler.core.types import Sample
from tests.limits import WAIT_SECONDS
from tests.polling import pause
from tests.reader_time import ReaderTime

LATER_SECONDS = 40.0


class HangingNode(ABC):
    """A node with three cards, of which the calls may hang.

    ``calls`` has the calls of a card, by the name that ``hang`` takes, as people read them. ``until`` ends the log's
    line about a card. ``listing`` is what is said about the list of cards: that it hangs, and that it is back.
    """

    calls: ClassVar[Mapping[str, str]]
    until: ClassVar[str]
    listing: ClassVar[tuple[str, str]]
    backend: Backend

    @abstractmethod
    def hang(self, slot: int, call: str) -> None:
        """From now on this call about this card hangs."""

    @abstractmethod
    def hang_list(self) -> None:
        """From now on the call that lists the cards hangs."""

    @abstractmethod
    def release(self) -> None:
        """Let every call return."""

    @abstractmethod
    def set_reading(self, slot: int, number: int) -> None:
        """Change a reading of a card to a whole number."""

    @abstractmethod
    def reading(self, sample: Sample) -> float | None:
        """Return that reading."""


def readers(name: str = "device-reader") -> list[threading.Thread]:
    """Return the threads that read, or wait for a call."""
    return [thread for thread in threading.enumerate() if thread.name == name]


def readers_left(at_most: int, name: str = "device-reader") -> int:
    """Return how many threads are left when those have ended whose jobs are done, of which ``at_most`` are not."""
    ends_at = time.monotonic() + WAIT_SECONDS
    while len(readers(name)) > at_most and time.monotonic() < ends_at:
        pause()
    return len(readers(name))


def wait_for_readers() -> None:
    """Return when the jobs have ended that no test holds."""
    for thread in readers("vendor-reader") + readers():
        thread.join(WAIT_SECONDS)


def known(samples: tuple[Sample, ...]) -> list[bool]:
    """Return which devices have a reading."""
    return [sample.has_reading for sample in samples]


def reasons(samples: tuple[Sample, ...]) -> list[list[str]]:
    """Return why devices have no reading at all."""
    return [[each.reason for each in sample.failures if not each.reading] for sample in samples]


def named(sample: Sample) -> str:
    """Return how the log names a device."""
    device = sample.device
    return f"GPU {device.index} ({device.model}, {device.uuid})"


class HangContract:
    """Subclass it as ``Test…`` with a ``node``, and with ``call``, a parameter for each of the node's ``calls``."""

    @pytest.fixture
    def node(self) -> HangingNode:
        """A node whose backend was not read yet. The subclass releases its calls and closes it."""
        raise NotImplementedError("a subclass provides it")

    @pytest.fixture
    def call(self) -> str:
        """A call of a card, made by every read."""
        raise NotImplementedError("a subclass provides it")

    @pytest.fixture
    def any_call(self, node: HangingNode) -> str:
        """One of these calls, where it does not matter which."""
        return next(iter(node.calls))

    def test_a_card_whose_call_hangs_is_named_and_costs_no_other_card(
        self, node: HangingNode, call: str, reader_time: ReaderTime, caplog: pytest.LogCaptureFixture
    ) -> None:
        devices = [sample.device for sample in node.backend.read(0.0)]
        caplog.clear()
        node.hang(1, call)
        reason = f"{node.calls[call]} has not returned"
        for now in (1.0, 2.0, 3.0, 60.0):
            node.set_reading(2, int(now))
            samples = node.backend.read(now)
            assert [sample.device for sample in samples] == devices
            assert known(samples) == [True, False, True]
            assert node.reading(samples[2]) == int(now)
            assert reasons(samples) == [[], [reason], []]
            assert samples[1].failures[0].since_seconds == 1.0
            assert node.backend.overdue_call() is None
        assert len(reader_time.held_threads) == readers_left(1) == 1
        assert caplog.messages == [
            f"{named(samples[1])} has no reading: {reason}; its readings are unknown until {node.until}"
        ]

    def test_a_card_whose_call_returns_is_read_within_two_reads(
        self, node: HangingNode, any_call: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        node.backend.read(0.0)
        node.hang(1, any_call)
        node.backend.read(1.0)
        node.set_reading(1, 66)
        node.release()
        wait_for_readers()
        # The first read may have what the late job read, which is dated when its job began.
        assert known(node.backend.read(2.0)) == [True, True, True]
        wait_for_readers()
        second = node.backend.read(3.0)[1]
        wait_for_readers()
        assert (node.reading(second), second.lag_seconds, reasons((second,))) == (66, 0, [[]])
        assert caplog.messages[-1] == f"{named(second)} is back, after 1 s"

    @pytest.mark.parametrize("then", [pytest.param(2.0, id="soon"), pytest.param(10.0, id="when the cards are listed")])
    def test_a_late_reading_is_dated_when_it_was_begun(
        self, node: HangingNode, any_call: str, reader_time: ReaderTime, then: float
    ) -> None:
        node.backend.read(0.0)
        node.hang(1, any_call)
        began = reader_time.now
        node.backend.read(1.0)
        node.release()
        wait_for_readers()
        node.hang(1, any_call)  # so that the new reading is not the one that is used
        reader_time.advance(LATER_SECONDS)
        age = float(int(reader_time.now - began))
        assert [sample.lag_seconds for sample in node.backend.read(then)] == [0, age, 0]

    def test_every_card_may_hang_and_each_keeps_one_thread(
        self, node: HangingNode, any_call: str, reader_time: ReaderTime
    ) -> None:
        node.backend.read(0.0)
        for slot in range(3):
            node.hang(slot, any_call)
        for now in range(1, 30):
            assert known(node.backend.read(float(now))) == [False, False, False]
        assert len(reader_time.held_threads) == readers_left(3) == 3

    def test_a_card_that_is_always_slow_has_readings_with_their_own_date(
        self, node: HangingNode, any_call: str
    ) -> None:
        node.backend.read(0.0)
        node.set_reading(1, 66)
        values = []
        for now in range(1, 7):
            node.hang(1, any_call)
            values.append(node.reading(node.backend.read(float(now))[1]))
            node.release()
            wait_for_readers()
        assert values == [None, 66, 66, 66, 66, 66]

    def test_a_backend_whose_call_hangs_can_be_closed(self, node: HangingNode, any_call: str) -> None:
        node.backend.read(0.0)
        node.hang(1, any_call)
        node.backend.read(1.0)
        node.backend.close()
        assert readers_left(1) == 1

    def test_between_two_reads_no_thread_is_left(self, node: HangingNode) -> None:
        node.backend.read(0.0)
        wait_for_readers()
        assert readers() == []

    def test_a_list_that_hangs_is_named_and_costs_no_card(
        self, node: HangingNode, reader_time: ReaderTime, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        hangs, is_back = node.listing
        node.backend.read(0.0)
        caplog.clear()
        node.hang_list()
        for now in (10.0, 11.0, 20.0, 30.0):
            assert known(node.backend.read(now)) == [True, True, True]
        assert len(reader_time.held_threads) == readers_left(1) == 1
        assert caplog.messages == [hangs]
        node.release()
        wait_for_readers()
        assert known(node.backend.read(40.0)) == [True, True, True]
        assert caplog.messages == [hangs, f"{is_back}, after 1 s"]
