# SPDX-License-Identifier: Apache-2.0
"""Tests what is known of a reading while the value of one of its series is not a number."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.types import EngineSample
from keda_gpu_scaler.engines.scrape_parser import parse_page

RANKS = "".join(f'vllm:num_requests_running{{engine="{rank}"}} 1\n' for rank in (0, 1))
GAUGES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_cache_ratio",
}


def read(text: str) -> EngineSample:
    return parse_page(text.encode(), "text/plain; version=0.0.4", at_seconds=7.0)


def ranks(name: str, *values: object, label: str = "engine") -> str:
    return "".join(f'{name}{{{label}="{rank}"}} {value}\n' for rank, value in enumerate(values))


@pytest.mark.parametrize(
    ("page", "parts"),
    [
        pytest.param(ranks("vllm:num_requests_waiting", "NaN", 50), {"waiting": 50.0}, id="a sum"),
        pytest.param(ranks("vllm:num_requests_waiting", "+Inf", 50), {"waiting": 50.0}, id="an infinite part"),
        pytest.param(ranks("vllm:num_requests_waiting", "NaN"), {"waiting": 0.0}, id="nothing is known"),
        pytest.param(ranks("vllm:num_requests_waiting", "NaN", -2), {"waiting": 0.0}, id="a count below 0"),
        pytest.param(ranks("vllm:kv_cache_usage_perc", "NaN", 0.95, 0.2), {"kv_cache_ratio": 0.95}, id="a largest"),
        pytest.param(ranks("vllm:kv_cache_usage_perc", "NaN", 95), {"kv_cache_ratio": 0.95}, id="in per cent"),
        pytest.param(
            ranks("vllm:kv_cache_usage_perc", 0.95, 0.1, label="pid"),
            {"kv_cache_ratio": 0.1},
            id="of a process that ended and the current one, the least",
        ),
        pytest.param(
            ranks("vllm:kv_cache_usage_perc", 0.95, "NaN", label="pid"),
            {"kv_cache_ratio": 0.0},
            id="the process whose value is unknown may be the current one",
        ),
        pytest.param(ranks("vllm:generation_tokens_total", "NaN", 3), {"tokens_total": 3.0}, id="a counter"),
        pytest.param(
            'vllm:time_to_first_token_seconds_bucket{le="1"} NaN\n'
            'vllm:time_to_first_token_seconds_bucket{le="+Inf"} 2\n',
            {"first_token": 0.0},
            id="a histogram",
        ),
        pytest.param(ranks("vllm:num_requests_waiting", 1, 50), {}, id="everything is known"),
        pytest.param("", {}, id="a reading that the page does not have"),
    ],
)
def test_the_known_parts_of_vllm(page: str, parts: dict[str, float]) -> None:
    sample = read(RANKS + page)
    assert sample.known_parts == parts
    assert all(getattr(sample, name) is None for name in parts)
    assert sample.is_kv_percent is ("95\n" in page and "0.95" not in page)


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        pytest.param(
            "num_queue_reqs 40\nsglang:num_decode_prealloc_queue_reqs NaN\n", 40.0, id="one of several queues"
        ),
        pytest.param(
            'num_queue_reqs{tp_rank="0"} 40\nsglang:num_queue_reqs{tp_rank="1"} NaN\n', 40.0, id="one of two copies"
        ),
    ],
)
def test_the_known_queue_of_sglang(lines: str, parts: float) -> None:
    assert read(f"sglang:num_running_reqs 1\nsglang:{lines}").known_parts == {"waiting": parts}


@pytest.mark.parametrize(
    ("used", "limit", "parts"),
    [
        pytest.param("NaN", "100", {"kv_cache_ratio": 0.0}, id="an unknown use"),
        pytest.param("50", "NaN", {}, id="an unknown limit"),
        pytest.param("50", "0", {}, id="no limit"),
    ],
)
def test_the_known_part_of_a_share_needs_its_limit(used: str, limit: str, parts: dict[str, float]) -> None:
    sample = read(f"tgi_queue_size 1\ntgi_batch_max_total_tokens {limit}\ntgi_batch_current_max_tokens {used}\n")
    assert sample.known_parts == parts
    assert sample.kv_cache_ratio is None


def test_a_limit_that_is_not_known_is_no_limit() -> None:
    assert "running_limit" not in read("sglang:num_running_reqs 1\nsglang:max_running_requests NaN\n").known_parts


@pytest.mark.parametrize("values", [(-1.0,), (-1.0, -0.5)])
def test_a_share_of_the_kv_cache_below_zero_counts_as_zero(values: tuple[float, ...]) -> None:
    assert read(RANKS + ranks("vllm:kv_cache_usage_perc", *values)).kv_cache_ratio == 0.0


KNOWN = st.floats(min_value=-2.0, max_value=1.4)


@given(
    st.lists(st.tuples(st.sampled_from([*GAUGES]), KNOWN, st.booleans()), min_size=1, max_size=12),
    st.sampled_from(["NaN", "+Inf", "-Inf"]),
)
def test_a_reading_is_at_least_its_known_part(series: list[tuple[str, float, bool]], unknown: str) -> None:
    """Whatever the missing values were, and whichever of the series have none."""
    lines = [
        (f'{name}{{engine="{number + 2}"}}', value, is_known) for number, (name, value, is_known) in enumerate(series)
    ]
    whole = read(RANKS + "".join(f"{name} {value}\n" for name, value, _ in lines))
    page = read(RANKS + "".join(f"{name} {value if is_known else unknown}\n" for name, value, is_known in lines))
    unknown_readings = {GAUGES[name] for name, _, is_known in series if not is_known}
    assert page.known_parts.keys() == unknown_readings
    for name in unknown_readings:
        value = getattr(whole, name)
        assert math.isfinite(page.known_parts[name])
        assert 0 <= page.known_parts[name] <= value + 1e-9
