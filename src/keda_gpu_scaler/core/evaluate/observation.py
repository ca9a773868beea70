# SPDX-License-Identifier: Apache-2.0
"""What can be seen of what a trigger asks about? Its pods' values, or its devices'.

The law of this module: whatever is meant and cannot be seen is counted as unseen, with the reason. Nothing is
dropped in silence, and nothing is guessed.
"""

import enum
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.aggregation import AGGREGATIONS
from keda_gpu_scaler.core.evaluate.attribution import DeviceShare
from keda_gpu_scaler.core.evaluate.device_load import DeviceLoad, device_loads, device_loads_by_holder, devices_by_pod
from keda_gpu_scaler.core.evaluate.engine_load import EngineLoad, engine_load, pod_endpoint
from keda_gpu_scaler.core.selectors import matches_glob
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.state.scrape import Endpoint
from keda_gpu_scaler.core.trigger.metrics import EngineMetric, Metric
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Device, Pod, Unavailable


class ObservationState(enum.Enum):
    """How far a pod, or a device, can be seen."""

    OBSERVED = "observed"
    MISSING = "missing"
    """It is meant, but it has no value at the moment."""
    OUT_OF_SCOPE = "out_of_scope"
    """The trigger does not mean it: another model, another node."""
    NO_DEVICE = "no_device"
    """Its node is seen, and the pod holds no device there."""
    NOT_READY = "not_ready"
    """It is not ready, so nobody sends its engine requests, and nobody asks it how many it has."""


@dataclass(frozen=True, slots=True)
class DeviceValue:
    """What one device of a pod's reads, in the metric's unit, and how many pods share it."""

    device: Device
    value: float
    sharers: int


@dataclass(frozen=True, slots=True)
class PodObservation:
    """What is seen of one pod: its ``value`` in the metric's unit if it is SEEN, else None.

    ``sentence`` describes its devices, or says why there is nothing to see. ``expires_at_seconds`` is when the readings
    behind it grow stale, if nothing newer comes. ``requests`` are those that its engine has, as far as is known;
    ``is_no_engine`` says that nothing in it is an engine that we know. ``device_values`` are the devices behind the value.
    """

    pod: Pod
    observation: ObservationState
    value: float | None
    sentence: str
    expires_at_seconds: float = math.inf
    requests: float = 0.0
    is_no_engine: bool = False
    device_values: tuple[DeviceValue, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceObservation:
    """What is seen of one device, or of a node (``device`` is None) of which not even the devices are known."""

    node: str
    device: Device | None
    value: float | None
    sentence: str
    expires_at_seconds: float = math.inf


def node_labels_unavailable(trigger: Trigger, fleet: Fleet) -> Unavailable | None:
    """Say why a trigger's nodeSelector cannot be followed now; None where it can, or there is none."""
    if trigger.node_selector is None or isinstance(fleet.node_labels, Mapping):
        return None
    return fleet.node_labels or Unavailable(
        "metadata.nodeSelector: node labels cannot be read without access to the API server", is_permanent=True
    )


def observe_pods(trigger: Trigger, pods: Iterable[Pod], fleet: Fleet, now: float) -> list[PodObservation]:
    """Look at every pod; where the trigger has a nodeSelector, the nodes' labels are known."""
    if isinstance(trigger.metric, EngineMetric):
        return [_ask(trigger, pod, fleet, now) for pod in pods]
    nodes = _Nodes(trigger, fleet)
    return [_look(trigger, pod, fleet, nodes, now) for pod in pods]


def observe_endpoint(trigger: Trigger, fleet: Fleet, now: float) -> tuple[DeviceObservation, float]:
    """Look at what a URL tells; return that, and how many requests there are, as far as is known."""
    query = trigger.engine
    assert query is not None  # noqa: S101 - whoever asks has seen that it is there
    load = _load(trigger, Endpoint(engine=query.engine, url=query.url), fleet, now)
    return DeviceObservation(query.url, None, load.value, load.sentence, load.expires_at_seconds), load.requests


def is_ready(pod: Pod) -> bool:
    """Whether a pod gets work."""
    return pod.is_ready and pod.phase == "Running" and pod.node is not None


def observe_devices(
    trigger: Trigger, nodes: Iterable[tuple[str, History]], fleet: Fleet, now: float
) -> list[DeviceObservation]:
    """Look at every device of these nodes; where the trigger has a nodeSelector, the nodes' labels are known."""
    meant = _Nodes(trigger, fleet)
    return [
        observation
        for node, history in nodes
        if meant.include(node)
        for observation in _devices(trigger, node, history, fleet, now)
    ]


def observe_missing_nodes(trigger: Trigger, fleet: Fleet, seen: Sequence[DeviceObservation]) -> list[DeviceObservation]:
    """Say of every node that has never told anything that it is unseen.

    Nobody knows how many devices it has: it counts as many as one of the others, on average. One of which not even the
    labels are known may be meant.
    """
    meant = _Nodes(trigger, fleet)
    nodes = {observation.node for observation in seen}
    devices = math.ceil(len(seen) / len(nodes)) if nodes else 1
    return [
        DeviceObservation(name, None, None, f"{'' if name.startswith('(') else 'node '}{name}: {reason}")
        for name, reason in fleet.nodes_without_snapshot().items()
        if meant.may_include(name)
        for _ in range(devices)
    ]


class _Nodes:
    """Which nodes a trigger means, by its nodeSelector."""

    def __init__(self, trigger: Trigger, fleet: Fleet) -> None:
        self._selector = trigger.node_selector
        self._labels = fleet.node_labels if isinstance(fleet.node_labels, Mapping) else {}

    def include(self, node: str) -> bool:
        return self._selector is None or self._selector.matches(self._labels.get(node, {}))

    def may_include(self, node: str) -> bool:
        return node not in self._labels or self.include(node)


def _ask(trigger: Trigger, pod: Pod, fleet: Fleet, now: float) -> PodObservation:
    """Look at what a pod's engine tells."""
    query = trigger.engine
    assert query is not None  # noqa: S101 - the trigger's parser sees to it
    if not is_ready(pod):
        return PodObservation(pod, ObservationState.NOT_READY, None, "not asked while it is not ready")
    if not pod.address:
        return PodObservation(pod, ObservationState.MISSING, None, "has no address yet")
    load = _load(trigger, pod_endpoint(query, pod), fleet, now)
    observation = ObservationState.MISSING if load.value is None else ObservationState.OBSERVED
    until = load.expires_at_seconds
    return PodObservation(pod, observation, load.value, load.sentence, until, load.requests, load.is_no_engine)


def _load(trigger: Trigger, endpoint: Endpoint, fleet: Fleet, now: float) -> EngineLoad:
    assert isinstance(trigger.metric, EngineMetric)  # noqa: S101 - the only ones that engines tell
    assert trigger.engine is not None  # noqa: S101 - the trigger's parser sees to it
    return engine_load(
        trigger.engine,
        trigger.metric,
        fleet.scrape_results.get(endpoint),
        window_seconds=trigger.window_seconds,
        stale_after_seconds=fleet.stale_after_seconds,
        now=now,
    )


def _look(trigger: Trigger, pod: Pod, fleet: Fleet, nodes: _Nodes, now: float) -> PodObservation:
    def blind(observation: ObservationState, why: str) -> PodObservation:
        return PodObservation(pod, observation, None, why)

    if pod.node is None:
        return blind(ObservationState.MISSING, "not scheduled yet")
    if not nodes.include(pod.node):
        return blind(ObservationState.OUT_OF_SCOPE, f"node {pod.node} is outside nodeSelector")
    history = fleet.node(pod.node)
    if history is None or not fleet.is_history_fresh(history, now):
        return blind(ObservationState.MISSING, fleet.missing_reason(pod.node, now))
    held = devices_by_pod(history)
    if held is None:
        return blind(
            ObservationState.MISSING, f"node {pod.node} cannot tell who holds its devices; its own log says why"
        )
    holding = held.get(pod.ref)
    if holding is None:
        return blind(ObservationState.NO_DEVICE, f"holds no device of node {pod.node}")
    meant = [share for share in holding.shares if _is_meant(trigger, share.device)]
    if holding.unresolved:
        return blind(
            ObservationState.MISSING, f"holds {holding.unresolved[0]}, a device that node {pod.node} does not list"
        )
    if not meant:
        return blind(
            ObservationState.OUT_OF_SCOPE, f"holds no device that gpuModel or gpuIndex mean on node {pod.node}"
        )
    return _valued(trigger, pod, meant, history, fleet, now)


def _valued(
    trigger: Trigger, pod: Pod, shares: list[DeviceShare], history: History, fleet: Fleet, now: float
) -> PodObservation:
    readings = device_loads_by_holder(history, _metric(trigger), trigger.window_seconds)
    known = [readings[share.device.uuid] for share in shares]
    believed = fleet.stale_after_seconds - history.age_seconds(now)
    unknown = [reading for reading in known if not reading.is_within(believed)]
    if unknown:
        return PodObservation(
            pod, ObservationState.MISSING, None, f"{_named(unknown[0], pod.node)} gives no {trigger.metric.name}"
        )
    values = [_part(trigger, share, reading.value or 0.0) for share, reading in zip(shares, known, strict=True)]
    value = AGGREGATIONS[trigger.aggregation](values)
    described = ", ".join(_described(trigger, share, reading) for share, reading in zip(shares, known, strict=True))
    until = fleet.expires_at_seconds(history) - max(reading.lag_seconds for reading in known)
    sentence = f"{value:.6g} {trigger.metric.unit} on node {pod.node}: {described}"
    device_values = tuple(
        DeviceValue(share.device, reading.value or 0.0, share.sharers)
        for share, reading in zip(shares, known, strict=True)
    )
    return PodObservation(pod, ObservationState.OBSERVED, value, sentence, until, device_values=device_values)


def _metric(trigger: Trigger) -> Metric:
    assert isinstance(trigger.metric, Metric)  # noqa: S101 - engines' metrics never come so far
    return trigger.metric


def _part(trigger: Trigger, share: DeviceShare, value: float) -> float:
    return value / share.sharers if _metric(trigger).is_divided else value


def _described(trigger: Trigger, share: DeviceShare, reading: DeviceLoad) -> str:
    device = f"GPU {share.device.index} {share.device.model} {reading.value:.6g} {trigger.metric.unit}"
    if share.sharers == 1:
        return device
    rule = "in equal parts" if _metric(trigger).is_divided else "each counts it whole"
    return f"{device} shared by {share.sharers} pods ({rule})"


def _is_meant(trigger: Trigger, device: Device) -> bool:
    if trigger.gpu_index is not None and device.index != trigger.gpu_index:
        return False
    return trigger.gpu_model is None or matches_glob(trigger.gpu_model, device.model)


def _devices(trigger: Trigger, node: str, history: History, fleet: Fleet, now: float) -> Iterator[DeviceObservation]:
    if not fleet.is_history_fresh(history, now):
        why = fleet.missing_reason(node, now)
        for sample in history.newest.samples:
            if _is_meant(trigger, sample.device):
                yield DeviceObservation(node, sample.device, None, why)
        return
    believed = fleet.stale_after_seconds - history.age_seconds(now)
    expires = fleet.expires_at_seconds(history)
    for reading in device_loads(history, _metric(trigger), trigger.window_seconds):
        if not _is_meant(trigger, reading.device):
            continue
        if not reading.is_within(believed):
            why = f"{_named(reading, node)} gives no {trigger.metric.name}"
            yield DeviceObservation(node, reading.device, None, why)
        else:
            until = expires - reading.lag_seconds
            yield DeviceObservation(node, reading.device, reading.value, _told(trigger, reading), until)


def _told(trigger: Trigger, reading: DeviceLoad) -> str:
    lag = f" ({reading.lag_seconds:.0f} s before the newest snapshot)" if reading.lag_seconds >= 1 else ""
    device = reading.device
    return f"GPU {device.index} {device.model} ({device.uuid}): {reading.value:.6g} {trigger.metric.unit}{lag}"


def _named(reading: DeviceLoad, node: str | None) -> str:
    return f"GPU {reading.device.index} ({reading.device.uuid}) of node {node}"


def describe_window(trigger: Trigger) -> str:
    """Say over which time a trigger's readings are averaged."""
    return f"mean of the last {trigger.window_seconds:g} s" if trigger.window_seconds else "newest sample"
