# SPDX-License-Identifier: Apache-2.0
"""Tests of the ExternalScaler service with fakes."""

import asyncio
import contextlib
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.instance_status import REQUEST_BUCKETS_SECONDS, RecentAnswer
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.parser import PARAMETERS, Trigger, parse_trigger
from keda_gpu_scaler.server import recent_answers as answers_module
from keda_gpu_scaler.server import streams as streams_module
from keda_gpu_scaler.server.external_scaler import ExternalScaler
from keda_gpu_scaler.server.request_resolver import ResolvedTrigger
from keda_gpu_scaler.server.streams import HEARTBEAT_SECONDS, ActivityStream
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from tests.fakes import ManualClock, fleet_of, sample, sample_without_readings
from tests.limits import WAIT_SECONDS


class Bench:
    """A scaler behind a real gRPC server on loopback, over a fleet view that the test sets."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.fleet = fleet_of([sample(0, 0.92)])
        self.answered: list[RecentAnswer] = []
        self.scaler = ExternalScaler(lambda: self.fleet, self.clock, on_answer=self.answered.append)
        self.stub: Any = None

    async def see(self, utilization: float | None, *, after_seconds: float = 1.0) -> None:
        """Let time pass and a new snapshot be published."""
        self.clock.advance(after_seconds)
        self.fleet = fleet_of([sample(0, utilization)], last_at=self.clock.now)
        await self.scaler.wake_streams()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Bench"]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self.scaler.handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                self.stub = pb_grpc.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]
                yield self
        finally:
            await server.stop(None)


def ref(**metadata: str) -> pb.ScaledObjectRef:
    # Without a cluster the replicas are unknown, and only an average can be reported.
    return pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata={"report": "average", **metadata})


def metrics(metric_name: str = "", **metadata: str) -> pb.GetMetricsRequest:
    return pb.GetMetricsRequest(scaledObjectRef=ref(**metadata), metricName=metric_name)


def on(bench: Bench, talk: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        async with bench.serving(), asyncio.timeout(WAIT_SECONDS):
            await talk(bench)

    asyncio.run(run())


async def refusal(call: Coroutine[Any, Any, Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def test_the_spec_is_one_metric_with_its_target_in_both_fields() -> None:
    async def talk(bench: Bench) -> None:
        answer = await bench.stub.GetMetricSpec(ref(targetValue="72.34567"))
        assert answer == pb.GetMetricSpecResponse(
            metricSpecs=[pb.MetricSpec(metricName="keda_gpu_metric", targetSize=73, targetSizeFloat=72.346)]
        )

    on(Bench(), talk)


def test_the_spec_is_configuration_and_needs_no_reading() -> None:
    bench = Bench()
    bench.fleet = Fleet(None, 10.0, failure="no driver")

    async def talk(bench: Bench) -> None:
        answer = await bench.stub.GetMetricSpec(ref())
        assert answer.metricSpecs[0].targetSizeFloat == 80

    on(bench, talk)


@pytest.mark.parametrize(
    ("utilization", "value_float", "value_integer"),
    [
        pytest.param(0.92, 92.0, 92, id="whole per cent"),
        pytest.param(0.9234567, 92.346, 93, id="three decimals, and the ceiling for KEDA before 2.17"),
        pytest.param(0.07, 7.0, 7, id="binary noise does not reach the ceiling"),
        pytest.param(0.000001, 0.0, 0, id="what rounds to nothing is nothing in both fields"),
        pytest.param(0.0, 0.0, 0, id="idle"),
    ],
)
def test_the_value_is_one_metric_in_both_fields(utilization: float, value_float: float, value_integer: int) -> None:
    bench = Bench()
    bench.fleet = fleet_of([sample(0, utilization)])

    async def talk(bench: Bench) -> None:
        answer = await bench.stub.GetMetrics(metrics("keda_gpu_metric"))
        [value] = answer.metricValues
        assert (value.metricName, value.metricValueFloat, value.metricValue) == (
            "keda_gpu_metric",
            value_float,
            value_integer,
        )

    on(bench, talk)


@pytest.mark.parametrize("name", ["keda_gpu_metric", "KEDA_gpu_Metric", ""])
def test_the_metric_name_is_matched_without_regard_to_case(name: str) -> None:
    async def talk(bench: Bench) -> None:
        assert (await bench.stub.GetMetrics(metrics(name))).metricValues[0].metricName == "keda_gpu_metric"

    on(Bench(), talk)


@pytest.mark.parametrize(
    ("request_", "code", "sentence"),
    [
        pytest.param(
            metrics("power"),
            grpc.StatusCode.INVALID_ARGUMENT,
            'metricName: "power" is not this trigger\'s: it is "keda_gpu_metric"',
            id="a metric this trigger does not have",
        ),
        pytest.param(
            metrics(targetValue="eighty", metricType="gpu_util"),
            grpc.StatusCode.INVALID_ARGUMENT,
            'metadata.metricType: Unsupported value: "gpu_util": did you mean "gpu_utilization"?; '
            'metadata.targetValue: Invalid value: "eighty": must be a plain number from 0.001 to 1e+12, without a unit',
            id="metadata with two problems",
        ),
        pytest.param(
            metrics(gpuIndex="4"),
            grpc.StatusCode.FAILED_PRECONDITION,
            "ai/llama: metadata.gpuIndex: node gpu-7 has no device 4: it has 0; -1 means all",
            id="a device that is not there",
        ),
    ],
)
def test_an_invalid_request_gets_a_status_and_a_sentence(
    request_: pb.GetMetricsRequest, code: grpc.StatusCode, sentence: str
) -> None:
    async def talk(bench: Bench) -> None:
        assert await refusal(bench.stub.GetMetrics(request_)) == (code, sentence)

    on(Bench(), talk)


@pytest.mark.parametrize(
    ("fleet", "sentence"),
    [
        pytest.param(Fleet(None, 10.0), "ai/llama: no sample yet", id="nothing sampled yet"),
        pytest.param(
            fleet_of([sample()], last_at=959.0),
            "ai/llama: no fresh sample: node gpu-7 last answered 41 s ago (limit 10 s)",
            id="stale",
        ),
        pytest.param(
            fleet_of([sample_without_readings()]),
            "ai/llama: gpu_utilization is unknown for 1 of 1 devices: GPU 0 (GPU-0000) of node gpu-7 has no reading "
            "of gpu_utilization; there is no value until they have a reading. Repair them, use another metricType, or "
            "narrow the trigger",
            id="lost card",
        ),
    ],
)
def test_law_1_unknown_is_unavailable_from_getmetrics_and_true_from_isactive(fleet: Fleet, sentence: str) -> None:
    bench = Bench()
    bench.fleet = fleet

    async def talk(bench: Bench) -> None:
        assert await refusal(bench.stub.GetMetrics(metrics())) == (grpc.StatusCode.UNAVAILABLE, sentence)
        assert (await bench.stub.IsActive(ref(activationThreshold="99"))).result is True

    on(bench, talk)


@pytest.mark.parametrize(("threshold", "active"), [("91", True), ("92", False)])
def test_isactive_is_strictly_above_the_threshold(threshold: str, active: bool) -> None:
    async def talk(bench: Bench) -> None:
        assert (await bench.stub.IsActive(ref(activationThreshold=threshold))).result is active

    on(Bench(), talk)


@pytest.mark.parametrize("method", ["GetMetricSpec", "IsActive"])
def test_every_method_refuses_bad_metadata(method: str) -> None:
    async def talk(bench: Bench) -> None:
        code, sentence = await refusal(getattr(bench.stub, method)(ref(targetValue="x")))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "metadata.targetValue" in sentence

    on(Bench(), talk)


def test_a_stream_refuses_bad_metadata() -> None:
    async def talk(bench: Bench) -> None:
        code, _ = await refusal(bench.stub.StreamIsActive(ref(targetValue="x")).read())
        assert code is grpc.StatusCode.INVALID_ARGUMENT

    on(Bench(), talk)


def test_a_stream_sends_at_once_and_then_on_change() -> None:
    async def talk(bench: Bench) -> None:
        stream = bench.stub.StreamIsActive(ref(activationThreshold="50"))
        assert (await stream.read()).result is True
        await bench.see(0.91)
        await bench.see(0.10)
        assert (await stream.read()).result is False
        await bench.see(0.80)
        assert (await stream.read()).result is True

    on(Bench(), talk)


def test_law_1_a_stream_pushes_no_unknown_state_and_pushes_the_next_known_one() -> None:
    bench = Bench()
    bench.fleet = Fleet(None, 10.0)

    async def talk(bench: Bench) -> None:
        stream = bench.stub.StreamIsActive(ref(activationThreshold="50"))
        await stream.wait_for_connection()
        first = asyncio.ensure_future(stream.read())
        await bench.see(None)
        await bench.see(0.10)
        assert (await first).result is False
        await bench.see(None)
        await bench.see(0.10)
        await bench.see(0.90)
        assert (await stream.read()).result is True

    on(bench, talk)


def test_a_stream_that_opens_while_the_state_is_unknown_gets_the_next_known_state() -> None:
    async def talk(bench: Bench) -> None:
        informed = bench.stub.StreamIsActive(ref())
        assert (await informed.read()).result is True
        bench.clock.advance(60)
        late = bench.stub.StreamIsActive(ref())
        await late.wait_for_connection()
        reading = asyncio.ensure_future(late.read())
        await bench.see(0.92)
        assert (await reading).result is True

    on(Bench(), talk)


def test_a_stream_repeats_an_unchanged_state_as_a_slow_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.fleet = replace(bench.fleet, stale_after_seconds=1e9)

    def timeout(seconds: float) -> asyncio.Timeout:
        """Run out at once, in real time; on the manual clock the whole wait passes."""
        bench.clock.advance(seconds)
        return asyncio.timeout_at(0)

    monkeypatch.setattr(streams_module, "asyncio", SimpleNamespace(timeout=timeout, Event=asyncio.Event))

    async def pushes() -> list[tuple[float, bool]]:
        trigger, pushed = parse_trigger({"pollIntervalSeconds": "7", "report": "average"}), []
        stream = ActivityStream(ResolvedTrigger(trigger), "ipv4:10.0.0.1")
        async with contextlib.aclosing(bench.scaler._streams.states(stream)) as states:
            async for active in states:
                pushed.append((bench.clock.now - 1000, active))
                if len(pushed) == 3:
                    return pushed
        return pushed

    # Re-evaluated every seven seconds, repeated at the first of these moments after a whole minute.
    assert HEARTBEAT_SECONDS == 60
    assert asyncio.run(pushes()) == [(0, True), (63, True), (126, True)]


def test_streams_end_with_ok_on_shutdown_and_new_ones_at_once() -> None:
    async def talk(bench: Bench) -> None:
        stream = bench.stub.StreamIsActive(ref())
        await stream.read()
        bench.scaler.stop()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        late = bench.stub.StreamIsActive(ref())
        assert await late.read() is grpc.aio.EOF

    on(Bench(), talk)


def test_streams_are_bounded_and_closed_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "MAX_STREAMS", 2)

    async def talk(bench: Bench) -> None:
        streams = [bench.stub.StreamIsActive(ref(gpuIndex="0")), bench.stub.StreamIsActive(ref())]
        for stream in streams:
            await stream.read()
        code, sentence = await refusal(bench.stub.StreamIsActive(ref()).read())
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "2 streams are open" in sentence
        streams[0].cancel()
        while len(bench.scaler._streams) > 1:
            await asyncio.sleep(0)
        assert (await bench.stub.StreamIsActive(ref()).read()).result is True

    on(Bench(), talk)


def test_law_3_the_same_call_over_one_snapshot_is_evaluated_once() -> None:
    bench = Bench()
    evaluated = 0

    def counting(*arguments: Any) -> Any:
        nonlocal evaluated
        evaluated += 1
        return evaluate(*arguments)

    async def talk(bench: Bench) -> None:
        answers = {(await bench.stub.GetMetrics(metrics())).SerializeToString() for _ in range(5)}
        assert len(answers) == 1
        assert evaluated == 1
        await bench.see(0.5)
        value = (await bench.stub.GetMetrics(metrics())).metricValues[0].metricValueFloat
        assert value == 50.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keda_gpu_scaler.server.evaluator.evaluate", counting)
        on(bench, talk)


def test_a_superseded_history_is_not_kept() -> None:
    bench = Bench()

    async def talk(bench: Bench) -> None:
        await bench.stub.GetMetrics(metrics(gpuIndex="0"))
        assert bench.fleet.history is not None
        companion = ManualClock()  # lives as long as the history's cache
        bench.fleet.history.cache["companion"] = companion
        old = weakref.ref(companion)
        del companion
        await bench.see(0.5)
        await bench.stub.GetMetrics(metrics())
        gc.collect()
        assert old() is None

    on(bench, talk)


def test_other_calls_get_their_turn_while_many_streams_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    evaluating: list[str] = []

    def slow(trigger: Trigger, fleet: Fleet, now: float, *_: object) -> Evaluation:
        bench.clock.advance(0.004)
        evaluating.append("a trigger")
        return evaluate(trigger, replace(fleet, stale_after_seconds=1e9), now)

    async def other_call() -> None:
        evaluating.append("another call")

    async def talk(bench: Bench) -> None:
        for index in range(6):
            stream = bench.stub.StreamIsActive(ref(windowSeconds=str(index)))
            assert (await stream.read()).result is True
        monkeypatch.setattr("keda_gpu_scaler.server.evaluator.evaluate", slow)
        bench.fleet = fleet_of([sample(0, 0.92)], last_at=bench.clock.now, stale_after=1e9)
        other = asyncio.ensure_future(other_call())
        await bench.scaler.wake_streams()
        await other
        assert evaluating == ["a trigger", "a trigger", "another call", *["a trigger"] * 4]

    on(bench, talk)


def test_requests_and_errors_are_counted_by_method() -> None:
    async def talk(bench: Bench) -> None:
        await bench.stub.IsActive(ref())
        await bench.stub.GetMetrics(metrics())
        await refusal(bench.stub.GetMetrics(metrics(gpuIndex="9")))
        await refusal(bench.stub.GetMetricSpec(ref(targetValue="x")))
        counts = {method: (one.requests, one.errors) for method, one in bench.scaler.counts().items()}
        assert counts == {"IsActive": (1, 0), "StreamIsActive": (0, 0), "GetMetricSpec": (1, 1), "GetMetrics": (2, 1)}

    on(Bench(), talk)


def test_durations_are_counted_by_method_errors_included(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    def slow(*arguments: Any, **more: Any) -> Evaluation:
        bench.clock.advance(0.25)
        return evaluate(*arguments, **more)

    monkeypatch.setattr("keda_gpu_scaler.server.evaluator.evaluate", slow)

    async def talk(bench: Bench) -> None:
        bench.fleet = fleet_of([sample(0, 0.92)], last_at=bench.clock.now, stale_after=1e9)
        await bench.stub.GetMetrics(metrics())
        await bench.stub.IsActive(ref())  # answered with the evaluation from before
        await refusal(bench.stub.GetMetrics(metrics(gpuIndex="9")))
        await refusal(bench.stub.GetMetricSpec(ref(targetValue="x")))
        await bench.stub.StreamIsActive(ref()).read()
        counts = bench.scaler.counts()
        at = {bound: place for place, bound in enumerate(REQUEST_BUCKETS_SECONDS)}
        assert counts["GetMetrics"].duration_buckets[at[0.25]] == 2
        assert counts["GetMetrics"].duration_seconds_sum == 0.5
        assert counts["IsActive"].duration_buckets[0] == 1
        assert counts["GetMetricSpec"].duration_buckets[0] == 1
        assert counts["StreamIsActive"].duration_buckets == ()
        for one in counts.values():
            assert sum(one.duration_buckets) in (0, one.requests)

    on(bench, talk)


def test_a_trigger_is_logged_when_it_loses_its_value_and_has_one_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="keda_gpu_scaler")

    async def talk(bench: Bench) -> None:
        for utilization in (None, None, 0.5, 0.5):
            await bench.see(utilization, after_seconds=20)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await bench.stub.GetMetrics(metrics(target="x"))

    on(Bench(), talk)
    assert [message.split(":")[0:2] for message in caplog.messages] == [
        ["ai/llama", " metadata"],
        ["ai/llama", " keda_gpu_metric has no value"],
        ["ai/llama", " keda_gpu_metric has a value again"],
    ]


def test_bad_metadata_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def talk(bench: Bench) -> None:
        for _ in range(3):
            await refusal(bench.stub.IsActive(ref(targetValue="x")))

    on(Bench(), talk)
    assert len(caplog.messages) == 1


keys = st.one_of(st.sampled_from([parameter.key for parameter in PARAMETERS]), st.text(max_size=20))
words = st.one_of(st.text(max_size=30), st.floats().map(str), st.sampled_from(["gpu_utilization", "80", "batch", "-1"]))


@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.dictionaries(keys, words, max_size=8), st.text(max_size=20), st.text(max_size=20)),
        min_size=30,
        max_size=30,
    )
)
def test_any_metadata_gets_an_answer_or_invalid_argument_and_never_a_nan(
    requests: list[tuple[dict[str, str], str, str]],
) -> None:
    expected = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}

    async def talk(bench: Bench) -> None:
        for metadata, name, metric_name in requests:
            scaled_object = pb.ScaledObjectRef(name=name, namespace=name, scalerMetadata=metadata)
            try:
                spec = (await bench.stub.GetMetricSpec(scaled_object)).metricSpecs[0]
                request = pb.GetMetricsRequest(scaledObjectRef=scaled_object, metricName=metric_name)
                value = (await bench.stub.GetMetrics(request)).metricValues[0]
                await bench.stub.IsActive(scaled_object)
            except grpc.aio.AioRpcError as error:
                code = error.code()
            else:
                code = None
                assert spec.targetSizeFloat >= 0.001
                assert value.metricValueFloat >= 0
            assert code is None or code in expected

    on(Bench(), talk)


# ---- recent answers ----


def test_the_last_answer_to_a_trigger_is_kept() -> None:
    async def talk(bench: Bench) -> None:
        await bench.stub.GetMetrics(metrics(targetValue="50"))
        [answer] = bench.scaler.answers()
        assert (answer.namespace, answer.name, answer.metric_name) == ("ai", "llama", "keda_gpu_metric")
        assert (answer.metric, answer.target, answer.value) == ("gpu_utilization", 50.0, 92.0)
        assert (answer.active, answer.with_value, answer.expected) == (True, 1, 1)
        await bench.see(None)
        await refusal(bench.stub.GetMetrics(metrics(targetValue="50")))
        [answer] = bench.scaler.answers()
        assert (answer.value, answer.active) == (None, True)

    on(Bench(), talk)


def test_a_recent_answer_holds_the_steps_and_the_reason_of_its_evaluation() -> None:
    async def talk(bench: Bench) -> None:
        await bench.stub.GetMetrics(metrics())
        [answer] = bench.scaler.answers()
        explained = evaluate(parse_trigger({"report": "average"}), bench.fleet, bench.clock.now)
        assert (answer.value, answer.steps, answer.reason) == (92.0, explained.steps, "")
        assert answer.at_seconds == bench.clock.now
        await bench.see(None)
        code, details = await refusal(bench.stub.GetMetrics(metrics()))
        [answer] = bench.scaler.answers()
        assert details == f"ai/llama: {answer.reason}"
        assert code is grpc.StatusCode.UNAVAILABLE
        assert answer.reason in answer.steps
        assert [one.value for one in bench.answered] == [92.0, None]
        assert bench.answered[-1] is answer

    on(Bench(), talk)


@pytest.mark.parametrize(("devices", "kept"), [(10, None), (500, 51)])
def test_the_first_and_the_last_of_many_steps_are_kept(devices: int, kept: int | None) -> None:
    bench = Bench()
    bench.fleet = fleet_of([sample(index, index / 1000) for index in range(devices)])

    async def talk(bench: Bench) -> None:
        await bench.stub.GetMetrics(metrics())
        [answer] = bench.scaler.answers()
        steps = evaluate(parse_trigger({"report": "average"}), bench.fleet, bench.clock.now).steps
        assert len(answer.steps) == (kept or len(steps))
        assert (answer.steps[0], answer.steps[-1]) == (steps[0], steps[-1])
        if kept:
            assert f"({len(steps) - 50} more)" in answer.steps

    on(bench, talk)


def test_an_answer_that_is_not_given_again_expires() -> None:
    async def talk(bench: Bench) -> None:
        await bench.stub.GetMetrics(metrics())
        bench.clock.advance(answers_module.RECENT_SECONDS - 1)
        await refusal(bench.stub.GetMetrics(metrics(metricType="power_draw")))
        assert len(bench.scaler.answers()) == 2
        bench.clock.advance(2)
        assert [answer.metric for answer in bench.scaler.answers()] == ["power_draw"]

    on(Bench(), talk)


def test_the_number_of_recent_answers_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "MAX_ANSWERS", 2)

    async def talk(bench: Bench) -> None:
        for metric in ("gpu_utilization", "power_draw", "temperature", "gpu_utilization"):
            await bench.stub.GetMetrics(metrics(metricType=metric))
        assert [answer.metric for answer in bench.scaler.answers()] == ["temperature", "gpu_utilization"]

    on(Bench(), talk)
