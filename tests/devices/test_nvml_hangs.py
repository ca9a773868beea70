# SPDX-License-Identifier: Apache-2.0
"""Tests of calls of the NVML driver that do not return, and of the threads that make them."""

import logging.handlers
import math
import queue
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices.nvml.backend import NvmlBackend
from keda_gpu_scaler.devices.reader_threads import ReaderJob, ReaderThreads, RunningCall
from keda_gpu_scaler.sampler import Sampler
from tests.devices.test_nvml import CARDS, FIELDS, A, B, C, layout, unknown
from tests.fake_nvml import FakeNvml
from tests.limits import WAIT_SECONDS

OVERRUN_SECONDS = 0.05
NAME = f"GPU 1 (NVIDIA Fake 80GB, {B})"
FUNCTIONS = {
    "utilisation": "nvmlDeviceGetUtilizationRates",
    "memory v2": "nvmlDeviceGetMemoryInfo_v2",
    "temperature v2": "nvmlDeviceGetTemperatureV",
    "power": "nvmlDeviceGetPowerUsage",
    "mig mode": "nvmlDeviceGetMigMode",
}
LOOK_UPS = {
    "handle": "nvmlDeviceGetHandleByIndex",
    "uuid": "nvmlDeviceGetUUID",
    "name": "nvmlDeviceGetName",
    "pci": "nvmlDeviceGetPciInfo",
    "minor": "nvmlDeviceGetMinorNumber",
}


@pytest.fixture
def backend(fake_nvml: FakeNvml) -> Iterator[NvmlBackend]:
    fake_nvml.devices = CARDS
    backend = NvmlBackend(fake_nvml.library, overrun_seconds=OVERRUN_SECONDS, overdue_seconds=OVERRUN_SECONDS)
    yield backend
    fake_nvml.release()
    wait_for_readers()
    backend.close()


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "device-reader"]


def wait_for_readers() -> None:
    for thread in readers():
        thread.join(WAIT_SECONDS)


def reasons(samples: tuple[Sample, ...]) -> list[list[str]]:
    return [[failure.reason for failure in sample.failures] for sample in samples]


@pytest.mark.parametrize("call", FUNCTIONS)
def test_a_card_whose_call_hangs_is_named_and_costs_no_other_card(
    fake_nvml: FakeNvml, backend: NvmlBackend, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    if call != "mig mode":
        backend.read(0.0)
    fake_nvml.device(1).hang(call)
    for now in (1.0, 2.0, 3.0, 60.0):
        fake_nvml.device(2).utilisation = (int(now), 0)
        samples = backend.read(now)
        assert layout(samples) == [(0, A), (1, B), (2, C)]
        assert [unknown(sample) for sample in samples] == [set(), FIELDS, set()]
        assert samples[2].gpu_utilization_ratio == int(now) / 100
        assert reasons(samples) == [[], [f"{FUNCTIONS[call]} has not returned"], []]
        assert samples[1].failures[0].since_seconds == 1.0
    assert (fake_nvml.hanging, len(readers())) == (1, 1)
    assert [record.getMessage() for record in caplog.records] == [
        f"{NAME} has no reading: {FUNCTIONS[call]} has not returned; its readings are unknown until the call returns"
    ]


@pytest.mark.parametrize("call", LOOK_UPS)
def test_a_card_that_hangs_while_it_is_looked_up_costs_no_other_card(
    fake_nvml: FakeNvml, backend: NvmlBackend, call: str
) -> None:
    fake_nvml.device(1).hang(call)
    for now in (1.0, 2.0, 20.0):
        samples = backend.read(now)
        assert layout(samples) == [(0, A), (1, "unidentified-1"), (2, C)]
        assert [unknown(sample) for sample in samples] == [set(), FIELDS, set()]
        assert reasons(samples)[1] == [f"{LOOK_UPS[call]} has not returned"]
    assert (fake_nvml.hanging, len(readers())) == (1, 1)
    fake_nvml.release()
    wait_for_readers()
    for now in (21.0, 22.0):
        samples = backend.read(now)
        wait_for_readers()
    assert layout(samples) == [(0, A), (1, B), (2, C)]


def test_a_card_whose_call_returns_is_read_within_two_reads(
    fake_nvml: FakeNvml, backend: NvmlBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    backend.read(0.0)
    fake_nvml.device(1).hang("power")
    backend.read(1.0)
    fake_nvml.device(1).utilisation = (90, 0)
    fake_nvml.release()
    wait_for_readers()
    # The first read has what the late call returned, dated when its job began.
    assert not unknown(backend.read(2.0)[1])
    wait_for_readers()
    second = backend.read(3.0)[1]
    wait_for_readers()
    assert (second.gpu_utilization_ratio, second.failures) == (0.9, ())
    assert caplog.messages[-1] == f"{NAME} is back, after 1 s"


def test_a_late_reading_is_dated_when_it_was_begun(
    fake_nvml: FakeNvml, backend: NvmlBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.read(0.0)
    fake_nvml.device(1).hang("power")
    backend.read(1.0)
    fake_nvml.release()
    wait_for_readers()
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 40)
    lags = [sample.lag_seconds for sample in backend.read(41.0)]
    assert lags[0] == lags[2] == 0
    assert lags[1] in (0, 40)  # 0 where the new reading was quicker than this thread


def test_every_card_may_hang_and_each_keeps_one_thread(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    backend.read(0.0)
    for slot in range(3):
        fake_nvml.device(slot).hang("power")
    for now in range(1, 30):
        samples = backend.read(float(now))
        assert [unknown(sample) for sample in samples] == [FIELDS] * 3
    assert (fake_nvml.hanging, len(readers())) == (3, 3)
    assert (fake_nvml.inits, fake_nvml.shutdowns) == (1, 0)


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


def test_a_count_that_hangs_is_named_and_costs_no_card(
    fake_nvml: FakeNvml, backend: NvmlBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    backend.read(0.0)
    caplog.clear()
    fake_nvml.hang("count")
    for now in (10.0, 20.0, 30.0):
        assert not any(map(unknown, backend.read(now)))
    assert (fake_nvml.hanging, len(readers())) == (1, 1)
    named = (
        "the NVIDIA driver: nvmlDeviceGetCount has not returned; new and removed GPUs are not noticed until it returns"
    )
    assert caplog.messages == [named]
    fake_nvml.release()
    wait_for_readers()
    assert not any(map(unknown, backend.read(40.0)))
    assert [message.partition(", after")[0] for message in caplog.messages] == [
        named,
        "the NVIDIA driver: the call has returned",
    ]


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
    assert said.get(timeout=WAIT_SECONDS).getMessage() == f"the NVIDIA driver: {function} has not returned for 0 s"
    assert sampler.failure == f"the NVIDIA driver: {function} has not returned for 0 s"
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


def test_a_backend_whose_call_hangs_can_be_closed(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    backend.read(0.0)
    fake_nvml.device(1).hang("power")
    backend.read(1.0)
    backend.close()
    assert (fake_nvml.shutdowns, fake_nvml.hanging) == (0, 1)


def test_between_two_reads_no_thread_is_left(backend: NvmlBackend) -> None:
    backend.read(0.0)
    wait_for_readers()
    assert readers() == []


def test_a_card_that_is_always_slow_has_readings_with_their_own_date(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    backend.read(0.0)
    fake_nvml.device(1).utilisation = (90, 0)
    known = 0
    for now in range(1, 7):
        fake_nvml.device(1).hang("power")
        sample = backend.read(float(now))[1]
        known += sample.gpu_utilization_ratio == 0.9
        fake_nvml.device(1).release()
        wait_for_readers()
    assert known == 5


# The threads


def test_a_job_that_raises_raises_where_it_is_awaited() -> None:
    def fail() -> None:
        raise BackendError("a defect")

    with pytest.raises(BackendError, match="a defect"):
        ReaderThreads().finish(ReaderJob("a test", fail))


def test_a_job_is_overdue_by_its_own_time_and_not_by_that_of_its_running_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    threads = ReaderThreads(overdue_seconds=0.0)
    logger = logging.getLogger("keda_gpu_scaler.devices.reader_threads")
    said: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    watch = logging.handlers.QueueHandler(said)
    release, makes_its_second_call = threading.Event(), threading.Event()

    def make_two_calls() -> None:
        with RunningCall("the first call"):
            pass
        with RunningCall("the second call") as call:
            call.since_seconds = math.inf  # so it has not begun to take time
            makes_its_second_call.set()
            release.wait(WAIT_SECONDS)

    caplog.set_level(logging.WARNING, logger.name)
    logger.addHandler(watch)
    waits = threading.Thread(target=threads.finish, args=(ReaderJob("a test", make_two_calls),), daemon=True)
    waits.start()
    said.get(timeout=WAIT_SECONDS)
    assert makes_its_second_call.wait(WAIT_SECONDS)
    overdue = threads.overdue_call()
    release.set()
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


def test_after_a_job_that_overruns_the_others_run_once_each() -> None:
    release = threading.Event()
    ran: list[int] = []
    jobs = [
        ReaderJob("a wedge", lambda: ran.append(0) if release.wait(WAIT_SECONDS) else None),
        *[ReaderJob("a test", partial(ran.append, number)) for number in (1, 2, 3)],
    ]
    ReaderThreads(overrun_seconds=OVERRUN_SECONDS).run(jobs)
    assert sorted(ran) == [1, 2, 3]
    assert [job.is_done for job in jobs] == [False, True, True, True]
    release.set()
    wait_for_readers()
    assert sorted(ran) == [0, 1, 2, 3]


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
