# SPDX-License-Identifier: Apache-2.0
"""Tests of the limit of open files, near which KEDA and probes are still answered."""

import asyncio
import contextlib
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from keda_gpu_scaler import file_descriptors
from keda_gpu_scaler.cli.serve import _LoopErrorLog
from keda_gpu_scaler.kube.client import ApiClient, ApiError
from keda_gpu_scaler.peers.client import FleetClient
from keda_gpu_scaler.peers.stream import PeerStream
from keda_gpu_scaler.scrape import http_client
from keda_gpu_scaler.scrape.types import FetchError
from keda_gpu_scaler.server import http as http_module
from keda_gpu_scaler.server.http import HttpServer, probe_pages
from tests.apiserver import FakeApiServer
from tests.free_ports import free_port
from tests.limits import WAIT_SECONDS
from tests.serving import SERVING, Serving

_REASON = "three quarters of the limit of 4 open files are in use"


@pytest.fixture
def at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has more files open than this limit allows for outgoing work."""
    monkeypatch.setattr(file_descriptors, "limit", lambda: 4)


# ---- the limit ----


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param("ulimit -n 512; ulimit -S -n 256", "(512, 512) raised from 256 to 512", id="a lower soft limit"),
        pytest.param("ulimit -n 512", "(512, 512) ", id="nothing to raise"),
    ],
)
def test_the_soft_limit_is_raised_to_the_hard_limit_and_it_is_logged(limits: str, expected: str) -> None:
    script = (
        "import logging, resource, io; log = io.StringIO(); logging.basicConfig(level='DEBUG', stream=log);"
        "from keda_gpu_scaler.file_descriptors import raise_limit; raise_limit();"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE), log.getvalue().partition(' is ')[2].strip())"
    )
    command = ("sh", "-c", f'{limits}; exec "$0" -c "$1"', sys.executable, script)
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == expected.strip()


def test_a_limit_that_cannot_be_raised_is_harmless(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(kind: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 1024))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with caplog.at_level(logging.DEBUG):
        file_descriptors.raise_limit()
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]
    assert caplog.records[0].getMessage().startswith("the limit of open files stays at 256: ")


def test_without_a_limit_there_is_no_shortage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert file_descriptors.shortage() == ""


def test_the_shares_leave_a_rest() -> None:
    for allowed in (128, 256, 1024, 65536):
        outgoing = allowed * file_descriptors._OUTGOING
        others = allowed * (file_descriptors._GRPC + 4 * file_descriptors._PAGES)
        assert outgoing + others < allowed


# ---- new work near the limit ----


@pytest.mark.usefixtures("at_the_limit")
def test_a_new_watch_is_refused_with_the_reason() -> None:
    async def talk(server: FakeApiServer) -> None:
        api = ApiClient(server.access)
        with pytest.raises(ApiError, match=_REASON):
            async with api.watch("/api/v1/pods", {"resourceVersion": "1"}, seconds=30):
                raise AssertionError("it is opened")
        assert await api.get("/api/v1/namespaces/ai/pods"), "a short request is answered"
        await api.close()

    with FakeApiServer() as server:
        asyncio.run(talk(server))


@pytest.mark.usefixtures("at_the_limit")
def test_a_new_connection_to_a_peer_is_refused_with_the_reason() -> None:
    async def talk() -> str:
        client = FleetClient(None, instance="a", clock=time.monotonic)  # type: ignore[arg-type]
        return await client._receive_until_error(PeerStream("127.0.0.1:9", 1.0, 1.0))

    assert _REASON in asyncio.run(talk())


@pytest.mark.usefixtures("at_the_limit")
def test_a_new_scrape_connection_is_refused_with_the_reason() -> None:
    with pytest.raises(FetchError, match=_REASON):
        asyncio.run(http_client.HttpClient._connect(None, None, None))  # type: ignore[arg-type]


# ---- the servers at the limit ----


OTHERS = "127.0.0.2"
"""The address of the clients that open many connections. Of an address with many the server drops the oldest ones, and
a probe from the same address may be among them."""


@contextlib.contextmanager
def connections(port: int, count: int) -> Iterator[None]:
    """Clients that connect from an address of their own and send nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.bind((OTHERS, 0))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", port))
        yield


def limited_serving(probe: int) -> Serving:
    """An instance with 128 descriptors."""
    limited = ("sh", "-c", 'ulimit -n 128; exec "$0" "$@"')
    return Serving("--backend", "synthetic", "--probe-port", str(probe), launcher=limited)


def test_keda_and_probes_are_answered_while_clients_open_more_connections_than_there_are_descriptors() -> None:
    probe = free_port()
    with limited_serving(probe) as serving:
        serving.wait_for_health(SERVING)
        with connections(serving.port, 400), connections(probe, 400):
            for _ in range(20):
                assert serving.value(metricType="gpu_utilization", scope="node") >= 0
            with urllib.request.urlopen(f"http://127.0.0.1:{probe}/livez", timeout=WAIT_SECONDS) as page:
                assert page.status == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{probe}/livez", timeout=WAIT_SECONDS) as page:
            assert page.status == 200
        assert serving.process.poll() is None
        serving.process.terminate()
        assert serving.process.stderr is not None
        rest = serving.process.stderr.read()
    lines = [entry["message"] for entry in serving.log] + rest.splitlines()
    assert len([line for line in lines if re.search("out of system resource|Too many open files", line)]) <= 1


def test_a_probe_is_answered_that_waits_between_the_connections_of_another_address() -> None:
    probe = free_port()
    with limited_serving(probe) as serving:
        serving.wait_for_health(SERVING)
        serving.process.send_signal(signal.SIGSTOP)  # as on a busy node: it accepts all of them at the same time
        with connections(probe, 60), socket.create_connection(("127.0.0.1", probe), WAIT_SECONDS) as kubelet:
            kubelet.sendall(b"GET /livez HTTP/1.1\r\nHost: node\r\n\r\n")
            with connections(probe, 60):
                serving.process.send_signal(signal.SIGCONT)
                with kubelet.makefile("rb") as answer:
                    assert answer.readline() == b"HTTP/1.1 200 \r\n"


@pytest.mark.parametrize("ends", [False, True], ids=["answers", "ends before asyncio listens again"])
def test_a_server_of_pages_without_any_descriptor_logs_one_line(
    ends: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0)

    async def talk() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_LoopErrorLog())
        server = HttpServer(probe_pages(lambda: None))
        port = await server.start("127.0.0.1", 0)
        client = socket.socket()
        client.setblocking(False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = os.dup(client.fileno())
        os.close(taken)
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
        try:
            await loop.sock_connect(client, ("127.0.0.1", port))
            while not caplog.records:
                await asyncio.sleep(0)
            if ends:
                await server.close()
                for _ in range(10):
                    await asyncio.sleep(0)  # asyncio tries to listen again on the closed socket
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if not ends:
            await loop.sock_sendall(client, b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(WAIT_SECONDS):
                assert (await loop.sock_recv(client, 4096)).startswith(b"HTTP/1.1 200")
        client.close()
        await server.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(talk())
    assert [record.getMessage() for record in caplog.records] == [
        "socket.accept() out of system resource: [Errno 24] Too many open files"
    ]


def test_connections_that_come_at_once_each_drop_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_descriptors, "limit", lambda: 128)
    monkeypatch.setattr(http_module, "_REQUEST_TIMEOUT_SECONDS", 2 * WAIT_SECONDS)

    async def talk() -> None:
        server = HttpServer(probe_pages(lambda: None))
        port = await server.start("127.0.0.1", 0)
        clients = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(40)))
        ends = [asyncio.create_task(reader.read()) for reader, _ in clients]
        async with asyncio.timeout(WAIT_SECONDS):
            while sum(end.done() for end in ends) < 36:
                await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert sum(end.done() for end in ends) == 36, "four may stay"
        await server.close()
        await asyncio.gather(*ends, return_exceptions=True)
        for _, writer in clients:
            writer.close()

    asyncio.run(talk())
