# SPDX-License-Identifier: Apache-2.0
"""Tests the order in which a shrink should delete the pods of a workload."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.deletion_order import (
    IDLE_COST,
    MISSING_COST,
    changed_costs,
    deletion_costs,
    shrink_costs,
)
from keda_gpu_scaler.core.evaluate.evaluation import evaluate
from keda_gpu_scaler.core.evaluate.observation import ObservationState, PodObservation
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import Pod, PodRef
from tests.fakes import device, node_history, pod, sample, workload


def observed(name: str, value: float | None, requests: float = 0.0, state: str = "observed") -> PodObservation:
    return PodObservation(pod(name), ObservationState(state), value, "", requests=requests)


def order(*observations: PodObservation) -> list[str]:
    costs = deletion_costs(observations, target=100.0, activation=0.0)
    return [ref.name for ref in sorted(costs, key=lambda ref: costs[ref])]


def test_the_idlest_pods_go_first_and_missing_pods_last() -> None:
    assert order(
        observed("missing", None, state="missing"),
        observed("full", 250.0),
        observed("out-of-scope", None, state="out_of_scope"),
        observed("half", 50.0),
        observed("one-request", 0.0, requests=1.0),
        observed("idle", 0.0),
    ) == ["idle", "one-request", "half", "out-of-scope", "full", "missing"]


def test_a_pod_that_is_not_ready_has_no_cost_because_it_is_deleted_first_anyway() -> None:
    assert deletion_costs([observed("starting", None, state="not_ready")], target=80.0, activation=0.0) == {}


@given(st.floats(0, 1e12), st.floats(0.001, 1e9))
def test_an_observed_pod_costs_less_than_a_missing_one_and_at_least_as_much_as_an_idle_one(
    value: float, target: float
) -> None:
    [cost] = deletion_costs([observed("a", value)], target=target, activation=0.0).values()
    assert IDLE_COST <= cost < MISSING_COST


def pods(**costs: tuple[int | None, int | None]) -> list[Pod]:
    return [
        replace(pod(name), deletion_cost=cost, written_deletion_cost=written) for name, (cost, written) in costs.items()
    ]


def wanted(**costs: int) -> dict[PodRef, int]:
    return {PodRef("ai", name): cost for name, cost in costs.items()}


@pytest.mark.parametrize(
    ("costs", "present", "changes"),
    [
        pytest.param({"a": 0, "b": 6}, {"a": (None, None), "b": (None, None)}, {"a": 0, "b": 6}, id="none is written"),
        pytest.param({"a": 0, "b": 0}, {"a": (None, None), "b": (None, None)}, {}, id="all are alike"),
        pytest.param({"a": 0, "b": 9}, {"a": (0, 0), "b": (6, 6)}, {}, id="the order is still right"),
        pytest.param({"a": 6, "b": 0}, {"a": (0, 0), "b": (6, 6)}, {"a": 6, "b": 0}, id="the order is reversed"),
        pytest.param({"a": 0, "b": 6, "c": 3}, {"a": (0, 0), "b": (6, 6), "c": (None, None)}, {"c": 3}, id="a new pod"),
        pytest.param({"a": 6, "b": 0}, {"a": (-5, None), "b": (6, 6)}, {}, id="the user's own cost stays"),
        pytest.param({"a": 6, "b": 0}, {"a": (-5, 2), "b": (6, 6)}, {}, id="and stays where the user changed ours"),
        pytest.param({"gone": 6, "b": 0}, {"b": (6, 6)}, {}, id="a pod that no longer exists"),
    ],
)
def test_costs_are_written_only_where_the_order_changed(
    costs: dict[str, int], present: dict[str, tuple[int | None, int | None]], changes: dict[str, int]
) -> None:
    assert changed_costs(wanted(**costs), pods(**present)) == wanted(**changes)


@given(st.lists(st.tuples(st.integers(0, 20), st.one_of(st.none(), st.integers(0, 20))), max_size=8))
def test_after_a_change_the_order_is_the_wanted_one_and_nothing_is_left_to_write(
    given_costs: list[tuple[int, int | None]],
) -> None:
    costs = wanted(**{f"p{number}": cost for number, (cost, _) in enumerate(given_costs)})
    before = pods(**{f"p{number}": (cost, cost) for number, (_, cost) in enumerate(given_costs)})
    changes = changed_costs(costs, before)
    after = {one.ref: changes.get(one.ref, one.deletion_cost) for one in before}
    written = [replace(one, deletion_cost=after[one.ref], written_deletion_cost=after[one.ref]) for one in before]
    assert changed_costs(costs, written) == {}
    final = {one.ref: one.deletion_cost or 0 for one in written}
    assert all(final[one] < final[other] for one in costs for other in costs if costs[one] < costs[other])


@pytest.mark.parametrize(("utilization", "is_shrinking"), [(0.2, True), (0.8, False), (1.0, False)])
def test_only_a_value_that_asks_for_fewer_replicas_has_costs(utilization: float, is_shrinking: bool) -> None:
    held = {device(number).uuid: f"llama-{number}" for number in range(4)}
    history = node_history("gpu-7", *[sample(number, utilization) for number in range(4)], held=held)
    known = workload(*[pod(f"llama-{number}") for number in range(4)])
    trigger = parse_trigger({})
    evaluation = evaluate(trigger, Fleet(None, 10.0, True, peers={"gpu-7": history}), 1000.0, known, {})
    costs = shrink_costs(known, trigger, evaluation)
    assert (costs is not None) is is_shrinking
    if costs is not None:
        assert set(costs) == {one.ref for one in known.pods}
