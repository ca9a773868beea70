# SPDX-License-Identifier: Apache-2.0
"""A fleet of real processes whose true loads are known: agents, front ends and an API server."""

import asyncio
import contextlib
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from benchmarks.faulty_link import FaultyLink
from benchmarks.lab import Serve
from keda_gpu_scaler.core.hpa.replica_calculator import milli, resource_replicas
from tests.apiserver import FakeApiServer
from tests.fake_nvml import Card, FakeNvml, compile_library
from tests.kubelet import FakeKubelet

NODES, WORKLOADS, FRONT_ENDS = 4, 3, 2
TARGET, ACTIVATION = 80.0, 5.0
METADATA = {
    "scalerAddress": "keda-gpu-scaler:6000",
    "metricType": "gpu_utilization",
    "targetValue": f"{TARGET:g}",
    "activationThreshold": f"{ACTIVATION:g}",
}
_REMEMBERED_SECONDS = 40.0
"""Within this time a change is in every window and in every answer: the window, the limit of staleness and a call."""
_LOADS = (
    *((95.0, 95.0, 95.0, 95.0), (40.0, 40.0, 40.0, 40.0), (80.0, 80.0, 80.0, 80.0), (100.0, 100.0, 10.0, 10.0)),
    *((20.0, 20.0, 95.0, 60.0), (70.0, 70.0, 70.0, 70.0), (0.0, 0.0, 0.0, 100.0), (90.0, 85.0, 95.0, 88.0)),
)


@dataclass(frozen=True, slots=True)
class SizeRange:
    """The sizes that the HPA may choose: those that the true loads of the last seconds justify, and no change."""

    low: int
    high: int

    def has(self, replicas: int) -> bool:
        """Whether a size is among them."""
        return self.low <= replicas <= self.high


class Truth:
    """The true load of each pod of one workload, in percent, now and before."""

    def __init__(self) -> None:
        self._past: list[tuple[float, tuple[float, ...]]] = []

    def become(self, loads: Sequence[float], now: float) -> None:
        """Note that the loads are these from now on."""
        self._past.append((now, tuple(loads)))

    def sizes(self, now: float) -> SizeRange:
        """Return the sizes that the HPA may choose. A mean of several loads is between the lowest and the highest."""
        recent = self._recent(now)
        low, high = (self._replicas([choose(pod) for pod in zip(*recent, strict=True)]) for choose in (min, max))
        return SizeRange(min(low, NODES), max(high, NODES))

    def is_active(self, now: float) -> bool:
        """Whether the workload had work all the time."""
        return all(max(loads) > ACTIVATION for loads in self._recent(now))

    def _recent(self, now: float) -> list[tuple[float, ...]]:
        begun = [index for index, (at, _) in enumerate(self._past) if at <= now - _REMEMBERED_SECONDS]
        return [loads for _, loads in self._past[begun[-1] if begun else 0 :]]

    @staticmethod
    def _replicas(loads: Sequence[float]) -> int:
        size = resource_replicas(
            [milli(load) for load in loads], milli(TARGET), missing=0, unready=0, replicas=len(loads)
        )
        return size if size is not None else len(loads)


class Agent:
    """A node: a driver, a kubelet, an agent, and the link by which the front ends reach it."""

    def __init__(self, number: int, folder: Path, library: Path) -> None:
        self.name = f"gpu-{number}"
        node = folder / self.name
        node.mkdir()
        self.driver = FakeNvml(node, library)
        self.uuids = [f"GPU-{number:08x}-0000-0000-0000-{index:012x}" for index in range(WORKLOADS)]
        self.driver.devices = [
            Card(uuid, pci_bus_id=f"00000000:{0x19 + index:02X}:00.0") for index, uuid in enumerate(self.uuids)
        ]
        self.kubelet = FakeKubelet(node / "kubelet.sock")
        self.kubelet.hold({pod_name(workload, number): [uuid] for workload, uuid in enumerate(self.uuids)})
        self.log = (node / "log").open("w")
        flags = ("--node-name", self.name, "--peers", "none", "--kubeconfig", "off")
        self.serve = Serve(self.driver, *flags, "--pod-resources", str(self.kubelet.path), log=self.log)
        self.link = FaultyLink(int(self.serve.address.rpartition(":")[2]))

    def close(self) -> None:
        """Stop what belongs to the node."""
        self.driver.release()
        self.serve.send_signal(signal.SIGCONT)
        self.serve.__exit__(None, None, None)
        self.kubelet.stop()
        self.driver.close()
        self.log.close()


def pod_name(workload: int, node: int) -> str:
    """Return the pod of a workload on a node."""
    return f"llama-{workload}-{node}"


class ChaosFleet:
    """The processes, inside an ``async with`` block. Each workload has one pod on each node."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._random = random.Random(11)  # noqa: S311 - a simulated load
        self.truths = [Truth() for _ in range(WORKLOADS)]
        self.agents: list[Agent] = []
        self.fronts: list[Serve] = []

    async def __aenter__(self) -> Self:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        (folder / "library").mkdir()
        library = compile_library(folder / "library")
        self.server = self._stack.enter_context(FakeApiServer())
        self.api_link = FaultyLink(self.server.port)
        self._populate()
        await self.api_link.start()
        try:
            await self._start(folder, library)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for front in self.fronts:
            front.send_signal(signal.SIGCONT)
            await asyncio.to_thread(front.__exit__, None, None, None)
        for agent in self.agents:
            await agent.link.stop()
            await asyncio.to_thread(agent.close)
        await self.api_link.stop()
        await asyncio.to_thread(self._stack.close)

    async def _start(self, folder: Path, library: Path) -> None:
        made = [Agent(number, folder, library) for number in range(NODES)]
        self.change_loads(made)
        for agent in made:
            agent.kubelet.start()
            agent.serve.__enter__()
            self.agents.append(agent)
            await agent.link.start()
        for number in range(FRONT_ENDS):
            front = self._front_end(number, folder)
            front.__enter__()
            self.fronts.append(front)
        for serve in self.processes():
            await asyncio.to_thread(serve.wait_until_it_listens)

    def processes(self) -> list[Serve]:
        """Return every instance."""
        return [*self.fronts, *(agent.serve for agent in self.agents)]

    def change_loads(self, agents: Sequence[Agent] | None = None) -> None:
        """Give each pod another load."""
        agents = self.agents if agents is None else agents
        now = time.monotonic()
        for workload, truth in enumerate(self.truths):
            loads = self._random.choice(_LOADS)
            truth.become(loads, now)
            for agent, load in zip(agents, loads, strict=True):
                agent.driver.device(workload).utilisation = (round(load), 10)

    def _populate(self) -> None:
        for workload in range(WORKLOADS):
            self.server.scale(f"llama-{workload}", NODES)
            self.server.scaled_object(f"llama-{workload}", **cast("Any", METADATA))
            for node in range(NODES):
                self.server.pod(pod_name(workload, node), f"gpu-{node}", app=f"llama-{workload}")

    def _front_end(self, number: int, folder: Path) -> Serve:
        log = self._stack.enter_context((folder / f"front-{number}.log").open("w"))
        kubeconfig = self.server.kubeconfig(folder / f"kubeconfig-{number}")
        kubeconfig.write_text(kubeconfig.read_text().replace(f":{self.server.port}", f":{self.api_link.port}"))
        peers = "static:" + ",".join(f"127.0.0.1:{agent.link.port}" for agent in self.agents)
        return Serve(None, "--backend", "none", "--peers", peers, "--kubeconfig", str(kubeconfig), log=log)
