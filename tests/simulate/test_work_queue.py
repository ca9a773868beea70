# SPDX-License-Identifier: Apache-2.0
"""Items of a queue go to the workers that have room, each once, and the oldest first."""

from heapq import heapreplace

from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.simulate.engine_model import EngineModel, ServiceModel
from keda_gpu_scaler.simulate.requests import NEVER, RequestLog
from keda_gpu_scaler.simulate.servers import make_server
from keda_gpu_scaler.simulate.traffic.assembly import assemble
from keda_gpu_scaler.simulate.work_queue import WorkQueue

arrivals = st.lists(st.integers(0, 400), min_size=1, max_size=60)


def queue_of(times: list[int]) -> tuple[WorkQueue, RequestLog]:
    traffic = assemble("items", [(float(at), 10, 10) for at in sorted(times)], seconds=1000.0)
    log = RequestLog(traffic)
    return WorkQueue(log), log


@given(times=arrivals, workers=st.integers(1, 5), service=st.integers(1, 30))
def test_workers_of_one_item_are_a_queue_with_several_servers(times: list[int], workers: int, service: int) -> None:
    queue, log = queue_of(times)
    for _ in range(workers):
        queue.add(make_server(ServiceModel("worker", float(service)), log), 0.0)
    queue.run(10_000.0)
    free = [0.0] * workers
    for number, at in enumerate(sorted(times)):
        begin = max(float(at), free[0])
        heapreplace(free, begin + service)
        assert log.ended_at[number] == begin + service
    assert queue.in_flight == queue.waiting == queue.running == 0


@given(times=arrivals, batch=st.integers(1, 8))
def test_a_worker_takes_a_whole_batch_of_what_waits(times: list[int], batch: int) -> None:
    queue, log = queue_of([*times, 0])
    queue.add(make_server(ServiceModel("worker", 1000.0, batch=batch), log), 0.0)
    queue.run(1e9)
    by_end: dict[float, int] = {}
    for ended in log.ended_at:
        by_end[ended] = by_end.get(ended, 0) + 1
    assert max(by_end.values()) <= batch
    assert len(by_end) <= 1 + -(-len(times) // batch)


def test_a_worker_with_a_number_of_items_ends_after_them_and_the_rest_waits() -> None:
    queue, log = queue_of([0, 0, 0, 0])
    ended: list[float] = []
    queue.run(1.0)
    queue.add_for(make_server(ServiceModel("worker", 10.0), log), 1.0, 3, ended.append)
    queue.run(100.0)
    assert ended == [31.0]
    assert (queue.waiting, queue.in_flight) == (1, 1)


def test_a_worker_that_finds_the_queue_empty_ends_at_once() -> None:
    queue, log = queue_of([500])
    ended: list[float] = []
    queue.add_for(make_server(ServiceModel("worker", 10.0), log), 1.0, None, ended.append)
    assert ended == [1.0]
    queue.run(600.0)
    assert queue.waiting == 1


def test_items_of_a_worker_that_is_killed_are_first_again() -> None:
    queue, log = queue_of([0, 0, 5])
    first, second = (make_server(ServiceModel("worker", 50.0, batch=2), log) for _ in range(2))
    queue.add(first, 0.0)
    queue.run(10.0)
    queue.drain(first, lambda at: None)
    queue.kill(first, 10.0)
    assert [*queue.gate] == [0, 1, 2]
    queue.add(second, 20.0)
    queue.run(1000.0)
    assert log.ended_at == [70.0, 70.0, 120.0]


def test_a_worker_that_drains_takes_nothing_more() -> None:
    queue, log = queue_of([0, 1, 2])
    server = make_server(ServiceModel("worker", 10.0), log)
    idle: list[float] = []
    queue.add(server, 0.0)
    queue.run(3.0)
    queue.drain(server, idle.append)
    queue.run(100.0)
    assert idle == [10.0]
    assert log.ended_at == [10.0, NEVER, NEVER]


def test_an_engine_takes_as_many_items_as_it_runs_at_once() -> None:
    queue, log = queue_of([0] * 10)
    queue.add(make_server(EngineModel("engine", 0.01, 0.001, 1e-5, 0.0, kv_tokens=10_000, max_seqs=4), log), 0.0)
    queue.run(0.0)
    assert (queue.running, queue.waiting) == (4, 6)
    queue.run(100.0)
    assert not queue.in_flight
