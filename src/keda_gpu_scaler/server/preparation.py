# SPDX-License-Identifier: Apache-2.0
"""Step 2 of an RPC, prepare: registers interest, and waits for the first sync.

Law: a call waits at most ``SYNC_SECONDS``, and only until everything it needs was read for the first time. A question
that no ScaledObject declares takes a place of its own kind only.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from keda_gpu_scaler.core.evaluate.by_workload import falls_back_to_devices
from keda_gpu_scaler.core.evaluate.workload_view import ScrapeRequest, ready_pods, scrape_requests
from keda_gpu_scaler.core.interfaces import Cluster, Engines, Peers
from keda_gpu_scaler.core.state.reading_interest import ReadingInterest
from keda_gpu_scaler.core.trigger.metrics import EngineMetric, Metric
from keda_gpu_scaler.core.trigger.parser import Scope
from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.server.request_resolver import IDLE_SECONDS, MAX_TRIGGERS, ResolvedTrigger
from keda_gpu_scaler.server.split_cache import SplitCache
from keda_gpu_scaler.server.undeclared_scrapes import UndeclaredScrapes

SYNC_SECONDS = 1.0
"""The longest time that a call waits for data that was not read before."""
REGISTER_AGAIN_SECONDS = 1.0
"""Interest is registered again after this time, and at once when the workload changes."""
SYNC_HOLDS_SECONDS = 60.0
"""After a pause of this length a call waits again: engines and peers may have been closed as idle."""
MAX_UNDECLARED_WAITING = 256
"""The number of calls for undeclared triggers that wait at the same time; another one is answered without waiting."""
_LABELS_INTERVAL_SECONDS = 0.02

NodeLabels = Mapping[str, Mapping[str, str]] | Unavailable | None
Settle = Callable[[ResolvedTrigger, Workload | Unavailable | None, float], ResolvedTrigger]
"""Returns a trigger with the standing that it has now, for what the API server knows under its name."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the API server knows for a trigger, read at ``at_seconds``.

    ``resolved`` is the trigger with its standing. ``workload`` is None without a cluster; ``node_labels`` is None where
    the trigger has no nodeSelector. While ``is_synced`` is false, something that the trigger needs was not read yet.
    """

    resolved: ResolvedTrigger
    workload: Workload | Unavailable | None
    node_labels: NodeLabels
    is_synced: bool
    at_seconds: float


@dataclass(slots=True)
class _Registration:
    """The interest that was registered for a trigger, and for which state of its workload."""

    workload: Workload | Unavailable | None
    scrapes: tuple[ScrapeRequest, ...]
    at_seconds: float
    needs_peers: bool = False
    is_synced: bool = False
    is_deferred: bool = False


class Preparation:
    """Registers what triggers need.

    Args:
        clock: monotonic seconds.
        cluster: knows the workloads; None without access to the API server.
        peers: follows the other instances; None without peers.
        engines: scrapes engines and demand; None without a scrape manager.
        performance: the interest in the performance readings of this node.
        settle: returns a trigger with its standing; without it every trigger keeps its own.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        cluster: Cluster | None,
        peers: Peers | None,
        engines: Engines | None,
        performance: ReadingInterest | None = None,
        settle: Settle = lambda resolved, known, now: resolved,
    ) -> None:
        self._settle = settle
        self._clock = clock
        self._cluster = cluster
        self._peers = peers
        self._engines = engines
        self._performance = performance or ReadingInterest()
        self._registrations: SplitCache[ResolvedTrigger, _Registration] = SplitCache(MAX_TRIGGERS, IDLE_SECONDS)
        self._undeclared = UndeclaredScrapes()
        self._undeclared_waiting = 0

    async def prepare(self, resolved: ResolvedTrigger, now: float) -> Prepared:
        """Register interest, and wait for the first sync of everything that the trigger needs."""
        prepared = self.register(resolved, now)
        is_undeclared = not prepared.resolved.standing.counts
        if prepared.is_synced or (is_undeclared and self._undeclared_waiting >= MAX_UNDECLARED_WAITING):
            return prepared
        is_synced = False
        self._undeclared_waiting += is_undeclared
        try:
            async with asyncio.timeout(SYNC_SECONDS):
                await self._wait_for_sync(resolved, prepared)
                is_synced = True
        except TimeoutError:
            pass  # the answer says what is not read yet
        finally:
            self._undeclared_waiting -= is_undeclared
        prepared = self.register(resolved, self._clock())
        if is_synced and (registration := self._registrations.get(prepared.resolved, prepared.at_seconds)):
            registration.is_synced = True
            pending = _is_pending(prepared.workload) or _is_pending(prepared.node_labels)
            prepared = replace(prepared, is_synced=not pending)
        return prepared

    def register(self, resolved: ResolvedTrigger, now: float) -> Prepared:
        """Register interest without waiting; return what is known now."""
        workload, labels = None, None
        if self._cluster is not None:
            workload = self._cluster.workload(*_place(resolved))
            resolved = self._settle(resolved, workload, now)
            if resolved.trigger.node_selector is not None:
                labels = self._cluster.node_labels()
        registration = self._registrations.get(resolved, now)
        if (
            registration is None
            or registration.workload is not workload
            or now - registration.at_seconds >= REGISTER_AGAIN_SECONDS
        ):
            registration = self._renew(resolved, workload, registration, now)
        is_synced = registration.is_synced and not _is_pending(workload) and not _is_pending(labels)
        return Prepared(resolved, workload, labels, is_synced, now)

    async def workload(self, resolved: ResolvedTrigger) -> Workload | Unavailable | None:
        """Return what is known of a trigger's workload, and register interest in nothing else; None without a cluster.

        It waits for the first result as ``prepare`` does.
        """
        if self._cluster is None:
            return None
        known = self._cluster.workload(resolved.namespace, resolved.name)
        if not _is_pending(known):
            return known
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SYNC_SECONDS):
                await self._cluster.wait_for_sync(resolved.namespace, resolved.name)
        return self._cluster.workload(resolved.namespace, resolved.name)

    def expire_idle(self, now: float) -> None:
        """Release what was kept for triggers that were not used for a while."""
        self._registrations.expire(now)

    def _renew(
        self, resolved: ResolvedTrigger, workload: Workload | Unavailable | None, last: _Registration | None, now: float
    ) -> _Registration:
        # What is not read yet may declare the trigger, and then credentials are sent: the scrapes begin a moment later.
        is_deferred = last is None and not resolved.standing.counts and _is_pending(workload)
        if last is not None and last.workload is workload and not last.is_deferred:
            scrapes, is_synced = last.scrapes, last.is_synced and now - last.at_seconds < SYNC_HOLDS_SECONDS
        else:
            scrapes, is_synced = () if is_deferred else self._scrapes(resolved, workload), False
        if not resolved.standing.counts and not self._undeclared.admits(resolved, scrapes, now):
            scrapes = ()
        registration = _Registration(workload, scrapes, now, is_synced=is_synced, is_deferred=is_deferred)
        self._registrations.put(resolved, registration, now, is_declared=resolved.standing.counts)
        self._register_scrapes(scrapes)
        if _needs_performance(resolved):
            self._performance.register(now)
        self._register_peers(resolved, registration)
        if registration.needs_peers and not (last is not None and last.needs_peers):
            registration.is_synced = False
        return registration

    def _register_scrapes(self, scrapes: tuple[ScrapeRequest, ...]) -> None:
        if self._engines is None:
            return
        for scrape in scrapes:
            self._engines.register_interest(
                scrape.endpoint,
                window_seconds=scrape.window_seconds,
                history_seconds=scrape.history_seconds,
                selectors=scrape.selectors,
                demand=scrape.is_demand,
            )

    def _scrapes(self, resolved: ResolvedTrigger, workload: Workload | Unavailable | None) -> tuple[ScrapeRequest, ...]:
        if self._engines is None or not resolved.trigger.is_scraped:
            return ()
        return scrape_requests(resolved.trigger, ready_pods(workload) if isinstance(workload, Workload) else ())

    def _register_peers(self, resolved: ResolvedTrigger, registration: _Registration) -> None:
        if self._peers is None or resolved.trigger.scope is Scope.NODE:
            return
        registration.needs_peers = self._needs_devices(resolved, registration)
        if registration.needs_peers:
            metric = resolved.trigger.metric
            window = resolved.trigger.window_seconds + (metric.span_seconds if isinstance(metric, Metric) else 0.0)
            self._peers.register_interest(window, performance=_needs_performance(resolved))

    def _needs_devices(self, resolved: ResolvedTrigger, registration: _Registration) -> bool:
        """Whether the answer depends on devices.

        The load of an engine depends on their model. Other metrics of engines depend on them only where a fallback to
        devices exists and no pod has an engine.
        """
        metric, query = resolved.trigger.metric, resolved.trigger.engine
        if not isinstance(metric, EngineMetric) or query is None:
            return True
        if metric.reading == "load" and not query.url:
            return True
        if not falls_back_to_devices(resolved.trigger) or self._engines is None:
            return False
        results = self._engines.scrape_results()
        engines = [scrape.endpoint for scrape in registration.scrapes if scrape.endpoint.pod is not None]
        return bool(engines) and all(
            (result := results.get(endpoint)) is not None and result.is_no_engine for endpoint in engines
        )

    async def _wait_for_sync(self, resolved: ResolvedTrigger, prepared: Prepared) -> None:
        """Wait for the workload, then for node labels, engines and peers. The caller sets the deadline."""
        if self._cluster is not None:
            if _is_pending(prepared.workload):
                await self._cluster.wait_for_sync(*_place(resolved))
                prepared = self.register(resolved, self._clock())
            while _is_pending(prepared.node_labels):
                await asyncio.sleep(_LABELS_INTERVAL_SECONDS)
                prepared = self.register(resolved, self._clock())
        resolved = prepared.resolved
        registration = self._registrations.get(resolved, prepared.at_seconds)
        if registration is None:
            return
        if self._engines is not None and registration.scrapes:
            await self._engines.wait_for_sync([scrape.endpoint for scrape in registration.scrapes])
            self._register_peers(resolved, registration)  # the scrape may have found that there is no engine
        if self._peers is not None and registration.needs_peers:
            await self._peers.wait_for_sync()


def _place(resolved: ResolvedTrigger) -> tuple[str, ...]:
    """Return the arguments that identify a workload in the cluster."""
    place = (resolved.namespace, resolved.name)
    return (*place, resolved.proposed_spec) if resolved.proposed_spec else place


def _needs_performance(resolved: ResolvedTrigger) -> bool:
    return isinstance(resolved.trigger.metric, Metric) and resolved.trigger.metric.is_performance


def _is_pending(known: object) -> bool:
    return isinstance(known, Unavailable) and not known.is_permanent
