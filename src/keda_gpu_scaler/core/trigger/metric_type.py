# SPDX-License-Identifier: Apache-2.0
"""Which ``metricType`` did the ScaledObject give this trigger? KEDA does not send it along.

The law of this module: where several answers are possible none is given.
"""

from collections.abc import Mapping

from keda_gpu_scaler.core.types import Workload

ASSUMED = "AverageValue"
"""KEDA's default."""


def declared_type(workload: Workload, metadata: Mapping[str, str]) -> str | None:
    """Return the trigger's KEDA ``metricType``, found by the metadata that KEDA sent; None while it is ambiguous.

    Metadata that fits no trigger (an edit that KEDA has not seen, a person who tries something out) is taken for
    one of those there are, if they agree.
    """
    if workload.kind == "ScaledJob":
        return ASSUMED  # KEDA divides by the target itself, and knows no other way for jobs
    candidates = _fitting(workload, metadata) or {trigger.metric_type for trigger in workload.triggers} or {ASSUMED}
    return candidates.pop() if len(candidates) == 1 else None


def certain_type(workload: Workload, metadata: Mapping[str, str]) -> str | None:
    """Return the ``metricType`` of the triggers that have just this metadata; None where they have none, or several."""
    if workload.kind == "ScaledJob":
        return None
    fitting = _fitting(workload, metadata)
    return fitting.pop() if len(fitting) == 1 else None


def _fitting(workload: Workload, metadata: Mapping[str, str]) -> set[str]:
    return {trigger.metric_type for trigger in workload.triggers if _fits(trigger.metadata, metadata)}


def _fits(declared: Mapping[str, str], sent: Mapping[str, str]) -> bool:
    """Whether KEDA would send this for that: the same, but for values it took from the environment."""
    return _said(declared) == _said(sent)


def _said(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not key.endswith("FromEnv")}
