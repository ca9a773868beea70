# SPDX-License-Identifier: Apache-2.0
"""Connects this product to the simulator of the judge, as the judge's adapter_api.py describes.

Law: nothing is decided here. The page parser reads the pages, ``retained`` keeps the samples, ``scrape_requests`` says
what is scraped, and ``evaluate`` answers, as in ``serve``. The simulator has no devices, so this instance has none.

It differs from ``serve`` in three points. A pod is scraped from the moment when it is ready: ``serve`` does so for a
trigger of type ``external-push``, whose stream follows the workload. The port of an engine is not searched for, because
a simulated pod has one page. An evaluation is not cached.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.evaluate.evaluation import evaluate
from keda_gpu_scaler.core.evaluate.workload_view import ScrapeRequest, ready_pods, scrape_requests
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.removals import Removals
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory, retained
from keda_gpu_scaler.core.trigger.demand_params import DemandQuery
from keda_gpu_scaler.core.trigger.demand_presets import DEMANDS
from keda_gpu_scaler.core.trigger.parser import Trigger, parse_trigger
from keda_gpu_scaler.core.types import DeclaredTrigger, EngineSample, Pod, PodRef, Series, Workload
from keda_gpu_scaler.engines.scrape_parser import ScrapeParseError, parse_page

CONTENT_TYPE = "text/plain; version=0.0.4"
NAMESPACE, NAME = "judge", "llama"
NO_ANSWER = "does not answer"
_ANY_POD = Pod(PodRef(NAMESPACE, "any"), "node", "Running", True, False, 0.0, address="10.0.0.1")
# What these presets count is not the queue at the gateway, which is all that the simulator reports.
_OTHER_DEMAND = frozenset(name for preset in ("vllm-router", "http-add-on") for name in DEMANDS[preset].series)


class PodState(Protocol):
    """A pod as the judge describes it."""

    @property
    def name(self) -> str:
        """The pod's name, unique in a run."""

    @property
    def node(self) -> str | None:
        """The node, None until the pod is scheduled."""

    @property
    def address(self) -> str:
        """The IP address, empty until the pod runs."""

    @property
    def created_at(self) -> float:
        """When it was created, in seconds on the clock of ``now``."""

    @property
    def is_running(self) -> bool:
        """Whether its containers run."""

    @property
    def is_ready(self) -> bool:
        """Whether it is ready, also while it ends."""

    @property
    def is_deleting(self) -> bool:
        """Whether it was asked to end."""


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """What GetMetrics, GetMetricSpec and IsActive return; ``value`` is None where GetMetrics is refused."""

    value: float | None
    target: float
    active: bool


class JudgedTrigger:
    """One trigger in one run of the simulator; ``histories`` has what was scraped of each pod, by its name.

    Args:
        trigger: the parsed trigger.
        metadata: its metadata.
        metric_type: KEDA's ``metricType``.
    """

    def __init__(self, trigger: Trigger, metadata: Mapping[str, str], metric_type: str) -> None:
        self._trigger = trigger
        self._metadata = metadata
        self._declared = (DeclaredTrigger(metadata, metric_type),)
        self._stale_after_seconds = Config().stale_after
        # The request of a trigger is the same for each of its pods; only the endpoint differs.
        self._of_pods, self._of_demand = _requests(trigger)
        self.histories: dict[str, TargetHistory] = {}
        self._demand: TargetHistory | None = None
        self._ready_at_seconds: dict[str, float] = {}  # a pod is scraped from the moment when it is ready
        self._removals = Removals()

    def scraped(self, now: float, pod: str, page: str | None) -> None:
        """Record what a pod's engine answered; None is no answer."""
        self._ready_at_seconds.setdefault(pod, now)
        request = self._of_pods
        if request is None:
            return
        sample, failure = None, None
        if page is None:
            failure = NO_ANSWER
        else:
            try:
                sample = parse_page(page.encode(), CONTENT_TYPE, at_seconds=now, selectors=request.selectors)
            except ScrapeParseError as error:
                failure = str(error)
        history = self.histories.get(pod) or TargetHistory(f"http://{pod}/metrics")
        self.histories[pod] = _recorded(history, sample, failure, request)

    def answer(
        self, now: float, pods: Sequence[PodState], spec_replicas: int, status_replicas: int, demand: float
    ) -> JudgedAnswer:
        """Answer as the server answers KEDA, rounded as it is sent.

        ``demand`` is used only where the trigger names a source of demand. Then it is a gauge of that source, read now.
        Between two answers its value is not known here, while ``serve`` scrapes the source twice a second.
        """
        workload = self._workload(now, pods, spec_replicas, status_replicas)
        self.histories = {pod.name: self.histories[pod.name] for pod in pods if pod.name in self.histories}
        if self._of_demand is not None:
            self._note_demand(self._of_demand, now, demand)
        fleet = Fleet(None, self._stale_after_seconds, deviceless=True, scrape_results=self._results(workload))
        evaluation = evaluate(self._trigger, fleet, now, workload, self._metadata)
        return JudgedAnswer(
            value=None if evaluation.value is None else round(evaluation.value, 3),
            target=round(self._trigger.target, 3),
            active=evaluation.active,
        )

    def _workload(self, now: float, pods: Sequence[PodState], spec_replicas: int, status_replicas: int) -> Workload:
        ready_at = self._ready_at_seconds
        known = sorted((_pod(pod, ready_at.get(pod.name)) for pod in pods), key=lambda pod: pod.ref)
        return Workload(
            namespace=NAMESPACE,
            name=NAME,
            kind="ScaledObject",
            target=f"Deployment {NAME}",
            spec_replicas=spec_replicas,
            status_replicas=status_replicas,
            pods=tuple(known),
            triggers=self._declared,
            removed_at_seconds=self._removals.note(known, now),
        )

    def _results(self, workload: Workload) -> dict[Endpoint, ScrapeResult]:
        results = {}
        for request in scrape_requests(self._trigger, ready_pods(workload)):
            pod = request.endpoint.pod
            history = self.histories.get(pod.name) if pod is not None else self._demand
            if history is not None:
                results[request.endpoint] = ScrapeResult((history,))
        return results

    def _note_demand(self, request: ScrapeRequest, now: float, demand: float) -> None:
        series = Series(demand, is_counter=False)
        sample = EngineSample(now, selected={selector.text: series for selector in request.selectors})
        history = self._demand or TargetHistory(request.endpoint.url)
        self._demand = _recorded(history, sample, None, request)


def judge(metadata: dict[str, str], metric_type: str, max_seqs: int | None) -> JudgedTrigger:
    """Return the product for one run; it remembers nothing of another run.

    Args:
        metadata: the trigger's metadata as a user writes it.
        metric_type: KEDA's ``metricType``, "AverageValue" or "Value".
        max_seqs: the number of requests that an engine runs at once, which becomes ``maxSeqs``; None where only the
            engine knows it.

    Raises:
        TriggerError: the metadata cannot be used.
        ValueError: the trigger needs data that the simulator does not have: devices, an engine at a URL, or demand that
            is not a queue at the gateway.
    """
    sent = dict(metadata) if max_seqs is None else {**metadata, "maxSeqs": str(max_seqs)}
    trigger = parse_trigger(sent)
    if trigger.engine is None:
        raise ValueError(f"metricType {trigger.metric.name}: is reported by devices, and the simulator has none")
    if trigger.engine.url:
        raise ValueError(f"engineEndpoint {trigger.engine.url}: the simulator has no URL of all replicas; remove it")
    if trigger.demand is not None:
        _check_demand(trigger.demand)
    return JudgedTrigger(trigger, sent, metric_type)


def _check_demand(demand: DemandQuery) -> None:
    for selector in demand.selectors:
        if selector.name in _OTHER_DEMAND:
            raise ValueError(
                f"demandMetric {selector.text}: the simulator reports only the requests that wait at the gateway; use "
                "demand: epp, or the name of a series of waiting requests"
            )


def _requests(trigger: Trigger) -> tuple[ScrapeRequest | None, ScrapeRequest | None]:
    """Return what is scraped of each ready pod, and of the source of demand."""
    requests = scrape_requests(trigger, (_ANY_POD,))
    of_pods = next((request for request in requests if request.endpoint.pod is not None), None)
    return of_pods, next((request for request in requests if request.is_demand), None)


def _recorded(
    history: TargetHistory, sample: EngineSample | None, failure: str | None, request: ScrapeRequest
) -> TargetHistory:
    samples = history.samples
    if sample is not None:
        window, long = request.window_seconds, request.history_seconds
        samples = retained(samples, sample, window_seconds=window, history_seconds=long)
    return TargetHistory(history.url, samples, failure)


def _pod(state: PodState, ready_at_seconds: float | None) -> Pod:
    return Pod(
        ref=PodRef(NAMESPACE, state.name),
        node=state.node,
        phase="Running" if state.is_running else "Pending",
        is_ready=state.is_ready,
        is_deleting=state.is_deleting,
        created_at_seconds=state.created_at,
        ready_at_seconds=ready_at_seconds if state.is_ready else None,
        address=state.address,
    )
