# SPDX-License-Identifier: Apache-2.0
"""Ports of pods, reached through an API server: bytes both ways, and why there are none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.auth import ClientConfig
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.port_forward import MAX_MESSAGE_BYTES, Frames, PortForwarder, frame
from tests.apiserver import FakeApiServer

WAIT_SECONDS = 20.0


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as server:
        server.pod("scaler-0", "a", namespace="keda")
        yield server


@asynccontextmanager
async def listening(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            writer.close()

    listener = await asyncio.start_server(closing, "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(4096):
        writer.write(chunk)
        await writer.drain()


def run(
    server: FakeApiServer, work: Callable[[PortForwarder], Awaitable[None]], access: ClientConfig | None = None
) -> None:
    async def working() -> None:
        api = PortForwarder(access or server.access)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await work(api)
        finally:
            await api.close()

    asyncio.run(working())


@pytest.mark.parametrize(
    ("at_once", "times"),
    [(1, 1), (3, 5), (65536, 2000)],
    ids=["byte by byte", "in messages of three bytes", "in large messages"],
)
def test_what_is_sent_comes_back(server: FakeApiServer, at_once: int, times: int) -> None:
    server.forwarded_bytes = at_once
    sent = bytes(range(256)) * times

    async def work(api: PortForwarder) -> None:
        async with listening(echo) as local:
            server.forwards["keda", "scaler-0", 6000] = local
            async with api.forward("keda", "scaler-0", 6000) as port:
                for _ in range(2):  # each connection is one of its own
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(sent)
                    assert await reader.readexactly(len(sent)) == sent
                    writer.close()

    run(server, work)
    assert server.requests["portforward"] == 2


def test_a_server_that_ends_the_connection_ends_it_here(server: FakeApiServer) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"goodbye")
        await writer.drain()

    async def work(api: PortForwarder) -> None:
        async with listening(greet) as local:
            server.forwards["keda", "scaler-0", 6000] = local
            async with api.forward("keda", "scaler-0", 6000) as port:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                assert await reader.read() == b"goodbye"
                writer.close()
        assert api.failure == ""

    run(server, work)


def test_a_port_on_which_nobody_listens_is_said(server: FakeApiServer) -> None:
    async def work(api: PortForwarder) -> None:
        async with api.forward("keda", "scaler-0", 6000) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b""
            writer.close()
        assert api.failure == "the kubelet cannot reach the port: connection to port 6000 inside the pod refused"

    run(server, work)


def test_a_pod_that_is_not_there_is_said_at_once(server: FakeApiServer) -> None:
    async def work(api: PortForwarder) -> None:
        with pytest.raises(ApiError, match='the API server answers 404: pods "nobody" not found'):
            async with api.forward("keda", "nobody", 6000):
                raise AssertionError("forwarded")

    run(server, work)


def test_a_right_that_is_missing_is_said_at_once(server: FakeApiServer) -> None:
    server.forbid("get", "pods/portforward")

    async def work(api: PortForwarder) -> None:
        with pytest.raises(ApiError, match="answers 403: pods/portforward is forbidden"):
            async with api.forward("keda", "scaler-0", 6000):
                raise AssertionError("forwarded")

    run(server, work)


def test_no_api_server_at_all_is_said(server: FakeApiServer) -> None:
    access = server.access
    server.stop()

    async def work(api: PortForwarder) -> None:
        with pytest.raises(KubeError, match=r"the API server http://127\.0\.0\.1:\d+ does not answer"):
            async with api.forward("keda", "scaler-0", 6000):
                raise AssertionError("forwarded")

    run(server, work, access)
    server.start()


def test_a_connection_that_breaks_is_said(server: FakeApiServer) -> None:
    async def work(api: PortForwarder) -> None:
        async with listening(echo) as local:
            server.forwards["keda", "scaler-0", 6000] = local
            async with api.forward("keda", "scaler-0", 6000) as port:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                server.cut()
                assert await reader.read() == b""
                writer.close()
        assert api.failure.startswith("the API server broke the connection")

    run(server, work)


# ---- frames ----


def unmasked(payload: bytes, opcode: int = 2, *, last: bool = True) -> bytes:
    """A frame as a server sends it."""
    length = len(payload)
    size = (
        bytes([length])
        if length < 126
        else bytes([126]) + length.to_bytes(2, "big")
        if length < 65536
        else bytes([127]) + length.to_bytes(8, "big")
    )
    return bytes([(0x80 if last else 0) | opcode]) + size + payload


def opened(sent: bytes) -> bytes:
    """What a server makes of a frame of ours."""
    assert sent[1] & 0x80, "a client's frames are masked"
    length, at = sent[1] & 0x7F, 2
    if length >= 126:
        at = 4 if length == 126 else 10
        length = int.from_bytes(sent[2:at], "big")
    mask, body = sent[at : at + 4], sent[at + 4 :]
    assert len(body) == length
    return bytes(byte ^ mask[number % 4] for number, byte in enumerate(body))


@pytest.mark.parametrize("length", [0, 1, 3, 4, 125, 126, 65535, 65536])
def test_what_is_masked_is_the_same_unmasked(length: int) -> None:
    payload = bytes(number % 251 for number in range(length))
    assert opened(frame(payload)) == payload


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_frames_are_put_together_however_they_are_cut(messages: list[bytes], at_once: int) -> None:
    stream = b"".join(map(unmasked, messages))
    frames, found = Frames(), []
    for start in range(0, len(stream), at_once):
        found += frames.read(stream[start : start + at_once])
    assert found == [(2, message) for message in messages]


def test_a_ping_between_the_parts_of_a_message_does_not_part_them() -> None:
    stream = unmasked(b"he", last=False) + unmasked(b"!", 9) + unmasked(b"llo", 0)
    assert Frames().read(stream) == [(9, b"!"), (2, b"hello")]


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (bytes([0x82, 0x81, 1, 2, 3, 4, 5]), "masked frame"),
        (bytes([0x82, 127]) + (MAX_MESSAGE_BYTES + 1).to_bytes(8, "big"), "a message of more than"),
    ],
    ids=["a server masks nothing", "nobody is sent gigabytes"],
)
def test_what_no_server_may_send_is_refused(sent: bytes, sentence: str) -> None:
    with pytest.raises(ApiError, match=sentence):
        Frames().read(sent)
