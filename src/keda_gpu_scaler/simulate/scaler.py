# SPDX-License-Identifier: Apache-2.0
"""The external scaler in a simulation: the product's own evaluation, on simulated samples.

Law: nothing is decided here. ``retained`` keeps the samples, ``scrape_requests`` says what is scraped, and ``evaluate``
answers, as in ``serve``.

It differs from ``serve`` in two points: the port of an engine is not searched for, because a simulated pod has one
page, and an evaluation is not cached.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.evaluate.workload_view import ScrapeRequest, ready_pods, scrape_requests
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory, retained
from keda_gpu_scaler.core.trigger.parser import Trigger, parse_trigger
from keda_gpu_scaler.core.types import EngineSample, Pod, PodRef, Series, Workload
from keda_gpu_scaler.simulate.device_snapshots import DeviceSnapshots, check_device_trigger
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.engine_samples import sample_maker, simulated_engine
from keda_gpu_scaler.simulate.gateway import Dispatcher
from keda_gpu_scaler.simulate.pods import NAMESPACE, SimulatedPod
from keda_gpu_scaler.simulate.sample_history import SampleHistory
from keda_gpu_scaler.simulate.scenario import Circumstances, TriggerSpec

_ANY_POD = Pod(PodRef(NAMESPACE, "any"), "node", "Running", True, False, 0.0, address="10.0.0.1")
_COUNTERS_OF_REQUESTS = ("vllm:num_incoming_requests", "istio_", "nginx_", "traefik_")
_IN_FLIGHT = ("http_add_on_", "kn_", "activator_", "litellm_", "dynamo_frontend_inflight")


@dataclass(frozen=True, slots=True)
class GatewayCounts:
    """What is counted before the replicas: requests that did not end, and requests that arrived.

    ``waiting`` are those that a source of demand counts as waiting, ``not_taken`` those that no replica has.
    """

    waiting: int
    in_flight: int
    arrived: int
    not_taken: int


def counts_of(dispatcher: Dispatcher, circumstances: Circumstances) -> GatewayCounts:
    """Return what a source of demand counts."""
    in_flight, queue = dispatcher.in_flight, circumstances.queue
    waiting = in_flight if queue is not None and queue.counts_unfinished else len(dispatcher.gate)
    return GatewayCounts(waiting, in_flight, dispatcher.arrived, len(dispatcher.gate))


class SimulatedScaler:
    """One trigger of this scaler in one simulation.

    Args:
        spec: the trigger.
        stale_after_seconds: an older sample is not used.
        is_service: whether the replicas compute whole requests.

    Raises:
        TriggerError: the metadata cannot be used.
        SimulationError: the trigger needs data that a simulation does not have.
    """

    def __init__(self, spec: TriggerSpec, stale_after_seconds: float, *, is_service: bool = False) -> None:
        self.spec = spec
        self.trigger = parse_trigger(spec.metadata)
        _check(self.trigger)
        query = self.trigger.engine
        self.engine = "" if query is None else simulated_engine(query.engine, is_service=is_service)
        self._maker = sample_maker(self.engine, is_service=is_service) if self.engine else None
        self._devices = None if self.trigger.engine is not None else DeviceSnapshots(self.trigger.window_seconds)
        self._stale_after_seconds = stale_after_seconds
        requests = scrape_requests(self.trigger, (_ANY_POD,))
        self._of_pods = next((request for request in requests if not request.is_demand), None)
        self._of_demand = next((request for request in requests if request.is_demand), None)
        self._scraped: set[str] = set()
        self._histories: dict[str, tuple[TargetHistory, SampleHistory]] = {}
        self._demand: TargetHistory | None = None

    @property
    def has_demand(self) -> bool:
        """Whether the trigger names a source of demand."""
        return self._of_demand is not None

    def scrape(self, pods: Iterable[SimulatedPod], now: float) -> None:
        """Read the engines, or the devices, of ready pods."""
        if self._devices is not None:
            self._devices.read(pods, now)
            return
        request, maker = self._of_pods, self._maker
        if request is None or maker is None:
            return
        for pod in pods:
            if pod.name in self._scraped or self.spec.is_push:
                pod.server.settle(now)
                name = pod.name
                found = self._histories.get(name)
                if found is None:
                    kept = SampleHistory(request.window_seconds, request.history_seconds)
                    found = (TargetHistory(f"http://{name}/metrics"), kept)
                history, kept = found
                samples = kept.add(maker.sample(pod.server, now))
                self._histories[name] = history.followed_by(samples, None), kept

    def note_demand(self, counts: GatewayCounts, now: float) -> None:
        """Read the source of demand."""
        if self._of_demand is None:
            return
        demand = self.trigger.demand
        series = {selector.text: Series(0.0, is_counter=False) for selector in self._of_demand.selectors}
        if demand is not None:
            series |= {selector.text: _series(selector.name, counts) for selector in demand.selectors}
        history = self._demand or TargetHistory(self._of_demand.endpoint.url)
        self._demand = _recorded(history, EngineSample(now, selected=series), self._of_demand)

    def evaluate(self, workload: Workload, now: float) -> Evaluation:
        """Answer as the server answers KEDA. From now on the ready pods are scraped."""
        ready = ready_pods(workload)
        self._scraped = {pod.ref.name for pod in ready}
        names = {pod.ref.name for pod in workload.pods}
        self._histories = {name: history for name, history in self._histories.items() if name in names}
        fleet = Fleet(
            None,
            self._stale_after_seconds,
            deviceless=True,
            peers=self._devices.histories(workload) if self._devices is not None else {},
            scrape_results=self._results(ready),
        )
        return evaluate(self.trigger, fleet, now, workload, self.spec.metadata)

    def _results(self, ready: Iterable[Pod]) -> dict[Endpoint, ScrapeResult]:
        results = {}
        for request in scrape_requests(self.trigger, ready):
            pod = request.endpoint.pod
            found = self._histories.get(pod.name) if pod is not None else None
            history = self._demand if pod is None else found[0] if found is not None else None
            if history is not None:
                results[request.endpoint] = ScrapeResult((history,))
        return results


def _check(trigger: Trigger) -> None:
    if trigger.engine is None:
        check_device_trigger(trigger)
    elif trigger.engine.url:
        raise SimulationError(
            f"metadata.engineEndpoint: {trigger.engine.url}: a simulation has pods and no URL of all of them: remove it"
        )
    elif trigger.metric.name == "engine":
        raise SimulationError(
            "metadata.engineMetric: the series that a simulated engine exports are those of the readings that this "
            "scaler knows: set metricType to one of them, such as load, queue_depth or running_requests"
        )


def _recorded(history: TargetHistory, sample: EngineSample, request: ScrapeRequest) -> TargetHistory:
    window, long = request.window_seconds, request.history_seconds
    samples = retained(history.samples, sample, window_seconds=window, history_seconds=long)
    return history.followed_by(samples, None)


def _series(name: str, counts: GatewayCounts) -> Series:
    """Return what a source of demand exports under this name, by what the source is known to count."""
    if name.startswith(_COUNTERS_OF_REQUESTS):
        return Series(float(counts.arrived), is_counter=True)
    return Series(float(counts.in_flight if name.startswith(_IN_FLIGHT) else counts.waiting), is_counter=False)


def demand_sentence(trigger: Trigger) -> str:
    """Say what the source of demand of a trigger is taken to count."""
    demand = trigger.demand
    if demand is None:
        return ""
    name = demand.selectors[0].name
    if name.startswith(_COUNTERS_OF_REQUESTS):
        what = "every request that arrives"
    elif name.startswith(_IN_FLIGHT):
        what = "the requests that have not ended"
    else:
        what = "the requests that wait at the gateway because no replica is ready"
    return f"{name} counts {what}; it is read once a second"
