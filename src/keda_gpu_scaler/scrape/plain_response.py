# SPDX-License-Identifier: Apache-2.0
"""Reads the usual response of an engine: HTTP/1.1 200 with a length or in chunks.

Law: what is read here is read as h11 reads it. Every other response, such as one after which the server closes the
connection, is left to h11.

Facts are from RFC 9112. h11 takes several times as long for such a response, and a front end reads hundreds of
responses a second.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

MAX_HEAD_BYTES = 1 << 15
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*+"
_HEAD = re.compile(rb"HTTP/1\.1 200 " + _TEXT + rb"\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:" + _TEXT + rb"\r\n)*+\r\n")
_OUR_FIELD = re.compile(
    rb"\r\n(content-length|transfer-encoding|connection|content-type):[ \t]*+([^\r]*+)", re.IGNORECASE
)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})(?:;" + _TEXT + rb")?[ \t]*+")
# RFC 9110, section 6.5.1: a trailer has no framing.
_TRAILER = re.compile(rb"(?!content-length:|transfer-encoding:)[!#$%&'*+.^_`|~0-9A-Za-z-]++:" + _TEXT, re.IGNORECASE)
CHUNK_BYTES = 1 << 16
_CHUNKS_PER_PART = 256
_MAX_CHUNK_LINE_BYTES = 1 << 12
_MAX_TRAILER_BYTES = 1 << 14


class IncompleteResponseError(Exception):
    """The response ended early, or one of its chunks is not valid."""


@dataclass(frozen=True, slots=True)
class PlainHead:
    """The head of a usual response: its size in bytes, and the length of its body, None if it comes in chunks."""

    size_bytes: int
    content_type: str
    content_length: int | None


def parse_plain_head(received: bytes) -> PlainHead | None:
    """Read the head of a response; None if it is not complete or not usual."""
    match = _HEAD.match(received, 0, MAX_HEAD_BYTES)
    if match is None:
        return None
    ours = [(name.lower(), value.rstrip(b" \t")) for name, value in _OUR_FIELD.findall(received, 0, match.end())]
    fields = dict(ours)
    length, encoding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    is_usual = (
        len(fields) == len(ours)
        and fields.get(b"connection", b"keep-alive").lower() == b"keep-alive"
        and (length is None) is not (encoding is None)
        and (length is None or _LENGTH.fullmatch(length) is not None)
        and (encoding is None or encoding.lower() == b"chunked")
    )
    if not is_usual:
        return None
    content_type = fields.get(b"content-type", b"").decode("ascii", "replace")
    return PlainHead(match.end(), content_type, int(length) if length is not None else None)


class PlainBody:
    """The body of a usual response, which is read to its end once; ``part_count`` counts what the server sent.

    Args:
        head: its head.
        received: what was received of the response so far.
        receive: receives at most so many bytes more; returns none at the end of the connection.
    """

    def __init__(self, head: PlainHead, received: bytes, receive: Callable[[int], Awaitable[bytes]]) -> None:
        self._length = head.content_length
        self._received = received
        self._at = head.size_bytes
        self._receive = receive
        self.part_count = 0

    @property
    def has_more(self) -> bool:
        """Whether more than the response was received, which would be taken for the next response."""
        return self._at < len(self._received)

    def parts(self) -> AsyncIterator[bytes]:
        """Return the parts of the body. Small chunks that were received together are one part.

        Raises:
            IncompleteResponseError: the response ended early, or one of its chunks is not valid.
            OSError: the connection is lost.
        """
        return self._chunks() if self._length is None else self._content(self._length)

    async def _content(self, left: int) -> AsyncIterator[bytes]:
        while left:
            if not self.has_more:
                await self._receive_more(left)
            part = self._take(left)
            left -= len(part)
            self.part_count += 1
            yield part

    async def _chunks(self) -> AsyncIterator[bytes]:
        small: list[bytes] = []
        while left := await self._chunk_size():
            while left:
                if not self.has_more:
                    yield b"".join(small)
                    small.clear()
                    await self._receive_more()
                small.append(self._take(left))
                left -= len(small[-1])
            self.part_count += 1
            if await self._line(0):
                raise IncompleteResponseError
            if len(small) >= _CHUNKS_PER_PART:
                yield b"".join(small)
                small.clear()
        yield b"".join(small)
        size_bytes = 0
        while line := await self._line(_MAX_TRAILER_BYTES - size_bytes):
            if _TRAILER.fullmatch(line) is None:
                raise IncompleteResponseError
            size_bytes += len(line)

    async def _chunk_size(self) -> int:
        match = _CHUNK.fullmatch(await self._line(_MAX_CHUNK_LINE_BYTES))
        if match is None:
            raise IncompleteResponseError
        return int(match[1], 16)

    async def _line(self, limit_bytes: int) -> bytes:
        """Return the next line without its end."""
        while (end := self._received.find(b"\r\n", self._at)) < 0:
            if len(self._received) - self._at > limit_bytes + 1:
                raise IncompleteResponseError
            await self._receive_more()
        line = self._received[self._at : end]
        self._at = end + 2
        if len(line) > limit_bytes:
            raise IncompleteResponseError
        return line

    def _take(self, limit_bytes: int) -> bytes:
        part = self._received[self._at : self._at + limit_bytes]
        self._at += len(part)
        return part

    async def _receive_more(self, limit_bytes: int = CHUNK_BYTES) -> None:
        more = await self._receive(min(limit_bytes, CHUNK_BYTES))
        if not more:
            raise IncompleteResponseError
        self._received, self._at = self._received[self._at :] + more, 0
