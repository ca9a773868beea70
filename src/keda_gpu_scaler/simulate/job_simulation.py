# SPDX-License-Identifier: Apache-2.0
"""Runs one ScaledJob on the arrivals of a queue, second by second; events between have their own time.

Law: the same arguments give the same result. ``core.hpa`` alone computes how many Jobs KEDA starts.

KEDA polls a ScaledJob and starts Jobs; it removes none, and no HPA takes part. A push changes nothing: KEDA ignores the
streams of a ScaledJob (pkg/scaling/scale_handler.go, startPushScalers). A trigger that answers with an error is left
out of the poll.
"""

from dataclasses import dataclass

from keda_gpu_scaler.core.evaluate.workload_view import job_counts
from keda_gpu_scaler.core.hpa.replica_calculator import milli
from keda_gpu_scaler.core.hpa.scaled_job import JobMetric, new_jobs_of_triggers
from keda_gpu_scaler.core.scaling_rules import JobRules
from keda_gpu_scaler.core.types import DeclaredTrigger, Workload
from keda_gpu_scaler.simulate.autoscaler import TriggerAnswer
from keda_gpu_scaler.simulate.engine_model import ReplicaModel, ServiceModel
from keda_gpu_scaler.simulate.jobs import Jobs
from keda_gpu_scaler.simulate.pods import NAMESPACE
from keda_gpu_scaler.simulate.queue_triggers import queue_answers
from keda_gpu_scaler.simulate.requests import RequestLog, RequestTraffic
from keda_gpu_scaler.simulate.scaler import SimulatedScaler, counts_of
from keda_gpu_scaler.simulate.scenario import Circumstances, JobSpec, ScalingSpec
from keda_gpu_scaler.simulate.servers import make_server
from keda_gpu_scaler.simulate.simulation import MOMENT_SECONDS, Move, Progress, Run, WorkloadMoment
from keda_gpu_scaler.simulate.work_queue import WorkQueue


@dataclass(frozen=True, slots=True)
class JobTotals:
    """The Jobs that were created, those that were complete, and the pods that never had an item."""

    created: int
    finished: int
    found_empty: int


class JobSimulation:
    """One run of a ScaledJob.

    Args:
        traffic: the items, by their arrival in the queue.
        model: the model of each pod.
        circumstances: cold starts, and the rules of the queue.
        spec: the ScaledJob.

    Raises:
        TriggerError: the metadata of a trigger cannot be used.
        SimulationError: a trigger needs data that a simulation does not have.
    """

    def __init__(
        self, traffic: RequestTraffic, model: ReplicaModel, circumstances: Circumstances, spec: ScalingSpec
    ) -> None:
        self._run_log = Run(RequestLog(traffic))
        log = self._run_log.log
        self._traffic = traffic
        self._circumstances = circumstances
        self._spec = spec
        self._job_spec = spec.jobs or JobSpec(JobRules())
        self._queue = WorkQueue(log)
        self._jobs = Jobs(self._queue, lambda: make_server(model, log), circumstances, self._job_spec)
        stale_after, is_service = circumstances.stale_after_seconds, isinstance(model, ServiceModel)
        self._scalers = [SimulatedScaler(trigger, stale_after, is_service=is_service) for trigger in spec.triggers]
        self._has_demand = any(scaler.has_demand for scaler in self._scalers)
        self._polling_seconds = max(1.0, round(spec.polling_seconds))
        self._shown: tuple[float | None, float] = (None, 0.0)

    def run(self, progress: Progress | None = None) -> Run:
        """Simulate until every item is done, or until the tail of the traffic is over."""
        end, last, jobs = self._traffic.seconds, self._traffic.seconds + self._circumstances.tail_seconds, self._jobs
        now = 0
        while now <= last:
            jobs.advance(float(now))
            jobs.advance_jobs(float(now))
            self._note(float(now))
            self._second(float(now))
            if progress is not None and now % 60 == 0:
                progress(min(1.0, now / max(1.0, end)))
            if now > end + 5 and not self._queue.in_flight:
                break
            now += 1
        self._run_log.pods = jobs.all
        return self._run_log

    @property
    def totals(self) -> JobTotals:
        """What became of the Jobs."""
        return JobTotals(self._jobs.created, self._jobs.finished, self._jobs.found_empty)

    def _second(self, now: float) -> None:
        if now % self._circumstances.scrape_seconds == 0:
            for scaler in self._scalers:
                scaler.scrape(self._jobs.serving, now)
        if self._has_demand:
            counts = counts_of(self._queue, self._circumstances)
            for scaler in self._scalers:
                scaler.note_demand(counts, now)
        phase = self._circumstances.keda_phase_seconds
        if now >= phase and (now - phase) % self._polling_seconds == 0:
            self._poll(now)

    def _poll(self, now: float) -> None:
        run, rules, workload = self._run_log, self._job_spec.rules, self._workload(now)
        answers = self._answers(workload, now)
        first = answers[0]
        self._shown = (first.evaluation.value, first.target)
        run.syncs += 1
        if first.evaluation.value is None:
            run.without_value += 1
            run.reasons[first.evaluation.reason] = run.reasons.get(first.evaluation.reason, 0) + 1
        metrics = [_metric(answer) for answer in answers if not _is_error(answer)]
        before = len(self._jobs.unfinished)
        if before >= rules.most and self._queue.gate:
            run.max_seconds += self._polling_seconds
        started = new_jobs_of_triggers(rules, job_counts(workload), metrics)
        if started:
            self._jobs.create(started, now)
            run.moves.append(Move(now, before, before + started, "KEDA"))

    def _answers(self, workload: Workload, now: float) -> list[TriggerAnswer]:
        own = [
            TriggerAnswer(scaler.spec, scaler.trigger.target, scaler.evaluate(workload, now))
            for scaler in self._scalers
        ]
        return [*own, *queue_answers(self._spec.queue_triggers, counts_of(self._queue, self._circumstances))]

    def _workload(self, now: float) -> Workload:
        pods = tuple([pod.as_pod(now) for pod in sorted(self._jobs.pods, key=lambda one: one.number)])
        count = len(self._jobs.unfinished)
        return Workload(
            namespace=NAMESPACE,
            name="workload",
            kind="ScaledJob",
            target="ScaledJob workload",
            spec_replicas=count,
            status_replicas=count,
            pods=pods,
            triggers=tuple([DeclaredTrigger(one.metadata, one.metric_type) for one in self._spec.triggers]),
            jobs=self._job_spec.rules,
        )

    def _note(self, now: float) -> None:
        run, queue, jobs = self._run_log, self._queue, self._jobs
        run.max_waiting = max(run.max_waiting, queue.waiting)
        if now % MOMENT_SECONDS == 0:
            value, target = self._shown
            run.moments.append(
                WorkloadMoment(
                    now, len(jobs.unfinished), jobs.ready, jobs.active, queue.waiting, queue.running, queue.arrived,
                    value, target,
                )
            )  # fmt: skip


def _metric(answer: TriggerAnswer) -> JobMetric:
    is_average = answer.spec.metric_type == "AverageValue"
    return JobMetric(
        milli(round(answer.evaluation.value or 0.0, 3)),
        milli(round(answer.target, 3)) if is_average else 0,
        answer.evaluation.active,
    )


def _is_error(answer: TriggerAnswer) -> bool:
    return answer.evaluation.value is None or answer.evaluation.is_activity_unknown
