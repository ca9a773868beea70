# SPDX-License-Identifier: Apache-2.0
"""Step 3 of an RPC, evaluate: evaluates a trigger, and caches the evaluation until it expires.

Law: an evaluation is used again only while everything it rests on is unchanged and it has not expired. Its expiry is
compared with the clock at every call, so that data which becomes stale turns into an error on time.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.instance_status import RecentAnswer
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.server.preparation import Prepared
from keda_gpu_scaler.server.request_resolver import IDLE_SECONDS, MAX_TRIGGERS, ResolvedTrigger
from keda_gpu_scaler.server.split_cache import SplitCache

# In a large fleet a peer reports every millisecond, and one evaluation may take a tenth of a second. An evaluation
# therefore ignores further reports of peers and engines for a multiple of the time it took, up to a limit.
_HOLD_FACTOR, _MAX_HOLD_SECONDS = 10.0, 1.0


class _VersionCounter:
    """Numbers the states of one value, and keeps only the newest state in memory."""

    def __init__(self) -> None:
        self._newest: object = None
        self._number = 0

    def number_of(self, state: object) -> int:
        """Return the number of this state; another object is a new state."""
        if state is not self._newest:
            self._newest = state
            self._number += 1
        return self._number


class _ReadResults(Mapping[Endpoint, ScrapeResult]):
    """The scrape results, which remembers those that an evaluation reads.

    The references are weak, so that a cached evaluation keeps no superseded history in memory.
    """

    def __init__(self, results: Mapping[Endpoint, ScrapeResult]) -> None:
        self._results = results
        self._read: dict[Endpoint, weakref.ref[ScrapeResult] | None] = {}

    def __getitem__(self, endpoint: Endpoint) -> ScrapeResult:
        result = self._results.get(endpoint)
        self._read[endpoint] = None if result is None else weakref.ref(result)
        if result is None:
            raise KeyError(endpoint)
        return result

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def is_unchanged(self, results: Mapping[Endpoint, ScrapeResult]) -> bool:
        """Whether all that was read is the same in these results."""
        for endpoint, read in self._read.items():
            current = results.get(endpoint)
            if (read is None) is not (current is None) or (read is not None and read() is not current):
                return False
        return True


@dataclass(slots=True, eq=False)
class Evaluated:
    """An evaluation, and the answer that was made of it; the answer holds as long as the evaluation.

    ``response`` is the serialized response to GetMetrics, empty before the first one.
    """

    evaluation: Evaluation
    answer: RecentAnswer | None = None
    response: bytes = b""


@dataclass(frozen=True, slots=True)
class _Basis:
    """Everything that an evaluation rests on.

    ``reports`` counts the reports of peers, and ``results`` has what was read of engines and demand. Until
    ``held_until_seconds`` further ones of both make no difference. The history and the labels are numbers and not
    references, so that a cached evaluation keeps no superseded history in memory.
    """

    workload: Workload | Unavailable | None
    labels_version: int
    history_version: int
    reports: int
    results: _ReadResults
    held_until_seconds: float = 0.0

    def is_unchanged(self, current: "_Basis", results: Mapping[Endpoint, ScrapeResult], now: float) -> bool:
        """Whether an evaluation on this basis is also one on the current basis, with the current results of scrapes."""
        return (
            self.workload is current.workload
            and self.history_version == current.history_version
            and self.labels_version == current.labels_version
            and (
                now < self.held_until_seconds
                or (self.reports == current.reports and self.results.is_unchanged(results))
            )
        )


class Evaluator:
    """Evaluates triggers over a fleet view.

    Args:
        fleet: returns the current fleet view; called for every trigger, so it must be cheap.
        clock: monotonic seconds, the clock that dated the fleet's histories.
    """

    def __init__(self, fleet: Callable[[], Fleet], clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._clock = clock
        self._reports = 0
        self._history, self._labels = _VersionCounter(), _VersionCounter()
        self._evaluations: SplitCache[ResolvedTrigger, tuple[_Basis, Evaluated]] = SplitCache(
            MAX_TRIGGERS, IDLE_SECONDS
        )

    @property
    def fleet(self) -> Fleet:
        """The current fleet view."""
        return self._fleet()

    def note_report(self) -> None:
        """Note that a peer reported something new. New results of scrapes are noticed in the fleet view."""
        self._reports += 1

    def evaluate(self, prepared: Prepared) -> Evaluated:
        """Return the evaluation of the prepared trigger at ``prepared.at_seconds``; the same object while it holds."""
        resolved = prepared.resolved
        fleet, now = self._fleet(), prepared.at_seconds
        basis = _Basis(
            prepared.workload,
            self._labels.number_of(prepared.node_labels) if prepared.node_labels is not None else 0,
            self._history.number_of(fleet.history),
            self._reports,
            _ReadResults(fleet.scrape_results),
        )
        cached = self._evaluations.get(resolved, now)
        if cached is not None:
            cached_basis, evaluated = cached
            is_current = now <= evaluated.evaluation.expires_at_seconds
            if is_current and cached_basis.is_unchanged(basis, fleet.scrape_results, now):
                return evaluated
        fleet = replace(fleet, scrape_results=basis.results)
        if prepared.node_labels is not None:
            fleet = replace(fleet, node_labels=prepared.node_labels)
        evaluation = evaluate(resolved.trigger, fleet, now, prepared.workload, dict(resolved.metadata))
        evaluated = Evaluated(evaluation)
        hold = min(_HOLD_FACTOR * (self._clock() - now), _MAX_HOLD_SECONDS)
        # One that holds for no time, such as one without any value, is kept too: the status page shows its pods.
        cached = (replace(basis, held_until_seconds=now + hold), evaluated)
        self._evaluations.put(resolved, cached, now, is_declared=resolved.standing.counts)
        return evaluated

    def last_evaluation(self, resolved: ResolvedTrigger) -> Evaluation | None:
        """Return the last evaluation of a trigger, which may be out of date; None where it is not kept."""
        cached = self._evaluations.peek(resolved)
        return None if cached is None else cached[1].evaluation

    def expire_idle(self, now: float) -> None:
        """Release the evaluations of triggers that were not used for a while."""
        self._evaluations.expire(now)
