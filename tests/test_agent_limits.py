# SPDX-License-Identifier: Apache-2.0
"""Tests of what a client of the gRPC port may take from the others, and of what it may not send."""

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from keda_gpu_scaler.server import grpc_server
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.fakes import FakeBackend, sample
from tests.http2 import ACK, GOAWAY, PING, Http2Client
from tests.serving import ref
from tests.test_agent import SERVING, Running, with_agent

_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@contextlib.asynccontextmanager
async def another_connection(node: Running) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{node.agent.port}", options=_OWN_CONNECTION) as channel:
        yield channel


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value.code(), caught.value.details() or ""


async def watch_health(channel: Any) -> Any:
    call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    await call.read()
    return call


# ---- streams ----


def test_one_connection_follows_the_health_of_a_few_services() -> None:
    async def talk(node: Running) -> None:
        await node.health_turns(SERVING)
        async with another_connection(node) as channel, another_connection(node) as other:
            stub = health_pb2_grpc.HealthStub(channel)
            watches = [await watch_health(channel) for _ in range(grpc_server.MAX_HEALTH_STREAMS_PER_CONNECTION)]
            code, details = await refusal(stub.Watch(health_pb2.HealthCheckRequest()))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details == "this connection has 4 streams of this method open, which is the limit; close one"
            await watch_health(other)
            assert (await node.stub.IsActive(ref())).result is True
            for watch in watches:
                watch.cancel()

    with_agent(talk, FakeBackend(sample()))


def test_health_streams_have_a_limit_in_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "MAX_HEALTH_STREAMS", 2)

    async def talk(node: Running) -> None:
        async with another_connection(node) as one, another_connection(node) as two, another_connection(node) as three:
            await watch_health(one)
            await watch_health(two)
            stub = health_pb2_grpc.HealthStub(three)
            code, details = await refusal(stub.Watch(health_pb2.HealthCheckRequest()))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details == "2 streams of this method are open, which is the limit; try later"
            answer = await stub.Check(health_pb2.HealthCheckRequest())
            assert answer.status in (health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING)

    with_agent(talk, FakeBackend(sample()))


def test_one_connection_has_a_few_reflection_streams_and_they_block_no_thread() -> None:
    async def talk(node: Running) -> None:
        await node.health_turns(SERVING)
        async with another_connection(node) as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            open_calls = []
            for _ in range(grpc_server.MAX_REFLECTION_STREAMS_PER_CONNECTION):
                call = stub.ServerReflectionInfo()
                await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
                assert (await call.read()).HasField("list_services_response")
                open_calls.append(call)
            code, _ = await refusal(stub.ServerReflectionInfo())
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            for call in open_calls:
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF
            call = stub.ServerReflectionInfo()
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            assert (await call.read()).HasField("list_services_response")

    with_agent(talk, FakeBackend(sample()))


# ---- keepalive ----


def test_pings_are_answered_and_only_a_flood_of_them_ends_the_connection() -> None:
    """grpc-go pings every 10 s at most. Without these settings gRPC ends the connection at the third ping."""

    async def talk(node: Running) -> None:
        client = await Http2Client.connected(node.agent.port)
        for _ in range(8):
            client.ping()
        answered = 0
        while answered < 8:
            frame = await client.frame()
            assert frame.kind != GOAWAY, frame
            answered += frame.kind == PING and frame.flags == ACK
        for _ in range(5):  # a few: the rest would reset a connection that is closed already
            client.ping()
        while True:
            frame = await client.frame()
            if frame.kind == GOAWAY:
                break
        assert b"too_many_pings" in frame.payload
        client.close()

    with_agent(talk, FakeBackend(sample()))


# ---- messages ----

_UNARY = ("GetMetricSpec", "GetMetrics", "IsActive")


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        *(pytest.param(f"/externalscaler.ExternalScaler/{it}", "unary_unary", id=f"KEDA's {it}") for it in _UNARY),
        pytest.param("/externalscaler.ExternalScaler/StreamIsActive", "unary_stream", id="KEDA's StreamIsActive"),
        pytest.param("/keda_gpu_scaler.evaluation.v1.Evaluations/Explain", "unary_unary", id="Explain"),
        pytest.param("/keda_gpu_scaler.fleet.v1.Fleet/Watch", "unary_stream", id="the snapshots"),
        pytest.param("/grpc.health.v1.Health/Check", "unary_unary", id="health"),
        pytest.param("/grpc.health.v1.Health/Watch", "unary_stream", id="health as a stream"),
        pytest.param(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "stream_stream", id="reflection"
        ),
    ],
)
def test_an_invalid_message_is_the_clients_error_and_one_line_of_the_log(
    method: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    invalid = b"\xff\xff\xff"

    async def talk(node: Running) -> None:
        async with another_connection(node) as channel:
            for _ in range(3):
                request = iter([invalid]) if kind == "stream_stream" else invalid
                call = getattr(channel, kind)(method)(request)
                with pytest.raises(grpc.aio.AioRpcError):
                    await (call if kind == "unary_unary" else call.read())
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert await call.details() == "the request is not a valid message"

    with caplog.at_level(logging.WARNING):
        with_agent(talk, FakeBackend(sample()))
    [record] = [it for it in caplog.records if method in it.getMessage()]
    assert record.exc_info is None
    assert record.getMessage().endswith(": the request is not a valid message")


def test_a_valid_message_after_an_invalid_one_is_answered() -> None:
    async def talk(node: Running) -> None:
        await node.health_turns(SERVING)
        async with another_connection(node) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary("/externalscaler.ExternalScaler/IsActive")(b"\xff")
            is_active = channel.unary_unary("/externalscaler.ExternalScaler/IsActive")
            assert pb.IsActiveResponse.FromString(await is_active(ref().SerializeToString())).result is True

    with_agent(talk, FakeBackend(sample()))
