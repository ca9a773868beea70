# SPDX-License-Identifier: Apache-2.0
"""Tests the value under scalingModifiers, and the value for an HPA with its own tolerances."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, NoValue, evaluate
from keda_gpu_scaler.core.hpa.controller import ControllerState, reconcile
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType, desired_replicas, milli
from keda_gpu_scaler.core.scaling_rules import Formula, Tolerances
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import EngineSample, Series, Workload
from tests.fakes import device, node_history, pod, sample, workload

NOW = 1000.0
EPP = "http://epp:9090/metrics"


def node(held: dict[str, float | None]) -> History:
    samples = [sample(number, None if value is None else value / 100) for number, value in enumerate(held.values())]
    holders = {device(number).uuid: owner for number, owner in enumerate(held)}
    return node_history("gpu-7", *samples, held=holders, at=NOW)


def scene(
    loads: list[float | None], metric_type: str, *, starting: int = 0, trigger_type: str = "AverageValue"
) -> tuple[Workload, Fleet]:
    """A workload under a formula of this type: ready pods with these utilisations, and pods that are starting."""
    held = {f"pod-{number}": value for number, value in enumerate(loads)}
    pods = [*(pod(name) for name in held), *(pod(f"new-{number}", None, ready=False) for number in range(starting))]
    known = workload(*pods, metric_type=trigger_type, formula=Formula("gpu", "75", "", metric_type))
    return known, Fleet(None, 10.0, deviceless=True, peers={"gpu-7": node(held)})


def evaluated(known: Workload, fleet: Fleet, **metadata: str) -> Evaluation:
    return evaluate(parse_trigger(metadata), fleet, NOW, known, metadata)


def polled(known: Workload, metric_type: ValueType, total: float, replicas: int, target: float = 75.0) -> list[int]:
    """Return the sizes at ten polls of an HPA that compares the formula "gpu" with this target and type."""
    state, sizes = ControllerState(), []
    for step in range(10):
        now, fleet = scene([total / replicas] * replicas, metric_type)
        now = replace(now, formula=known.formula, tolerances=known.tolerances, triggers=known.triggers)
        evaluation = evaluated(now, fleet)
        assert evaluation.value is not None
        recommended = desired_replicas(
            metric_type, milli(evaluation.value), milli(target), replicas=replicas, tolerances=known.tolerances
        )
        state, decision = reconcile(state, step * 15.0, replicas, recommended, max_replicas=8)
        replicas = decision.replicas
        sizes.append(replicas)
    return sizes


@pytest.mark.parametrize("metric_type", ValueType)
@pytest.mark.parametrize("trigger_type", ["AverageValue", "Value"])
def test_three_replicas_at_92_percent_become_four_under_a_formula(metric_type: ValueType, trigger_type: str) -> None:
    """On a real KEDA they became 7 and then 8 while the trigger reported for its own type."""
    known, _ = scene([92.0] * 3, metric_type, trigger_type=trigger_type)
    assert polled(known, metric_type, 3 * 92.0, 3) == [4] * 10


@pytest.mark.parametrize(
    ("loads", "starting", "total", "mean"),
    [
        pytest.param([92.0, 40.0], 0, 132.0, 66.0, id="the total or the mean"),
        pytest.param([80.0] * 3, 1, 240.0, 80.0, id="a pod that is loading has no load, and no number keeps its place"),
        pytest.param([90.0, 90.0, None], 0, 270.0, 90.0, id="a pod without a value is like the others"),
        pytest.param([0.0, 0.0], 0, 0.0, 0.0, id="idle pods have no load"),
    ],
)
def test_the_plain_number_is_reported_in_the_type_of_the_formula(
    loads: list[float | None], starting: int, total: float, mean: float
) -> None:
    for metric_type, value in (("AverageValue", total), ("Value", mean)):
        known, fleet = scene(loads, metric_type, starting=starting)
        evaluation = evaluated(known, fleet)
        assert evaluation.value == value
        assert evaluation.steps[-2].endswith(f": {value:.6g}, which the formula of scalingModifiers takes")


@given(st.lists(st.integers(0, 200), min_size=1, max_size=6), st.integers(0, 3), st.sampled_from([10, 75, 500]))
def test_the_number_depends_on_the_readings_alone(loads: list[float], starting: int, target: int) -> None:
    known, fleet = scene(list(loads), "AverageValue", starting=starting)
    evaluation = evaluated(known, fleet, targetValue=str(target))
    assert evaluation.value == pytest.approx(sum(loads), abs=0.01)


def test_pods_out_of_scope_are_like_the_others() -> None:
    known, fleet = scene([90.0, 60.0], "AverageValue")
    evaluation = evaluated(known, fleet, gpuIndex="0")
    assert evaluation.value == 180.0
    assert not any("count as at the target" in step for step in evaluation.steps)


def test_an_explicit_report_is_not_refused() -> None:
    known, fleet = scene([90.0, 60.0], "AverageValue")
    assert evaluated(known, fleet, report="average").value == 75.0


def test_without_any_value_there_is_no_number_for_a_formula() -> None:
    known, fleet = scene([], "AverageValue", starting=2)
    evaluation = evaluated(known, fleet)
    assert (evaluation.value, evaluation.no_value_reason) == (None, NoValue.UNAVAILABLE)
    assert evaluation.active
    assert evaluation.reason == (
        "no ready pod has a value, and the formula of scalingModifiers takes a number: the size stays until one has"
    )


@pytest.mark.parametrize("starting", [0, 1])
@pytest.mark.parametrize(
    ("queued", "per_replica", "wanted"),
    [
        pytest.param(20.0, {"demandPerReplica": "8"}, 3, id="three replicas"),
        pytest.param(20.0, {}, 1, id="one replica, to be activated at all"),
    ],
)
def test_demand_gives_a_formula_a_number_because_activity_alone_has_no_effect(
    queued: float, per_replica: dict[str, str], wanted: int, starting: int
) -> None:
    metadata = {"demandEndpoint": EPP, "demandMetric": "queue_size", **per_replica}
    known, fleet = scene([], "AverageValue", starting=starting)
    assert evaluated(known, fleet, **metadata).value == (None if starting else 0.0)
    reading = EngineSample(NOW, selected={"queue_size": Series(queued, is_counter=False)})
    results = {Endpoint(url=EPP, every_address=True): ScrapeResult((TargetHistory(EPP, (reading,)),))}
    evaluation = evaluated(known, replace(fleet, scrape_results=results), **metadata)
    assert (evaluation.value, evaluation.active) == (80.0 * wanted, True)


@pytest.mark.parametrize(
    ("metadata", "metric_type", "value"),
    [
        pytest.param({"aggregation": "max"}, "Value", 90.0, id="an aggregate"),
        pytest.param({"aggregation": "max"}, "AverageValue", 270.0, id="times the replicas"),
        pytest.param({"aggregation": "sum"}, "AverageValue", 255.0, id="a sum is a total, with the mean of the others"),
        pytest.param({"aggregation": "avg"}, "Value", 85.0, id="a missing device is like the others"),
    ],
)
def test_devices_under_a_formula(metadata: dict[str, str], metric_type: str, value: float) -> None:
    known, fleet = scene([90.0, 80.0, None], metric_type)
    assert evaluated(known, fleet, scope="fleet", **metadata).value == value


@pytest.mark.parametrize("metric_type", ValueType)
@pytest.mark.parametrize(
    ("tolerances", "value", "size"),
    [
        pytest.param(Tolerances(), 84.0, 10, id="5 % above is within the default"),
        pytest.param(Tolerances(up=0.02), 84.0, 11, id="and not within 2 %"),
        pytest.param(Tolerances(down=0.01), 76.0, 10, id="below the target, ten are still needed"),
        pytest.param(Tolerances(up=0.5), 110.0, 10, id="a wide tolerance"),
    ],
)
def test_the_hpa_with_its_own_tolerances_keeps_or_changes_the_size(
    tolerances: Tolerances, value: float, size: int, metric_type: ValueType
) -> None:
    known, fleet = scene([value] * 10, metric_type, trigger_type=metric_type)
    known = replace(known, formula=None, tolerances=tolerances)
    evaluation = evaluated(known, fleet)
    assert evaluation.value is not None
    recommended = desired_replicas(
        metric_type, milli(evaluation.value), milli(80.0), replicas=10, tolerances=tolerances
    )
    assert recommended.replicas == size


def test_the_number_that_keeps_a_size_is_within_the_tolerances_of_the_hpa() -> None:
    """36 pods at 85 and four that are loading keep forty; the plain total is within the default tolerance alone."""
    known, fleet = scene([85.0] * 36, "AverageValue", starting=4)
    known = replace(known, formula=None)
    assert evaluated(known, fleet).value == 36 * 85.0
    assert evaluated(replace(known, tolerances=Tolerances(down=0.02)), fleet).value == 40 * 80.0


def test_devices_are_reported_for_the_tolerances_of_the_hpa() -> None:
    """Eleven of ten wanted replicas exist: 800 is within a tenth of 880, where the HPA would want all eleven."""
    known, fleet = scene([80.0] * 10, "AverageValue")
    known = replace(known, formula=None, status_replicas=11)
    assert evaluated(known, fleet, scope="fleet").value == pytest.approx(792.0, abs=0.01)
    assert evaluated(replace(known, tolerances=Tolerances(down=0.02)), fleet, scope="fleet").value == 800.0
