# SPDX-License-Identifier: Apache-2.0
"""How does a snapshot become one line of text, and how does a stranger's text become a snapshot?

The law of this module: ``decode(encode(snapshot)) == snapshot``, and any other text is a ``CodecError``. A
reading that is unknown is left out; it is never written as 0 or NaN. The text is JSON; keys that are not
known here are ignored, so that a newer version may add some.
"""

import json
import math
from collections.abc import Iterable
from typing import Any, Never

from keda_gpu_scaler.core.model import Device, Sample, Snapshot
from keda_gpu_scaler.core.wording import quoted

VERSION = 1
"""Grows only when an older reader would misunderstand; a new key alone leaves it as it is."""
MAX_LENGTH = 4 << 20
"""Characters (or bytes) of one snapshot; 4096 samples fit with room to spare."""
MAX_SAMPLES = 4096
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
    _snapshot(Fields(plain))
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def decode(text: str | bytes) -> Snapshot:
    """Read what ``encode`` wrote, here or in another version.

    Raises:
        CodecError: naming the field, the value and what it must be. Nothing else, whatever the text.
    """
    return _snapshot(parse_object(text))


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
    if device.parent is not None:
        plain["parent"] = device.parent
    for name in _READINGS:
        value = getattr(sample, name)
        if value is not None and math.isfinite(value):
            plain[name] = value
    return plain


def _snapshot(fields: Fields) -> Snapshot:
    fields.check_version("version", VERSION)
    snapshot = Snapshot(
        node=fields.text("node", default=""),
        sequence=fields.whole("sequence"),
        at_seconds=fields.number("at_seconds", 0, MAX_NUMBER),
        unix_seconds=fields.number("unix_seconds", 0, MAX_NUMBER),
        source=fields.text("source", MAX_SOURCE_LENGTH, default=""),
        samples=tuple(_sample(item) for item in fields.objects("samples", MAX_SAMPLES)),
    )
    seen: set[str] = set()
    for sample in snapshot.samples:
        uuid = sample.device.uuid
        if uuid in seen:
            raise CodecError(f"samples: Duplicate value: {quoted(uuid)}: a device must be listed once")
        seen.add(uuid)
    return snapshot


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


def _refuse_constant(name: str) -> Never:
    raise CodecError(f"holds {name}, which is no number: must leave an unknown reading out")
