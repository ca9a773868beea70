# SPDX-License-Identifier: Apache-2.0
"""Encodes a snapshot as one line of JSON, and decodes untrusted text as a snapshot.

Law: ``decode(encode(snapshot)) == snapshot``, and any other text is a ``CodecError``. An unknown reading is left out;
it is never written as 0 or NaN. Unknown keys are ignored, so that a newer version can add keys: an older version reads
a snapshot without the reasons of unknown readings, and without the performance readings.

Between peers most of a snapshot is equal to the one before. So ``encode_change`` writes only the differences, and
``apply_change(before, encode_change(before, after)) == after``.
"""

import json
import math
from dataclasses import replace
from typing import Any

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.types import Allocation, Device, PerformanceReadings, ReadingFailure, Sample, Snapshot
from keda_gpu_scaler.wire.json_fields import (
    MAX_LENGTH,
    MAX_NUMBER,
    MAX_TEXT_LENGTH,
    MAX_WHOLE,
    CodecError,
    Fields,
    parse_object,
)
from keda_gpu_scaler.wire.pod_uses import plain_changed_uses, plain_uses, read_changed_uses, read_uses

__all__ = [
    "MAX_ALLOCATIONS",
    "MAX_FAILURES",
    "MAX_LENGTH",
    "MAX_NUMBER",
    "MAX_SAMPLES",
    "MAX_SOURCE_LENGTH",
    "MAX_TEXT_LENGTH",
    "MAX_WHOLE",
    "VERSION",
    "CodecError",
    "apply_change",
    "decode",
    "encode",
    "encode_change",
]

VERSION = 1
"""Changes only when an older reader would read a snapshot wrongly. A new key does not change it."""
MAX_SAMPLES = 4096
MAX_ALLOCATIONS = 16384
MAX_SOURCE_LENGTH = 1024
MAX_FAILURES = 8
"""The limit for one sample: more than a device has readings."""

_READINGS = (
    "gpu_utilization_ratio",
    "memory_utilization_ratio",
    "memory_used_bytes",
    "memory_total_bytes",
    "temperature_celsius",
    "power_watts",
)
_RATIOS = ("sm_active_ratio", "tensor_active_ratio", "dram_active_ratio")
_AMOUNTS = (
    "pcie_rx_bytes_per_second",
    "pcie_tx_bytes_per_second",
    "nvlink_rx_bytes_per_second",
    "nvlink_tx_bytes_per_second",
    "energy_joules",
)
_IDENTIFIERS = ("parent", "minor", "gpu_instance", "compute_instance")
_ALLOCATION_FIELDS = 5
_FAILURE_FIELDS = 3
_DETAILS_FIELDS = 2
_MAX_NAMES = 16


def encode(snapshot: Snapshot) -> str:
    """Return a snapshot as one line of ASCII, without a newline.

    A reading that is not finite is left out, like an unknown one.

    Raises:
        CodecError: ``decode`` would refuse the snapshot. The error comes during a recording, not at its replay.
    """
    plain = {
        "version": VERSION,
        "node": snapshot.node,
        "sequence": snapshot.sequence,
        "at_seconds": snapshot.at_seconds,
        "unix_seconds": snapshot.unix_seconds,
        "source": snapshot.source,
        "samples": [_plain_sample(sample) for sample in snapshot.samples],
    }
    if snapshot.allocations is not None:
        plain["allocations"] = [_plain_allocation(allocation) for allocation in snapshot.allocations]
    _snapshot(Fields(plain))
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def decode(text: str | bytes) -> Snapshot:
    """Return the snapshot that ``encode`` of this or another version wrote.

    Raises:
        CodecError: the text is not a snapshot. The message names the field, the value and the requirement.
    """
    return _snapshot(parse_object(text))


def encode_change(before: Snapshot, after: Snapshot) -> str | None:
    """Return the differences of a later snapshot as one line of ASCII, None if its devices are different.

    The readings of a changed device are a list by its position. The order is that of ``Sample``'s fields; null means
    unknown. The lag and the failures of a sample, and its performance readings, are sent only where they changed, under
    keys of their own, which an older version ignores. The uses are a list of one
    list there, which is empty where they are not known.

    Raises:
        CodecError: ``apply_change`` would refuse the later snapshot.
    """
    if before.node != after.node or before.source != after.source or len(before.samples) != len(after.samples):
        return None
    changed: dict[str, list[float | None]] = {}
    details: dict[str, list[object]] = {}
    performance: dict[str, dict[str, float] | None] = {}
    for position, (old, new) in enumerate(zip(before.samples, after.samples, strict=True)):
        if old is new or old == new:
            continue
        if old.device != new.device:
            return None
        readings = [_finite(getattr(new, name)) for name in _READINGS]
        _changed_sample(new.device, readings, position)
        changed[str(position)] = readings
        if old.failures != new.failures or old.lag_seconds != new.lag_seconds:
            details[str(position)] = [new.lag_seconds, _plain_failures(new)]
            _details(details[str(position)], position)
        if old.performance != new.performance:
            performance[str(position)] = None if new.performance is None else _plain_performance(new.performance)
    plain: dict[str, object] = {
        "version": VERSION,
        "after": before.sequence,
        "sequence": after.sequence,
        "at_seconds": after.at_seconds,
        "unix_seconds": after.unix_seconds,
        "samples": changed,
    }
    if details:
        plain["details"] = details
    plain.update(plain_changed_uses(before.samples, after.samples))
    if performance:
        plain["performance"] = performance
    if after.allocations is not before.allocations and after.allocations != before.allocations:
        plain["allocations"] = (
            None if after.allocations is None else [_plain_allocation(allocation) for allocation in after.allocations]
        )
    fields = Fields(plain)
    _times(fields)
    _allocations(fields)
    _changed_performance(fields, len(after.samples))
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def apply_change(before: Snapshot, text: str | bytes) -> Snapshot:
    """Return the later snapshot. Unchanged samples stay the same objects.

    Raises:
        CodecError: the text is not a change, or not a change of this snapshot.
    """
    fields = parse_object(text)
    fields.check_version("version", VERSION)
    fields.whole("after", before.sequence, before.sequence)
    samples = list(before.samples)
    for position, readings in fields.lists("samples", len(samples)):
        old = samples[position]
        samples[position] = _changed_sample(old.device, readings, position)
        if old.failures or old.lag_seconds or old.performance is not None or old.uses is not None:
            samples[position] = replace(
                samples[position],
                lag_seconds=old.lag_seconds,
                failures=old.failures,
                performance=old.performance,
                uses=old.uses,
            )
    if not fields.is_unknown("details"):
        for position, item in fields.lists("details", len(samples)):
            lag_seconds, failures = _details(item, position)
            samples[position] = replace(samples[position], lag_seconds=lag_seconds, failures=failures)
    for position, uses in read_changed_uses(fields, len(samples)):
        samples[position] = replace(samples[position], uses=uses)
    for position, performance in _changed_performance(fields, len(samples)):
        samples[position] = replace(samples[position], performance=performance)
    sequence, at_seconds, unix_seconds = _times(fields)
    return Snapshot(
        node=before.node,
        sequence=sequence,
        at_seconds=at_seconds,
        unix_seconds=unix_seconds,
        source=before.source,
        samples=tuple(samples),
        allocations=_allocations(fields) if "allocations" in fields else before.allocations,
    )


def _plain_sample(sample: Sample) -> dict[str, object]:
    device = sample.device
    plain: dict[str, object] = {"uuid": device.uuid, "index": device.index, "model": device.model}
    if device.pci_address:
        plain["pci_address"] = device.pci_address
    for name in _IDENTIFIERS:
        if (identifier := getattr(device, name)) is not None:
            plain[name] = identifier
    if device.names:
        plain["names"] = list(device.names)
    for name in _READINGS:
        if (value := _finite(getattr(sample, name))) is not None:
            plain[name] = value
    if sample.lag_seconds:
        plain["lag_seconds"] = sample.lag_seconds
    if sample.failures:
        plain["failures"] = _plain_failures(sample)
    if sample.performance is not None:
        plain["performance"] = _plain_performance(sample.performance)
    plain.update(plain_uses(sample.uses))
    return plain


def _plain_performance(performance: PerformanceReadings) -> dict[str, float]:
    plain = {"at_seconds": performance.at_seconds, "seconds": performance.seconds}
    for name in (*_RATIOS, *_AMOUNTS):
        if (value := _finite(getattr(performance, name))) is not None:
            plain[name] = value
    return plain


def _plain_failures(sample: Sample) -> list[list[object]]:
    return [[failure.reading, failure.reason, failure.since_seconds] for failure in sample.failures]


def _plain_allocation(allocation: Allocation) -> list[str | int]:
    texts = [allocation.namespace, allocation.pod, allocation.container, allocation.resource, allocation.device_id]
    return [*texts, allocation.quantity] if allocation.quantity != 1 else [*texts]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _snapshot(fields: Fields) -> Snapshot:
    fields.check_version("version", VERSION)
    node = fields.text("node", default="")
    sequence, at_seconds, unix_seconds = _times(fields)
    snapshot = Snapshot(
        node=node,
        sequence=sequence,
        at_seconds=at_seconds,
        unix_seconds=unix_seconds,
        source=fields.text("source", MAX_SOURCE_LENGTH, default=""),
        samples=tuple(_sample(item) for item in fields.objects("samples", MAX_SAMPLES)),
        allocations=_allocations(fields),
    )
    uuids: set[str] = set()
    for sample in snapshot.samples:
        uuid = sample.device.uuid
        if uuid in uuids:
            raise CodecError(f"samples: Duplicate value: {quoted(uuid)}: a device must be listed once")
        uuids.add(uuid)
    return snapshot


def _times(fields: Fields) -> tuple[int, float, float]:
    return (
        fields.whole("sequence"),
        fields.number("at_seconds", 0, MAX_NUMBER),
        fields.number("unix_seconds", 0, MAX_NUMBER),
    )


def _sample(fields: Fields) -> Sample:
    # More memory used than the total is refused, not made unknown, like a ratio above 1. No backend of this program
    # reports it, so its writer is not trusted, and encoding stays the inverse of decoding.
    total = None if fields.is_unknown("memory_total_bytes") else fields.whole("memory_total_bytes", at_least=1)
    used_at_most = MAX_WHOLE if total is None else total
    return Sample(
        device=Device(
            uuid=fields.text("uuid"),
            index=fields.whole("index"),
            model=fields.text("model", default=""),
            pci_address=fields.text("pci_address", default=""),
            parent=None if fields.is_unknown("parent") else fields.text("parent"),
            minor=_whole(fields, "minor", MAX_WHOLE),
            gpu_instance=_whole(fields, "gpu_instance", MAX_WHOLE),
            compute_instance=_whole(fields, "compute_instance", MAX_WHOLE),
            names=() if fields.is_unknown("names") else fields.texts("names", _MAX_NAMES),
        ),
        gpu_utilization_ratio=_number(fields, "gpu_utilization_ratio", 0, 1),
        memory_utilization_ratio=_number(fields, "memory_utilization_ratio", 0, 1),
        memory_used_bytes=_whole(fields, "memory_used_bytes", used_at_most),
        memory_total_bytes=total,
        temperature_celsius=_number(fields, "temperature_celsius", -MAX_NUMBER, MAX_NUMBER),
        power_watts=_number(fields, "power_watts", 0, MAX_NUMBER),
        lag_seconds=_number(fields, "lag_seconds", 0, MAX_NUMBER) or 0.0,
        failures=_failures(fields),
        uses=read_uses(fields),
        performance=None if fields.is_unknown("performance") else _performance(fields.object("performance")),
    )


def _performance(fields: Fields) -> PerformanceReadings:
    return PerformanceReadings(
        fields.number("at_seconds", 0, MAX_NUMBER),
        fields.number("seconds", 0, MAX_NUMBER),
        *[_number(fields, name, 0, 1) for name in _RATIOS],
        *[_number(fields, name, 0, MAX_NUMBER) for name in _AMOUNTS],
    )


def _changed_performance(fields: Fields, below: int) -> list[tuple[int, PerformanceReadings | None]]:
    """Return the performance readings of a change, by the position of the sample; None where there are none now."""
    if fields.is_unknown("performance"):
        return []
    return [
        (position, None if item is None else _performance(item))
        for position, item in fields.objects_by_position("performance", below)
    ]


def _failures(fields: Fields) -> tuple[ReadingFailure, ...]:
    if fields.is_unknown("failures"):
        return ()
    return tuple([_failure(item) for item in fields.items("failures", MAX_FAILURES)])


def _failure(item: object) -> ReadingFailure:
    if isinstance(item, list) and len(item) == _FAILURE_FIELDS:
        reading, reason, since_seconds = item
        if _is_text(reading) and _is_text(reason) and reason and _is_between(since_seconds, -MAX_NUMBER, MAX_NUMBER):
            return ReadingFailure(reading, reason, _float(since_seconds))
    raise CodecError(
        f"failures: Invalid value: {quoted(item)}: must be a list of a reading, a printable reason and a time"
    )


def _details(item: list[Any], position: int) -> tuple[float, tuple[ReadingFailure, ...]]:
    """Return the lag and the failures of a sample in a change."""
    if len(item) == _DETAILS_FIELDS:
        lag_seconds, failures = item
        is_lag = lag_seconds is not None and _is_between(lag_seconds, 0, MAX_NUMBER)
        if is_lag and isinstance(failures, list) and len(failures) <= MAX_FAILURES:
            return float(lag_seconds), tuple([_failure(failure) for failure in failures])
    raise CodecError(
        f"details.{position}: Invalid value: {quoted(item)}: must be a lag and at most {MAX_FAILURES} failures"
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT_LENGTH and value.isprintable()


def _number(fields: Fields, key: str, at_least: float, at_most: float) -> float | None:
    return None if fields.is_unknown(key) else fields.number(key, at_least, at_most)


def _whole(fields: Fields, key: str, at_most: int) -> int | None:
    return None if fields.is_unknown(key) else fields.whole(key, at_most=at_most)


def _changed_sample(device: Device, readings: list[Any], position: int) -> Sample:
    """Return a sample with the readings of a change. The bounds are those of ``_sample``; this check is faster."""
    if len(readings) == len(_READINGS):
        utilization, memory, used, total, temperature, power = readings
        if (
            _is_between(utilization, 0, 1)
            and _is_between(memory, 0, 1)
            and (total is None or (type(total) is int and 1 <= total <= MAX_WHOLE))
            and (used is None or (type(used) is int and 0 <= used <= (MAX_WHOLE if total is None else total)))
            and _is_between(temperature, -MAX_NUMBER, MAX_NUMBER)
            and _is_between(power, 0, MAX_NUMBER)
        ):
            return Sample(device, _float(utilization), _float(memory), used, total, _float(temperature), _float(power))
    raise CodecError(
        f"samples.{position}: Invalid value: {quoted(readings)}: must be {len(_READINGS)} readings in range"
    )


def _is_between(value: object, at_least: float, at_most: float) -> bool:
    # NaN compares false with everything.
    return value is None or (type(value) in (int, float) and at_least <= value <= at_most)  # type: ignore[operator]


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _allocations(fields: Fields) -> tuple[Allocation, ...] | None:
    """Return the assignments of devices to pods, None if they are absent or null: they are unknown."""
    if fields.is_unknown("allocations"):
        return None
    return tuple(sorted(_allocation(item) for item in fields.items("allocations", MAX_ALLOCATIONS)))


def _allocation(item: object) -> Allocation:
    if isinstance(item, list) and _ALLOCATION_FIELDS <= len(item) <= _ALLOCATION_FIELDS + 1:
        namespace, pod, container, resource, device_id, quantity = [*item, 1][: _ALLOCATION_FIELDS + 1]
        texts = (namespace, pod, container, resource, device_id)
        if all(_is_text(text) and text for text in texts) and type(quantity) is int and 1 <= quantity <= MAX_WHOLE:
            return Allocation(namespace, pod, container, resource, device_id, quantity)
    raise CodecError(
        f"allocations: Invalid value: {quoted(item)}: must be a list of namespace, pod, container, resource and "
        "device id, and of a number of ids above 0 where it is not 1"
    )
