# SPDX-License-Identifier: Apache-2.0
"""Breaks one part of a fleet after another under KEDA's load (``python -m benchmarks.chaos``).

Real processes of ``serve`` read fake drivers whose loads are known. The HPA's own algorithm decides a size from each
answer, and the size is compared with what the HPA would decide from the true loads. A size is wrong if neither the true
loads of the last seconds nor "no change" justify it. The exit status is 1 after a wrong size, a wrong state of
activity, a minute without an answer, or a process that ended by itself.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from benchmarks.chaos_faults import FAULTS, Fault
from benchmarks.chaos_fleet import METADATA, NODES, TARGET, WORKLOADS, ChaosFleet
from benchmarks.lab import Serve
from benchmarks.machine import heading
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType, desired_replicas, milli
from keda_gpu_scaler.wire import externalscaler_pb2 as pb

TITLE = "One part of a fleet fails after another"
_CALL_SECONDS, _LOAD_SECONDS = 1.0, 12.0
_TIMEOUT_SECONDS = 10.0
_LONGEST_GAP_SECONDS = 60.0
_SYNC_SECONDS = 30.0
_FAULT_SHARE = 0.6
"""The share of the time of a fault in which the part is broken; in the rest it works again."""
_SHOWN_LENGTH = 300
_SERVICE = "/externalscaler.ExternalScaler/"


@dataclass(slots=True)
class Outcome:
    """What KEDA saw during one fault, and while the part worked again."""

    fault: str
    calls: int = 0
    values: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    first_refusal: str = ""
    connection_errors: int = 0
    longest_gap_seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Workload:
    """One ScaledObject: when it was answered last, and when with a value."""

    number: int
    answered_at: float
    value_at: float

    @property
    def reference(self) -> pb.ScaledObjectRef:
        return pb.ScaledObjectRef(name=f"llama-{self.number}", namespace="ai", scalerMetadata=METADATA)


class Keda:
    """Calls the front ends as KEDA does through their Service: another one after a failed connection."""

    def __init__(self, fleet: ChaosFleet) -> None:
        self._fleet = fleet
        self._chosen = 0
        self._channels: list[grpc.aio.Channel] = []
        self.workloads = [_Workload(number, time.monotonic(), time.monotonic()) for number in range(WORKLOADS)]
        self.outcome = Outcome("")
        self.longest_answer_gap_seconds = 0.0

    async def run(self) -> None:
        """Call for each workload, until cancelled."""
        options = (("grpc.max_reconnect_backoff_ms", 2000),)
        self._channels = [grpc.aio.insecure_channel(front.address, options=options) for front in self._fleet.fronts]
        try:
            async with asyncio.TaskGroup() as group:
                for workload in self.workloads:
                    group.create_task(self._poll(workload))
        finally:
            for channel in self._channels:
                await channel.close()

    async def _poll(self, workload: _Workload) -> None:
        for number in range(1 << 30):
            due = time.monotonic() + _CALL_SECONDS
            await self._ask("GetMetrics", workload)
            if number % 3 == 0:
                await self._ask("IsActive", workload)
            self._note_gaps(workload)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _ask(self, method: str, workload: _Workload) -> None:
        outcome, chosen = self.outcome, self._chosen
        reference = workload.reference
        request = pb.GetMetricsRequest(scaledObjectRef=reference) if method == "GetMetrics" else reference
        outcome.calls += 1
        try:
            call = self._channels[chosen].unary_unary(_SERVICE + method)
            response = await call(request.SerializeToString(), timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if (error.details() or "").startswith("ai/"):
                outcome.refusals[error.code().name] += 1
                outcome.first_refusal = outcome.first_refusal or f"{method}: {error.details()}"
                workload.answered_at = time.monotonic()
            else:
                outcome.connection_errors += 1
                self._chosen = (chosen + 1) % len(self._channels)
            return
        workload.answered_at = time.monotonic()
        if method == "GetMetrics":
            self._check_size(outcome, workload, response)
        else:
            self._check_activity(outcome, workload, response)

    def _check_size(self, outcome: Outcome, workload: _Workload, response: bytes) -> None:
        outcome.values += 1
        workload.value_at = now = time.monotonic()
        value = pb.GetMetricsResponse.FromString(response).metricValues[0].metricValueFloat
        decided = desired_replicas(ValueType.AVERAGE_VALUE, milli(value), milli(TARGET), replicas=NODES).replicas
        allowed = self._fleet.truths[workload.number].sizes(now)
        if not allowed.has(decided):
            sizes = f"{allowed.low} to {allowed.high}"
            outcome.wrong.append(f"llama-{workload.number}: {value:g} gives {decided}, and the truth {sizes}")

    def _check_activity(self, outcome: Outcome, workload: _Workload, response: bytes) -> None:
        is_active: bool = pb.IsActiveResponse.FromString(response).result
        if not is_active and self._fleet.truths[workload.number].is_active(time.monotonic()):
            outcome.wrong.append(f"llama-{workload.number}: it is not active, and it has work")

    def _note_gaps(self, workload: _Workload) -> None:
        now = time.monotonic()
        self.outcome.longest_gap_seconds = max(self.outcome.longest_gap_seconds, now - workload.value_at)
        self.longest_answer_gap_seconds = max(self.longest_answer_gap_seconds, now - workload.answered_at)


async def _change_loads(fleet: ChaosFleet) -> None:
    while True:
        await asyncio.sleep(_LOAD_SECONDS)
        fleet.change_loads()


async def _nothing(fleet: ChaosFleet) -> None:
    """Change nothing."""


NO_FAULT = Fault("nothing", "no fault", _nothing, _nothing)


async def run(minutes: float, wanted: Callable[[Fault], bool], report: Callable[[Outcome], None]) -> list[str]:
    """Break each part once; return what must not happen."""
    faults = [NO_FAULT, *(fault for fault in FAULTS if wanted(fault))]
    seconds = 60 * minutes / len(faults)
    problems: list[str] = []
    async with ChaosFleet() as fleet:
        keda = Keda(fleet)
        background = [asyncio.create_task(keda.run()), asyncio.create_task(_change_loads(fleet))]
        await asyncio.sleep(_SYNC_SECONDS)
        before = [serve.memory().rss for serve in fleet.fronts]
        for fault in faults:
            keda.outcome = Outcome(f"{fault.part}: {fault.what}")
            await _lived_through(fault, fleet, seconds)
            problems += _ended(fleet, fault)
            problems += keda.outcome.wrong
            report(keda.outcome)
        sizes = zip(before, (serve.memory().rss for serve in fleet.fronts), strict=True)
        print("\nRSS of the front ends: " + ", ".join(f"{one:.0f} MiB, then {then:.0f} MiB" for one, then in sizes))
        for task in background:
            task.cancel()
            if task.done() and not task.cancelled():
                task.result()
        await asyncio.gather(*background, return_exceptions=True)
    print(f"the longest time without an answer: {keda.longest_answer_gap_seconds:.1f} s")
    if keda.longest_answer_gap_seconds > _LONGEST_GAP_SECONDS:
        problems.append(f"a workload had no answer for {keda.longest_answer_gap_seconds:.0f} s")
    return problems


async def _lived_through(fault: Fault, fleet: ChaosFleet, seconds: float) -> None:
    await fault.begin(fleet)
    try:
        await asyncio.sleep(seconds * _FAULT_SHARE)
    finally:
        await fault.end(fleet)
    await asyncio.sleep(seconds * (1 - _FAULT_SHARE))


def _ended(fleet: ChaosFleet, fault: Fault) -> list[str]:
    ended: list[Serve] = [serve for serve in fleet.processes() if serve.has_ended]
    return [f"{serve.address} has ended after: {fault.part}: {fault.what}" for serve in ended]


def _print_row(outcome: Outcome) -> None:
    refused = ", ".join(f"{count} {code}" for code, count in outcome.refusals.items()) or "none"
    print(
        f"{outcome.fault:<58}{outcome.calls:>6}{outcome.values:>8}{outcome.connection_errors:>8}"
        f"{outcome.longest_gap_seconds:>8.1f} s{len(outcome.wrong):>7}  {refused}",
        flush=True,
    )
    if outcome.first_refusal:
        print(f"    no value: {outcome.first_refusal[:_SHOWN_LENGTH]}", flush=True)
    for sentence in outcome.wrong[:5]:
        print(f"    wrong: {sentence}", flush=True)


def main() -> int:
    """Run the chaos; return the exit status."""
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", default="", help="faults whose title contains this")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the processes are stopped, too
    print(heading())
    print(f"\n{TITLE}\n\n{'':<58}{'calls':>6}{'values':>8}{'errors':>8}{'no value':>10}{'wrong':>7}  without a value")
    began = os.getloadavg()[0]
    problems = asyncio.run(
        run(arguments.minutes, lambda fault: arguments.only in f"{fault.part}: {fault.what}", _print_row)
    )
    print(f"load of the machine: {began:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")
    print(f"{len(problems)} problems" if problems else "every fault was survived")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
