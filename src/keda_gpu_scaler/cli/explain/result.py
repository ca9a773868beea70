# SPDX-License-Identifier: Apache-2.0
"""Holds the result of explaining one trigger."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keda_gpu_scaler.cli.explain.forecast import Forecast
from keda_gpu_scaler.cli.explain.scaledobject import ScaledObject, ScaledObjectTrigger
from keda_gpu_scaler.cli.probe.client import Call
from keda_gpu_scaler.kube.parse import count
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb


@dataclass(frozen=True, slots=True)
class HpaStatus:
    """The status of the live HPA: the current size, the desired size, and each condition as a sentence.

    ``differences`` say where the HPA has other metrics, targets or limits than the ScaledObject and the evaluation.
    """

    current: int
    desired: int
    conditions: tuple[str, ...]
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExplainResult:
    """The explanation of one trigger.

    ``total_triggers`` counts all triggers of the ScaledObject. ``instance`` is the instance that was called: an
    address, or "pod NAMESPACE/NAME". ``error`` is the call's, where there is no evaluation.
    """

    at: datetime
    scaled_object: ScaledObject
    trigger: ScaledObjectTrigger
    total_triggers: int
    instance: str
    evaluation: evaluation_pb.Evaluation | None
    error: Call | None = None
    forecast: Forecast | None = None
    hpa_status: HpaStatus | None = None


def hpa_status(item: Mapping[str, Any] | None, differences: tuple[str, ...] = ()) -> HpaStatus | None:
    """Read the status of a HorizontalPodAutoscaler; None where it has none."""
    status = item.get("status") if item else None
    if not isinstance(status, Mapping):
        return None
    conditions = status.get("conditions")
    sentences = tuple(
        f"{one.get('type')} {one.get('status')}: {one.get('message')} ({one.get('reason')})"
        for one in (conditions if isinstance(conditions, list) else ())
        if isinstance(one, Mapping)
    )
    current, desired = count(status.get("currentReplicas")), count(status.get("desiredReplicas"))
    return HpaStatus(current, desired, sentences, differences)
