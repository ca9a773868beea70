# SPDX-License-Identifier: Apache-2.0
"""What would the HPA make of the answers, round after round?

The law of this module: the HPA decides by ``core.hpa`` alone, on what KEDA would hand to it; an answer KEDA
can do nothing with leads to no decision.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime

from keda_gpu_scaler.cli.probe.client import ProbeAnswer
from keda_gpu_scaler.cli.probe.lint import LintFinding, lint
from keda_gpu_scaler.core.hpa.controller import (
    SYNC_PERIOD_SECONDS,
    ControllerState,
    Decision,
    reconcile,
)
from keda_gpu_scaler.core.hpa.replica_calculator import (
    Recommendation,
    ValueType,
    desired_replicas,
    milli,
)

OK, ANSWERED_WITH_AN_ERROR, CANNOT_CONNECT = 0, 1, 3


@dataclass(frozen=True, slots=True)
class Scenario:
    """The HPA and the workload that are imagined behind the answer."""

    value_type: ValueType
    replicas: int
    ready: int | None
    min_replicas: int
    max_replicas: int
    follow: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """One round: the answer, what is wrong with it, and what the HPA makes of it."""

    at: datetime
    address: str
    scenario: Scenario
    answer: ProbeAnswer
    findings: tuple[LintFinding, ...]
    recommendation: Recommendation | None
    decision: Decision | None

    @property
    def exit_code(self) -> int:
        """What this round alone would end the program with."""
        if not self.answer.connected:
            return CANNOT_CONNECT
        if self.answer.error or any(finding.unusable for finding in self.findings):
            return ANSWERED_WITH_AN_ERROR
        return OK


@dataclass(slots=True)
class Simulation:
    """The HPA behind the answers, from round to round.

    It looks every 15 s, as the controller does. A round between two looks shows what it would decide then,
    and is not remembered.
    """

    scenario: Scenario
    state: ControllerState = field(default_factory=ControllerState)
    synced_at: float | None = None

    def round(self, at: datetime, now: float, address: str, answer: ProbeAnswer) -> Round:
        """Judge an answer and let the HPA decide on it."""
        scenario = self.scenario
        findings = lint(answer)
        recommendation, decision = None, None
        # What KEDA cannot use leads to no decision worth showing; a failed call leads to "no metric".
        if answer.error is not None or not any(finding.unusable for finding in findings):
            recommendation = recommend(answer, scenario)
            state, decision = reconcile(
                self.state,
                now,
                scenario.replicas,
                recommendation,
                min_replicas=scenario.min_replicas,
                max_replicas=scenario.max_replicas,
            )
            self._keep(state, now, decision, answer)
        return Round(at, address, scenario, answer, findings, recommendation, decision)

    def _keep(self, state: ControllerState, now: float, decision: Decision, answer: ProbeAnswer) -> None:
        if self.synced_at is not None and now - self.synced_at < SYNC_PERIOD_SECONDS:
            return
        self.state, self.synced_at = state, now
        if self.scenario.follow:
            woken = self.scenario.min_replicas if answer.active else 0
            self.scenario = replace(self.scenario, replicas=decision.replicas or woken)


def recommend(answer: ProbeAnswer, scenario: Scenario) -> Recommendation | None:
    """What the HPA recommends on an answer KEDA can use; None when it did not get one."""
    if answer.error is not None or answer.value is None or not answer.specs:
        return None
    return desired_replicas(
        scenario.value_type,
        milli(answer.value),
        milli(answer.specs[0].as_keda_reads_it),
        replicas=scenario.replicas,
        ready_pods=scenario.ready,
    )
