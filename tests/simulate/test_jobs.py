# SPDX-License-Identifier: Apache-2.0
"""ScaledJobs in a simulation: KEDA's strategies, the Jobs' pods, and the items of the queue."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.core.scaling_rules import JobRules
from keda_gpu_scaler.kube.keda_objects import job_rules
from keda_gpu_scaler.simulate.engine_model import ServiceModel, SimulationError
from keda_gpu_scaler.simulate.job_simulation import JobSimulation
from keda_gpu_scaler.simulate.outcome import simulate_spec
from keda_gpu_scaler.simulate.queue_triggers import QUEUE_SCALERS, is_queue_trigger, queue_trigger
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.scenario import (
    Circumstances,
    JobSpec,
    Objective,
    QueueRules,
    QueueTrigger,
    ScalingSpec,
    TriggerSpec,
)
from keda_gpu_scaler.simulate.simulation import Run, WorkloadSimulation
from keda_gpu_scaler.simulate.traffic.assembly import assemble
from tests.core.hpa.keda_jobs import KedaJobs

ITEMS = Objective(600.0, math.inf, is_for_items=True)
FAST = Circumstances(ITEMS, (20.0, 20.0), keda_phase_seconds=0.0, queue=QueueRules(), tail_seconds=3600.0)
WAITING = QueueTrigger("redis", 1.0)
UNFINISHED = QueueTrigger("kafka", 1.0, counts_unfinished=True)
SERVICE = ServiceModel("worker", 40.0)


def items(*times: float) -> RequestTraffic:
    return assemble("items", [(at, 1, 1) for at in times], seconds=max(times) + 1)


def jobs(trigger: QueueTrigger = UNFINISHED, completions: int | None = None, **rules: Any) -> ScalingSpec:
    job_spec = JobSpec(JobRules(**rules), completions)
    return ScalingSpec("jobs", (), queue_triggers=(trigger,), polling_seconds=15.0, jobs=job_spec)


def run(spec: ScalingSpec, traffic: RequestTraffic, circumstances: Circumstances = FAST) -> tuple[Run, JobSimulation]:
    simulation = JobSimulation(traffic, SERVICE, circumstances, spec)
    return simulation.run(), simulation


def test_each_item_starts_one_job_that_ends_after_it() -> None:
    result, simulation = run(jobs(), items(1.0, 2.0, 100.0))
    assert result.log.ended_at == [75.0, 75.0, 165.0]  # the poll at 15 or 105 s, a start of 20 s, and 40 s of work
    assert (simulation.totals.created, simulation.totals.finished, simulation.totals.found_empty) == (3, 3, 0)
    assert [move.after - move.before for move in result.moves] == [2, 1]
    assert all(pod.gone_at - pod.created_at == pytest.approx(60.0) for pod in result.pods)


def test_a_queue_that_counts_only_waiting_items_starts_too_few_jobs_with_the_strategy_default() -> None:
    traffic = items(*[float(at) for at in range(0, 300, 10)])
    counted = {trigger.type: run(jobs(trigger), traffic)[0] for trigger in (WAITING, UNFINISHED)}
    ends = {kind: max(result.log.ended_at) for kind, result in counted.items()}
    assert ends["redis"] > ends["kafka"], "running jobs are subtracted from items that are not counted any more"


def test_the_strategy_accurate_on_a_queue_that_counts_unfinished_items_starts_jobs_twice() -> None:
    spec = jobs(UNFINISHED)
    accurate = replace(spec, jobs=JobSpec(job_rules({"scalingStrategy": {"strategy": "accurate"}})))
    _, simulation = run(accurate, items(1.0, 2.0))
    assert simulation.totals.created > 2
    assert simulation.totals.found_empty == simulation.totals.finished - 2


def test_a_pod_takes_several_items_one_after_another() -> None:
    result, simulation = run(
        jobs(QueueTrigger("kafka", 3.0, counts_unfinished=True)),
        items(1.0, 2.0, 3.0),
        replace(FAST, queue=QueueRules(3)),
    )
    assert simulation.totals.created == 1
    assert result.log.ended_at == [75.0, 115.0, 155.0]


def test_a_pod_without_a_limit_works_until_the_queue_is_empty() -> None:
    result, simulation = run(
        jobs(max_jobs=1), items(*[float(at) for at in range(10)]), replace(FAST, queue=QueueRules(None))
    )
    assert simulation.totals.created == 1
    assert max(result.log.ended_at) == 20 + 400


def test_the_pods_of_a_job_run_side_by_side() -> None:
    result, simulation = run(jobs(pods_per_job=2, max_jobs=1), items(1.0, 2.0, 3.0))
    assert len(result.pods) == 4  # two Jobs of two pods each, one of which found the queue empty
    assert [*map(round, result.log.ended_at[:2])] == [75, 75]
    assert simulation.totals.found_empty == 1


def test_completions_follow_one_another_with_a_start_each() -> None:
    result, simulation = run(jobs(max_jobs=1, completions=3), items(1.0, 2.0, 3.0))
    assert simulation.totals.created == 1
    starts = [pod.created_at for pod in result.pods]
    assert len(starts) == 3
    assert all(later - earlier >= 60 for earlier, later in pairwise(starts))


def test_the_maximum_holds_and_the_time_at_it_is_counted() -> None:
    result, _ = run(jobs(max_jobs=2), items(*[1.0] * 12))
    assert max(moment.wanted for moment in result.moments) == 2
    assert result.max_seconds > 100


def test_the_minimum_is_there_without_any_item() -> None:
    result, _ = run(jobs(min_jobs=2, max_jobs=5), items(300.0))
    assert result.moves[0].after == 2


@settings(max_examples=30)
@given(
    times=st.lists(st.integers(0, 900), min_size=1, max_size=40),
    least=st.integers(0, 3),
    most=st.integers(3, 12),
    counts_unfinished=st.booleans(),
    target=st.integers(1, 4),
)
def test_every_poll_starts_as_many_jobs_as_keda_does(
    times: list[int], least: int, most: int, counts_unfinished: bool, target: int
) -> None:
    fields = {"minReplicaCount": least, "maxReplicaCount": most}
    trigger = QueueTrigger("queue", float(target), counts_unfinished=counts_unfinished)
    spec = replace(jobs(trigger), jobs=JobSpec(job_rules(fields)))
    result, _ = run(spec, items(*map(float, sorted(times))))
    started = {move.at_seconds: move.after - move.before for move in result.moves}
    for moment in result.moments:
        length = moment.waiting + (moment.running if counts_unfinished else 0)
        created = KedaJobs(fields, moment.wanted).poll(float(length), float(target), is_active=length > 0)
        assert started.get(moment.at_seconds, 0) == created


@given(times=st.lists(st.integers(0, 600), min_size=1, max_size=30), per_pod=st.sampled_from([None, 1, 3]))
@settings(max_examples=30)
def test_no_item_is_lost_or_done_twice(times: list[int], per_pod: int | None) -> None:
    traffic = items(*map(float, sorted(times)))
    result, simulation = run(jobs(), traffic, replace(FAST, queue=QueueRules(per_pod)))
    assert not math.isinf(max(result.log.ended_at))
    assert all(end - arrival >= 40 for arrival, end in zip(traffic.arrivals, result.log.ended_at, strict=True))
    assert simulation.totals.found_empty + len(times) >= simulation.totals.created


def test_a_trigger_of_this_scaler_starts_jobs_by_demand_and_then_by_its_own_value() -> None:
    metadata = {
        "metricType": "gpu_utilization",
        "targetValue": "80",
        "demandEndpoint": "http://exporter:9419/metrics",
        "demandMetric": "rabbitmq_queue_messages_ready",
        "demandPerReplica": "2",
    }
    spec = replace(jobs(), triggers=(TriggerSpec(metadata),), queue_triggers=())
    result, _ = run(spec, items(*[1.0] * 4), replace(FAST, queue=QueueRules(None)))
    assert result.moves[0].after == 2, "four items, two of them for each Job"
    assert not math.isinf(max(result.log.ended_at))
    assert not result.without_value


def test_workers_of_a_scaledobject_take_items_from_the_queue() -> None:
    spec = replace(jobs(QueueTrigger("redis", 2.0)), jobs=None, min_replicas=0, max_replicas=10)
    traffic = assemble("items", [(float(at), 1, 1) for at in range(0, 600, 4)], seconds=2400.0)
    result = WorkloadSimulation(traffic, SERVICE, FAST, 0).scaled_by(spec)
    assert max(moment.ready for moment in result.moments) > 3
    assert result.moves[0].by == "KEDA"
    assert result.moves[-1].after == 0
    assert not math.isinf(max(result.log.ended_at))


def test_a_row_says_how_many_jobs_there_were() -> None:
    outcome = simulate_spec(jobs(), items(1.0, 2.0), SERVICE, FAST, 0)
    assert outcome.summary is not None
    assert outcome.summary.within_percent == 100
    assert outcome.notes == ("2 Jobs were started, and 2 of them were complete at the end",)
    assert outcome.latencies[0].first_token == pytest.approx(74.0, abs=1)


@pytest.mark.parametrize(
    ("kind", "metadata", "target", "counts_unfinished"),
    [
        pytest.param("redis", {}, 5, False, id="redis by default"),
        pytest.param("rabbitmq", {"value": "7"}, 7, False, id="rabbitmq over AMQP"),
        pytest.param("rabbitmq", {"queueLength": "7", "protocol": "http"}, 7, True, id="rabbitmq over HTTP"),
        pytest.param(
            "rabbitmq", {"value": "7", "protocol": "http", "excludeUnacknowledged": "true"}, 7, False,
            id="rabbitmq without unacknowledged messages",
        ),
        pytest.param("aws-sqs-queue", {}, 5, True, id="SQS with messages in flight"),
        pytest.param("aws-sqs-queue", {"scaleOnInFlight": "false"}, 5, False, id="SQS without them"),
        pytest.param("azure-queue", {"queueLengthStrategy": "visibleonly"}, 5, False, id="visible messages alone"),
        pytest.param("kafka", {"lagThreshold": "50"}, 50, True, id="the lag of a group"),
    ],
)  # fmt: skip
def test_a_trigger_of_keda_on_a_queue(
    kind: str, metadata: dict[str, str], target: float, counts_unfinished: bool
) -> None:
    trigger = queue_trigger(kind, metadata)
    assert (trigger.target, trigger.counts_unfinished) == (target, counts_unfinished)
    assert (
        queue_trigger(kind, metadata, counts_unfinished=not counts_unfinished).counts_unfinished
        is not counts_unfinished
    )


@pytest.mark.parametrize(
    ("kind", "metadata", "words"),
    [
        pytest.param("rabbitmq", {}, "metadata.value: Required value", id="no target"),
        pytest.param("redis", {"listLength": "five"}, "metadata.listLength: Invalid value", id="a word"),
        pytest.param("redis", {"listLength": "0"}, "must be above 0", id="a target of nothing"),
        pytest.param("redis", {"activationListLength": "-1"}, "metadata.activationListLength", id="below nothing"),
    ],
)
def test_a_trigger_on_a_queue_that_cannot_be_read(kind: str, metadata: dict[str, str], words: str) -> None:
    with pytest.raises(SimulationError, match=words):
        queue_trigger(kind, metadata)


def test_other_triggers_count_no_queue() -> None:
    assert not is_queue_trigger("prometheus", {})
    assert not is_queue_trigger("rabbitmq", {"mode": "MessageRate"})
    assert all(is_queue_trigger(kind, {}) for kind in QUEUE_SCALERS)
