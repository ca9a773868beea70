# SPDX-License-Identifier: Apache-2.0
"""Tests of what engines export in special cases: several processes, reasons, other units and other queues.

The pages are made for the tests. Names, types and labels are those of the engines' sources.
"""

import pytest

from keda_gpu_scaler.core.types import EngineSample
from keda_gpu_scaler.engines.scrape_parser import parse_page


def read(text: str) -> EngineSample:
    return parse_page(text.encode(), "text/plain; version=0.0.4", at_seconds=7.0)


VLLM = 'vllm:num_requests_running{engine="0",model_name="m"} 3\n'


@pytest.mark.parametrize(
    ("series", "ratio"),
    [
        pytest.param(
            'vllm:kv_cache_usage_perc{engine="0",pid="271"} 0.95\n'
            'vllm:kv_cache_usage_perc{engine="0",pid="273"} 0.1\n'
            'vllm:gpu_cache_usage_perc{engine="0"} 0.1\n',
            0.1,
            id="a process that ended, and the older series",
        ),
        pytest.param(
            'vllm:kv_cache_usage_perc{engine="0",pid="271"} 0.95\nvllm:kv_cache_usage_perc{engine="0",pid="273"} 0.1\n',
            None,
            id="a process that ended: it is not known which value is current",
        ),
        pytest.param('vllm:kv_cache_usage_perc{engine="0",pid="271"} 0.4\n', 0.4, id="one process"),
        pytest.param(
            'vllm:kv_cache_usage_perc{engine="0",pid="271"} 0\nvllm:kv_cache_usage_perc{engine="0",pid="273"} 0\n',
            0.0,
            id="processes that agree",
        ),
        pytest.param(
            'vllm:kv_cache_usage_perc{engine="0"} 0.2\nvllm:kv_cache_usage_perc{engine="1"} 0.7\n',
            0.7,
            id="ranks of one process, of which the fullest counts",
        ),
    ],
)
def test_the_kv_cache_of_vllm_with_several_processes(series: str, ratio: float | None) -> None:
    assert read(VLLM + series).kv_cache_ratio == ratio


@pytest.mark.parametrize(
    ("told", "ratio", "is_percent"),
    [
        pytest.param("0.425", 0.425, False, id="a ratio"),
        pytest.param("1.004", 1.004, False, id="a full cache"),
        pytest.param("42.5", 0.425, True, id="per cent"),
        pytest.param("100", 1.0, True, id="a full cache in per cent"),
    ],
)
def test_a_kv_cache_told_in_per_cent_is_read_as_a_ratio(told: str, ratio: float, is_percent: bool) -> None:
    sample = read(VLLM + f"vllm:kv_cache_usage_perc {told}\n")
    assert sample.kv_cache_ratio == pytest.approx(ratio)
    assert sample.is_kv_percent is is_percent


def test_requests_of_vllm_that_were_aborted_or_failed_are_no_success() -> None:
    counts = {"stop": 10, "length": 20, "repetition": 3, "abort": 400, "error": 5000}
    series = "".join(f'vllm:request_success_total{{finished_reason="{it}"}} {count}\n' for it, count in counts.items())
    assert read(VLLM + series).requests_total == 33


def test_requests_of_trtllm_that_were_cancelled_or_timed_out_are_no_success() -> None:
    counts = {"stop": 10, "length": 20, "cancelled": 400, "timeout": 5000}
    series = "".join(f'trtllm_request_success_total{{finished_reason="{it}"}} {n}\n' for it, n in counts.items())
    assert read("trtllm_num_requests_running 1\n" + series).requests_total == 30


def test_requests_that_are_deferred_wait_for_no_capacity() -> None:
    sample = read(
        VLLM
        + "vllm:num_requests_waiting 42\n"
        + 'vllm:num_requests_waiting_by_reason{reason="capacity"} 2\n'
        + 'vllm:num_requests_waiting_by_reason{reason="deferred"} 40\n'
    )
    assert (sample.waiting, sample.deferred) == (2.0, 40.0)


def test_a_gauge_below_zero_counts_as_zero() -> None:
    sample = read('vllm:num_requests_running{engine="0"} -1\nvllm:num_requests_running{engine="1"} 4\n')
    assert sample.running == 4.0


def test_a_gauge_that_is_not_a_number_makes_the_sum_unknown() -> None:
    assert read('vllm:num_requests_running{engine="0"} NaN\nvllm:num_requests_running{engine="1"} 4\n').running is None
