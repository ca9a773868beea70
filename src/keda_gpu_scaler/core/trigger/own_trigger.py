# SPDX-License-Identifier: Apache-2.0
"""Decides which triggers are this scaler's: by the address, or by a key where there is none.

Law: the address decides. A key of this scaler beside the address of another Service is the key of that scaler.
Every command uses these functions, so that they agree.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from keda_gpu_scaler.core.trigger.near_keys import FROM_ENVIRONMENT
from keda_gpu_scaler.core.trigger.value_forms import own_keys

SCALER_NAME = "keda-gpu-scaler"
TRIGGER_TYPES = ("external", "external-push")
"""The types with which KEDA calls an external scaler."""

_OWN_KEYS = frozenset(own_keys())
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")


def scheme_of(address: str) -> str:
    """Return the scheme of an address with its slashes, empty where it has none."""
    found = _SCHEME.match(address)
    return found[0] if found else ""


def host_of(address: str) -> str:
    """Return the host of an address, without its scheme, its port and its last dot."""
    rest = address[len(scheme_of(address)) :].partition("/")[0]
    return rest.partition(":")[0].rstrip(".").lower()


def is_own_trigger(trigger: Mapping[str, Any], hosts: Sequence[str] = ()) -> bool:
    """Whether a trigger is for this scaler.

    A trigger with the address of this scaler is, whatever its type: only external scalers have this key.

    Args:
        trigger: the trigger, as in a ScaledObject.
        hosts: more hosts of this scaler, for example "gpu-scaler.keda".
    """
    metadata = _metadata(trigger)
    if "scalerAddress" in metadata:
        return _is_own_address(str(metadata["scalerAddress"]), hosts)
    return trigger.get("type") in TRIGGER_TYPES and _has_own_key(metadata)


def is_taken_for_own(trigger: Mapping[str, Any], hosts: Sequence[str] = ()) -> bool:
    """Whether an external trigger has keys of this scaler, and the address of another Service."""
    metadata = _metadata(trigger)
    return (
        trigger.get("type") in TRIGGER_TYPES
        and "scalerAddress" in metadata
        and _has_own_key(metadata)
        and not is_own_trigger(trigger, hosts)
    )


def recognized_triggers(triggers: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the indexes of the triggers with which KEDA calls this scaler.

    The names of its Services are not known here. Where no address has the name of this scaler, its keys decide.
    """
    called = [number for number, trigger in enumerate(triggers) if trigger.get("type") in TRIGGER_TYPES]
    own = [number for number in called if is_own_trigger(triggers[number])]
    return own or [number for number in called if is_taken_for_own(triggers[number])]


def _metadata(trigger: Mapping[str, Any]) -> Mapping[Any, Any]:
    metadata = trigger.get("metadata")
    return metadata if isinstance(metadata, Mapping) else {}


def _is_own_address(address: str, hosts: Sequence[str]) -> bool:
    host = host_of(address)
    named = [host_of(one) for one in hosts]
    return SCALER_NAME in address or any(host == one or host.startswith(f"{one}.") for one in named if one)


def _has_own_key(metadata: Mapping[Any, Any]) -> bool:
    return any(str(key).removesuffix(FROM_ENVIRONMENT) in _OWN_KEYS for key in metadata)
