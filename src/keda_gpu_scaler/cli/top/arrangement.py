# SPDX-License-Identifier: Apache-2.0
"""Groups, sorts and filters the rows of ``top``.

Law: a sum ignores devices without any reading. If one of the other devices does not have the summed reading, the sum is
unknown. Unknown values come last in every order. Pods share a device in equal parts, as in the answer to a trigger.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

from keda_gpu_scaler.cli.top.rows import TopRow
from keda_gpu_scaler.cli.top.workload_rows import WorkloadRow

_NAME_PARTS = re.compile(r"[0-9]{1,18}|[^0-9]+")


class RowKind(StrEnum):
    """The subject of a row."""

    DEVICE = "device"
    NODE = "node"
    POD = "pod"
    WORKLOAD = "workload"
    """A trigger of a ScaledObject. Its rows are not made of devices: see ``workload_rows``."""


class SortKey(StrEnum):
    """The column that orders the rows. Numbers begin with the largest."""

    NODE = "node"
    UTILIZATION = "util"
    MEMORY = "memory"
    TEMPERATURE = "temp"
    POWER = "power"
    HOLDER = "held"
    AGE = "age"


def arrange(
    rows: Iterable[TopRow], kind: RowKind, sort: SortKey, words: str = "", *, is_reversed: bool = False
) -> list[TopRow]:
    """Return the rows that contain every word, grouped and sorted.

    Args:
        rows: one row for each device.
        kind: the rows to return.
        sort: the column that orders them.
        words: words with spaces between, in any case.
        is_reversed: reverse the order. Unknown values still come last.
    """
    kept = [row for row in rows if _contains(row, words)]
    if kind is RowKind.NODE:
        kept = [merged(group) for group in _groups(kept, lambda row: (row.node,))]
    elif kind is RowKind.POD:
        shares = [share for row in kept for share in _shares(row)]
        kept = [replace(merged(group), pod=group[0].pod) for group in _groups(shares, _pod_group)]
    kept.sort(key=_by_name)
    sort_value = _SORT_VALUES[sort]
    known = [(value, row) for row in kept if (value := sort_value(row)) is not None]
    has_numbers = sort not in (SortKey.NODE, SortKey.HOLDER)
    known.sort(key=lambda pair: pair[0], reverse=is_reversed != has_numbers)
    return [*(row for _, row in known), *(row for row in kept if sort_value(row) is None)]


def merged(rows: Sequence[TopRow]) -> TopRow:
    """Return one row for several rows; at least one is required."""
    with_value = [row for row in rows if row.with_value]
    holders = [row.held_by for row in rows if row.held_by is not None]
    utilizations = _known(row.gpu_utilization_percent for row in with_value)
    temperatures = _known(row.temperature_celsius for row in with_value)
    return TopRow(
        node=_common(row.node for row in rows),
        pod="",
        device="",
        uuid="",
        vendor=_common(row.vendor for row in rows),
        model=_common(row.model for row in rows),
        devices=len(rows),
        with_value=len(with_value),
        gpu_utilization_percent=sum(utilizations) / len(utilizations) if utilizations else None,
        memory_used_bytes=_complete_sum(row.memory_used_bytes for row in with_value),
        memory_total_bytes=_complete_sum(row.memory_total_bytes for row in with_value),
        temperature_celsius=max(temperatures) if temperatures else None,
        power_watts=_complete_sum(row.power_watts for row in with_value),
        held_by=tuple(sorted({pod for pods in holders for pod in pods})) if holders else None,
        age_seconds=max(_known(row.age_seconds for row in rows), default=None),
        source=_common(row.source for row in rows),
        unknown="; ".join(dict.fromkeys(row.unknown for row in rows if row.unknown)),
        device_keys=tuple(key for row in rows for key in row.device_keys),
    )


# ---- groups ----


def _shares(row: TopRow) -> Iterator[TopRow]:
    """Yield the equal part of each holder of a device; the whole device where it has no known holder."""
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


def _groups(rows: Iterable[TopRow], key: Callable[[TopRow], tuple[str, ...]]) -> Iterator[list[TopRow]]:
    groups: dict[tuple[str, ...], list[TopRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    yield from groups.values()


def _pod_group(row: TopRow) -> tuple[str, ...]:
    """Return the pod, or for a device without one its node, and whether it is known that no pod holds it."""
    if row.pod:
        return (row.pod,)
    return ("", row.node, "" if row.held_by is None else "no holder")


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _complete_sum(values: Iterable[float | None]) -> float | None:
    """Return the sum, or None if a value is missing: a partial sum would look like a small one."""
    every = list(values)
    known = _known(every)
    return sum(known) if known and len(known) == len(every) else None


def _common(names: Iterable[str]) -> str:
    different = set(names)
    return different.pop() if len(different) == 1 else ""


def _times(value: float | None, part: float) -> float | None:
    return None if value is None else value * part


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


# ---- order and filter ----


def _by_name(row: TopRow) -> tuple[Any, ...]:
    """Return the sort value of a row's names. Rows without a pod come after the pods."""
    return not row.pod, _natural(row.pod), _natural(row.node), _natural(row.device), row.uuid


def _by_holder(row: TopRow) -> tuple[Any, ...] | None:
    if row.held_by is None:
        return None
    return not row.held_by, *map(_natural, row.held_by)


_SORT_VALUES: Mapping[SortKey, Callable[[TopRow], Any]] = {
    SortKey.NODE: _by_name,
    SortKey.UTILIZATION: lambda row: row.gpu_utilization_percent,
    SortKey.MEMORY: lambda row: _ratio(row.memory_used_bytes, row.memory_total_bytes),
    SortKey.TEMPERATURE: lambda row: row.temperature_celsius,
    SortKey.POWER: lambda row: row.power_watts,
    SortKey.HOLDER: _by_holder,
    SortKey.AGE: lambda row: row.age_seconds,
}


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Split a name so that its numbers sort as numbers: gpu-10 comes after gpu-9."""
    parts = _NAME_PARTS.findall(name)
    return tuple((0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts)


def _contains(row: TopRow, words: str) -> bool:
    state = "unknown" if row.unknown else ""
    text = "\n".join((row.node, row.vendor, row.model, row.uuid, row.source, *(row.held_by or ()), state)).lower()
    return all(word in text for word in words.lower().split())


# ---- workloads ----


def arrange_workloads(
    rows: Iterable[WorkloadRow], sort: SortKey, words: str = "", *, is_reversed: bool = False
) -> list[WorkloadRow]:
    """Return the rows that contain every word, sorted. A trigger without a value comes first in the order of names.

    Args:
        rows: one row for each trigger.
        sort: ``UTILIZATION`` orders by the value as a multiple of the target, ``AGE`` by the age of the answer, and
            every other one by the name.
        words: words with spaces between, in any case.
        is_reversed: reverse the order.
    """
    kept = [row for row in rows if all(word in _workload_text(row) for word in words.lower().split())]
    if sort is SortKey.UTILIZATION:
        known = [row for row in kept if row.ratio is not None]
        known.sort(key=lambda row: row.ratio or 0.0, reverse=not is_reversed)
        return [*known, *(row for row in kept if row.ratio is None)]
    if sort is SortKey.AGE:
        return sorted(kept, key=lambda row: row.age_seconds, reverse=not is_reversed)
    return sorted(kept, key=lambda row: (row.reported is not None, row.namespace, row.name), reverse=is_reversed)


def _workload_text(row: WorkloadRow) -> str:
    state = "unknown" if row.reported is None else ""
    return f"{row.namespace}/{row.name}\n{row.metric}\n{row.metric_name}\n{row.limit}\n{row.why}\n{state}".lower()
