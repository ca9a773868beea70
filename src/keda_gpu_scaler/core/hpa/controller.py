# SPDX-License-Identifier: Apache-2.0
"""What will the HPA make of a recommendation? What it remembers, its rates and its limits, step by step.

The law of this module: it decides as the HPA's controller does, rounding and oddities included, and it
improves nothing. A step depends on its arguments alone: ``now`` is given, and the past travels in ``ControllerState``.

Facts are from Kubernetes (pkg/controller/podautoscaler, 1.33 and later): ``horizontal.go`` (reconcileAutoscaler,
computeReplicasForMetrics, recordInitialRecommendation, stabilizeRecommendation and
stabilizeRecommendationWithBehaviors, convertDesiredReplicasWithRules and …WithBehaviorRate,
calculateScaleUpLimitWithScalingRules, calculateScaleDownLimitWithBehaviors).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from keda_gpu_scaler.core.hpa.replica_calculator import Recommendation

SYNC_PERIOD_SECONDS = 15.0
"""How often the controller looks at each HPA (--horizontal-pod-autoscaler-sync-period)."""
DOWN_STABILISATION_SECONDS = 300.0
"""The controller's default for scaling down (--horizontal-pod-autoscaler-downscale-stabilization)."""
DEFAULT_MIN_REPLICAS = 1
"""KEDA never gives an HPA less, also with a ``minReplicaCount`` of 0: the last step to zero is its own."""
DEFAULT_MAX_REPLICAS = 100
"""KEDA's default for ``maxReplicaCount``."""
_LONGEST_WINDOW_SECONDS = 3600
_LONGEST_PERIOD_SECONDS = 1800


class PolicyType(StrEnum):
    """What a policy's value counts."""

    PODS = "Pods"
    PERCENT = "Percent"


class SelectPolicy(StrEnum):
    """Which of several policies holds: the one that allows the largest change, the smallest, or none at all."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


class Limit(StrEnum):
    """What kept the final size from simply being the recommended one."""

    NONE = "none"
    DISABLED = "disabled"
    NO_METRIC = "no metric"
    TOLERANCE = "tolerance"
    STABILISATION = "stabilisation"
    RATE_UP = "rate up"
    RATE_DOWN = "rate down"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Policy:
    """At most ``value`` pods or per cent of change within any ``period_seconds``."""

    type: PolicyType
    value: int
    period_seconds: int

    def __post_init__(self) -> None:
        """Refuse what the API server refuses.

        Raises:
            ValueError: a value below 1, or a period outside 1 to 1800 seconds.
        """
        if self.value < 1:
            raise ValueError(f"policy.value: Invalid value: {self.value}: must be 1 or more")
        if not 1 <= self.period_seconds <= _LONGEST_PERIOD_SECONDS:
            raise ValueError(
                f"policy.periodSeconds: Invalid value: {self.period_seconds}: must be 1 to {_LONGEST_PERIOD_SECONDS}"
            )


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """One direction's rules in ``spec.behavior``."""

    policies: tuple[Policy, ...]
    stabilisation_seconds: float = 0.0
    select: SelectPolicy = SelectPolicy.MAX

    def __post_init__(self) -> None:
        """Refuse what the API server refuses.

        Raises:
            ValueError: no policy at all, or a window outside 0 to 3600 seconds.
        """
        if not self.policies:
            raise ValueError("policies: Required value: give at least one, or leave the rules at their defaults")
        if not 0 <= self.stabilisation_seconds <= _LONGEST_WINDOW_SECONDS:
            raise ValueError(
                f"stabilizationWindowSeconds: Invalid value: {self.stabilisation_seconds:g}: "
                f"must be 0 to {_LONGEST_WINDOW_SECONDS}"
            )


DEFAULT_UP = ScalingRules((Policy(PolicyType.PERCENT, 100, 15), Policy(PolicyType.PODS, 4, 15)))
"""What ``behavior.scaleUp`` is where a behaviour is given and leaves it out."""
DEFAULT_DOWN = ScalingRules((Policy(PolicyType.PERCENT, 100, 15),), DOWN_STABILISATION_SECONDS)
"""What ``behavior.scaleDown`` is where a behaviour is given and leaves it out."""


@dataclass(frozen=True, slots=True)
class Behavior:
    """``spec.behavior`` of an HPA, with the API server's defaults."""

    up: ScalingRules = DEFAULT_UP
    down: ScalingRules = DEFAULT_DOWN


@dataclass(frozen=True, slots=True)
class PastRecommendation:
    """A size that was recommended, before any limit, and when."""

    at_seconds: float
    replicas: int


@dataclass(frozen=True, slots=True)
class ScaleEvent:
    """A change of size that was carried out, and when: ``change`` is negative for fewer replicas."""

    at_seconds: float
    change: int


@dataclass(frozen=True, slots=True)
class ControllerState:
    """All the controller remembers of one HPA, oldest first. It forgets it when it restarts.

    ``started`` says that the controller has seen the HPA before: on first sight it takes the current size for
    a recommendation, so that its own restart shrinks nothing.
    """

    recommendations: tuple[PastRecommendation, ...] = ()
    events: tuple[ScaleEvent, ...] = ()
    started: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What one step came to.

    ``recommended`` is None where no metric was usable, or none was asked; ``replicas`` is the size from now
    on; ``sentence`` says in words what ``limit`` did.
    """

    recommended: int | None
    replicas: int
    limit: Limit
    sentence: str


def largest(recommendations: Iterable[Recommendation | None], current_replicas: int) -> Recommendation | None:
    """Of several metrics the largest wins; None stands for one that failed.

    A failed metric might have asked for more: with one, nothing shrinks. The answer is then None, as it is
    when every metric failed.
    """
    every = tuple(recommendations)
    usable = [recommendation for recommendation in every if recommendation is not None]
    if not usable:
        return None
    winner = max(usable, key=lambda recommendation: recommendation.replicas)  # the first of equals
    if len(usable) < len(every) and winner.replicas < current_replicas:
        return None
    return winner


def reconcile(
    state: ControllerState,
    now: float,
    current_replicas: int,
    recommendation: Recommendation | None,
    *,
    min_replicas: int = DEFAULT_MIN_REPLICAS,
    max_replicas: int = DEFAULT_MAX_REPLICAS,
    behavior: Behavior | None = None,
) -> tuple[ControllerState, Decision]:
    """One look of the controller at one HPA.

    Args:
        state: what it remembers.
        now: monotonic seconds; never less than at an earlier step.
        current_replicas: the scale target's ``spec.replicas``.
        recommendation: of ``largest`` or ``desired_replicas``; None when no metric is usable.
        min_replicas: the HPA's lower limit, 1 or more.
        max_replicas: its upper limit.
        behavior: ``spec.behavior``. None, which is what KEDA leaves it at unless a ScaledObject has one, is
            **not** the same as ``Behavior()``: the controller then grows to twice the size or to 4, whichever
            is more, at each step (so 1 becomes 4 and not 5), has no rate for shrinking, and may return to a
            recent larger recommendation even if that is above the current size.

    Raises:
        ValueError: limits that no HPA can have, or a negative size.
    """
    if not 1 <= min_replicas <= max_replicas:
        raise ValueError(f"minReplicas: Invalid value: {min_replicas}: must be 1 to maxReplicas ({max_replicas})")
    if current_replicas < 0:
        raise ValueError(f"replicas: Invalid value: {current_replicas}: must be 0 or more")
    state = _remembered(state, now, current_replicas, behavior)
    wait_for_sync = _settled_without_metrics(current_replicas, min_replicas, max_replicas)
    if wait_for_sync is not None:
        decision = wait_for_sync
    elif recommendation is None:
        sentence = f"no usable metric: the HPA leaves {_replicas(current_replicas)} alone"
        decision = Decision(None, current_replicas, Limit.NO_METRIC, sentence)
    else:
        stable = _stabilised(state, now, current_replicas, recommendation.replicas, behavior)
        decision = _limited(state, now, current_replicas, recommendation, stable, min_replicas, max_replicas, behavior)
        past = PastRecommendation(now, recommendation.replicas)
        state = replace(state, recommendations=(*state.recommendations, past))
    if behavior is not None and decision.replicas != current_replicas:
        event = ScaleEvent(now, decision.replicas - current_replicas)
        state = replace(state, events=(*state.events, event))
    return state, decision


def _settled_without_metrics(current: int, min_replicas: int, max_replicas: int) -> Decision | None:
    """Where the controller decides before it looks at any metric, and at no rate."""
    if current == 0:
        return Decision(None, 0, Limit.DISABLED, "0 replicas: the HPA is disabled, and only KEDA can wake the workload")
    if current > max_replicas:
        return Decision(
            None, max_replicas, Limit.MAX, f"{_replicas(current)}, above the maximum: {max_replicas} at once"
        )
    if current < min_replicas:
        return Decision(
            None, min_replicas, Limit.MIN, f"{_replicas(current)}, below the minimum: {min_replicas} at once"
        )
    return None


def _remembered(state: ControllerState, now: float, current: int, behavior: Behavior | None) -> ControllerState:
    """The state on first sight of the HPA seeded, and always without what no rule can reach any more."""
    if not state.started:
        return ControllerState((*state.recommendations, PastRecommendation(now, current)), state.events, started=True)
    window, period = DOWN_STABILISATION_SECONDS, 0
    if behavior is not None:
        window = max(behavior.up.stabilisation_seconds, behavior.down.stabilisation_seconds)
        # The controller keeps growing and shrinking apart, each for its own longest period, and may so lose an
        # event that the other direction's rules would still count. That loss is not copied.
        period = max(policy.period_seconds for policy in (*behavior.up.policies, *behavior.down.policies))
    return ControllerState(
        tuple(past for past in state.recommendations if now - past.at_seconds <= window),
        tuple(event for event in state.events if now - event.at_seconds < period),
        started=True,
    )


def _stabilised(state: ControllerState, now: float, current: int, desired: int, behavior: Behavior | None) -> int:
    """The recommendation held back by earlier ones."""
    if behavior is None:
        return max([desired, *(past.replicas for past in state.recommendations)])
    # The ends of the windows are open here, and closed without a behaviour: so in the controller.
    ages = [(now - past.at_seconds, past.replicas) for past in state.recommendations]
    lowest = min([desired, *(size for age, size in ages if age < behavior.up.stabilisation_seconds)])
    highest = max([desired, *(size for age, size in ages if age < behavior.down.stabilisation_seconds)])
    return min(max(current, lowest), highest)


def _limited(
    state: ControllerState,
    now: float,
    current: int,
    recommendation: Recommendation,
    stable: int,
    min_replicas: int,
    max_replicas: int,
    behavior: Behavior | None,
) -> Decision:
    """The stabilised size within the rates and within minimum and maximum, and which of them bit last."""
    asked = recommendation.replicas
    if stable > current:
        fastest = _fastest_up(state, now, current, behavior)
        if stable > min(max_replicas, fastest):
            return _at_most(asked, current, stable, fastest, max_replicas)
    elif stable < current:
        slowest = _fastest_down(state, now, current, behavior)
        if stable < max(min_replicas, slowest):
            return _at_least(asked, current, stable, slowest, min_replicas)
    if stable != asked:
        sentence = f"{_replicas(stable)}: recent recommendations hold back {asked}"
        return Decision(asked, stable, Limit.STABILISATION, sentence)
    if recommendation.within_tolerance:
        return Decision(asked, stable, Limit.TOLERANCE, f"{_replicas(stable)}: near enough to the target")
    return Decision(asked, stable, Limit.NONE, f"{_replicas(stable)}, as recommended")


def _at_most(asked: int, current: int, stable: int, fastest: int, max_replicas: int) -> Decision:
    if max_replicas > fastest:
        sentence = f"{_replicas(fastest)}: growing from {current} to {stable} is faster than the rules allow"
        return Decision(asked, fastest, Limit.RATE_UP, sentence)
    return Decision(asked, max_replicas, Limit.MAX, f"{_replicas(max_replicas)}: {stable} is above the maximum")


def _at_least(asked: int, current: int, stable: int, slowest: int, min_replicas: int) -> Decision:
    if min_replicas < slowest:
        sentence = f"{_replicas(slowest)}: shrinking from {current} to {stable} is faster than the rules allow"
        return Decision(asked, slowest, Limit.RATE_DOWN, sentence)
    return Decision(asked, min_replicas, Limit.MIN, f"{_replicas(min_replicas)}: {stable} is below the minimum")


def _fastest_up(state: ControllerState, now: float, current: int, behavior: Behavior | None) -> int:
    if behavior is None:
        return max(2 * current, 4)
    rules = behavior.up
    if rules.select is SelectPolicy.DISABLED:
        return current
    proposals: list[int] = []
    for policy in rules.policies:
        start = _at_period_start(state.events, now, current, policy)
        if policy.type is PolicyType.PODS:
            proposals.append(start + policy.value)
        else:
            # In floating point, as there: ten per cent more than 100 is 111.
            proposals.append(math.ceil(float(start) * (1.0 + float(policy.value) / 100)))
    # What was removed by other hands may put the limit below the current size: then nothing is added.
    return max(current, min(proposals) if rules.select is SelectPolicy.MIN else max(proposals))


def _fastest_down(state: ControllerState, now: float, current: int, behavior: Behavior | None) -> int:
    if behavior is None:
        return 0
    rules = behavior.down
    if rules.select is SelectPolicy.DISABLED:
        return current
    proposals: list[int] = []
    for policy in rules.policies:
        start = _at_period_start(state.events, now, current, policy)
        if policy.type is PolicyType.PODS:
            proposals.append(start - policy.value)
        else:
            proposals.append(int(float(start) * (1.0 - float(policy.value) / 100)))
    # The smallest change is the largest size.
    return min(current, max(proposals) if rules.select is SelectPolicy.MIN else min(proposals))


def _at_period_start(events: Sequence[ScaleEvent], now: float, current: int, policy: Policy) -> int:
    return current - sum(event.change for event in events if now - event.at_seconds < policy.period_seconds)


def _replicas(count: int) -> str:
    return f"{count} replica" if count == 1 else f"{count} replicas"
