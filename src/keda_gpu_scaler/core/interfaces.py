# SPDX-License-Identifier: Apache-2.0
"""The protocols at which the siblings meet, on one page. ``agent`` introduces them to each other."""

import enum
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.fleet import History
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.types import Allocation, Sample, Unavailable, Workload


class BackendError(Exception):
    """The devices cannot be read now. The text is a sentence for a person: what is wrong, what to do."""


class KubeError(Exception):
    """The kubelet or the API server cannot be used as told. The text is a sentence: what is wrong, what to do."""


class Backend(Protocol):
    """Reads every device of one node. Called from one thread only, which it may keep waiting."""

    @property
    def source(self) -> str:
        """Where the readings come from, as it stands in every snapshot and every output."""

    @property
    def deviceless(self) -> bool:
        """Whether having no device is this backend's purpose rather than a fault."""

    def read(self, now: float) -> tuple[Sample, ...]:
        """Return one sample of every device, in the order of their indices.

        Opens the driver when it is not open, and opens it anew after it was lost, no more often than
        its back-off allows. A device that was seen before and does not answer stays listed, with every
        reading unknown.

        Args:
            now: monotonic seconds, for back-off and for a recording's own clock.

        Raises:
            BackendError: no device can be read. Nothing else may be raised.
        """

    def close(self) -> None:
        """Let go of the driver. Closing twice is harmless, and a closed backend can be read again."""


COLLECTION_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the collection duration's histogram: the Prometheus clients' usual ones."""


@dataclass(frozen=True, slots=True)
class CollectionCounts:
    """What the sampler has done since it started.

    ``duration_buckets`` counts collections by duration, not cumulated; it has one entry for each of
    ``COLLECTION_BUCKETS_SECONDS`` and a last one for everything above.
    """

    collections: int
    errors: int
    duration_seconds_sum: float
    duration_buckets: tuple[int, ...]


MAX_STREAMS = 2000
"""Further streams of KEDA are refused: each costs memory, and a thousand ScaledObjects are a large cluster."""

REQUEST_BUCKETS_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the calls' durations: an answer takes a millisecond, the first about a workload up to a second."""


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """What one method of the scaler has been asked since it started.

    ``duration_buckets`` counts answered calls by duration, as in ``CollectionCounts`` and by
    ``REQUEST_BUCKETS_SECONDS``; it is empty for a method whose calls last as long as their callers like.
    """

    requests: int = 0
    errors: int = 0
    duration_seconds_sum: float = 0.0
    duration_buckets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RecentAnswer:
    """What GetMetrics answered last to one trigger; ``value`` is None where it was an error.

    ``with_value`` of ``expected`` ready pods (or devices) had a value; both are 0 where that was not looked at. ``demand``
    and ``is_demand_known`` are None where the trigger names no source of demand; ``demand_sentence`` says what was seen
    of it. ``reason`` says why there is no value, ``steps`` how the answer came about (of very many the first and the
    last), and ``at_seconds`` when, on this instance's monotonic clock.
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
    at_seconds: float = 0.0


class Allocations(Protocol):
    """Who holds this node's devices. May be asked from any thread; never waits."""

    def held(self, now: float) -> tuple[Allocation, ...] | None:
        """Return every allocation, sorted, or None while nobody can tell.

        Args:
            now: monotonic seconds; what was last told holds until it is stale.
        """


class Cluster(Protocol):
    """What the API server knows. Asked in the event loop; the answers are what was last heard, and never wait."""

    def workload(self, namespace: str, name: str) -> Workload | Unavailable:
        """Return what is known of the workload behind a ScaledObject or ScaledJob.

        Asking begins to watch it; one that nobody asks for is let go after a while. The same knowledge is the
        same object.
        """

    async def wait_for_sync(self, namespace: str, name: str) -> None:
        """Return once ``workload`` has an answer of substance, good or bad. The caller sets the deadline."""

    def node_labels(self) -> Mapping[str, Mapping[str, str]] | Unavailable:
        """Return every node's labels by its name, or why they are unknown. Asking begins to watch them."""


class Peers(Protocol):
    """The other instances' snapshots. Asked in the event loop; the answers are what was last heard."""

    def register_interest(self, window_seconds: float) -> None:
        """Say that somebody needs the fleet, and so much history of it: follow every peer for a while."""

    def histories(self) -> Mapping[str, History]:
        """Return what peers told, by node; live, read it at once."""

    def unavailable(self) -> Mapping[str, str]:
        """Return peers that ought to be there and gave nothing yet, by node or else address: why."""

    async def wait_for_sync(self) -> None:
        """Return once every peer was found, and has told something or failed to. The caller sets the deadline."""


@dataclass(frozen=True, slots=True)
class PeerCounts:
    """How many instances discovery lists, and for how long the longest silent of them has told nothing (0: none is)."""

    followed: int = 0
    longest_silence_seconds: float = 0.0


class WatchState(enum.Enum):
    """What can be said of one collection that is watched on the API server."""

    WATCHING = "watching"
    """Every change is told as it happens."""

    PENDING = "pending"
    """Nothing was read yet."""

    INTERRUPTED = "interrupted"
    """The server cannot be heard, and what it said last is still believed."""

    UNKNOWN = "unknown"
    """It cannot be read, or was not for too long: nothing is known."""


Watches = Mapping[tuple[str, WatchState], int]
"""How many collections are watched, by resource ("pods", "deployments.apps", "other") and state."""


@dataclass(frozen=True, slots=True)
class ScrapeCounts:
    """What the scraper has done since it started, by engine ("" where none was recognised, "demand" for demand)."""

    scrapes: int = 0
    failures: int = 0


class Engines(Protocol):
    """What inference engines and sources of demand tell. Asked in the event loop; answers are what was last heard."""

    def register_interest(
        self,
        endpoint: Endpoint,
        *,
        window_seconds: float,
        selectors: tuple[SeriesSelector, ...] = (),
        demand: bool = False,
    ) -> None:
        """Say that somebody needs this endpoint, so much of its history, and these series of it besides.

        It is scraped for a while from now on: a source of ``demand`` at demand's pace, an engine at engines'.
        """

    def scrape_results(self) -> Mapping[Endpoint, ScrapeResult]:
        """Return what came of every endpoint that is asked for; live, read it at once."""

    async def wait_for_sync(self, endpoints: Collection[Endpoint]) -> None:
        """Return once each of these has told something or was found not to. The caller sets the deadline."""

    def counts(self) -> Mapping[str, ScrapeCounts]:
        """Return how many scrapes there were, and how many failed, by engine."""


class Discovery(Protocol):
    """Where the instances are to be found."""

    def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield every instance's address ("10.0.0.7:6000") with its node's name, which is empty where unknown.

        The first comes as soon as it is known, another on every change, until the iterator is closed.

        Raises:
            KubeError: it cannot be told; what was yielded before still stands. Whoever asks tries again later.
        """
