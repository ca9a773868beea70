# SPDX-License-Identifier: Apache-2.0
"""How loaded is what this trigger asks about, and should the workload be running at all?

The law of this module: unknown is not zero. What cannot be seen moves nothing up and sends nothing to sleep; where
too little is seen there is no value, only a sentence that says why, and a workload nobody can judge is active.
"""

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from keda_gpu_scaler.core.aggregation import AGGREGATIONS
from keda_gpu_scaler.core.evaluate.engine_load import DemandObservation, observe_demand
from keda_gpu_scaler.core.evaluate.observation import (
    DeviceObservation,
    ObservationState,
    PodObservation,
    describe_window,
    node_labels_unavailable,
    observe_devices,
    observe_endpoint,
    observe_missing_nodes,
)
from keda_gpu_scaler.core.evaluate.workload_view import WorkloadView
from keda_gpu_scaler.core.hpa.reported_value import (
    REPORT_OF_TYPE,
    ReportedValue,
    ReportType,
    for_jobs,
    report_devices,
    report_pods,
    report_wanted,
)
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, Fleet, History
from keda_gpu_scaler.core.trigger.metric_type import certain_type, declared_type
from keda_gpu_scaler.core.trigger.metrics import SATURATION_OF_DEVICES
from keda_gpu_scaler.core.trigger.parser import Scope, Trigger
from keda_gpu_scaler.core.types import Pod, Unavailable, Workload

_NAMED = 3  # so many unseen pods or devices are named, and the others counted
_NOTHING_SENT: Mapping[str, str] = MappingProxyType({})
_TYPE_OF_REPORT = {report: kind for kind, report in REPORT_OF_TYPE.items()}


class NoValue(enum.Enum):
    """Why a verdict has no value."""

    UNAVAILABLE = "unavailable"
    """Nothing to go by at the moment; it may pass by itself."""

    MISCONFIGURED = "misconfigured"
    """The trigger asks for what is not there; somebody must change something."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The answer to one trigger at one instant.

    ``value`` is what is handed out, in the metric's unit, finite and not negative, or None where ``no_value_reason`` and
    ``reason`` say why. ``steps`` are the sentences that lead there, in order. ``with_value`` of ``expected`` ready pods
    (or devices) had a value. ``kept_active_by_missing_data`` says that ``active`` is so only because something could not be seen, and
    ``is_activity_unknown`` that not even whether to keep it running or asleep can be told. ``demand`` is what was seen of it,
    None without any. ``observations`` are the pods that were looked at, or the devices, in the order of the steps. Until
    ``expires_at_seconds``, on the clock of ``evaluate``'s ``now``, the same view gives the same verdict.
    """

    scope: Scope
    value: float | None
    active: bool
    steps: tuple[str, ...]
    no_value_reason: NoValue | None = None
    reason: str = ""
    with_value: int = 0
    expected: int = 0
    kept_active_by_missing_data: bool = False
    is_activity_unknown: bool = False
    demand: DemandObservation | None = None
    observations: tuple[PodObservation | DeviceObservation, ...] = field(default=(), compare=False, repr=False)
    expires_at_seconds: float = field(default=-math.inf, compare=False)

    @property
    def known_activity(self) -> bool | None:
        """Whether the workload should run, by what was seen; None where ignorance would decide."""
        return None if self.kept_active_by_missing_data else self.active


def evaluate(
    trigger: Trigger,
    fleet: Fleet,
    now: float,
    workload: Workload | Unavailable | None = None,
    metadata: Mapping[str, str] = _NOTHING_SENT,
) -> Evaluation:
    """Judge one trigger by what is known; the same arguments give the same verdict.

    Args:
        trigger: what is asked.
        fleet: what was seen of the devices, and how old it may be.
        now: monotonic seconds on the clock that dated the fleet's histories and the workload's pods.
        workload: what the API server knows, or why it knows nothing; None without access to it.
        metadata: the trigger's metadata as KEDA sent it, by which its ``metricType`` is found.
    """
    scope = trigger.scope or (Scope.FLEET if workload is None else Scope.WORKLOAD)
    question = _Evaluator(trigger, fleet, now, workload, metadata, scope, _demand(trigger, fleet, now))
    if no_value_reason := node_labels_unavailable(trigger, fleet):
        return question.lacking(no_value_reason)
    if scope is Scope.WORKLOAD:
        return question.of_workload()
    if scope is Scope.ENDPOINT:
        return question.of_endpoint()
    return question.of_devices()


def _demand(trigger: Trigger, fleet: Fleet, now: float) -> DemandObservation | None:
    if trigger.demand is None:
        return None
    return observe_demand(
        trigger.demand,
        fleet.scrape_results.get(trigger.demand.endpoint),
        window_seconds=trigger.window_seconds,
        stale_after_seconds=fleet.stale_after_seconds,
        now=now,
    )


@dataclass(frozen=True, slots=True)
class _Evaluator:
    """One trigger and everything it is judged by."""

    trigger: Trigger
    fleet: Fleet
    now: float
    workload: Workload | Unavailable | None
    metadata: Mapping[str, str]
    scope: Scope
    demand: DemandObservation | None = None

    # ---- a workload's pods ----

    def of_workload(self) -> Evaluation:
        """Judge the pods behind the ScaledObject, wherever they are."""
        workload = self.workload
        if workload is None:
            other = "name one endpoint: engineEndpoint" if self.trigger.engine else "set scope: fleet or node"
            return self.without_value(NoValue.MISCONFIGURED, f"metadata.scope: {_NO_ACCESS}, or {other}")
        if isinstance(workload, Unavailable):
            return self.lacking(workload)
        pods = WorkloadView(self.trigger, workload, self.fleet, self.now)
        if self.trigger.metric.name == "saturation" and (no_value_reason := pods.no_engine_reason):
            return self._of_devices_for_engines(no_value_reason)
        return replace(self._of_pods(pods), observations=tuple(pods.observations))

    def _of_devices_for_engines(self, no_value_reason: str) -> Evaluation:
        """Judge the pods' devices where none of them has an engine that tells of itself."""
        question = replace(self, trigger=replace(self.trigger, metric=SATURATION_OF_DEVICES, engine=None))
        assert isinstance(self.workload, Workload)  # noqa: S101 - its pods were looked at
        pods = WorkloadView(question.trigger, self.workload, self.fleet, self.now)
        # One that is ready as soon as it runs, for want of a readiness probe, may still be loading its model.
        grace = self.trigger.startup_grace_seconds
        young = [it.pod for it in pods.ready if self.now - it.pod.created_at_seconds < grace]
        evaluation = replace(question._of_pods(pods, young), observations=tuple(pods.observations))
        said = f"no engine tells of itself ({no_value_reason}): GPU utilisation instead, of which 80 % counts as saturation 100 %"
        reason = f"{evaluation.reason}; {said}" if evaluation.reason else ""
        return replace(evaluation, steps=(said, *evaluation.steps), reason=reason)

    def _of_pods(self, pods: WorkloadView, young: Sequence[Pod] = ()) -> Evaluation:
        steps = pods.steps()
        if pods.is_scaled_to_zero:
            return self._asleep(pods, steps)
        if problem := pods.nothing_in_scope():
            return self.without_value(NoValue.MISCONFIGURED, problem, steps)
        with_value, expected = len(pods.values), len(pods.values) + len(pods.missing)
        if expected and (not with_value or with_value / expected < self.trigger.min_coverage):
            reason = f"{self._nothing_of} {expected - with_value} of {expected} ready pods: {_listed(pods.missing)}"
            return self.without_value(NoValue.UNAVAILABLE, reason, steps, with_value=with_value, expected=expected)
        report = self._report()
        if isinstance(report, Unavailable):
            return self.lacking(report, steps)
        reported = self._waking(report, pods) or report_pods(
            report,
            # Pods that the trigger does not mean are neither idle nor busy: they count as at the target, up and down.
            [*pods.values, *[self.trigger.target] * len(pods.out_of_scope)],
            missing=len(pods.ready) - with_value - len(pods.out_of_scope),
            unready=len(pods.unready),
            size=pods.size,
            target=self.trigger.target,
        )
        if pods.out_of_scope:
            steps = (*steps, f"{len(pods.out_of_scope)} ready pods are not meant: they count as at the target")
        # Whether it sleeps is for all of its pods to say, whichever of them the number is about.
        busiest = max(
            (observation.value for observation in pods.unnarrowed_observations if observation.value is not None),
            default=0.0,
        )
        return self._judged(
            reported,
            steps,
            pods.all_observations,
            busiest=busiest,
            requests=math.fsum(observation.requests for observation in pods.observations),
            starting=[*pods.starting, *young],
            missing_reasons=[*pods.missing_reasons, *self._unasked(pods)],
            counts=(with_value, expected),
        )

    def _unasked(self, pods: WorkloadView) -> list[str]:
        """Say that nobody knows whether it is at work, where not one engine is asked and no demand is known either.

        A pod that bears too much, or starts its engine anew, is not ready, and may be all there is.
        """
        knows_demand = self.demand is not None and self.demand.is_active is not None
        if pods.ready or knows_demand:
            return []
        return [
            f"{it.pod.ref.name}: {it.sentence}"
            for it in pods.observations
            if it.observation is ObservationState.NOT_READY and it.pod.node
        ]

    @property
    def _nothing_of(self) -> str:
        return "no fresh reading of" if self.trigger.engine else "no fresh sample for"

    def _asleep(self, pods: WorkloadView, steps: tuple[str, ...]) -> Evaluation:
        """Judge a workload of which nothing runs: only demand can wake it, and only demand that was seen."""
        report = self._report()
        reported = None if isinstance(report, Unavailable) else self._waking(report, pods)
        if reported and self._is_of_jobs:
            reported = for_jobs(reported, self.trigger.target)
        demand = self.demand
        why = demand.sentence if demand else "nothing runs"
        return self._evaluation(
            reported.value if reported else 0.0,
            steps=(*steps, *(reported.steps if reported else ("0: it has no replica",))),
            active=demand is not None and demand.is_active is True,
            why=why,
            kept_active_by_missing_data=demand is not None and demand.is_active is None,
            until=demand.expires_at_seconds if demand else math.inf,
        )

    def _waking(self, report: ReportType, pods: WorkloadView) -> ReportedValue | None:
        """Report as many replicas as the demand wants while no pod is ready; None where that is not asked for."""
        asked, demand = self.trigger.demand, self.demand
        if pods.ready or asked is None or demand is None or not (demand.is_active and demand.value):
            return None
        if asked.per_replica is not None:
            wanted = math.ceil(demand.value / asked.per_replica)
            said = f"demand {demand.value:.6g}, {asked.per_replica:g} for each replica (demandPerReplica)"
        elif self._is_of_jobs:  # KEDA starts as many as the value says, and not one because it is active
            wanted, said = 1, demand.sentence
        else:
            return None
        return report_wanted(report, wanted, said, size=pods.size, target=self.trigger.target, jobs=self._is_of_jobs)

    @property
    def _is_of_jobs(self) -> bool:
        return isinstance(self.workload, Workload) and self.workload.kind == "ScaledJob"

    # ---- devices, whoever holds them ----

    def of_devices(self) -> Evaluation:
        """Judge the devices of this node or of the whole fleet."""
        if problem := self._no_devices():
            return problem
        observations = observe_devices(self.trigger, self._nodes(), self.fleet, self.now)
        if self.scope is Scope.FLEET:
            observations += observe_missing_nodes(self.trigger, self.fleet, observations)
        if not observations:
            return self.without_value(NoValue.MISCONFIGURED, self._no_such_device())
        known = [observation.value for observation in observations if observation.value is not None]
        missing = [observation for observation in observations if observation.value is None]
        steps = self._device_steps(observations)
        if not known or len(known) / len(observations) < self.trigger.min_coverage:
            evaluation = self.without_value(
                NoValue.UNAVAILABLE,
                self._unknown_devices(missing, len(observations)),
                steps,
                with_value=len(known),
                expected=len(observations),
            )
        else:
            evaluation = self._of_sights(observations, steps, self._unknown_devices(missing, len(observations)))
        return replace(evaluation, observations=tuple(observations))

    def of_endpoint(self) -> Evaluation:
        """Judge what one URL tells, whoever answers there."""
        if isinstance(self.workload, Workload):
            pods = WorkloadView(self.trigger, self.workload, self.fleet, self.now)
            if pods.is_scaled_to_zero:  # then nobody is there to answer
                return self._asleep(pods, ())
        observation, requests = observe_endpoint(self.trigger, self.fleet, self.now)
        steps = (
            f"{self.trigger.metric.name} at {observation.node} ({describe_window(self.trigger)})",
            observation.sentence,
        )
        if observation.value is None:
            reason = f"no fresh reading of {observation.node}: {observation.sentence}"
            return replace(
                self.without_value(NoValue.UNAVAILABLE, reason, steps, expected=1), observations=(observation,)
            )
        return replace(self._of_sights([observation], steps, "", requests), observations=(observation,))

    def _of_sights(
        self, observations: Sequence[DeviceObservation], steps: tuple[str, ...], unknown: str, requests: float = 0.0
    ) -> Evaluation:
        """Make one number of what devices (or a URL) told, at least one of which did."""
        known = [observation.value for observation in observations if observation.value is not None]
        missing = [observation for observation in observations if observation.value is None]
        report = self._report()
        if isinstance(report, Unavailable):
            return self.lacking(report, steps)
        pods = None
        if isinstance(self.workload, Workload):
            pods = WorkloadView(self.trigger, self.workload, self.fleet, self.now)
        elif report is ReportType.TOTAL and missing:
            return self.without_value(
                NoValue.UNAVAILABLE, unknown, steps, with_value=len(known), expected=len(observations)
            )
        aggregation = self.trigger.aggregation
        reported = report_devices(
            report,
            aggregation,
            known,
            missing=len(missing),
            size=pods.size if pods else None,
            target=self.trigger.target,
        )
        return self._judged(
            reported,
            steps,
            observations,
            busiest=AGGREGATIONS[aggregation](known),
            requests=requests,
            starting=pods.starting if pods else (),
            missing_reasons=[]
            if pods and pods.is_scaled_to_zero
            else [observation.sentence for observation in missing],
            counts=(len(known), len(observations)),
        )

    def _nodes(self) -> list[tuple[str, History]]:
        if self.scope is Scope.FLEET:
            return self.fleet.nodes()
        own = self.fleet.history
        return [(own.newest.node, own)] if own is not None else []

    def _no_devices(self) -> Evaluation | None:
        own_alone = self.scope is Scope.NODE or not (self.fleet.peers or self.fleet.unavailable)
        if self.scope is Scope.FLEET and (unlisted := self.fleet.unavailable.get(PEERS_UNKNOWN)):
            return self.without_value(NoValue.UNAVAILABLE, f"nobody knows which nodes the fleet has: {unlisted}")
        if self.fleet.deviceless and own_alone:
            what = "" if self.scope is Scope.NODE else ", and it knows no peer that has"
            return self.without_value(
                NoValue.MISCONFIGURED,
                f"this instance has no device by design (--backend none){what}; ask one that runs on a GPU node"
                + ("" if self.scope is Scope.NODE else ", or tell it where they are with --peers"),
            )
        if own_alone and not self.fleet.is_fresh(self.now):
            return self.without_value(NoValue.UNAVAILABLE, self.fleet.own_missing_reason(self.now))
        return None

    def _no_such_device(self) -> str:
        nodes = self._nodes()
        if len(nodes) == 1 and self.trigger.gpu_index is not None and self.trigger.gpu_model is None:
            node, history = nodes[0]
            indices = sorted({sample.device.index for sample in history.newest.samples})
            if indices:
                listed = ", ".join(map(str, indices))
                return (
                    f"metadata.gpuIndex: node {node} has no device {self.trigger.gpu_index}: it has {listed}; "
                    "-1 means all"
                )
        if any(history.newest.samples for _, history in nodes):
            models = sorted({sample.device.model for _, history in nodes for sample in history.newest.samples})
            return "no device fits nodeSelector, gpuModel and gpuIndex together; the models there are: " + ", ".join(
                models[:_NAMED]
            )
        if len(nodes) == 1:
            return f"node {nodes[0][0]} has no device; run the scaler on GPU nodes only"
        return "no node of the fleet has a device; run the scaler on GPU nodes"

    def _unknown_devices(self, missing: Sequence[DeviceObservation], in_scope: int) -> str:
        return (
            f"{self.trigger.metric.name} is unknown for {len(missing)} of {in_scope} devices: {_listed(missing)}; "
            "nothing moves until they answer. Repair them, ask for another metricType, or narrow the trigger"
        )

    def _device_steps(self, observations: Sequence[DeviceObservation]) -> tuple[str, ...]:
        nodes = sorted({observation.node for observation in observations})
        where = f"node {nodes[0]}" if len(nodes) == 1 else f"{len(nodes)} nodes"
        sources = sorted({history.newest.source for node, history in self._nodes() if node in nodes})
        return (
            f"scope {self.scope}: {self.trigger.metric.name} of {len(observations)} device(s) of {where} "
            f"({describe_window(self.trigger)}; {', '.join(sources)})",
            *dict.fromkeys(observation.sentence for observation in observations),
        )

    # ---- what both come to ----

    def _report(self) -> ReportType | Unavailable:
        """Find out which number the trigger's type needs, or say why that cannot be told."""
        if self.trigger.report != "auto":
            report = ReportType(self.trigger.report)
            if isinstance(self.workload, Workload):
                declared = certain_type(self.workload, self.metadata)
                if declared in REPORT_OF_TYPE and REPORT_OF_TYPE[declared] is not report:
                    right, kind = REPORT_OF_TYPE[declared], _TYPE_OF_REPORT[report]
                    return Unavailable(
                        f'metadata.report: Invalid value: "{report}": of this trigger\'s metricType {declared} the HPA '
                        f"expects the {right}: leave report out, or set metricType: {kind} on the trigger",
                        is_permanent=True,
                    )
        elif isinstance(self.workload, Workload):
            declared = declared_type(self.workload, self.metadata)
            if declared not in REPORT_OF_TYPE:
                return Unavailable(
                    "metadata.report: the ScaledObject's triggers have different metricTypes and none has just this "
                    "metadata; set report: total (for AverageValue) or average (for Value)",
                    is_permanent=True,
                )
            report = REPORT_OF_TYPE[declared]
        else:
            report = ReportType.TOTAL  # KEDA's default type
        if report is ReportType.TOTAL and not isinstance(self.workload, Workload) and self.trigger.aggregation != "sum":
            return self.workload or Unavailable(
                f"metadata.report: under metricType AverageValue the total over the replicas is needed, and their "
                f"number is not known: {_NO_ACCESS}, or set report: average here and metricType: Value on the trigger",
                is_permanent=True,
            )
        return report

    def _judged(
        self,
        reported: ReportedValue,
        steps: tuple[str, ...],
        observations: Sequence[PodObservation | DeviceObservation],
        *,
        busiest: float,
        requests: float = 0.0,
        starting: Sequence[Pod],
        missing_reasons: Sequence[str],
        counts: tuple[int, int],
    ) -> Evaluation:
        if self._is_of_jobs:
            reported = for_jobs(reported, self.trigger.target)
        threshold = f"activationThreshold {self.trigger.activation:g}"
        demand = self.demand
        reasons = [
            (busiest > self.trigger.activation, f"{busiest:.6g} is above {threshold}"),
            (requests > 0, f"{requests:.6g} requests run, wait or just ended"),
            (demand is not None and demand.is_active is True, demand.sentence if demand else ""),
            (bool(starting), f"{self._starting(starting)}"),
        ]
        known = next((why for holds, why in reasons if holds), None)
        missing_reasons = [
            *missing_reasons,
            *([demand.sentence] if demand is not None and demand.is_active is None else ()),
        ]
        if known is not None:
            why = known
        elif missing_reasons:
            why = f"nobody can tell that it is idle: {missing_reasons[0]}"
        else:
            why = f"{busiest:.6g} is not above {threshold}" + (f", and {demand.sentence}" if demand else "")
        grace = self.trigger.startup_grace_seconds
        until = [observation.expires_at_seconds for observation in observations if observation.value is not None]
        until += [demand.expires_at_seconds] if demand else []
        return self._evaluation(
            reported.value,
            steps=(*steps, *reported.steps),
            active=known is not None or bool(missing_reasons),
            why=why,
            counts=counts,
            kept_active_by_missing_data=known is None and bool(missing_reasons),
            # Without its pods nobody knows whether it sleeps, so that even keeping it as it is would be a guess.
            is_activity_unknown=known is None and bool(missing_reasons) and self._is_activity_unknown,
            until=min([*until, *(pod.created_at_seconds + grace for pod in starting)], default=-math.inf),
        )

    @property
    def _is_activity_unknown(self) -> bool:
        """Whether demand is to decide, wakes nothing, and it is not known whether the workload sleeps."""
        return self.demand is not None and not self.demand.is_active and not isinstance(self.workload, Workload)

    def _starting(self, pods: Sequence[Pod]) -> str:
        if not pods:
            return ""
        return f"{pods[0].ref.name} is starting, {self.now - pods[0].created_at_seconds:.0f} s old"

    def _evaluation(
        self,
        value: float,
        *,
        steps: tuple[str, ...],
        active: bool,
        why: str,
        counts: tuple[int, int] = (0, 0),
        kept_active_by_missing_data: bool = False,
        is_activity_unknown: bool = False,
        until: float = math.inf,
    ) -> Evaluation:
        return Evaluation(
            scope=self.scope,
            value=value,
            active=active,
            steps=(*steps, f"{'active' if active else 'inactive'}: {why}"),
            with_value=counts[0],
            expected=counts[1],
            kept_active_by_missing_data=kept_active_by_missing_data,
            is_activity_unknown=is_activity_unknown,
            demand=self.demand,
            expires_at_seconds=until,
        )

    def lacking(self, no_value_reason: Unavailable, steps: tuple[str, ...] = ()) -> Evaluation:
        """Answer that something is not known of the cluster."""
        return self.without_value(
            NoValue.MISCONFIGURED if no_value_reason.is_permanent else NoValue.UNAVAILABLE,
            no_value_reason.reason,
            steps,
        )

    def without_value(
        self,
        no_value_reason: NoValue,
        reason: str,
        steps: tuple[str, ...] = (),
        *,
        with_value: int = 0,
        expected: int = 0,
    ) -> Evaluation:
        """Answer that there is no value, and why."""
        is_active = self.demand is not None and self.demand.is_active is True
        because = self.demand.sentence if self.demand is not None and is_active else "nobody can tell that it is idle"
        return Evaluation(
            scope=self.scope,
            value=None,
            active=True,
            steps=(*steps, reason, f"active: {because}"),
            no_value_reason=no_value_reason,
            reason=reason,
            with_value=with_value,
            expected=expected,
            kept_active_by_missing_data=not is_active,
            is_activity_unknown=self._is_activity_unknown,
            demand=self.demand,
        )


_NO_ACCESS = "give this instance access to the API server (chart: rbac.create)"


def _listed(observations: Iterable[PodObservation | DeviceObservation]) -> str:
    """Name a few, each reason once, and count the rest."""
    sentences = list(dict.fromkeys(observation.sentence for observation in observations))
    more = f" and {len(sentences) - _NAMED} more" if len(sentences) > _NAMED else ""
    return "; ".join(sentences[:_NAMED]) + more
