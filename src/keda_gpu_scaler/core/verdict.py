# SPDX-License-Identifier: Apache-2.0
"""How loaded are the devices this trigger asks about, and should the workload be running at all?

The law of this module: unknown is not zero. An unknown reading counts as idle where counting it as busy
would add replicas, and as fully used where counting it as idle would remove some; where the two lead to
different sizes there is no value, only a sentence that says why. A workload nobody can judge is active.
"""

import enum
import math
from dataclasses import dataclass

from keda_gpu_scaler.core.aggregate import AGGREGATIONS, mean
from keda_gpu_scaler.core.fleet import Fleet, History
from keda_gpu_scaler.core.model import Device
from keda_gpu_scaler.core.trigger import Trigger


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
    why. ``steps`` are the sentences that lead there, in order.
    """

    value: float | None
    active: bool
    steps: tuple[str, ...]
    lack: Lack | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Reading:
    device: Device
    value: float | None


def evaluate(trigger: Trigger, fleet: Fleet, now: float) -> Verdict:
    """Judge one trigger by what the fleet view holds; the same arguments give the same verdict.

    Args:
        trigger: what is asked.
        fleet: what was seen, and how old it may be.
        now: monotonic seconds on the clock that dated the fleet's history.
    """
    if fleet.deviceless:
        return _without_value(
            Lack.ABSENT,
            "this instance has no device by design (--backend none); ask one that runs on a GPU node",
        )
    if fleet.history is None or not fleet.is_fresh(now):
        return _without_value(Lack.UNSEEN, fleet.blindness(now))
    newest = fleet.history.newest
    in_scope = [
        sample.device
        for sample in newest.samples
        if trigger.gpu_index is None or sample.device.index == trigger.gpu_index
    ]
    if not in_scope:
        return _without_value(Lack.ABSENT, _no_such_device(trigger, fleet.history))
    readings = _windowed(trigger, fleet, fleet.history, in_scope)
    return _judge(trigger, readings, _seen(trigger, fleet.history, readings))


def _without_value(lack: Lack, reason: str, steps: tuple[str, ...] = ()) -> Verdict:
    return Verdict(
        value=None,
        active=True,
        steps=(*steps, reason, "active: nobody can tell that it is idle"),
        lack=lack,
        reason=reason,
    )


def _no_such_device(trigger: Trigger, history: History) -> str:
    node = history.newest.node
    indices = sorted({sample.device.index for sample in history.newest.samples})
    if trigger.gpu_index is None or not indices:
        return f"node {node} has no device"
    listed = ", ".join(map(str, indices))
    return f"metadata.gpuIndex: node {node} has no device {trigger.gpu_index}: it has {listed}"


def _windowed(trigger: Trigger, fleet: Fleet, history: History, devices: list[Device]) -> list[_Reading]:
    """Average every device's known readings over the window.

    A device whose newest known reading is older than the limit is unknown, however long the window is.
    """
    known: dict[str, list[float]] = {device.uuid: [] for device in devices}
    newest_known_age: dict[str, float] = {}
    for snapshot in history.within(trigger.window_seconds):
        age = history.newest.at_seconds - snapshot.at_seconds
        for sample in snapshot.samples:
            value = trigger.metric.read(sample)
            if value is not None and sample.device.uuid in known:
                known[sample.device.uuid].append(value)
                newest_known_age.setdefault(sample.device.uuid, age)
    return [
        _Reading(
            device,
            mean(known[device.uuid])
            if newest_known_age.get(device.uuid, math.inf) <= fleet.stale_after_seconds
            else None,
        )
        for device in devices
    ]


def _seen(trigger: Trigger, history: History, readings: list[_Reading]) -> tuple[str, ...]:
    window = f"mean of the last {trigger.window_seconds:g} s" if trigger.window_seconds else "newest sample"
    newest = history.newest
    heading = f"{trigger.metric.name} of {len(readings)} device(s) of node {newest.node} ({window}; {newest.source})"
    return (heading, *(_describe(trigger, reading) for reading in readings))


def _describe(trigger: Trigger, reading: _Reading) -> str:
    value = "unknown" if reading.value is None else f"{reading.value:.6g} {trigger.metric.unit}"
    return f"GPU {reading.device.index} {reading.device.model} ({reading.device.uuid}): {value}"


def _judge(trigger: Trigger, readings: list[_Reading], steps: tuple[str, ...]) -> Verdict:
    aggregate = AGGREGATIONS[trigger.aggregation]
    unknown = [reading for reading in readings if reading.value is None]
    low = aggregate([reading.value or 0.0 for reading in readings])
    if not unknown:
        return _with_value(trigger, low, (*steps, f"{trigger.aggregation}: {low:.6g} {trigger.metric.unit}"))
    # What would the HPA be asked for if every unknown device were idle, and if every one were fully used?
    # Only an answer on which both agree owes nothing to ignorance.
    ceiling = trigger.metric.ceiling
    high = math.inf if ceiling is None else aggregate([ceiling if r.value is None else r.value for r in readings])
    if math.isinf(high) or _size(trigger, low) != _size(trigger, high):
        named = ", ".join(f"GPU {reading.device.index} ({reading.device.uuid})" for reading in unknown[:3])
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        reason = (
            f"{trigger.metric.name} is unknown for {len(unknown)} of {len(readings)} devices: {named}{more}; the "
            f"others do not settle it. Repair them, ask for another metricType or narrow with gpuIndex"
        )
        return _without_value(Lack.UNSEEN, reason, steps)
    growing = low > trigger.target
    value = low if growing else high
    treated = "idle, because it asks to grow" if growing else "fully used, because it asks to shrink"
    step = f"{trigger.aggregation}: {value:.6g} {trigger.metric.unit}, {len(unknown)} unknown counted as {treated}"
    return _with_value(trigger, value, (*steps, step))


def _size(trigger: Trigger, value: float) -> int:
    """Return the replicas that a value asks for; the HPA's smallest size is one, going to zero is KEDA's affair."""
    return max(1, math.ceil(value / trigger.target))


def _with_value(trigger: Trigger, value: float, steps: tuple[str, ...]) -> Verdict:
    active = value > trigger.activation
    compared = "is above" if active else "is not above"
    activity = (
        f"{'active' if active else 'inactive'}: {value:.6g} {compared} activationThreshold {trigger.activation:g}"
    )
    return Verdict(value=value, active=active, steps=(*steps, activity))
