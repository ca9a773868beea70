# SPDX-License-Identifier: Apache-2.0
"""Tests of the agent: start, stop, health and the laws of its calls."""

import asyncio
import re
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from keda_gpu_scaler.agent import Agent, StartError, open_backend
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.state.reading_interest import INTEREST_SECONDS, ReadingInterest
from keda_gpu_scaler.core.types import Device
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from keda_gpu_scaler.wire import fleet_pb2 as fleet_pb
from keda_gpu_scaler.wire import fleet_pb2_grpc as fleet_pb_grpc
from tests.fakes import FakeBackend, ManualClock, sample, sample_without_readings
from tests.free_ports import free_port
from tests.limits import WAIT_SECONDS
from tests.serving import ref

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = "externalscaler.ExternalScaler"


def config(**settings: Any) -> Config:
    base = {"host": "127.0.0.1", "port": 0, "metrics_port": 0, "probe_port": 0, "node_name": "gpu-7"}
    return Config(**{**base, **settings})


class Running:
    """An agent that runs, and a channel to it."""

    def __init__(self, agent: Agent, channel: Any) -> None:
        self.agent = agent
        self.stub: Any = pb_grpc.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]
        self.health: Any = health_pb2_grpc.HealthStub(channel)
        self.reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def health_turns(self, status: int, service: str = "") -> None:
        """Follow the health service until it says so."""
        async for answer in self.health.Watch(health_pb2.HealthCheckRequest(service=service)):
            if answer.status == status:
                return

    async def get(self, port: int, path: str) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return int(head.split()[1]), body


def with_agent(
    talk: Callable[[Running], Awaitable[None]], backend: FakeBackend, settings: Config | None = None, clock: Any = None
) -> None:
    async def run() -> None:
        agent = Agent(settings or config(sample_interval=0.1), backend, *([clock] if clock else []))
        running = asyncio.create_task(agent.run())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await agent.started.wait()
                async with grpc.aio.insecure_channel(f"127.0.0.1:{agent.port}") as channel:
                    await talk(Running(agent, channel))
        finally:
            agent.stop()
            await running

    asyncio.run(run())


def test_keda_gets_the_values_that_the_backend_reads() -> None:
    async def talk(node: Running) -> None:
        await node.health_turns(SERVING, SERVICE)
        answer = await node.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref()))
        assert answer.metricValues[0].metricValueFloat == 92.0
        assert (await node.stub.IsActive(ref())).result is True

    with_agent(talk, FakeBackend(sample(0, 0.92), sample(1, 0.10)))


def test_law_2_an_rpc_touches_no_hardware() -> None:
    backend = FakeBackend(sample(0, 0.92))

    async def talk(node: Running) -> None:
        await node.health_turns(SERVING)
        for metric in ("gpu_utilization", "power_draw"):
            await node.stub.GetMetricSpec(ref(metricType=metric))
            await node.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref(metricType=metric)))
            await node.stub.IsActive(ref(metricType=metric))
            await node.stub.StreamIsActive(ref(metricType=metric)).read()
        assert len(backend.reads) == 1

    with_agent(talk, backend, config(sample_interval=3600, stale_after=7200))


def test_interest_in_the_expensive_readings_reaches_the_backend_and_touches_no_hardware() -> None:
    backend, interest, clock = FakeBackend(sample(0, 0.92)), ReadingInterest(), ManualClock()
    with socket.create_server(("127.0.0.1", 0)) as one:
        metrics_port = one.getsockname()[1]

    async def run() -> None:
        agent = Agent(
            config(sample_interval=3600, stale_after=7200, metrics_port=metrics_port), backend, clock, interest
        )
        running = asyncio.create_task(agent.run())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await agent.started.wait()
                async with grpc.aio.insecure_channel(f"127.0.0.1:{agent.port}") as channel:
                    node = Running(agent, channel)
                    await node.health_turns(SERVING)
                    assert not interest.is_live(clock())
                    fleet: Any = fleet_pb_grpc.FleetStub(channel)  # type: ignore[no-untyped-call]
                    await fleet.RegisterInterest(fleet_pb.InterestRequest(seconds=5))
                    assert interest.remaining_seconds(clock()) == 5
                    await node.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref()))
                    assert interest.remaining_seconds(clock()) == 5
                    await node.stub.IsActive(ref(metricType="sm_active"))
                    assert interest.remaining_seconds(clock()) == INTEREST_SECONDS
                    clock.advance(INTEREST_SECONDS)
                    assert not interest.is_live(clock())
                    await node.get(metrics_port, "/metrics")
                    assert interest.is_live(clock())
                    assert len(backend.reads) == 1
        finally:
            agent.stop()
            await running

    asyncio.run(run())


def test_a_stream_reports_a_change_with_the_sample_that_shows_it() -> None:
    backend = FakeBackend(sample(0, 0.0))

    async def talk(node: Running) -> None:
        await node.health_turns(SERVING)
        stream = node.stub.StreamIsActive(ref(windowSeconds="0", activationThreshold="50", pollIntervalSeconds="3600"))
        assert (await stream.read()).result is False
        backend.samples = (sample(0, 0.9),)
        assert (await stream.read()).result is True

    with_agent(talk, backend)


def test_health_and_readiness_follow_the_devices() -> None:
    backend = FakeBackend(sample())
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = {"probe_port": one.getsockname()[1], "metrics_port": other.getsockname()[1]}

    async def talk(node: Running) -> None:
        await node.health_turns(SERVING)
        assert await node.get(node.agent.probe_port, "/readyz") == (200, "ok\n")
        status, text = await node.get(node.agent.metrics_port, "/metrics")
        assert status == 200
        assert 'keda_gpu_scaler_gpu_utilization_percent{vendor="nvidia",gpu_index="0"' in text
        backend.samples = (sample_without_readings(),)
        await node.health_turns(NOT_SERVING)
        assert await node.get(node.agent.probe_port, "/readyz") == (
            503,
            "not ready: node gpu-7: no device has a reading\n",
        )
        assert (await node.get(node.agent.probe_port, "/livez"))[0] == 200
        backend.samples = (sample(),)
        await node.health_turns(SERVING)

    with_agent(talk, backend, config(sample_interval=0.1, **ports))


def test_a_driver_call_that_hangs_makes_the_snapshot_stale_and_delays_no_answer() -> None:
    backend = FakeBackend(sample(0, 0.5))
    clock = ManualClock()
    hanging, released = threading.Event(), threading.Event()

    def hang_from_the_second_read_on() -> None:
        if len(backend.reads) > 1:
            hanging.set()
            assert released.wait(WAIT_SECONDS)

    backend.before_read = hang_from_the_second_read_on

    async def talk(node: Running) -> None:
        await node.health_turns(SERVING)
        assert await asyncio.to_thread(hanging.wait, WAIT_SECONDS)
        request = pb.GetMetricsRequest(scaledObjectRef=ref())
        assert (await node.stub.GetMetrics(request)).metricValues[0].metricValueFloat == 50.0
        clock.advance(11)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.stub.GetMetrics(request)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "ai/llama: no fresh sample: node gpu-7 last answered 11 s ago (limit 10 s)"
        assert (await node.stub.IsActive(ref(activationThreshold="99"))).result is True
        await node.health_turns(NOT_SERVING)
        released.set()

    # The manual clock stands still, so that the sampler's next tick would be due only after its interval.
    with_agent(talk, backend, config(sample_interval=0.1), clock)


def test_the_metrics_of_a_device_name_its_vendor() -> None:
    amd = replace(sample(1), device=Device("amd-1", 1, "AMD Instinct MI300X"))

    async def talk(node: Running) -> None:
        await node.health_turns(SERVING)
        _, page = await node.get(node.agent.metrics_port, "/metrics")
        found = re.findall(r'gpu_utilization_percent\{vendor="(\w+)",gpu_index="(\d)"', page)
        assert found == [("nvidia", "0"), ("amd", "1")]

    with_agent(talk, FakeBackend(sample(0), amd), config(metrics_port=free_port()))


def test_an_instance_without_devices_by_design_is_healthy() -> None:
    async def talk(node: Running) -> None:
        await node.health_turns(SERVING)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref()))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION

    with_agent(talk, FakeBackend(deviceless=True))


def test_streams_end_with_ok_when_the_agent_stops() -> None:
    async def talk(node: Running) -> None:
        await node.health_turns(SERVING)
        stream = node.stub.StreamIsActive(ref())
        assert (await stream.read()).result is True
        node.agent.stop()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK

    with_agent(talk, FakeBackend(sample()))


def test_reflection_lists_the_services() -> None:
    async def talk(node: Running) -> None:
        call = node.reflection.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])  # what grpcurl asks first
        )
        answer = await call.read()
        assert {service.name for service in answer.list_services_response.service} == {
            SERVICE,
            "keda_gpu_scaler.fleet.v1.Fleet",
            "keda_gpu_scaler.evaluation.v1.Evaluations",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }

    with_agent(talk, FakeBackend(sample()))


@pytest.mark.parametrize("flag", ["port", "metrics_port", "probe_port"])
def test_a_port_in_use_is_a_sentence_and_everything_is_closed_again(flag: str) -> None:
    backend = FakeBackend(sample())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        agent_config = config(**{flag: taken})

        async def run() -> None:
            await Agent(agent_config, backend).run()

        named = "--" + flag.replace("_", "-")
        with pytest.raises(StartError, match=f"^{named}: cannot listen on 127.0.0.1 port {taken}: is another server"):
            asyncio.run(run())
    assert backend.is_closed


def test_an_address_of_another_machine_is_not_reported_as_a_port_in_use() -> None:
    async def run() -> None:
        await Agent(config(host="192.0.2.1", port=free_port()), FakeBackend(sample())).run()

    with pytest.raises(
        StartError, match=r"^--host, --port: cannot listen on 192\.0\.2\.1 port \d+: cannot assign requested"
    ):
        asyncio.run(run())


def test_two_instances_never_share_a_port() -> None:
    backend = FakeBackend(sample())

    async def talk(node: Running) -> None:
        with pytest.raises(StartError):
            await Agent(config(port=node.agent.port), FakeBackend()).run()

    with_agent(talk, backend)


@pytest.mark.parametrize(
    ("backend", "source"),
    [("none", "none"), ("synthetic", "synthetic demonstration load, not a real GPU"), ("nvml", "nvml")],
)
def test_a_backend_is_found_by_its_name(backend: str, source: str) -> None:
    assert open_backend(Config(backend=backend)).source.startswith(source)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        pytest.param(
            {"backend": "cuda"},
            '--backend: Unsupported value: "cuda": must be one of auto, amd, intel, none, nvml, replay:PATH, ',
            id="no such backend",
        ),
        pytest.param(
            {"backend": "replay"},
            '--backend: Unsupported value: "replay": must be one of auto, amd, intel, none, nvml, replay:PATH, ',
            id="a replay of nothing",
        ),
        pytest.param(
            {"backend": "auto", "nvml_library": "/nowhere/libnvidia-ml.so.1", "sysfs_root": "/nowhere"},
            "--backend auto: no AMD GPU here (/nowhere/class/drm: No such file or directory), ",
            id="auto without a library",
        ),
    ],
)
def test_a_backend_that_cannot_be_opened_is_a_sentence(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(BackendError) as caught:
        open_backend(Config(**settings))  # type: ignore[arg-type]
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_a_missing_recording_is_a_sentence_at_start(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no-such-file"):
        open_backend(Config(backend=f"replay:{tmp_path}/no-such-file.csv"))
