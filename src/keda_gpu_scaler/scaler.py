# SPDX-License-Identifier: Apache-2.0
"""What is KEDA told? Protobuf in, a verdict out: the only place that knows gRPC's status codes.

The law of this module: a call touches no hardware and waits for nothing. KEDA sets no deadline, so a
handler that hung would freeze a ScaledObject; what is answered here was published before it was asked.
"""

import asyncio
import functools
import logging
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import NoReturn

import grpc
from grpc.aio import ServicerContext

from keda_gpu_scaler.core.fleet import Fleet, History
from keda_gpu_scaler.core.ports import RequestCounts
from keda_gpu_scaler.core.trigger import Trigger, TriggerError, parse
from keda_gpu_scaler.core.verdict import Lack, Verdict, evaluate
from keda_gpu_scaler.core.wording import quoted
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc

HEARTBEAT_SECONDS = 60.0
"""A stream repeats an unchanged state after so long; every ``true`` costs KEDA a status write."""
MAX_STREAMS = 2000
"""Above this a stream is refused: each costs memory, and a thousand ScaledObjects are a large cluster."""
METHODS = ("IsActive", "StreamIsActive", "GetMetricSpec", "GetMetrics")

_REMEMBERED = 1024
_TURN_SECONDS = 0.005
_STATUS_OF_LACK: Mapping[Lack | None, grpc.StatusCode] = {
    Lack.UNSEEN: grpc.StatusCode.UNAVAILABLE,
    Lack.ABSENT: grpc.StatusCode.FAILED_PRECONDITION,
}

_log = logging.getLogger(__name__)


@functools.lru_cache(maxsize=_REMEMBERED)
def _parse(metadata: tuple[tuple[str, str], ...]) -> Trigger:
    return parse(dict(metadata))


class Scaler(pb_grpc.ExternalScalerServicer):
    """KEDA's ExternalScaler over a fleet view.

    Args:
        fleet: returns what is known now; called for every answer, so it must be cheap.
        clock: monotonic seconds, the clock that dated the fleet's history.
    """

    def __init__(self, fleet: Callable[[], Fleet], clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._clock = clock
        self._judged: History | None = None
        self._verdicts: dict[Trigger, Verdict] = {}
        self._streams: dict[Trigger, set[_Stream]] = defaultdict(set)
        self._stopping = False
        self._requests: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._log = _ChangeLog()

    def counts(self) -> Mapping[str, RequestCounts]:
        """Return how often each method was asked, and how often it answered with an error."""
        return {method: RequestCounts(self._requests[method], self._errors[method]) for method in METHODS}

    async def GetMetricSpec(self, request: pb.ScaledObjectRef, context: ServicerContext) -> pb.GetMetricSpecResponse:  # noqa: N802
        """Answer with the trigger's name and target: configuration alone, so that KEDA's fallback can work."""
        trigger = await self._trigger("GetMetricSpec", request, context)
        target = round(trigger.target, 3)
        spec = pb.MetricSpec(metricName=trigger.metric_name, targetSize=math.ceil(target), targetSizeFloat=target)
        return pb.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: ServicerContext) -> pb.GetMetricsResponse:  # noqa: N802
        """Answer with the value, or with UNAVAILABLE or FAILED_PRECONDITION and the reason for none."""
        ref = request.scaledObjectRef
        trigger = await self._trigger("GetMetrics", ref, context)
        if request.metricName and request.metricName.lower() != trigger.metric_name:
            sentence = (
                f"metricName: {quoted(request.metricName)} is not this trigger's: it is {quoted(trigger.metric_name)}"
            )
            await self._refuse("GetMetrics", context, grpc.StatusCode.INVALID_ARGUMENT, sentence)
        verdict = self._verdict(trigger)
        self._log.answerable(_title(ref), trigger, verdict)
        if verdict.value is None:
            code = _STATUS_OF_LACK[verdict.lack]
            await self._refuse("GetMetrics", context, code, f"{_title(ref)}: {verdict.reason}")
        value = round(verdict.value, 3)
        metric = pb.MetricValue(metricName=trigger.metric_name, metricValue=math.ceil(value), metricValueFloat=value)
        return pb.GetMetricsResponse(metricValues=[metric])

    async def IsActive(self, request: pb.ScaledObjectRef, context: ServicerContext) -> pb.IsActiveResponse:  # noqa: N802
        """Answer whether the workload should run; what cannot be judged is kept."""
        trigger = await self._trigger("IsActive", request, context)
        return pb.IsActiveResponse(result=self._verdict(trigger).active)

    async def StreamIsActive(  # noqa: N802
        self, request: pb.ScaledObjectRef, context: ServicerContext
    ) -> AsyncIterator[pb.IsActiveResponse]:
        """Push the state at once, on every change, and as a slow heartbeat; end with OK on shutdown.

        What is unknown is not pushed: a stream can only wake a workload, and ignorance wakes nobody. The
        state pushed before stands until something is known again.
        """
        trigger = await self._trigger("StreamIsActive", request, context)
        if sum(map(len, self._streams.values())) >= MAX_STREAMS:
            sentence = f"{MAX_STREAMS} streams are open, the most there may be; is a client leaking them?"
            await self._refuse("StreamIsActive", context, grpc.StatusCode.UNAVAILABLE, sentence)
        stream = _Stream()
        self._streams[trigger].add(stream)
        try:
            await context.send_initial_metadata(())  # the stream stands, also while there is nothing to push
            async for active in self._states(trigger, stream):
                yield pb.IsActiveResponse(result=active)
        finally:
            self._streams[trigger].discard(stream)
            if not self._streams[trigger]:
                del self._streams[trigger]

    async def published(self) -> None:
        """Wake the streams whose state changed; to be called in the event loop after every snapshot.

        Each distinct trigger is judged once, however many streams share it, and other calls get their turn
        every few milliseconds.
        """
        turn_began = self._clock()
        for trigger in list(self._streams):
            active = self._known_activity(trigger)
            for stream in self._streams.get(trigger, ()):
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

    async def _states(self, trigger: Trigger, stream: "_Stream") -> AsyncGenerator[bool, None]:
        pushed_at = 0.0
        while not self._stopping:
            stream.wake.clear()
            active = self._known_activity(trigger)
            now = self._clock()
            if active is not None and (active != stream.pushed or now - pushed_at >= HEARTBEAT_SECONDS):
                stream.pushed, pushed_at = active, now
                yield active
            try:
                async with asyncio.timeout(trigger.poll_interval_seconds):
                    await stream.wake.wait()
            except TimeoutError:
                continue

    async def _trigger(self, method: str, ref: pb.ScaledObjectRef, context: ServicerContext) -> Trigger:
        self._requests[method] += 1
        try:
            trigger = _parse(tuple(sorted(ref.scalerMetadata.items())))
        except TriggerError as error:
            self._log.problems(_title(ref), error)
            await self._refuse(method, context, grpc.StatusCode.INVALID_ARGUMENT, "; ".join(error.problems))
        self._log.hints(_title(ref), trigger)
        return trigger

    async def _refuse(self, method: str, context: ServicerContext, code: grpc.StatusCode, sentence: str) -> NoReturn:
        self._errors[method] += 1
        await context.abort(code, sentence)
        raise AssertionError("abort always raises")

    def _known_activity(self, trigger: Trigger) -> bool | None:
        """Return what a stream may push: the state, or None while it is unknown."""
        verdict = self._verdict(trigger)
        return None if verdict.value is None else verdict.active

    def _verdict(self, trigger: Trigger) -> Verdict:
        """Judge; a value at most once for each snapshot, while the verdict holds."""
        fleet, now = self._fleet(), self._clock()
        if fleet.history is not self._judged:
            # What was judged by an older history is of no use, and would keep that history in memory.
            self._judged = fleet.history
            self._verdicts.clear()
        remembered = self._verdicts.get(trigger)
        if remembered is not None and now <= remembered.holds_until_seconds:
            return remembered
        verdict = evaluate(trigger, fleet, now)
        if now <= verdict.holds_until_seconds and len(self._verdicts) < _REMEMBERED:
            self._verdicts[trigger] = verdict
        return verdict


class _Stream:
    """One open StreamIsActive: what it was told last, and a way to wake it."""

    __slots__ = ("pushed", "wake")

    def __init__(self) -> None:
        self.pushed: bool | None = None
        self.wake = asyncio.Event()


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

    def answerable(self, title: str, trigger: Trigger, verdict: Verdict) -> None:
        subject = (title, trigger)
        # The kind of lack, not its sentence: an age in it changes with every poll.
        if verdict.lack is not None:
            if self._is_news(subject, verdict.lack.value):
                _log.warning("%s: %s has no value: %s", title, trigger.metric_name, verdict.reason)
        elif self._said.pop(subject, None) is not None:
            _log.info("%s: %s has a value again", title, trigger.metric_name)

    def _is_news(self, subject: tuple[str, str | Trigger], text: str) -> bool:
        if self._said.get(subject) == text:
            return False
        self._said[subject] = text
        while len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)
        return True


def _title(ref: pb.ScaledObjectRef) -> str:
    # Kubernetes names are plain ASCII; a stranger's may be anything, and end up in logs and status texts.
    return ascii(f"{ref.namespace[:63]}/{ref.name[:253]}")[1:-1]
