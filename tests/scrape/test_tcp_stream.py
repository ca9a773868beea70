# SPDX-License-Identifier: Apache-2.0
"""Tests of the stream of one TCP connection."""

import asyncio
from typing import Any, cast

from keda_gpu_scaler.scrape.tcp_stream import RECEIVE_BYTES, TcpStream
from tests.scrape.scene import scenario


class Transport:
    """The side of the event loop: it receives while reading is not paused."""

    def __init__(self, stream: TcpStream) -> None:
        self._stream = stream
        self.is_paused = False
        stream.connection_made(cast("Any", self))

    def receive(self, content: bytes) -> int:
        """Receive what arrives from the server; return how many bytes were taken."""
        taken = 0
        while taken < len(content) and not self.is_paused:
            buffer = self._stream.get_buffer(-1)
            piece = content[taken : taken + len(buffer)]
            buffer[: len(piece)] = piece
            self._stream.buffer_updated(len(piece))
            taken += len(piece)
        return taken

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


def connected() -> tuple[TcpStream, Transport]:
    stream = TcpStream()
    return stream, Transport(stream)


@scenario
async def test_a_read_waits_for_bytes_and_returns_all_of_them() -> None:
    stream, transport = connected()
    reading = asyncio.create_task(stream.read(100))
    await asyncio.sleep(0)
    assert not reading.done()
    transport.receive(b"ab")
    transport.receive(b"cd")
    assert await reading == b"abcd"


@scenario
async def test_a_read_returns_no_more_than_its_limit_and_keeps_the_rest() -> None:
    stream, transport = connected()
    transport.receive(b"abcdef")
    assert [await stream.read(4), await stream.read(4)] == [b"abcd", b"ef"]


@scenario
async def test_two_connections_do_not_mix_their_bytes() -> None:
    (one, to_one), (other, to_other) = connected(), connected()
    to_one.receive(b"first")
    to_other.receive(b"other")
    assert [await one.read(100), await other.read(100)] == [b"first", b"other"]


@scenario
async def test_a_server_that_sends_faster_than_it_is_read_is_paused_until_it_is_read() -> None:
    stream, transport = connected()
    content = bytes(range(256)) * (RECEIVE_BYTES // 16)
    taken = transport.receive(content)
    assert transport.is_paused
    assert taken <= 3 * RECEIVE_BYTES
    read = b""
    while len(read) < len(content):
        read += await stream.read(1000)
        taken += transport.receive(content[taken:])
    assert read == content


@scenario
async def test_what_came_before_the_end_is_read_and_then_the_end() -> None:
    stream, transport = connected()
    transport.receive(b"last")
    assert stream.eof_received(), "the caller closes the connection"
    assert [await stream.read(100), await stream.read(100)] == [b"last", b""]


@scenario
async def test_a_lost_connection_ends_the_read_that_waits() -> None:
    for error in (None, ConnectionResetError("reset")):
        stream, _ = connected()
        reading = asyncio.create_task(stream.read(100))
        await asyncio.sleep(0)
        stream.connection_lost(error)
        (ended,) = await asyncio.gather(reading, return_exceptions=True)
        assert ended == (b"" if error is None else error)


@scenario
async def test_a_read_that_is_cancelled_loses_nothing() -> None:
    stream, transport = connected()
    reading = asyncio.create_task(stream.read(100))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    transport.receive(b"later")
    assert await stream.read(100) == b"later"
