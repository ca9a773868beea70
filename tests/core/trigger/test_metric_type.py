# SPDX-License-Identifier: Apache-2.0
import pytest

from keda_gpu_scaler.core.trigger.metric_type import declared_type
from keda_gpu_scaler.core.types import DeclaredTrigger, Workload

SENT = {"scalerAddress": "keda-gpu-scaler:6000", "targetValue": "70", "apiKeyFromEnv": "resolved"}


def workload(*triggers: tuple[dict[str, str], str], kind: str = "ScaledObject") -> Workload:
    declared = tuple(DeclaredTrigger(metadata, metric_type) for metadata, metric_type in triggers)
    return Workload("ai", "llama", kind, "Deployment llama", 3, 3, (), declared)


@pytest.mark.parametrize(
    ("triggers", "found"),
    [
        pytest.param([], "AverageValue", id="no trigger at all: KEDA's default"),
        pytest.param([(SENT, "Value")], "Value", id="the one that was sent"),
        pytest.param(
            [({**SENT, "targetValue": "60"}, "AverageValue"), (SENT, "Value")],
            "Value",
            id="the one of two that was sent",
        ),
        pytest.param(
            [({**SENT, "apiKeyFromEnv": "MY_VARIABLE"}, "Value"), ({"scalerAddress": "other:1"}, "AverageValue")],
            "Value",
            id="a value from the environment is sent resolved",
        ),
        pytest.param([({"targetValue": "1"}, "Value")], "Value", id="none was sent, but the only one says so"),
        pytest.param([({"a": "1"}, "Value"), ({"b": "1"}, "AverageValue")], None, id="none was sent, and they differ"),
        pytest.param([(SENT, "Value"), (SENT, "AverageValue")], None, id="two of them were sent, and they differ"),
        pytest.param([(SENT, "Value"), (SENT, "Value")], "Value", id="two of them were sent, and they agree"),
    ],
)
def test_the_type_is_found_by_the_metadata(triggers: list[tuple[dict[str, str], str]], found: str | None) -> None:
    assert declared_type(workload(*triggers), SENT) == found


def test_jobs_know_one_type_only() -> None:
    assert declared_type(workload((SENT, "Value"), kind="ScaledJob"), SENT) == "AverageValue"
