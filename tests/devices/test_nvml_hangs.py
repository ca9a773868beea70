# SPDX-License-Identifier: Apache-2.0
"""Tests of calls of the NVML driver that do not return, and of the threads that make them."""

import logging.handlers
import math
import queue
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices.nvml.backend import NvmlBackend
from keda_gpu_scaler.devices.reader_threads import ReaderJob, ReaderThreads, RunningCall
from keda_gpu_scaler.sampler import Sampler
from tests.contract.hangs import HangContract, HangingNode, readers_left, reasons, wait_for_readers
from tests.devices.test_nvml import CARDS, FIELDS, A, B, C, layout, unknown
from tests.fake_nvml import FakeNvml
from tests.limits import WAIT_SECONDS
from tests.reader_time import Hold, ReaderTime, wait_by_the_clock

CALLS = {
    "utilisation": "nvmlDeviceGetUtilizationRates",
    "memory v2": "nvmlDeviceGetMemoryInfo_v2",
    "temperature v2": "nvmlDeviceGetTemperatureV",
    "power": "nvmlDeviceGetPowerUsage",
}
UNIDENTIFIED = "unidentified-1"
FIRST_CALLS = {
    "handle": ("nvmlDeviceGetHandleByIndex", UNIDENTIFIED),
    "uuid": ("nvmlDeviceGetUUID", UNIDENTIFIED),
    "name": ("nvmlDeviceGetName", UNIDENTIFIED),
    "pci": ("nvmlDeviceGetPciInfo", UNIDENTIFIED),
    "minor": ("nvmlDeviceGetMinorNumber", UNIDENTIFIED),
    "mig mode": ("nvmlDeviceGetMigMode", B),
}
"""The calls of a card that the first read makes, and the card's UUID while one of them hangs."""


@pytest.fixture
def backend(fake_nvml: FakeNvml) -> Iterator[NvmlBackend]:
    fake_nvml.devices = CARDS
    backend = NvmlBackend(fake_nvml.library)
    yield backend
    fake_nvml.release()
    wait_for_readers()
    backend.close()


class NvmlNode(HangingNode):
    """Three cards of NVIDIA."""

    calls = CALLS
    until = "the call returns"
    listing = (
        "the NVIDIA driver: nvmlDeviceGetCount has not returned; new and removed GPUs are not noticed until it returns",
        "the NVIDIA driver: the call has returned",
    )

    def __init__(self, fake: FakeNvml, backend: NvmlBackend) -> None:
        self.fake, self.backend = fake, backend

    def hang(self, slot: int, call: str) -> None:
        self.fake.device(slot).hang(call)

    def hang_list(self) -> None:
        self.fake.hang("count")

    def release(self) -> None:
        self.fake.release()

    def set_reading(self, slot: int, number: int) -> None:
        self.fake.device(slot).temperature = number

    def reading(self, sample: Sample) -> float | None:
        return sample.temperature_celsius


class TestNvml(HangContract):
    @pytest.fixture
    def node(self, fake_nvml: FakeNvml, backend: NvmlBackend) -> HangingNode:
        return NvmlNode(fake_nvml, backend)

    @pytest.fixture(params=CALLS)
    def call(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)


@pytest.mark.parametrize("call", FIRST_CALLS)
def test_a_card_that_hangs_in_the_first_read_costs_no_other_card(
    fake_nvml: FakeNvml, backend: NvmlBackend, call: str
) -> None:
    function, uuid = FIRST_CALLS[call]
    fake_nvml.device(1).hang(call)
    for now in (1.0, 2.0, 20.0):
        samples = backend.read(now)
        assert layout(samples) == [(0, A), (1, uuid), (2, C)]
        assert [unknown(sample) for sample in samples] == [set(), FIELDS, set()]
        assert reasons(samples)[1] == [f"{function} has not returned"]
    assert (fake_nvml.hanging, readers_left(1)) == (1, 1)
    fake_nvml.release()
    wait_for_readers()
    for now in (21.0, 22.0):
        samples = backend.read(now)
        wait_for_readers()
    assert layout(samples) == [(0, A), (1, B), (2, C)]


def test_a_driver_that_is_lost_while_a_card_hangs_is_opened_again(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    import pynvml

    backend.read(0.0)
    fake_nvml.device(1).hang("power")
    backend.read(1.0)
    pynvml.nvmlShutdown()
    assert [unknown(sample) for sample in backend.read(2.0)] == [set(), FIELDS, set()]
    assert (fake_nvml.inits, fake_nvml.hanging) == (2, 1)
    fake_nvml.release()
    wait_for_readers()
    for now in (3.0, 4.0, 5.0):
        samples = backend.read(now)
        wait_for_readers()
    assert not any(map(unknown, samples))


@pytest.mark.parametrize(("call", "function"), [("init", "nvmlInit"), ("count", "nvmlDeviceGetCount")])
def test_a_driver_that_does_not_open_is_named_while_the_read_waits(
    fake_nvml: FakeNvml, backend: NvmlBackend, caplog: pytest.LogCaptureFixture, call: str, function: str
) -> None:
    said: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    watch = logging.handlers.QueueHandler(said)
    logger = logging.getLogger("keda_gpu_scaler.devices.reader_threads")
    caplog.set_level(logging.INFO, logger.name)
    logger.addHandler(watch)
    fake_nvml.hang(call)
    published = threading.Event()
    sampler = Sampler(backend, node="gpu-7", interval_seconds=3600, on_publish=published.set)
    sampler.start()
    assert said.get(timeout=WAIT_SECONDS).getMessage() == f"the NVIDIA driver: {function} has not returned for 5 s"
    assert sampler.failure == f"the NVIDIA driver: {function} has not returned for 5 s"
    assert sampler.history is None
    fake_nvml.release()
    assert published.wait(WAIT_SECONDS)
    assert sampler.failure is None
    assert sampler.history is not None
    assert said.get(timeout=WAIT_SECONDS).getMessage() == "the NVIDIA driver: the call has returned"
    sampler.stop(WAIT_SECONDS)
    logger.removeHandler(watch)


def test_a_wedged_shutdown_keeps_its_thread_waiting_and_no_other(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    backend.read(0.0)
    fake_nvml.hang("shutdown")
    assert backend.read(1.0)
    thread = threading.Thread(target=backend.close, daemon=True)
    thread.start()
    fake_nvml.wait_until_hanging()
    assert fake_nvml.hanging == 1
    fake_nvml.release()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    assert fake_nvml.shutdowns == 1


# The threads


def test_a_job_that_raises_raises_where_it_is_awaited() -> None:
    def fail() -> None:
        raise BackendError("a defect")

    with pytest.raises(BackendError, match="a defect"):
        ReaderThreads().finish(ReaderJob("a test", fail))


def test_a_job_is_overdue_by_its_own_time_and_not_by_that_of_its_running_call(
    reader_time: ReaderTime, caplog: pytest.LogCaptureFixture
) -> None:
    threads = ReaderThreads()
    logger = logging.getLogger("keda_gpu_scaler.devices.reader_threads")
    said: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    watch = logging.handlers.QueueHandler(said)
    hold = Hold()
    hold.hold()
    reader_time.holders.append(hold)

    def make_two_calls() -> None:
        with RunningCall("the first call"):
            pass
        with RunningCall("the second call") as call:
            call.since_seconds = math.inf  # so it has not begun to take time
            hold.stay()

    caplog.set_level(logging.WARNING, logger.name)
    logger.addHandler(watch)
    waits = threading.Thread(target=threads.finish, args=(ReaderJob("a test", make_two_calls),), daemon=True)
    waits.start()
    said.get(timeout=WAIT_SECONDS)
    overdue = threads.overdue_call()
    hold.release()
    waits.join(WAIT_SECONDS)
    logger.removeHandler(watch)
    assert overdue is not None
    assert overdue.startswith("a test: the second call has not returned for ")
    assert threads.overdue_call() is None


def test_jobs_run_in_order_in_one_thread() -> None:
    order: list[tuple[int, int]] = []

    def note(number: int) -> None:
        order.append((number, threading.get_ident()))

    jobs = [ReaderJob("a test", partial(note, number)) for number in range(5)]
    ReaderThreads().run(jobs)
    assert [number for number, _ in order] == list(range(5))
    assert len({ident for _, ident in order}) == 1


def test_after_a_job_that_overruns_the_others_run_once_each(reader_time: ReaderTime) -> None:
    hold = Hold()
    hold.hold()
    reader_time.holders.append(hold)
    ran: list[int] = []

    def run_late() -> None:
        hold.stay()
        ran.append(0)

    jobs = [ReaderJob("a wedge", run_late), *[ReaderJob("a test", partial(ran.append, number)) for number in (1, 2, 3)]]
    ReaderThreads().run(jobs)
    assert sorted(ran) == [1, 2, 3]
    assert [job.is_done for job in jobs] == [False, True, True, True]
    hold.release()
    wait_for_readers()
    assert sorted(ran) == [0, 1, 2, 3]


def test_a_wait_ends_at_its_limit_or_with_its_jobs() -> None:
    hold = Hold()
    hold.hold()
    threads, job = ReaderThreads(), ReaderJob("a test", hold.stay)
    threads.start(job)
    assert not wait_by_the_clock(threads, [job], 0.01)
    hold.release()
    assert wait_by_the_clock(threads, [job], WAIT_SECONDS)


def test_an_error_of_a_defect_reaches_the_sampler(
    fake_nvml: FakeNvml, backend: NvmlBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.read(0.0)

    def defect(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(backend._reader, "read", defect)
    with pytest.raises(ZeroDivisionError):
        backend.read(1.0)
    assert fake_nvml.calls("init") == 1
