# SPDX-License-Identifier: Apache-2.0
"""Tests the selection of models, and servers whose models count the requests of one another."""

import pytest

from keda_gpu_scaler.core.evaluate.engine_load import EngineLoad, engine_load
from keda_gpu_scaler.core.state.scrape import ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS
from keda_gpu_scaler.core.types import EngineSample
from keda_gpu_scaler.engines.scrape_parser import parse_page
from tests.engines import engine_pages

STEPS = ("resize", "detector", "labels")
WAIT_US = {"detector": 400_000, "resize": 10, "labels": 20}
COMPUTED_US = {"detector": 30_000, "resize": 2_000, "labels": 1_000}


def ensemble_page(requests: int) -> bytes:
    """Return Triton's page after requests to an ensemble of three steps, of which one has a queue.

    The series of an ensemble are from Triton's source (ensemble_scheduler.cc): each request counts for the ensemble and
    for each step, the times of computation of the steps count for the ensemble again, and the ensemble has no queue.
    """
    lines = []
    for model in (*STEPS, "pipeline"):
        computed = COMPUTED_US.get(model, sum(COMPUTED_US.values()))
        pending = 4 if model == "detector" else 0
        for name, kind, value in (
            ("nv_inference_request_success", "counter", requests),
            ("nv_inference_exec_count", "counter", requests),
            ("nv_inference_queue_duration_us", "counter", requests * WAIT_US.get(model, 3)),
            ("nv_inference_compute_infer_duration_us", "counter", requests * computed),
            ("nv_inference_pending_request_count", "gauge", pending),
        ):
            lines.append(f'# TYPE {name} {kind}\n{name}{{model="{model}",version="1"}} {value}\n')
    return "".join(lines).encode()


def triton_load(reading: str, *models: str) -> EngineLoad:
    """Return the load of an ensemble that serves ten requests a second."""
    samples = [
        parse_page(ensemble_page(100 + 10 * second), "text/plain", at_seconds=second, models=models)
        for second in range(11)
    ]
    return engine_load(
        EngineQuery("triton", models=models),
        ENGINE_METRICS[reading],
        ScrapeResult((TargetHistory("http://10.0.0.1:8002/metrics", tuple(samples)),)),
        window_seconds=10.0,
        stale_after_seconds=10.0,
        now=10.0,
    )


@pytest.mark.parametrize(
    ("reading", "models", "value"),
    [
        pytest.param("triton_request_rate", ("pipeline",), 10, id="the requests of the ensemble"),
        pytest.param("triton_request_rate", ("detector",), 10, id="the requests of a step"),
        pytest.param("triton_request_rate", STEPS, 30, id="the requests of all steps"),
        pytest.param("triton_queue_wait_ms", ("detector",), 400, id="the wait for the step with the queue"),
        pytest.param("triton_queue_wait_ms", ("pipeline",), 0.003, id="an ensemble has no queue of its own"),
        pytest.param("queue_depth", ("detector",), 4, id="the queue of a step"),
        pytest.param("queue_depth", (), 4, id="an ensemble adds nothing to the queues"),
    ],
)
def test_an_ensemble_or_its_steps_are_read(reading: str, models: tuple[str, ...], value: float) -> None:
    load = triton_load(reading, *models)
    assert load.value == pytest.approx(value)
    assert "engineModel" not in load.sentence


@pytest.mark.parametrize(
    ("reading", "value"),
    [("triton_request_rate", 40), ("triton_queue_wait_ms", pytest.approx(100, rel=1e-3))],
)
def test_without_a_selection_the_sentence_says_that_models_are_added_up(reading: str, value: float) -> None:
    load = triton_load(reading)
    assert load.value == value
    assert load.sentence.endswith(
        "; its 4 models are added up, and an ensemble counts what its steps count: select one of them with engineModel"
    )


def read(page: bytes, *models: str) -> EngineSample:
    return parse_page(page, "text/plain", at_seconds=7.0, models=models)


def test_a_model_without_requests_is_not_added_up() -> None:
    page = ensemble_page(0).replace(b'success{model="detector",version="1"} 0', b'success{model="detector"} 5')
    assert read(page).summed_models == 0
    assert read(ensemble_page(1)).summed_models == 4


def test_a_model_that_the_page_does_not_have_is_unknown() -> None:
    load = triton_load("queue_depth", "another")
    assert load.value is None
    assert load.sentence == (
        "triton at http://10.0.0.1:8002/metrics: exports no number of waiting requests; no series has a model of "
        "engineModel in its label model"
    )
    assert not load.is_no_engine, "devices do not replace a model that is missing"


def test_an_engine_that_names_no_models_says_so() -> None:
    page = engine_pages.TGI
    sample = read(page, "llama")
    assert (sample.engine, sample.waiting, sample.has_model) == ("tgi", None, False)


def test_the_services_of_a_bento_are_read_alone_or_together() -> None:
    assert (read(engine_pages.BENTOML).running, read(engine_pages.BENTOML).summed_models) == (9, 2)
    gateway = read(engine_pages.BENTOML, "Gateway")
    assert (gateway.running, gateway.requests_total, gateway.summed_models) == (5, 60, 0)


def test_a_limit_of_requests_counts_only_where_each_model_has_one() -> None:
    assert read(engine_pages.XINFERENCE).running_limit == 40
    page = engine_pages.XINFERENCE.replace(b" 32\n", b" -1\n")
    assert read(page).running_limit is None
    assert read(page, "chat").running_limit is None
    assert read(page, "embed").running_limit == 8


def test_the_series_of_one_of_two_models_are_read() -> None:
    sample = read(engine_pages.TRITON, "embed")
    assert (sample.requests_total, sample.waiting, sample.queue_wait_seconds_total) == (40, 1, 0.5)
    both = read(engine_pages.TRITON, "detect", "embed")
    assert (both.requests_total, both.waiting) == (200, 6)


def test_the_pages_of_engines_that_name_models_have_their_label() -> None:
    pages = [value for name, value in vars(engine_pages).items() if name.isupper() and not value.startswith(b"{")]
    for name, engine in ENGINES.items():
        of_engine = [page.decode() for page in pages if read(page).engine == name]
        has_label = any(f'{label}="' in page for page in of_engine for label in engine.model_labels)
        assert has_label is bool(engine.model_labels), name
