# SPDX-License-Identifier: Apache-2.0
"""Makes pages as vLLM exports them from a few numbers; they are as large as real pages.

Names, labels and buckets are those of vLLM's documentation ("Production Metrics").
"""

from collections.abc import Iterator

MODEL = 'engine="0",model_name="meta-llama/Llama-3.3-70B-Instruct"'
_TTFT_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
_TOKEN_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_LATENCY_BOUNDS = (
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
)
_OTHER_HISTOGRAMS = (
    "request_prompt_tokens",
    "request_generation_tokens",
    "iteration_tokens_total",
    "request_max_num_generation_tokens",
    "request_params_n",
    "request_params_max_tokens",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
)


def vllm_page(
    *,
    running: float = 0,
    waiting: float = 0,
    kv: float = 0.0,
    requests: float = 0,
    tokens: float = 0,
    preemptions: float = 0,
    queue_seconds: float = 0.0,
    first_tokens: float = 0,
    token_times: float = 0,
    token_time: float = 0.0,
    generation: str = "kv_cache_usage_perc",
) -> bytes:
    """Return one page.

    ``kv`` is a ratio, ``first_tokens`` the number of requests with a first token after 50 ms, ``token_times`` the
    number of times between two tokens, each of which is ``token_time`` in seconds. Prompts have seven times as many
    tokens as answers.
    """
    return "".join(
        f"{line}\n"
        for line in _lines(
            {
                "num_requests_running": (running, "gauge"),
                "num_requests_waiting": (waiting, "gauge"),
                generation: (kv, "gauge"),
                "num_preemptions_total": (preemptions, "counter"),
                "prompt_tokens_total": (7 * tokens, "counter"),
                "generation_tokens_total": (tokens, "counter"),
                "prefix_cache_queries_total": (9 * tokens, "counter"),
                "prefix_cache_hits_total": (8 * tokens, "counter"),
            },
            requests,
            queue_seconds,
            first_tokens,
            (token_times, token_time),
        )
    ).encode()


def _lines(
    plain: dict[str, tuple[float, str]],
    requests: float,
    queue_seconds: float,
    first_tokens: float,
    between_tokens: tuple[float, float],
) -> Iterator[str]:
    yield "# HELP python_gc_objects_collected_total Objects collected during gc"
    yield "# TYPE python_gc_objects_collected_total counter"
    yield from (f'python_gc_objects_collected_total{{generation="{number}"}} 8213.0' for number in range(3))
    for name, (value, kind) in plain.items():
        yield f"# HELP vllm:{name} As exported by vllm:num_requests_waiting 3.0 and others."
        yield f"# TYPE vllm:{name} {kind}"
        yield f"vllm:{name}{{{MODEL}}} {float(value)}"
        if kind == "counter":
            yield f"# TYPE vllm:{name.removesuffix('_total')}_created gauge"
            yield f"vllm:{name.removesuffix('_total')}_created{{{MODEL}}} 1.7700000001e+09"
    yield "# TYPE vllm:num_requests_waiting_by_reason gauge"
    waiting = plain["num_requests_waiting"][0]
    yield f'vllm:num_requests_waiting_by_reason{{{MODEL},reason="capacity"}} {float(waiting)}'
    yield f'vllm:num_requests_waiting_by_reason{{{MODEL},reason="deferred"}} 0.0'
    yield "# TYPE vllm:request_success_total counter"
    for reason, part in (("stop", 0.75), ("length", 0.25), ("abort", 0.0)):
        yield f'vllm:request_success_total{{{MODEL},finished_reason="{reason}"}} {requests * part}'
    yield from _histogram("time_to_first_token_seconds", _TTFT_BOUNDS, first_tokens, 0.05)
    yield from _histogram("request_queue_time_seconds", _LATENCY_BOUNDS, requests, 0.0, queue_seconds)
    yield from _histogram("inter_token_latency_seconds", _TOKEN_BOUNDS, *between_tokens)
    for name in _OTHER_HISTOGRAMS:
        yield from _histogram(name, _LATENCY_BOUNDS, requests, 1.2)


def _histogram(
    name: str, bounds: tuple[float, ...], count: float, each: float, total: float | None = None
) -> Iterator[str]:
    yield f"# HELP vllm:{name} Histogram of {name.replace('_', ' ')}."
    yield f"# TYPE vllm:{name} histogram"
    for bound in bounds:
        yield f"vllm:{name}_bucket{{{MODEL.replace(',', f',le=@{bound}@,'.replace('@', chr(34)), 1)}}} " + str(
            float(count if each <= bound else 0)
        )
    yield f'vllm:{name}_bucket{{{MODEL},le="+Inf"}} {float(count)}'
    yield f"vllm:{name}_count{{{MODEL}}} {float(count)}"
    yield f"vllm:{name}_sum{{{MODEL}}} {float(count * each if total is None else total)}"
