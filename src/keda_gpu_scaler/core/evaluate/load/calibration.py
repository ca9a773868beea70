# SPDX-License-Identifier: Apache-2.0
"""Calibrates the metric ``load`` by all engines of a workload on one model of device.

Law: equal engines share one calibration. It is computed from their recent samples, and nothing is remembered.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.evaluate.load.floor import find_floor
from keda_gpu_scaler.core.evaluate.load.span import EngineWork
from keda_gpu_scaler.core.evaluate.load.work_share import Reference, is_aim_reachable, work_share
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.engines import LoadRung

_MIN_RATE = 1e-6
"""A smaller number of requests per second is an error of measurement: a request in eleven days."""
LOADED_SHARE = 0.3
"""An engine with a smaller share says little about how many requests a loaded one serves."""
_MAX_SPANS = 1000
"""So many spans show the rate well. Of large workloads only the newest spans of each engine are used."""
_MAX_BACKLOG = 1e6
"""More replicas than this are an error of a page, and the value must be finite."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What equal engines have in common.

    ``requests_per_second`` is what one fully loaded replica serves, None where that is not known; ``is_assumed`` says
    that it was not measured. ``waiting`` is the number of waiting requests of all engines. ``backlog`` is the number of
    replicas with which the queues stop growing and are empty after ``drainSeconds``.
    """

    reference: Reference
    requests_per_second: float | None = None
    is_assumed: bool = False
    waiting: float = 0.0
    backlog: float = 0.0

    def backlog_of(self, work: EngineWork) -> float:
        """Return an engine's part of the backlog, in proportion to its waiting requests."""
        return self.backlog * work.waiting / self.waiting if self.waiting else 0.0

    def describe(self, query: EngineQuery, rung: LoadRung) -> str:
        """Describe the calibration in one sentence without a full stop."""
        parts = [f"load is computed from the {rung.value}"]
        if rung.has_token_time:
            floor = self.reference.floor
            parts.append(f"the floor is {1000 * floor.seconds:.3g} ms per token ({floor.sentence})")
            parts.append(f"the target is {1000 * query.itl_target_seconds:g} ms")
            if not is_aim_reachable(floor.seconds, query.itl_target_seconds):
                parts.append("the target is so near the floor that no replica reaches it under load: raise itlTargetMs")
        if self.requests_per_second is not None:
            why = " (assumed: a replica completes its running requests within drainSeconds)" if self.is_assumed else ""
            parts.append(f"one loaded replica serves {self.requests_per_second:.3g} requests/s{why}")
        if self.backlog:
            parts.append(
                f"{self.waiting:.0f} waiting requests need {self.backlog:.3g} replicas to be served within "
                f"{query.drain_seconds:g} s"
            )
        return "; ".join(parts)


def calibrate(works: Sequence[EngineWork], query: EngineQuery) -> Calibration:
    """Calibrate by the work of equal engines at one moment."""
    reference = Reference(
        find_floor(works, target_seconds=query.itl_target_seconds, stated_seconds=query.itl_floor_seconds),
        most_prompt_tokens=max([work.most_prompt_tokens for work in works], default=0.0),
        most_busy=max([work.most_busy for work in works], default=0.0),
        prompt_token_seconds=_prompt_token_seconds(works),
    )
    rate, is_assumed = _requests_per_second(works, reference, query)
    if rate is not None and rate < _MIN_RATE:
        rate = None
    waiting, backlog = math.fsum([work.waiting for work in works]), 0.0
    if rate is not None and waiting:
        growth = max(0.0, math.fsum([work.waiting_growth for work in works]))
        backlog = min(_MAX_BACKLOG, (growth + waiting / query.drain_seconds) / rate)
    return Calibration(reference, rate, is_assumed, waiting, backlog)


def _prompt_token_seconds(works: Sequence[EngineWork]) -> float:
    """Return the time for which a request runs without generating tokens, for each token of its prompt.

    It is infinite where it is not known: an engine that does not count requests in prefill as running reports 0 always.
    """
    known = [work for work in works if work.prefill_seconds is not None]
    tokens = math.fsum([work.prompt_tokens for work in known])
    return max(0.0, math.fsum([work.prefill_seconds or 0.0 for work in known])) / tokens if tokens else math.inf


def _requests_per_second(
    works: Sequence[EngineWork], reference: Reference, query: EngineQuery
) -> tuple[float | None, bool]:
    """Return how many requests per second one fully loaded replica serves, and whether that is assumed.

    It is the number of requests that ended, divided by the shares of a replica that were carried meanwhile.
    """
    ended, carried_seconds = 0.0, 0.0
    newest = max(1, _MAX_SPANS // max(1, len(works)))
    for work in works:
        for span in work.spans[-newest:]:
            share = work_share(work, span, reference, query)
            if share is not None and share.total > LOADED_SHARE and span.ended is not None:
                ended += span.ended
                carried_seconds += share.total * span.seconds
    if ended >= 1 and carried_seconds:
        return ended / carried_seconds, False
    return _requests_per_second_now(works, reference, query)


def _requests_per_second_now(
    works: Sequence[EngineWork], reference: Reference, query: EngineQuery
) -> tuple[float | None, bool]:
    """Return the rate by the window alone: in the first seconds there is no span yet.

    Before the first request has ended, a replica is assumed to complete its running requests within the drain time.
    """
    ended, running, carried, seconds = 0.0, 0.0, 0.0, 0.0
    for work in works:
        if work.current is not None and (share := work_share(work, work.current, reference, query)) is not None:
            ended += work.current.ended or 0.0
            running += work.current.running or 0.0
            carried += share.total
            seconds = max(seconds, work.current.seconds)
    if carried <= LOADED_SHARE:
        return None, False
    if ended >= 1:
        return ended / seconds / carried, False
    return (running / carried / query.drain_seconds, True) if running >= 1 else (None, False)
