# SPDX-License-Identifier: Apache-2.0
"""Compares the live HPA with the ScaledObject and with the evaluation of its trigger.

Law: a difference is named, and not judged: KEDA may not have updated the HPA yet, or the trigger was changed with -m.

KEDA names the metric of a trigger ``s<index>-<metricName>``, and that of a formula ``composite-metric`` (KEDA 2.20:
pkg/scalers/scaler.go, apis/keda/v1alpha1/scaledobject_types.go).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from keda_gpu_scaler.cli.explain.scaledobject import ScaledObject, ScaledObjectTrigger
from keda_gpu_scaler.cli.output import number
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.kube.keda_objects import quantity
from keda_gpu_scaler.kube.parse import mappings, part, text
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

_COMPOSITE = "composite-metric"
_MAX_LISTED = 3


def hpa_differences(
    hpa: Mapping[str, Any] | None,
    scaled_object: ScaledObject,
    trigger: ScaledObjectTrigger,
    evaluation: evaluation_pb.Evaluation,
) -> tuple[str, ...]:
    """Return a sentence for each difference.

    Args:
        hpa: the HorizontalPodAutoscaler; None where it is not known.
        scaled_object: the ScaledObject that KEDA made it from.
        trigger: the trigger that was evaluated.
        evaluation: its evaluation.
    """
    if hpa is None:
        return ()
    spec = part(hpa, "spec")
    return (*_limits(spec, scaled_object), *_metrics(spec, scaled_object, trigger, evaluation))


def _limits(spec: Mapping[str, Any], scaled_object: ScaledObject) -> Iterator[str]:
    expected = (("minReplicas", scaled_object.hpa_min), ("maxReplicas", scaled_object.max_replicas))
    for key, wanted in expected:
        if key in spec and spec[key] != wanted:
            yield f"the live HPA has {key} {quoted(str(spec[key]), 20)}, and the ScaledObject leads to {wanted}"


def _metrics(
    spec: Mapping[str, Any],
    scaled_object: ScaledObject,
    trigger: ScaledObjectTrigger,
    evaluation: evaluation_pb.Evaluation,
) -> Iterator[str]:
    targets = {
        text(part(external, "metric").get("name")).lower(): part(external, "target")
        for external in [part(metric, "external") for metric in mappings(spec.get("metrics"))]
    }
    if scaled_object.formula is not None:
        name, value_type, target = _COMPOSITE, scaled_object.formula.metric_type, _float(scaled_object.formula.target)
    else:
        name, value_type = f"s{trigger.number - 1}-{_metric_name(evaluation)}", trigger.value_type
        target = round(evaluation.target, 3)
    live = targets.get(name)
    if live is None:
        listed = ", ".join(quoted(one, 80) for one in sorted(targets)[:_MAX_LISTED]) or "none"
        yield f"the live HPA has no metric {quoted(name, 100)}; its external metrics: {listed}"
        return
    live_type = text(live.get("type"))
    live_target = quantity(live.get("averageValue" if live_type == "AverageValue" else "value"))
    if live_type != value_type or (live_target is not None and target is not None and abs(live_target - target) > 5e-4):
        yield (
            f"the live HPA compares {name} with {number(live_target)} ({quoted(live_type, 20)[1:-1]}), and this "
            f"evaluation is for {number(target)} ({value_type})"
        )


def _metric_name(evaluation: evaluation_pb.Evaluation) -> str:
    return next((one.value for one in evaluation.settings if one.key == "metricName"), "")


def _float(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
