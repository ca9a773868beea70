# SPDX-License-Identifier: Apache-2.0
"""Tests what explain says of the result of a formula, and of the live HPA."""

from dataclasses import replace
from typing import Any

import pytest

from keda_gpu_scaler.cli.explain.formula_forecast import with_formula
from keda_gpu_scaler.cli.explain.json_output import as_json
from keda_gpu_scaler.cli.explain.live_hpa import hpa_differences
from keda_gpu_scaler.cli.explain.render import explanation_page
from keda_gpu_scaler.cli.explain.result import ExplainResult, hpa_status
from keda_gpu_scaler.cli.explain.scaledobject import ScaledObject, ScaledObjectTrigger
from keda_gpu_scaler.core.scaling_rules import Formula
from keda_gpu_scaler.wire import evaluation_pb2 as pb
from tests.cli.explain.test_command import evaluation, explained

FORMULA = Formula("max(gpu, queue)", "75", "5", "Value")
TRIGGERS = (ScaledObjectTrigger(1, {}, name="gpu"), ScaledObjectTrigger(2, {}, name="queue"))


def results(gpu: float | None, queue: float | None, **changes: Any) -> list[ExplainResult]:
    """The explanations of two triggers with these values, of a workload of three replicas."""
    scaled_object = ScaledObject("ai", "llama", triggers=TRIGGERS, max_replicas=8, formula=FORMULA)
    scaled_object = replace(scaled_object, **changes)
    sizes = pb.Workload(kind="ScaledObject", target="Deployment llama", wanted=3, actual=3, ready=3)
    found = []
    for trigger, value in zip(scaled_object.triggers, (gpu, queue), strict=False):
        result = explained(evaluation(value, workload=sizes), scaled_object)
        found.append(replace(result, trigger=trigger))
    return with_formula(found, None)


@pytest.mark.parametrize(
    ("gpu", "queue", "changes", "replicas", "sentence"),
    [
        pytest.param(92.0, 4.0, {}, 4, "the result of the formula is 92", id="three at 92 % against 75 become four"),
        pytest.param(4.0, 150.0, {}, 6, "the result of the formula is 150", id="the other trigger decides"),
        pytest.param(0.0, 0.0, {}, 1, "the workload is inactive by the formula", id="nothing to do"),
        pytest.param(6.0, 0.0, {}, 1, "the workload is active by the formula", id="above activationTarget"),
        pytest.param(
            276.0, 4.0, {"formula": replace(FORMULA, metric_type="AverageValue")}, 4, "is 276", id="a total of 276"
        ),
        pytest.param(92.0, None, {}, None, 'no value of "queue" is known here', id="a trigger has no value"),
        pytest.param(
            92.0,
            4.0,
            {"formula": replace(FORMULA, text="gpu + lag")},
            None,
            'no value of "lag"',
            id="a foreign trigger",
        ),
        pytest.param(
            92.0, 4.0, {"formula": replace(FORMULA, text="let x = 1; x")}, None, "not understood", id="another language"
        ),
        pytest.param(
            92.0, 4.0, {"formula": replace(FORMULA, text="max([])")}, None, "nil, and KEDA uses its fallback", id="nil"
        ),
    ],
)
def test_the_hpa_decides_on_the_result_of_the_formula(
    gpu: float, queue: float | None, changes: dict[str, Any], replicas: int | None, sentence: str
) -> None:
    first = results(gpu, queue, **changes)[0]
    assert first.forecast is not None
    decision = first.forecast.decision
    assert (decision.replicas if decision is not None else None) == replicas
    assert sentence in " | ".join(first.forecast.keda)
    page = explanation_page(first, 120)
    assert ("the result of the formula is not known here" in page) is (replicas is None)


def test_without_a_formula_and_while_paused_nothing_changes() -> None:
    plain = [explained(evaluation())]
    assert with_formula(plain, None) == plain
    assert with_formula([], None) == []
    paused = results(92.0, 4.0, paused="autoscaling.keda.sh/paused: true")[0]
    assert paused.forecast is not None
    assert paused.forecast.decision is None


def hpa(*metrics: tuple[str, str, str], least: int = 1, most: int = 6) -> dict[str, Any]:
    """An HPA with external metrics: name, type and target."""
    listed = [
        {
            "type": "External",
            "external": {
                "metric": {"name": name},
                "target": {"type": kind, "averageValue" if kind == "AverageValue" else "value": target},
            },
        }
        for name, kind, target in metrics
    ]
    return {"spec": {"minReplicas": least, "maxReplicas": most, "metrics": listed}, "status": {"currentReplicas": 4}}


OURS = ScaledObject("ai", "llama", triggers=(ScaledObjectTrigger(2, {}),), min_replicas=1, max_replicas=6)
METRIC = [pb.Setting(key="metricName", value="keda_gpu_llm", origin="default")]


@pytest.mark.parametrize(
    ("live", "scaled_object", "sentences"),
    [
        pytest.param(hpa(("s1-keda_gpu_llm", "AverageValue", "75")), OURS, [], id="all agree"),
        pytest.param(hpa(("s1-keda_gpu_llm", "AverageValue", "75000m")), OURS, [], id="the same in thousandths"),
        pytest.param(
            hpa(("s1-keda_gpu_llm", "AverageValue", "80")), OURS,
            [
                "the live HPA compares s1-keda_gpu_llm with 80 (AverageValue), and this evaluation is for 75 "
                "(AverageValue)"
            ],
            id="another target",
        ),
        pytest.param(
            hpa(("s1-keda_gpu_llm", "Value", "75")), OURS,
            ["the live HPA compares s1-keda_gpu_llm with 75 (Value), and this evaluation is for 75 (AverageValue)"],
            id="another type",
        ),
        pytest.param(
            hpa(("s0-cron", "AverageValue", "1")), OURS,
            ['the live HPA has no metric "s1-keda_gpu_llm"; its external metrics: "s0-cron"'],
            id="no such metric",
        ),
        pytest.param(
            hpa(("s1-keda_gpu_llm", "AverageValue", "75"), least=2, most=9), OURS,
            [
                'the live HPA has minReplicas "2", and the ScaledObject leads to 1',
                'the live HPA has maxReplicas "9", and the ScaledObject leads to 6',
            ],
            id="other limits",
        ),
        pytest.param(
            hpa(("composite-metric", "Value", "75")), replace(OURS, formula=FORMULA), [], id="the metric of a formula"
        ),
        pytest.param(
            hpa(("composite-metric", "Value", "60")), replace(OURS, formula=FORMULA),
            ["the live HPA compares composite-metric with 60 (Value), and this evaluation is for 75 (Value)"],
            id="another target of the formula",
        ),
        pytest.param(
            {"spec": {"metrics": "none"}}, OURS,
            ['the live HPA has no metric "s1-keda_gpu_llm"; its external metrics: none'], id="nothing readable",
        ),
        pytest.param(None, OURS, [], id="no HPA is known"),
    ],
)  # fmt: skip
def test_differences_of_the_live_hpa_are_named(
    live: dict[str, Any] | None, scaled_object: ScaledObject, sentences: list[str]
) -> None:
    evaluated = evaluation(settings=METRIC)
    assert list(hpa_differences(live, scaled_object, scaled_object.triggers[0], evaluated)) == sentences


def test_the_differences_are_shown_and_in_json() -> None:
    status = hpa_status(hpa(), ("the live HPA has another target",))
    result = replace(explained(evaluation()), hpa_status=status)
    assert "the live HPA has another target" in explanation_page(result, 120)
    assert '"differences": ["the live HPA has another target"]' in as_json(result)
