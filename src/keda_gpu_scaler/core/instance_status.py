# SPDX-License-Identifier: Apache-2.0
"""Counts, watch states and recent answers of an instance, for its metrics endpoint and status page."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from keda_gpu_scaler.core.comparison import NO_COMPARISON, Comparison, ReplicaLimits

COLLECTION_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram of collection durations. These are the usual bounds of Prometheus clients."""

REQUEST_BUCKETS_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the histogram of call durations.

An answer takes about a millisecond. The first answer about a workload may take up to a second.
"""


@dataclass(frozen=True, slots=True)
class CollectionCounts:
    """Counts of the sampler since it started.

    ``duration_buckets`` counts collections by duration. The counts are not cumulative. There is one entry for each
    bound of ``COLLECTION_BUCKETS_SECONDS``, and a last entry for longer collections.
    """

    collections: int
    errors: int
    duration_seconds_sum: float
    duration_buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Counts of the calls of one RPC method since the server started.

    ``duration_buckets`` counts answered calls by duration, with the bounds of ``REQUEST_BUCKETS_SECONDS``; the layout
    is that of ``CollectionCounts``. It is empty for a streaming method, because the caller decides how long a stream
    lasts.
    """

    requests: int = 0
    errors: int = 0
    duration_seconds_sum: float = 0.0
    duration_buckets: tuple[int, ...] = ()


class DropReason(enum.Enum):
    """Why a snapshot of a peer is dropped."""

    NODE = "node"
    """It is of another node than the one on which the peer runs."""

    LIMIT = "limit"
    """It exceeds a limit: of size, of rate, or of the peer's clock."""


@dataclass(frozen=True, slots=True)
class PeerCounts:
    """Counts of the peers that this instance follows.

    ``followed`` is the number of instances that discovery lists. ``max_staleness_seconds`` is the longest time for
    which one of them has sent nothing; it is 0 while every peer answers. ``dropped`` counts the snapshots that were not
    used, since this instance started.
    """

    followed: int = 0
    max_staleness_seconds: float = 0.0
    dropped: Mapping[DropReason, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScrapeCounts:
    """Counts of the scrapes of one engine since the scrape manager started.

    The scrape manager keeps them by engine name: "" for a page of no known engine, "demand" for a source of demand.
    """

    scrapes: int = 0
    failures: int = 0


class WatchState(enum.Enum):
    """State of the watch of one collection on the API server."""

    WATCHING = "watching"
    """The watch is open, and every change arrives as it happens."""

    PENDING = "pending"
    """The collection was not read yet."""

    INTERRUPTED = "interrupted"
    """The API server does not answer. The objects that it last returned are still used."""

    UNKNOWN = "unknown"
    """The collection cannot be read, or was not read for too long. Its objects are not used any more."""


Watches = Mapping[tuple[str, WatchState], int]
"""Number of watched collections by resource ("pods", "deployments.apps", "other") and state."""


REFUSED = "refused"
"""Why a refused trigger has no value, beside the reasons of an evaluation: "unavailable" and "misconfigured"."""


@dataclass(frozen=True, slots=True)
class RefusedTrigger:
    """A trigger that an object declares, and whose metadata is refused. KEDA gets no value and no target for it.

    ``problems`` has a sentence for each problem. ``since_seconds`` is when this instance found it, on its monotonic
    clock.
    """

    namespace: str
    name: str
    problems: tuple[str, ...]
    since_seconds: float = 0.0

    @property
    def reason(self) -> str:
        """The problems as one sentence."""
        return "; ".join(self.problems)


@dataclass(frozen=True, slots=True)
class RecentAnswer:
    """The last answer of GetMetrics to one trigger.

    ``value`` is None where the answer was an error; then ``reason`` says why, and ``no_value_reason`` is
    "unavailable" or "misconfigured". ``with_value`` of ``expected`` ready pods
    (or devices) had a value; both are 0 where no pod and no device was evaluated. ``demand`` and ``is_demand_known``
    are None where the trigger names no source of demand; ``demand_sentence`` describes the observed demand. ``steps``
    describes how the value was computed; of very many steps it has only the first and the last.
    ``has_queue_contradiction`` says that requests wait and the value asks for no replica for them, and
    ``cold_start_seconds`` is the measured cold start of the workload's pods. ``comparison`` has the measured
    value beside the reported one, and the sizes. ``limits`` are those of the ScaledObject, None where they are not
    known. ``at_seconds`` is on this instance's monotonic clock.
    """

    namespace: str
    name: str
    metric_name: str
    metric: str
    target: float
    value: float | None
    active: bool
    with_value: int
    expected: int
    demand: float | None = None
    is_demand_known: bool | None = None
    demand_sentence: str = ""
    reason: str = ""
    steps: tuple[str, ...] = ()
    has_queue_contradiction: bool = False
    cold_start_seconds: float | None = None
    at_seconds: float = 0.0
    no_value_reason: str = ""
    comparison: Comparison = NO_COMPARISON
    limits: ReplicaLimits | None = None
