# SPDX-License-Identifier: Apache-2.0
"""Tests the formulas of scalingModifiers.

The expected results are those of github.com/expr-lang/expr 1.17.8, which KEDA 2.20 uses, for the same formula and
values.
"""

import contextlib
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli.formula import MAX_FORMULA_LENGTH, FormulaError, formula_names, formula_result

VALUES = {"gpu": 276.0, "queue": 4.0, "zero": 0.0}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("gpu + queue", 280.0),
        ("gpu > 2 ? gpu + queue : 1", 280.0),
        ("max(gpu, 5)", 276.0),
        ("max([gpu, queue])", 276.0),
        ("min(gpu, queue, 1)", 1.0),
        ("sum([gpu, queue])", 280.0),
        ("sum([gpu, queue], # * 2)", 560.0),
        ("mean([gpu, queue])", 140.0),
        ("median([gpu, queue, 1])", 4.0),
        ("median([gpu, queue])", 140.0),
        ("count([gpu, queue], {# > 5}) > 1 ? 5 : 0", 0.0),
        ("count([gpu, queue], # > 5)", 1.0),
        ("abs(-gpu)", 276.0),
        ("ceil(gpu / 7)", 40.0),
        ("floor(gpu / 7)", 39.0),
        ("int(gpu / 7)", 39.0),
        ("round(2.5)", 3.0),
        ("round(-2.5)", -3.0),
        ("gpu ^ 2", 76176.0),
        ("-2 ** 2", -4.0),
        ("2 ** 3 ** 2", 512.0),
        ("2 ** -1", 0.5),
        ("2 * 3 + 4", 10.0),
        ("2 - 3 - 4", -5.0),
        ("7 / 2", 3.5),
        ("7 // 2", 7.0),
        ("not (gpu > 5) ? 1.0 : 2.0", 2.0),
        ("!(gpu > 5) || queue == 4 ? 1.0 : 2.0", 1.0),
        ("gpu > 5 and queue < 5 ? 1.5 : 2.5", 1.5),
        ("gpu > 5 ? queue > 5 ? 1.0 : 2.0 : 3.0", 2.0),
        ("1 < gpu < 500 ? 1.0 : 2.0", 1.0),
        ("1 < gpu < 200 ? 1.0 : 2.0", 2.0),
        ("gpu != 5 && true ? 1.0 : 2.0", 1.0),
        ("gpu ?? 5", 276.0),
        ("gpu == nil ? 1.0 : 2.0", 2.0),
        ("queue in [4.0, 5.0] ? 1.0 : 2.0", 1.0),
        ("if gpu > 5 { 1.0 } else { 2.0 }", 1.0),
        ("1_000 + gpu", 1276.0),
        ("1e3 + gpu", 1276.0),
        (".5 + gpu", 276.5),
        ("0x10 + gpu", 292.0),
        ("any([gpu, queue], # > 200) ? 1.0 : 2.0", 1.0),
        ("all([gpu, queue], {# > 200}) ? 1.0 : 2.0", 2.0),
        ("none([gpu], # > 500) ? 1.0 : 0.0", 1.0),
        ("one([gpu, queue], # > 5) ? 1.0 : 0.0", 1.0),
        ("sum(filter([gpu, queue], # > 5))", 276.0),
        ("sum(map([gpu, queue], # * 2))", 560.0),
        ("len([gpu, queue])", 2.0),
        ("sum([])", 0.0),
        ("mean([])", 0.0),
        ("gpu - -queue", 280.0),
        ("min(gpu, queue) / max(gpu, queue)", 0.014),
        ("gpu", 276.0),
        ("(gpu + queue) * 0.5", 140.0),
        ("5 == 5.0 ? 1.0 : 0.0", 1.0),
    ],
)  # fmt: skip
def test_a_formula_has_the_result_that_keda_gets(text: str, result: float) -> None:
    assert formula_result(text, VALUES) == result


def test_three_decimals_are_kept_without_rounding() -> None:
    assert formula_result("x", {"x": 1.9999}) == 1.999
    assert formula_result("x", {"x": -1.9999}) == -1.999


def test_a_formula_may_be_nil() -> None:
    assert formula_result("nil", {}) is None
    assert formula_result("max([])", {}) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("gpu +", "is not computed here: not understood at its end", id="it is not complete"),
        pytest.param("let x = gpu; x", "is not computed here: not understood at character 1", id="a variable"),
        pytest.param("gpu | max(5)", "is not computed here: not understood at character 5", id="a pipe"),
        pytest.param('"a"', "is not computed here", id="a text"),
        pytest.param("", "is not computed here", id="nothing"),
        pytest.param("other + 1", 'the value of "other" is not known here', id="a trigger without a value"),
        pytest.param("gpu % 2", "% takes integers, and is not computed here", id="a remainder"),
        pytest.param("not gpu > 5", "276 is neither true nor false", id="not binds more tightly than a comparison"),
        pytest.param("gpu ? 1 : 2", "276 is neither true nor false", id="a number is no condition"),
        pytest.param("gpu > 5", "true is not a number", id="a condition is no result"),
        pytest.param("[gpu]", "a list is not a number", id="a list is no result"),
        pytest.param("all(gpu, # > 1) ? 1 : 2", "276 is not a list", id="a number is no list"),
        pytest.param("# + 1", "# stands outside a predicate", id="an element of nothing"),
        pytest.param("sqrt(gpu)", 'the function "sqrt" with 1 arguments is not computed here', id="another function"),
        pytest.param("gpu / zero", "the result is inf, and the HPA needs a finite number", id="a division by zero"),
        pytest.param("zero / zero", "the result is nan", id="zero by zero"),
        pytest.param("floor(zero / zero)", "the result is nan", id="the floor of no number"),
        pytest.param("round(gpu / zero)", "the result is inf", id="a rounded infinity"),
        pytest.param("int(gpu / zero)", "int takes inf, which is not a finite number", id="no integer"),
        pytest.param("0x_", "is not computed here: not understood at character 2", id="a number without digits"),
        pytest.param("2 ** 9999999", "the exponent 1e+07 is too large", id="a huge exponent"),
        pytest.param("10 ** 999", "the result is too large", id="a huge result"),
        pytest.param("9.1e15", "is 9.1e+15, and KEDA keeps at most 9e+15", id="more than an integer has"),
        pytest.param("0 - 1e308", "is -1e+308, and KEDA keeps at most 9e+15", id="less than an integer has"),
        pytest.param("(" * 3000 + "1" + ")" * 3000, "more than 4096 characters", id="too long"),
    ],
)
def test_what_has_no_result_says_why(text: str, sentence: str) -> None:
    with pytest.raises(FormulaError, match=re.escape(sentence)):
        formula_result(text, VALUES)


def test_the_branch_that_is_not_taken_needs_no_value() -> None:
    assert formula_result("gpu > 5 ? 1 : other", VALUES) == 1.0
    assert formula_result("gpu > 5 || other > 5 ? 1 : 2", VALUES) == 1.0


def test_the_names_are_those_of_triggers_and_not_of_functions() -> None:
    assert formula_names("max(gpu, count([queue], # > 5)) + gpu") == {"gpu", "queue"}
    assert formula_names("1 + 2") == set()
    assert formula_names("gpu") == {"gpu"}


@given(st.text("gpuqe +-*/%()[]{}<>=!&|?:#,.0123456789", max_size=40))
def test_any_text_has_a_finite_result_or_an_error_with_a_sentence(text: str) -> None:
    with contextlib.suppress(FormulaError):
        result = formula_result(text, VALUES)
        assert result is None or math.isfinite(result)


@pytest.mark.parametrize("depth", [400, 1200])
def test_deep_nesting_is_an_error_and_no_crash(depth: int) -> None:
    text = "(" * depth + "gpu" + ")" * depth
    assert len(text) < MAX_FORMULA_LENGTH
    assert formula_result(text, VALUES) == 276.0
    deep = "-" * 3000 + "gpu"
    with pytest.raises(FormulaError, match="nested too deeply"):
        formula_result(deep, VALUES)
