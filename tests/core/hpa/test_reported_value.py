# SPDX-License-Identifier: Apache-2.0
"""Tests of the reported value against an independent copy of the HPA's controller (oracle.py)."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.core.aggregation import AGGREGATIONS
from keda_gpu_scaler.core.hpa.controller import ControllerState, reconcile
from keda_gpu_scaler.core.hpa.replica_calculator import (
    LARGEST_MILLI,
    ValueType,
    desired_replicas,
    milli,
    resource_replicas,
)
from keda_gpu_scaler.core.hpa.reported_value import (
    ReportedValue,
    ReportType,
    WorkloadSize,
    report_devices,
    report_pods,
)
from keda_gpu_scaler.core.scaling_rules import DEFAULT_TOLERANCES, Tolerances
from tests.core.hpa.oracle import UNREADY, external_average_value, external_value, resource_metric, within
from tests.examples_drawn import examples

TARGETS = st.sampled_from([0.5, 1.0, 10.0, 50.0, 70.0, 75.0, 80.0, 90.0, 300.0, 40960.0]) | st.floats(0.01, 1e5).map(
    lambda value: round(value, 3)
)


def at_rest_size(ready: int, missing: int = 0, unready: int = 0, ending: int = 0) -> WorkloadSize:
    """Return the size of a workload that has exactly the wanted replicas."""
    count = ready + missing + unready
    return WorkloadSize(spec_replicas=count, status_replicas=count, ready_pods=ready + missing + ending)


def decision_of(
    report: ReportType,
    reported: ReportedValue,
    target: float,
    size: WorkloadSize,
    tolerances: Tolerances = DEFAULT_TOLERANCES,
) -> int:
    """Return the size that the controller computes from the reported value."""
    bounds = (tolerances.up, tolerances.down)
    if report is ReportType.TOTAL:
        return external_average_value(milli(reported.value), milli(target), size.status_replicas, bounds)
    return external_value(milli(reported.value), milli(target), size.spec_replicas, size.ready_pods, bounds)


def report_and_decide(
    report: ReportType,
    values: Sequence[float],
    target: float,
    *,
    missing: int = 0,
    unready: int = 0,
    size: WorkloadSize | None = None,
) -> tuple[ReportedValue, int]:
    size = size or at_rest_size(len(values), missing, unready)
    reported = report_pods(report, values, missing=missing, unready=unready, size=size, target=target)
    return reported, decision_of(report, reported, target, size)


@st.composite
def clusters(draw: st.DrawFn, *, at_rest: bool = False) -> tuple[list[float], int, int, float, WorkloadSize]:
    """Draw values of ready pods, missing and unready pods, a target, and a size that may differ from the pods."""
    target = draw(TARGETS)
    loads = st.floats(0, 2.5).map(lambda load: round(load * target, 3)) | st.just(target) | st.just(0.0)
    values = draw(st.lists(loads, max_size=30))
    missing, unready = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    count = len(values) + missing + unready
    assume(count)
    if at_rest:
        return values, missing, unready, target, at_rest_size(len(values), missing, unready)
    wanted = draw(st.integers(max(1, count - 3), count + 3))
    actual = draw(st.integers(max(1, count - 2), count + 2))
    ending = draw(st.integers(0, 2))
    return values, missing, unready, target, WorkloadSize(wanted, actual, len(values) + missing + ending)


def oracle(values: list[float], missing: int, unready: int, target: float, wanted: int) -> int:
    pods = [*(milli(value) for value in values), *[None] * missing, *[UNREADY] * unready]
    made = resource_metric(pods, milli(target), wanted)
    return wanted if made is None else made


# ---- the laws ----


@settings(max_examples=examples(500))
@given(st.sampled_from(ReportType), clusters())
@example(ReportType.TOTAL, ([80.0] * 3, 0, 1, 80.0, WorkloadSize(4, 4, 3)))
@example(ReportType.TOTAL, ([80.0] * 4, 0, 1, 80.0, WorkloadSize(4, 5, 4)))
@example(ReportType.AVERAGE, ([0.5] * 8 + [0.0] * 13 + [1.25], 3, 0, 0.5, WorkloadSize(22, 23, 25)))
def test_law_4_with_the_reported_value_the_hpa_decides_as_from_the_values_of_the_pods(
    report: ReportType, cluster: tuple[list[float], int, int, float, WorkloadSize]
) -> None:
    values, missing, unready, target, size = cluster
    reported = report_pods(report, values, missing=missing, unready=unready, size=size, target=target)
    by_pods = oracle(values, missing, unready, target, size.spec_replicas)
    by_report = decision_of(report, reported, target, size)
    assert reported.replicas == by_report
    if by_report != by_pods:
        # No number leads there: every number that rounds to this size is within the tolerance.
        numbers = numbers_near(report, target, size, by_pods)
        sizes = (decision_of(report, ReportedValue(number / 1000, 0, ()), target, size) for number in numbers)
        assert by_pods not in sizes
        # Then the size is the closest possible one, with two exceptions: the HPA may take the existing replicas for the
        # wanted ones, and where more exist than are wanted, it may choose a tenth fewer than exist.
        low, high = sorted((size.spec_replicas, by_pods))
        there = (
            {size.status_replicas, math.ceil(0.9 * size.status_replicas)}
            if size.status_replicas > size.spec_replicas
            else {size.status_replicas}
        )
        assert low <= by_report <= high or (report is ReportType.TOTAL and by_report in there)


def numbers_near(
    report: ReportType, target: float, size: WorkloadSize, wanted: int, tolerances: Tolerances = DEFAULT_TOLERANCES
) -> list[int]:
    """Return numbers in thousandths that might lead to this size: those around each bound of the HPA's arithmetic."""
    whole = milli(target)
    per = whole if report is ReportType.TOTAL else whole / max(size.ready_pods, 1)
    low, high = math.floor((wanted - 1) * per), math.ceil(wanted * per)
    rest = whole * size.status_replicas if report is ReportType.TOTAL else whole
    bounds = (low, high, math.floor((1 - tolerances.down) * rest), math.ceil((1 + tolerances.up) * rest), rest)
    spread = [low + (high - low) * step // 40 for step in range(41)]
    return [number for bound in (*bounds, *spread) for number in range(max(0, bound - 2), bound + 3)]


@settings(max_examples=examples(300))
@given(clusters(at_rest=True))
def test_at_rest_only_a_change_within_a_tenth_is_lost_and_then_the_size_stays(
    cluster: tuple[list[float], int, int, float, WorkloadSize],
) -> None:
    values, missing, unready, target, size = cluster
    reported = report_pods(ReportType.TOTAL, values, missing=missing, unready=unready, size=size, target=target)
    by_pods = oracle(values, missing, unready, target, size.spec_replicas)
    by_report = decision_of(ReportType.TOTAL, reported, target, size)
    if by_report != by_pods:
        assert within(by_pods / size.spec_replicas)
        assert by_report == size.spec_replicas


@settings(max_examples=examples(300))
@given(st.sampled_from(ReportType), clusters(at_rest=True), st.data())
def test_law_1_pods_that_become_missing_never_add_replicas_and_are_never_removed(
    report: ReportType, cluster: tuple[list[float], int, int, float, WorkloadSize], data: st.DataObject
) -> None:
    values, missing, unready, target, size = cluster
    assume(values)
    assume(target >= 1)  # below 1, the thousandths that the controller cuts off are worth a pod
    lost = data.draw(st.integers(1, len(values)))
    _, full = report_and_decide(report, values, target, missing=missing, unready=unready)
    _, partial = report_and_decide(report, values[lost:], target, missing=missing + lost, unready=unready)
    here = size.spec_replicas
    assert partial <= max(here, full)
    if partial < here:
        # The observed pods alone are below the target, and each missing pod counts as exactly at the target.
        assert sum(values[lost:]) < target * len(values[lost:])
        assert partial >= missing + lost
        at_target = [*values[lost:], *[target] * (missing + lost)]
        assert partial == report_and_decide(report, at_target, target, unready=unready)[1]
    if partial > here:
        assert sum(values[lost:]) > target * len(values[lost:])


@given(clusters())
def test_resource_replicas_is_the_algorithm_of_the_controller(
    cluster: tuple[list[float], int, int, float, WorkloadSize],
) -> None:
    values, missing, unready, target, size = cluster
    pods = [*(milli(value) for value in values), *[None] * missing, *[UNREADY] * unready]
    made = resource_replicas(
        [milli(value) for value in values], milli(target), missing=missing, unready=unready, replicas=size.spec_replicas
    )
    assert made == resource_metric(pods, milli(target), size.spec_replicas)


@given(st.sampled_from(ReportType), clusters())
def test_the_reported_value_is_a_number_that_keda_keeps_exactly(
    report: ReportType, cluster: tuple[list[float], int, int, float, WorkloadSize]
) -> None:
    values, missing, unready, target, size = cluster
    value = report_pods(report, values, missing=missing, unready=unready, size=size, target=target).value
    assert 0 <= value < math.inf
    assert value == milli(value) / 1000


@given(
    st.sampled_from(ReportType),
    st.floats(-3, 12).map(lambda power: round(10**power, 3)),
    st.lists(st.floats(-3, 12).map(lambda power: 10**power), max_size=4),
    st.integers(1, 300),
    st.integers(0, 100_000),
    st.integers(0, 100_000),
    st.integers(0, 3),
)
def test_any_number_of_a_trigger_or_a_driver_can_be_reported(
    report: ReportType, target: float, some: list[float], times: int, missing: int, unready: int, surge: int
) -> None:
    values = some * times
    count = len(values) + missing + unready
    size = WorkloadSize(count, count + surge, len(values) + missing)
    reported = report_pods(report, values, missing=missing, unready=unready, size=size, target=target)
    assert 0 <= milli(reported.value) <= LARGEST_MILLI
    assert reported.replicas == min(decision_of(report, reported, target, size), 2**31 - 1)
    aggregated = report_devices(report, "max", values or [0.0], missing=surge, size=size, target=target)
    assert 0 <= milli(aggregated.value) <= LARGEST_MILLI
    assert aggregated.replicas == min(decision_of(report, aggregated, target, size), 2**31 - 1)


@pytest.mark.parametrize("report", ReportType)
def test_very_large_and_very_small_numbers_stay_within_bounds(report: ReportType) -> None:
    size = WorkloadSize(100_000, 100_000, 100_000)
    huge = report_pods(report, [1e12] * 1000, missing=99_000, unready=0, size=size, target=1e12)
    many = report_pods(
        report, [1e12] * 10_000, missing=0, unready=0, size=WorkloadSize(10_000, 10_000, 10_000), target=1e12
    )
    tiny = report_pods(report, [1e12] * 1000, missing=0, unready=0, size=WorkloadSize(1000, 1000, 1000), target=0.001)
    endless = report_pods(report, [math.inf], missing=0, unready=0, size=WorkloadSize(1, 1, 1), target=80.0)
    for reported in (huge, many, tiny, endless):
        assert 0 <= milli(reported.value) <= LARGEST_MILLI


@pytest.mark.parametrize(
    ("value", "count", "target"),
    [
        (377103514107.75, 65, 12570117136.925),
        (486698663396.188, 303, 243349331698.094),
        (1e12, 5000, 333333333333.333),
    ],
)
def test_numbers_that_lose_thousandths_in_floating_point_lead_to_the_right_size(
    value: float, count: int, target: float
) -> None:
    reported, made = report_and_decide(ReportType.TOTAL, [value] * count, target)
    assert made == reported.replicas == oracle([value] * count, 0, 0, target, count)


@pytest.mark.parametrize("report", ReportType)
def test_a_negative_value_is_reported_as_zero(report: ReportType) -> None:
    """A temperature may be negative; a reported value may not."""
    reported, made = report_and_decide(report, [-500.0] * 3, 80.0)
    assert (reported.value, made) == (0.0, 0)
    assert report_devices(report, "max", [-5.0], missing=0, size=at_rest_size(3), target=80.0).value == 0.0


def test_a_load_that_three_decimals_cannot_express_is_reported_as_closely_as_possible() -> None:
    """The values are thirty times the target of 0.058, and most pods have no value."""
    values, size = [1.74] * 300, WorkloadSize(4958, 4958, 4955)
    by_pods = oracle(values, 4655, 3, 0.058, 4958)
    assert by_pods == 8976
    reported, made = report_and_decide(ReportType.AVERAGE, values, 0.058, missing=4655, unready=3, size=size)
    assert (made, reported.value) == (8971, 0.105)


# ---- examples, at a target of 80 ----


@pytest.mark.parametrize("report", ReportType)
@pytest.mark.parametrize(
    ("values", "missing", "unready", "replicas"),
    [
        pytest.param([92] * 3, 0, 0, 4, id="three at 92 % need four"),
        pytest.param([0] * 8, 0, 0, 0, id="eight idle pods need none; the HPA then takes its minimum"),
        pytest.param([80] * 3, 0, 1, 4, id="three at the target and one starting: four"),
        pytest.param([100], 0, 1, 2, id="one above and one starting: no scale-up"),
        pytest.param([200] * 2, 0, 1, 5, id="far above: scale-up in spite of one that is starting"),
        pytest.param([0] * 3, 0, 1, 0, id="idle: a starting pod keeps no replica"),
        pytest.param([0] * 6, 2, 0, 2, id="idle, and two without a value: two stay"),
        pytest.param([95] * 6, 2, 0, 8, id="above, and two without a value: the size stays"),
        pytest.param([300] * 6, 2, 0, 23, id="far above, and two without a value: scale-up"),
        pytest.param([80] * 6, 2, 0, 8, id="at the target, and two without a value: the size stays"),
        pytest.param([], 0, 4, 4, id="all pods are starting: the size stays"),
        pytest.param([], 4, 0, 4, id="no pod has a value: the size stays"),
    ],
)
def test_examples(report: ReportType, values: list[float], missing: int, unready: int, replicas: int) -> None:
    reported, made = report_and_decide(report, values, 80.0, missing=missing, unready=unready)
    assert made == replicas
    assert reported.replicas == replicas


def test_the_plain_total_and_mean_are_reported_wherever_they_lead_to_the_right_size() -> None:
    assert report_and_decide(ReportType.TOTAL, [92.0, 40.0], 80.0)[0].value == 132.0
    assert report_and_decide(ReportType.AVERAGE, [92.0, 40.0], 80.0)[0].value == 66.0
    assert report_and_decide(ReportType.AVERAGE, [100.0, 100.0, 0.0], 80.0)[0].value == 66.667
    assert report_and_decide(ReportType.TOTAL, [300.0] * 3, 80.0)[0].value == 900.0


def test_a_rollout_with_surge_does_not_scale_up() -> None:
    """With a value at the target, the HPA would want as many replicas as exist, the surge included."""
    surge = WorkloadSize(spec_replicas=4, status_replicas=5, ready_pods=4)
    assert external_average_value(milli(80.0 * 5), milli(80.0), surge.status_replicas) == 5
    reported, made = report_and_decide(ReportType.TOTAL, [80.0] * 4, 80.0, unready=1, size=surge)
    assert made == 4
    assert reported.value == 320.0
    assert report_and_decide(ReportType.TOTAL, [75.0] * 4, 80.0, unready=1, size=surge)[1] == 4
    assert report_and_decide(ReportType.TOTAL, [85.0] * 4, 80.0, unready=1, size=surge)[1] == 4


def rolled_out(report: ReportType, replicas: int, surge: int, load: float, *, by_devices: bool) -> list[int]:
    """Return the wanted sizes over half an hour, while the new pods of a rollout start and the old ones run."""
    state, wanted, sizes = ControllerState(), replicas, []
    value_type = ValueType.AVERAGE_VALUE if report is ReportType.TOTAL else ValueType.VALUE
    for step in range(120):
        size = WorkloadSize(wanted, wanted + surge, min(replicas, wanted))
        values = [80.0 * load * replicas / size.ready_pods] * size.ready_pods
        if by_devices:
            reported = report_devices(report, "avg", values, missing=0, size=size, target=80.0)
        else:
            unready = size.status_replicas - size.ready_pods
            reported = report_pods(report, values, missing=0, unready=unready, size=size, target=80.0)
        replicas_of_hpa = size.status_replicas if report is ReportType.TOTAL else size.spec_replicas
        recommendation = desired_replicas(
            value_type, milli(reported.value), milli(80.0), replicas=replicas_of_hpa, ready_pods=size.ready_pods
        )
        state, decision = reconcile(state, step * 15.0, wanted, recommendation, max_replicas=1000)
        wanted = decision.replicas
        sizes.append(wanted)
    return sizes


@pytest.mark.parametrize("by_devices", [False, True], ids=["by pods", "by devices"])
@pytest.mark.parametrize("report", ReportType)
@pytest.mark.parametrize("load", [0.92, 1.0, 1.08])
@pytest.mark.parametrize(
    ("replicas", "surge"),
    [
        pytest.param(4, 1, id="four and one more"),
        pytest.param(18, 1, id="eighteen and one more: the largest size that can be kept"),
        pytest.param(19, 1, id="nineteen and one more: within the tolerance of the wanted size"),
        pytest.param(40, 1, id="forty and one more"),
        pytest.param(40, 10, id="forty and a quarter more"),
        pytest.param(100, 10, id="a hundred and a tenth more"),
        pytest.param(200, 2, id="two hundred and two more"),
    ],
)
def test_a_slow_rollout_does_not_scale_up_again_and_again(
    report: ReportType, replicas: int, surge: int, load: float, by_devices: bool
) -> None:
    """Otherwise the surge would be added at each step, and 20 replicas would be 80 after a quarter of an hour."""
    sizes = rolled_out(report, replicas, surge, load, by_devices=by_devices)
    assert max(sizes) <= math.ceil(replicas * load / 0.9) + surge
    assert min(sizes) >= math.floor(replicas * 0.9 * min(load, 1.0))
    if load <= 1.0:
        assert max(sizes) <= replicas
    if replicas < 10 + 9 * surge or report is ReportType.AVERAGE:
        assert set(sizes) == {replicas}


def test_a_large_workload_whose_pods_are_all_starting_does_not_scale_up() -> None:
    reported, made = report_and_decide(ReportType.TOTAL, [], 80.0, unready=41, size=WorkloadSize(40, 41, 0))
    assert made == 37
    assert reported.steps == (
        "no ready pod has a value (0 ready with a value, 0 without, 41 not ready): the size should stay",
        "no number leads the HPA from 40 replicas (41 exist) to 40: 2952 leads closest, to 37",
    )


def test_a_sum_of_devices_supports_a_surge_as_far_as_the_load_requires_it() -> None:
    for total, made in ((3300.0, 41), (3200.0, 37), (2900.0, 37)):
        reported = report_devices(
            ReportType.TOTAL, "sum", [total], missing=0, size=WorkloadSize(40, 41, 40), target=80.0
        )
        assert reported.replicas == made


def test_replicas_that_cannot_be_created_stop_being_wanted() -> None:
    assert report_and_decide(ReportType.TOTAL, [80.0] * 20, 80.0, size=WorkloadSize(22, 20, 20))[1] == 20


def test_more_ready_pods_than_replicas_do_not_reverse_a_scale_down() -> None:
    """44 pods at 88 % of the target need 39, and with 42 replicas the HPA chooses 42 or 38."""
    assert report_and_decide(ReportType.TOTAL, [70.4] * 44, 80.0, size=WorkloadSize(40, 42, 44))[1] == 38


@pytest.mark.parametrize(
    ("values", "unready", "size", "steps"),
    [
        pytest.param(
            [70.4] * 44,
            0,
            WorkloadSize(spec_replicas=40, status_replicas=42, ready_pods=44),
            (
                "total of 44 pods: 3097.6",
                "no number leads the HPA from 40 replicas (42 exist) to 39: 3024 leads closest, to 38",
            ),
            id="after the plain total",
        ),
        pytest.param(
            [],
            41,
            WorkloadSize(spec_replicas=40, status_replicas=41, ready_pods=0),
            (
                "no ready pod has a value (0 ready with a value, 0 without, 41 not ready): the size should stay",
                "no number leads the HPA from 40 replicas (41 exist) to 40: 2952 leads closest, to 37",
            ),
            id="after the reason why the size should stay",
        ),
    ],
)
def test_the_steps_say_that_no_number_leads_to_the_size_and_which_comes_closest(
    values: list[float], unready: int, size: WorkloadSize, steps: tuple[str, ...]
) -> None:
    reported, decided = report_and_decide(ReportType.TOTAL, values, 80.0, unready=unready, size=size)
    assert reported.steps == steps
    assert steps[-1].endswith(f"to {decided}")


def test_pods_without_a_value_count_as_load_that_supports_a_surge() -> None:
    """The pods with a value are slightly above the target, so that the size may grow at all."""
    size = WorkloadSize(40, 41, 40)
    assert report_and_decide(ReportType.TOTAL, [82.0] * 30, 80.0, missing=10, unready=1, size=size)[1] == 41
    assert report_and_decide(ReportType.TOTAL, [80.0] * 30, 80.0, missing=10, unready=1, size=size)[1] == 37
    assert report_and_decide(ReportType.TOTAL, [82.0] * 30, 80.0, unready=11, size=WorkloadSize(40, 41, 30))[1] == 37


def polled(report: ReportType, wanted: int, ready: int, unready: int, value: float) -> list[int]:
    """Return the wanted sizes at ten polls while more pods exist than are wanted, each with the same value."""
    state, sizes = ControllerState(), []
    surge = ready + unready - wanted
    value_type = ValueType.AVERAGE_VALUE if report is ReportType.TOTAL else ValueType.VALUE
    for step in range(10):
        size = WorkloadSize(wanted, wanted + surge, ready)
        reported = report_pods(report, [value] * ready, missing=0, unready=unready, size=size, target=80.0)
        replicas = size.status_replicas if report is ReportType.TOTAL else size.spec_replicas
        recommended = desired_replicas(
            value_type, milli(reported.value), milli(80.0), replicas=replicas, ready_pods=ready
        )
        state, decision = reconcile(state, step * 15.0, wanted, recommended)
        ready, wanted = ready + decision.replicas - wanted, decision.replicas
        sizes.append(wanted)
    return sizes


@pytest.mark.parametrize("report", ReportType)
@pytest.mark.parametrize(
    ("wanted", "ready", "unready", "value"),
    [
        pytest.param(4, 8, 0, 70.0, id="as many new pods as old ones, all ready"),
        pytest.param(4, 5, 0, 80.0, id="maxSurge 25 %, at the target"),
        pytest.param(4, 5, 0, 71.0, id="maxSurge 25 %, nearly below the tolerance"),
        pytest.param(8, 10, 0, 70.0, id="maxSurge 25 %, below the tolerance"),
        pytest.param(8, 8, 2, 80.0, id="maxSurge 25 %, the new pods are loading"),
        pytest.param(40, 41, 0, 80.0, id="a surge within the tolerance of the wanted size"),
        pytest.param(3, 12, 0, 79.0, id="four times the wanted pods"),
    ],
)
def test_at_or_below_the_target_a_surge_never_adds_replicas(
    report: ReportType, wanted: int, ready: int, unready: int, value: float
) -> None:
    sizes = polled(report, wanted, ready, unready, value)
    assert max(sizes) <= wanted
    if wanted < 19:
        assert set(sizes) == {wanted}


@given(st.sampled_from(ReportType), clusters())
def test_at_or_below_the_target_no_cluster_grows(
    report: ReportType, cluster: tuple[list[float], int, int, float, WorkloadSize]
) -> None:
    values, missing, unready, target, size = cluster
    assume(values)
    assume(sum(map(milli, values)) <= milli(target) * len(values))
    _, made = report_and_decide(report, values, target, missing=missing, unready=unready, size=size)
    assert made <= size.spec_replicas


def test_the_steps_name_the_rule() -> None:
    assert report_and_decide(ReportType.TOTAL, [92.0, 40.0], 80.0)[0].steps == ("total of 2 pods: 132",)
    assert report_and_decide(ReportType.TOTAL, [80.0] * 3, 80.0, unready=1)[0].steps == (
        "total of 3 pods: 240",
        "the resource-metric rules of the pods (3 ready with a value, 0 without, 1 not ready) lead to 4 replicas, and "
        "so does 320",
    )
    assert report_and_decide(ReportType.AVERAGE, [], 80.0, unready=2)[0].steps == (
        "no ready pod has a value (0 ready with a value, 0 without, 2 not ready): the size stays; 80 keeps 2 replicas",
    )
    # The change from 20 to 21 is within the tolerance.
    within_tolerance = report_and_decide(ReportType.TOTAL, [93.0] * 18, 80.0, missing=0, unready=2)[0]
    assert within_tolerance.replicas == 20


# ---- devices without regard to pods ----


@pytest.mark.parametrize(
    ("report", "aggregation", "known", "missing", "value"),
    [
        pytest.param(ReportType.AVERAGE, "max", [10, 92], 0, 92.0, id="the aggregate itself"),
        pytest.param(ReportType.TOTAL, "max", [10, 92], 0, 276.0, id="times the replicas"),
        pytest.param(ReportType.TOTAL, "sum", [10, 92], 0, 102.0, id="a sum is a total already"),
        pytest.param(ReportType.AVERAGE, "sum", [10, 92], 0, 102.0, id="a sum unchanged"),
        pytest.param(
            ReportType.AVERAGE, "avg", [10, 20], 1, 110 / 3, id="below the target: a missing device is at the target"
        ),
        pytest.param(ReportType.AVERAGE, "avg", [200, 100], 1, 100.0, id="above the target: a missing device is idle"),
        pytest.param(
            ReportType.AVERAGE,
            "avg",
            [90, 90],
            1,
            80.0,
            id="above the target, and below it with the missing device: the size stays",
        ),
        pytest.param(ReportType.TOTAL, "avg", [90, 90], 1, 240.0, id="the total that keeps three replicas"),
        pytest.param(ReportType.TOTAL, "sum", [10, 20], 1, 240.0, id="a sum below the target: the size stays"),
        pytest.param(
            ReportType.TOTAL, "sum", [200, 200], 1, 400.0, id="a sum above the target without the missing device"
        ),
        pytest.param(
            ReportType.AVERAGE, "sum", [50, 40], 1, 90.0, id="a sum under Value is compared with the target itself"
        ),
        pytest.param(ReportType.AVERAGE, "p95", [10, 20], 1, 80.0, id="the 95th percentile may be the missing device"),
    ],
)
def test_devices(report: ReportType, aggregation: str, known: list[float], missing: int, value: float) -> None:
    size = WorkloadSize(3, 3, 3)
    reported = report_devices(report, aggregation, known, missing=missing, size=size, target=80.0)
    assert reported.value == pytest.approx(value, abs=0.001)


@given(
    st.sampled_from(ReportType),
    st.sampled_from(sorted(AGGREGATIONS)),
    st.lists(st.integers(0, 200), min_size=1, max_size=8),
    st.lists(st.integers(0, 200), min_size=1, max_size=8),
    st.integers(1, 12),
)
def test_law_1_devices_that_become_missing_never_add_replicas(
    report: ReportType, aggregation: str, observed: list[float], lost: list[float], replicas: int
) -> None:
    size = WorkloadSize(replicas, replicas, replicas)
    full = report_devices(report, aggregation, [*observed, *lost], missing=0, size=size, target=80.0)
    partial = report_devices(report, aggregation, observed, missing=len(lost), size=size, target=80.0)
    assert full.replicas is not None
    assert partial.replicas is not None
    assert partial.replicas <= max(replicas, full.replicas)
    if partial.replicas < replicas:
        alone = report_devices(report, aggregation, observed, missing=0, size=size, target=80.0)
        assert alone.replicas is not None
        assert alone.replicas < replicas


@given(
    st.sampled_from(sorted(AGGREGATIONS)),
    st.lists(st.integers(0, 200), min_size=1, max_size=8),
    st.integers(0, 12),
    st.integers(0, 12),
)
def test_the_average_of_devices_never_reverses_the_direction(
    aggregation: str, known: list[float], ready: int, surge: int
) -> None:
    """The HPA multiplies a Value by its ready pods, so at 120 % it would scale down while half of them are starting."""
    size = WorkloadSize(8, 8 + surge, ready)
    reported = report_devices(ReportType.AVERAGE, aggregation, known, missing=0, size=size, target=80.0)
    made = decision_of(ReportType.AVERAGE, reported, 80.0, size)
    value = AGGREGATIONS[aggregation](known)
    assert made == reported.replicas
    assert made >= 8 if value >= 80 else made <= 8


@given(
    st.sampled_from(ReportType),
    st.sampled_from(sorted(AGGREGATIONS)),
    st.lists(st.integers(0, 200), min_size=1, max_size=8),
    st.integers(0, 4),
    st.data(),
)
def test_a_busier_device_never_leads_to_fewer_replicas(
    report: ReportType, aggregation: str, known: list[float], missing: int, data: st.DataObject
) -> None:
    busier = [value + data.draw(st.integers(0, 50)) for value in known]
    size = WorkloadSize(5, 5, 5)
    less = report_devices(report, aggregation, known, missing=missing, size=size, target=80.0)
    more = report_devices(report, aggregation, busier, missing=missing, size=size, target=80.0)
    assert less.replicas is not None
    assert more.replicas is not None
    assert less.replicas <= more.replicas


def test_a_large_fleet_of_large_numbers_keeps_its_size() -> None:
    """A thousand replicas are at a target of 100 GB, in bytes."""
    size = WorkloadSize(1000, 1000, 1000)
    assert report_devices(ReportType.TOTAL, "max", [1e11], missing=0, size=size, target=1e11).replicas == 1000


@pytest.mark.parametrize(
    ("aggregation", "missing"),
    [
        pytest.param("max", 0, id="an aggregate of one replica"),
        pytest.param("sum", 1, id="a sum with a missing device"),
    ],
)
def test_no_total_is_reported_without_the_number_of_replicas(aggregation: str, missing: int) -> None:
    with pytest.raises(ValueError, match=r"^report: Invalid value: total: the workload's replicas are not known"):
        report_devices(ReportType.TOTAL, aggregation, [92.0], missing=missing, size=None, target=80.0)


def test_without_the_number_of_replicas_a_sum_is_a_total_and_an_average_counts_missing_devices() -> None:
    assert report_devices(ReportType.TOTAL, "sum", [92.0, 10.0], missing=0, size=None, target=80.0).value == 102.0
    filled = report_devices(ReportType.AVERAGE, "avg", [200.0, 100.0], missing=1, size=None, target=80.0)
    assert (filled.value, filled.replicas) == (100.0, None)


@pytest.mark.parametrize(("report", "value"), [(ReportType.AVERAGE, 20.0), (ReportType.TOTAL, 0.0)])
def test_while_scaled_to_zero_the_devices_are_reported_unchanged(report: ReportType, value: float) -> None:
    assert report_devices(report, "avg", [20.0], missing=0, size=WorkloadSize(0, 0, 0), target=80.0).value == value


# ---- an HPA with its own tolerances (Kubernetes 1.33 and later) ----


@pytest.mark.parametrize("report", ReportType)
@pytest.mark.parametrize(
    ("tolerances", "value", "made"),
    [
        pytest.param(Tolerances(), 84.0, 10, id="the default holds at 5 % above"),
        pytest.param(Tolerances(up=0.02), 84.0, 11, id="2 % does not"),
        pytest.param(Tolerances(up=0.02), 72.0, 10, id="scaling down keeps its own default"),
        pytest.param(Tolerances(down=0.05), 72.0, 9, id="a tolerance for scaling down alone"),
        pytest.param(Tolerances(up=0.5, down=0.5), 112.0, 10, id="a wide tolerance holds at 40 % above"),
        pytest.param(Tolerances(up=0.0, down=0.0), 80.0, 10, id="none holds exactly at the target"),
        pytest.param(Tolerances(up=0.0, down=0.0), 80.1, 11, id="none adds a replica just above it"),
    ],
)
def test_the_tolerances_of_the_hpa_decide(report: ReportType, tolerances: Tolerances, value: float, made: int) -> None:
    size = WorkloadSize(10, 10, 10)
    pods = report_pods(report, [value] * 10, missing=0, unready=0, size=size, target=80.0, tolerances=tolerances)
    devices = report_devices(report, "max", [value], missing=0, size=size, target=80.0, tolerances=tolerances)
    assert (pods.replicas, devices.replicas) == (made, made)
    assert decision_of(report, pods, 80.0, size, tolerances) == made
    assert decision_of(report, devices, 80.0, size, tolerances) == made


TOLERANCES = st.builds(Tolerances, *[st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0]) | st.floats(0, 1)] * 2)


@settings(max_examples=examples(500))
@given(st.sampled_from(ReportType), clusters(), TOLERANCES)
def test_with_any_tolerances_the_value_leads_to_the_size_of_the_resource_rules(
    report: ReportType, cluster: tuple[list[float], int, int, float, WorkloadSize], tolerances: Tolerances
) -> None:
    values, missing, unready, target, size = cluster
    reported = report_pods(
        report, values, missing=missing, unready=unready, size=size, target=target, tolerances=tolerances
    )
    by_report = decision_of(report, reported, target, size, tolerances)
    assert by_report == reported.replicas
    pods = [*(milli(value) for value in values), *[None] * missing, *[UNREADY] * unready]
    wanted = resource_metric(pods, milli(target), size.spec_replicas, (tolerances.up, tolerances.down))
    by_pods = size.spec_replicas if wanted is None else wanted
    if by_report != by_pods:
        # No number leads there, and the size does not go past it, except where more replicas exist than are wanted.
        numbers = numbers_near(report, target, size, by_pods, tolerances)
        sizes = {decision_of(report, ReportedValue(one / 1000, 0, ()), target, size, tolerances) for one in numbers}
        assert by_pods not in sizes
        low, high = sorted((size.spec_replicas, by_pods))
        assert low <= by_report <= high or report is ReportType.TOTAL
