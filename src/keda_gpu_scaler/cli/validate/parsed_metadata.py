# SPDX-License-Identifier: Apache-2.0
"""Parses the metadata of a trigger in a manifest, where an invalid trigger is another rule's finding."""

from collections.abc import Mapping
from typing import Any

from keda_gpu_scaler.cli.validate.documents import as_text
from keda_gpu_scaler.core.trigger.near_keys import FROM_ENVIRONMENT
from keda_gpu_scaler.core.trigger.parser import Trigger, TriggerError, parse_trigger


def parsed_metadata(metadata: Mapping[Any, Any]) -> Trigger | None:
    """Return the trigger, without the keys that KEDA reads from the environment; None where the parser refuses it."""
    texts = {str(key): as_text(value) for key, value in metadata.items() if not str(key).endswith(FROM_ENVIRONMENT)}
    try:
        return parse_trigger(texts)
    except TriggerError:
        return None
