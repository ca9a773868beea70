# SPDX-License-Identifier: Apache-2.0
"""Tests of label selectors that are applied in memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.kube.label_selector import parse_selector
from tests.apiserver import _condition, _parts

_LABELS: tuple[dict[str, str], ...] = ({}, {"app": "a"}, {"app": "b", "x.io/tier": "gold"}, {"app": "", "old": "1"})


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        pytest.param("", [True, True, True, True], id="everything"),
        pytest.param("app=a", [False, True, False, False], id="equal"),
        pytest.param("app==a", [False, True, False, False], id="equal, twice"),
        pytest.param("app = a", [False, True, False, False], id="with blanks"),
        pytest.param("app!=a", [True, False, True, True], id="not equal holds without the label"),
        pytest.param("app=", [False, False, False, True], id="equal to nothing"),
        pytest.param("app", [False, True, True, True], id="exists"),
        pytest.param("!app", [True, False, False, False], id="does not exist"),
        pytest.param("app in (a,b)", [False, True, True, False], id="in"),
        pytest.param("app in (a, )", [False, True, False, True], id="in, with nothing among the values"),
        pytest.param("app notin (a)", [True, False, True, True], id="not in holds without the label"),
        pytest.param("app,x.io/tier=gold", [False, False, True, False], id="two conditions"),
        pytest.param("x.io/tier in (gold),app=b,!old", [False, False, True, False], id="three conditions"),
    ],
)
def test_a_selector_selects_as_the_api_server_does(text: str, selected: list[bool]) -> None:
    matches = parse_selector(text)
    assert matches is not None
    assert [matches(labels) for labels in _LABELS] == selected


@pytest.mark.parametrize("text", ["app>1", "app=a,", "app in a", "(a)", "a b", ",", "app in ((a))", "a==b=c"])
def test_a_form_that_is_not_supported_is_left_to_the_server(text: str) -> None:
    assert parse_selector(text) is None


_KEYS, _VALUES = st.sampled_from(["app", "tier", "x.io/zone"]), st.sampled_from(["a", "b", "c-1"])
_REQUIREMENTS = st.one_of(
    st.builds("{}={}".format, _KEYS, _VALUES),
    st.builds("{}!={}".format, _KEYS, _VALUES),
    st.builds("!{}".format, _KEYS),
    _KEYS,
    st.builds("{} in ({})".format, _KEYS, st.lists(_VALUES, min_size=1).map(",".join)),
    st.builds("{} notin ({})".format, _KEYS, st.lists(_VALUES, min_size=1).map(",".join)),
)


@given(
    requirements=st.lists(_REQUIREMENTS, min_size=1, max_size=4),
    labels=st.dictionaries(_KEYS, _VALUES),
)
def test_any_selector_selects_as_the_fake_server_does(requirements: list[str], labels: dict[str, str]) -> None:
    text = ",".join(requirements)
    matches = parse_selector(text)
    assert matches is not None
    assert matches(labels) == all(_condition(part)(labels) for part in _parts(text))
