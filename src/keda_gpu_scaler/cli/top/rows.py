# SPDX-License-Identifier: Apache-2.0
"""What does the fleet look like as a table? By device, by node or by pod; sorted, filtered, and as JSON or CSV.

The law of this module: what is not known is None, and stays it. A sum is of the devices that are seen, whose number
stands beside it, and None where one of these does not tell; whatever the order, unknown comes last.

With ``--format json`` there is one object, whose keys stay as they are:

``at``      when, ISO 8601 in UTC
``place``   where from: "fleet", or with --local "host", "slurm job 4711", "flux job …", "pod ai/llama-0"
``by``      what a row is: "device", "node" or "pod"
``rows``    a list of objects, whose keys are CSV's columns too:

    ``node``                     empty for a pod on several
    ``pod``                      "namespace/name", empty unless by pod
    ``device``                   the driver's index, of a slice with its instance ("0/3"); empty unless by device
    ``uuid``, ``model``          the model is empty where there are several
    ``devices``, ``seen``        how many devices, and how many of them give readings
    ``gpu_utilization_percent``  of those seen the mean
    ``memory_used_bytes``, ``memory_total_bytes``, ``power_watts``   the sum, if each of those seen tells
    ``temperature_celsius``      of those seen the hottest
    ``held_by``                  a list of pods or jobs (CSV: with spaces between), null where nobody can tell
    ``age_seconds``              how old the reading is (of several the oldest)
    ``source``                   where it comes from ("nvml", "replay of …", "synthetic …")
    ``unknown``                  why readings are missing, empty where none is

``unheard``  an object: who ought to tell something and does not, and why
``notes``    a list of sentences on what else is to be known

A pod's part of a device that several share is an equal one, as in a trigger's answer. Unknown is null, in CSV empty.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from keda_gpu_scaler.core.evaluate.attribution import PodDevices, attribute
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, Fleet, History
from keda_gpu_scaler.core.types import Device, PodRef, Sample
from keda_gpu_scaler.devices.registry import is_measured

_MANY = 3
_PARTS = re.compile(r"[0-9]{1,18}|[^0-9]+")


class By(StrEnum):
    """What a row is."""

    DEVICE = "device"
    NODE = "node"
    POD = "pod"


@dataclass(frozen=True, slots=True)
class Row:
    """One row; the module's docstring says what its parts are.

    ``trails`` are the devices behind it, each by its node and UUID.
    """

    node: str
    pod: str
    device: str
    uuid: str
    model: str
    devices: int
    seen: int
    gpu_utilization_percent: float | None
    memory_used_bytes: float | None
    memory_total_bytes: float | None
    temperature_celsius: float | None
    power_watts: float | None
    held_by: tuple[str, ...] | None
    age_seconds: float | None
    source: str
    unknown: str
    trails: tuple[tuple[str, str], ...] = field(default=(), repr=False)


COLUMNS = tuple(part.name for part in fields(Row) if part.name != "trails")
"""The keys of JSON, and CSV's columns."""


@dataclass(frozen=True, slots=True)
class TopView:
    """Everything at one instant: a row for each device, who is not heard and why, and sentences besides."""

    at: datetime
    place: str
    rows: tuple[Row, ...]
    unheard: Mapping[str, str]
    notes: tuple[str, ...] = ()


class Sort(StrEnum):
    """What rows are ordered by; numbers begin with the largest."""

    NODE = "node"
    UTILIZATION = "util"
    MEMORY = "memory"
    TEMPERATURE = "temp"
    POWER = "power"
    HOLDER = "held"
    AGE = "age"


def device_rows(
    fleet: Fleet, now: float, *, meant: Callable[[Device], bool] = lambda device: True, holder: str | None = None
) -> Iterator[Row]:
    """Yield a row for each device of every node that is known.

    Args:
        fleet: what is seen.
        now: on the clock of the fleet's histories.
        meant: which devices are.
        holder: who holds them where no kubelet tells; None where nobody knows.
    """
    for node, history in fleet.nodes():
        missing_reason = "" if fleet.is_history_fresh(history, now) else fleet.missing_reason(node, now)
        held = None if missing_reason else _held(history, holder)
        age = history.age_seconds(now)
        for sample in history.newest.samples:
            if meant(sample.device):
                shown = Sample(sample.device) if missing_reason else sample
                yield _device_row(history, shown, held, age, missing_reason)


def unheard(fleet: Fleet) -> dict[str, str]:
    """Return who ought to tell something and does not: why."""
    listing = fleet.unavailable.get(PEERS_UNKNOWN)
    return {**({"discovery": listing} if listing else {}), **fleet.nodes_without_snapshot()}


def origins(rows: Iterable[Row]) -> tuple[str, ...]:
    """Say which nodes' readings are no driver's: no demonstration passes for a measurement."""
    nodes: dict[str, dict[str, None]] = {}
    for row in rows:
        if not is_measured(row.source):
            nodes.setdefault(row.source, {})[row.node] = None
    return tuple(
        f"{', '.join(names) if len(names) <= _MANY else f'{len(names)} nodes'}: {source}"
        for source, names in ((source, list(found)) for source, found in nodes.items())
    )


def arranged(rows: Iterable[Row], by: By, sort: Sort, words: str = "", *, is_reversed: bool = False) -> list[Row]:
    """Return the rows that hold every word, put together and in order."""
    kept = [row for row in rows if _holds(row, words)]
    if by is By.NODE:
        kept = [together(group) for group in _groups(kept, lambda row: (row.node,))]
    elif by is By.POD:
        shares = [share for row in kept for share in _shares(row)]
        kept = [replace(together(group), pod=group[0].pod) for group in _groups(shares, _holder)]
    kept.sort(key=_name)
    key = _KEYS[sort]
    known = [(place, row) for row in kept if (place := key(row)) is not None]
    # Numbers begin with the largest, names do not.
    known.sort(key=lambda pair: pair[0], reverse=is_reversed != (sort not in (Sort.NODE, Sort.HOLDER)))
    return [*(row for _, row in known), *(row for row in kept if key(row) is None)]


def as_json(view: TopView, by: By, rows: Sequence[Row]) -> str:
    """One object, whose keys stay as they are."""
    told = {
        "at": view.at.isoformat(),
        "place": view.place,
        "by": by,
        "rows": [{key: value for key, value in asdict(row).items() if key in COLUMNS} for row in rows],
        "unheard": dict(view.unheard),
        "notes": list(view.notes),
    }
    return json.dumps(told, ensure_ascii=False, indent=2, allow_nan=False)


def as_csv(rows: Sequence[Row]) -> str:
    """A line of names, and one for each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = {**asdict(row), "held_by": None if row.held_by is None else " ".join(row.held_by)}
        writer.writerow([values[key] for key in COLUMNS])
    return text.getvalue()


# ---- devices ----


def _device_row(
    history: History, sample: Sample, held: Mapping[str, tuple[str, ...]] | None, age: float, missing_reason: str
) -> Row:
    device, node = sample.device, history.newest.node
    utilization, total = sample.gpu_utilization_ratio, sample.memory_total_bytes
    return Row(
        node=node,
        pod="",
        device=f"{device.index}" if device.gpu_instance is None else f"{device.index}/{device.gpu_instance}",
        uuid=device.uuid,
        model=device.model,
        devices=1,
        seen=1 if sample.has_reading else 0,
        gpu_utilization_percent=None if utilization is None else 100 * utilization,
        memory_used_bytes=sample.memory_used_bytes,
        memory_total_bytes=total,
        temperature_celsius=sample.temperature_celsius,
        power_watts=sample.power_watts,
        held_by=None if held is None else held.get(device.uuid, ()),
        age_seconds=age,
        source=history.newest.source,
        unknown=missing_reason or ("" if sample.has_reading else "the driver gives no reading of it"),
        trails=((node, device.uuid),),
    )


def _held(history: History, holder: str | None) -> Mapping[str, tuple[str, ...]] | None:
    """Return who holds each device that is held, by UUID; None where nobody can tell."""
    found: Mapping[PodRef, PodDevices] | None = attribute(history.newest)
    if found is None:
        if holder is None:
            return None
        return {sample.device.uuid: (holder,) for sample in history.newest.samples}
    held: dict[str, list[str]] = {}
    for pod, holding in found.items():
        for share in holding.shares:
            held.setdefault(share.device.uuid, []).append(f"{pod.namespace}/{pod.name}")
    return {uuid: tuple(sorted(pods)) for uuid, pods in held.items()}


# ---- groups ----


def _shares(row: Row) -> Iterator[Row]:
    """Yield each holder's equal part of a device; what nobody holds, or nobody can tell of, is one of its own."""
    if not row.held_by:
        yield row
        return
    part = 1 / len(row.held_by)
    for pod in row.held_by:
        yield replace(
            row,
            pod=pod,
            held_by=(pod,),
            gpu_utilization_percent=_times(row.gpu_utilization_percent, part),
            memory_used_bytes=_times(row.memory_used_bytes, part),
            memory_total_bytes=_times(row.memory_total_bytes, part),
            power_watts=_times(row.power_watts, part),
        )


def _groups(rows: Iterable[Row], key: Callable[[Row], tuple[str, ...]]) -> Iterator[list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    yield from groups.values()


def together(rows: Sequence[Row]) -> Row:
    """Put rows together into one; there must be one at least."""
    seen = [row for row in rows if row.seen]
    held = [row.held_by for row in rows if row.held_by is not None]
    utilizations = _known(row.gpu_utilization_percent for row in seen)
    temperatures = _known(row.temperature_celsius for row in seen)
    return Row(
        node=_only(row.node for row in rows),
        pod="",
        device="",
        uuid="",
        model=_only(row.model for row in rows),
        devices=len(rows),
        seen=len(seen),
        gpu_utilization_percent=sum(utilizations) / len(utilizations) if utilizations else None,
        memory_used_bytes=_sum(row.memory_used_bytes for row in seen),
        memory_total_bytes=_sum(row.memory_total_bytes for row in seen),
        temperature_celsius=max(temperatures) if temperatures else None,
        power_watts=_sum(row.power_watts for row in seen),
        held_by=tuple(sorted({pod for pods in held for pod in pods})) if held else None,
        age_seconds=max(_known(row.age_seconds for row in rows), default=None),
        source=_only(row.source for row in rows),
        unknown="; ".join(dict.fromkeys(row.unknown for row in rows if row.unknown)),
        trails=tuple(key for row in rows for key in row.trails),
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _sum(values: Iterable[float | None]) -> float | None:
    """Add up; a sum that something is missing from would pass for less than there is."""
    listed = list(values)
    known = _known(listed)
    return sum(known) if known and len(known) == len(listed) else None


def _only(names: Iterable[str]) -> str:
    different = set(names)
    return different.pop() if len(different) == 1 else ""


def _times(value: float | None, part: float) -> float | None:
    return None if value is None else value * part


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


# ---- order and words ----


def _name(row: Row) -> tuple[Any, ...]:
    """Sort by names; what is no pod's comes after the pods."""
    return not row.pod, _natural(row.pod), _natural(row.node), _natural(row.device), row.uuid


def _holder(row: Row) -> tuple[str, ...]:
    """Tell by what rows belong to one pod, or on one node to nobody, or to nobody knows whom."""
    if row.pod:
        return (row.pod,)
    return ("", row.node, "" if row.held_by is None else "nobody")


def _held_place(row: Row) -> tuple[Any, ...] | None:
    if row.held_by is None:
        return None
    return not row.held_by, *map(_natural, row.held_by)


_KEYS: Mapping[Sort, Callable[[Row], Any]] = {
    Sort.NODE: _name,
    Sort.UTILIZATION: lambda row: row.gpu_utilization_percent,
    Sort.MEMORY: lambda row: _ratio(row.memory_used_bytes, row.memory_total_bytes),
    Sort.TEMPERATURE: lambda row: row.temperature_celsius,
    Sort.POWER: lambda row: row.power_watts,
    Sort.HOLDER: _held_place,
    Sort.AGE: lambda row: row.age_seconds,
}


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Numbers within a name count as numbers: gpu-10 comes after gpu-9."""
    return tuple((0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in _PARTS.findall(name))


def _holds(row: Row, words: str) -> bool:
    state = "unknown" if row.unknown else ""
    text = "\n".join((row.node, row.model, row.uuid, row.source, *(row.held_by or ()), state)).lower()
    return all(word in text for word in words.lower().split())
