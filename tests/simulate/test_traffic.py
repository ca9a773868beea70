# SPDX-License-Identifier: Apache-2.0
"""Traffic from logs, rates and shapes: what is read, what is said about it, and what is refused."""

import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.simulate.engine_model import EngineModel, SimulationError
from keda_gpu_scaler.simulate.traffic.assembly import assemble, fitted_to, scaled
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.request_log import read_request_log
from keda_gpu_scaler.simulate.traffic.shapes import SHAPES, traffic_of_shape

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:51.5,879,55\n"
)
MOONCAKE = "".join(
    json.dumps({"timestamp": at, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}) + "\n"
    for at in (0, 1500, 3000)
)
PLAIN = "arrival,prompt_tokens,answer_tokens\n0,10,20\n2.5,30,40\n"


def read(folder: Path, text: str, name: str = "requests.csv", lengths: Lengths | None = None):  # type: ignore[no-untyped-def]
    path = folder / name
    path.write_text(text)
    return read_request_log(path, lengths or Lengths())


@pytest.mark.parametrize(
    ("text", "name", "arrivals", "prompts", "answers"),
    [
        pytest.param(
            AZURE, "azure.csv", [0, 4.314579, 4.81941], [374, 396, 879], [44, 109, 55], id="Azure's trace as it is"
        ),
        pytest.param(
            MOONCAKE, "trace.jsonl", [0, 1.5, 3.0], [6758] * 3, [500] * 3, id="Mooncake's trace in milliseconds"
        ),
        pytest.param(PLAIN, "plain.csv", [0, 2.5], [10, 30], [20, 40], id="seconds, and tokens of prompt and answer"),
        pytest.param(
            '{"arrival": 1700000000123, "prompt_tokens": 1, "answer_tokens": 2}\n', "unix.jsonl", [0], [1], [2],
            id="milliseconds since 1970",
        ),
        pytest.param(
            "time,input_tokens,output_tokens\n2023-11-16T18:00:00Z,1,1\n2023-11-16T19:05:01+01:00,1,1\n", "zones.csv",
            [0, 301], [1, 1], [1, 1], id="times with zones",
        ),
    ],
)  # fmt: skip
def test_a_log_of_requests(
    tmp_path: Path, text: str, name: str, arrivals: list[float], prompts: list[int], answers: list[int]
) -> None:
    traffic = read(tmp_path, text, name)
    assert traffic.arrivals == pytest.approx(arrivals, abs=1e-4)
    assert (list(traffic.prompts), list(traffic.answers)) == (prompts, answers)
    assert not traffic.remarks


def test_a_compressed_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv.gz"
    path.write_bytes(gzip.compress(PLAIN.encode()))
    assert len(read_request_log(path, Lengths())) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "has no request", id="an empty file"),
        pytest.param("arrival,prompt_tokens,answer_tokens\n", "has no request", id="a header alone"),
        pytest.param("a,b\n1,2\n", "no column of arrivals.*arrival.*requests_per_minute", id="unknown columns"),
        pytest.param("arrival\nsoon\n", 'request 1: arrival: Invalid value: "soon"', id="a time that is none"),
        pytest.param("arrival,prompt_tokens\n0,-3\n", 'request 1: prompt_tokens: Invalid value: "-3"', id="below 0"),
        pytest.param("arrival,prompt_tokens\n0,nan\n", "Invalid value", id="not a number"),
        pytest.param("arrival,prompt_tokens\n0,1\n2,\n", "request 2: prompt_tokens: Required value", id="no value"),
        pytest.param("{nonsense\n", "line 1: not JSON", id="a line that is not JSON"),
        pytest.param("[1]\n[2]\n", "no column of arrivals", id="a list"),
        pytest.param("minute,requests\n0,1000000\n", "1000000 requests a minute: at most", id="a million a minute"),
        pytest.param("minute,requests\n0,0\n1,0\n", "no request at all", id="rates of nothing"),
        pytest.param("arrival\n0\n0,1,2\n" + "x\n", "Invalid value", id="a broken row"),
    ],
)
def test_a_log_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SimulationError, match=words):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(
            "arrival,prompt_tokens,answer_tokens\n5,1,1\n0,1,1\n9,1,1\n", "1 of 3 requests arrive before", id="disorder"
        ),
        pytest.param(
            "arrival,prompt_tokens,answer_tokens\n0,0,1\n1,5,0\n",
            "1 of 2 requests have no prompt token",
            id="no prompt",
        ),
        pytest.param(
            "arrival,prompt_tokens,answer_tokens\n0,5,0\n1,5,0\n",
            "2 of 2 requests have no answer token",
            id="no answer",
        ),
        pytest.param(
            "arrival,prompt_tokens,answer_tokens\n0,1,1\n3000,1,1\n", "once no request arrives for", id="a gap"
        ),
    ],
)
def test_what_is_odd_is_said(tmp_path: Path, text: str, words: str) -> None:
    traffic = read(tmp_path, text)
    assert any(words in remark for remark in traffic.remarks)
    assert min(traffic.prompts) >= 1
    assert min(traffic.answers) >= 1
    assert list(traffic.arrivals) == sorted(traffic.arrivals)


def test_lengths_that_the_file_does_not_have_are_assumed_and_said(tmp_path: Path) -> None:
    traffic = read(tmp_path, "arrival\n0\n1\n", lengths=Lengths(50, 60, spread=0))
    assert (set(traffic.prompts), set(traffic.answers)) == ({50}, {60})
    assert [word for word in ("prompts have 50", "answers have 60") if word in " ".join(traffic.assumptions)]


def test_rates_become_requests_within_their_minutes(tmp_path: Path) -> None:
    traffic = read(tmp_path, "minute,requests\n10,30\n11,0\n12,60\n")
    minutes = [int(arrival // 60) for arrival in traffic.arrivals]
    assert (minutes.count(0), minutes.count(1), minutes.count(2)) == (30, 0, 60)
    assert traffic.seconds == 180


def test_minutes_that_are_not_listed_have_no_request_and_are_said(tmp_path: Path) -> None:
    traffic = read(tmp_path, "minute,requests\n0,30\n3,30\n")
    assert "2 minutes are not listed: they have no request" in traffic.assumptions
    assert not any("not listed" in said for said in read(tmp_path, "minute,requests\n0,30\n1,30\n").assumptions)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_shape_has_its_mean_rate(name: str) -> None:
    traffic = traffic_of_shape(name, 1.0, Lengths())
    assert len(traffic) == pytest.approx(traffic.seconds, rel=0.05)


def test_the_night_has_no_request() -> None:
    traffic = traffic_of_shape("overnight-zero", 1.0, Lengths())
    assert traffic.arrivals[0] >= 7 * 3600
    assert traffic.arrivals[-1] <= 20 * 3600


@given(mean=st.floats(1, 5000), spread=st.floats(0, 1))
def test_drawn_lengths_have_their_mean(mean: float, spread: float) -> None:
    draw = Lengths(mean, mean, spread).drawing()
    drawn = [tokens for _ in range(3000) for tokens in draw()]
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.12, abs=0.6)


@pytest.mark.parametrize("factor", [0.25, 2.0, 3.5])
def test_a_scaled_traffic_has_so_many_times_the_requests(factor: float) -> None:
    traffic = traffic_of_shape("steady", 1.0, Lengths())
    bigger = scaled(traffic, factor)
    assert len(bigger) == pytest.approx(factor * len(traffic), rel=0.06)
    assert bigger.seconds == traffic.seconds
    assert list(bigger.arrivals) == sorted(bigger.arrivals)
    assert "--scale" in bigger.assumptions[-1]


def test_a_request_beyond_the_kv_cache_is_cut_and_said() -> None:
    model = EngineModel("test", 0.01, 0.001, 1e-4, 1e-6, kv_tokens=1000)
    traffic = fitted_to(assemble("test", [(0.0, 5000, 100), (1.0, 10, 10)]), model)
    assert traffic.prompts[0] + traffic.answers[0] == 1000
    assert "1 of 2 requests have up to 5100 tokens" in traffic.remarks[0]


def morning(minute: int) -> int:
    """The requests of a minute: 300 at first, 1200 after 40 minutes, a burst at minute 66, 500 at the end."""
    base = 300 + 900 / (1 + math.exp(-(minute - 35) / 6)) - 700 / (1 + math.exp(-(minute - 95) / 5))
    return round(base + 500 * math.exp(-(((minute - 66) / 3.0) ** 2)))


def test_the_shipped_traffic_is_the_synthetic_one_that_its_page_describes() -> None:
    path = Path(__file__).resolve().parents[2] / "recordings" / "morning-requests.csv"
    traffic = read_request_log(path, Lengths())
    assert len(traffic) == sum(map(morning, range(120)))
    assert traffic.seconds == 7200
    minutes = [int(arrival // 60) for arrival in traffic.arrivals]
    assert [minutes.count(minute) for minute in (0, 50, 66, 119)] == [morning(minute) for minute in (0, 50, 66, 119)]
