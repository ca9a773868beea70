# SPDX-License-Identifier: Apache-2.0
"""Each engine's page has the readings from which its metric ``load`` is computed."""

import math

from keda_gpu_scaler.core.trigger.engines import ENGINES, LoadRung
from keda_gpu_scaler.core.types import EngineSample, Histogram
from keda_gpu_scaler.engines.scrape_parser import parse_page
from tests.engines import engine_pages

AT = 7.0
RUNNING = b"vllm:num_requests_running 1\n"


def parsed_page(page: bytes) -> EngineSample:
    return parse_page(page, "application/json" if page.startswith(b"{") else "text/plain", at_seconds=AT)


def samples() -> list[EngineSample]:
    """Return what is read of every page."""
    return [parsed_page(page) for name, page in vars(engine_pages).items() if name.isupper()]


RUNG_NEEDS = {
    LoadRung.TOKEN_TIME: ("token_time", "token_time_seconds_total", "token_times_total"),
    LoadRung.REQUEST_TOKEN_TIME: ("token_time_seconds_total", "token_times_total"),
    LoadRung.TOKEN_RATE: ("running", "tokens_total"),
    LoadRung.SERVICE_TIME: ("service_seconds_total", "services_total"),
    LoadRung.RUNNING: ("running",),
    LoadRung.NONE: (),
}


def test_every_engine_has_the_readings_of_its_rung() -> None:
    parsed = samples()
    for name, engine in ENGINES.items():
        of_the_engine = [sample for sample in parsed if sample.engine == name]
        needs = RUNG_NEEDS[engine.load_rung]
        assert any(all(getattr(sample, need) is not None for need in needs) for sample in of_the_engine), name


def test_no_engine_has_the_readings_of_a_better_rung() -> None:
    """A mean of each request and a time between tokens have the same readings, so these two are not compared."""
    rungs = list(LoadRung)
    for sample in samples():
        rung = ENGINES[sample.engine].load_rung if sample.engine else LoadRung.TOKEN_TIME
        for better in rungs[: rungs.index(rung)]:
            if better is not LoadRung.TOKEN_TIME:
                assert any(getattr(sample, need) is None for need in RUNG_NEEDS[better]), (sample.engine, better)


def test_the_newer_name_of_the_time_between_tokens_counts_where_both_are_exported() -> None:
    names = ("inter_token_latency_seconds", "time_per_output_token_seconds")
    lines = [
        f'vllm:{name}_sum {total}\nvllm:{name}_count {count}\nvllm:{name}_bucket{{le="+Inf"}} {count}\n'
        for name, total, count in zip(names, (1.5, 2.5), (3, 5), strict=True)
    ]
    for page in ("".join(lines), "".join(reversed(lines))):
        sample = parsed_page(RUNNING + page.encode())
        assert (sample.token_time_seconds_total, sample.token_times_total) == (1.5, 3)
        assert sample.token_time == Histogram((math.inf,), (3,))


def test_times_between_tokens_without_their_sum_are_unknown() -> None:
    page = b'vllm:inter_token_latency_seconds_count 3\nvllm:inter_token_latency_seconds_bucket{le="+Inf"} 3\n'
    sample = parsed_page(RUNNING + page)
    assert (sample.token_time, sample.token_time_seconds_total, sample.token_times_total) == (None, None, None)


def test_a_rank_without_a_known_time_between_tokens_leaves_the_sum_unknown() -> None:
    page = (
        b'vllm:inter_token_latency_seconds_sum{engine="0"} NaN\nvllm:inter_token_latency_seconds_sum{engine="1"} 2\n'
        b'vllm:inter_token_latency_seconds_count{engine="0"} 1\nvllm:inter_token_latency_seconds_count{engine="1"} 4\n'
    )
    sample = parsed_page(RUNNING + page)
    assert (sample.token_time_seconds_total, sample.token_times_total) == (None, 5)
