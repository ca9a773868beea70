# SPDX-License-Identifier: Apache-2.0
"""The table of faults: which part of the fleet fails, how, and how it works again."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.chaos_fleet import ChaosFleet
from benchmarks.faulty_link import FaultyLink, LinkMode
from benchmarks.lab import Serve

Action = Callable[[ChaosFleet], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one part, and the way back."""

    part: str
    what: str
    begin: Action
    end: Action


def _called(work: Callable[[ChaosFleet], object]) -> Action:
    async def act(fleet: ChaosFleet) -> None:
        await asyncio.to_thread(work, fleet)

    return act


def _each(processes: Sequence[Serve], act: Callable[[Serve], object]) -> None:
    for one in processes:
        act(one)


def _killed(
    part: str, of: Callable[[ChaosFleet], Sequence[Serve]], what: str = "killed, restarted after the fault"
) -> Fault:
    return Fault(
        part,
        what,
        _called(lambda fleet: _each(of(fleet), Serve.kill)),
        _called(lambda fleet: _each(of(fleet), Serve.__enter__)),
    )


def _stopped(part: str, of: Callable[[ChaosFleet], Serve]) -> Fault:
    return Fault(
        part,
        "stopped (SIGSTOP)",
        _called(lambda fleet: of(fleet).send_signal(signal.SIGSTOP)),
        _called(lambda fleet: of(fleet).send_signal(signal.SIGCONT)),
    )


def _link(part: str, of: Callable[[ChaosFleet], Sequence[FaultyLink]]) -> list[Fault]:
    """Return the faults of a network: each mode of a link but the working one."""

    def become(mode: LinkMode) -> Action:
        async def act(fleet: ChaosFleet) -> None:
            for link in of(fleet):
                link.become(mode)

        return act

    titles = {
        LinkMode.DROP: "divided: nothing arrives",
        LinkMode.SLOW: "slow: each piece 0.4 s late",
        LinkMode.CORRUPT: "corrupt: random bytes",
        LinkMode.CUT: "cut: connections end at once",
    }
    return [Fault(part, title, become(mode), become(LinkMode.WORK)) for mode, title in titles.items()]


async def _hang_kubelet(fleet: ChaosFleet) -> None:
    fleet.agents[1].kubelet.may_answer.clear()


async def _release_kubelet(fleet: ChaosFleet) -> None:
    fleet.agents[1].kubelet.may_answer.set()


async def _empty_kubelet(fleet: ChaosFleet) -> None:
    fleet.agents[1].kubelet.has_read_pods = False


async def _full_kubelet(fleet: ChaosFleet) -> None:
    fleet.agents[1].kubelet.has_read_pods = True


async def _hang_api(fleet: ChaosFleet) -> None:
    fleet.server.hang()


async def _release_api(fleet: ChaosFleet) -> None:
    fleet.server.hang(False)


def _break_api(fleet: ChaosFleet) -> None:
    for verb, resource in (("list", "pods"), ("watch", "pods"), ("get", "scaledobjects"), ("watch", "scaledobjects")):
        fleet.server.break_down(verb, resource)
    fleet.server.compact()
    fleet.server.cut()


def _repair_api(fleet: ChaosFleet) -> None:
    for verb, resource in (("list", "pods"), ("watch", "pods"), ("get", "scaledobjects"), ("watch", "scaledobjects")):
        fleet.server.repair(verb, resource)


def _first_agent(fleet: ChaosFleet) -> Serve:
    return fleet.agents[0].serve


def _first_front(fleet: ChaosFleet) -> Serve:
    return fleet.fronts[0]


FAULTS = (
    _killed("one agent of four", lambda fleet: [fleet.agents[0].serve]),
    _killed("two agents of four", lambda fleet: [agent.serve for agent in fleet.agents[:2]]),
    _killed("all agents", lambda fleet: [agent.serve for agent in fleet.agents]),
    _stopped("one agent of four", _first_agent),
    *_link("network to one agent", lambda fleet: [fleet.agents[2].link]),
    *_link("network to all agents", lambda fleet: [agent.link for agent in fleet.agents]),
    Fault(
        "driver of one node",
        "hangs",
        _called(lambda fleet: fleet.agents[3].driver.hang()),
        _called(lambda fleet: fleet.agents[3].driver.release()),
    ),
    Fault(
        "driver of one node",
        "is gone",
        _called(lambda fleet: fleet.agents[3].driver.driver_gone()),
        _called(lambda fleet: fleet.agents[3].driver.driver_back()),
    ),
    Fault("kubelet of one node", "hangs", _hang_kubelet, _release_kubelet),
    Fault("kubelet of one node", "lists no pods", _empty_kubelet, _full_kubelet),
    Fault(
        "kubelet of one node",
        "is away",
        _called(lambda fleet: fleet.agents[1].kubelet.stop()),
        _called(lambda fleet: fleet.agents[1].kubelet.start()),
    ),
    Fault("API server", "hangs", _hang_api, _release_api),
    Fault("API server", "503, dropped versions", _called(_break_api), _called(_repair_api)),
    *_link("network to the API server", lambda fleet: [fleet.api_link]),
    _killed("one front end of two", lambda fleet: [fleet.fronts[0]]),
    _stopped("one front end of two", _first_front),
    _killed("both front ends", lambda fleet: fleet.fronts),
)
"""Each fault lasts for a while; then everything works until the next one."""
