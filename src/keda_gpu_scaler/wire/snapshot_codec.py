# SPDX-License-Identifier: Apache-2.0
"""How does a snapshot become one line of text, and how does a stranger's text become a snapshot?

The law of this module: ``decode(encode(snapshot)) == snapshot``, and any other text is a ``CodecError``. A
reading that is unknown is left out; it is never written as 0 or NaN. The text is JSON; keys that are not
known here are ignored, so that a newer version may add some.

Between peers most of a snapshot is the same as a second ago: ``encode_change`` writes only what is not, and
``apply_change(before, encode_change(before, after)) == after``.
"""

import json
import math
from collections.abc import Iterable
from typing import Any, Never

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.types import Allocation, Device, Sample, Snapshot

VERSION = 1
"""Grows only when an older reader would misunderstand; a new key alone leaves it as it is."""
MAX_LENGTH = 4 << 20
"""Characters (or bytes) of one snapshot; 4096 samples fit with room to spare."""
MAX_SAMPLES = 4096
MAX_ALLOCATIONS = 16384
MAX_TEXT_LENGTH = 256
"""Characters of a name: of a node, a device, a model."""
MAX_SOURCE_LENGTH = 1024
MAX_WHOLE = 2**53 - 1
"""The largest whole number that every reader of JSON keeps exactly: 8 PiB, in bytes."""
MAX_NUMBER = 1e12

_READINGS = (
    "gpu_utilization_ratio",
    "memory_utilization_ratio",
    "memory_used_bytes",
    "memory_total_bytes",
    "temperature_celsius",
    "power_watts",
)
_NAMES = ("parent", "minor", "gpu_instance", "compute_instance")
_ALLOCATION_FIELDS = 5
_MAX_DIGITS = 10


class CodecError(ValueError):
    """Text that is not a snapshot, or a snapshot that cannot be written. The message is a sentence."""


def encode(snapshot: Snapshot) -> str:
    """Write a snapshot as one line of ASCII, without a newline.

    A reading that is not finite is no reading, and is left out like an unknown one.

    Raises:
        CodecError: the snapshot holds what ``decode`` would refuse. Better said while it is being
            recorded than after a night of recording.
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
    """Read what ``encode`` wrote, here or in another version.

    Raises:
        CodecError: naming the field, the value and what it must be. Nothing else, whatever the text.
    """
    return _snapshot(parse_object(text))


def encode_change(before: Snapshot, after: Snapshot) -> str | None:
    """Write what is different in a later snapshot, as one line of ASCII; None where the devices themselves are.

    Changed readings are a list for each device, by its position: in the order of ``Sample``'s fields, null where
    unknown.

    Raises:
        CodecError: the later snapshot holds what ``apply_change`` would refuse.
    """
    if before.node != after.node or before.source != after.source or len(before.samples) != len(after.samples):
        return None
    changed: dict[str, list[float | None]] = {}
    for position, (old, new) in enumerate(zip(before.samples, after.samples, strict=True)):
        if old is new or old == new:
            continue
        if old.device != new.device:
            return None
        readings = [_finite(getattr(new, name)) for name in _READINGS]
        _changed(new.device, readings, position)
        changed[str(position)] = readings
    plain: dict[str, object] = {
        "version": VERSION,
        "after": before.sequence,
        "sequence": after.sequence,
        "at_seconds": after.at_seconds,
        "unix_seconds": after.unix_seconds,
        "samples": changed,
    }
    if after.allocations is not before.allocations and after.allocations != before.allocations:
        plain["allocations"] = (
            None if after.allocations is None else [_plain_allocation(one) for one in after.allocations]
        )
    fields = Fields(plain)
    _moment(fields)
    _allocations(fields)
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def apply_change(before: Snapshot, text: str | bytes) -> Snapshot:
    """Read what ``encode_change`` wrote; what did not change stays the same object.

    Raises:
        CodecError: it is no change, or none of this snapshot.
    """
    fields = parse_object(text)
    fields.check_version("version", VERSION)
    fields.whole("after", before.sequence, before.sequence)
    samples = list(before.samples)
    for position, readings in fields.lists("samples", len(samples)):
        samples[position] = _changed(samples[position].device, readings, position)
    sequence, at_seconds, unix_seconds = _moment(fields)
    return Snapshot(
        node=before.node,
        sequence=sequence,
        at_seconds=at_seconds,
        unix_seconds=unix_seconds,
        source=before.source,
        samples=tuple(samples),
        allocations=_allocations(fields) if "allocations" in fields else before.allocations,
    )


def parse_object(text: str | bytes) -> "Fields":
    """Read one JSON object, bounded in size.

    Raises:
        CodecError: it is not UTF-8, not JSON or not an object, or it is longer than ``MAX_LENGTH``.
    """
    if len(text) > MAX_LENGTH:
        raise CodecError(f"is {len(text)} long: must be at most {MAX_LENGTH}")
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"), parse_constant=_refuse_constant)
    except CodecError:
        raise
    except UnicodeDecodeError as error:
        raise CodecError(f"byte {error.start} is not UTF-8: must be JSON") from None
    except RecursionError:
        raise CodecError("is nested too deeply: must be one JSON object") from None
    except ValueError as error:  # also an integer of thousands of digits
        raise CodecError(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CodecError(f"is {quoted(value)}: must be a JSON object")
    return Fields(value)


class Fields:
    """The fields of one JSON object, each read with the check it needs.

    ``where`` goes before a field's name in a complaint. Every method raises ``CodecError``.
    """

    def __init__(self, plain: dict[str, Any], where: str = "") -> None:
        self._plain = plain
        self._where = where

    def __contains__(self, key: str) -> bool:
        return key in self._plain

    def text(self, key: str, at_most: int = MAX_TEXT_LENGTH, *, default: str | None = None) -> str:
        """Return printable text of bounded length; empty only where ``default`` is the empty text.

        What a stranger sends ends on terminals and in labels: control characters stay outside.
        """
        value = self._plain.get(key, default)
        if not isinstance(value, str):
            self._refuse(key, "must be text")
        if len(value) > at_most or not value.isprintable() or (not value and default is None):
            self._refuse(key, f"must be 1 to {at_most} printable characters")
        return value

    def whole(self, key: str, at_least: int = 0, at_most: int = MAX_WHOLE) -> int:
        """Return a whole number within bounds; neither 1.0 nor true is one."""
        value = self._plain.get(key)
        if type(value) is not int or not at_least <= value <= at_most:
            self._refuse(key, f"must be a whole number from {at_least} to {at_most}")
        return value

    def number(self, key: str, at_least: float, at_most: float) -> float:
        """Return a finite number within bounds."""
        value = self._plain.get(key)
        # NaN compares false with everything; a whole number too large for a float is out of bounds as it is.
        if type(value) not in (int, float) or not at_least <= value <= at_most:  # type: ignore[operator]
            self._refuse(key, f"must be a number from {at_least:g} to {at_most:g}")
        return float(value)  # type: ignore[arg-type]

    def objects(self, key: str, at_most: int) -> Iterable["Fields"]:
        """Return the objects of a list."""
        value = self._plain.get(key)
        if not isinstance(value, list) or len(value) > at_most:
            self._refuse(key, f"must be a list of at most {at_most} objects")
        for position, item in enumerate(value):
            where = f"{self._where}{key}[{position}]"
            if not isinstance(item, dict):
                raise CodecError(f"{where}: Invalid value: {quoted(item)}: must be a JSON object")
            yield Fields(item, where + ".")

    def lists(self, key: str, below: int) -> Iterable[tuple[int, list[Any]]]:
        """Return the lists of an object whose keys are positions below a bound."""
        value = self._plain.get(key)
        if not isinstance(value, dict):
            self._refuse(key, "must be an object")
        for name, item in value.items():
            if not (name.isascii() and name.isdigit() and len(name) < _MAX_DIGITS and int(name) < below):
                raise CodecError(f"{key}: Invalid value: {quoted(name)}: must be a position below {below}")
            if not isinstance(item, list):
                raise CodecError(f"{key}.{name}: Invalid value: {quoted(item)}: must be a list")
            yield int(name), item

    def items(self, key: str, at_most: int) -> list[Any]:
        """Return a list of bounded length, whatever is in it."""
        value = self._plain.get(key)
        if not isinstance(value, list) or len(value) > at_most:
            self._refuse(key, f"must be a list of at most {at_most}")
        return value

    def is_unknown(self, key: str) -> bool:
        """Whether the field is left out, or null, which other writers may use to say the same."""
        return self._plain.get(key) is None

    def check_version(self, key: str, known: int) -> None:
        """Refuse a later version, by its number before the point."""
        if self.number(key, 1, MAX_NUMBER) >= known + 1:
            self._refuse(key, f"is of a later version than {known}: must be read by a newer keda-gpu-scaler")

    def _refuse(self, key: str, must: str) -> Never:
        if key not in self._plain:
            raise CodecError(f"{self._where}{key}: Required value: {must}")
        raise CodecError(f"{self._where}{key}: Invalid value: {quoted(self._plain[key])}: {must}")


def _plain_sample(sample: Sample) -> dict[str, object]:
    device = sample.device
    plain: dict[str, object] = {"uuid": device.uuid, "index": device.index, "model": device.model}
    if device.pci_address:
        plain["pci_address"] = device.pci_address
    for name in _NAMES:
        if (named := getattr(device, name)) is not None:
            plain[name] = named
    for name in _READINGS:
        if (value := _finite(getattr(sample, name))) is not None:
            plain[name] = value
    return plain


def _plain_allocation(allocation: Allocation) -> list[str]:
    return [allocation.namespace, allocation.pod, allocation.container, allocation.resource, allocation.device_id]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _snapshot(fields: Fields) -> Snapshot:
    fields.check_version("version", VERSION)
    node = fields.text("node", default="")
    sequence, at_seconds, unix_seconds = _moment(fields)
    snapshot = Snapshot(
        node=node,
        sequence=sequence,
        at_seconds=at_seconds,
        unix_seconds=unix_seconds,
        source=fields.text("source", MAX_SOURCE_LENGTH, default=""),
        samples=tuple(_sample(item) for item in fields.objects("samples", MAX_SAMPLES)),
        allocations=_allocations(fields),
    )
    seen: set[str] = set()
    for sample in snapshot.samples:
        uuid = sample.device.uuid
        if uuid in seen:
            raise CodecError(f"samples: Duplicate value: {quoted(uuid)}: a device must be listed once")
        seen.add(uuid)
    return snapshot


def _moment(fields: Fields) -> tuple[int, float, float]:
    return (
        fields.whole("sequence"),
        fields.number("at_seconds", 0, MAX_NUMBER),
        fields.number("unix_seconds", 0, MAX_NUMBER),
    )


def _sample(fields: Fields) -> Sample:
    # Refused rather than made unknown, like a ratio above 1: no backend of ours hands on memory that contradicts
    # itself, so whoever wrote it would be wrong about the rest as well, and encoding stays the inverse of decoding.
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
        ),
        gpu_utilization_ratio=_number(fields, "gpu_utilization_ratio", 0, 1),
        memory_utilization_ratio=_number(fields, "memory_utilization_ratio", 0, 1),
        memory_used_bytes=_whole(fields, "memory_used_bytes", used_at_most),
        memory_total_bytes=total,
        temperature_celsius=_number(fields, "temperature_celsius", -MAX_NUMBER, MAX_NUMBER),
        power_watts=_number(fields, "power_watts", 0, MAX_NUMBER),
    )


def _number(fields: Fields, key: str, at_least: float, at_most: float) -> float | None:
    return None if fields.is_unknown(key) else fields.number(key, at_least, at_most)


def _whole(fields: Fields, key: str, at_most: int) -> int | None:
    return None if fields.is_unknown(key) else fields.whole(key, at_most=at_most)


def _changed(device: Device, readings: list[Any], position: int) -> Sample:
    """Make a sample of the readings of a change: the same bounds as ``_sample``'s, checked without a detour."""
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
    """Read who holds what; left out or null where nobody can tell."""
    if fields.is_unknown("allocations"):
        return None
    return tuple(sorted(_allocation(item) for item in fields.items("allocations", MAX_ALLOCATIONS)))


def _allocation(item: object) -> Allocation:
    if (
        isinstance(item, list)
        and len(item) == _ALLOCATION_FIELDS
        and all(isinstance(text, str) and 0 < len(text) <= MAX_TEXT_LENGTH and text.isprintable() for text in item)
    ):
        return Allocation(*item)
    raise CodecError(
        f"allocations: Invalid value: {quoted(item)}: must be a list of namespace, pod, container, resource, device id"
    )


def _refuse_constant(name: str) -> Never:
    raise CodecError(f"holds {name}, which is no number: must leave an unknown reading out")
