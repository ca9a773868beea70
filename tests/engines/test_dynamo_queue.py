# SPDX-License-Identifier: Apache-2.0
"""The queue of a worker of Dynamo is added to the queue of the engine inside it."""

import pytest

from keda_gpu_scaler.core.types import EngineSample
from keda_gpu_scaler.engines.scrape_parser import parse_page
from tests.engines import engine_pages

VLLM = 'vllm:num_requests_running{engine="0",model_name="m"} 3\n'
GATE = "dynamo_backend_admission_request_queue_count 30\n"
OLDER_GATE = "dynamo_request_queue 40\n"
SGLANG_QUEUE = "sglang:num_running_reqs 8\nsglang:num_queue_reqs 2\n"


def read(text: str) -> EngineSample:
    return parse_page(text.encode(), "text/plain; version=0.0.4", at_seconds=7.0)


@pytest.mark.parametrize(
    ("page", "waiting"),
    [
        pytest.param(VLLM + "vllm:num_requests_waiting 2\n" + GATE, 32.0, id="vLLM"),
        pytest.param(VLLM + "vllm:num_requests_waiting 2\n" + OLDER_GATE, 42.0, id="vLLM, an older worker"),
        pytest.param(VLLM + "vllm:num_requests_waiting 2\n" + GATE + OLDER_GATE, 32.0, id="both names of the queue"),
        pytest.param(
            VLLM
            + "vllm:num_requests_waiting 7\n"
            + 'vllm:num_requests_waiting_by_reason{reason="capacity"} 2\n'
            + 'vllm:num_requests_waiting_by_reason{reason="deferred"} 5\n'
            + GATE,
            32.0,
            id="vLLM, with the reasons of waiting",
        ),
        pytest.param(VLLM + GATE, None, id="vLLM without a queue of its own"),
        pytest.param(VLLM + "vllm:num_requests_waiting NaN\n" + GATE, None, id="vLLM with an unknown queue"),
        pytest.param(SGLANG_QUEUE + GATE, 32.0, id="SGLang"),
        pytest.param("sglang:num_running_reqs 8\n" + GATE, None, id="SGLang without a queue of its own"),
        pytest.param("trtllm_num_requests_waiting 2\n" + OLDER_GATE, 42.0, id="TensorRT-LLM"),
        pytest.param(engine_pages.DYNAMO.decode() + GATE, None, id="a worker without the series of its engine"),
    ],
)
def test_the_queue_of_a_worker_of_dynamo_is_a_part_of_the_queue(page: str, waiting: float | None) -> None:
    assert read(page).waiting == waiting


@pytest.mark.parametrize(
    ("own", "gate", "waiting", "parts"),
    [
        pytest.param("2", "30", 32.0, {}, id="everything is known"),
        pytest.param("NaN", "30", None, {"waiting": 30.0}, id="the queue of the engine is unknown"),
        pytest.param("2", "NaN", None, {"waiting": 2.0}, id="the queue of the worker is unknown"),
    ],
)
def test_what_is_known_of_the_two_queues_is_a_lower_bound(
    own: str, gate: str, waiting: float | None, parts: dict[str, float]
) -> None:
    sample = read(VLLM + f"vllm:num_requests_waiting {own}\ndynamo_backend_admission_request_queue_count {gate}\n")
    assert (sample.waiting, sample.known_parts) == (waiting, parts)


def test_a_selection_of_models_leaves_out_the_queue_that_names_no_model() -> None:
    page = VLLM + 'vllm:num_requests_waiting{engine="0",model_name="m"} 2\n' + GATE
    assert parse_page(page.encode(), "text/plain", at_seconds=7.0, models=("m",)).waiting == 2.0
