# SPDX-License-Identifier: Apache-2.0
"""Finds metadata keys that are misspelt keys of this scaler.

Law: a key is misspelt if it differs from one of this scaler's keys in case and separators alone, or in a letter or two.
Every other key is another program's, and passes. KEDA sends all metadata of a trigger, also the keys that are its own.

Facts are from KEDA 2.20 (pkg/scalers/external_scaler.go, for its own keys) and from the original scaler in Go
(pkg/scaler/server.go, parseMetadata), all of whose keys are keys of this scaler.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.metadata import nearest

FROM_ENVIRONMENT = "FromEnv"
"""The suffix of a key whose value KEDA reads from the environment of the workload."""
KEDA_KEYS = frozenset(
    {"scalerAddress", "enableTLS", "unsafeSsl", "caCert", "tlsClientCert", "tlsClientKey", "tlsCertFile"}
)
"""KEDA's own keys. They are never taken for a misspelt key of this scaler."""
_OTHER_SCALERS_KEYS = frozenset({"podSelector"})  # of KEDA's kubernetes-workload scaler; near nodeSelector
MAX_COMPARED_KEYS = 50
"""Of the keys that are not this scaler's, only this many are compared: a client may send thousands."""

_SEPARATORS = re.compile(r"[-_. ]+")
_LONG_KEY_LENGTH = 8  # two letters may differ where both keys have this length, and one where one is shorter


def misspelt_keys(metadata: Mapping[str, str], own_keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each misspelt key, and the key that is meant.

    Args:
        metadata: as KEDA sends it.
        own_keys: every key of this scaler.
    """
    own = tuple(own_keys)
    by_letters = {_letters(key + suffix): key + suffix for key in own for suffix in ("", FROM_ENVIRONMENT)}
    foreign = KEDA_KEYS | _OTHER_SCALERS_KEYS
    for key in sorted(metadata.keys() - {*by_letters.values(), *foreign})[:MAX_COMPARED_KEYS]:
        if key.removesuffix(FROM_ENVIRONMENT) in foreign:
            continue
        if meant := by_letters.get(_letters(key)):
            yield key, meant
            continue
        stem = key.removesuffix(FROM_ENVIRONMENT)
        if near := _nearest_key(stem, own):
            yield key, near + key[len(stem) :]


def similar_key_hints(metadata: Mapping[str, str], own_keys: Iterable[str]) -> Iterator[str]:
    """Yield a hint for each other key that begins a key of this scaler, or is similar to one."""
    own = {key.lower(): key for key in own_keys}
    known = {*own.values(), *KEDA_KEYS}
    unknown = sorted(key for key in metadata if key.removesuffix(FROM_ENVIRONMENT) not in known)
    for key in unknown[:MAX_COMPARED_KEYS]:
        if near := nearest(key, own):
            yield f'metadata: {quoted(key)} is not a key of this scaler and is ignored: did you mean "{own[near]}"?'


def misspelt_problem(key: str, meant: str) -> str:
    """Return the problem of a misspelt key, with the remedy."""
    return (
        f"metadata.{quoted(key)[1:-1]}: Forbidden: it is not a key of this scaler, but almost "
        f"{quoted(meant)}; rename it, or remove it"
    )


def _letters(key: str) -> str:
    """Return a key without case and separators."""
    return _SEPARATORS.sub("", key).lower()


def _nearest_key(key: str, own_keys: Iterable[str]) -> str | None:
    """Return the key that differs least, None where every key differs in more than a letter or two."""
    lower = key.lower()
    for edits in (1, 2):
        for own in own_keys:
            if edits == 2 and min(len(own), len(lower)) < _LONG_KEY_LENGTH:
                continue
            if abs(len(own) - len(lower)) <= edits and is_within(lower, own.lower(), edits):
                return own
    return None


def is_within(one: str, other: str, edits: int) -> bool:
    """Whether one text becomes the other with at most this many edits.

    An edit inserts, removes or replaces a letter, or exchanges two letters side by side.
    """
    start = 0
    while start < len(one) and start < len(other) and one[start] == other[start]:
        start += 1
    one, other = one[start:], other[start:]
    if not edits or not one or not other:
        return len(one) + len(other) <= edits if not one or not other else False
    is_exchanged = len(one) > 1 and len(other) > 1 and one[0] == other[1] and one[1] == other[0]
    return (
        is_within(one[1:], other[1:], edits - 1)
        or is_within(one[1:], other, edits - 1)
        or is_within(one, other[1:], edits - 1)
        or (is_exchanged and is_within(one[2:], other[2:], edits - 1))
    )
