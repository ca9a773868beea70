# SPDX-License-Identifier: Apache-2.0
"""Tests of the search for a trigger's KEDA metricType."""

from dataclasses import replace

import pytest

from keda_gpu_scaler.core.scaling_rules import Formula
from keda_gpu_scaler.core.trigger.metric_type import certain_type, declared_type
from keda_gpu_scaler.core.types import DeclaredTrigger, Workload

SENT = {"scalerAddress": "keda-gpu-scaler:6000", "targetValue": "70", "apiKeyFromEnv": "resolved"}


def workload(*triggers: tuple[dict[str, str], str], kind: str = "ScaledObject") -> Workload:
    declared = tuple(DeclaredTrigger(metadata, metric_type) for metadata, metric_type in triggers)
    return Workload("ai", "llama", kind, "Deployment llama", 3, 3, (), declared)


@pytest.mark.parametrize(
    ("triggers", "expected"),
    [
        pytest.param([], "AverageValue", id="no trigger: KEDA's default"),
        pytest.param([(SENT, "Value")], "Value", id="the only trigger was sent"),
        pytest.param(
            [({**SENT, "targetValue": "60"}, "AverageValue"), (SENT, "Value")],
            "Value",
            id="one of two triggers was sent",
        ),
        pytest.param(
            [({**SENT, "apiKeyFromEnv": "MY_VARIABLE"}, "Value"), ({"scalerAddress": "other:1"}, "AverageValue")],
            "Value",
            id="KEDA resolves a value from the environment",
        ),
        pytest.param([({"targetValue": "1"}, "Value")], "Value", id="another trigger was sent, but there is only one"),
        pytest.param(
            [({"a": "1"}, "Value"), ({"b": "1"}, "AverageValue")],
            None,
            id="another trigger was sent, and the types differ",
        ),
        pytest.param([(SENT, "Value"), (SENT, "AverageValue")], None, id="two triggers match, and their types differ"),
        pytest.param([(SENT, "Value"), (SENT, "Value")], "Value", id="two triggers match, and their types agree"),
    ],
)
def test_the_type_is_found_by_the_metadata(triggers: list[tuple[dict[str, str], str]], expected: str | None) -> None:
    assert declared_type(workload(*triggers), SENT) == expected


def test_jobs_have_one_type_only() -> None:
    assert declared_type(workload((SENT, "Value"), kind="ScaledJob"), SENT) == "AverageValue"


def test_with_a_formula_its_type_counts_and_no_report_contradicts_it() -> None:
    known = replace(workload((SENT, "AverageValue")), formula=Formula("gpu", "75", "", "Value"))
    assert declared_type(known, SENT) == "Value"
    assert certain_type(known, SENT) is None
