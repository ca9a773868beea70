# SPDX-License-Identifier: Apache-2.0
"""The command asks a Prometheus server for a range, and says what is wrong where it gets none."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from keda_gpu_scaler.cli.simulate.prometheus_range import ask_prometheus
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.traffic.lengths import Lengths

START, END = "2026-03-03T09:00:00", "2026-03-03T09:02:00+00:00"


class PrometheusHandler(BaseHTTPRequestHandler):
    """Answers one query, and remembers what was asked."""

    asked: ClassVar[list[dict[str, list[str]]]] = []

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        query = parse_qs(split.query)
        self.asked.append(query)
        known = split.path == "/api/v1/query_range" and query["query"] == ["sum(requests_total)"]
        begin = float(query["start"][0]) if known else 0.0
        values = [[begin, "5"], [begin + 60, "25"], [begin + 120, "85"]]
        body = json.dumps({"status": "success", "data": {"result": [{"metric": {}, "values": values}]}}).encode()
        self.send_response(200 if known else 400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name of the base class
        """Write no line for each request."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), PrometheusHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_range_is_asked_in_steps_of_a_minute(url: str) -> None:
    traffic = ask_prometheus(url, "sum(requests_total)", START, END, Lengths())
    assert len(traffic) == 80
    asked = PrometheusHandler.asked[-1]
    assert (asked["step"], float(asked["end"][0]) - float(asked["start"][0])) == (["60"], 120.0)


@pytest.mark.parametrize(
    ("address", "query", "start", "end", "words"),
    [
        pytest.param("", "unknown", START, END, "status 400: check --query", id="a refused query"),
        pytest.param("ftp://x", "q", START, END, "must be a URL with http", id="another scheme"),
        pytest.param("http://127.0.0.1:1", "q", START, END, "cannot reach the server", id="no server"),
        pytest.param("", "q", END, START, "must be after --from", id="a range backwards"),
        pytest.param("", "q", "yesterday", END, '--from: Invalid value: "yesterday"', id="no time"),
    ],
)
def test_a_server_that_gives_no_traffic_is_one_sentence(
    url: str, address: str, query: str, start: str, end: str, words: str
) -> None:
    with pytest.raises(SimulationError, match=words):
        ask_prometheus(address or url, query, start, end, Lengths())
