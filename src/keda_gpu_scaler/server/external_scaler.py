# SPDX-License-Identifier: Apache-2.0
"""KEDA's ExternalScaler service: protobuf in, protobuf or a gRPC status code out.

Law: a call touches no hardware and waits for nothing without a deadline. KEDA sets no deadline, so that a handler
which hangs would freeze a ScaledObject. A call consists of three steps, each done once: resolve, prepare, evaluate.

A call that was made before costs little, because every step remembers its result: resolve for the same request bytes,
prepare until interest must be registered again, evaluate until the evaluation expires or something it rests on has
changed. Handlers therefore receive and return bytes. The bytes do not identify a trigger: Go writes a map in random
order, so that KEDA sends the same trigger in several forms.
"""

import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import ServicerContext

from keda_gpu_scaler.core.evaluate.deletion_order import shrink_costs
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, NoValue
from keda_gpu_scaler.core.instance_status import RecentAnswer, RefusedTrigger, RequestCounts
from keda_gpu_scaler.core.interfaces import Cluster, Engines, Peers
from keda_gpu_scaler.core.quoting import quoted, titled
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.reading_interest import ReadingInterest
from keda_gpu_scaler.core.trigger.parser import TriggerError
from keda_gpu_scaler.core.types import PodRef, Unavailable, Workload
from keda_gpu_scaler.server.declarations import Declarations
from keda_gpu_scaler.server.evaluator import Evaluator
from keda_gpu_scaler.server.preparation import Preparation, Prepared
from keda_gpu_scaler.server.recent_answers import RecentAnswers, recent_answer
from keda_gpu_scaler.server.refused_triggers import RefusedTriggers
from keda_gpu_scaler.server.request_counters import RequestCounters
from keda_gpu_scaler.server.request_resolver import (
    IDLE_SECONDS,
    MAX_TRIGGERS,
    RequestResolver,
    ResolvedTrigger,
    ScaledObjectRequest,
    Standing,
    printable_names,
)
from keda_gpu_scaler.server.split_cache import SplitCache
from keda_gpu_scaler.server.stream_limit import TooManyStreamsError
from keda_gpu_scaler.server.streams import ActivityStreams
from keda_gpu_scaler.server.transition_log import TransitionLog
from keda_gpu_scaler.server.undecodable_log import NOT_A_MESSAGE, UndecodableLog
from keda_gpu_scaler.server.workload_history import WorkloadHistories, history_key, point_of
from keda_gpu_scaler.wire import externalscaler_pb2 as pb

SERVICE = "externalscaler.ExternalScaler"

_MAX_KNOWN_REQUESTS = 4 * MAX_TRIGGERS  # the methods of one trigger, and the forms of one request
_MAX_KNOWN_REQUEST_BYTES = 2048  # several times a usual request; a longer one is parsed at each call
_CODES: Mapping[NoValue | None, grpc.StatusCode] = {
    NoValue.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    NoValue.MISCONFIGURED: grpc.StatusCode.FAILED_PRECONDITION,
}
_RequestKey = tuple[str, bytes]  # the method and the request
_LOOK_SECONDS = 0.5  # the least time between two looks at the declarations without a question about them
_IS_ACTIVE = {active: pb.IsActiveResponse(result=active).SerializeToString() for active in (False, True)}


@dataclass(frozen=True, slots=True)
class Answer:
    """The evaluation of one request, and everything it rests on.

    ``is_synced`` is false while something that the trigger needs was not read yet.
    """

    resolved: ResolvedTrigger
    workload: Workload | Unavailable | None
    evaluation: Evaluation
    fleet: Fleet
    at_seconds: float
    is_synced: bool = True


class ExternalScaler:
    """KEDA's ExternalScaler over a fleet view. ``histories`` has the last hour of every declared trigger.

    Args:
        fleet: returns the current fleet view; called for every answer, so it must be cheap.
        clock: monotonic seconds, the clock that dated the fleet's histories.
        cluster: knows the workloads; None without access to the API server.
        peers: follows the other instances; None without peers.
        engines: scrapes engines and sources of demand; None without a scrape manager.
        on_answer: called with everything that GetMetrics answers; it must not wait.
        on_costs: called with a workload, the trigger's metric name and the wanted deletion costs of its pods, None
            where the trigger asks for no shrink; it must not wait. None where no cost is wanted.
        counters: counts the calls.
        performance: the interest in the performance readings of this node.
        has_credentials: whether credentials for engines and sources of demand are mounted.
    """

    def __init__(
        self,
        fleet: Callable[[], Fleet],
        clock: Callable[[], float],
        cluster: Cluster | None = None,
        peers: Peers | None = None,
        engines: Engines | None = None,
        on_answer: Callable[[RecentAnswer], None] = lambda answer: None,
        on_costs: Callable[[Workload, str, Mapping[PodRef, int] | None], None] | None = None,
        counters: RequestCounters | None = None,
        performance: ReadingInterest | None = None,
        *,
        has_credentials: bool = False,
    ) -> None:
        self._clock = clock
        self._on_answer = on_answer
        self._on_costs = on_costs
        self._counters = counters or RequestCounters()
        self._resolver = RequestResolver(has_cluster=cluster is not None, has_credentials=has_credentials)
        self._preparation = Preparation(clock, cluster, peers, engines, performance, self._settled)
        self._evaluator = Evaluator(fleet, clock)
        self._streams = ActivityStreams(
            self._activity, clock, lambda resolved, now: self._preparation.register(resolved, now).resolved
        )
        self._requests_seen: SplitCache[_RequestKey, ScaledObjectRequest] = SplitCache(
            _MAX_KNOWN_REQUESTS, IDLE_SECONDS
        )
        self._log = TransitionLog(clock)
        self._undecodable = UndecodableLog(clock)
        self._answers = RecentAnswers()
        self._declarations = Declarations()
        self.histories = WorkloadHistories()
        self._cluster = cluster
        self._refused = RefusedTriggers(cluster)
        self._looked_at = -math.inf

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the service for ``grpc.aio.Server.add_generic_rpc_handlers``."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "GetMetricSpec": unary(self._counted("GetMetricSpec", self._get_metric_spec)),
                "GetMetrics": unary(self._counted("GetMetrics", self._get_metrics)),
                "IsActive": unary(self._counted("IsActive", self._is_active)),
                "StreamIsActive": stream(self._stream_is_active),
            },
        )

    # ---- what the instance does with it ----

    def answers(self) -> list[RecentAnswer]:
        """Return the last answer of GetMetrics to each trigger that was evaluated recently."""
        self._look_at_declarations(self._clock())
        return self._answers.answers(self._clock())

    def refused_triggers(self) -> list[RefusedTrigger]:
        """Return the declared triggers whose metadata is refused."""
        self._look_at_declarations(self._clock())
        return self._refused.triggers()

    def refusals(self) -> tuple[list[RefusedTrigger], list[tuple[str, str]]]:
        """Return the refused triggers as of the last look, and the objects that had one a short time ago."""
        return self._refused.triggers(), self._refused.accepted()

    def workloads(self) -> tuple[list[RecentAnswer], list[RefusedTrigger], str, float]:
        """Return the last answers, the refused triggers, the node of this instance, and the time."""
        return self.answers(), self._refused.triggers(), self._evaluator.fleet.own_node, self._clock()

    def last_evaluation(self, answer: RecentAnswer) -> Evaluation | None:
        """Return the last evaluation of the trigger of an answer; None where it is not kept."""
        resolved = self._answers.resolved(answer)
        return None if resolved is None else self._evaluator.last_evaluation(resolved)

    def counts(self) -> Mapping[str, RequestCounts]:
        """Return the number of calls of each method, of errors, and the calls' durations."""
        return self._counters.counts()

    def now(self) -> float:
        """Return the time on the clock of the answers, in monotonic seconds."""
        return self._clock()

    def note_report(self) -> None:
        """Note that a peer reported something: evaluations that rest on older data are out of date."""
        self._evaluator.note_report()

    async def wake_streams(self) -> None:
        """Wake the streams whose state changed; called in the event loop after every snapshot or report."""
        await self._streams.wake_changed()

    def expire_idle(self) -> None:
        """Release what is kept for triggers that were not used for a while; called regularly."""
        now = self._clock()
        self._requests_seen.expire(now)
        self._resolver.expire_idle(now)
        self._preparation.expire_idle(now)
        self._evaluator.expire_idle(now)
        self._declarations.expire_idle(now)
        self.histories.expire_idle(now)
        if now - self._looked_at >= _LOOK_SECONDS:
            self._look_at_declarations(now)

    def stop(self) -> None:
        """End every stream with OK, now and from now on; other calls are answered until the server stops."""
        self._streams.stop()

    async def explain(self, ref: pb.ScaledObjectRef, context: ServicerContext, proposed_spec: str = "") -> Answer:
        """Return the evaluation that GetMetrics and IsActive answer with; the call is not counted.

        Args:
            ref: the ScaledObject and the trigger's metadata.
            context: of the call.
            proposed_spec: the spec of a ScaledObject that is not applied, as a JSON object; empty for one that is.
        """
        now = self._clock()
        scaled_object = await self._resolve(None, ref, context, now, proposed_spec)
        prepared = await self._preparation.prepare(scaled_object.resolved, now)
        evaluated = self._evaluator.evaluate(prepared)
        return Answer(
            prepared.resolved,
            prepared.workload,
            evaluated.evaluation,
            self._evaluator.fleet,
            prepared.at_seconds,
            prepared.is_synced,
        )

    async def workload(self, ref: pb.ScaledObjectRef, context: ServicerContext) -> Workload | Unavailable | None:
        """Return what is known of the workload that a request names; nothing is scraped for it."""
        scaled_object = await self._resolve(None, ref, context, self._clock())
        return await self._preparation.workload(scaled_object.resolved)

    # ---- the methods ----

    def _counted(
        self, method: str, answer: Callable[[bytes, ServicerContext, float], Awaitable[bytes]]
    ) -> Callable[[bytes, ServicerContext], Awaitable[bytes]]:
        """Count the calls of a method, and how long each takes, errors included."""

        async def handler(request: bytes, context: ServicerContext) -> bytes:
            began = self._clock()
            self._counters.count_request(method)
            try:
                return await answer(request, context, began)
            finally:
                self._counters.count_duration(method, self._clock() - began)

        return handler

    async def _get_metric_spec(self, request: bytes, context: ServicerContext, now: float) -> bytes:
        """Answer with the trigger's name and target: configuration alone, so that KEDA's fallback can work."""
        scaled_object = await self._scaled_object_request("GetMetricSpec", request, context, now)
        self._preparation.register(scaled_object.resolved, now)  # GetMetrics follows soon
        trigger = scaled_object.resolved.trigger
        target = round(trigger.target, 3)
        spec = pb.MetricSpec(metricName=trigger.metric_name, targetSize=math.ceil(target), targetSizeFloat=target)
        return pb.GetMetricSpecResponse(metricSpecs=[spec]).SerializeToString()

    async def _get_metrics(self, request: bytes, context: ServicerContext, now: float) -> bytes:
        """Answer with the value, or with UNAVAILABLE or FAILED_PRECONDITION and the reason for having none."""
        scaled_object = await self._scaled_object_request("GetMetrics", request, context, now)
        prepared = await self._prepared("GetMetrics", scaled_object, request, now)
        evaluated = self._evaluator.evaluate(prepared)
        evaluation, answer = evaluated.evaluation, evaluated.answer
        trigger, standing = prepared.resolved.trigger, prepared.resolved.standing
        if answer is None or (answer.namespace, answer.name) != (scaled_object.namespace, scaled_object.name):
            self._log.log_evaluation(scaled_object.title, trigger, evaluation, standing)
            answer = evaluated.answer = recent_answer(scaled_object, evaluation, prepared.at_seconds, prepared.workload)
        if standing.counts:
            self.histories.record(history_key(answer), point_of(answer), prepared.at_seconds)
            self._answers.note(answer, prepared.resolved, prepared.at_seconds)
            self._refused.note_valid(scaled_object.namespace, dict(prepared.resolved.metadata), now)
            self._on_answer(answer)
        if self._on_costs is not None and standing.counts and isinstance(prepared.workload, Workload):
            self._on_costs(prepared.workload, trigger.metric_name, shrink_costs(prepared.workload, trigger, evaluation))
        if evaluation.value is None:
            sentence = titled(scaled_object.title, evaluation.reason)
            await self._refuse("GetMetrics", context, _CODES[evaluation.no_value_reason], sentence)
        if not evaluated.response:
            evaluated.response = _metrics_response(trigger.metric_name, evaluation.value)
        return evaluated.response

    async def _is_active(self, request: bytes, context: ServicerContext, now: float) -> bytes:
        """Answer whether the workload should run; a workload whose activity is unknown stays as it is."""
        scaled_object = await self._scaled_object_request("IsActive", request, context, now)
        prepared = await self._prepared("IsActive", scaled_object, request, now)
        evaluation = self._evaluator.evaluate(prepared).evaluation
        if evaluation.is_activity_unknown:
            why = f"{scaled_object.title}: it is not known whether the workload should run: {evaluation.steps[-1]}"
            await self._refuse("IsActive", context, grpc.StatusCode.UNAVAILABLE, why)
        return _IS_ACTIVE[evaluation.active]

    async def _stream_is_active(self, request: bytes, context: ServicerContext) -> AsyncIterator[bytes]:
        """Push the state at once, on every change, and as a slow heartbeat; end with OK on shutdown.

        An unknown state is not pushed: a stream can only activate a workload, and missing data activates nothing.
        """
        self._counters.count_request("StreamIsActive")
        now = self._clock()
        scaled_object = await self._scaled_object_request("StreamIsActive", request, context, now)
        prepared = await self._prepared("StreamIsActive", scaled_object, request, now)
        with contextlib.ExitStack() as stack:
            try:
                stream = stack.enter_context(self._streams.opened(prepared.resolved, _address(context.peer())))
            except TooManyStreamsError as error:
                await self._refuse("StreamIsActive", context, grpc.StatusCode.UNAVAILABLE, str(error))
            await context.send_initial_metadata(())  # the client sees an open stream before there is a state
            async for active in self._streams.states(stream):
                yield _IS_ACTIVE[active]

    # ---- the steps ----

    async def _scaled_object_request(
        self, method: str, request: bytes, context: ServicerContext, now: float
    ) -> ScaledObjectRequest:
        """Resolve a request, or return the result of the same request before."""
        key = (method, request)
        if (scaled_object := self._requests_seen.get(key, now)) is not None:
            return scaled_object
        ref, metric_name = await self._parse(method, request, context)
        scaled_object = await self._resolve(method, ref, context, now)
        expected = scaled_object.resolved.trigger.metric_name
        if metric_name and metric_name.lower() != expected:
            sentence = f"metricName: {quoted(metric_name)} is not this trigger's: it is {quoted(expected)}"
            await self._refuse(method, context, grpc.StatusCode.INVALID_ARGUMENT, sentence)
        self._remember(key, scaled_object, now, is_declared=scaled_object.resolved.standing.counts)
        return scaled_object

    async def _prepared(self, method: str, scaled_object: ScaledObjectRequest, request: bytes, now: float) -> Prepared:
        """Prepare the trigger of a request, and keep the request with those that ScaledObjects declare."""
        prepared = await self._preparation.prepare(scaled_object.resolved, now)
        resolved = prepared.resolved
        if resolved is not scaled_object.resolved:
            settled = replace(scaled_object, resolved=resolved)
            self._remember((method, request), settled, prepared.at_seconds, is_declared=resolved.standing.counts)
        self._log.log_problems(scaled_object.title, resolved.trigger.hints, resolved.standing)
        return prepared

    def _remember(self, key: _RequestKey, scaled_object: ScaledObjectRequest, now: float, *, is_declared: bool) -> None:
        if len(key[1]) <= _MAX_KNOWN_REQUEST_BYTES:
            self._requests_seen.put(key, scaled_object, now, is_declared=is_declared)

    def _settled(self, resolved: ResolvedTrigger, known: Workload | Unavailable | None, now: float) -> ResolvedTrigger:
        """Return a trigger with the standing that it has now. What is only proposed is declared by no object."""
        if resolved.proposed_spec:
            return self._resolver.with_standing(resolved, Standing.UNDECLARED, now)
        return self._resolver.with_standing(resolved, self._declarations.standing(resolved, known, now), now)

    async def _parse(self, method: str, request: bytes, context: ServicerContext) -> tuple[pb.ScaledObjectRef, str]:
        """Return the reference and the metric name of a request."""
        try:
            if method == "GetMetrics":
                message = pb.GetMetricsRequest.FromString(request)
                return message.scaledObjectRef, message.metricName
            return pb.ScaledObjectRef.FromString(request), ""
        except DecodeError:
            self._undecodable.note(f"/{SERVICE}/{method}", context.peer())
            await self._refuse(method, context, grpc.StatusCode.INVALID_ARGUMENT, NOT_A_MESSAGE)

    async def _resolve(
        self,
        method: str | None,
        ref: pb.ScaledObjectRef,
        context: ServicerContext,
        now: float,
        proposed_spec: str = "",
    ) -> ScaledObjectRequest:
        """Read the trigger; ``method`` is None for a call that is not KEDA's and is not counted."""
        try:
            scaled_object = self._resolver.resolve(ref.scalerMetadata, ref.namespace, ref.name, now, proposed_spec)
        except TriggerError as error:
            title = "/".join(printable_names(ref.namespace, ref.name))
            self._log.log_problems(title, error.problems, Standing.UNDECLARED)  # it was not compared
            if method is not None:
                self._note_refused(ref, error.problems, now)
            await self._refuse(method, context, grpc.StatusCode.INVALID_ARGUMENT, "; ".join(error.problems))
        return scaled_object

    def _note_refused(self, ref: pb.ScaledObjectRef, problems: Sequence[str], now: float) -> None:
        """Note a refused question. Where declarations cannot be read, an older answer may be about its trigger."""
        if self._refused.note_refused(ref.namespace, ref.name, dict(ref.scalerMetadata), problems, now):
            self._answers.discard_object(*printable_names(ref.namespace, ref.name))

    def _look_at_declarations(self, now: float) -> None:
        """Compare what was answered and refused with what is declared now."""
        self._looked_at = now
        declarations = self._cluster.declarations() if self._cluster is not None else {}
        self._answers.discard_undeclared(declarations)
        self._refused.look(declarations, now)
        for trigger in self._refused.triggers():
            self._log.log_problems(f"{trigger.namespace}/{trigger.name}", trigger.problems, Standing.DECLARED)

    def _activity(self, resolved: ResolvedTrigger, now: float) -> bool | None:
        """Return the state that a stream may push, or None while it is unknown."""
        return self._evaluator.evaluate(self._preparation.register(resolved, now)).evaluation.known_activity

    async def _refuse(
        self, method: str | None, context: ServicerContext, code: grpc.StatusCode, sentence: str
    ) -> NoReturn:
        if method is not None:
            self._counters.count_error(method)
        await context.abort(code, sentence)
        raise RuntimeError("ServicerContext.abort has returned")


def _metrics_response(metric_name: str, value: float) -> bytes:
    rounded = round(value, 3)
    metric: Any = pb.MetricValue(metricName=metric_name, metricValue=math.ceil(rounded), metricValueFloat=rounded)
    return pb.GetMetricsResponse(metricValues=[metric]).SerializeToString()


def _address(peer: str) -> str:
    """Return the address of a gRPC peer ("ipv4:10.0.0.1:4711") without its port."""
    return peer.rpartition(":")[0]
