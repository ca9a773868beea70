# SPDX-License-Identifier: Apache-2.0
"""Makes requests of rates: so many a minute, at random times within it."""

import math
from collections.abc import Callable, Iterable, Sequence
from random import Random

from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.traffic.assembly import MAX_REQUESTS, MAX_REQUESTS_A_MINUTE, RequestRow, assemble
from keda_gpu_scaler.simulate.traffic.lengths import Lengths

RateRow = tuple[float, float]
"""A minute, and the requests in it."""
Draw = Callable[[], tuple[int, int]]


def traffic_of_rates(
    title: str, rates: Sequence[RateRow], lengths: Lengths, *, assumptions: Iterable[str] = (), draw: Draw | None = None
) -> RequestTraffic:
    """Return a traffic with the requests of each minute.

    Args:
        title: where the rates come from.
        rates: minutes in any order; a minute that is not listed has no request.
        lengths: of the requests.
        assumptions: further sentences.
        draw: the lengths of one request after another, where they are not those of ``lengths``.

    Raises:
        SimulationError: there is no request, or there are too many.
    """
    begin = min((minute for minute, _ in rates), default=0.0)
    most = max((count for _, count in rates), default=0.0)
    if most > MAX_REQUESTS_A_MINUTE or math.fsum([count for _, count in rates]) > MAX_REQUESTS:
        raise SimulationError(
            f"{title}: up to {most:.0f} requests a minute: at most {MAX_REQUESTS_A_MINUTE} a minute and {MAX_REQUESTS} "
            "in all are simulated: divide the rates and maxReplicaCount by the same number"
        )
    random = Random(lengths.seed)  # noqa: S311 - a simulation, reproducible by its seed
    next_lengths = draw or lengths.drawing()
    rows: list[RequestRow] = []
    for minute, count in rates:
        whole, part = divmod(count, 1.0)
        arriving = int(whole) + (random.random() < part)
        rows += [((minute - begin) * 60 + 60 * random.random(), *next_lengths()) for _ in range(arriving)]
    seconds = 60 * (max((minute for minute, _ in rates), default=0.0) - begin + 1)
    rows.sort(key=lambda row: row[0])
    sentences = ["requests arrive at random times within their minute"]
    listed = {int(minute - begin) for minute, _ in rates}
    if listed and (missing := max(listed) + 1 - len(listed)) > 0:
        sentences.append(f"{missing} minute{' is' if missing == 1 else 's are'} not listed: they have no request")
    if draw is None:
        sentences.append(lengths.describe())
    return assemble(title, rows, assumptions=(*assumptions, *sentences), seconds=seconds)
