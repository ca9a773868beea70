# SPDX-License-Identifier: Apache-2.0
"""Tests that a workload counts as active for one cooldown after a time without a value."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.evaluate.outage import DataSource, Outage, last_outage
from keda_gpu_scaler.core.scaling_rules import JobRules
from keda_gpu_scaler.core.state.data_run import LONGEST_GAP_SECONDS, DataRun
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import EngineSample, Workload
from tests.fakes import device, node_history, pod, sample, workload

NOW = 1000.0
COOLDOWN = 300.0


def source(since: float, before: float | None = None, exists: float = 0.0) -> DataSource:
    return DataSource(DataRun(since, before), exists)


@pytest.mark.parametrize(
    ("sources", "outage"),
    [
        pytest.param([], None, id="nothing has data"),
        pytest.param([source(5.0, exists=4.0)], None, id="a pod's first data came soon after it was ready"),
        pytest.param([source(500.0, 100.0)], Outage(100.0, 500.0), id="the only source had none for 400 s"),
        pytest.param([source(500.0, exists=0.0)], Outage(0.0, 500.0), id="none is known since the pod was ready"),
        pytest.param([source(120.0, 100.0)], None, id="a short gap"),
        pytest.param([source(0.0), source(500.0, 100.0)], None, id="the other half went on"),
        pytest.param(
            [source(0.0), source(500.0, 100.0), source(510.0, 90.0)],
            Outage(100.0, 500.0),
            id="with one of three there was no value, and with two of three there was",
        ),
        pytest.param([source(500.0, 100.0), source(700.0, exists=690.0)], Outage(100.0, 500.0), id="a pod came later"),
        pytest.param([source(500.0, 100.0), source(700.0, 650.0)], None, id="the gaps of two were at other times"),
    ],
)
def test_the_last_outage_is_the_last_long_time_with_too_few_sources(
    sources: list[DataSource], outage: Outage | None
) -> None:
    assert last_outage(sources, 0.5) == outage


@given(
    st.lists(
        st.tuples(st.floats(0, 900), st.floats(0, 900), st.one_of(st.none(), st.floats(0, 900))).map(
            lambda one: source(max(one[0], one[1]), one[2] if one[2] is None else min(one[2], max(one[:2])), one[1])
        ),
        max_size=6,
    ),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_an_outage_is_long_and_over(sources: list[DataSource], min_coverage: float) -> None:
    outage = last_outage(sources, min_coverage)
    if outage is not None:
        assert outage.end_seconds - outage.begin_seconds > LONGEST_GAP_SECONDS
        assert outage.end_seconds in {one.run.since_seconds for one in sources}


def test_a_run_ends_with_a_long_gap_and_goes_on_over_a_short_one() -> None:
    run = DataRun(100.0)
    assert run.continued(200.0, 200.0 + LONGEST_GAP_SECONDS) is run
    assert run.continued(200.0, 201.0 + LONGEST_GAP_SECONDS) == DataRun(201.0 + LONGEST_GAP_SECONDS, 200.0)


def after_outage(ago: float, known: Workload, utilization: float = 0.0, **metadata: str) -> Evaluation:
    """An idle workload whose only node sent data again ``ago`` seconds ago, after 400 s without any."""
    history = node_history("gpu-7", sample(0, utilization), held={device(0).uuid: "llama-0"})
    history = replace(history, run=DataRun(NOW - ago, NOW - ago - 400.0))
    with_value = Fleet(None, 10.0, deviceless=True, peers={"gpu-7": history})
    return evaluate(parse_trigger(metadata), with_value, NOW, known, metadata)


LLAMA = workload(pod("llama-0"), replicas=1, cooldown_seconds=COOLDOWN)


@pytest.mark.parametrize(
    ("ago", "known", "is_active"),
    [
        pytest.param(5.0, LLAMA, True, id="data came back a moment ago"),
        pytest.param(COOLDOWN - 1, LLAMA, True, id="within one cooldown"),
        pytest.param(COOLDOWN, LLAMA, False, id="after one cooldown"),
        pytest.param(50.0, replace(LLAMA, cooldown_seconds=45.0), False, id="the cooldown is the ScaledObject's own"),
        pytest.param(5.0, replace(LLAMA, idle_replicas=1), False, id="a workload at its idle size is not activated"),
        pytest.param(5.0, workload(replicas=0), False, id="a workload that is scaled to zero is not activated"),
        pytest.param(5.0, replace(LLAMA, kind="ScaledJob", jobs=JobRules()), False, id="KEDA deletes no running Job"),
    ],
)
@pytest.mark.parametrize("scope", ["workload", "fleet"])
def test_an_idle_workload_stays_active_for_one_cooldown_after_an_outage(
    ago: float, known: Workload, is_active: bool, scope: str
) -> None:
    evaluation = after_outage(ago, known, scope=scope)
    assert evaluation.active is is_active
    if is_active:
        assert evaluation.known_activity is None  # no stream pushes it
        assert evaluation.expires_at_seconds <= NOW - ago + known.cooldown_seconds
        assert f"there was no value until {ago:.0f} s ago" in evaluation.steps[-1]


def test_a_workload_with_work_is_active_by_its_work() -> None:
    evaluation = after_outage(5.0, LLAMA, 0.9)
    assert evaluation.known_activity is True


def test_an_endpoint_has_outages_too() -> None:
    page = EngineSample(NOW, "vllm", waiting=0.0, running=0.0, kv_cache_ratio=0.0)
    target = TargetHistory("http://llama/metrics", (page,), run=DataRun(NOW - 5.0, NOW - 400.0))
    metadata = {"metricType": "queue_depth", "engineEndpoint": "http://llama/metrics"}
    trigger = parse_trigger(metadata)
    assert trigger.engine is not None
    results = {Endpoint(engine=trigger.engine.engine, url=trigger.engine.url): ScrapeResult((target,))}
    evaluation = evaluate(trigger, Fleet(None, 10.0, True, scrape_results=results), NOW, LLAMA, metadata)
    assert evaluation.active
    steady = replace(target, run=DataRun(NOW - 5.0, NOW - 20.0))
    results = {next(iter(results)): ScrapeResult((steady,))}
    evaluation = evaluate(trigger, Fleet(None, 10.0, True, scrape_results=results), NOW, LLAMA, metadata)
    assert not evaluation.active
