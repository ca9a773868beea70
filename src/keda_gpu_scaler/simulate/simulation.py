# SPDX-License-Identifier: Apache-2.0
"""Runs one ScaledObject on one traffic, second by second; events between have their own time.

Law: the same arguments give the same result.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from keda_gpu_scaler.core.hpa.controller import SYNC_PERIOD_SECONDS, Limit
from keda_gpu_scaler.core.state.removals import Removals
from keda_gpu_scaler.core.types import DeclaredTrigger, Workload
from keda_gpu_scaler.simulate.autoscaler import Autoscaler, Sizes, TriggerAnswer
from keda_gpu_scaler.simulate.engine_model import ReplicaModel, ServiceModel
from keda_gpu_scaler.simulate.gateway import Dispatcher, Gateway
from keda_gpu_scaler.simulate.pods import NAMESPACE, Pods, SimulatedPod
from keda_gpu_scaler.simulate.queue_triggers import queue_answers
from keda_gpu_scaler.simulate.requests import RequestLog, RequestTraffic
from keda_gpu_scaler.simulate.scaler import GatewayCounts, SimulatedScaler, counts_of
from keda_gpu_scaler.simulate.scenario import Circumstances, FormulaResult, ScalingSpec
from keda_gpu_scaler.simulate.servers import make_server
from keda_gpu_scaler.simulate.work_queue import WorkQueue

MOMENT_SECONDS = 15
Progress = Callable[[float], None]
"""Is called with the share of the traffic that was simulated, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class WorkloadMoment:
    """The state of the workload at one instant.

    ``value`` and ``target`` are those of the first trigger at the last sync of the HPA; the value is None where there
    is none. ``is_total`` says that the HPA divides it by the replicas. ``waiting`` and ``running`` count requests.
    """

    at_seconds: float
    wanted: int
    ready: int
    active: int
    waiting: int
    running: int
    arrived: int
    value: float | None
    target: float
    is_total: bool = True


@dataclass(frozen=True, slots=True)
class Move:
    """A change of the size, and what made it: "HPA" or "KEDA"."""

    at_seconds: float
    before: int
    after: int
    by: str


@dataclass(slots=True)
class Run:
    """Everything that one simulation recorded.

    ``max_seconds`` is the time in which the HPA wanted more than maxReplicaCount, ``max_waiting`` the most requests
    that waited at once. ``without_value`` counts the syncs of the HPA without a value.
    """

    log: RequestLog
    pods: list[SimulatedPod] = field(default_factory=list)
    moments: list[WorkloadMoment] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    max_seconds: float = 0.0
    max_waiting: int = 0
    syncs: int = 0
    without_value: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


Sizing = Callable[[float], int]
"""Returns the size of the workload at a time, where no ScaledObject decides."""


class WorkloadSimulation:
    """One run.

    Args:
        traffic: the requests.
        model: the model of each replica.
        circumstances: cold starts, the router and the objective.
        initial: the number of ready replicas at the start.
    """

    def __init__(
        self,
        traffic: RequestTraffic,
        model: ReplicaModel,
        circumstances: Circumstances,
        initial: int,
    ) -> None:
        self.run_log = Run(RequestLog(traffic))
        log = self.run_log.log
        self._traffic = traffic
        self._circumstances = circumstances
        self._gateway: Dispatcher = (
            Gateway(log, circumstances.router, circumstances.seed) if circumstances.queue is None else WorkQueue(log)
        )
        self._is_service = isinstance(model, ServiceModel)
        self._pods = Pods(self._gateway, lambda: make_server(model, log), circumstances)
        self._pods.start(initial)
        self._wanted = initial
        self._removals = Removals()
        self._shown: tuple[float | None, float, bool] = (None, 0.0, True)

    def scaled_by(
        self, spec: ScalingSpec, formula: FormulaResult | None = None, progress: Progress | None = None
    ) -> Run:
        """Let a ScaledObject scale the workload.

        Raises:
            TriggerError: the metadata of a trigger cannot be used.
            SimulationError: a trigger needs data that a simulation does not have.
        """
        stale_after = self._circumstances.stale_after_seconds
        scalers = [SimulatedScaler(trigger, stale_after, is_service=self._is_service) for trigger in spec.triggers]
        control = _Control(self, spec, scalers, Autoscaler(spec, formula))
        return self._run(control.second, progress)

    def sized_by(self, sizing: Sizing, progress: Progress | None = None) -> Run:
        """Let a schedule set the size."""
        return self._run(lambda now: self.resize(sizing(now), now, "schedule"), progress)

    def resize(self, size: int, now: float, by: str) -> None:
        """Set the size of the workload."""
        if size != self._wanted:
            self.run_log.moves.append(Move(now, self._wanted, size, by))
            self._wanted = size

    def _run(self, second: Callable[[float], None], progress: Progress | None) -> Run:
        end, last = self._traffic.seconds, self._traffic.seconds + self._circumstances.tail_seconds
        now = 0
        while now <= last:
            self._pods.advance(float(now))
            self._note(float(now))
            second(float(now))
            self._pods.resize(self._wanted, float(now))
            if progress is not None and now % 60 == 0:
                progress(min(1.0, now / max(1.0, end)))
            if now > end + 5 and not self._gateway.in_flight:
                break
            now += 1
        self.run_log.pods = self._pods.all
        return self.run_log

    def _note(self, now: float) -> None:
        run, gateway = self.run_log, self._gateway
        waiting = gateway.waiting
        run.max_waiting = max(run.max_waiting, waiting)
        if now % MOMENT_SECONDS == 0:
            value, target, is_total = self._shown
            run.moments.append(
                WorkloadMoment(
                    now,
                    self._wanted,
                    self._pods.ready,
                    self._pods.active,
                    waiting,
                    gateway.running,
                    gateway.arrived,
                    value,
                    target,
                    is_total,
                )
            )

    # ---- what the control loops see ----

    @property
    def wanted(self) -> int:
        """The size that the workload should have."""
        return self._wanted

    @property
    def serving(self) -> Iterable[SimulatedPod]:
        """The pods whose engines are scraped."""
        return self._pods.serving

    def gateway_counts(self) -> GatewayCounts:
        """Return what the gateway counts."""
        return counts_of(self._gateway, self._circumstances)

    def sizes(self) -> Sizes:
        """Return the sizes of the workload."""
        ready = sum([pod.is_ready for pod in self._pods.present])
        return Sizes(self._wanted, self._pods.active, ready)

    def workload(self, spec: ScalingSpec, now: float) -> Workload:
        """Return the workload as the API server describes it."""
        pods = tuple([pod.as_pod(now) for pod in self._pods.present])
        return Workload(
            namespace=NAMESPACE,
            name="workload",
            kind="ScaledObject",
            target="Deployment workload",
            spec_replicas=self._wanted,
            status_replicas=self._pods.active,
            pods=pods,
            triggers=tuple([DeclaredTrigger(one.metadata, one.metric_type) for one in spec.triggers]),
            removed_at_seconds=self._removals.note(pods, now),
            formula=spec.formula,
            tolerances=spec.tolerances,
            cooldown_seconds=spec.cooldown_seconds,
            idle_replicas=spec.idle_replicas or 0,
        )

    def show(self, answer: TriggerAnswer) -> None:
        """Note the value and the target of the last sync."""
        is_total = answer.spec.metric_type == "AverageValue"
        self._shown = (answer.evaluation.value, answer.target, is_total)


class _Control:
    """The control loops of one ScaledObject: scrapes, KEDA and the HPA."""

    def __init__(
        self,
        simulation: WorkloadSimulation,
        spec: ScalingSpec,
        scalers: Sequence[SimulatedScaler],
        autoscaler: Autoscaler,
    ) -> None:
        self._simulation = simulation
        self._spec = spec
        self._scalers = scalers
        self._autoscaler = autoscaler
        self._has_demand = any(scaler.has_demand for scaler in scalers)
        self._circumstances = simulation._circumstances
        self._is_push = any(trigger.is_push for trigger in spec.triggers)
        self._polling_seconds = max(1.0, round(spec.polling_seconds))

    def second(self, now: float) -> None:
        """Do what is due in this second."""
        simulation, circumstances = self._simulation, self._circumstances
        if now % circumstances.scrape_seconds == 0:
            for scaler in self._scalers:
                scaler.scrape(simulation.serving, now)
        if self._has_demand:
            counts = simulation.gateway_counts()
            for scaler in self._scalers:
                scaler.note_demand(counts, now)
        if self._is_due(now, circumstances.hpa_phase_seconds, SYNC_PERIOD_SECONDS) and simulation.wanted > 0:
            self._sync(now)
        if self._is_due(now, circumstances.keda_phase_seconds, self._polling_seconds):
            if self._is_poll_without_effect():
                return
            answers = self._answers(now)
            simulation.resize(self._autoscaler.poll(answers, simulation.sizes(), now), now, "KEDA")
        elif self._is_push and simulation.wanted == (self._spec.inactive_replicas or 0):
            answers = self._answers(now)
            simulation.resize(self._autoscaler.push(answers, simulation.sizes(), now), now, "KEDA")

    def _is_poll_without_effect(self) -> bool:
        """Whether no answer could make KEDA change the size; a polled trigger is asked nevertheless, to be scraped."""
        spec = self._spec
        is_left_to_the_hpa = spec.inactive_replicas is None and spec.fallback is None
        are_pushed = all(trigger.is_push for trigger in spec.triggers)  # the triggers on the queue are only read
        return is_left_to_the_hpa and are_pushed and self._simulation.wanted >= spec.hpa_min

    def _is_due(self, now: float, phase: float, period: float) -> bool:
        return now >= phase and (now - phase) % period == 0

    def _sync(self, now: float) -> None:
        simulation, run = self._simulation, self._simulation.run_log
        answers = self._answers(now)
        decision = self._autoscaler.sync(answers, simulation.sizes(), now)
        first = answers[0]
        simulation.show(first)
        run.syncs += 1
        if first.evaluation.value is None:
            run.without_value += 1
            run.reasons[first.evaluation.reason] = run.reasons.get(first.evaluation.reason, 0) + 1
        if decision.limit is Limit.MAX or (decision.recommended or 0) > self._spec.hpa_max:
            run.max_seconds += SYNC_PERIOD_SECONDS
        simulation.resize(decision.replicas, now, "HPA")

    def _answers(self, now: float) -> list[TriggerAnswer]:
        workload = self._simulation.workload(self._spec, now)
        answers = [
            TriggerAnswer(scaler.spec, scaler.trigger.target, scaler.evaluate(workload, now))
            for scaler in self._scalers
        ]
        if not self._spec.queue_triggers:
            return answers
        return [*answers, *queue_answers(self._spec.queue_triggers, self._simulation.gateway_counts())]


def initial_replicas(traffic: RequestTraffic, model: ReplicaModel, seconds: float = 120.0, rho: float = 0.7) -> int:
    """Return how many replicas serve the first minutes of a traffic, each with this share of its time."""
    work = 0.0
    for arrival, prompt, answer in zip(traffic.arrivals, traffic.prompts, traffic.answers, strict=True):
        if arrival > seconds:
            break
        work += model.work_seconds(prompt, answer)
    return max(1, math.ceil(work / min(seconds, max(1.0, traffic.seconds)) / rho))
