# SPDX-License-Identifier: Apache-2.0
"""Combines the engines at several ports of one pod, which are the ranks of one replica.

Law: only ports that the trigger names are added up. A port that a pod merely declares may show the same engine again,
through a proxy.
"""

import math
from collections.abc import Sequence

from keda_gpu_scaler.core.aggregation import AGGREGATIONS
from keda_gpu_scaler.core.evaluate.engine_load import EngineLoad
from keda_gpu_scaler.core.state.scrape import ScrapeResult
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.metrics import EngineMetric

_MAX_LISTED = 2


def ranks_of(query: EngineQuery, scraped: ScrapeResult | None) -> list[ScrapeResult | None]:
    """Return the result of each engine of a pod: one, unless the trigger names several ports."""
    if len(query.ports) < 2 or scraped is None or len(scraped.targets) < 2:
        return [scraped]
    return [ScrapeResult((target,)) for target in scraped.targets]


def combine_ranks(metric: EngineMetric, loads: Sequence[EngineLoad]) -> EngineLoad:
    """Return the load of a pod by its ranks. If one has no value, the others are a lower bound.

    A replica is full when all of its ranks are, so their shares of work are averaged. Queues and rates add up. Of
    shares of memory, the largest counts.
    """
    if len(loads) == 1:
        return loads[0]
    aggregate = AGGREGATIONS[metric.rank_aggregation]
    known = [load.value for load in loads if load.value is not None]
    is_complete = len(known) == len(loads)
    # A rank without a value has at least 0, so an average over all ranks is a lower bound too.
    value = aggregate([*known, *[0.0] * (len(loads) - len(known))]) if known else None
    listed = [load.sentence for load in loads[:_MAX_LISTED]]
    more = f"; and {len(loads) - _MAX_LISTED} more" if len(loads) > _MAX_LISTED else ""
    shown = f"{value:.6g} {metric.unit}".rstrip() if is_complete and value is not None else "no value"
    return EngineLoad(
        value if is_complete else None,
        f"{shown} ({metric.rank_aggregation} of {len(loads)} engines): {'; '.join(listed)}{more}",
        math.fsum([load.requests for load in loads]),
        min(load.expires_at_seconds for load in loads),
        is_no_engine=all(load.is_no_engine for load in loads),
        are_requests_known=all(load.are_requests_known for load in loads),
        lower_bound=None if is_complete else value,
    )
