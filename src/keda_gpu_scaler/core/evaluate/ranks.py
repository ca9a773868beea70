# SPDX-License-Identifier: Apache-2.0
"""Combines the engines at several ports of one pod, which are the ranks of one replica.

Law: each port with an engine counts. A port that a pod merely declares may show the same engine again, through a
proxy, and counts only where it certainly is another engine.
"""

import math
from collections.abc import Sequence

from keda_gpu_scaler.core.aggregation import AGGREGATIONS
from keda_gpu_scaler.core.evaluate.engine_load import EngineLoad
from keda_gpu_scaler.core.evaluate.same_engine import by_engine
from keda_gpu_scaler.core.state.scrape import ScrapeResult
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.metrics import EngineMetric

_MAX_LISTED = 2


def ranks_of(query: EngineQuery, scraped: ScrapeResult | None) -> list[ScrapeResult | None]:
    """Return the result of each engine of a pod: of each port that the trigger names, or of each that is certain."""
    if scraped is None or len(scraped.targets) < 2:
        return [scraped]
    if are_named(query):
        return [ScrapeResult((target,)) for target in scraped.targets]
    if query.selector is not None:
        return [scraped]  # another engine need not have the selected series
    groups = by_engine(scraped.targets)
    return [ScrapeResult(group) for group in groups] if len(groups) > 1 else [scraped]


def are_named(query: EngineQuery) -> bool:
    """Whether the trigger names several ports, so that each of them is expected to have an engine."""
    return len(query.ports) > 1


def combine_ranks(metric: EngineMetric, loads: Sequence[EngineLoad], *, are_named: bool = True) -> EngineLoad:
    """Return the load of a pod by its ranks. If one has no value, the others are a lower bound.

    A replica is full when all of its ranks are, so their shares of work are averaged. Queues and rates add up. Of
    shares of memory, the largest counts.

    Args:
        metric: the metric of the loads.
        loads: the load of each rank.
        are_named: whether the trigger names the ports. If it does not, an engine that exports no queue may be the
            supervisor of another one, and is left out where another one has a value.
    """
    if not are_named and any(load.value is not None for load in loads):
        loads = [load for load in loads if load.value is not None or not load.is_no_engine]
    if len(loads) == 1:
        return loads[0]
    aggregate = AGGREGATIONS[metric.rank_aggregation]
    known = [load.value for load in loads if load.value is not None]
    is_complete = len(known) == len(loads)
    # A rank without a value has at least what is known of it, or 0. So an average over all ranks is a lower bound too.
    bounds = [load.lower_bound if load.value is None else load.value for load in loads]
    least = aggregate([bound or 0.0 for bound in bounds]) if any(it is not None for it in bounds) else None
    value = aggregate(known) if is_complete else None
    listed = [load.sentence for load in loads[:_MAX_LISTED]]
    more = f"; and {len(loads) - _MAX_LISTED} more" if len(loads) > _MAX_LISTED else ""
    shown = f"{value:.6g} {metric.unit}".rstrip() if value is not None else "no value"
    return EngineLoad(
        value,
        f"{shown} ({metric.rank_aggregation} of {len(loads)} engines): {'; '.join(listed)}{more}",
        math.fsum([load.requests for load in loads]),
        min(load.expires_at_seconds for load in loads),
        is_no_engine=all(load.is_no_engine for load in loads),
        are_requests_known=all(load.are_requests_known for load in loads),
        lower_bound=None if is_complete else least,
        unknown_requests=next((load.unknown_requests for load in loads if load.unknown_requests), ""),
    )
