# SPDX-License-Identifier: Apache-2.0
"""Protocols through which the components use each other, and the errors that cross them."""

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from keda_gpu_scaler.core.instance_status import ScrapeCounts
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.fleet import History
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.trigger.declared_objects import DeclaredObjects
from keda_gpu_scaler.core.types import Allocation, Sample, Unavailable, Workload

MAX_STREAMS = 2000
"""Further streams of KEDA are refused: each costs memory, and a thousand ScaledObjects are a large cluster."""


class BackendError(Exception):
    """The devices cannot be read now. The message is a sentence for the operator: what is wrong, and what to do."""


class KubeError(Exception):
    """The kubelet or the API server cannot be used. The message is a sentence: what is wrong, and what to do."""


class Backend(Protocol):
    """Reads every device of one node. One thread at a time calls it, and a call may block that thread."""

    @property
    def source(self) -> str:
        """The source of the readings, as shown in every snapshot and every output."""

    @property
    def deviceless(self) -> bool:
        """Whether this backend has no device by design, so that an empty list is no fault."""

    def read(self, now: float) -> tuple[Sample, ...]:
        """Return one sample of every device, in the order of their indices.

        It opens the driver when the driver is not open. After the driver was lost it opens it again, at most as often
        as its back-off allows. A device that was listed before and does not answer stays in the list with every
        reading unknown. A device that the driver counts and does not describe is listed in the same way. When the
        method returns, each reading is at most a second older than its sample's ``lag_seconds``.

        Args:
            now: monotonic seconds, for the back-off and for the clock of a recording.

        Raises:
            BackendError: no device can be read. It raises no other exception.
        """

    def overdue_call(self) -> str | None:
        """Return which call of the driver has kept ``read`` waiting for a while, as a sentence; None where none has.

        Any thread may call it, also while ``read`` blocks.
        """

    def close(self) -> None:
        """Release the driver. Closing twice is harmless, and a closed backend can be read again."""


class Allocations(Protocol):
    """Reads which pods hold this node's devices. Any thread may call it, and a call never blocks."""

    def held(self, now: float) -> tuple[Allocation, ...] | None:
        """Return every allocation, sorted, or None while the allocations are not known.

        Args:
            now: monotonic seconds. The last answer of the kubelet is used until it is stale.
        """


@dataclass(frozen=True, slots=True)
class Caller:
    """A user as the API server names it: ``extra`` has further attributes, each with its values."""

    user: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


class CallerReviews(Protocol):
    """Asks the API server who a caller is, and what it may do. Results are kept for a short time."""

    async def caller(self, token: str) -> Caller | None:
        """Return the user of a bearer token; None where the API server does not accept the token.

        Raises:
            KubeError: the review cannot be made.
        """

    async def may(self, caller: Caller, verb: str, resource: str, namespace: str, name: str) -> bool:
        """Whether a user has a right on one object of keda.sh, for example of ``scaledobjects``.

        Raises:
            KubeError: the review cannot be made.
        """


class Cluster(Protocol):
    """Reads workloads and nodes from the API server's watches. The event loop calls it, and a call never blocks."""

    def workload(self, namespace: str, name: str, proposed_spec: str = "") -> Workload | Unavailable:
        """Return the workload behind a ScaledObject or ScaledJob, or why it is not known.

        The first call starts the watch of the workload. The watch is released when no call comes for a while. While
        nothing changes, every call returns the same object.

        Args:
            namespace: of the object.
            name: of the object.
            proposed_spec: the spec of a ScaledObject that is not applied, as a JSON object; empty to read the object.
        """

    async def wait_for_sync(self, namespace: str, name: str, proposed_spec: str = "") -> None:
        """Return once ``workload`` has its first result, also where that is an error. The caller sets the deadline."""

    def node_labels(self) -> Mapping[str, Mapping[str, str]] | Unavailable:
        """Return every node's labels by node name, or why they are not known. The first call starts the watch."""

    def declarations(self) -> Mapping[str, DeclaredObjects]:
        """Return what the objects of each watched namespace declare, by namespace.

        A namespace that is not watched, or whose last state is not trusted, is absent. The call starts and keeps no
        watch. An unchanged tuple of triggers is the same object.
        """


class Peers(Protocol):
    """Reads the snapshots of the other instances. The event loop calls it, and a call never blocks."""

    def register_interest(self, window_seconds: float, *, performance: bool = False) -> None:
        """Follow every peer for a while, and keep at least this much of each peer's history.

        Args:
            window_seconds: the window of a trigger.
            performance: whether the peers' ``Sample.performance`` is wanted too.
        """

    def histories(self) -> Mapping[str, History]:
        """Return the peers' histories by node. The mapping is live: read it before the event loop continues."""

    def unavailable(self) -> Mapping[str, str]:
        """Return the peers without a snapshot, by node (or by address where the node is not known), and why."""

    async def wait_for_sync(self) -> None:
        """Return once discovery has answered and every peer has sent a snapshot or an error.

        The caller sets the deadline.
        """


class Engines(Protocol):
    """Reads what was scraped of engines and sources of demand. The event loop calls it, and a call never blocks."""

    def register_interest(
        self,
        endpoint: Endpoint,
        *,
        window_seconds: float,
        history_seconds: float = 0.0,
        selectors: tuple[SeriesSelector, ...] = (),
        demand: bool = False,
    ) -> None:
        """Scrape this endpoint for a while.

        Args:
            endpoint: the engine or the source of demand.
            window_seconds: how much history of it is kept, at least.
            history_seconds: how far back a thinned history is kept: one sample for each ``HISTORY_STEP_SECONDS``.
            selectors: the series that are kept in addition to the engine's own.
            demand: whether it is a source of demand, which has its own scrape interval.
        """

    def scrape_results(self) -> Mapping[Endpoint, ScrapeResult]:
        """Return the result of every registered endpoint.

        The mapping is live: read it before the event loop continues.
        """

    async def wait_for_sync(self, endpoints: Collection[Endpoint]) -> None:
        """Return once each of these endpoints has a result, also an error. The caller sets the deadline."""

    def counts(self) -> Mapping[str, ScrapeCounts]:
        """Return the number of scrapes and of failed scrapes by engine."""


class Discovery(Protocol):
    """Finds the addresses of the instances."""

    def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield every instance's address ("10.0.0.7:6000") with its node's name, which is empty where not known.

        The first mapping comes as soon as it is known. Another one comes on every change, until the iterator is closed.

        Raises:
            KubeError: the addresses cannot be read. The last mapping stays valid, and the caller tries again later.
        """
