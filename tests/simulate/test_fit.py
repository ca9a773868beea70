# SPDX-License-Identifier: Apache-2.0
"""A fit finds the model whose engines were recorded, and a recording that does not show it is refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from keda_gpu_scaler.core.types import Workload
from keda_gpu_scaler.simulate.engine_model import EngineModel, SimulationError
from keda_gpu_scaler.simulate.fit import fit_engine_model
from keda_gpu_scaler.simulate.fit_spans import FitSpan, check_spans
from keda_gpu_scaler.simulate.gateway import Gateway
from keda_gpu_scaler.simulate.presets import PRESETS, engine_model, model_json
from keda_gpu_scaler.simulate.replica import Replica
from keda_gpu_scaler.simulate.requests import RequestLog, RequestTraffic
from keda_gpu_scaler.simulate.traffic.engine_history import is_recording, read_engine_history
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.rates import traffic_of_rates
from keda_gpu_scaler.simulate.traffic.recording import traffic_of_recording
from keda_gpu_scaler.wire.engine_recording import Place, RecordedPage, RecordedWorkload
from keda_gpu_scaler.wire.recording import RecordingWriter
from tests.simulate.test_engine_samples import vllm_page

MODEL = EngineModel("true", 0.012, 0.0006, 6e-5, 4e-8, kv_tokens=200_000, max_seqs=128, token_budget=4096)


def traffic(*rates: float, minutes: int = 2) -> RequestTraffic:
    rows = [(float(number), 60 * rates[number // minutes]) for number in range(minutes * len(rates))]
    return traffic_of_rates("load", rows, Lengths(300, 80, 0.5))


def recorded(path: Path, requests: RequestTraffic, left_out: str = "nothing", cached: float = 0.0) -> Path:
    """Record two engines every two seconds.

    ``left_out`` is in the names of series that the pages lack, ``cached`` the share of prompt tokens in the cache.
    """
    log = RequestLog(requests)
    fleet = Gateway(log)
    replicas = [Replica(MODEL, log) for _ in range(2)]
    for replica in replicas:
        fleet.add(replica, 0.0)
    workload = Workload("ai", "llama", "ScaledObject", "Deployment llama", 2, 2, ())
    with RecordingWriter(path, "engines of ai/llama", interval_seconds=2.0) as writer:
        writer.write_record(RecordedWorkload(0.0, workload))
        for second in range(0, int(requests.seconds) + 1, 2):
            fleet.run(float(second))
            for number, replica in enumerate(replicas):
                replica.settle(float(second))
                lines = [line for line in vllm_page(replica) if left_out not in line]
                if cached:
                    lines.append(f"vllm:prefix_cache_hits_total {cached * replica.counters.prompt_tokens}")
                page = "\n".join(lines) + "\n"
                place = Place("ai", f"llama-{number}", "http", 8000, "/metrics")
                writer.write_record(RecordedPage(float(second), place, 0.01, 200, "text/plain", page))
    return path


def test_the_fit_finds_the_model_of_the_recorded_engines(tmp_path: Path) -> None:
    path = recorded(tmp_path / "load.jsonl.gz", traffic(2, 8, 16, 4, 20))
    fit = fit_engine_model("found", [read_engine_history(path)], kv_tokens=MODEL.kv_tokens, max_seqs=128)
    found = fit.model
    assert found.iteration_seconds == pytest.approx(MODEL.iteration_seconds, rel=0.1)
    assert found.request_seconds == pytest.approx(MODEL.request_seconds, rel=0.35)
    assert fit.explained > 0.9
    for check in fit.checks:
        # A time to the first token is known to its bucket alone.
        near = 1.0 if "first token" in check.name else 0.1
        assert check.predicted == pytest.approx(check.measured, rel=near), check.name
    assert [check.name for check in fit.checks if "first token" in check.name]


def test_without_a_time_between_tokens_the_fit_takes_the_tokens_per_second(tmp_path: Path) -> None:
    path = recorded(tmp_path / "load.jsonl.gz", traffic(2, 8, 16, 4, 20), left_out="inter_token_latency")
    fit = fit_engine_model("found", [read_engine_history(path)], kv_tokens=MODEL.kv_tokens)
    assert fit.model.iteration_seconds == pytest.approx(MODEL.iteration_seconds, rel=0.25)
    assert any("no time between tokens" in sentence for sentence in fit.sentences)


def test_the_recordings_of_several_even_loads_show_what_none_of_them_shows(tmp_path: Path) -> None:
    paths = [
        recorded(tmp_path / f"{number}.jsonl", traffic(rate, rate, rate)) for number, rate in enumerate((3, 12, 20))
    ]
    histories = [read_engine_history(path) for path in paths]
    for history in histories:
        with pytest.raises(SimulationError, match=r"times the least|explain"):
            fit_engine_model("found", [history], kv_tokens=MODEL.kv_tokens)
    fit = fit_engine_model("found", histories, kv_tokens=MODEL.kv_tokens)
    assert fit.model.iteration_seconds == pytest.approx(MODEL.iteration_seconds, rel=0.15)
    assert [check.name for check in fit.checks if "first token" in check.name]


def test_prompt_tokens_in_the_prefix_cache_are_named(tmp_path: Path) -> None:
    path = recorded(tmp_path / "load.jsonl", traffic(2, 8, 16, 4, 20), cached=0.8)
    fit = fit_engine_model("found", [read_engine_history(path)], kv_tokens=MODEL.kv_tokens)
    assert any("80 % of the prompt tokens were in the prefix cache" in sentence for sentence in fit.sentences)


def test_a_load_test_that_begins_slowly_is_no_changing_load() -> None:
    span = FitSpan(0.02, 16.0, 100.0, 0.1, 1000.0, 16.0)
    ramp = [replace(span, decoding=float(number)) for number in (1, 4, 8)]
    with pytest.raises(SimulationError, match="times the least"):
        check_spans("sweep", [*ramp, *[span] * 100])
    check_spans("sweep", [replace(span, decoding=float(number)) for number in range(1, 40)])


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        pytest.param((0.002, 0.002, 0.002, 0.002, 0.002), "enough generated tokens", id="ten minutes of idle"),
        pytest.param((6, 6, 6, 6, 6), "the most are 2 times the least|explain", id="an even load"),
    ],
)
def test_a_recording_that_shows_no_model_is_refused(tmp_path: Path, rates: Sequence[float], words: str) -> None:
    path = recorded(tmp_path / "load.jsonl", traffic(*rates))
    with pytest.raises(SimulationError, match=words):
        fit_engine_model("found", [read_engine_history(path)], kv_tokens=MODEL.kv_tokens)


def test_a_recording_is_a_traffic_with_its_rates_and_mean_lengths(tmp_path: Path) -> None:
    requests = traffic(2, 8)
    path = recorded(tmp_path / "load.jsonl.gz", requests)
    assert is_recording(path)
    again = traffic_of_recording(path, Lengths())
    assert len(again) == pytest.approx(len(requests), rel=0.05)
    early = sum(arrival < 120 for arrival in again.arrivals)
    assert early == pytest.approx(sum(arrival < 120 for arrival in requests.arrivals), rel=0.1)
    assert sum(again.prompts) / len(again) == pytest.approx(300, rel=0.15)
    assert sum(again.answers) / len(again) == pytest.approx(80, rel=0.2)


def test_a_recording_without_engines_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "devices.jsonl"
    with RecordingWriter(path, "nvml"):
        pass
    with pytest.raises(SimulationError, match="has no page of an engine"):
        read_engine_history(path)


def test_a_model_is_read_from_the_file_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(model_json(MODEL))
    assert engine_model(str(path)) == MODEL


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_plausible_and_says_where_it_comes_from(name: str) -> None:
    model = PRESETS[name]
    assert model.source
    assert 0.003 < model.iteration_seconds < 0.2
    assert 1e-6 < model.prompt_token_seconds < 1e-3
    assert 8_000 < model.kv_tokens < 10_000_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("{nonsense", "cannot read", id="not JSON"),
        pytest.param('{"speed": 3}', "unknown field speed", id="an unknown field"),
        pytest.param('{"name": 3}', "name: must be a text", id="a number for a text"),
        pytest.param('{"name": "a"}', "a field is missing", id="a missing field"),
        pytest.param("[]", "must be a JSON object", id="a list"),
    ],
)
def test_a_model_that_cannot_be_read_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(SimulationError, match=words):
        engine_model(str(path))


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(SimulationError, match="neither a file nor one of llama"):
        engine_model("gpt-9")
