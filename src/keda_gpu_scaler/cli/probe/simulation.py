# SPDX-License-Identifier: Apache-2.0
"""Simulates the HPA on the answers of a scaler, round after round.

Law: ``core.hpa`` alone decides, on the numbers that KEDA gives to the HPA. An answer that KEDA cannot use leads to no
decision.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime

from keda_gpu_scaler.cli.pace import OK
from keda_gpu_scaler.cli.probe.client import ProbeAnswer
from keda_gpu_scaler.cli.probe.lint import LintFinding, lint
from keda_gpu_scaler.core.hpa.controller import (
    DOWN_STABILISATION_SECONDS,
    SYNC_PERIOD_SECONDS,
    ControllerState,
    Decision,
    Limit,
    reconcile,
)
from keda_gpu_scaler.core.hpa.replica_calculator import Recommendation, ValueType, desired_replicas, milli

ERROR_ANSWER, CANNOT_CONNECT = 1, 3


@dataclass(frozen=True, slots=True)
class Scenario:
    """The simulated HPA and workload. ``ready`` is None where every replica is ready."""

    value_type: ValueType
    replicas: int
    ready: int | None
    min_replicas: int
    max_replicas: int
    is_following: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """One round: the answer, its findings, and the decision of the HPA."""

    at: datetime
    address: str
    scenario: Scenario
    answer: ProbeAnswer
    findings: tuple[LintFinding, ...]
    recommendation: Recommendation | None
    decision: Decision | None

    @property
    def exit_code(self) -> int:
        """The exit status for this round alone."""
        if not self.answer.is_connected:
            return CANNOT_CONNECT
        if self.answer.error or any(finding.is_unusable for finding in self.findings):
            return ERROR_ANSWER
        return OK


@dataclass(slots=True)
class Simulation:
    """The HPA from round to round.

    It synchronizes every 15 s, as the controller does. A round between two synchronizations shows what the HPA would
    decide at that time; the HPA does not remember it.
    """

    scenario: Scenario
    state: ControllerState = field(default_factory=ControllerState)
    synced_at: float | None = None

    def evaluate(self, at: datetime, now: float, address: str, answer: ProbeAnswer) -> Round:
        """Check an answer and let the HPA decide on it.

        Args:
            at: the time of the round.
            now: the same time on the monotonic clock, in seconds.
            address: the scaler's.
            answer: the scaler's.
        """
        scenario = self.scenario
        findings = lint(answer)
        recommendation, decision = None, None
        # An answer that KEDA cannot use leads to no decision; a call that returns an error leads to "no metric".
        if answer.error is not None or not any(finding.is_unusable for finding in findings):
            recommendation = recommend(answer, scenario)
            state, decision = reconcile(
                self.state,
                now,
                scenario.replicas,
                recommendation,
                min_replicas=scenario.min_replicas,
                max_replicas=scenario.max_replicas,
            )
            self._remember(state, now, decision, answer)
        return Round(at, address, scenario, answer, findings, recommendation, decision)

    def _remember(self, state: ControllerState, now: float, decision: Decision, answer: ProbeAnswer) -> None:
        if self.synced_at is not None and now - self.synced_at < SYNC_PERIOD_SECONDS:
            return
        self.state, self.synced_at = state, now
        if self.scenario.is_following:
            activated = self.scenario.min_replicas if answer.active else 0
            self.scenario = replace(self.scenario, replicas=decision.replicas or activated)


def recommend(answer: ProbeAnswer, scenario: Scenario) -> Recommendation | None:
    """Return the HPA's recommendation on an answer that KEDA can use; None where the answer has no value."""
    if answer.error is not None or answer.value is None or not answer.specs:
        return None
    return desired_replicas(
        scenario.value_type,
        milli(answer.value),
        milli(answer.specs[0].as_keda_reads_it),
        replicas=scenario.replicas,
        ready_pods=scenario.ready,
    )


def decision_sentence(
    decision: Decision, current_replicas: int, window_seconds: float = DOWN_STABILISATION_SECONDS
) -> str:
    """Say what the HPA decides, when a smaller size takes effect, and in brackets which limit applied.

    Args:
        decision: the HPA's.
        current_replicas: the size before it.
        window_seconds: the stabilization window for scaling down.
    """
    sentence = decision.sentence
    # A size that the maximum forces takes effect at once; it has no recommendation.
    if decision.recommended is not None and decision.replicas < current_replicas and window_seconds:
        sentence += f", when all recommendations of the last {window_seconds:g} s are this low"
    return sentence if decision.limit is Limit.NONE else f"{sentence} [{decision.limit}]"
