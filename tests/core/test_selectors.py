# SPDX-License-Identifier: Apache-2.0
"""Tests of globs, label selectors and series selectors."""

import contextlib
import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.selectors import SelectorError, matches_glob, parse_labels

WORDS = st.text(alphabet="aB1 -[*?", max_size=12)


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        pytest.param("*H100*", "NVIDIA H100 80GB HBM3", True, id="in the middle"),
        pytest.param("nvidia h100*", "NVIDIA H100 80GB HBM3", True, id="upper and lower case are alike"),
        pytest.param("NVIDIA H100", "NVIDIA H100 80GB HBM3", False, id="a pattern without a star is the whole name"),
        pytest.param("*MIG 1g.?0gb", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", True, id="a question mark is one character"),
        pytest.param("*L4", "NVIDIA L40S", False, id="the end counts"),
        pytest.param("*", "", True, id="a star matches nothing"),
        pytest.param("", "", True, id="an empty pattern matches empty text"),
        pytest.param("?", "", False, id="a question mark does not match nothing"),
        pytest.param("a*b*c", "a-b-b-c", True, id="a star that must match more"),
        pytest.param("*a?c", "aabaac", True, id="a star that must match less"),
    ],
)
def test_globs(pattern: str, text: str, fits: bool) -> None:
    assert matches_glob(pattern, text) is fits


@given(pattern=WORDS, text=WORDS)
def test_a_glob_matches_as_in_a_shell_except_for_brackets(pattern: str, text: str) -> None:
    shell_pattern = pattern.lower().replace("[", "[[]")
    assert matches_glob(pattern, text) is (re.match(fnmatch.translate(shell_pattern), text.lower()) is not None)


def test_no_pattern_takes_long() -> None:
    assert not matches_glob("*a" * 100 + "b", "a" * 256)


@pytest.mark.parametrize(
    ("text", "labels", "fits"),
    [
        pytest.param("pool=gpu", {"pool": "gpu"}, True, id="equal"),
        pytest.param("pool==gpu", {"pool": "gpu"}, True, id="two signs"),
        pytest.param("pool=gpu", {"pool": "cpu"}, False, id="another value"),
        pytest.param("pool=gpu", {}, False, id="no such key"),
        pytest.param("pool!=gpu", {"pool": "cpu"}, True, id="not equal"),
        pytest.param("pool!=gpu", {}, True, id="not equal, as the key is missing"),
        pytest.param("pool!=gpu", {"pool": "gpu"}, False, id="not equal, but it is"),
        pytest.param("nvidia.com/gpu.present", {"nvidia.com/gpu.present": "true"}, True, id="present"),
        pytest.param("nvidia.com/gpu.present", {}, False, id="not present"),
        pytest.param("!spot", {}, True, id="absent"),
        pytest.param("!spot", {"spot": ""}, False, id="not absent"),
        pytest.param("pool=", {"pool": ""}, True, id="empty value"),
        pytest.param(" pool = gpu , !spot ", {"pool": "gpu"}, True, id="blanks, and both must hold"),
        pytest.param("pool=gpu,zone=a", {"pool": "gpu", "zone": "b"}, False, id="one of two does not hold"),
    ],
)
def test_label_selectors(text: str, labels: dict[str, str], fits: bool) -> None:
    assert parse_labels(text).matches(labels) is fits


@pytest.mark.parametrize(
    "text", ["", "a,", "=b", "!a=b", "a b=c", "a=b c", "a in (b)", "x/y/z=1", "-a=b", "a=-", "a" * 64, "a=" + "b" * 64]
)
def test_other_text_is_no_label_selector(text: str) -> None:
    with pytest.raises(SelectorError, match="must be label conditions joined by commas"):
        parse_labels(text)


@given(st.text(max_size=60))
def test_any_text_is_a_selector_or_an_error(text: str) -> None:
    with contextlib.suppress(SelectorError):
        parse_labels(text).matches({})
