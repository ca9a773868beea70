# SPDX-License-Identifier: Apache-2.0
"""Averages the readings of a node's devices over a window.

Law: a device's value is made of readings that the device gave within the window. Where a pod is evaluated, only
readings count that were taken while the present pods held the device. No reading is replaced by a guess.
"""

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from keda_gpu_scaler.core.aggregation import mean
from keda_gpu_scaler.core.evaluate.attribution import PodDevices, attribute
from keda_gpu_scaler.core.state.fleet import MAX_WINDOW_SECONDS, History
from keda_gpu_scaler.core.trigger.metrics import Metric
from keda_gpu_scaler.core.types import (
    KUBELET_ONLY,
    Allocation,
    ClusterAssignments,
    Device,
    PodRef,
    ReadingFailure,
    Sample,
    Snapshot,
)

# The columns of a device are collected for the next longer of these spans, once for all shorter windows.
_SPANS_SECONDS = (10.0, 30.0, 60.0, 120.0, MAX_WINDOW_SECONDS)
_T = TypeVar("_T")
_MAX_ASSIGNMENTS = 16  # of one node: a few workloads, and states of the cluster that are no longer asked for
_MAX_CACHE_ENTRIES = 256  # of one history: a caller may request very many windows before the next snapshot comes


@dataclass(frozen=True, slots=True)
class DeviceLoad:
    """A device's mean over the window, in the metric's unit.

    ``lag_seconds`` is how much older than the newest snapshot the device's newest reading is. ``failure`` says why the
    newest snapshot has no reading, where that is known.
    """

    device: Device
    value: float | None
    lag_seconds: float
    failure: ReadingFailure | None = None

    def is_within(self, lag_seconds: float) -> bool:
        """Whether there is a value whose newest reading lags by at most this."""
        return self.value is not None and self.lag_seconds <= lag_seconds


def device_loads(history: History, metric: Metric, window_seconds: float) -> tuple[DeviceLoad, ...]:
    """Average every device's known readings over the window, in the order of the newest snapshot."""
    key = ("loads", metric.name, window_seconds)
    if key in history.cache:
        cached: tuple[DeviceLoad, ...] = history.cache[key]
        return cached
    loads = tuple(_mean_over(column, window_seconds) for column in _columns(history, metric, window_seconds))
    return remember(history, key, loads)


def device_loads_by_holder(
    history: History, metric: Metric, window_seconds: float, cluster: ClusterAssignments = KUBELET_ONLY
) -> Mapping[str, DeviceLoad]:
    """Average every device's readings, by its UUID, over the part of the window in which the same pods held it.

    The load that an earlier pod put on the device is not the load of the present pod.
    """
    key = ("loads by holder", metric.name, window_seconds, id(cluster))
    if key in history.cache:
        cached: tuple[Mapping[str, DeviceLoad], ClusterAssignments] = history.cache[key]
        return cached[0]
    tenures = tenures_seconds(history, window_seconds + metric.span_seconds, cluster)
    loads = {}
    for column in _columns(history, metric, window_seconds):
        tenure = tenures.get(column.device.uuid, math.inf)
        loads[column.device.uuid] = _mean_over(column.held_for(tenure), min(window_seconds, tenure))
    return remember(history, key, (loads, cluster))[0]


def devices_by_pod(history: History, cluster: ClusterAssignments = KUBELET_ONLY) -> Mapping[PodRef, PodDevices] | None:
    """Return the devices of every pod in the newest snapshot, or None while the allocations are not known."""
    found: tuple[Mapping[PodRef, PodDevices] | None, ClusterAssignments] | None = history.holders.get(id(cluster))
    if found is None:
        if len(history.holders) >= _MAX_ASSIGNMENTS:
            history.holders.clear()
        # The entry keeps the assignments too. So no other object can have the id while the entry exists.
        found = history.holders[id(cluster)] = (attribute(history.newest, cluster), cluster)
    return found[0]


def remember(history: History, key: object, value: _T) -> _T:
    """Keep a result that was computed from a history, while there is space, and return it."""
    if len(history.cache) < _MAX_CACHE_ENTRIES:
        history.cache[key] = value
    return value


@dataclass(frozen=True, slots=True)
class _DeviceColumn:
    """One device's known readings, newest first, and how much older than the newest snapshot each of them is.

    ``in_newest`` is the number of readings in the newest snapshot: 0 or 1. ``spans_seconds`` has for each reading the
    time before it over which it is a mean, and is empty where that is no longer than an interval of the sampler.
    """

    device: Device
    lags_seconds: tuple[float, ...]
    values: tuple[float, ...]
    in_newest: int
    failure: ReadingFailure | None
    spans_seconds: tuple[float, ...] = ()

    def held_for(self, tenure_seconds: float) -> "_DeviceColumn":
        """Return the readings that cover only the time since the present pods hold the device."""
        if not self.spans_seconds or tenure_seconds == math.inf:
            return self
        count = sum(
            lag + span < tenure_seconds for lag, span in zip(self.lags_seconds, self.spans_seconds, strict=True)
        )
        # Readings of one device follow each other, so those that began within the tenure are the newest.
        return replace(
            self,
            lags_seconds=self.lags_seconds[:count],
            values=self.values[:count],
            spans_seconds=self.spans_seconds[:count],
            in_newest=min(self.in_newest, count),
        )


def _mean_over(column: _DeviceColumn, window_seconds: float) -> DeviceLoad:
    # The newest snapshot always counts. Any other snapshot counts if it is older by less than the window.
    count = bisect.bisect_left(column.lags_seconds, window_seconds, lo=column.in_newest)
    if not count:
        return DeviceLoad(column.device, None, math.inf, column.failure)
    return DeviceLoad(column.device, mean(column.values[:count]), min(column.lags_seconds[:count]), column.failure)


def _columns(history: History, metric: Metric, window_seconds: float) -> tuple[_DeviceColumn, ...]:
    """Collect every device's known readings over the window or longer, once for many windows."""
    span = next(span for span in _SPANS_SECONDS if window_seconds <= span)
    key = ("columns", metric.name, span)
    if key not in history.cache:
        history.cache[key] = _collect(history, metric, span)
    columns: tuple[_DeviceColumn, ...] = history.cache[key]
    return columns


def _collect(history: History, metric: Metric, span_seconds: float) -> tuple[_DeviceColumn, ...]:
    if metric.is_performance:
        return _collect_performance(history, metric, span_seconds)
    known: dict[str, list[tuple[float, float]]] = {sample.device.uuid: [] for sample in history.newest.samples}
    for snapshot in history.within(span_seconds):
        lag = history.newest.at_seconds - snapshot.at_seconds
        for sample in snapshot.samples:
            value = metric.read(sample)
            if value is not None and sample.device.uuid in known:
                known[sample.device.uuid].append((lag + sample.lag_seconds, value))
    return tuple([_column(metric, sample, known[sample.device.uuid]) for sample in history.newest.samples])


def _collect_performance(history: History, metric: Metric, span_seconds: float) -> tuple[_DeviceColumn, ...]:
    """Collect readings that are taken at a slower pace. Several snapshots have the same one, and it counts once."""
    found: dict[str, dict[float, tuple[float, float]]] = {sample.device.uuid: {} for sample in history.newest.samples}
    for snapshot in history.within(span_seconds):
        for sample in snapshot.samples:
            value, readings = metric.read(sample), found.get(sample.device.uuid)
            if value is not None and sample.performance is not None and readings is not None:
                lag = max(0.0, history.newest.at_seconds - sample.performance.at_seconds)
                readings[lag] = (value, sample.performance.seconds)
    columns = []
    for sample in history.newest.samples:
        ordered = sorted(found[sample.device.uuid].items())
        is_known = metric.read(sample) is not None
        columns.append(
            _DeviceColumn(
                sample.device,
                tuple([lag for lag, _ in ordered]),
                tuple([value for _, (value, _) in ordered]),
                int(is_known),
                None if is_known else sample.failure_of(metric.reading),
                tuple([span for _, (_, span) in ordered]),
            )
        )
    return tuple(columns)


def _column(metric: Metric, newest: Sample, readings: list[tuple[float, float]]) -> _DeviceColumn:
    is_known = metric.read(newest) is not None
    # A reading that lags its snapshot may be older than the one of the snapshot before.
    ordered = [*readings[: int(is_known)], *sorted(readings[int(is_known) :])]
    return _DeviceColumn(
        newest.device,
        tuple([lag for lag, _ in ordered]),
        tuple([value for _, value in ordered]),
        int(is_known),
        None if is_known else newest.failure_of(metric.reading),
    )


def tenures_seconds(history: History, window_seconds: float, cluster: ClusterAssignments) -> dict[str, float]:
    """Return how long ago the pods of a device changed within the window, by UUID.

    A device without a change is left out.
    """
    newest = history.newest
    tenures: dict[str, float] = {}
    present: dict[str, frozenset[PodRef]] | None = None
    compared: tuple[Allocation, ...] | None = newest.allocations
    for snapshot in history.within(window_seconds):
        # While nothing changes, all snapshots share one object of allocations, and there is nothing to compare.
        if snapshot.allocations is compared:
            continue
        compared = snapshot.allocations
        if present is None:
            present = _pods_by_device(newest, cluster)
        earlier = _pods_by_device(snapshot, cluster)
        lag = newest.at_seconds - snapshot.at_seconds
        for uuid in present.keys() | earlier.keys():
            if uuid not in tenures and present.get(uuid) != earlier.get(uuid):
                tenures[uuid] = lag
    return tenures


def _pods_by_device(snapshot: Snapshot, cluster: ClusterAssignments) -> dict[str, frozenset[PodRef]]:
    pods: dict[str, set[PodRef]] = {}
    for pod, devices in (attribute(snapshot, cluster) or {}).items():
        held = [share.device for share in devices.shares]
        # An earlier pod, whose annotation is gone with it, may have held any device.
        for device in [sample.device for sample in snapshot.samples] if devices.undetermined else held:
            pods.setdefault(device.uuid, set()).add(pod)
    return {uuid: frozenset(holders) for uuid, holders in pods.items()}
