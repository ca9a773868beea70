# SPDX-License-Identifier: Apache-2.0
"""Tests of the quoting of untrusted text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.quoting import quoted, titled


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param("eighty", '"eighty"', id="text is in quotes"),
        pytest.param("", '""', id="empty text is in quotes"),
        pytest.param('say "80"', r'"say \"80\""', id="quotes in it are escaped"),
        pytest.param("a\x1b[2J\n", r'"a\u001b[2J\n"', id="control sequences of a terminal are escaped"),
        pytest.param("°\u202e", r'"\u00b0\u202e"', id="letters of other scripts are escaped"),
        pytest.param("x" * 40, f'"{"x" * 40}"', id="text of forty characters is whole"),
        pytest.param("x" * 41, f'"{"x" * 39}\\u2026"', id="longer text ends in an omission"),
        pytest.param(True, "true", id="true is true"),
        pytest.param(None, "null", id="none is null"),
        pytest.param(1.5, "1.5", id="a number is unchanged"),
        pytest.param(10**50, "1" + "0" * 36 + "...", id="a long number is cut"),
        pytest.param({"a": "\x1b"}, "an object", id="an object is shown by its kind"),
        pytest.param([1, 2], "a list of 2", id="a list is shown by its kind and length"),
    ],
)
def test_an_untrusted_value_is_quoted(value: object, shown: str) -> None:
    assert quoted(value) == shown


_json: st.SearchStrategy[object] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.just([{}])
)


@given(_json, st.integers(4, 100))
def test_a_quoted_value_is_printable_ascii_of_bounded_length(value: object, limit: int) -> None:
    shown = quoted(value, limit)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 12 * limit + 2  # a letter of another plane is two escapes of six characters


@given(st.text(max_size=40) | st.integers(-(10**30), 10**30) | st.booleans() | st.none())
def test_a_short_value_can_be_read_back(value: object) -> None:
    assert json.loads(quoted(value)) == value


@given(st.text(min_size=41))
def test_the_beginning_of_long_text_can_be_read_back(value: str) -> None:
    assert json.loads(quoted(value)) == value[:39] + "…"


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        pytest.param("the node is gone", "ai/llama: the node is gone", id="a sentence gets the name of its object"),
        pytest.param("ai/llama: it is gone", "ai/llama: it is gone", id="a sentence that has the name stays"),
        pytest.param("ai/llama-2: it is gone", "ai/llama: ai/llama-2: it is gone", id="another name is another object"),
        pytest.param("", "ai/llama: ", id="an empty sentence gets the name"),
    ],
)
def test_a_sentence_names_its_object_once(sentence: str, shown: str) -> None:
    assert titled("ai/llama", sentence) == shown
