# SPDX-License-Identifier: Apache-2.0
"""Observes the pods, devices and endpoints that a trigger selects.

Law: everything that the trigger selects and that has no value is counted as missing, with the reason. Nothing is left
out without a reason, and no value is guessed.
"""

import enum
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from keda_gpu_scaler.core.aggregation import AGGREGATIONS
from keda_gpu_scaler.core.evaluate.attribution import DeviceShare, PodDevices
from keda_gpu_scaler.core.evaluate.device_load import DeviceLoad, device_loads, device_loads_by_holder, devices_by_pod
from keda_gpu_scaler.core.evaluate.measured_shares import MeasuredShares
from keda_gpu_scaler.core.selectors import matches_glob
from keda_gpu_scaler.core.state.data_run import DataRun
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.state.scrape import NO_ATTEMPTS, ScrapeAttempts
from keda_gpu_scaler.core.trigger.metrics import EngineMetric, Metric
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Device, Pod, Unavailable


class ObservationState(enum.Enum):
    """Whether a pod has a value, or why it has none."""

    OBSERVED = "observed"
    """It has a value."""
    MISSING = "missing"
    """The trigger selects it, and it has no value at the moment."""
    OUT_OF_SCOPE = "out_of_scope"
    """The trigger does not select it: it is on another node, or holds a device of another model or index."""
    NO_DEVICE = "no_device"
    """Its node is observed, and the pod holds no device there."""
    NOT_READY = "not_ready"
    """It is not ready. It gets no requests, so its engine is not scraped."""
    WORKER = "worker"
    """The leader of its replica answers for it, so its engine is not scraped."""


@dataclass(frozen=True, slots=True)
class DeviceValue:
    """The value of one device of a pod, in the metric's unit, and the number of pods that share the device."""

    device: Device
    value: float
    sharers: int


@dataclass(frozen=True, slots=True)
class PodObservation:
    """The observation of one pod: its ``value`` in the metric's unit if it is observed, else None.

    ``sentence`` describes its devices or its engine, or says why there is no value. ``expires_at_seconds`` is when the
    readings behind the value become stale, if no newer ones come. ``requests`` is the number of requests that the
    engine has, 0 where not known; ``are_requests_known`` says whether it is. ``is_no_engine`` says that the pod exports
    no page of a known engine. ``device_values`` are the devices behind the value. ``run`` is the time in which the data
    behind the value came without a long gap, None where that is not known. Without a value, ``known_until_seconds`` is
    when the pod's node or engine last sent data, None where it never did, or still does. ``attempts`` say which
    URLs of the pod were asked for an engine, and what they answered. ``unknown_requests`` is as in ``EngineLoad``.
    """

    pod: Pod
    state: ObservationState
    value: float | None
    sentence: str
    expires_at_seconds: float = math.inf
    requests: float = 0.0
    is_no_engine: bool = False
    device_values: tuple[DeviceValue, ...] = ()
    are_requests_known: bool = False
    run: DataRun | None = None
    known_until_seconds: float | None = None
    attempts: ScrapeAttempts = NO_ATTEMPTS
    unknown_requests: str = ""


@dataclass(frozen=True, slots=True)
class DeviceObservation:
    """The observation of one device.

    ``device`` is None for a node whose devices are not known, and for the URL of an endpoint, which is then in
    ``node``. ``run`` is the time in which the data behind the value came without a long gap, None where that is not
    known. ``attempts`` are the scrapes of this URL.
    """

    node: str
    device: Device | None
    value: float | None
    sentence: str
    expires_at_seconds: float = math.inf
    run: DataRun | None = None
    attempts: ScrapeAttempts = NO_ATTEMPTS


def node_labels_unavailable(trigger: Trigger, fleet: Fleet) -> Unavailable | None:
    """Return why the trigger's nodeSelector cannot be applied now; None where it can, or where there is none."""
    if trigger.node_selector is None or isinstance(fleet.node_labels, Mapping):
        return None
    return fleet.node_labels or Unavailable(
        "metadata.nodeSelector: node labels cannot be read without access to the API server", is_permanent=True
    )


def is_ready(pod: Pod) -> bool:
    """Whether a pod gets requests: it is scheduled, it runs, and it is ready."""
    return pod.is_serving


@dataclass(frozen=True, slots=True)
class ObservedPods:
    """The observation of each pod, and sentences about what they have in common."""

    observations: Sequence[PodObservation]
    sentences: tuple[str, ...] = ()


def observe_pods(trigger: Trigger, pods: Sequence[Pod], fleet: Fleet, now: float) -> ObservedPods:
    """Observe every pod by its devices. Where the trigger has a nodeSelector, the node labels must be known."""
    if isinstance(trigger.metric, EngineMetric):
        raise TypeError(f"{trigger.metric.name} is no metric of a device")
    observer = _PodObserver(trigger, trigger.metric, pods, fleet, now)
    return ObservedPods([observer.observe(pod) for pod in pods])


def observe_pods_unnarrowed(
    trigger: Trigger, observations: Sequence[PodObservation], fleet: Fleet, now: float
) -> Sequence[PodObservation]:
    """Observe the same pods as if the trigger had no gpuModel, gpuIndex and nodeSelector.

    A pod is observed again only where that makes a difference. Without these parameters the result is ``observations``.
    """
    if not trigger.is_narrowed or isinstance(trigger.metric, EngineMetric):
        return observations
    wide = replace(trigger, gpu_model=None, gpu_index=None, node_selector=None)
    observer = _PodObserver(wide, trigger.metric, [one.pod for one in observations], fleet, now)
    return [
        one if one.device_values and observer.holds_only(one) else observer.observe(one.pod) for one in observations
    ]


def observe_devices(
    trigger: Trigger, nodes: Iterable[tuple[str, History]], fleet: Fleet, now: float
) -> list[DeviceObservation]:
    """Observe every device of these nodes. Where the trigger has a nodeSelector, the node labels must be known."""
    if isinstance(trigger.metric, EngineMetric):
        raise TypeError(f"{trigger.metric.name} is no metric of a device")
    scope = _NodeScope(trigger, fleet)
    return [
        observation
        for node, history in nodes
        if scope.includes(node)
        for observation in _observe_node(trigger, trigger.metric, node, history, fleet, now)
    ]


def observe_missing_nodes(
    trigger: Trigger, fleet: Fleet, observed: Sequence[DeviceObservation]
) -> list[DeviceObservation]:
    """Return a missing observation for the devices of every node without a snapshot.

    The number of its devices is not known: it counts as many as the other nodes have on average. A node without known
    labels may be in the scope, and counts.
    """
    scope = _NodeScope(trigger, fleet)
    nodes = {observation.node for observation in observed}
    devices = math.ceil(len(observed) / len(nodes)) if nodes else 1
    return [
        DeviceObservation(name, None, None, f"{'' if name.startswith('(') else 'node '}{name}: {reason}")
        for name, reason in fleet.nodes_without_snapshot().items()
        if scope.may_include(name)
        for _ in range(devices)
    ]


def describe_window(trigger: Trigger) -> str:
    """Describe the window over which a trigger's readings are averaged."""
    return f"mean of the last {trigger.window_seconds:g} s" if trigger.window_seconds else "newest sample"


class _NodeScope:
    """The nodes that a trigger's nodeSelector selects."""

    def __init__(self, trigger: Trigger, fleet: Fleet) -> None:
        self._selector = trigger.node_selector
        self._labels = fleet.node_labels if isinstance(fleet.node_labels, Mapping) else {}

    def includes(self, node: str) -> bool:
        return self._selector is None or self._selector.matches(self._labels.get(node, {}))

    def may_include(self, node: str) -> bool:
        return node not in self._labels or self.includes(node)


class _PodObserver:
    """Observes pods by the devices that they hold."""

    def __init__(self, trigger: Trigger, metric: Metric, pods: Sequence[Pod], fleet: Fleet, now: float) -> None:
        self._trigger = trigger
        self._metric = metric
        self._shares = MeasuredShares(metric, trigger.window_seconds, fleet.assignments, pods)
        self._fleet = fleet
        self._now = now
        self._scope = _NodeScope(trigger, fleet)
        self._aggregate = AGGREGATIONS[trigger.aggregation]

    def observe(self, pod: Pod) -> PodObservation:
        node = pod.node
        if node is None:
            return _without_value(pod, ObservationState.MISSING, "not scheduled yet")
        if not self._scope.includes(node):
            return _without_value(pod, ObservationState.OUT_OF_SCOPE, f"node {node} is not selected by nodeSelector")
        history = self._fleet.node(node)
        if history is None or not self._fleet.is_history_fresh(history, self._now):
            known_until = history.received_at_seconds if history is not None else None
            sentence = self._fleet.missing_reason(node, self._now)
            return _without_value(pod, ObservationState.MISSING, sentence, known_until)
        by_pod = devices_by_pod(history, self._fleet.assignments)
        if by_pod is None:
            return _without_value(
                pod,
                ObservationState.MISSING,
                f"node {node} does not know which pods hold its devices; the log of its instance says why",
                history.allocated_at_seconds,
            )
        devices = by_pod.get(pod.ref)
        if devices is None:
            return _without_value(pod, ObservationState.NO_DEVICE, f"holds no device of node {node}")
        if sentence := _not_found(devices, node):
            return _without_value(pod, ObservationState.MISSING, sentence)
        selected = [share for share in devices.shares if _selects(self._trigger, share.device)]
        if not selected:
            return _without_value(
                pod, ObservationState.OUT_OF_SCOPE, f"holds no device on node {node} that gpuModel and gpuIndex select"
            )
        return self._observe_shares(pod, node, self._shares.of(pod, selected, history), history)

    def holds_only(self, observation: PodObservation) -> bool:
        """Whether the observed devices are all devices of the pod."""
        history = self._fleet.node(observation.pod.node or "")
        by_pod = devices_by_pod(history, self._fleet.assignments) if history is not None else None
        devices = by_pod.get(observation.pod.ref) if by_pod is not None else None
        return devices is not None and len(devices.shares) == len(observation.device_values)

    def _observe_shares(self, pod: Pod, node: str, shares: Sequence[DeviceShare], history: History) -> PodObservation:
        uncertain = next((share for share in shares if share.unknown), None)
        if uncertain is not None and self._metric.is_divided:
            return _without_value(
                pod,
                ObservationState.MISSING,
                f"its share of GPU {uncertain.device.index} of node {node} is not known: {uncertain.unknown}",
            )
        window = self._trigger.window_seconds
        by_uuid = device_loads_by_holder(history, self._metric, window, self._fleet.assignments)
        loads = [by_uuid[share.device.uuid] for share in shares]
        max_lag = self._fleet.stale_after_seconds - history.age_seconds(self._now)
        for load in loads:
            if not load.is_within(max_lag):
                sentence = _no_reading(load, node, self._metric, history, max_lag)
                return _without_value(pod, ObservationState.MISSING, sentence, _read_until(load, history))
        values = [load.value or 0.0 for load in loads]
        pairs = list(zip(shares, values, strict=True))
        divided = [share.of(value) if self._metric.is_divided else value for share, value in pairs]
        value = self._aggregate(divided)
        described = ", ".join([_describe_share(self._metric, share, value) for share, value in pairs])
        return PodObservation(
            pod,
            ObservationState.OBSERVED,
            value,
            f"{value:.6g} {self._metric.unit} on node {node}: {described}",
            self._fleet.expires_at_seconds(history) - max(load.lag_seconds for load in loads),
            device_values=tuple([DeviceValue(share.device, value, share.sharers) for share, value in pairs]),
            run=history.run,
        )


def _without_value(
    pod: Pod, state: ObservationState, sentence: str, known_until_seconds: float | None = None
) -> PodObservation:
    return PodObservation(pod, state, None, sentence, known_until_seconds=known_until_seconds)


def _read_until(load: DeviceLoad, history: History) -> float | None:
    """Return when a device without a recent reading was last read, None where that is not known."""
    if load.value is not None:
        return history.received_at_seconds - load.lag_seconds
    if load.failure is None or load.failure.since_seconds is None:
        return None
    return history.received_at_seconds - max(0.0, history.newest.at_seconds - load.failure.since_seconds)


def _describe_share(metric: Metric, share: DeviceShare, value: float) -> str:
    device = f"GPU {share.device.index} {share.device.model} {value:.6g} {metric.unit}"
    if share.sharers == 1:
        return device
    rule = "in equal shares" if metric.is_divided else "each counts the whole value"
    if share.part is not None and metric.is_divided:
        percent = 100 * float(share.part)
        rule = f"this one has {percent:.3g} % of it, by {share.weighs}"
        if share.is_measured:
            rule = f"this one has {percent:.3g} % of it, measured by process"
    if share.not_measured and metric.is_divided:
        rule = f"{rule}; not measured: {share.not_measured}"
    return f"{device} shared by {share.sharers} pods ({rule})"


def _not_found(devices: PodDevices, node: str) -> str:
    """Return which of a pod's devices is not among those of its node, empty where all are."""
    if devices.unresolved:
        return f"holds {devices.unresolved[0]}, a device that node {node} does not list"
    if devices.undetermined:
        device_id, why = devices.undetermined[0]
        return f"holds {device_id}, and which device of node {node} that is is not known: {why}"
    return ""


def _selects(trigger: Trigger, device: Device) -> bool:
    if trigger.gpu_index is not None and device.index != trigger.gpu_index:
        return False
    return trigger.gpu_model is None or matches_glob(trigger.gpu_model, device.model)


def _observe_node(
    trigger: Trigger, metric: Metric, node: str, history: History, fleet: Fleet, now: float
) -> Iterator[DeviceObservation]:
    if not fleet.is_history_fresh(history, now):
        why = fleet.missing_reason(node, now)
        for sample in history.newest.samples:
            if _selects(trigger, sample.device):
                yield DeviceObservation(node, sample.device, None, why)
        return
    max_lag = fleet.stale_after_seconds - history.age_seconds(now)
    expires = fleet.expires_at_seconds(history)
    for load in device_loads(history, metric, trigger.window_seconds):
        if not _selects(trigger, load.device):
            continue
        if load.is_within(max_lag):
            described = _describe_load(metric, load)
            yield DeviceObservation(node, load.device, load.value, described, expires - load.lag_seconds, history.run)
        else:
            yield DeviceObservation(node, load.device, None, _no_reading(load, node, metric, history, max_lag))


def _describe_load(metric: Metric, load: DeviceLoad) -> str:
    lag = f" ({load.lag_seconds:.0f} s before the newest snapshot)" if load.lag_seconds >= 1 else ""
    device = load.device
    return f"GPU {device.index} {device.model} ({device.uuid}): {load.value:.6g} {metric.unit}{lag}"


def _no_reading(load: DeviceLoad, node: str, metric: Metric, history: History, max_lag: float) -> str:
    device = f"GPU {load.device.index} ({load.device.uuid}) of node {node}"
    # Ages end at the newest snapshot: the sentence changes with the data, and not with the time of the call.
    reason = ""
    if load.failure is not None:
        reason = f": {load.failure.reason}"
        if load.failure.since_seconds is not None:
            reason += f", for {max(0.0, history.newest.at_seconds - load.failure.since_seconds):.0f} s"
    elif metric.is_performance:
        reason = ": a device that has it is read while a trigger needs it, and its first value takes some seconds"
    if load.value is None:
        return f"{device} has no reading of {metric.name}{reason}"
    return (
        f"{device} has no recent reading of {metric.name}: the last one is {load.lag_seconds:.0f} s older than the "
        f"newest snapshot (limit {max(0.0, max_lag):.0f} s){reason}"
    )
