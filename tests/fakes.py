# SPDX-License-Identifier: Apache-2.0
"""Fakes of the components, whose state a test sets."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from keda_gpu_scaler.core.instance_status import ScrapeCounts
from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.trigger.declared_objects import DeclaredObjects
from keda_gpu_scaler.core.types import (
    Allocation,
    DeclaredTrigger,
    Device,
    Pod,
    PodRef,
    Sample,
    Snapshot,
    Unavailable,
    Workload,
)

GIB = 1 << 30


class ManualClock:
    """A clock that a test advances."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def device(index: int = 0, **changes: object) -> Device:
    base = Device(uuid=f"GPU-{index:04d}", index=index, model="NVIDIA H100", pci_address=f"0000:{index + 16:02x}:00.0")
    return replace(base, **changes)  # type: ignore[arg-type]


def sample(index: int = 0, utilization: float | None = 0.5, **changes: object) -> Sample:
    """A whole GPU's sample; ``utilization`` is the GPU's, as a ratio."""
    base = Sample(
        device=device(index),
        gpu_utilization_ratio=utilization,
        memory_utilization_ratio=0.25,
        memory_used_bytes=40 * GIB,
        memory_total_bytes=80 * GIB,
        temperature_celsius=55.0,
        power_watts=350.0,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def sample_without_readings(index: int = 0) -> Sample:
    return Sample(device=device(index))


def snapshots(
    *moments: Iterable[Sample], interval_seconds: float = 1.0, last_at: float = 1000.0
) -> tuple[Snapshot, ...]:
    """One snapshot a moment, ``interval_seconds`` apart, the last one at ``last_at``."""
    first_at = last_at - interval_seconds * (len(moments) - 1)
    return tuple(
        Snapshot(
            node="gpu-7",
            sequence=number,
            at_seconds=first_at + number * interval_seconds,
            unix_seconds=1.7e9 + number * interval_seconds,
            source="fake",
            samples=tuple(samples),
        )
        for number, samples in enumerate(moments)
    )


def fleet_of(
    *moments: Iterable[Sample], last_at: float = 1000.0, stale_after: float = 10.0, interval_seconds: float = 1.0
) -> Fleet:
    """A fleet of one node with these snapshots, the last of them taken at ``last_at``."""
    taken = snapshots(*moments, interval_seconds=interval_seconds, last_at=last_at)
    return Fleet(History(taken, last_at) if taken else None, stale_after)


def allocation(pod: str, device_id: str, namespace: str = "ai", container: str = "server") -> Allocation:
    return Allocation(namespace, pod, container, "nvidia.com/gpu", device_id)


def node_history(
    node: str, *samples: Sample, held: Mapping[str, str] | None = None, at: float = 1000.0, seconds: int = 1
) -> History:
    """A node with the same samples once a second for ``seconds``, the last ``at``; ``held`` is pod by device UUID."""
    holders = None if held is None else tuple(sorted(allocation(pod, uuid) for uuid, pod in held.items()))
    return History(
        tuple(
            Snapshot(node, number, at - seconds + 1 + number, 1.7e9, "fake", samples, holders)
            for number in range(seconds)
        ),
        at,
    )


def pod(name: str, node: str | None = "gpu-7", *, ready: bool = True, age: float = 3600.0, **changes: object) -> Pod:
    """A pod of ``ai``, ``age`` seconds old at 1000; a pod that is not ready is still starting."""
    base = Pod(
        ref=PodRef("ai", name),
        node=node,
        phase="Running" if node else "Pending",
        is_ready=ready,
        is_deleting=False,
        created_at_seconds=1000.0 - age,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def workload(*pods: Pod, replicas: int | None = None, metric_type: str = "AverageValue", **changes: object) -> Workload:
    """The ScaledObject ai/llama over a Deployment with these pods, and as many replicas unless given."""
    size = len(pods) if replicas is None else replicas
    base = Workload(
        namespace="ai",
        name="llama",
        kind="ScaledObject",
        target="Deployment llama",
        spec_replicas=size,
        status_replicas=size,
        pods=tuple(sorted(pods, key=lambda one: one.ref)),
        triggers=(DeclaredTrigger({}, metric_type),),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class FakeCluster:
    """A cluster whose workloads a test sets. A workload that is not set was not read yet."""

    def __init__(self, **workloads: Workload | Unavailable) -> None:
        self.workloads: dict[tuple[str, str], Workload | Unavailable] = {
            ("ai", name): known for name, known in workloads.items()
        }
        self.labels: Mapping[str, Mapping[str, str]] | Unavailable = {}
        self.proposed: Workload | Unavailable = Unavailable("no object is proposed", is_permanent=True)
        self.asked: list[tuple[str, str]] = []
        self.news = asyncio.Event()

    def report(self, known: Workload | Unavailable, namespace: str = "ai", name: str = "llama") -> None:
        self.workloads[namespace, name] = known
        self.news.set()

    def workload(self, namespace: str, name: str, proposed_spec: str = "") -> Workload | Unavailable:
        self.asked.append((namespace, name))
        if proposed_spec:
            return self.proposed
        return self.workloads.get(
            (namespace, name), Unavailable(f"{namespace}/{name}: not read yet", is_permanent=False)
        )

    async def wait_for_sync(self, namespace: str, name: str, proposed_spec: str = "") -> None:
        while not proposed_spec and (namespace, name) not in self.workloads:
            self.news.clear()
            await self.news.wait()

    def node_labels(self) -> Mapping[str, Mapping[str, str]] | Unavailable:
        return self.labels

    def declarations(self) -> Mapping[str, DeclaredObjects]:
        """Every ScaledObject of the namespaces in which one is known."""
        found: dict[str, dict[str, tuple[DeclaredTrigger, ...]]] = {}
        for (namespace, name), known in self.workloads.items():
            if known.triggers is not None:
                found.setdefault(namespace, {}).update({name: known.triggers} if known.triggers else {})
        return {namespace: DeclaredObjects(objects, is_complete=True) for namespace, objects in found.items()}


class FakePeers:
    """Other instances, whose histories a test sets."""

    def __init__(
        self, *histories: History, unavailable: Mapping[str, str] | None = None, is_settled: bool = True
    ) -> None:
        self.known = {history.newest.node: history for history in histories}
        self.withhold = dict(unavailable or {})
        self.asked_windows: list[float] = []
        self.is_performance_wanted = False
        self.is_settled = asyncio.Event()
        if is_settled:
            self.is_settled.set()

    def register_interest(self, window_seconds: float, *, performance: bool = False) -> None:
        self.asked_windows.append(window_seconds)
        self.is_performance_wanted |= performance

    def histories(self) -> Mapping[str, History]:
        return self.known

    def unavailable(self) -> Mapping[str, str]:
        return self.withhold

    async def wait_for_sync(self) -> None:
        await self.is_settled.wait()


class FakeEngines:
    """Engines and sources of demand whose results a test sets. An endpoint without a result was not scraped yet."""

    def __init__(self, known: Mapping[Endpoint, ScrapeResult] | None = None) -> None:
        self.known = dict(known or {})
        self.asked: dict[Endpoint, tuple[float, tuple[SeriesSelector, ...], bool]] = {}
        self.asked_histories: dict[Endpoint, float] = {}
        self.news = asyncio.Event()

    def report(self, endpoint: Endpoint, scraped: ScrapeResult) -> None:
        self.known[endpoint] = scraped
        self.news.set()

    def register_interest(
        self,
        endpoint: Endpoint,
        *,
        window_seconds: float,
        history_seconds: float = 0.0,
        selectors: tuple[SeriesSelector, ...] = (),
        demand: bool = False,
    ) -> None:
        self.asked[endpoint] = (window_seconds, selectors, demand)
        self.asked_histories[endpoint] = history_seconds

    def scrape_results(self) -> Mapping[Endpoint, ScrapeResult]:
        return {endpoint: scraped for endpoint, scraped in self.known.items() if endpoint in self.asked}

    async def wait_for_sync(self, endpoints: Collection[Endpoint]) -> None:
        while not self.known.keys() >= set(endpoints):
            self.news.clear()
            await self.news.wait()

    def counts(self) -> Mapping[str, ScrapeCounts]:
        return {}


class FakeBackend:
    """A node whose devices a test sets while it is read.

    ``samples`` is the result of the next read, and ``failure`` the message of its error. ``before_read`` runs in the
    reading thread, and may block as a driver does.
    """

    def __init__(self, *samples: Sample, deviceless: bool = False) -> None:
        self.samples = samples
        self.failure: str | None = None
        self.deviceless = deviceless
        self.before_read: Callable[[], None] = lambda: None
        self.reads: list[float] = []
        self.overdue: str | None = None
        self.is_closed = False

    @property
    def source(self) -> str:
        return "fake"

    def read(self, now: float) -> tuple[Sample, ...]:
        self.reads.append(now)
        self.is_closed = False
        self.before_read()
        if self.failure is not None:
            raise BackendError(self.failure)
        return tuple(sorted(self.samples, key=lambda one: one.device.index))

    def overdue_call(self) -> str | None:
        return self.overdue

    def close(self) -> None:
        self.is_closed = True
