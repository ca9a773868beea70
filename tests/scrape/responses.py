# SPDX-License-Identifier: Apache-2.0
"""Reads an HTTP response with h11 and with the reader of usual responses, to compare the two."""

import asyncio
from collections.abc import Iterator

import h11

from keda_gpu_scaler.scrape.plain_response import IncompleteResponseError, PlainBody, parse_plain_head


def read_by_h11(pieces: list[bytes]) -> tuple[bytes, bool] | None:
    """Return the body, and whether the connection can be used again; None for a response that is not complete."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    http.send(h11.EndOfMessage())
    body = b""
    pieces = [*pieces, b""]
    try:
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(pieces.pop(0) if pieces else b"")
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                is_reusable = http.our_state is http.their_state is h11.DONE
                return body, is_reusable and not http.trailing_data[0]
    except h11.RemoteProtocolError:
        return None


def read_plainly(pieces: list[bytes]) -> tuple[bytes, bool] | None:
    head = parse_plain_head(pieces[0])
    assert head is not None
    left: Iterator[bytes] = iter(pieces[1:])

    async def receive(limit_bytes: int) -> bytes:
        return next(left, b"")

    async def read() -> tuple[bytes, bool] | None:
        body = PlainBody(head, pieces[0], receive)
        try:
            return b"".join([part async for part in body.parts()]), not body.has_more
        except IncompleteResponseError:
            return None

    return asyncio.run(read())


def in_pieces(content: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({cut for cut in cuts if 0 < cut < len(content)})
    return [content[begin:end] for begin, end in zip([0, *marks], [*marks, len(content)], strict=True)]
