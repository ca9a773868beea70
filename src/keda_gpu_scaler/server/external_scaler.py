# SPDX-License-Identifier: Apache-2.0
"""What is KEDA told? Protobuf in, a verdict out: the only place that knows gRPC's status codes.

The law of this module: a call touches no hardware and waits for nothing without a deadline. KEDA sets none, so a
handler that hung would freeze a ScaledObject; what is answered here was published before it was asked. Only who is
the first to ask about a workload waits, for a second at most, until it was looked up.
"""

import asyncio
import bisect
import contextlib
import functools
import logging
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

import grpc
from grpc.aio import ServicerContext

from keda_gpu_scaler.core.counters import REQUEST_BUCKETS_SECONDS, RecentAnswer, RequestCounts
from keda_gpu_scaler.core.evaluate.demand import DemandObservation
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, NoValue, evaluate
from keda_gpu_scaler.core.evaluate.workload_view import ScrapeRequest, ready_pods, scrape_requests
from keda_gpu_scaler.core.interfaces import Cluster, Engines, Peers
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.trigger.parser import Scope, Trigger, TriggerError, parse_trigger
from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.server.explain import explanation
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb
from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc

HEARTBEAT_SECONDS = 60.0
"""A stream repeats an unchanged state after so long; every ``true`` costs KEDA a status write."""
MAX_STREAMS = 2000
"""Above this a stream is refused: each costs memory, and a thousand ScaledObjects are a large cluster."""
LOOK_UP_SECONDS = 1.0
"""How long a call may wait for what nobody asked about before."""
METHODS = ("IsActive", "StreamIsActive", "GetMetricSpec", "GetMetrics")
_STREAMS = ("StreamIsActive",)  # how long one lasts is its client's affair

ANSWERED_SECONDS = 600.0
"""A trigger that nobody asked about for so long is no longer told of by ``answers``."""

_FIRST_STEPS, _LAST_STEPS = 40, 10  # of a verdict's steps so many are kept for those who watch
_LOOK_AGAIN_SECONDS = 0.02
_ASK_AGAIN_SECONDS = 1.0
# What was dear to judge is judged again after so many times as long, whatever peers tell, but soon enough all the same.
_SPARED, _LONGEST_SPARED_SECONDS = 10.0, 1.0
_REMEMBERED = 1024
_TURN_SECONDS = 0.005
_STATUS_OF_LACK: Mapping[NoValue | None, grpc.StatusCode] = {
    NoValue.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    NoValue.MISCONFIGURED: grpc.StatusCode.FAILED_PRECONDITION,
}

_log = logging.getLogger(__name__)


@functools.lru_cache(maxsize=_REMEMBERED)
def _parse(metadata: tuple[tuple[str, str], ...]) -> Trigger:
    return parse_trigger(dict(metadata))


@dataclass(frozen=True, slots=True)
class _Request:
    """A trigger, and for which ScaledObject it is asked; without a cluster no two of those differ."""

    trigger: Trigger
    metadata: tuple[tuple[str, str], ...] = ()
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class _CachedEvaluation:
    """A verdict, and the knowledge it rests on: of the cluster, and of peers by how much they had told.

    Until ``spared_until_seconds`` more of what peers told makes no difference.
    """

    evaluation: Evaluation
    workload: Workload | Unavailable | None
    node_labels: object
    told: int
    spared_until_seconds: float

    def rests_on(self, workload: Workload | Unavailable | None, fleet: Fleet, told: int, now: float) -> bool:
        """Whether nothing else that matters is known by now."""
        is_same_cluster = self.workload is workload and self.node_labels is fleet.node_labels
        is_heard = self.told == told or now < self.spared_until_seconds
        return is_same_cluster and is_heard and now <= self.evaluation.expires_at_seconds


@dataclass(frozen=True, slots=True)
class _RegisteredInterest:
    """What was asked of engines and demand for a question, for these pods, and when."""

    workload: Workload | Unavailable | None
    scrapes: tuple[ScrapeRequest, ...]
    at_seconds: float = -math.inf


class ExternalScaler(pb_grpc.ExternalScalerServicer):
    """KEDA's ExternalScaler over a fleet view.

    Args:
        fleet: returns what is known of devices now; called for every answer, so it must be cheap.
        clock: monotonic seconds, the clock that dated the fleet's histories.
        cluster: what knows the workloads; None without access to the API server.
        peers: what follows the other instances; None where there are none.
        engines: what scrapes engines and sources of demand; None where nothing does.
        on_answer: told of everything that GetMetrics answers; it must not wait.
    """

    def __init__(
        self,
        fleet: Callable[[], Fleet],
        clock: Callable[[], float],
        cluster: Cluster | None = None,
        peers: Peers | None = None,
        engines: Engines | None = None,
        on_answer: Callable[[RecentAnswer], None] = lambda answer: None,
    ) -> None:
        self._fleet = fleet
        self._clock = clock
        self._cluster = cluster
        self._peers = peers
        self._engines = engines
        self._asked: dict[_Request, _RegisteredInterest] = {}
        self._judged_by: History | None = None
        self._evaluations: dict[_Request, _CachedEvaluation] = {}
        self._told = 0
        self._streams: dict[_Request, set[_ActivityStream]] = defaultdict(set)
        self._stopping = False
        self._requests: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._durations = {method: _Durations() for method in METHODS if method not in _STREAMS}
        self._on_answer = on_answer
        self._log = _ChangeLog()
        self._answers = _Answers()

    def answers(self) -> list[RecentAnswer]:
        """Return what GetMetrics answered last to each trigger that was asked about lately."""
        return self._answers.lately(self._clock())

    def counts(self) -> Mapping[str, RequestCounts]:
        """Return how often each method was asked, how often it answered with an error, and how long that took."""
        return {
            method: RequestCounts(
                self._requests[method],
                self._errors[method],
                *(self._durations[method].counts() if method in self._durations else ()),
            )
            for method in METHODS
        }

    async def GetMetricSpec(self, request: pb.ScaledObjectRef, context: ServicerContext) -> pb.GetMetricSpecResponse:  # noqa: N802
        """Answer with the trigger's name and target: configuration alone, so that KEDA's fallback can work."""
        with self._timed("GetMetricSpec"):
            question = await self._question("GetMetricSpec", request, context)
            self._interest(question)  # what GetMetrics will need, while KEDA is on its way
        trigger = question.trigger
        target = round(trigger.target, 3)
        spec = pb.MetricSpec(metricName=trigger.metric_name, targetSize=math.ceil(target), targetSizeFloat=target)
        return pb.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: ServicerContext) -> pb.GetMetricsResponse:  # noqa: N802
        """Answer with the value, or with UNAVAILABLE or FAILED_PRECONDITION and the reason for none."""
        with self._timed("GetMetrics"):
            return await self._metrics(request, context)

    async def _metrics(self, request: pb.GetMetricsRequest, context: ServicerContext) -> pb.GetMetricsResponse:
        ref = request.scaledObjectRef
        question = await self._question("GetMetrics", ref, context)
        trigger = question.trigger
        if request.metricName and request.metricName.lower() != trigger.metric_name:
            sentence = (
                f"metricName: {quoted(request.metricName)} is not this trigger's: it is {quoted(trigger.metric_name)}"
            )
            await self._refuse("GetMetrics", context, grpc.StatusCode.INVALID_ARGUMENT, sentence)
        await self._looked_up(question)
        evaluation = self._evaluation(question)
        self._log.answerable(_title(ref), trigger, evaluation)
        now = self._clock()
        answer = _answer(ref, trigger, evaluation, now)
        self._answers.note(answer, now)
        self._on_answer(answer)
        if evaluation.value is None:
            code = _STATUS_OF_LACK[evaluation.no_value_reason]
            await self._refuse("GetMetrics", context, code, f"{_title(ref)}: {evaluation.reason}")
        value = round(evaluation.value, 3)
        metric = pb.MetricValue(metricName=trigger.metric_name, metricValue=math.ceil(value), metricValueFloat=value)
        return pb.GetMetricsResponse(metricValues=[metric])

    async def IsActive(self, request: pb.ScaledObjectRef, context: ServicerContext) -> pb.IsActiveResponse:  # noqa: N802
        """Answer whether the workload should run; what cannot be judged is kept."""
        with self._timed("IsActive"):
            question = await self._question("IsActive", request, context)
            await self._looked_up(question)
            evaluation = self._evaluation(question)
            if evaluation.is_activity_unknown:
                why = f"{_title(request)}: neither to be woken nor put to sleep: {evaluation.steps[-1]}"
                await self._refuse("IsActive", context, grpc.StatusCode.UNAVAILABLE, why)
            return pb.IsActiveResponse(result=evaluation.active)

    async def StreamIsActive(  # noqa: N802
        self, request: pb.ScaledObjectRef, context: ServicerContext
    ) -> AsyncIterator[pb.IsActiveResponse]:
        """Push the state at once, on every change, and as a slow heartbeat; end with OK on shutdown.

        What is unknown is not pushed: a stream can only wake a workload, and ignorance wakes nobody. The
        state pushed before stands until something is known again.
        """
        question = await self._question("StreamIsActive", request, context)
        if sum(map(len, self._streams.values())) >= MAX_STREAMS:
            sentence = f"{MAX_STREAMS} streams are open, the most there may be; is a client leaking them?"
            await self._refuse("StreamIsActive", context, grpc.StatusCode.UNAVAILABLE, sentence)
        stream = _ActivityStream()
        self._streams[question].add(stream)
        try:
            await context.send_initial_metadata(())  # the stream stands, also while there is nothing to push
            await self._looked_up(question)
            async for active in self._states(question, stream):
                yield pb.IsActiveResponse(result=active)
        finally:
            self._streams[question].discard(stream)
            if not self._streams[question]:
                del self._streams[question]

    async def explain(self, request: pb.ScaledObjectRef, context: ServicerContext) -> evaluation_pb.Evaluation:
        """Answer with the verdict that GetMetrics and IsActive give, and the steps that lead there."""
        question = await self._question(None, request, context)
        await self._looked_up(question)
        # Nobody is waited for between these: they are of one instant, and the verdict rests on this workload.
        workload, evaluation = self._interest(question), self._evaluation(question)
        metadata = dict(request.scalerMetadata)
        return explanation(question.trigger, evaluation, workload, metadata, self._fleet(), self._clock())

    def heard(self) -> None:
        """Note that a peer or an engine told something: what was judged before rests on older knowledge."""
        self._told += 1

    async def published(self) -> None:
        """Wake the streams whose state changed; to be called in the event loop after every snapshot.

        Each distinct question is judged once, however many streams share it, and other calls get their turn
        every few milliseconds.
        """
        turn_began = self._clock()
        for question in list(self._streams):
            active = self._known_activity(question)
            for stream in self._streams.get(question, ()):
                if active is not None and stream.pushed != active:
                    stream.wake.set()
            if self._clock() - turn_began > _TURN_SECONDS:
                await asyncio.sleep(0)
                turn_began = self._clock()

    def stop(self) -> None:
        """End every stream with OK, at once and from now on; other calls are answered until the server stops."""
        self._stopping = True
        for streams in self._streams.values():
            for stream in streams:
                stream.wake.set()

    async def _states(self, question: _Request, stream: "_ActivityStream") -> AsyncGenerator[bool, None]:
        pushed_at = 0.0
        while not self._stopping:
            stream.wake.clear()
            active = self._known_activity(question)
            now = self._clock()
            if active is not None and (active != stream.pushed or now - pushed_at >= HEARTBEAT_SECONDS):
                stream.pushed, pushed_at = active, now
                yield active
            try:
                async with asyncio.timeout(question.trigger.poll_interval_seconds):
                    await stream.wake.wait()
            except TimeoutError:
                continue

    @contextlib.contextmanager
    def _timed(self, method: str) -> Iterator[None]:
        """Count how long an answer takes, an error's too."""
        began = self._clock()
        try:
            yield
        finally:
            self._durations[method].note(self._clock() - began)

    async def _question(self, method: str | None, ref: pb.ScaledObjectRef, context: ServicerContext) -> _Request:
        """Read what is asked; ``method`` is None where the question is not KEDA's, and not counted."""
        self._requests[method or ""] += 1
        metadata = tuple(sorted(ref.scalerMetadata.items()))
        try:
            trigger = _parse(metadata)
        except TriggerError as error:
            self._log.problems(_title(ref), error)
            await self._refuse(method, context, grpc.StatusCode.INVALID_ARGUMENT, "; ".join(error.problems))
        self._log.hints(_title(ref), trigger)
        if self._cluster is None:
            return _Request(trigger)
        return _Request(trigger, metadata, ref.namespace, ref.name)

    def _interest(self, question: _Request) -> Workload | Unavailable | None:
        """Say to cluster, engines and peers that this is asked for; return what is known of the workload."""
        workload = self._cluster.workload(question.namespace, question.name) if self._cluster is not None else None
        trigger = question.trigger
        if self._engines is not None and trigger.is_scraped:
            self._ask_engines(self._engines, question, workload)
        if self._peers is not None and trigger.scope is not Scope.NODE and self._needs_devices(question):
            self._peers.register_interest(trigger.window_seconds)
        return workload

    def _ask_engines(self, engines: Engines, question: _Request, workload: Workload | Unavailable | None) -> None:
        """Ask what the trigger needs of engines and demand, now and then, and as soon as its pods change."""
        now = self._clock()
        asked = self._asked.get(question)
        if asked is None or asked.workload is not workload:
            pods = ready_pods(workload) if isinstance(workload, Workload) else ()
            asked = _RegisteredInterest(workload, scrape_requests(question.trigger, pods))
        elif now - asked.at_seconds < _ASK_AGAIN_SECONDS:
            return
        for scrape in asked.scrapes:
            engines.register_interest(
                scrape.endpoint,
                window_seconds=scrape.window_seconds,
                selectors=scrape.selectors,
                demand=scrape.is_demand,
            )
        if question not in self._asked and len(self._asked) >= _REMEMBERED:
            del self._asked[next(iter(self._asked))]
        self._asked[question] = replace(asked, at_seconds=now)

    def _needs_devices(self, question: _Request) -> bool:
        """Whether devices have a say: that of a saturation that no engine tells, too."""
        trigger = question.trigger
        if trigger.engine is None:
            return True
        if trigger.metric.name != "saturation" or self._engines is None or question not in self._asked:
            return False
        told, asked = self._engines.scrape_results(), self._asked[question].scrapes
        engines = [scrape.endpoint for scrape in asked if scrape.endpoint.pod is not None]
        return bool(engines) and all((found := told.get(it)) is not None and found.is_no_engine for it in engines)

    async def _looked_up(self, question: _Request) -> None:
        """Wait until cluster, engines and peers had their first chance to tell something, but not for long."""
        workload = self._interest(question)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_UP_SECONDS):
                if self._cluster is not None and isinstance(workload, Unavailable) and not workload.is_permanent:
                    await self._cluster.wait_for_sync(question.namespace, question.name)
                    self._interest(question)
                if self._cluster is not None and question.trigger.node_selector is not None:
                    while isinstance(labels := self._cluster.node_labels(), Unavailable) and not labels.is_permanent:
                        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
                if self._engines is not None and question in self._asked:
                    await self._engines.wait_for_sync([scrape.endpoint for scrape in self._asked[question].scrapes])
                if (
                    self._peers is not None
                    and question.trigger.scope is not Scope.NODE
                    and self._needs_devices(question)
                ):
                    self._interest(question)
                    await self._peers.wait_for_sync()

    async def _refuse(
        self, method: str | None, context: ServicerContext, code: grpc.StatusCode, sentence: str
    ) -> NoReturn:
        self._errors[method or ""] += 1
        await context.abort(code, sentence)
        raise AssertionError("abort always raises")

    def _known_activity(self, question: _Request) -> bool | None:
        """Return what a stream may push: the state, or None while it is unknown."""
        return self._evaluation(question).known_activity

    def _evaluation(self, question: _Request) -> Evaluation:
        """Judge; at most once by the same knowledge, while the verdict holds."""
        workload = self._interest(question)
        fleet, now = self._fleet(), self._clock()
        if self._cluster is not None and question.trigger.node_selector is not None:
            fleet = replace(fleet, node_labels=self._cluster.node_labels())
        if fleet.history is not self._judged_by:
            # What was judged by an older history is of no use, and would keep that history in memory.
            self._judged_by = fleet.history
            self._evaluations.clear()
        judged = self._evaluations.get(question)
        if judged is not None and judged.rests_on(workload, fleet, self._told, now):
            return judged.evaluation
        evaluation = evaluate(question.trigger, fleet, now, workload, dict(question.metadata))
        if now <= evaluation.expires_at_seconds and (
            question in self._evaluations or len(self._evaluations) < _REMEMBERED
        ):
            # Among a thousand peers one tells something every millisecond; the whole fleet takes a hundred to judge.
            spared = min(_SPARED * (self._clock() - now), _LONGEST_SPARED_SECONDS)
            self._evaluations[question] = _CachedEvaluation(
                evaluation, workload, fleet.node_labels, self._told, now + spared
            )
        return evaluation


class EvaluationService(evaluation_pb_grpc.EvaluationsServicer):
    """Explains the scaler's answers to people."""

    def __init__(self, scaler: ExternalScaler) -> None:
        self._scaler = scaler

    async def Explain(self, request: pb.ScaledObjectRef, context: ServicerContext) -> evaluation_pb.Evaluation:  # noqa: N802
        """Judge as GetMetrics and IsActive do, and tell the steps."""
        return await self._scaler.explain(request, context)


class _ActivityStream:
    """One open StreamIsActive: what it was told last, and a way to wake it."""

    __slots__ = ("pushed", "wake")

    def __init__(self) -> None:
        self.pushed: bool | None = None
        self.wake = asyncio.Event()


class _Durations:
    """How long calls took, counted by ``REQUEST_BUCKETS_SECONDS``."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._buckets = [0] * (len(REQUEST_BUCKETS_SECONDS) + 1)

    def note(self, seconds: float) -> None:
        self._sum += seconds
        self._buckets[bisect.bisect_left(REQUEST_BUCKETS_SECONDS, seconds)] += 1

    def counts(self) -> tuple[float, tuple[int, ...]]:
        return self._sum, tuple(self._buckets)


class _Answers:
    """What was answered last, by ScaledObject and metric; of more than can be remembered the newest."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, ...], tuple[float, RecentAnswer]] = OrderedDict()

    def note(self, answer: RecentAnswer, now: float) -> None:
        subject = (answer.namespace, answer.name, answer.metric_name, answer.metric)
        self._answers[subject] = (now, answer)
        self._answers.move_to_end(subject)
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)

    def lately(self, now: float) -> list[RecentAnswer]:
        while self._answers:
            subject, (at, _) = next(iter(self._answers.items()))
            if now - at <= ANSWERED_SECONDS:
                break
            del self._answers[subject]
        return [answer for _, answer in self._answers.values()]


class _ChangeLog:
    """Says a thing when it begins and when it ends, not at every poll; forgets the oldest subjects."""

    def __init__(self) -> None:
        self._said: OrderedDict[tuple[str, str | Trigger], str] = OrderedDict()

    def hints(self, title: str, trigger: Trigger) -> None:
        for hint in trigger.hints:
            if self._is_news((title, hint), hint):
                _log.warning("%s: %s", title, hint)

    def problems(self, title: str, error: TriggerError) -> None:
        for problem in error.problems:
            if self._is_news((title, problem), problem):
                _log.warning("%s: %s", title, problem)

    def answerable(self, title: str, trigger: Trigger, evaluation: Evaluation) -> None:
        subject = (title, trigger)
        # The kind of lack, not its sentence: an age in it changes with every poll.
        if evaluation.no_value_reason is not None:
            if self._is_news(subject, evaluation.no_value_reason.value):
                _log.warning("%s: %s has no value: %s", title, trigger.metric_name, evaluation.reason)
        elif self._said.pop(subject, None) is not None:
            _log.info("%s: %s has a value again", title, trigger.metric_name)
        if evaluation.demand is not None:
            self._demand(f"{title} (demand)", trigger, evaluation.demand)

    def _demand(self, title: str, trigger: Trigger, demand: DemandObservation) -> None:
        if demand.is_active is None:
            if self._is_news((title, trigger), "unknown"):
                _log.warning("%s: %s; it neither wakes the workload nor lets it sleep", title, demand.sentence)
        elif self._said.pop((title, trigger), None) is not None:
            _log.info("%s: it is known again: %s", title, demand.sentence)

    def _is_news(self, subject: tuple[str, str | Trigger], text: str) -> bool:
        if self._said.get(subject) == text:
            return False
        self._said[subject] = text
        while len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)
        return True


def _answer(ref: pb.ScaledObjectRef, trigger: Trigger, evaluation: Evaluation, now: float) -> RecentAnswer:
    namespace, name = _title(ref).split("/", 1)
    return RecentAnswer(
        namespace=namespace,
        name=name,
        metric_name=trigger.metric_name,
        metric=trigger.metric.name,
        target=round(trigger.target, 3),
        value=None if evaluation.value is None else round(evaluation.value, 3),
        active=evaluation.active,
        with_value=evaluation.with_value,
        expected=evaluation.expected,
        demand=evaluation.demand.value if evaluation.demand else None,
        is_demand_known=evaluation.demand.is_active is not None if evaluation.demand else None,
        demand_sentence=evaluation.demand.sentence if evaluation.demand else "",
        reason=evaluation.reason,
        steps=_shortened(evaluation.steps),
        at_seconds=now,
    )


def _shortened(steps: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out the middle of very many: a thousand triggers are remembered, each for minutes."""
    left_out = len(steps) - _FIRST_STEPS - _LAST_STEPS
    if left_out <= 0:
        return steps
    return (*steps[:_FIRST_STEPS], f"({left_out} more)", *steps[-_LAST_STEPS:])


def _title(ref: pb.ScaledObjectRef) -> str:
    # Kubernetes names are plain ASCII; a stranger's may be anything, and end up in logs and status texts.
    return ascii(f"{ref.namespace[:63]}/{ref.name[:253]}")[1:-1]
