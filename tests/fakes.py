# SPDX-License-Identifier: Apache-2.0
"""Peers of the real things, made to be told what happens next."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from keda_gpu_scaler.core.fleet import Fleet, History
from keda_gpu_scaler.core.model import Device, Sample, Snapshot
from keda_gpu_scaler.core.ports import BackendError

GIB = 1 << 30


class ManualClock:
    """Time that passes when it is told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def device(index: int = 0, **changes: object) -> Device:
    base = Device(uuid=f"GPU-{index:04d}", index=index, model="NVIDIA H100", pci_address=f"0000:{index + 16:02x}:00.0")
    return replace(base, **changes)  # type: ignore[arg-type]


def sample(index: int = 0, utilization: float | None = 0.5, **changes: object) -> Sample:
    """A whole GPU's sample; ``utilization`` is the GPU's, as a ratio."""
    base = Sample(
        device=device(index),
        gpu_utilization_ratio=utilization,
        memory_utilization_ratio=0.25,
        memory_used_bytes=40 * GIB,
        memory_total_bytes=80 * GIB,
        temperature_celsius=55.0,
        power_watts=350.0,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def blind(index: int = 0) -> Sample:
    return Sample(device=device(index))


def snapshots(
    *moments: Iterable[Sample], interval_seconds: float = 1.0, last_at: float = 1000.0
) -> tuple[Snapshot, ...]:
    """One snapshot a moment, ``interval_seconds`` apart, the last one at ``last_at``."""
    first_at = last_at - interval_seconds * (len(moments) - 1)
    return tuple(
        Snapshot(
            node="gpu-7",
            sequence=number,
            at_seconds=first_at + number * interval_seconds,
            unix_seconds=1.7e9 + number * interval_seconds,
            source="fake",
            samples=tuple(samples),
        )
        for number, samples in enumerate(moments)
    )


def fleet_of(
    *moments: Iterable[Sample], last_at: float = 1000.0, stale_after: float = 10.0, interval_seconds: float = 1.0
) -> Fleet:
    """A fleet view of one node that saw these moments, the last of them at ``last_at``."""
    taken = snapshots(*moments, interval_seconds=interval_seconds, last_at=last_at)
    return Fleet(History(taken, last_at) if taken else None, stale_after)


class FakeBackend:
    """A node whose devices a test sets while it is read.

    ``samples`` is what the next read returns; ``failure`` the sentence it fails with; ``before_read`` runs
    in the reading thread, and may block as a driver does.
    """

    def __init__(self, *samples: Sample, deviceless: bool = False) -> None:
        self.samples = samples
        self.failure: str | None = None
        self.deviceless = deviceless
        self.before_read: Callable[[], None] = lambda: None
        self.reads: list[float] = []
        self.is_closed = False

    @property
    def source(self) -> str:
        return "fake"

    def read(self, now: float) -> tuple[Sample, ...]:
        self.reads.append(now)
        self.is_closed = False
        self.before_read()
        if self.failure is not None:
            raise BackendError(self.failure)
        return tuple(sorted(self.samples, key=lambda one: one.device.index))

    def close(self) -> None:
        self.is_closed = True
