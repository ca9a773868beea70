# SPDX-License-Identifier: Apache-2.0
"""Tests of forwarded ports: bytes in both directions, and the reason where there is no connection."""

import asyncio
import contextlib
import socket
import unittest.mock
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.auth import ClientConfig
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.port_forward import MAX_MESSAGE_BYTES, MessageReader, PortForwarder, _PodConnection
from tests.apiserver import FakeApiServer
from tests.limits import WAIT_SECONDS


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
def test_the_bytes_that_are_sent_come_back(server: FakeApiServer, at_once: int, times: int) -> None:
    server.forwarded_bytes = at_once
    sent = bytes(range(256)) * times

    async def work(api: PortForwarder) -> None:
        async with listening(echo) as local:
            server.forwards["keda", "scaler-0", 6000] = local
            async with api.forward("keda", "scaler-0", 6000) as port:
                for _ in range(2):  # each local connection uses a WebSocket of its own
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(sent)
                    assert await reader.readexactly(len(sent)) == sent
                    writer.close()

    run(server, work)
    assert server.requests["portforward"] == 2


def test_a_pod_that_ends_the_connection_ends_the_local_one(server: FakeApiServer) -> None:
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


@pytest.mark.parametrize("turns", range(8))
def test_a_connection_that_is_accepted_while_the_block_ends_is_closed(server: FakeApiServer, turns: int) -> None:
    """The block ends after so many turns of the loop: with a connection that is accepted, begins or is open."""

    async def work(api: PortForwarder) -> None:
        async with listening(echo) as port:
            server.forwards["keda", "scaler-0", 6000] = port
            async with api.forward("keda", "scaler-0", 6000) as forwarded:
                client = socket.create_connection(("127.0.0.1", forwarded))
                for _ in range(turns):
                    await asyncio.sleep(0)
            with client:
                client.setblocking(False)
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.get_running_loop().sock_recv(client, 1) == b""

    run(server, work)


def test_a_port_without_a_listener_is_reported(server: FakeApiServer) -> None:
    async def work(api: PortForwarder) -> None:
        async with api.forward("keda", "scaler-0", 6000) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b""
            writer.close()
        assert api.failure == "the kubelet cannot reach the port: connection to port 6000 inside the pod refused"

    run(server, work)


def test_the_reason_is_known_before_the_connection_is_closed(server: FakeApiServer) -> None:
    async def work(api: PortForwarder) -> None:
        reasons: list[str] = []
        async with api.forward("keda", "scaler-0", 6000, reasons.append) as port:
            for count, forbid in ((1, False), (2, True)):
                if forbid:
                    server.forbid("get", "pods/portforward")
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                assert await reader.read() == b""
                assert len(reasons) == count
                writer.close()
        assert "inside the pod refused" in reasons[0]
        assert "answers 403: pods/portforward is forbidden" in reasons[1]

    run(server, work)


def test_a_missing_pod_is_reported_at_once(server: FakeApiServer) -> None:
    async def work(api: PortForwarder) -> None:
        with pytest.raises(ApiError, match='the API server answers 404: pods "absent" not found'):
            async with api.forward("keda", "absent", 6000):
                raise AssertionError("forwarded")

    run(server, work)


def test_a_missing_right_is_reported_at_once(server: FakeApiServer) -> None:
    server.forbid("get", "pods/portforward")

    async def work(api: PortForwarder) -> None:
        with pytest.raises(ApiError, match="answers 403: pods/portforward is forbidden"):
            async with api.forward("keda", "scaler-0", 6000):
                raise AssertionError("forwarded")

    run(server, work)


def test_an_unreachable_api_server_is_reported(server: FakeApiServer) -> None:
    access = server.access
    server.stop()

    async def work(api: PortForwarder) -> None:
        with pytest.raises(KubeError, match=r"the API server http://127\.0\.0\.1:\d+ does not answer"):
            async with api.forward("keda", "scaler-0", 6000):
                raise AssertionError("forwarded")

    run(server, work, access)
    server.start()


def test_a_broken_connection_is_reported(server: FakeApiServer) -> None:
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


# ---- what a server sends ----


class BrokenWhileWriting:
    """A stream whose server sent a reason and closed: a write fails before the reason is read."""

    def __init__(self, sent: bytes) -> None:
        self._sent = [sent, b""]
        self._has_failed = asyncio.Event()

    async def write(self, content: bytes, timeout: float) -> None:
        self._has_failed.set()
        raise httpcore.WriteError

    async def read(self, limit_bytes: int, timeout: float | None = None) -> bytes:
        await self._has_failed.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        return self._sent.pop(0)


def test_the_reason_is_read_although_the_connection_breaks_while_it_is_written_to() -> None:
    reason = b"connection refused"
    messages = (b"\x00\x70\x17", b"\x01\x70\x17", b"\x01" + reason)
    stream = BrokenWhileWriting(b"".join(frame(message) for message in messages))

    async def talk() -> str:
        client = asyncio.StreamReader()
        client.feed_data(b"PRI")
        connection = _PodConnection(stream, contextlib.AsyncExitStack())
        return await connection.carry(client, unittest.mock.Mock())

    assert reason.decode() in asyncio.run(talk())


def frame(payload: bytes, opcode: int = 2, *, last: bool = True) -> bytes:
    """A frame as a server sends it: without a mask."""
    length = len(payload)
    size = (
        bytes([length])
        if length < 126
        else bytes([126]) + length.to_bytes(2, "big")
        if length < 65536
        else bytes([127]) + length.to_bytes(8, "big")
    )
    return bytes([(0x80 if last else 0) | opcode]) + size + payload


def unmasked(sent: bytes) -> tuple[int, bytes]:
    """The opcode and the payload that a server reads from a client's frame."""
    assert sent[1] & 0x80, "a client masks its frames"
    length, at = sent[1] & 0x7F, 2
    if length >= 126:
        at = 4 if length == 126 else 10
        length = int.from_bytes(sent[2:at], "big")
    mask, body = sent[at : at + 4], sent[at + 4 :]
    assert len(body) == length
    return sent[0] & 0x0F, bytes(byte ^ mask[number % 4] for number, byte in enumerate(body))


def reader() -> MessageReader:
    return MessageReader(Connection(ConnectionType.CLIENT))


@pytest.mark.parametrize("length", [0, 1, 3, 4, 125, 126, 65535, 65536])
def test_a_masked_message_is_the_same_unmasked(length: int) -> None:
    payload = bytes(number % 251 for number in range(length))
    sent = Connection(ConnectionType.CLIENT).send(BytesMessage(data=payload))
    assert unmasked(sent) == (2, payload)


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_messages_are_the_same_however_their_bytes_are_cut(messages: list[bytes], at_once: int) -> None:
    stream = b"".join(map(frame, messages))
    read, found = reader(), []
    for start in range(0, len(stream), at_once):
        found += read.read(stream[start : start + at_once])
    assert found == messages


def test_a_ping_between_the_fragments_of_a_message_is_answered_and_does_not_part_them() -> None:
    read = reader()
    assert read.read(frame(b"he", last=False) + frame(b"!", 9) + frame(b"llo", 0)) == [b"hello"]
    assert unmasked(read.replies) == (10, b"!")


def test_a_text_message_is_read_as_bytes() -> None:
    assert reader().read(frame("é".encode(), 1)) == ["é".encode()]


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        pytest.param(b"", b"", id="no code"),
        pytest.param(b"\x03\xe8bye", b"\x03\xe8bye", id="a normal closure"),
        pytest.param(b"\x03\xe9", b"\x03\xe9", id="a server that stops"),
    ],
)
def test_a_close_after_a_message_ends_the_messages_and_is_answered(payload: bytes, answer: bytes) -> None:
    read = reader()
    assert read.read(frame(b"last") + frame(payload, 8)) == [b"last"]
    assert read.is_closed
    assert unmasked(read.replies) == (8, answer)


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        pytest.param(
            bytes([0x82, 0x81, 1, 2, 3, 4, 5]), "violates the WebSocket protocol: .*is a proxy in between", id="a mask"
        ),
        pytest.param(b"HTTP/1.1 502 Bad Gateway\r\n", "violates the WebSocket protocol", id="not WebSocket"),
        pytest.param(frame(b"x", 0), "violates the WebSocket protocol", id="a continuation of no message"),
        pytest.param(frame(b"x", 9, last=False), "violates the WebSocket protocol", id="a ping in fragments"),
        pytest.param(frame(b"\xff", 1), "violates the WebSocket protocol", id="a text that is not UTF-8"),
        pytest.param(frame(b"x", 8), "violates the WebSocket protocol", id="a close with half a code"),
        pytest.param(
            frame(bytes(MAX_MESSAGE_BYTES + 1)), "a message of more than 16777216 bytes", id="too long a message"
        ),
        pytest.param(
            frame(bytes(MAX_MESSAGE_BYTES), last=False) + frame(b"x", 0),
            "a message of more than 16777216 bytes", id="fragments that are too long together",
        ),
        pytest.param(
            frame(b"\x03\xf3restarts\x1b", 8), r"closes the connection with code 1011: restarts\\x1b",
            id="a close because of an error",
        ),
    ],
)  # fmt: skip
def test_bytes_that_a_server_must_not_send_are_refused(sent: bytes, sentence: str) -> None:
    with pytest.raises(ApiError, match=sentence):
        reader().read(sent)


def test_a_frame_of_the_largest_size_is_read() -> None:
    assert reader().read(frame(bytes(MAX_MESSAGE_BYTES))) == [bytes(MAX_MESSAGE_BYTES)]


def test_bytes_after_a_close_are_ignored() -> None:
    read = reader()
    assert read.read(frame(b"\x03\xe8", 8) + b"\xff\xff\xff") == []
    assert read.is_closed
