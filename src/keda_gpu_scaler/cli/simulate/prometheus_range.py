# SPDX-License-Identifier: Apache-2.0
"""Asks a Prometheus server for the range of a counter of requests."""

import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.prometheus import STEP_SECONDS, traffic_of_range

TIMEOUT_SECONDS = 60.0
MOST_BYTES = 64 << 20


def ask_prometheus(url: str, query: str, start: str, end: str, lengths: Lengths) -> RequestTraffic:
    """Return the traffic that a server has recorded.

    Args:
        url: of the server, as "http://127.0.0.1:9090".
        query: a counter of requests, or an expression of counters.
        start: begin of the range, a date and time of ISO 8601.
        end: its end.
        lengths: of the requests.

    Raises:
        SimulationError: the server cannot be asked, or its answer has no traffic.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise SimulationError(f"--prometheus: Invalid value: {quoted(url, 120)}: must be a URL with http or https")
    begin, finish = _unix("--from", start), _unix("--to", end)
    if finish <= begin:
        raise SimulationError(f"--to: Invalid value: {quoted(end, 40)}: must be after --from")
    parameters = {"query": query, "start": f"{begin}", "end": f"{finish}", "step": str(STEP_SECONDS)}
    asked = f"{url.rstrip('/')}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - http or https
            answer = response.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise SimulationError(f"--prometheus: the server answered with status {error.code}: check --query") from error
    except (OSError, ValueError) as error:
        raise SimulationError(f"--prometheus: cannot reach the server: {error}") from error
    if len(answer) > MOST_BYTES:
        raise SimulationError(f"--prometheus: more than {MOST_BYTES >> 20} MiB: choose fewer series, as sum(NAME)")
    return traffic_of_range(query, answer, lengths)


def _unix(flag: str, text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SimulationError(
            f"{flag}: Invalid value: {quoted(text, 40)}: must be a date and time as 2026-03-03T09:00:00"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
