# SPDX-License-Identifier: Apache-2.0
"""A replica from event to event serves each request when one that computes every iteration does."""

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.simulate.counters import TOKEN_TIME_BOUNDS
from keda_gpu_scaler.simulate.engine_model import EngineModel, ServiceModel
from keda_gpu_scaler.simulate.gateway import Gateway
from keda_gpu_scaler.simulate.replica import Replica
from keda_gpu_scaler.simulate.requests import RequestLog, RequestTraffic
from keda_gpu_scaler.simulate.service_replica import ServiceReplica
from tests.simulate.reference import Job, SlowReplica

MODEL = EngineModel("test", 0.01, 0.001, 1e-4, 1e-6, kv_tokens=400, max_seqs=6, token_budget=64)
ROOMY = EngineModel("roomy", 0.01, 0.001, 1e-4, 1e-6, kv_tokens=100_000, max_seqs=6, token_budget=64)
Rows = list[tuple[float, int, int]]

rows = st.lists(
    st.tuples(st.floats(0, 5, allow_nan=False), st.integers(1, 150), st.integers(1, 60)),
    min_size=1,
    max_size=30,
    unique_by=lambda row: row[0],
)


def traffic_of(requests: Rows) -> RequestTraffic:
    ordered = sorted(requests)
    columns = [list(column) for column in zip(*ordered, strict=True)]
    return RequestTraffic("test", columns[0], columns[1], columns[2], 10.0)


def served(model: EngineModel, requests: Rows, step: float = math.inf) -> tuple[RequestLog, Replica]:
    log = RequestLog(traffic_of(requests))
    replica, fleet = Replica(model, log), Gateway(log)
    fleet.add(replica, 0.0)
    now = 0.0
    while step < math.inf and now < 100:
        fleet.run(now)
        replica.settle(now)
        now += step
    fleet.run(1e6)
    return log, replica


@pytest.mark.parametrize("model", [MODEL, ROOMY], ids=["with a small KV cache", "with a large KV cache"])
@given(requests=rows)
def test_every_token_comes_when_the_slow_replica_generates_it(model: EngineModel, requests: Rows) -> None:
    log, replica = served(model, requests)
    slow = SlowReplica(model, [Job(arrival, prompt, answer, prompt) for arrival, prompt, answer in sorted(requests)])
    slow.run()
    assert log.first_at == pytest.approx([job.first for job in slow.jobs], rel=1e-9)
    assert log.ended_at == pytest.approx([job.last for job in slow.jobs], rel=1e-9)
    assert replica.counters.preemptions == slow.preemptions
    assert (replica.kv, replica.load, replica.running) == (0, 0, 0)


@given(requests=rows, step=st.floats(0.05, 1))
def test_reading_the_counters_changes_nothing(requests: Rows, step: float) -> None:
    plain, observed = served(ROOMY, requests), served(ROOMY, requests, step)
    assert observed[0].ended_at == pytest.approx(plain[0].ended_at, rel=1e-9)
    assert observed[1].counters.tokens == plain[1].counters.tokens
    assert observed[1].counters.token_histogram == plain[1].counters.token_histogram
    assert observed[1].counters.token_seconds == pytest.approx(plain[1].counters.token_seconds)


@given(requests=rows)
def test_the_counters_count_every_token_and_every_time_between_two(requests: Rows) -> None:
    log, replica = served(MODEL, requests)
    counters = replica.counters
    answers = sum(log.traffic.answers)
    assert counters.tokens == answers
    assert counters.token_times == sum(counters.token_histogram) == answers - len(requests)
    assert counters.first_tokens == sum(counters.first_token_histogram) == counters.ended == len(requests)
    assert counters.prompt_tokens == sum(log.traffic.prompts)
    between = [ended - first for ended, first in zip(log.ended_at, log.first_at, strict=True)]
    assert counters.token_seconds == pytest.approx(math.fsum(between))


def test_a_run_whose_iterations_grow_is_counted_in_each_bucket_of_the_histogram() -> None:
    model = EngineModel("growing", 0.0015, 0.001, 1e-4, 1e-3, kv_tokens=10_000, max_seqs=4, token_budget=64)
    _, replica = served(model, [(0.0, 1, 90)])
    times = [0.0025 + 1e-3 * (1 + number) for number in range(1, 90)]
    expected = [0] * len(TOKEN_TIME_BOUNDS)
    for seconds in times:
        expected[bisect_left(TOKEN_TIME_BOUNDS, seconds)] += 1
    assert sum(count > 0 for count in expected) >= 4
    assert replica.counters.token_histogram == expected
    assert replica.counters.token_seconds == pytest.approx(math.fsum(times))


def test_what_a_killed_replica_had_is_sent_to_another_one_from_the_start() -> None:
    log = RequestLog(traffic_of([(0.0, 10, 50), (0.0, 10, 50)]))
    fleet = Gateway(log)
    first, second = Replica(MODEL, log), Replica(MODEL, log)
    fleet.add(first, 0.0)
    fleet.run(0.2)
    fleet.drain(first, lambda at: None)
    fleet.add(second, 0.2)
    assert math.isinf(log.ended_at[0])
    fleet.kill(first, 0.2)
    fleet.run(100)
    assert min(log.first_at) > 0.2
    assert all(map(math.isfinite, log.ended_at))
    assert fleet.in_flight == 0


def test_requests_wait_at_the_gateway_until_a_replica_is_ready() -> None:
    log = RequestLog(traffic_of([(0.0, 10, 5), (1.0, 10, 5)]))
    fleet = Gateway(log)
    fleet.run(5.0)
    assert (len(fleet.gate), fleet.in_flight, fleet.arrived) == (2, 2, 2)
    fleet.add(Replica(MODEL, log), 5.0)
    fleet.run(10.0)
    assert min(log.first_at) > 5.0
    assert fleet.in_flight == 0


def test_the_gateway_gives_each_replica_as_many_requests_as_the_others() -> None:
    log = RequestLog(traffic_of([(0.001 * number, 10, 50) for number in range(9)]))
    fleet = Gateway(log)
    replicas = [Replica(ROOMY, log) for _ in range(3)]
    for replica in replicas:
        fleet.add(replica, 0.0)
    fleet.run(0.05)
    assert [replica.load for replica in replicas] == [3, 3, 3]


@pytest.mark.parametrize(
    ("model", "ends"),
    [
        pytest.param(ServiceModel("one", 1.0), [1.0, 2.0, 3.0, 4.0], id="one request after another"),
        pytest.param(ServiceModel("pairs", 1.0, batch=2), [1.0, 2.0, 2.0, 3.0], id="a batch takes those that wait"),
        pytest.param(ServiceModel("two", 1.0, instances=2), [1.0, 1.1, 2.0, 2.1], id="two batches at once"),
    ],
)
def test_a_server_of_whole_requests(model: ServiceModel, ends: list[float]) -> None:
    log = RequestLog(traffic_of([(0.0, 1, 1), (0.1, 1, 1), (0.2, 1, 1), (0.3, 1, 1)]))
    server, fleet = ServiceReplica(model, log), Gateway(log)
    fleet.add(server, 0.0)
    fleet.run(100)
    assert log.ended_at == pytest.approx(ends)
    assert server.counters.ended == 4
    assert server.counters.service_seconds == pytest.approx(4.0)
    assert server.busy_until(100) == pytest.approx(max(ends))
