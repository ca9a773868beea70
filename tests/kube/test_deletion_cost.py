# SPDX-License-Identifier: Apache-2.0
"""Tests that deletion costs are written before a shrink, at a limited rate, and can be removed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.types import PodRef, Workload
from keda_gpu_scaler.kube import parse
from keda_gpu_scaler.kube.background_writes import FORBIDDEN_PAUSE_SECONDS
from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.deletion_cost import (
    BURST,
    MIN_INTERVAL_SECONDS,
    TRIGGER_SECONDS,
    DeletionCostWriter,
)
from keda_gpu_scaler.kube.parse import DELETION_COST, WRITTEN_DELETION_COST
from tests.apiserver import FakeApiServer
from tests.fakes import ManualClock, workload
from tests.limits import WAIT_SECONDS


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        for name in ("llama-0", "llama-1"):
            running.pod(name, "gpu-7")
        yield running


class Writing:
    """A writer at an API server, with a clock that the test sets."""

    def __init__(self, server: FakeApiServer, *, is_removing: bool = False) -> None:
        self.server = server
        self.clock = ManualClock()
        self.api = ApiClient(server.access)
        self.writer = DeletionCostWriter(self.opened, is_removing=is_removing, clock=self.clock)

    async def opened(self) -> ApiClient:
        return self.api

    def workload(self, **changes: object) -> Workload:
        with self.server._lock:
            items = [item for (resource, _, _), item in self.server._objects.items() if resource == "pods"]
        return replace(workload(*[parse.pod(item, 0.0) for item in items]), **changes)  # type: ignore[arg-type]

    async def note(
        self, costs: Mapping[str, int] | None, trigger: str = "load", known: Workload | None = None, wait: float = 31.0
    ) -> None:
        by_ref = None if costs is None else {PodRef("ai", name): cost for name, cost in costs.items()}
        self.writer.note(known or self.workload(), trigger, by_ref)
        while self.writer._writes.running:
            await asyncio.gather(*self.writer._writes.running)
            await asyncio.sleep(0)
        self.clock.advance(wait)

    def costs(self) -> dict[str, str | None]:
        return {one.ref.name: str(one.deletion_cost) for one in self.workload().pods if one.deletion_cost is not None}

    @property
    def patches(self) -> int:
        return self.server.requests["patch pods"]


def run(server: FakeApiServer, talk: Callable[[Writing], Awaitable[None]], *, is_removing: bool = False) -> None:
    async def main() -> None:
        writing = Writing(server, is_removing=is_removing)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await talk(writing)
        finally:
            await writing.writer.close()
            await writing.api.close()

    asyncio.run(main())


def test_costs_are_written_with_a_mark_and_again_only_when_the_order_changes(server: FakeApiServer) -> None:
    async def talk(writing: Writing) -> None:
        await writing.note({"llama-0": 0, "llama-1": 6})
        assert writing.costs() == {"llama-0": "0", "llama-1": "6"}
        assert all(one.written_deletion_cost == one.deletion_cost for one in writing.workload().pods)
        await writing.note({"llama-0": 2, "llama-1": 7})
        assert writing.patches == 2
        await writing.note({"llama-0": 6, "llama-1": 0})
        assert writing.costs() == {"llama-0": "6", "llama-1": "0"}
        assert writing.patches == 4

    run(server, talk)


def test_one_workload_is_written_at_most_once_in_an_interval(server: FakeApiServer) -> None:
    async def talk(writing: Writing) -> None:
        await writing.note({"llama-0": 0, "llama-1": 6}, wait=MIN_INTERVAL_SECONDS - 1)
        await writing.note({"llama-0": 6, "llama-1": 0}, wait=1)
        assert writing.costs() == {"llama-0": "0", "llama-1": "6"}
        await writing.note({"llama-0": 6, "llama-1": 0})
        assert writing.costs() == {"llama-0": "6", "llama-1": "0"}

    run(server, talk)


def test_nothing_is_written_while_a_trigger_asks_for_no_shrink(server: FakeApiServer) -> None:
    async def talk(writing: Writing) -> None:
        await writing.note(None, "utilization", wait=0)
        await writing.note({"llama-0": 0, "llama-1": 6}, "load", wait=TRIGGER_SECONDS + 1)
        assert writing.patches == 0
        await writing.note({"llama-0": 0, "llama-1": 6}, "load")  # the other trigger is no longer requested
        assert writing.patches == 2

    run(server, talk)


def test_of_several_triggers_the_higher_cost_counts(server: FakeApiServer) -> None:
    async def talk(writing: Writing) -> None:
        await writing.note({"llama-0": 0, "llama-1": 0}, "queue", wait=0)
        await writing.note({"llama-0": 4, "llama-1": 0}, "load")
        assert writing.costs() == {"llama-0": "4", "llama-1": "0"} or writing.costs() == {"llama-0": "4"}

    run(server, talk)


def test_the_users_own_cost_is_not_touched(server: FakeApiServer) -> None:
    server.pod("llama-0", "gpu-7", annotations={DELETION_COST: "-100"})

    async def talk(writing: Writing) -> None:
        await writing.note({"llama-0": 6, "llama-1": 0})
        await writing.note({"llama-0": 0, "llama-1": 6})
        assert writing.costs()["llama-0"] == "-100"

    run(server, talk)


@pytest.mark.parametrize("target", ["StatefulSet llama", "LeaderWorkerSet llama", "ScaledJob llama"])
def test_pods_that_no_replica_set_deletes_are_not_written(server: FakeApiServer, target: str) -> None:
    async def talk(writing: Writing) -> None:
        await writing.note({"llama-0": 0, "llama-1": 6}, known=writing.workload(target=target))
        assert writing.patches == 0

    run(server, talk)


def test_what_was_written_is_removed_and_the_users_own_cost_stays(server: FakeApiServer) -> None:
    server.pod("llama-0", "gpu-7", annotations={DELETION_COST: "6", WRITTEN_DELETION_COST: "6"})
    server.pod("llama-1", "gpu-7", annotations={DELETION_COST: "7"})

    async def talk(writing: Writing) -> None:
        await writing.note(None)
        assert writing.costs() == {"llama-1": "7"}
        await writing.note(None)
        assert writing.patches == 1

    run(server, talk, is_removing=True)


def test_a_pod_that_is_gone_does_not_prevent_the_others(server: FakeApiServer) -> None:
    async def talk(writing: Writing) -> None:
        known = writing.workload()
        server.delete("pods", "llama-0")
        await writing.note({"llama-0": 3, "llama-1": 6}, known=known)
        assert writing.costs() == {"llama-1": "6"}

    run(server, talk)


def test_a_refusal_is_logged_once_with_the_remedy_and_pauses(
    server: FakeApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.forbid("patch", "pods")

    async def talk(writing: Writing) -> None:
        with caplog.at_level(logging.WARNING):
            await writing.note({"llama-0": 0, "llama-1": 6})
            asked = len(server.asked)
            await writing.note({"llama-0": 0, "llama-1": 6})
            assert len(server.asked) == asked
            writing.clock.advance(FORBIDDEN_PAUSE_SECONDS)
            await writing.note({"llama-0": 0, "llama-1": 6})
            assert len(server.asked) > asked
        assert [one.getMessage() for one in caplog.records if "pod-deletion-cost" in one.getMessage()] == [
            'a pod-deletion-cost cannot be written: the API server answers 403: pods is forbidden: User "test" cannot '
            'patch resource "pods" in API group "" in the namespace "ai"; grant patch on pods (chart: deletionCost)'
        ]

    run(server, talk)


def test_the_rate_of_all_workloads_is_limited(server: FakeApiServer) -> None:
    async def talk(writing: Writing) -> None:
        known = writing.workload()
        for number in range(BURST):
            await writing.note({"llama-0": 0, "llama-1": 6}, known=replace(known, name=f"w{number}"), wait=0)
        assert writing.patches == BURST

    run(server, talk)
