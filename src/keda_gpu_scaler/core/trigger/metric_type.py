# SPDX-License-Identifier: Apache-2.0
"""Finds the ``metricType`` that the ScaledObject gives a trigger, because KEDA does not send it.

Law: if several types are possible, the result is None.
"""

from collections.abc import Iterable, Mapping

from keda_gpu_scaler.core.types import DeclaredTrigger, Workload

ASSUMED = "AverageValue"
"""KEDA's default."""


def declared_type(workload: Workload, metadata: Mapping[str, str]) -> str | None:
    """Return the KEDA ``metricType`` of the trigger with this metadata; None where it is ambiguous.

    With a formula of scalingModifiers it is the formula's, whatever the trigger has.

    The metadata may match no trigger: the ScaledObject was edited and KEDA has not yet read the change, or a person
    sends a request by hand. Then the type is the one that all triggers share.
    """
    if workload.formula is not None:
        return workload.formula.metric_type  # KEDA's HPA has one metric then, the formula's
    if workload.kind == "ScaledJob":
        return ASSUMED  # KEDA divides by the target; with another type it starts no job
    types = _matching_types(workload, metadata) or {trigger.metric_type for trigger in workload.triggers} or {ASSUMED}
    return types.pop() if len(types) == 1 else None


def certain_type(workload: Workload, metadata: Mapping[str, str]) -> str | None:
    """Return the ``metricType`` of the triggers with exactly this metadata; None where there is none, or several.

    With a formula, which may take any number, no type is certain.
    """
    if workload.kind == "ScaledJob" or workload.formula is not None:
        return None
    return matching_type(workload, metadata)


def matching_type(workload: Workload, metadata: Mapping[str, str]) -> str | None:
    """Return the type as ``certain_type`` does, also in a ScaledJob, where only AverageValue is usable."""
    types = _matching_types(workload, metadata)
    return types.pop() if len(types) == 1 else None


def declares(triggers: Iterable[DeclaredTrigger], metadata: Mapping[str, str]) -> bool:
    """Whether one of these triggers has exactly this metadata."""
    sent = without_environment(metadata)
    return any(without_environment(trigger.metadata) == sent for trigger in triggers)


def _matching_types(workload: Workload, metadata: Mapping[str, str]) -> set[str]:
    sent = without_environment(metadata)
    return {trigger.metric_type for trigger in workload.triggers if without_environment(trigger.metadata) == sent}


def without_environment(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata without the values that KEDA resolves: KEDA sends the value, not the variable's name."""
    return {key: value for key, value in metadata.items() if not key.endswith("FromEnv")}
