# SPDX-License-Identifier: Apache-2.0
"""Makes a traffic of a range query of Prometheus: the increase of a counter in each minute.

The answer is that of ``/api/v1/query_range`` (Prometheus: docs/querying/api.md). Several series are added up. A counter
that fell was reset, and counts from 0.
"""

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.rates import RateRow, traffic_of_rates

STEP_SECONDS = 60
_LONGEST_GAP_SECONDS = 5 * STEP_SECONDS


def traffic_of_range(title: str, answer: bytes, lengths: Lengths) -> RequestTraffic:
    """Return the traffic of an answer to a range query with steps of a minute.

    Args:
        title: the query, for display.
        answer: the body of the response.
        lengths: of the requests, which a counter does not say.

    Raises:
        SimulationError: it is no such answer, or it has no series.
    """
    series = _series(title, answer)
    by_minute: dict[int, float] = {}
    first = min(points[0][0] for points in series)
    gaps = 0
    for points in series:
        for (before, count), (after, grown) in pairwise(points):
            gaps += after - before > _LONGEST_GAP_SECONDS
            minute = int((after - first) // STEP_SECONDS)
            by_minute[minute] = by_minute.get(minute, 0.0) + (grown - count if grown >= count else grown)
    rates: list[RateRow] = [(float(minute), count) for minute, count in sorted(by_minute.items())]
    sentences = [f"requests are the increase of {len(series)} series in each minute"]
    if gaps:
        sentences.append(f"the series have {gaps} gaps of more than {_LONGEST_GAP_SECONDS // 60} minutes: what came in "
                         "them counts in the minute after")  # fmt: skip
    return traffic_of_rates(title, rates, lengths, assumptions=sentences)


def _series(title: str, answer: bytes) -> list[list[tuple[float, float]]]:
    try:
        found: Any = json.loads(answer)
    except ValueError as error:
        raise SimulationError(f"{title}: the server did not answer with JSON: is it a Prometheus server?") from error
    data = found.get("data") if isinstance(found, Mapping) and found.get("status") == "success" else None
    result = data.get("result") if isinstance(data, Mapping) else None
    if not isinstance(result, list):
        raise SimulationError(f"{title}: the server answered with no result of a range query")
    series = [points for one in result if len(points := _points(one)) > 1]
    if not series:
        raise SimulationError(
            f"{title}: no series with two points in this range: check the name of the counter, and the times"
        )
    return series


def _points(one: object) -> list[tuple[float, float]]:
    values = one.get("values") if isinstance(one, Mapping) else None
    points = []
    for pair in values if isinstance(values, list) else ():
        try:
            at_seconds, count = float(pair[0]), float(pair[1])
        except (TypeError, ValueError, IndexError):
            continue
        if math.isfinite(at_seconds) and math.isfinite(count) and count >= 0:
            points.append((at_seconds, count))
    return points
