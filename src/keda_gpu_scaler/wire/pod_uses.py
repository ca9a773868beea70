# SPDX-License-Identifier: Apache-2.0
"""Encodes what pods used of a device for ``snapshot_codec``, and decodes it from untrusted text.

Law: uses that are not known are left out, in a sample. In a change they are an empty list, and known uses are a list of
one list.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from keda_gpu_scaler.core.pod_use import PodUse
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.wire.json_fields import MAX_NUMBER, MAX_TEXT_LENGTH, MAX_WHOLE, CodecError, Fields

MAX_USES = 256
"""The limit for one sample: more pods than share a device."""

_KEY = "uses"
_FIELDS = 4


def plain_uses(uses: Sequence[PodUse] | None) -> dict[str, object]:
    """Return the field of a sample, nothing where the uses are not known."""
    return {} if uses is None else {_KEY: _plain(uses)}


def plain_changed_uses(before: Sequence[Sample], after: Sequence[Sample]) -> dict[str, object]:
    """Return the field of a change by the positions of samples, nothing where no uses changed.

    Raises:
        CodecError: ``read_changed_uses`` would refuse it.
    """
    changed: dict[str, list[object]] = {}
    for position, (old, new) in enumerate(zip(before, after, strict=True)):
        if old.uses != new.uses:
            changed[str(position)] = [] if new.uses is None else [_plain(new.uses)]
            _changed(changed[str(position)], position)
    return {_KEY: changed} if changed else {}


def read_uses(fields: Fields) -> tuple[PodUse, ...] | None:
    """Return the uses of a sample, None where they are not known.

    Raises:
        CodecError: the field is not valid.
    """
    return None if fields.is_unknown(_KEY) else _uses(fields.items(_KEY, MAX_USES))


def read_changed_uses(fields: Fields, samples: int) -> Iterator[tuple[int, tuple[PodUse, ...] | None]]:
    """Yield the position and the uses of each sample in a change.

    Args:
        fields: the change.
        samples: the number of samples.

    Raises:
        CodecError: the field is not valid.
    """
    if not fields.is_unknown(_KEY):
        for position, item in fields.lists(_KEY, samples):
            yield position, _changed(item, position)


def _plain(uses: Sequence[PodUse]) -> list[list[object]]:
    return [[use.pod_uid, use.sm_ratio, use.memory_utilization_ratio, use.memory_bytes] for use in uses]


def _changed(item: list[Any], position: int) -> tuple[PodUse, ...] | None:
    if not item:
        return None
    if len(item) == 1 and isinstance(item[0], list) and len(item[0]) <= MAX_USES:
        return _uses(item[0])
    raise CodecError(
        f"uses.{position}: Invalid value: {quoted(item)}: must be empty, or have one list of at most {MAX_USES} pods"
    )


def _uses(items: list[Any]) -> tuple[PodUse, ...]:
    uses = tuple(sorted((_use(item) for item in items), key=lambda use: use.pod_uid))
    if len(uses) != len({use.pod_uid for use in uses}):
        raise CodecError(f"uses: Invalid value: {quoted(items)}: a pod must be listed once")
    return uses


def _use(item: object) -> PodUse:
    if isinstance(item, list) and len(item) == _FIELDS:
        uid, sm_ratio, memory_ratio, memory_bytes = item
        is_uid = isinstance(uid, str) and len(uid) <= MAX_TEXT_LENGTH and uid.isprintable()
        is_memory = memory_bytes is None or (type(memory_bytes) is int and 0 <= memory_bytes <= MAX_WHOLE)
        if is_uid and is_memory and _is_ratio(sm_ratio) and _is_ratio(memory_ratio):
            return PodUse(uid, float(sm_ratio), float(memory_ratio), memory_bytes)
    raise CodecError(
        f"uses: Invalid value: {quoted(item)}: must be a list of a pod's UID, two ratios and a number of bytes"
    )


def _is_ratio(value: object) -> bool:
    # NaN compares false with everything.
    return type(value) in (int, float) and 0 <= value <= MAX_NUMBER  # type: ignore[operator]
