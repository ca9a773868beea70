# SPDX-License-Identifier: Apache-2.0
"""The evaluator's cache: when an evaluation is used again, and what it keeps in memory."""

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import Workload
from keda_gpu_scaler.server import evaluator as evaluator_module
from keda_gpu_scaler.server.evaluator import Evaluator
from keda_gpu_scaler.server.preparation import NodeLabels, Prepared
from keda_gpu_scaler.server.request_resolver import IDLE_SECONDS, MAX_TRIGGERS, ResolvedTrigger
from tests.fakes import ManualClock, node_history, pod, sample, workload

TRIGGER = parse_trigger({})
HISTORY = node_history("gpu-7", sample(0, 0.92), held={"GPU-0000": "llama-0"})


class Watchable(Workload):
    """A workload that a weak reference can point to."""


def watchable() -> Workload:
    base = workload(pod("llama-0"))
    return Watchable(**{name: getattr(base, name) for name in Workload.__dataclass_fields__})


class Bench:
    """A front end's evaluator: its own history never changes, and the devices are a peer's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        self.fleet = Fleet(None, 10.0, deviceless=True, peers={"gpu-7": HISTORY})
        self.evaluator = Evaluator(lambda: self.fleet, self.clock)
        self.evaluated: list[str] = []

        def counting(*arguments: Any) -> Evaluation:
            self.evaluated.append(arguments[3].name)
            return evaluate(*arguments)

        monkeypatch.setattr(evaluator_module, "evaluate", counting)

    def ask(self, resolved: ResolvedTrigger, known: Workload | None = None, labels: NodeLabels = None) -> Evaluation:
        known = known or workload(pod("llama-0"), name=resolved.name)
        return self.evaluator.evaluate(Prepared(resolved, known, labels, True, self.clock.now)).evaluation


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def triggers(count: int) -> list[tuple[ResolvedTrigger, Workload]]:
    return [(ResolvedTrigger(TRIGGER, name=f"q{n}"), workload(pod("llama-0"), name=f"q{n}")) for n in range(count)]


def test_law_3_the_same_resolved_over_the_same_view_is_the_same_evaluation(bench: Bench) -> None:
    [(resolved, known)] = triggers(1)
    assert bench.ask(resolved, known) is bench.ask(resolved, known)
    assert bench.evaluated == ["q0"]


def test_the_resolved_after_a_full_cache_is_cached_and_the_oldest_is_evicted(bench: Bench) -> None:
    asked = triggers(MAX_TRIGGERS + 1)
    for resolved, known in asked:
        bench.ask(resolved, known)
    bench.evaluated.clear()
    bench.ask(*asked[-1])
    bench.ask(*asked[1])
    assert bench.evaluated == []
    bench.ask(*asked[0])
    assert bench.evaluated == ["q0"]


def test_a_resolved_that_is_asked_again_is_not_the_oldest(bench: Bench) -> None:
    asked = triggers(MAX_TRIGGERS + 1)
    for resolved, known in asked[:-1]:
        bench.ask(resolved, known)
    bench.ask(*asked[0])
    bench.ask(*asked[-1])
    bench.evaluated.clear()
    bench.ask(*asked[0])
    assert bench.evaluated == []


def test_an_evaluation_on_an_older_local_history_is_computed_again(bench: Bench) -> None:
    [(resolved, known)] = triggers(1)
    bench.fleet = Fleet(HISTORY, 10.0)
    assert bench.ask(resolved, known).value == 92.0
    bench.fleet = Fleet(node_history("gpu-7", sample(0, 0.5), held={"GPU-0000": "llama-0"}), 10.0)
    assert bench.ask(resolved, known).value == 50.0


def test_an_evaluation_on_older_node_labels_is_computed_again(bench: Bench) -> None:
    resolved, known = ResolvedTrigger(parse_trigger({"nodeSelector": "pool=a"}), name="q0"), workload(pod("llama-0"))
    assert bench.ask(resolved, known, {"gpu-7": {"pool": "a"}}).with_value == 1
    assert bench.ask(resolved, known, {"gpu-7": {"pool": "b"}}).with_value == 0


def test_an_evaluation_on_an_older_workload_is_computed_again(bench: Bench) -> None:
    [(resolved, known)] = triggers(1)
    bench.ask(resolved, known)
    assert bench.ask(resolved, replace(known, spec_replicas=3)) is not bench.ask(resolved, known)


DEMAND = ResolvedTrigger(parse_trigger({"demandEndpoint": "http://epp:9090/metrics", "demand": "epp"}), name="q0")


def test_an_evaluation_is_computed_again_after_a_scrape_of_what_it_read_and_of_nothing_else(bench: Bench) -> None:
    assert DEMAND.trigger.demand is not None
    own = DEMAND.trigger.demand.endpoint
    results: dict[Endpoint, ScrapeResult] = {}
    bench.fleet = replace(bench.fleet, scrape_results=results)
    known = workload(pod("llama-0"))
    bench.ask(DEMAND, known)
    bench.evaluated.clear()
    results[replace(own, url="http://other:9090/metrics")] = ScrapeResult(failure="no answer")
    bench.ask(DEMAND, known)
    assert bench.evaluated == []
    for result in (ScrapeResult(failure="no answer"), ScrapeResult(failure="no answer")):
        results[own] = result
        bench.ask(DEMAND, known)
        bench.ask(DEMAND, known)
    del results[own]
    bench.ask(DEMAND, known)
    assert bench.evaluated == [known.name] * 3


def test_a_superseded_scrape_is_not_kept_in_memory(bench: Bench) -> None:
    assert DEMAND.trigger.demand is not None
    results = {DEMAND.trigger.demand.endpoint: ScrapeResult(failure="no answer")}
    bench.fleet = replace(bench.fleet, scrape_results=results)
    bench.ask(DEMAND)
    old = weakref.ref(results.pop(DEMAND.trigger.demand.endpoint))
    gc.collect()
    assert old() is None


def test_an_evaluation_is_used_until_it_expires_and_not_a_moment_longer(bench: Bench) -> None:
    [(resolved, known)] = triggers(1)
    bench.ask(resolved, known)
    bench.clock.now = HISTORY.received_at_seconds + 10.0
    assert bench.ask(resolved, known).value == 92.0
    assert bench.evaluated == ["q0"]
    bench.clock.advance(0.001)
    assert bench.ask(resolved, known).value is None


def test_an_evaluation_without_a_value_is_never_cached(bench: Bench) -> None:
    [(resolved, known)] = triggers(1)
    bench.fleet = replace(bench.fleet, peers={})
    for _ in range(3):
        assert bench.ask(resolved, known).value is None
    assert len(bench.evaluated) == 3


def test_a_superseded_history_is_not_kept_in_memory(bench: Bench) -> None:
    class Companion:
        pass

    asked = triggers(2)
    bench.fleet = Fleet(node_history("gpu-7", sample(0, 0.9), held={"GPU-0000": "llama-0"}), 10.0)
    assert bench.fleet.history is not None
    companion = bench.fleet.history.cache["companion"] = Companion()  # lives as long as the history's cache
    old = weakref.ref(companion)
    del companion
    bench.ask(*asked[0])
    bench.fleet = Fleet(HISTORY, 10.0)
    bench.ask(*asked[1])
    gc.collect()
    assert old() is None


@pytest.mark.parametrize("release", ["another state of it", "no value any more", "not asked for a while", "eviction"])
def test_an_old_workload_is_released(bench: Bench, release: str) -> None:
    resolved = ResolvedTrigger(TRIGGER, name="q0")
    known: Workload | None = watchable()
    assert known is not None
    old = weakref.ref(known)
    bench.ask(resolved, known)
    bench.evaluated.clear()
    known = None
    if release == "another state of it":
        bench.ask(resolved)
    elif release == "no value any more":
        bench.fleet = replace(bench.fleet, peers={})
        bench.ask(resolved)
    elif release == "not asked for a while":
        bench.clock.advance(IDLE_SECONDS + 1)
        bench.evaluator.expire_idle(bench.clock.now)
    else:
        for other, its_workload in triggers(MAX_TRIGGERS):
            bench.ask(other, its_workload)
    gc.collect()
    assert old() is None
