# SPDX-License-Identifier: Apache-2.0
"""The HPA's controller: stabilisation, scaling policies and replica limits, step by step.

Law: it decides as the HPA's controller does, with the same rounding and the same exceptions, and it improves nothing.
A step depends on its arguments alone: ``now`` is an argument, and ``ControllerState`` holds the past.

Facts are from Kubernetes (pkg/controller/podautoscaler, 1.33 and later): ``horizontal.go`` (reconcileAutoscaler,
computeReplicasForMetrics, recordInitialRecommendation, stabilizeRecommendation and
stabilizeRecommendationWithBehaviors, convertDesiredReplicasWithRules and …WithBehaviorRate,
calculateScaleUpLimitWithScalingRules, calculateScaleDownLimitWithBehaviors).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from keda_gpu_scaler.core.comparison import DEFAULT_MAX_REPLICAS
from keda_gpu_scaler.core.hpa.replica_calculator import Recommendation

SYNC_PERIOD_SECONDS = 15.0
"""The interval between two reconciliations of an HPA (--horizontal-pod-autoscaler-sync-period)."""
DOWN_STABILISATION_SECONDS = 300.0
"""The controller's default for scaling down (--horizontal-pod-autoscaler-downscale-stabilization)."""
DEFAULT_MIN_REPLICAS = 1
"""KEDA never sets a lower minimum, also with a ``minReplicaCount`` of 0: KEDA itself scales from one to zero."""
_LONGEST_WINDOW_SECONDS = 3600
_LONGEST_PERIOD_SECONDS = 1800


class PolicyType(StrEnum):
    """The unit of a policy's value."""

    PODS = "Pods"
    PERCENT = "Percent"


class SelectPolicy(StrEnum):
    """Which of several policies applies: the one with the largest change, with the smallest, or no change."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


class Limit(StrEnum):
    """The reason why the final size differs from the recommended one, or why it was not changed."""

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
    """The rules for one direction in ``spec.behavior``."""

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
"""The API server's default for ``behavior.scaleUp`` in a behaviour without it."""
DEFAULT_DOWN = ScalingRules((Policy(PolicyType.PERCENT, 100, 15),), DOWN_STABILISATION_SECONDS)
"""The API server's default for ``behavior.scaleDown`` in a behaviour without it."""


@dataclass(frozen=True, slots=True)
class Behavior:
    """``spec.behavior`` of an HPA, with the API server's defaults."""

    up: ScalingRules = DEFAULT_UP
    down: ScalingRules = DEFAULT_DOWN


@dataclass(frozen=True, slots=True)
class PastRecommendation:
    """A size that was recommended, before any limit, and its time."""

    at_seconds: float
    replicas: int


@dataclass(frozen=True, slots=True)
class ScaleEvent:
    """A change of size that was carried out, and its time; ``change`` is negative for fewer replicas."""

    at_seconds: float
    change: int


@dataclass(frozen=True, slots=True)
class ControllerState:
    """The controller's memory of one HPA, oldest first. A restart of the controller clears it.

    ``started`` says that the controller has reconciled the HPA before. At the first reconciliation it records the
    current size as a recommendation, so that its own restart does not scale anything down.
    """

    recommendations: tuple[PastRecommendation, ...] = ()
    events: tuple[ScaleEvent, ...] = ()
    started: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of one step.

    ``recommended`` is None where no metric was usable, or where the controller decided without a metric. ``replicas``
    is the new size. ``sentence`` explains ``limit``.
    """

    recommended: int | None
    replicas: int
    limit: Limit
    sentence: str


def largest(recommendations: Iterable[Recommendation | None], current_replicas: int) -> Recommendation | None:
    """Return the largest recommendation of several metrics; None stands for a metric that failed.

    A failed metric might have recommended more replicas. So while a metric fails, the HPA does not scale down. The
    result is then None, as it is where every metric failed.
    """
    all_metrics = tuple(recommendations)
    usable = [recommendation for recommendation in all_metrics if recommendation is not None]
    if not usable:
        return None
    largest_one = max(usable, key=lambda recommendation: recommendation.replicas)  # the first of equals
    if len(usable) < len(all_metrics) and largest_one.replicas < current_replicas:
        return None
    return largest_one


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
    """Reconcile one HPA once.

    Args:
        state: the controller's memory of it.
        now: monotonic seconds; never less than at an earlier step.
        current_replicas: the scale target's ``spec.replicas``.
        recommendation: of ``largest`` or ``desired_replicas``; None where no metric is usable.
        min_replicas: the HPA's lower limit, 1 or more.
        max_replicas: the HPA's upper limit.
        behavior: ``spec.behavior``. KEDA sets none unless the ScaledObject has one. None is **not** the same as
            ``Behavior()``. With None, each step may scale up to twice the size or to 4, whichever is more (so 1
            becomes 4 and not 5). Scaling down has no rate limit. The controller may return to a recent larger
            recommendation, even one above the current size.

    Raises:
        ValueError: limits that no HPA can have, or a negative size.
    """
    _check_arguments(current_replicas, min_replicas, max_replicas)
    state = _updated(state, now, current_replicas, behavior)
    without_metrics = _decide_without_metrics(current_replicas, min_replicas, max_replicas)
    if without_metrics is not None:
        decision = without_metrics
    elif recommendation is None:
        sentence = f"no usable metric: the HPA keeps {_replicas(current_replicas)}"
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


def _check_arguments(current: int, min_replicas: int, max_replicas: int) -> None:
    if not 1 <= min_replicas <= max_replicas:
        raise ValueError(f"minReplicas: Invalid value: {min_replicas}: must be 1 to maxReplicas ({max_replicas})")
    if current < 0:
        raise ValueError(f"replicas: Invalid value: {current}: must be 0 or more")


def _decide_without_metrics(current: int, min_replicas: int, max_replicas: int) -> Decision | None:
    """Return the decision where the controller needs no metric and applies no rate limit; else None."""
    if current == 0:
        sentence = "0 replicas: the HPA is disabled, and only KEDA can activate the workload"
        return Decision(None, 0, Limit.DISABLED, sentence)
    if current > max_replicas:
        return Decision(
            None, max_replicas, Limit.MAX, f"{_replicas(current)}, above the maximum: {max_replicas} at once"
        )
    if current < min_replicas:
        return Decision(
            None, min_replicas, Limit.MIN, f"{_replicas(current)}, below the minimum: {min_replicas} at once"
        )
    return None


def _updated(state: ControllerState, now: float, current: int, behavior: Behavior | None) -> ControllerState:
    """Add the current size at the first reconciliation; later, remove entries that are too old for every rule."""
    if not state.started:
        return ControllerState((*state.recommendations, PastRecommendation(now, current)), state.events, started=True)
    window, period = DOWN_STABILISATION_SECONDS, 0
    if behavior is not None:
        window = max(behavior.up.stabilisation_seconds, behavior.down.stabilisation_seconds)
        # The controller keeps the events of each direction for that direction's longest period. It may so drop an
        # event that the other direction's rules would still count. This loss is not copied.
        period = max(policy.period_seconds for policy in (*behavior.up.policies, *behavior.down.policies))
    return ControllerState(
        tuple(past for past in state.recommendations if now - past.at_seconds <= window),
        tuple(event for event in state.events if now - event.at_seconds < period),
        started=True,
    )


def _stabilised(state: ControllerState, now: float, current: int, desired: int, behavior: Behavior | None) -> int:
    """Return the recommended size after stabilisation by earlier recommendations."""
    if behavior is None:
        return max([desired, *(past.replicas for past in state.recommendations)])
    # As in the controller, the windows are open at their end here, and closed without a behaviour.
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
    """Limit the stabilised size by rate limits, minimum and maximum, and name the last limit that applied."""
    recommended = recommendation.replicas
    if stable > current:
        fastest = _fastest_up(state, now, current, behavior)
        if stable > min(max_replicas, fastest):
            return _at_most(recommended, current, stable, fastest, max_replicas)
    elif stable < current:
        slowest = _fastest_down(state, now, current, behavior)
        if stable < max(min_replicas, slowest):
            return _at_least(recommended, current, stable, slowest, min_replicas)
    if stable != recommended:
        sentence = f"{_replicas(stable)}: recent recommendations hold back {recommended}"
        return Decision(recommended, stable, Limit.STABILISATION, sentence)
    if recommendation.within_tolerance:
        return Decision(
            recommended, stable, Limit.TOLERANCE, f"{_replicas(stable)}: within the tolerance of the target"
        )
    return Decision(recommended, stable, Limit.NONE, f"{_replicas(stable)}, as recommended")


def _at_most(recommended: int, current: int, stable: int, fastest: int, max_replicas: int) -> Decision:
    if max_replicas > fastest:
        sentence = f"{_replicas(fastest)}: scaling up from {current} to {stable} is faster than the policies allow"
        return Decision(recommended, fastest, Limit.RATE_UP, sentence)
    return Decision(recommended, max_replicas, Limit.MAX, f"{_replicas(max_replicas)}: {stable} is above the maximum")


def _at_least(recommended: int, current: int, stable: int, slowest: int, min_replicas: int) -> Decision:
    if min_replicas < slowest:
        sentence = f"{_replicas(slowest)}: scaling down from {current} to {stable} is faster than the policies allow"
        return Decision(recommended, slowest, Limit.RATE_DOWN, sentence)
    return Decision(recommended, min_replicas, Limit.MIN, f"{_replicas(min_replicas)}: {stable} is below the minimum")


def _fastest_up(state: ControllerState, now: float, current: int, behavior: Behavior | None) -> int:
    if behavior is None:
        return max(2 * current, 4)
    rules = behavior.up
    if rules.select is SelectPolicy.DISABLED:
        return current
    proposals: list[int] = []
    for policy in rules.policies:
        start = _replicas_at_period_start(state.events, now, current, policy)
        if policy.type is PolicyType.PODS:
            proposals.append(start + policy.value)
        else:
            # In floating point, as in the controller: ten per cent more than 100 is 111.
            proposals.append(math.ceil(float(start) * (1.0 + float(policy.value) / 100)))
    # A removal of replicas may put the limit below the current size. Then nothing is added.
    return max(current, min(proposals) if rules.select is SelectPolicy.MIN else max(proposals))


def _fastest_down(state: ControllerState, now: float, current: int, behavior: Behavior | None) -> int:
    if behavior is None:
        return 0
    rules = behavior.down
    if rules.select is SelectPolicy.DISABLED:
        return current
    proposals: list[int] = []
    for policy in rules.policies:
        start = _replicas_at_period_start(state.events, now, current, policy)
        if policy.type is PolicyType.PODS:
            proposals.append(start - policy.value)
        else:
            proposals.append(int(float(start) * (1.0 - float(policy.value) / 100)))
    # The smallest change gives the largest size.
    return min(current, max(proposals) if rules.select is SelectPolicy.MIN else min(proposals))


def _replicas_at_period_start(events: Sequence[ScaleEvent], now: float, current: int, policy: Policy) -> int:
    return current - sum(event.change for event in events if now - event.at_seconds < policy.period_seconds)


def _replicas(count: int) -> str:
    return f"{count} replica" if count == 1 else f"{count} replicas"
