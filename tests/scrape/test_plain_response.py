# SPDX-License-Identifier: Apache-2.0
"""Tests that a usual response is read as h11 reads it, and that h11 reads every other one."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.scrape.plain_response import parse_plain_head
from tests.examples_drawn import examples
from tests.scrape.clients import http_client, run, target
from tests.scrape.responses import in_pieces, read_by_h11, read_plainly
from tests.scrape.servers import Server, responds_and_closes, until_closed

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("head", "content_type", "length"),
    [
        pytest.param(OK + b"Content-Length: 3\r\n\r\n", "", 3, id="a length"),
        pytest.param(OK + b"content-type:\ttext/plain \r\nCONTENT-LENGTH:3\r\n\r\n", "text/plain", 3, id="blanks"),
        pytest.param(OK + b"Transfer-Encoding: Chunked\r\n\r\n", "", None, id="chunks"),
        pytest.param(b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", "", 0, id="an empty reason"),
        pytest.param(OK + b"Content-Length: 3\r\nConnection: Keep-Alive\r\n\r\n", "", 3, id="keep-alive"),
    ],
)
def test_a_usual_head(head: bytes, content_type: str, length: int | None) -> None:
    read = parse_plain_head(head + b"page")
    assert read is not None
    assert (read.size_bytes, read.content_type, read.content_length) == (len(head), content_type, length)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(OK + b"Content-Length: 3\r\n", id="an incomplete head"),
        pytest.param(OK + b"\r\n", id="neither a length nor chunks"),
        pytest.param(OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", id="a length and chunks"),
        pytest.param(OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", id="two lengths"),
        pytest.param(OK + b"Content-Length: +3\r\n\r\n", id="a length that is no number"),
        pytest.param(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", id="another encoding"),
        pytest.param(OK + b"Content-Length: 3\r\nConnection: close\r\n\r\n", id="a connection that is closed"),
        pytest.param(OK + b"A: b\r\n c\r\nContent-Length: 3\r\n\r\n", id="a folded line"),
        pytest.param(OK + b"A : b\r\nContent-Length: 3\r\n\r\n", id="a blank before the colon"),
        pytest.param(OK + b"A: \0\r\nContent-Length: 3\r\n\r\n", id="a control character"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", id="an older version"),
        pytest.param(b"HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\n", id="another status"),
        pytest.param(b"HTTP/1.1 103 Hints\r\n\r\n" + OK + b"Content-Length: 3\r\n\r\n", id="an interim response"),
    ],
)
def test_every_other_head_is_left_to_h11(head: bytes) -> None:
    assert parse_plain_head(head) is None


CHUNK_LINES = st.sampled_from(
    (b"%x\r\n", b"%X\r\n", b"00%x\r\n", b"%x;a=b\r\n", b"%x \r\n", b"%x;\r\n", b"-%x\r\n", b"%xg\r\n")
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a head and what the server sends after it, sometimes too little or too much."""
    content = draw(st.lists(st.binary(min_size=1, max_size=30), max_size=5))
    if draw(st.booleans()):
        sent = b"".join(content)
        head = OK + b"Content-Length: %d\r\n\r\n" % max(0, len(sent) + draw(st.sampled_from((0, 0, 0, 1, -1))))
        return head, sent
    lines = [draw(CHUNK_LINES) if draw(st.integers(0, 4)) == 0 else b"%x\r\n" for _ in content]
    sent = b"".join(line % len(part) + part + b"\r\n" for line, part in zip(lines, content, strict=True))
    end = draw(
        st.sampled_from(
            (
                b"0\r\n\r\n",
                b"0\r\n\r\n",
                b"0\r\nA: b\r\n\r\n",
                b"0\r\nA\r\n\r\n",
                b"0\r\nTransfer-Encoding: x\r\n\r\n",
                b"0\r\n",
                b"",
                b"0\r\n\r\nx",
            )
        )
    )
    return OK + b"Transfer-Encoding: chunked\r\n\r\n", sent + end


@settings(max_examples=examples(300))
@given(bodies(), st.lists(st.integers(0, 200), max_size=6))
def test_a_usual_response_is_read_as_h11_reads_it(made: tuple[bytes, bytes], cuts: list[int]) -> None:
    head, sent = made
    first, *pieces = in_pieces(sent, cuts) if sent else [b""]
    assert read_plainly([head + first, *pieces]) == read_by_h11([head + first, *pieces])


def test_a_large_page_that_h11_reads_reaches_the_reader_in_bytes() -> None:
    body = b"up 1\n" * 20_000

    async def test() -> None:
        async with Server(responds_and_closes(until_closed(body))) as server:
            with contextlib.closing(http_client()) as client:
                assert (await client.collect(target(server.port))).content == body

    run(test())
