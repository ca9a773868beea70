# SPDX-License-Identifier: Apache-2.0
"""Tests of the HPA's controller, with values worked out by hand from the controller's source."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keda_gpu_scaler.core.hpa.controller import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    Behavior,
    ControllerState,
    Decision,
    Limit,
    PastRecommendation,
    Policy,
    PolicyType,
    ScaleEvent,
    ScalingRules,
    SelectPolicy,
    largest,
    reconcile,
)
from keda_gpu_scaler.core.hpa.replica_calculator import Recommendation

PODS, PERCENT = PolicyType.PODS, PolicyType.PERCENT
SETTLED = ControllerState(started=True)


def case(sentence: str, *values: object) -> object:
    return pytest.param(*values, id=sentence)


def recommending(replicas: int, *, within_tolerance: bool = False) -> Recommendation:
    return Recommendation(replicas, math.nan, within_tolerance, "")


def rules(*policies: Policy, window: float = 0.0, select: SelectPolicy = SelectPolicy.MAX) -> ScalingRules:
    return ScalingRules(policies, window, select)


# --- several metrics


@pytest.mark.parametrize(
    ("sizes", "current", "expected"),
    [
        case("the largest wins", [3, 5, 4], 4, 5),
        case("the largest wins also when all scale down", [3, 2], 4, 3),
        case("a single metric", [3], 4, 3),
        case("a failed metric blocks scaling down", [3, None], 4, None),
        case("a failed metric does not block the present size", [4, None], 4, 4),
        case("a failed metric does not block scaling up", [None, 6], 4, 6),
        case("every metric failed", [None, None], 4, None),
        case("no metric", [], 4, None),
    ],
)
def test_several_metrics(sizes: list[int | None], current: int, expected: int | None) -> None:
    winner = largest([None if size is None else recommending(size) for size in sizes], current)
    assert (None if winner is None else winner.replicas) == expected


# --- one step: the limits


def decide(
    recommended: Recommendation | None,
    *,
    current: int,
    state: ControllerState = SETTLED,
    now: float = 1000.0,
    low: int = 1,
    high: int = 100,
    behavior: Behavior | None = None,
) -> Decision:
    return reconcile(state, now, current, recommended, min_replicas=low, max_replicas=high, behavior=behavior)[1]


UNLIMITED = Behavior(rules(Policy(PERCENT, 10_000, 15)), rules(Policy(PERCENT, 100, 15)))


@pytest.mark.parametrize("behavior", [None, Behavior(), UNLIMITED], ids=["no behaviour", "defaults", "unlimited"])
@pytest.mark.parametrize(
    ("recommended", "current", "low", "high", "expected", "limit"),
    [
        case("scaled to zero, with any metric: the HPA is disabled", recommending(5), 0, 1, 10, 0, Limit.DISABLED),
        case("scaled to zero, without a metric", None, 0, 1, 10, 0, Limit.DISABLED),
        case("without a metric the size stays", None, 4, 1, 10, 4, Limit.NO_METRIC),
        case("above the maximum: to the maximum, without a metric", None, 30, 1, 10, 10, Limit.MAX),
        case("above the maximum: against the recommendation", recommending(29), 30, 1, 10, 10, Limit.MAX),
        case("below the minimum: to the minimum, without a metric", None, 2, 5, 10, 5, Limit.MIN),
        case("below the minimum: to the minimum, without a rate limit", recommending(2), 2, 50, 60, 50, Limit.MIN),
        case("as recommended, upwards", recommending(5), 4, 1, 10, 5, Limit.NONE),
        case("as recommended, downwards", recommending(3), 4, 1, 10, 3, Limit.NONE),
        case("as recommended, staying", recommending(4), 4, 1, 10, 4, Limit.NONE),
        case("within the tolerance", recommending(4, within_tolerance=True), 4, 1, 10, 4, Limit.TOLERANCE),
        case("the maximum", recommending(12), 8, 1, 10, 10, Limit.MAX),
        case("the maximum, already there", recommending(50), 10, 1, 10, 10, Limit.MAX),
        case("the minimum", recommending(0), 4, 2, 10, 2, Limit.MIN),
        case("the minimum, already there", recommending(0), 2, 2, 10, 2, Limit.MIN),
        case("a negative metric ends at the minimum too", recommending(-3), 4, 1, 10, 1, Limit.MIN),
    ],
)  # fmt: skip
def test_limits_that_hold_under_any_behaviour(
    recommended: Recommendation | None,
    current: int,
    low: int,
    high: int,
    expected: int,
    limit: Limit,
    behavior: Behavior | None,
) -> None:
    decision = decide(recommended, current=current, low=low, high=high, behavior=behavior)
    assert (decision.replicas, decision.limit) == (expected, limit)
    assert decision.sentence


@pytest.mark.parametrize(
    ("behavior", "current", "expected"),
    [
        case("without a behaviour one becomes four", None, 1, 4),
        case("two become four", None, 2, 4),
        case("three become six", None, 3, 6),
        case("with the default behaviour one becomes five", Behavior(), 1, 5),
        case("two become six", Behavior(), 2, 6),
        case("four become eight either way", None, 4, 8),
        case("four become eight by both policies", Behavior(), 4, 8),
        case("ten double", Behavior(), 10, 20),
    ],
)
def test_scaling_up_by_default(behavior: Behavior | None, current: int, expected: int) -> None:
    decision = decide(recommending(90), current=current, behavior=behavior)
    assert (decision.replicas, decision.limit) == (expected, Limit.RATE_UP)


UP_2_OR_HALF = (Policy(PODS, 2, 60), Policy(PERCENT, 50, 60))
DOWN_2_OR_HALF = (Policy(PODS, 2, 60), Policy(PERCENT, 50, 60))


@pytest.mark.parametrize(
    ("select", "current", "events", "expected"),
    [
        case("Max takes the larger of +2 and +50 %", SelectPolicy.MAX, 10, (), 15),
        case("Min takes the smaller", SelectPolicy.MIN, 10, (), 12),
        case("Disabled takes none", SelectPolicy.DISABLED, 10, (), 10),
        case("replicas added in the period count from its start", SelectPolicy.MAX, 13, ((10, 3),), 15),
        case("removed replicas count too", SelectPolicy.MAX, 8, ((10, -2),), 15),
        case("an event as old as the period does not count", SelectPolicy.MAX, 13, ((60, 3),), 20),  # ceil(19.5)
        case("a slightly younger event counts", SelectPolicy.MAX, 13, ((59.9, 3),), 15),
        case("a limit below the current size adds nothing", SelectPolicy.MIN, 20, ((10, 10),), 20),
        case("percentages round up, so one replica can scale up", SelectPolicy.MAX, 1, (), 3),
    ],
)
def test_policies_limit_scaling_up(
    select: SelectPolicy, current: int, events: tuple[tuple[float, int], ...], expected: int
) -> None:
    behavior = Behavior(up=rules(*UP_2_OR_HALF, select=select), down=rules(Policy(PODS, 1, 120)))
    state = ControllerState(events=tuple(ScaleEvent(1000 - age, change) for age, change in events), started=True)
    decision = decide(recommending(90), current=current, state=state, behavior=behavior)
    assert (decision.replicas, decision.limit) == (expected, Limit.RATE_UP)


def test_ten_per_cent_more_than_a_hundred_is_111_as_in_the_controller() -> None:
    behavior = Behavior(up=rules(Policy(PERCENT, 10, 60)))
    assert decide(recommending(500), current=100, high=1000, behavior=behavior).replicas == 111


@pytest.mark.parametrize(
    ("select", "current", "events", "expected"),
    [
        case("Max takes the larger of -2 and -50 %", SelectPolicy.MAX, 10, (), 5),
        case("Min takes the smaller", SelectPolicy.MIN, 10, (), 8),
        case("Disabled takes none", SelectPolicy.DISABLED, 10, (), 10),
        case("replicas removed in the period count from its start", SelectPolicy.MIN, 9, ((10, -1),), 8),
        case("added replicas count too", SelectPolicy.MAX, 12, ((10, 2),), 5),
        case("an event as old as the period does not count", SelectPolicy.MIN, 9, ((60, -1),), 7),
        case("a limit above the current size removes nothing", SelectPolicy.MIN, 10, ((10, -10),), 10),
        case("percentages round down: half of seven leaves three", SelectPolicy.MAX, 7, (), 3),
    ],
)
def test_policies_limit_scaling_down(
    select: SelectPolicy, current: int, events: tuple[tuple[float, int], ...], expected: int
) -> None:
    behavior = Behavior(up=rules(Policy(PODS, 1, 120)), down=rules(*DOWN_2_OR_HALF, select=select))
    state = ControllerState(events=tuple(ScaleEvent(1000 - age, change) for age, change in events), started=True)
    decision = decide(recommending(1), current=current, state=state, behavior=behavior)
    assert (decision.replicas, decision.limit) == (expected, Limit.RATE_DOWN)


def test_without_a_behaviour_scaling_down_has_no_rate_limit() -> None:
    assert decide(recommending(1), current=90).replicas == 1


# --- one step: stabilisation


@pytest.mark.parametrize(
    ("behavior", "past", "recommended", "current", "expected", "limit"),
    [
        case("a larger recent recommendation keeps the size", Behavior(), ((100, 8),), 2, 8, 8, Limit.STABILISATION),
        case("the largest of them", Behavior(), ((100, 4), (200, 6), (50, 5)), 2, 8, 6, Limit.STABILISATION),
        case("with a behaviour, one as old as the window does not count", Behavior(), ((300, 8),), 2, 8, 2, Limit.NONE),
        case("without a behaviour, one as old as the window counts", None, ((300, 8),), 2, 8, 8, Limit.STABILISATION),
        case("without a behaviour, a slightly older one does not count", None, ((300.1, 8),), 2, 8, 2, Limit.NONE),
        case("scaling up has no stabilisation by default", Behavior(), ((10, 2),), 12, 8, 12, Limit.NONE),
        case("with a behaviour, at most the current size", Behavior(), ((10, 8),), 3, 4, 4, Limit.STABILISATION),
        case("without a behaviour, back to a larger size", None, ((10, 8),), 3, 4, 8, Limit.STABILISATION),
        case("the minimum applies after stabilisation", Behavior(), ((10, 0),), 0, 4, 1, Limit.MIN),
    ],
)  # fmt: skip
def test_stabilisation_of_scaling_down(
    behavior: Behavior | None,
    past: tuple[tuple[float, int], ...],
    recommended: int,
    current: int,
    expected: int,
    limit: Limit,
) -> None:
    state = ControllerState(tuple(PastRecommendation(1000 - age, size) for age, size in past), started=True)
    decision = decide(recommending(recommended), current=current, state=state, behavior=behavior)
    assert (decision.replicas, decision.limit) == (expected, limit)
    assert decision.recommended == recommended


@pytest.mark.parametrize(
    ("past", "recommended", "expected", "limit"),
    [
        case("a smaller recent recommendation keeps the size", ((30, 8),), 12, 8, Limit.STABILISATION),
        case("the smallest of them, if above the current size", ((30, 11), (20, 10)), 12, 10, Limit.STABILISATION),
        case("not below the current size", ((30, 3),), 12, 8, Limit.STABILISATION),
        case("one as old as the window does not count", ((60, 3),), 12, 12, Limit.NONE),
    ],
)
def test_stabilisation_of_scaling_up_with_a_window(
    past: tuple[tuple[float, int], ...], recommended: int, expected: int, limit: Limit
) -> None:
    behavior = Behavior(up=rules(*DEFAULT_UP.policies, window=60))
    state = ControllerState(tuple(PastRecommendation(1000 - age, size) for age, size in past), started=True)
    decision = decide(recommending(recommended), current=8, state=state, behavior=behavior)
    assert (decision.replicas, decision.limit) == (expected, limit)


@pytest.mark.parametrize("behavior", [None, Behavior()], ids=["no behaviour", "defaults"])
def test_at_the_first_reconciliation_the_current_size_counts_as_recommended(behavior: Behavior | None) -> None:
    state, first = reconcile(ControllerState(), 0.0, 8, recommending(2), behavior=behavior)
    assert (first.replicas, first.limit) == (8, Limit.STABILISATION)
    state, later = reconcile(state, 299.0, 8, recommending(2), behavior=behavior)
    assert later.replicas == 8
    _, last = reconcile(state, 300.1, 8, recommending(2), behavior=behavior)
    assert (last.replicas, last.limit) == (2, Limit.NONE)


# --- one step: the new state


def test_a_step_records_the_recommendation_before_the_limits() -> None:
    state, decision = reconcile(SETTLED, 5.0, 4, recommending(90))
    assert decision.replicas == 8
    assert state.recommendations == (PastRecommendation(5.0, 90),)


@pytest.mark.parametrize(
    ("recommended", "change"),
    [case("scaled up", 7, 3), case("scaled down", 1, -3)],
)
def test_a_change_of_size_is_recorded_with_its_sign(recommended: int, change: int) -> None:
    state, _ = reconcile(SETTLED, 5.0, 4, recommending(recommended), behavior=Behavior())
    assert state.events == (ScaleEvent(5.0, change),)


def test_an_unchanged_size_is_not_an_event() -> None:
    assert reconcile(SETTLED, 5.0, 4, recommending(4), behavior=Behavior())[0].events == ()


def test_a_size_set_by_the_maximum_is_an_event_and_not_a_recommendation() -> None:
    state, decision = reconcile(SETTLED, 5.0, 30, recommending(25), max_replicas=10, behavior=Behavior())
    assert state.events == (ScaleEvent(5.0, -20),)
    assert state.recommendations == ()
    assert decision.recommended is None


def test_entries_too_old_for_every_rule_are_removed() -> None:
    old = ControllerState((PastRecommendation(0.0, 5),), (ScaleEvent(0.0, 5),), started=True)
    state, _ = reconcile(old, 1000.0, 4, None, behavior=Behavior())
    assert state == SETTLED


def test_scaling_up_by_four_takes_a_period_each_time() -> None:
    """Eleven seconds after four replicas were added, none of the period's four replicas is left."""
    behavior = Behavior(up=rules(Policy(PODS, 4, 15)))
    state, sizes, size = SETTLED, [], 1
    for now in (0.0, 11.0, 15.0, 26.0, 30.0):
        state, decision = reconcile(state, now, size, recommending(50), behavior=behavior)
        size = decision.replicas
        sizes.append(size)
    assert sizes == [5, 5, 9, 9, 13]


# --- invalid arguments


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        case("no policy", lambda: ScalingRules(()), "policies: Required value"),
        case(
            "a window of two hours",
            lambda: rules(Policy(PODS, 1, 15), window=7200),
            "stabilizationWindowSeconds: Invalid value: 7200",
        ),
        case(
            "a negative window",
            lambda: rules(Policy(PODS, 1, 15), window=-1),
            "stabilizationWindowSeconds: Invalid value: -1",
        ),
        case("a policy of 0 pods", lambda: Policy(PODS, 0, 15), "policy.value: Invalid value: 0"),
        case("a period of 0 seconds", lambda: Policy(PODS, 1, 0), "policy.periodSeconds: Invalid value: 0"),
        case("a period of an hour", lambda: Policy(PODS, 1, 3600), "policy.periodSeconds: Invalid value: 3600"),
        case("a minimum of 0", lambda: decide(None, current=1, low=0), "minReplicas: Invalid value: 0"),
        case(
            "a minimum above the maximum",
            lambda: decide(None, current=1, low=3, high=2),
            "minReplicas: Invalid value: 3",
        ),
        case("a negative size", lambda: decide(None, current=-1), "replicas: Invalid value: -1"),
    ],
)
def test_invalid_arguments_are_refused_as_by_the_api_server(wrong: object, sentence: str) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the sentence is checked below
        wrong()
    assert str(refusal.value).startswith(sentence)


def test_the_defaults_are_the_documented_ones() -> None:
    assert {(policy.type, policy.value, policy.period_seconds) for policy in DEFAULT_UP.policies} == {
        (PODS, 4, 15),
        (PERCENT, 100, 15),
    }
    assert DEFAULT_UP.stabilisation_seconds == 0
    assert ScalingRules((Policy(PERCENT, 100, 15),), 300) == DEFAULT_DOWN


# --- properties

sizes = st.integers(1, 200)
policies = st.builds(Policy, st.sampled_from(PolicyType), st.integers(1, 200), st.integers(1, 120))
some_policies = st.lists(policies, min_size=1, max_size=3).map(tuple)
all_rules = st.builds(ScalingRules, some_policies, st.integers(0, 400), st.sampled_from(SelectPolicy))
behaviors = st.none() | st.builds(Behavior, all_rules, all_rules)
states = st.builds(
    ControllerState,
    st.lists(st.builds(PastRecommendation, st.floats(700, 1000), st.integers(0, 300)), max_size=5).map(tuple),
    st.lists(st.builds(ScaleEvent, st.floats(900, 1000), st.integers(-50, 50)), max_size=5).map(tuple),
    st.booleans(),
)
recommendations = st.none() | st.builds(recommending, st.integers(0, 500), within_tolerance=st.booleans())


@given(states, st.floats(1000, 1100), st.integers(0, 300), recommendations, sizes, sizes, behaviors)
def test_a_size_is_never_outside_minimum_and_maximum(
    state: ControllerState,
    now: float,
    current: int,
    recommended: Recommendation | None,
    one: int,
    other: int,
    behavior: Behavior | None,
) -> None:
    low, high = sorted((one, other))
    decision = decide(recommended, current=current, state=state, now=now, low=low, high=high, behavior=behavior)
    if current == 0:
        assert decision.replicas == 0
    else:
        assert low <= decision.replicas <= high


@given(states, st.floats(1000, 1100), sizes, recommendations, behaviors)
def test_scaling_down_never_goes_below_the_recommendations_within_the_window(
    state: ControllerState, now: float, current: int, recommended: Recommendation | None, behavior: Behavior | None
) -> None:
    window = 300.0 if behavior is None else behavior.down.stabilisation_seconds
    recent = [past.replicas for past in state.recommendations if now - past.at_seconds < window]
    decision = decide(recommended, current=current, state=state, now=now, high=500, behavior=behavior)
    assert decision.replicas >= min(current, max(recent, default=0))


@given(states, st.floats(1000, 1100), sizes, behaviors)
def test_without_a_metric_the_size_stays(
    state: ControllerState, now: float, current: int, behavior: Behavior | None
) -> None:
    assert decide(None, current=current, state=state, now=now, high=200, behavior=behavior).replicas == current


@given(states, st.floats(1000, 1100), st.integers(0, 300), recommendations, behaviors)
def test_law_3_the_same_arguments_give_the_same_result(
    state: ControllerState, now: float, current: int, recommended: Recommendation | None, behavior: Behavior | None
) -> None:
    once = reconcile(state, now, current, recommended, behavior=behavior)
    assert once == reconcile(state, now, current, recommended, behavior=behavior)


@given(states, st.floats(1000, 1100), sizes, recommendations, behaviors)
def test_removing_old_entries_changes_no_decision(
    state: ControllerState, now: float, current: int, recommended: Recommendation | None, behavior: Behavior | None
) -> None:
    """The entries that a step removes would not have changed the next decision."""
    assume(state.started)
    pruned, _ = reconcile(state, now, current, None, max_replicas=200, behavior=behavior)
    kept = decide(recommended, current=current, state=state, now=now, high=200, behavior=behavior)
    assert decide(recommended, current=current, state=pruned, now=now, high=200, behavior=behavior) == kept
