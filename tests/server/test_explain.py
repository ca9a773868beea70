# SPDX-License-Identifier: Apache-2.0
"""Explain: the evaluation that KEDA is answered with, and everything that led to it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.core.comparison import Comparison, ReplicaLimits
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.evaluate.observation import ObservationState, PodObservation
from keda_gpu_scaler.core.instance_status import RecentAnswer, RefusedTrigger
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.state.scrape import ScrapeAttempt, ScrapeAttempts
from keda_gpu_scaler.core.trigger.parser import Scope, parse_trigger
from keda_gpu_scaler.core.types import DeclaredTrigger, Unavailable, Workload
from keda_gpu_scaler.server import evaluator as evaluator_module
from keda_gpu_scaler.server import explain as explain_module
from keda_gpu_scaler.server.explain import EvaluationService, explanation
from keda_gpu_scaler.server.external_scaler import ExternalScaler
from keda_gpu_scaler.server.workload_list import MAX_LISTED, workload_list
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb
from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from tests.fakes import FakeCluster, FakePeers, ManualClock, device, node_history, pod, sample, workload
from tests.limits import WAIT_SECONDS

HERE = node_history(
    "gpu-7", sample(0, 0.92), sample(1, 0.1), held={device(0).uuid: "llama-0", device(1).uuid: "llama-1"}
)


class Bench:
    """A scaler with the clients of KEDA and of ``explain``; ``evaluated`` holds every evaluation."""

    def __init__(
        self,
        known: Workload | Unavailable,
        monkeypatch: pytest.MonkeyPatch,
        *,
        history: History = HERE,
        deviceless: bool = False,
    ) -> None:
        self.clock = ManualClock()
        fleet = Fleet(history, 10.0, deviceless=deviceless, own_node="gpu-7")
        self.scaler = ExternalScaler(lambda: fleet, self.clock, FakeCluster(llama=known), FakePeers())
        self.evaluated: list[Evaluation] = []

        def evaluating(*arguments: Any) -> Evaluation:
            self.evaluated.append(evaluate(*arguments))
            return self.evaluated[-1]

        monkeypatch.setattr(evaluator_module, "evaluate", evaluating)

    def on(self, talk: Callable[[Any, Any, pb.ScaledObjectRef], Awaitable[None]], **metadata: str) -> None:
        async def run() -> None:
            server = grpc.aio.server()
            server.add_generic_rpc_handlers((self.scaler.handlers(),))
            evaluation_pb_grpc.add_EvaluationsServicer_to_server(  # type: ignore[no-untyped-call]
                EvaluationService(self.scaler), server
            )
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(WAIT_SECONDS):
                keda = pb_grpc.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]
                commands = evaluation_pb_grpc.EvaluationsStub(channel)  # type: ignore[no-untyped-call]
                await talk(keda, commands, pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata=metadata))
            await server.stop(None)

        asyncio.run(run())


def test_keda_s_answer_and_its_explanation_are_one_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(workload(pod("llama-0"), pod("llama-1")), monkeypatch)

    async def talk(keda: Any, commands: Any, ref: pb.ScaledObjectRef) -> None:
        answer = await keda.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref))
        state = await keda.IsActive(ref)
        message = await commands.Explain(ref)
        (evaluation,) = bench.evaluated
        assert message.value == answer.metricValues[0].metricValueFloat == evaluation.value == 102.0
        assert message.active is state.result is evaluation.active is True
        assert tuple(message.steps) == evaluation.steps

    bench.on(talk)


def test_an_error_of_keda_s_is_explained_by_the_same_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(workload(pod("llama-0", "gpu-9"), pod("llama-1", "gpu-9")), monkeypatch)

    async def talk(keda: Any, commands: Any, ref: pb.ScaledObjectRef) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await keda.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref))
        message = await commands.Explain(ref)
        assert not message.HasField("value")
        assert caught.value.details() == f"ai/llama: {message.reason}"
        assert (message.no_value_reason, message.with_value, message.expected) == ("unavailable", 0, 2)
        assert [(observation.pod, observation.state) for observation in message.observations] == [
            ("llama-0", "missing"),
            ("llama-1", "missing"),
        ]

    bench.on(talk)


def test_every_pod_is_listed_with_its_node_its_devices_and_their_age(monkeypatch: pytest.MonkeyPatch) -> None:
    starting = pod("llama-2", ready=False, age=5.0)
    bench = Bench(workload(pod("llama-0"), pod("llama-1"), starting), monkeypatch)
    bench.clock.advance(4.0)

    async def talk(keda: Any, commands: Any, ref: pb.ScaledObjectRef) -> None:
        message = await commands.Explain(ref)
        first, _, third = message.observations
        assert (first.pod, first.node, first.ready, first.state, first.value) == (
            "llama-0",
            "gpu-7",
            True,
            "observed",
            92.0,
        )
        assert first.age_seconds == 4.0
        expected = evaluation_pb.ObservedDevice(
            index=0, model="NVIDIA H100", uuid=device(0).uuid, value=92.0, sharers=1
        )
        assert list(first.devices) == [expected]
        assert (third.pod, third.ready, third.state, third.HasField("age_seconds")) == (
            "llama-2",
            False,
            "no_device",
            False,
        )
        assert message.workload == evaluation_pb.Workload(
            kind="ScaledObject", target="Deployment llama", wanted=3, actual=3, ready=2
        )
        assert (message.instance, message.metric, message.unit, message.value_type) == (
            "gpu-7",
            "gpu_utilization",
            "%",
            "AverageValue",
        )

    bench.on(talk)


def test_a_scope_without_pods_is_listed_device_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(workload(pod("llama-0"), metric_type="Value"), monkeypatch)

    async def talk(keda: Any, commands: Any, ref: pb.ScaledObjectRef) -> None:
        message = await commands.Explain(ref)
        assert [
            (observation.pod, observation.node, observation.devices[0].index, observation.value)
            for observation in message.observations
        ] == [
            ("", "gpu-7", 0, 92.0),
            ("", "gpu-7", 1, 10.0),
        ]
        assert (message.scope, message.value_type, message.value) == ("node", "Value", 92.0)

    bench.on(talk, scope="node")


def test_unknown_demand_has_a_sentence_and_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(workload(replicas=0), monkeypatch)

    async def talk(keda: Any, commands: Any, ref: pb.ScaledObjectRef) -> None:
        message = await commands.Explain(ref)
        assert message.demand == evaluation_pb.Demand(
            sentence=message.demand.sentence
        )  # neither a value nor whether it wakes
        assert message.demand.sentence
        assert {one.key: one.origin for one in message.settings}["demandEndpoint"] == "given"

    bench.on(talk, demandEndpoint="http://gateway:8080/metrics", demandMetric="requests")


def test_an_unknown_workload_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(Unavailable("ai/llama: there is none", is_permanent=True), monkeypatch)

    async def talk(keda: Any, commands: Any, ref: pb.ScaledObjectRef) -> None:
        message = await commands.Explain(ref)
        assert not message.HasField("workload")
        assert (message.value_type, message.no_value_reason, message.reason) == (
            "",
            "misconfigured",
            "ai/llama: there is none",
        )

    bench.on(talk)


def test_the_first_observations_are_listed_and_the_rest_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_module, "MAX_OBSERVATIONS", 1)
    bench = Bench(workload(pod("llama-0"), pod("llama-1")), monkeypatch)

    async def talk(keda: Any, commands: Any, ref: pb.ScaledObjectRef) -> None:
        message = await commands.Explain(ref)
        assert ([observation.pod for observation in message.observations], message.observations_omitted) == (
            ["llama-0"],
            1,
        )

    bench.on(talk)


# ---- the URLs that were asked ----

ASKED_AT = 990.0


def attempts_of(engines: int, rejected: int) -> ScrapeAttempts:
    def attempt(port: int, failure: str | None) -> ScrapeAttempt:
        status, url = (200, f"http://10.0.0.1:{port}/metrics")
        return ScrapeAttempt(url, None if failure else status, failure, ("asked less often",), ASKED_AT, 0.25)

    return ScrapeAttempts(
        tuple(attempt(8000 + number, None) for number in range(engines)),
        tuple(attempt(9000 + number, "the connection is refused") for number in range(rejected)),
    )


def message_of(*observations: PodObservation) -> evaluation_pb.Evaluation:
    known = workload(*(one.pod for one in observations))
    evaluated = Evaluation(Scope.WORKLOAD, 1.0, True, (), observations=observations, fallback="by devices")
    return explanation(parse_trigger({}), evaluated, known, {}, Fleet(None, 10.0), 1000.0)


def observed(attempts: ScrapeAttempts, name: str = "llama-0") -> PodObservation:
    return PodObservation(pod(name), ObservationState.OBSERVED, 1.0, "1 %", attempts=attempts)


def test_a_pod_lists_each_url_with_its_answer_and_the_engines_first() -> None:
    message = message_of(observed(attempts_of(1, 1)))
    [first, second] = message.observations[0].attempts
    assert (first.url, first.engine, first.status, first.failure) == ("http://10.0.0.1:8000/metrics", True, 200, "")
    assert (first.age_seconds, first.answer_seconds, list(first.remarks)) == (10.0, 0.25, ["asked less often"])
    assert (second.engine, second.HasField("status"), second.failure) == (False, False, "the connection is refused")
    assert (message.fallback, message.observations[0].attempts_omitted) == ("by devices", 0)


@pytest.mark.parametrize("pods", [1, 100, 1000, 1500])
def test_the_number_of_urls_is_limited_and_each_engine_comes_before_other_places(pods: int) -> None:
    attempts = attempts_of(20, 16)
    message = message_of(*(observed(attempts, f"llama-{number}") for number in range(pods)))
    sent = [list(one.attempts) for one in message.observations]
    assert sum(map(len, sent)) <= explain_module.MAX_ATTEMPTS
    assert all(one and one[0].engine for one in sent)
    assert all(one.attempts_omitted == 36 - len(one.attempts) for one in message.observations)
    assert message.ByteSize() < 4 << 20


def test_a_preview_is_evaluated_for_the_proposed_workload_and_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Unavailable(
        "ai/llama: there is no ScaledObject and no ScaledJob of this name", is_permanent=True, triggers=()
    )
    bench = Bench(gone, monkeypatch)
    cluster = bench.scaler._preparation._cluster
    assert isinstance(cluster, FakeCluster)
    cluster.proposed = workload(pod("llama-0"), pod("llama-1"))

    async def talk(keda: Any, commands: Any, ref: pb.ScaledObjectRef) -> None:
        message = await commands.Preview(evaluation_pb.PreviewRequest(scaled_object=ref, spec="{}"))
        assert (message.value, message.comparison.measured, message.pending) == (102.0, 51.0, False)
        assert not (await commands.Explain(ref)).HasField("value")
        with pytest.raises(grpc.aio.AioRpcError):
            await keda.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref))
        assert not (await commands.ListWorkloads(evaluation_pb.ListWorkloadsRequest(max_points=9))).answers

    bench.on(talk)


def test_the_workloads_are_those_that_keda_asked_for_and_listing_evaluates_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(workload(pod("llama-0"), pod("llama-1"), limits=ReplicaLimits(1, 6)), monkeypatch)

    async def talk(keda: Any, commands: Any, ref: pb.ScaledObjectRef) -> None:
        request = evaluation_pb.ListWorkloadsRequest(max_points=360)
        await commands.Explain(ref)
        assert not (await commands.ListWorkloads(request)).answers  # a command asked, and KEDA did not
        await keda.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref))
        listed = await commands.ListWorkloads(request)
        assert listed == await commands.ListWorkloads(request)
        [shown] = listed.answers
        numbers = shown.comparison
        assert (shown.namespace, shown.name, numbers.measured, numbers.reported) == ("ai", "llama", 51.0, 102.0)
        assert (numbers.current_replicas, numbers.desired_replicas, numbers.limit, shown.active) == (2, 2, "none", True)
        [point] = shown.history.points
        assert (point.steps_ago, point.measured, point.replicas, point.max_replicas) == (0, 51.0, 2, 6)
        assert len(bench.evaluated) == 1

    bench.on(talk)


def test_the_list_of_workloads_has_the_last_answers_and_the_refused_triggers(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"profile": "tritn-inference"}
    triggers = (DeclaredTrigger({}, "AverageValue"), DeclaredTrigger(wrong, "AverageValue"))
    limits = ReplicaLimits(1, 2)
    bench = Bench(workload(pod("llama-0"), pod("llama-1"), triggers=triggers, limits=limits), monkeypatch)

    async def talk(keda: Any, commands: Any, ref: pb.ScaledObjectRef) -> None:
        await keda.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref))
        with pytest.raises(grpc.aio.AioRpcError):
            await keda.GetMetricSpec(pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata=wrong))
        bench.clock.advance(2.0)
        listed = await commands.ListWorkloads(evaluation_pb.ListWorkloadsRequest())
        explained = await commands.Explain(ref)
        assert listed.instance == "gpu-7"
        [answer] = listed.answers
        assert (answer.namespace, answer.name, answer.metric, answer.unit, answer.target) == (
            "ai", "llama", "gpu_utilization", "%", 80.0,
        )  # fmt: skip
        assert (answer.age_seconds, answer.with_value, answer.expected, answer.active) == (2.0, 2, 2, True)
        assert not answer.HasField("demand")
        assert answer.comparison == explained.comparison == evaluation_pb.Comparison(
            measured=51.0, plain=102.0, reported=102.0, report="total", current_replicas=2, desired_replicas=2,
            limit="none", activity="92 is above activationThreshold 0",
        )  # fmt: skip
        [refused] = listed.refused
        assert (refused.namespace, refused.name) == ("ai", "llama")
        assert refused.problems == [
            'metadata.profile: Unsupported value: "tritn-inference": did you mean "triton-inference"?'
        ]

    bench.on(talk)


def test_a_list_of_very_many_workloads_is_cut_and_can_be_sent() -> None:
    answers = [
        RecentAnswer("n" * 63, f"{number:05}" + "x" * 200, "m" * 60, "gpu_utilization", 1.0, None, True, 0, 0,
                     reason="é" * 5000, is_demand_known=False, demand_sentence="é" * 5000,
                     comparison=Comparison(activity="é" * 5000, adjustment="é" * 5000))
        for number in range(MAX_LISTED + 5)
    ]  # fmt: skip
    refused = [RefusedTrigger("ai", f"{number}", ("é" * 500,)) for number in range(MAX_LISTED + 5)]
    message = workload_list(answers, refused, "gpu-7", 1000.0)
    assert (len(message.answers), len(message.refused)) == (MAX_LISTED, MAX_LISTED)
    assert message.answers[0].name.startswith("00000")
    assert message.ByteSize() < 6_000_000
