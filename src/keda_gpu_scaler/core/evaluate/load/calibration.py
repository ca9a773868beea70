# SPDX-License-Identifier: Apache-2.0
"""Calibrates the metric ``load`` by all engines of a workload on one model of device.

Law: equal engines share one calibration. It is computed from their recent samples, and nothing is remembered.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from keda_gpu_scaler.core.evaluate.load.floor import find_floor
from keda_gpu_scaler.core.evaluate.load.span import EngineWork
from keda_gpu_scaler.core.evaluate.load.work_share import Reference, executions_at_once, is_aim_reachable, work_share
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.engines import LoadRung

_MIN_RATE = 1e-6
"""A smaller number of requests per second is an error of measurement: a request in eleven days."""
LOADED_SHARE = 0.3
"""An engine with a smaller share says little about how many requests a loaded one serves."""
_MAX_SPANS = 1000
"""So many spans show the rate well. Of large workloads only the newest spans of each engine are used."""
_NO_RUNG = "load is computed from a KV cache at most: the page has neither times per token nor running requests"
_MAX_BACKLOG = 1e6
"""More replicas than this are an error of a page, and the value must be finite."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What equal engines have in common.

    ``requests_per_second`` is what one more replica takes from the queues, None where that is not known.
    ``taken_at_once`` is given where it follows from the number of requests that one loaded replica runs, and not from
    those that ended. ``waiting`` is the number of waiting requests of all engines. ``backlog`` is the number of
    replicas with which the queues stop growing and are empty after ``drainSeconds``.
    """

    reference: Reference
    requests_per_second: float | None = None
    taken_at_once: float | None = None
    waiting: float = 0.0
    backlog: float = 0.0

    def backlog_of(self, work: EngineWork) -> float:
        """Return an engine's part of the backlog, in proportion to its waiting requests."""
        return self.backlog * work.waiting / self.waiting if self.waiting else 0.0

    def describe(self, query: EngineQuery, rung: LoadRung) -> str:
        """Describe the calibration in one sentence without a full stop."""
        parts = [_NO_RUNG if rung is LoadRung.NONE else f"load is computed from the {rung.value}"]
        if rung.has_token_time:
            floor = self.reference.floor
            parts.append(f"the floor is {1000 * floor.seconds:.3g} ms per token ({floor.sentence})")
            parts.append(f"the target is {1000 * query.itl_target_seconds:g} ms")
            if not is_aim_reachable(floor.seconds, query.itl_target_seconds):
                parts.append("the target is so near the floor that no replica reaches it under load: raise itlTargetMs")
        if rung is LoadRung.SERVICE_TIME:
            why = "maxSeqs" if query.max_seqs else "a guess, by the most that was seen: set maxSeqs"
            parts.append(f"a full pod has {executions_at_once(self.reference, query):g} executions at once ({why})")
        if self.taken_at_once is not None:
            runs = self.taken_at_once
            parts.append(f"one loaded replica runs {runs:.3g} requests at once, and one more takes as many")
        elif self.requests_per_second is not None:
            parts.append(f"one loaded replica serves {self.requests_per_second:.3g} requests/s")
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
    now = _Window.of(works, reference, query)
    rate, at_once = _requests_per_second(works, reference, query), now.requests_at_once
    if rate is None:  # in the first seconds there is no span yet
        rate = now.requests_per_second
    # Not every request ends within drainSeconds, and while a burst begins none has ended. But a new replica takes at
    # once as many of the waiting ones as a loaded one runs, and more replicas than that have nothing to do.
    if at_once is not None and at_once / query.drain_seconds > (rate or 0.0):
        rate = at_once / query.drain_seconds
    else:
        at_once = None
    if rate is not None and rate < _MIN_RATE:
        rate = at_once = None
    waiting, backlog = math.fsum([work.waiting for work in works]), 0.0
    if rate is not None and waiting:
        growth = max(0.0, math.fsum([work.waiting_growth for work in works]))
        backlog = min(_MAX_BACKLOG, (growth + waiting / query.drain_seconds) / rate)
    return Calibration(reference, rate, at_once, waiting, backlog)


def _prompt_token_seconds(works: Sequence[EngineWork]) -> float:
    """Return the time for which a request runs without generating tokens, for each token of its prompt.

    It is infinite where it is not known: an engine that does not count requests in prefill as running reports 0 always.
    """
    known = [work for work in works if work.prefill_seconds is not None]
    tokens = math.fsum([work.prompt_tokens for work in known])
    return max(0.0, math.fsum([work.prefill_seconds or 0.0 for work in known])) / tokens if tokens else math.inf


def _requests_per_second(works: Sequence[EngineWork], reference: Reference, query: EngineQuery) -> float | None:
    """Return how many requests per second one fully loaded replica served in the spans, None where none ended.

    It is the number of requests that ended, divided by the shares of a replica that were carried meanwhile.
    """
    ended, carried_seconds = 0.0, 0.0
    newest = max(1, _MAX_SPANS // max(1, len(works)))
    for work in works:
        for span in work.spans[-newest:]:
            share = work_share(work, span, reference, query)
            if share is not None and share.total > LOADED_SHARE and span.ended is not None and not share.is_least:
                ended += span.ended
                carried_seconds += share.total * span.seconds
    return ended / carried_seconds if ended >= 1 and carried_seconds else None


class _Window(NamedTuple):
    """What all engines do in the window: requests that ended and that run, and the shares that are carried."""

    ended: float
    running: float
    carried: float
    seconds: float

    @classmethod
    def of(cls, works: Sequence[EngineWork], reference: Reference, query: EngineQuery) -> "_Window":
        """Add up the engines whose shares are known. Where these carry little, full seats and caches count too.

        A share that may be larger must not count beside the requests of its engine: one replica would seem to run more.
        """
        measured = [
            (span, share)
            for work in works
            if (span := work.current) is not None and (share := work_share(work, span, reference, query)) is not None
        ]
        known = [(span, share) for span, share in measured if not share.is_least]
        if math.fsum([share.total for _, share in known]) <= LOADED_SHARE:
            known = [(span, share) for span, share in measured if not share.is_least or share.total > LOADED_SHARE]
        return cls(
            ended=math.fsum([span.ended or 0.0 for span, _ in known]),
            running=math.fsum([span.running or 0.0 for span, _ in known]),
            carried=math.fsum([share.total for _, share in known]),
            seconds=max([span.seconds for span, _ in known], default=0.0),
        )

    @property
    def requests_per_second(self) -> float | None:
        """How many requests per second one loaded replica serves, None where no engine is loaded or none ended."""
        return self.ended / self.seconds / self.carried if self.ended >= 1 and self.carried > LOADED_SHARE else None

    @property
    def requests_at_once(self) -> float | None:
        """How many requests one fully loaded replica runs, None where no engine is loaded."""
        return self.running / self.carried if self.running >= 1 and self.carried > LOADED_SHARE else None
