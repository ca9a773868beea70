# SPDX-License-Identifier: Apache-2.0
"""How loaded are the devices this trigger asks about, and should the workload be running at all?

The law of this module: unknown is not zero. While the reading of any device in scope is unknown there is no
value, only a sentence that says why, and a workload nobody can judge is active.
"""

import bisect
import enum
import math
from dataclasses import dataclass, field

from keda_gpu_scaler.core.aggregate import AGGREGATIONS, mean
from keda_gpu_scaler.core.catalog import Metric
from keda_gpu_scaler.core.fleet import Fleet, History
from keda_gpu_scaler.core.model import Device
from keda_gpu_scaler.core.trigger import MAX_WINDOW_SECONDS, Trigger

_NAMED = 3  # so many unknown devices are named, and the others counted
# Readings are collected for the next longer of these, once for all windows in between.
_REACHES_SECONDS = (10.0, 30.0, 60.0, 120.0, MAX_WINDOW_SECONDS)
_MEMO_LENGTH = 256  # of a history: with a snapshot an hour, a stranger may ask for very many windows in between


class Lack(enum.Enum):
    """Why a verdict has no value."""

    UNSEEN = "unseen"
    """Nothing to go by at the moment; it may pass by itself."""

    ABSENT = "absent"
    """The trigger asks for devices that are not there; somebody must change something."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one trigger at one instant.

    ``value`` is in the metric's unit, finite and not negative, or None where ``lack`` and ``reason`` say
    why. ``steps`` are the sentences that lead there, in order. Until ``holds_until_seconds``, on the clock of
    ``evaluate``'s ``now``, the same fleet view gives the same verdict.
    """

    value: float | None
    active: bool
    steps: tuple[str, ...]
    lack: Lack | None = None
    reason: str = ""
    holds_until_seconds: float = field(default=-math.inf, compare=False)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A device's mean over the window, and how much older than the newest snapshot its newest reading is."""

    device: Device
    value: float | None
    lag_seconds: float


def evaluate(trigger: Trigger, fleet: Fleet, now: float) -> Verdict:
    """Judge one trigger by what the fleet view holds; the same arguments give the same verdict.

    Args:
        trigger: what is asked.
        fleet: what was seen, and how old it may be.
        now: monotonic seconds on the clock that dated the fleet's history.
    """
    if fleet.deviceless:
        return _without_value(
            Lack.ABSENT, "this instance has no device by design (--backend none); ask one that runs on a GPU node"
        )
    if fleet.history is None or not fleet.is_fresh(now):
        return _without_value(Lack.UNSEEN, fleet.blindness(now))
    readings = [
        reading
        for reading in _windowed(fleet.history, trigger.metric, trigger.window_seconds)
        if trigger.gpu_index is None or reading.device.index == trigger.gpu_index
    ]
    if not readings:
        return _without_value(Lack.ABSENT, _no_such_device(trigger, fleet.history))
    steps = _seen(trigger, fleet.history, readings)
    # A reading's age is the snapshot's and its own lag together: however long the window, nothing older counts.
    believed = fleet.stale_after_seconds - fleet.history.age_seconds(now)
    unknown = [reading for reading in readings if reading.value is None or reading.lag_seconds > believed]
    if unknown:
        return _without_value(Lack.UNSEEN, _unknown_devices(trigger, unknown, len(readings)), steps)
    value = AGGREGATIONS[trigger.aggregation]([reading.value for reading in readings if reading.value is not None])
    active = value > trigger.activation
    outcome = "active: {:.6g} is above" if active else "inactive: {:.6g} is not above"
    return Verdict(
        value=value,
        active=active,
        steps=(
            *steps,
            f"{trigger.aggregation}: {value:.6g} {trigger.metric.unit}",
            f"{outcome.format(value)} activationThreshold {trigger.activation:g}",
        ),
        holds_until_seconds=fleet.history.received_at_seconds
        + fleet.stale_after_seconds
        - max(reading.lag_seconds for reading in readings),
    )


def _without_value(lack: Lack, reason: str, steps: tuple[str, ...] = ()) -> Verdict:
    activity = "active: nobody can tell that it is idle"
    return Verdict(value=None, active=True, steps=(*steps, reason, activity), lack=lack, reason=reason)


def _no_such_device(trigger: Trigger, history: History) -> str:
    node = history.newest.node
    indices = sorted({sample.device.index for sample in history.newest.samples})
    if trigger.gpu_index is None or not indices:
        return f"node {node} has no device; run the scaler on GPU nodes only"
    listed = ", ".join(map(str, indices))
    return f"metadata.gpuIndex: node {node} has no device {trigger.gpu_index}: it has {listed}; -1 means all"


def _unknown_devices(trigger: Trigger, unknown: list[_Reading], in_scope: int) -> str:
    named = ", ".join(f"GPU {reading.device.index} ({reading.device.uuid})" for reading in unknown[:_NAMED])
    more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    return (
        f"{trigger.metric.name} is unknown for {len(unknown)} of {in_scope} devices: {named}{more}; nothing moves "
        "until they answer. Repair them, ask for another metricType, or narrow the trigger with gpuIndex"
    )


@dataclass(frozen=True, slots=True)
class _Column:
    """One device's known readings, newest first, and how much older than the newest snapshot each is."""

    device: Device
    lags_seconds: tuple[float, ...]
    values: tuple[float, ...]


def _windowed(history: History, metric: Metric, window_seconds: float) -> tuple[_Reading, ...]:
    """Average every device's known readings over the window, in the order of the newest snapshot."""
    key = ("window", metric.name, window_seconds)
    if key in history.memo:
        readings: tuple[_Reading, ...] = history.memo[key]
        return readings
    readings = tuple(_mean_over(column, window_seconds) for column in _columns(history, metric, window_seconds))
    if len(history.memo) < _MEMO_LENGTH:
        history.memo[key] = readings
    return readings


def _mean_over(column: _Column, window_seconds: float) -> _Reading:
    # The newest snapshot counts whatever the window; every other must be less than its length older.
    count = max(bisect.bisect_left(column.lags_seconds, window_seconds), bisect.bisect_right(column.lags_seconds, 0.0))
    if not count:
        return _Reading(column.device, None, math.inf)
    return _Reading(column.device, mean(column.values[:count]), column.lags_seconds[0])


def _columns(history: History, metric: Metric, window_seconds: float) -> tuple[_Column, ...]:
    """Collect every device's known readings, as far back as the window and maybe farther, once for many windows."""
    reach = next(reach for reach in _REACHES_SECONDS if window_seconds <= reach)
    key = ("columns", metric.name, reach)
    if key not in history.memo:
        history.memo[key] = _collect(history, metric, reach)
    columns: tuple[_Column, ...] = history.memo[key]
    return columns


def _collect(history: History, metric: Metric, reach_seconds: float) -> tuple[_Column, ...]:
    known: dict[str, list[tuple[float, float]]] = {sample.device.uuid: [] for sample in history.newest.samples}
    for snapshot in history.within(reach_seconds):
        lag = history.newest.at_seconds - snapshot.at_seconds
        for sample in snapshot.samples:
            value = metric.read(sample)
            if value is not None and sample.device.uuid in known:
                known[sample.device.uuid].append((lag, value))
    return tuple(
        _Column(sample.device, tuple(lag for lag, _ in readings), tuple(value for _, value in readings))
        for sample in history.newest.samples
        for readings in (known[sample.device.uuid],)
    )


def _seen(trigger: Trigger, history: History, readings: list[_Reading]) -> tuple[str, ...]:
    window = f"mean of the last {trigger.window_seconds:g} s" if trigger.window_seconds else "newest sample"
    newest = history.newest
    heading = f"{trigger.metric.name} of {len(readings)} device(s) of node {newest.node} ({window}; {newest.source})"
    return (heading, *(_describe(trigger, reading) for reading in readings))


def _describe(trigger: Trigger, reading: _Reading) -> str:
    value = "unknown" if reading.value is None else f"{reading.value:.6g} {trigger.metric.unit}"
    lag = f" ({reading.lag_seconds:.0f} s before the newest snapshot)" if 1 <= reading.lag_seconds < math.inf else ""
    return f"GPU {reading.device.index} {reading.device.model} ({reading.device.uuid}): {value}{lag}"
