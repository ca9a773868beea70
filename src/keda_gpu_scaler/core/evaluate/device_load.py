# SPDX-License-Identifier: Apache-2.0
"""What did each device of a node do lately? Its readings, averaged over a window.

The law of this module: a device's value is made of readings it gave, within the window and, where it counts who
held it, under those who hold it now; none of these is replaced by a guess.
"""

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from keda_gpu_scaler.core.aggregation import mean
from keda_gpu_scaler.core.evaluate.attribution import PodDevices, attribute
from keda_gpu_scaler.core.state.fleet import MAX_WINDOW_SECONDS, History
from keda_gpu_scaler.core.trigger.metrics import Metric
from keda_gpu_scaler.core.types import Allocation, Device, PodRef, Snapshot

# Readings are collected for the next longer of these, once for all windows in between.
_REACHES_SECONDS = (10.0, 30.0, 60.0, 120.0, MAX_WINDOW_SECONDS)
_T = TypeVar("_T")
_MEMO_LENGTH = 256  # of a history: with a snapshot an hour, a stranger may ask for very many windows in between


@dataclass(frozen=True, slots=True)
class DeviceLoad:
    """A device's mean over the window, and how much older than the newest snapshot its newest reading is."""

    device: Device
    value: float | None
    lag_seconds: float

    def is_within(self, lag_seconds: float) -> bool:
        """Whether there is a value, and one that is not older than this."""
        return self.value is not None and self.lag_seconds <= lag_seconds


def device_loads(history: History, metric: Metric, window_seconds: float) -> tuple[DeviceLoad, ...]:
    """Average every device's known readings over the window, in the order of the newest snapshot."""
    key = ("window", metric.name, window_seconds)
    if key in history.cache:
        readings: tuple[DeviceLoad, ...] = history.cache[key]
        return readings
    readings = tuple(_mean_over(column, window_seconds) for column in _columns(history, metric, window_seconds))
    return _remember(history, key, readings)


def device_loads_by_holder(history: History, metric: Metric, window_seconds: float) -> Mapping[str, DeviceLoad]:
    """Average every device's readings, by its UUID, over that part of the window in which the same pods held it.

    What a device did for the pod before this one is not this one's load.
    """
    key = ("held window", metric.name, window_seconds)
    if key in history.cache:
        readings: Mapping[str, DeviceLoad] = history.cache[key]
        return readings
    tenures = _tenures_seconds(history, window_seconds)
    readings = {
        column.device.uuid: _mean_over(column, min(window_seconds, tenures.get(column.device.uuid, math.inf)))
        for column in _columns(history, metric, window_seconds)
    }
    return _remember(history, key, readings)


def devices_by_pod(history: History) -> Mapping[PodRef, PodDevices] | None:
    """Return who holds which devices of the node now, or None while nobody can tell."""
    if "holdings" not in history.cache:
        history.cache["holdings"] = attribute(history.newest)
    found: Mapping[PodRef, PodDevices] | None = history.cache["holdings"]
    return found


def _remember(history: History, key: object, value: _T) -> _T:
    if len(history.cache) < _MEMO_LENGTH:
        history.cache[key] = value
    return value


@dataclass(frozen=True, slots=True)
class _DeviceColumn:
    """One device's known readings, newest first, and how much older than the newest snapshot each is."""

    device: Device
    lags_seconds: tuple[float, ...]
    values: tuple[float, ...]


def _mean_over(column: _DeviceColumn, window_seconds: float) -> DeviceLoad:
    # The newest snapshot counts whatever the window; every other must be less than its length older.
    count = max(bisect.bisect_left(column.lags_seconds, window_seconds), bisect.bisect_right(column.lags_seconds, 0.0))
    if not count:
        return DeviceLoad(column.device, None, math.inf)
    return DeviceLoad(column.device, mean(column.values[:count]), column.lags_seconds[0])


def _columns(history: History, metric: Metric, window_seconds: float) -> tuple[_DeviceColumn, ...]:
    """Collect every device's known readings, as far back as the window and maybe farther, once for many windows."""
    reach = next(reach for reach in _REACHES_SECONDS if window_seconds <= reach)
    key = ("columns", metric.name, reach)
    if key not in history.cache:
        history.cache[key] = _collect(history, metric, reach)
    columns: tuple[_DeviceColumn, ...] = history.cache[key]
    return columns


def _collect(history: History, metric: Metric, reach_seconds: float) -> tuple[_DeviceColumn, ...]:
    known: dict[str, list[tuple[float, float]]] = {sample.device.uuid: [] for sample in history.newest.samples}
    for snapshot in history.within(reach_seconds):
        lag = history.newest.at_seconds - snapshot.at_seconds
        for sample in snapshot.samples:
            value = metric.read(sample)
            if value is not None and sample.device.uuid in known:
                known[sample.device.uuid].append((lag, value))
    return tuple(
        _DeviceColumn(sample.device, tuple(lag for lag, _ in readings), tuple(value for _, value in readings))
        for sample in history.newest.samples
        for readings in (known[sample.device.uuid],)
    )


def _tenures_seconds(history: History, window_seconds: float) -> dict[str, float]:
    """How long ago devices changed hands within the window, by UUID; those that did not are left out."""
    newest = history.newest
    tenures: dict[str, float] = {}
    now_held: dict[str, frozenset[PodRef]] | None = None
    compared: tuple[Allocation, ...] | None = newest.allocations
    for snapshot in history.within(window_seconds):
        # As long as nothing changes the allocations are one object, and there is nothing to compare.
        if snapshot.allocations is compared:
            continue
        compared = snapshot.allocations
        if now_held is None:
            now_held = _held_by(newest)
        held = _held_by(snapshot)
        lag = newest.at_seconds - snapshot.at_seconds
        for uuid in now_held.keys() | held.keys():
            if uuid not in tenures and now_held.get(uuid) != held.get(uuid):
                tenures[uuid] = lag
    return tenures


def _held_by(snapshot: Snapshot) -> dict[str, frozenset[PodRef]]:
    held: dict[str, set[PodRef]] = {}
    for pod, holding in (attribute(snapshot) or {}).items():
        for share in holding.shares:
            held.setdefault(share.device.uuid, set()).add(pod)
    return {uuid: frozenset(pods) for uuid, pods in held.items()}
