# SPDX-License-Identifier: Apache-2.0
"""Tests which numbers stand beside each other: measured and reported, the sizes, and why."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.comparison import Comparison, ReplicaLimit, ReplicaLimits
from keda_gpu_scaler.core.evaluate.activity import Activity
from keda_gpu_scaler.core.evaluate.compare import compare
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.evaluate.measurement import ActivityEvidence, Measurement
from keda_gpu_scaler.core.hpa.reported_value import ReportedValue
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import Pod, Unavailable, Workload
from tests.fakes import node_history, pod, sample, workload

NOW = 1000.0
LIMITS = ReplicaLimits(0, 8)


def fleet_of(*utilizations: float | None) -> Fleet:
    samples = [sample(index, ratio) for index, ratio in enumerate(utilizations)]
    held = {one.device.uuid: f"llama-{index}" for index, one in enumerate(samples)}
    return Fleet(node_history("gpu-7", *samples, held=held), 10.0)


def pods(count: int) -> list[Pod]:
    return [pod(f"llama-{index}") for index in range(count)]


def evaluated(
    utilizations: Sequence[float | None], known: Workload | Unavailable | None = None, **metadata: str
) -> Evaluation:
    trigger = parse_trigger({"targetValue": "75", **metadata})
    given = workload(*pods(len(utilizations)), limits=LIMITS) if known is None else known
    return evaluate(trigger, fleet_of(*utilizations), NOW, given)


def compared(*utilizations: float | None, known: Workload | None = None, **metadata: str) -> Comparison:
    return evaluated(utilizations, known, **metadata).comparison


def test_the_mean_is_measured_and_the_total_is_reported() -> None:
    assert compared(0.92, 0.98, 0.95) == Comparison(
        measured=95.0,
        plain=285.0,
        reported=285.0,
        report="total",
        adjustment="",
        current_replicas=3,
        desired_replicas=4,
        limit=ReplicaLimit.NONE,
        activity="98 is above activationThreshold 0",
        ready_replicas=3,
    )


def test_replicas_that_are_not_ready_do_not_count_as_ready() -> None:
    starting = [*pods(2), pod("llama-2", ready=False)]
    assert compared(0.9, 0.9, known=workload(*starting, limits=LIMITS)).ready_replicas == 2
    assert compared(known=workload(replicas=3, limits=LIMITS)).ready_replicas == 0


@pytest.mark.parametrize(
    ("counts_pods", "ready"),
    [
        pytest.param(True, 2, id="a size that counts pods"),
        pytest.param(False, 1, id="a size that counts groups"),
    ],
)
def test_a_replica_of_several_pods_is_ready_with_all_of_them(counts_pods: bool, ready: int) -> None:
    both = [replace(pod(f"llama-{index}"), group="a") for index in range(2)]
    half = [replace(pod(f"llama-{index + 2}", ready=index == 0), group="b") for index in range(2)]
    known = replace(workload(*both, *half, limits=LIMITS), counts_pods=counts_pods)
    assert compared(0.9, 0.9, 0.9, 0.9, known=known).ready_replicas == ready


def test_with_the_type_value_the_average_is_measured_and_reported() -> None:
    found = compared(0.92, 0.98, known=workload(*pods(2), metric_type="Value", limits=LIMITS))
    assert (found.measured, found.reported, found.report, found.desired_replicas) == (95.0, 95.0, "average", 3)


def test_an_adjusted_value_stands_beside_the_plain_one_with_the_reason() -> None:
    found = compared(0.7, None, minCoverage="0.1")
    assert (found.measured, found.plain, found.current_replicas, found.desired_replicas) == (70.0, 70.0, 2, 2)
    assert found.reported == 150.0
    assert found.is_adjusted
    assert found.adjustment == (
        "the resource-metric rules of the pods (1 ready with a value, 1 without, 0 not ready) lead to 2 replicas, and "
        "so does 150"
    )


@pytest.mark.parametrize(
    ("known", "utilizations", "expected"),
    [
        pytest.param(
            workload(*pods(2), limits=ReplicaLimits(1, 2)), (0.98, 0.98), (2, 2, ReplicaLimit.MAX), id="at the maximum"
        ),
        pytest.param(
            workload(*pods(2), limits=ReplicaLimits(2, 8)), (0.1, 0.1), (2, 2, ReplicaLimit.MIN), id="at the minimum"
        ),
        pytest.param(
            workload(*pods(2), limits=LIMITS), (0.0, 0.0), (2, 0, ReplicaLimit.INACTIVE), id="an inactive workload"
        ),
        pytest.param(workload(*pods(2)), (0.98, 0.98), (2, 3, ReplicaLimit.NONE), id="limits that are not known"),
        pytest.param(workload(limits=LIMITS), (), (0, 0, ReplicaLimit.INACTIVE), id="a workload at zero"),
    ],
)
def test_the_sizes_and_the_limit_are_those_of_the_scaled_object(
    known: Workload, utilizations: tuple[float, ...], expected: tuple[int, int, ReplicaLimit]
) -> None:
    found = compared(*utilizations, known=known)
    assert (found.current_replicas, found.desired_replicas, found.limit) == expected


def test_law_1_without_a_value_no_number_is_compared_and_the_size_is_known() -> None:
    found = compared(None, None)
    assert (found.measured, found.plain, found.reported, found.desired_replicas) == (None, None, None, None)
    assert (found.current_replicas, found.activity) == (2, "it is not known whether the workload is idle")


def test_a_sum_over_the_fleet_is_divided_by_the_replicas() -> None:
    found = compared(0.9, 0.7, scope="fleet", aggregation="sum", known=workload(*pods(2), limits=LIMITS))
    assert (found.measured, found.reported) == (80.0, 160.0)
    trigger = parse_trigger({"scope": "fleet", "aggregation": "sum"})
    assert evaluate(trigger, fleet_of(0.9), NOW).comparison == Comparison(
        plain=90.0, reported=90.0, report="total", activity="90 is above activationThreshold 0"
    )


def test_a_size_that_no_number_leads_to_keeps_the_plain_value_apart() -> None:
    known = workload(*pods(21), replicas=20, status_replicas=21, limits=ReplicaLimits(0, 50))
    found = compared(*[0.75] * 21, known=known)
    assert (found.measured, found.plain, found.reported) == (75.0, 1575.0, 1417.499)
    assert found.adjustment.startswith("no number leads the HPA from 20 replicas (21 exist) to 20")


def test_a_number_that_equals_the_plain_one_is_not_adjusted() -> None:
    reported = ReportedValue(150.0, 2, (), plain=150.0, adjustment="it is the nearest number")
    measured = Measurement(reported, ActivityEvidence(75.0), (), 2, 2, ())
    assert compare(measured, reported, Activity(True, "busy"), None).adjustment == ""


RATIOS = st.one_of(st.none(), st.floats(0, 1))


@given(st.lists(RATIOS, min_size=1, max_size=5), st.integers(0, 3), st.sampled_from(["AverageValue", "Value"]))
def test_law_4_measured_and_reported_belong_together(
    utilizations: list[float | None], starting: int, metric_type: str
) -> None:
    new = [pod(f"new-{number}", ready=False, age=10.0) for number in range(starting)]
    known = workload(*pods(len(utilizations)), *new, metric_type=metric_type, limits=LIMITS)
    evaluation = evaluated(utilizations, known, minCoverage="0")
    found = evaluation.comparison
    assert found.reported == evaluation.value
    assert found.current_replicas == known.spec_replicas
    if found.measured is not None:
        ratios = [100 * ratio for ratio in utilizations if ratio is not None]
        assert min(ratios) - 1e-5 <= found.measured <= max(ratios) + 1e-5
        assert found.plain is not None
        expected = found.measured * (len(ratios) if metric_type == "AverageValue" else 1)
        assert found.plain == pytest.approx(expected, abs=0.01)
        assert found.is_adjusted == (found.plain != found.reported)
    if found.desired_replicas is not None and found.limit is ReplicaLimit.NONE:
        assert found.desired_replicas == evaluation.replicas


def test_asking_twice_gives_the_same_numbers() -> None:
    assert evaluated((0.9, None)) == evaluated((0.9, None))
    assert replace(compared(0.9), reported=1.0) != compared(0.9)
