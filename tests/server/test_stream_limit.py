# SPDX-License-Identifier: Apache-2.0
"""Tests of the limits of streams."""

import contextlib

import pytest

from keda_gpu_scaler.server.stream_limit import StreamLimit, TooManyStreamsError


def test_a_closed_stream_makes_room() -> None:
    limit = StreamLimit(per_connection=1, total=2)
    for _ in range(3):
        with limit.opened("one"), limit.opened("other"):
            assert len(limit) == 2
    assert len(limit) == 0


@pytest.mark.parametrize(
    ("connections", "sentence"),
    [
        pytest.param(
            ["one", "one", "one"],
            "this connection has 2 streams of this method open, which is the limit; close one",
            id="the streams of one connection",
        ),
        pytest.param(
            ["one", "two", "three", "four"],
            "3 streams of this method are open, which is the limit; try later",
            id="the streams of all connections",
        ),
    ],
)
def test_a_stream_above_a_limit_is_refused_and_not_counted(connections: list[str], sentence: str) -> None:
    limit = StreamLimit(per_connection=2, total=3)
    with contextlib.ExitStack() as stack:
        for connection in connections[:-1]:
            stack.enter_context(limit.opened(connection))
        with pytest.raises(TooManyStreamsError, match=sentence), limit.opened(connections[-1]):
            pass
        assert len(limit) == len(connections) - 1
