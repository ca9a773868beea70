# SPDX-License-Identifier: Apache-2.0
"""The synthetic workload of the demonstration: its replicas, as KEDA and the HPA choose them.

Law: the HPA's decision is that of ``core.hpa``. An answer that KEDA cannot use changes nothing.

Facts about KEDA are from KEDA 2.20, pkg/scaling/executor/scale_scaledobjects.go: an active workload at zero gets
``minReplicaCount`` or one replica; an inactive one is set to zero when ``cooldownPeriod`` has passed since it was last
active.
"""

from dataclasses import dataclass, field

from keda_gpu_scaler.cli.probe.client import ProbeAnswer
from keda_gpu_scaler.core.hpa.controller import (
    DEFAULT_DOWN,
    DEFAULT_MIN_REPLICAS,
    Behavior,
    ControllerState,
    Limit,
    ScalingRules,
    reconcile,
)
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType, desired_replicas, milli

MAX_REPLICAS = 8
DOWN_SECONDS = 12.0
"""The HPA's stabilization window for scaling down, 300 s in a cluster."""
COOLDOWN_SECONDS = 15.0
"""KEDA's ``cooldownPeriod``, 300 s in a cluster."""
_BEHAVIOR = Behavior(down=ScalingRules(DEFAULT_DOWN.policies, DOWN_SECONDS))
_SHORT = {
    Limit.TOLERANCE: "within tolerance",
    Limit.STABILISATION: f"{DOWN_SECONDS:g} s window",
    Limit.RATE_UP: "fastest allowed",
    Limit.RATE_DOWN: "fastest allowed",
    Limit.MAX: "at the maximum",
    Limit.MIN: "at the minimum",
}


@dataclass(frozen=True, slots=True)
class Step:
    """What KEDA and the HPA decide at one tick: the replicas before and after, and why."""

    before: int
    after: int
    reason: str


@dataclass(slots=True)
class ScaledWorkload:
    """The replicas from tick to tick; KEDA decides between zero and one, the HPA above."""

    replicas: int = 0
    state: ControllerState = field(default_factory=ControllerState)
    last_active_at: float = 0.0

    def step(self, now: float, answer: ProbeAnswer) -> Step:
        """Let KEDA and the HPA decide on an answer, and take the size that they choose.

        Args:
            now: seconds on a clock that only grows.
            answer: the scaler's.
        """
        before = self.replicas
        reason = self._decide(now, answer)
        return Step(before, self.replicas, reason)

    def _decide(self, now: float, answer: ProbeAnswer) -> str:
        if answer.error is not None or answer.value is None or not answer.specs or answer.active is None:
            return "no value: the size stays"
        if answer.active:
            self.last_active_at = now
        if self.replicas == 0:
            if not answer.active:
                return "at zero"
            self.replicas = DEFAULT_MIN_REPLICAS
            return "KEDA wakes it"
        if not answer.active and now - self.last_active_at >= COOLDOWN_SECONDS:
            self.replicas = 0
            return f"KEDA: idle for {COOLDOWN_SECONDS:g} s"
        return self._reconcile(now, answer.value, answer.specs[0].as_keda_reads_it)

    def _reconcile(self, now: float, value: float, target: float) -> str:
        recommendation = desired_replicas(
            ValueType.AVERAGE_VALUE, milli(value), milli(target), replicas=self.replicas
        )  # fmt: skip
        self.state, decision = reconcile(
            self.state, now, self.replicas, recommendation,
            min_replicas=DEFAULT_MIN_REPLICAS, max_replicas=MAX_REPLICAS, behavior=_BEHAVIOR,
        )  # fmt: skip
        self.replicas = decision.replicas
        return f"HPA: {_SHORT.get(decision.limit, 'as recommended')}"
