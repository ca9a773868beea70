# SPDX-License-Identifier: Apache-2.0
"""Tests of lists that are read piece by piece, against the JSON decoder of the standard library."""

import asyncio
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.list_reader import ListError, ListReader
from tests.apiserver import FakeApiServer

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
_OBJECTS = st.dictionaries(st.text(max_size=5), _VALUES, max_size=3)
_LISTS = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.text(max_size=5),
        "metadata": _OBJECTS,
        "items": st.none() | st.lists(_OBJECTS, max_size=4),
        "other": _VALUES,
    },
)
_LIST = {
    "kind": "PodList",
    "metadata": {"resourceVersion": "7", "continue": "é\U0001f600"},
    "items": [{"a": 'q"}]\\'}, {}, {"n": -1.5e3}],
    "count": 12,
}


def read(text: bytes, *cuts: int) -> tuple[list[Any], Any]:
    reader, found = ListReader(), []
    for begin, end in zip((0, *cuts), (*cuts, len(text)), strict=True):
        found += list(reader.feed(text[begin:end]))
    return [*found, *reader.end()], dict(reader.metadata)


def expected(document: dict[str, Any]) -> tuple[list[Any], Any]:
    metadata = document.get("metadata")
    return document.get("items") or [], metadata if isinstance(metadata, dict) else {}


@given(document=_LISTS, indent=st.sampled_from([None, 1]), ascii_only=st.booleans(), cuts=st.data())
def test_any_list_cut_anywhere_is_read_as_the_standard_library_reads_it(
    document: dict[str, Any], indent: int | None, ascii_only: bool, cuts: st.DataObject
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if b"\xed" in text and not ascii_only:
        text = json.dumps(document, indent=indent).encode()  # a lone surrogate has no UTF-8
    chosen = sorted(cuts.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    assert read(text, *chosen) == expected(document)


@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "UTF-8"])
@pytest.mark.parametrize("indent", [None, 2], ids=["compact", "with blanks"])
def test_a_list_is_read_the_same_at_every_cut(ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(_LIST, ensure_ascii=ascii_only, indent=indent).encode()
    for cut in range(len(text) + 1):
        assert read(text, cut) == expected(_LIST), cut
    assert read(text, *range(1, len(text))) == expected(_LIST), "byte by byte"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="an array"),
        pytest.param(b"{", id="a beginning"),
        pytest.param(b'{"items":[{"a":1}', id="an incomplete list"),
        pytest.param(b'{"items":[{"a":1}]', id="an incomplete object"),
        pytest.param(b'{"items":[{"a":1},]}', id="a comma too many"),
        pytest.param(b'{"items":[1]}', id="items that are no objects"),
        pytest.param(b'{"items":{}}', id="items that are no list"),
        pytest.param(b'{"items":[],"items":[]}', id="items twice"),
        pytest.param(b'{"items":[]}}', id="a brace too many"),
        pytest.param(b'{"items":[]} x', id="text after the end"),
        pytest.param(b"{1:2}", id="a key that is no text"),
        pytest.param(b'{"a" 2}', id="a missing colon"),
        pytest.param(b'{"a":' + b"[" * 100_000, id="deep nesting"),
        pytest.param(b'{"a":' + b"1" * 10_000 + b"}", id="a number of ten thousand digits"),
        pytest.param(b'{"a":"\xff"}', id="no UTF-8"),
        pytest.param(b'{"items":[{"a":"' + b"x" * (9 << 20), id="an object without an end"),
    ],
)
def test_what_is_no_list_is_an_error(text: bytes) -> None:
    with pytest.raises(ListError):
        read(text)


def test_a_list_that_ignores_the_limit_is_read_with_bounded_memory() -> None:
    item = json.dumps({"metadata": {"name": "pod"}, "spec": {"text": "x" * 4000}}).encode()
    reader, count = ListReader(), 0
    list(reader.feed(b'{"items":['))
    tracemalloc.start()
    try:
        for number in range(20_000):  # 80 MB
            for _ in reader.feed((b"," if number else b"") + item):
                count += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    list(reader.feed(b'],"metadata":{"resourceVersion":"7"}}'))
    assert (count, reader.metadata["resourceVersion"]) == (20_000, "7")
    assert peak < 1 << 20


def test_the_client_gives_each_object_to_its_reader_and_returns_the_metadata() -> None:
    async def talk(server: FakeApiServer) -> None:
        api = ApiClient(server.access)
        found: list[str] = []
        metadata = await api.read_list(
            "/api/v1/namespaces/ai/pods", {}, "", lambda item: found.append(item["metadata"]["name"])
        )
        await api.close()
        assert found == ["a", "b"]
        assert metadata["resourceVersion"].isdigit()

    with FakeApiServer() as server:
        server.pod("a")
        server.pod("b")
        asyncio.run(talk(server))
