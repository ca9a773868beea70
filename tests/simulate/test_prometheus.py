# SPDX-License-Identifier: Apache-2.0
"""A range of a counter in Prometheus is a traffic."""

import json

import pytest

from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.prometheus import traffic_of_range


def answer(*series: list[tuple[float, str]]) -> bytes:
    result = [{"metric": {"pod": str(number)}, "values": points} for number, points in enumerate(series)]
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()


def counts(body: bytes) -> list[int]:
    traffic = traffic_of_range("requests", body, Lengths())
    minutes = [int(arrival // 60) for arrival in traffic.arrivals]
    return [minutes.count(minute) for minute in range(int(traffic.seconds // 60))]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(answer([(0, "10"), (60, "70"), (120, "90")]), [60, 20], id="the increase of each minute"),
        pytest.param(answer([(0, "0"), (60, "5")], [(0, "7"), (60, "10")]), [8], id="several series are added up"),
        pytest.param(answer([(0, "100"), (60, "130"), (120, "12")]), [30, 12], id="a reset counts from 0"),
        pytest.param(answer([(0, "1"), (60, "NaN"), (120, "4"), (180, "6")]), [3, 2], id="no number is left out"),
    ],
)
def test_the_requests_of_each_minute(body: bytes, expected: list[int]) -> None:
    assert counts(body) == expected


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(b"<html>", "did not answer with JSON", id="another server"),
        pytest.param(b'{"status": "error"}', "no result of a range query", id="an error"),
        pytest.param(answer(), "no series with two points", id="an unknown counter"),
        pytest.param(answer([(0, "5"), (60, "5")]), "no request at all", id="a counter that does not grow"),
    ],
)
def test_an_answer_without_traffic_is_one_sentence(body: bytes, words: str) -> None:
    with pytest.raises(SimulationError, match=words):
        counts(body)
