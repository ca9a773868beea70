# SPDX-License-Identifier: Apache-2.0
"""Tests that a workload does not shrink while a ready pod has no value, and that it may after a while."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.engine_load import pod_endpoint
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType, desired_replicas, milli
from keda_gpu_scaler.core.scaling_rules import Formula, JobRules
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.state.scrape import ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import EngineSample, Pod, ReadingFailure, Workload
from tests.fakes import device, node_history, pod, sample, sample_without_readings, workload

NOW = 1000.0
HOLD = 600.0


def eight(*, metric_type: str = "AverageValue", **changes: object) -> Workload:
    """Eight ready pods: six on gpu-1, and two on gpu-2."""
    pods = [pod(f"llama-{number}", "gpu-1" if number < 6 else "gpu-2", age=7200.0) for number in range(8)]
    return replace(workload(*pods, metric_type=metric_type), **changes)  # type: ignore[arg-type]


def node(name: str, numbers: range, utilization: float = 0.0, *, age: float = 0.0) -> History:
    held = {device(number).uuid: f"llama-{number}" for number in numbers}
    return node_history(name, *[sample(number, utilization) for number in numbers], held=held, at=NOW - age)


def fleet(*nodes: History, started: float = 0.0) -> Fleet:
    return Fleet(None, 10.0, deviceless=True, peers={one.newest.node: one for one in nodes}, started_at_seconds=started)


def evaluated(known: Workload, with_value: Fleet, **metadata: str) -> Evaluation:
    return evaluate(parse_trigger(metadata), with_value, NOW, known, metadata)


def size(evaluation: Evaluation, known: Workload) -> int:
    assert evaluation.value is not None
    kind = ValueType(known.triggers[0].metric_type)
    found = desired_replicas(
        kind, milli(evaluation.value), milli(80.0), replicas=known.status_replicas, ready_pods=len(known.pods)
    )
    return found.replicas


@pytest.mark.parametrize("metric_type", ["AverageValue", "Value"])
@pytest.mark.parametrize(
    ("age", "metadata", "replicas"),
    [
        pytest.param(11.0, {}, 8, id="the node has not answered for a moment: eight idle replicas stay"),
        pytest.param(HOLD - 1, {}, 8, id="until the hold ends"),
        pytest.param(HOLD, {}, 2, id="then the two missing pods count as at the target"),
        pytest.param(11.0, {"missingHoldSeconds": "0"}, 2, id="without a hold the shrink is allowed at once"),
        pytest.param(60.0, {"missingHoldSeconds": "45"}, 2, id="a shorter hold has ended"),
        pytest.param(60.0, {"startupGraceSeconds": "45"}, 2, id="the hold is as long as the startup grace"),
    ],
)
def test_the_size_stays_while_a_ready_pod_is_missing_and_the_hold_lasts(
    age: float, metadata: dict[str, str], replicas: int, metric_type: str
) -> None:
    known = eight(metric_type=metric_type)
    evaluation = evaluated(known, fleet(node("gpu-1", range(6)), node("gpu-2", range(6, 8), age=age)), **metadata)
    assert size(evaluation, known) == replicas
    sentence = "no shrink while a ready pod is missing (llama-6 and 1 more)"
    assert any(sentence in step for step in evaluation.steps) is (replicas == 8)
    assert evaluation.kept_active_by_missing_data


def test_growth_is_not_held() -> None:
    known = eight()
    evaluation = evaluated(known, fleet(node("gpu-1", range(6), 1.0), node("gpu-2", range(6, 8), age=11.0)))
    free = evaluated(
        known, fleet(node("gpu-1", range(6), 1.0), node("gpu-2", range(6, 8), age=11.0)), missingHoldSeconds="0"
    )
    assert evaluation.value == free.value


def test_an_evaluation_ends_with_the_hold() -> None:
    nodes = (node("gpu-1", range(6)), node("gpu-2", range(6, 8), age=HOLD - 3))
    evaluation = evaluated(eight(), fleet(*nodes))
    assert evaluation.expires_at_seconds == NOW + 3
    assert "for at most 3 s more (missingHoldSeconds 600)" in " ".join(evaluation.steps)


def test_an_instance_that_has_just_started_holds_as_if_every_pod_had_gone_missing_then() -> None:
    nodes = (node("gpu-1", range(6)),)
    assert size(evaluated(eight(), fleet(*nodes, started=NOW - 5)), eight()) == 8
    assert size(evaluated(eight(), fleet(*nodes, started=NOW - HOLD)), eight()) == 2


def test_a_pod_on_a_node_that_the_api_server_no_longer_has_is_not_waited_for() -> None:
    nodes = (node("gpu-1", range(6)), node("gpu-2", range(6, 8), age=11.0))
    lost = replace(fleet(*nodes), node_labels={"gpu-1": {}})
    assert size(evaluated(eight(), lost), eight()) == 2
    assert size(evaluated(eight(), replace(lost, node_labels={"gpu-1": {}, "gpu-2": {}})), eight()) == 8


def test_a_card_without_a_reading_is_missing_since_its_reading_failed() -> None:
    def lost(seconds: float) -> Fleet:
        failure = ReadingFailure("", "GPU is lost (15)", NOW - seconds)
        bad = replace(sample_without_readings(7), failures=(failure,))
        held = {device(number).uuid: f"llama-{number}" for number in (6, 7)}
        return fleet(node("gpu-1", range(6)), node_history("gpu-2", sample(6, 0.0), bad, held=held))

    assert size(evaluated(eight(), lost(30.0)), eight()) == 8
    assert size(evaluated(eight(), lost(HOLD)), eight()) == 1


def test_a_node_that_no_longer_knows_its_allocations_is_missing_since_it_knew_them() -> None:
    blind = node_history("gpu-2", sample(6, 0.0), sample(7, 0.0), held=None)
    for seconds, replicas in ((30.0, 8), (HOLD, 2)):
        nodes = (node("gpu-1", range(6)), replace(blind, allocated_at_seconds=NOW - seconds))
        assert size(evaluated(eight(), fleet(*nodes)), eight()) == replicas


def scraped(*pods: Pod, ages: dict[str, float], **metadata: str) -> Fleet:
    trigger = parse_trigger(metadata)
    assert trigger.engine is not None
    results = {}
    for one in pods:
        at = NOW - ages.get(one.ref.name, 0.0)
        page = EngineSample(at, "vllm", waiting=0.0, running=0.0, kv_cache_ratio=0.0)
        results[pod_endpoint(trigger.engine, one)] = ScrapeResult((TargetHistory("http://pod/metrics", (page,)),))
    return replace(fleet(), scrape_results=results)


def test_an_engine_that_does_not_answer_is_missing_since_its_last_page() -> None:
    pods = [pod(f"llama-{number}", address=f"10.0.0.{number + 1}", age=7200.0) for number in range(4)]
    known, metadata = workload(*pods), {"metricType": "queue_depth", "targetValue": "80"}
    for age, replicas in ((20.0, 4), (HOLD, 1)):
        with_value = scraped(*pods, ages={"llama-3": age}, **metadata)
        assert size(evaluated(known, with_value, **metadata), known) == replicas


def test_a_formula_and_a_scaled_job_take_no_held_number() -> None:
    nodes = fleet(node("gpu-1", range(6)), node("gpu-2", range(6, 8), age=11.0))
    formula = evaluated(eight(formula=Formula("gpu / 2", "40", "", "Value")), nodes)
    assert formula.value == 0.0
    jobs = evaluated(eight(kind="ScaledJob", jobs=JobRules()), nodes)
    assert not any("no shrink" in step for step in jobs.steps)


@given(
    utilizations=st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]), min_size=6, max_size=6),
    metric_type=st.sampled_from(["AverageValue", "Value"]),
)
def test_a_workload_with_a_missing_pod_never_shrinks_within_the_hold(
    utilizations: list[float], metric_type: str
) -> None:
    held = {device(number).uuid: f"llama-{number}" for number in range(6)}
    seen = node_history("gpu-1", *[sample(number, one) for number, one in enumerate(utilizations)], held=held)
    known = eight(metric_type=metric_type)
    assert size(evaluated(known, fleet(seen, node("gpu-2", range(6, 8), age=11.0))), known) >= 8
