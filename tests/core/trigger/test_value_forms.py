# SPDX-License-Identifier: Apache-2.0
"""Compares the table of the values' forms with the parser, which decides."""

import re

import pytest

from keda_gpu_scaler.core.trigger.metadata import MAX_NUMBER
from keda_gpu_scaler.core.trigger.parser import METRIC_TYPES, PARAMETERS, TriggerError, parse_trigger
from keda_gpu_scaler.core.trigger.value_forms import (
    NUMBER_PATTERN,
    NUMBERS,
    NumberBounds,
    choices,
    is_at_most_full,
    metrics_at_most_full,
    own_keys,
)

KEYS = own_keys()


def problems(key: str, value: str) -> list[str]:
    """What the parser says about the form of one key's value."""
    try:
        parse_trigger({key: value})
    except TriggerError as error:
        forms = (f"metadata.{key}: Invalid value: ", f"metadata.{key}: Unsupported value: ")
        return [one for one in error.problems if one.startswith(forms)]
    return []


def test_every_key_of_the_table_is_a_key_of_the_scaler() -> None:
    assert {*NUMBERS, *choices()} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_the_parser_reads_a_number_or_a_choice_where_the_table_has_one(key: str) -> None:
    """Every key is asked with a value that no number and no list of words has."""
    said = " ".join(problems(key, "?"))
    assert ("must be a plain number from" in said) == (key in NUMBERS)
    assert ("Unsupported value" in said) == (key in choices())


@pytest.mark.parametrize(("key", "bounds"), NUMBERS.items())
def test_the_parser_has_the_bounds_of_the_table(key: str, bounds: NumberBounds) -> None:
    said = " ".join(problems(key, "?"))
    assert f"must be a plain number from {bounds.at_least:g} to {bounds.at_most:g}," in said
    assert bounds.at_most <= MAX_NUMBER


@pytest.mark.parametrize(("key", "words"), choices().items())
def test_the_parser_takes_every_word_of_the_table_and_no_other(key: str, words: tuple[str, ...]) -> None:
    assert [problems(key, word) for word in words] == [[] for _ in words]
    listed = problems(key, "?")[0].partition("supported values: ")[2]
    assert listed == ", ".join(words)


@pytest.mark.parametrize("text", ["80", "8e1", "+5.", ".5", "1E+2", "0.001"])
def test_the_pattern_takes_the_numbers_that_the_parser_takes(text: str) -> None:
    assert re.fullmatch(NUMBER_PATTERN, text)
    assert problems("targetValue", text) == []


@pytest.mark.parametrize("text", ["NaN", "inf", "1_000", "0x10", "80%", "1e", "٣", "."])
def test_the_pattern_refuses_what_the_parser_refuses(text: str) -> None:
    assert not re.fullmatch(NUMBER_PATTERN, text)
    assert problems("targetValue", text)


def test_only_percentages_that_count_no_queue_are_at_most_100() -> None:
    full = metrics_at_most_full()
    assert {"gpu_utilization", "memory_used_percent", "sm_active", "kv_cache_usage", "vllm_kv_cache_usage"} <= {*full}
    assert not {"load", "saturation", "power_draw", "queue_depth"} & {*full}
    assert all(is_at_most_full(METRIC_TYPES[name]) for name in full)
    assert len(KEYS) == len(PARAMETERS)
