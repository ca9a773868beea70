# SPDX-License-Identifier: Apache-2.0
"""The synthetic backend: a demonstration load of a busy node that does not exist.

Law: no figure here is a measurement, and no output can be mistaken for one: the source, every model and every UUID
contain the word "synthetic". The load depends on the seconds since the first read only, so that two runs are equal.
"""

import hashlib
import math
from dataclasses import dataclass

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.trigger.metrics import BASIC_METRICS
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.registry import Vendor, register

DEFAULT_DEVICES = 8
MAX_DEVICES = 64
IDLE_EVERY_SECONDS = 300
IDLE_FOR_SECONDS = 45
"""The last part of every five minutes: the whole node is idle, so that scaling to zero can be shown."""

_WAVE_SECONDS = 120
_BURST_SECONDS = 15
_BURST_SHARE = 0.15
_AMBIENT_CELSIUS = 28
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class _Model:
    """A model of board, in round figures."""

    name: str
    memory_bytes: int
    idle_watts: float
    full_watts: float
    full_celsius: float


_MODELS = (
    _Model("Synthetic H100 80GB", 80 * _GIB, 70, 690, 74),
    _Model("Synthetic L4 24GB", 24 * _GIB, 16, 72, 79),
)


class SyntheticBackend:
    """Simulates a node with two models, waves of two minutes, bursts, and periods without load.

    The even devices of each model simulate a server that allocates its memory at the start and keeps it. The odd
    devices simulate a job whose memory follows its load. The last of several devices reports no power, like some
    boards.

    Raises:
        BackendError: ``devices`` is not a number from 1 to ``MAX_DEVICES``.
    """

    def __init__(self, devices: int = DEFAULT_DEVICES) -> None:
        if not 1 <= devices <= MAX_DEVICES:
            raise BackendError(
                f"devices: Invalid value: {devices}: must be from 1 to {MAX_DEVICES}; "
                "for an instance without devices use --backend none"
            )
        half = (devices + 1) // 2
        self._models = tuple(_MODELS[0] if index < half else _MODELS[1] for index in range(devices))
        self._devices = tuple(
            Device(uuid=f"synthetic-gpu-{index}", index=index, model=model.name)
            for index, model in enumerate(self._models)
        )
        self._started_at: float | None = None

    @property
    def source(self) -> str:
        """The origin of the readings: no device."""
        return "synthetic demonstration load, not a real GPU"

    @property
    def deviceless(self) -> bool:
        """False: it simulates devices."""
        return False

    def read(self, now: float) -> tuple[Sample, ...]:
        """Return the samples of the simulated devices, at this time after the first read."""
        if self._started_at is None:
            self._started_at = now
        second = math.floor(now - self._started_at)
        return tuple(self._sample(device, second) for device in self._devices)

    def overdue_call(self) -> str | None:
        """Return None: it calls no driver."""
        return None

    def close(self) -> None:
        """Do nothing; the load continues."""

    def _sample(self, device: Device, second: int) -> Sample:
        model = self._models[device.index]
        load = _load(device.index, second)
        reports_power = device.index < len(self._devices) - 1 or device.index == 0
        return Sample(
            device=device,
            gpu_utilization_ratio=_whole_percent(load),
            memory_utilization_ratio=_whole_percent(0.45 * load),
            memory_used_bytes=_memory_used(model, device.index, second),
            memory_total_bytes=model.memory_bytes,
            temperature_celsius=_temperature(model, device.index, second),
            power_watts=_power(model, device.index, second) if reports_power else None,
        )


def _load(index: int, second: int) -> float:
    """Return the load of a device in this second, from 0 to 1."""
    if second % IDLE_EVERY_SECONDS >= IDLE_EVERY_SECONDS - IDLE_FOR_SECONDS:
        return 0.0
    if _chance("burst", index, second // _BURST_SECONDS) < _BURST_SHARE:
        level = 0.97
    else:
        level = 0.45 - 0.4 * math.cos(2 * math.pi * (second / _WAVE_SECONDS - 0.06 * index))
    return min(1.0, max(0.0, level + 0.06 * (_chance("ripple", index, second) - 0.5)))


def _memory_used(model: _Model, index: int, second: int) -> int:
    # Batches are allocated and freed: memory follows the load of the last ten seconds.
    share = 0.9 if index % 2 == 0 else 0.02 + 0.75 * _mean_load(index, second, span=10, every=1)
    mib = 1 << 20
    return int(share * model.memory_bytes) // mib * mib


def _power(model: _Model, index: int, second: int) -> float:
    # Boards average power over about a second; the mean of three seconds smooths the steps.
    load = _mean_load(index, second, span=3, every=1)
    return round(model.idle_watts + (model.full_watts - model.idle_watts) * math.pow(load, 0.8), 2)


def _temperature(model: _Model, index: int, second: int) -> float:
    load = _mean_load(index, second, span=60, every=5)
    return float(round(_AMBIENT_CELSIUS + 4 + (model.full_celsius - _AMBIENT_CELSIUS - 4) * load))


def _mean_load(index: int, second: int, *, span: int, every: int) -> float:
    """Return the mean load of the last ``span`` seconds, sampled every ``every`` seconds."""
    seconds = range(second, second - span, -every)
    return sum(_load(index, each) for each in seconds) / len(seconds)


def _whole_percent(ratio: float) -> float:
    # A driver returns whole percents.
    return round(100 * ratio) / 100


def _chance(what: str, index: int, step: int) -> float:
    """Return a number from 0 to 1 that is always the same for the same arguments."""
    digest = hashlib.blake2b(f"{what} {index} {step}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) / 2**32


register(
    Vendor(
        name="synthetic",
        title="a demonstration load, not a measurement",
        open=lambda argument, settings: SyntheticBackend(),
        metrics=BASIC_METRICS,
        units="invented",
    )
)
