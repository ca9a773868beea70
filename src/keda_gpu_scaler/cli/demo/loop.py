# SPDX-License-Identifier: Apache-2.0
"""The closed loop of the demonstration: the scaler's answers choose the replicas that share the load.

The load is a schedule (``schedule``), a gateway's page says it to a real scaler (``gateway``), and KEDA's rules and the
HPA's choose the replicas (``workload``).
"""

from collections.abc import Callable
from typing import Protocol

from keda_gpu_scaler.cli.demo.gateway import SERIES
from keda_gpu_scaler.cli.demo.render import row
from keda_gpu_scaler.cli.demo.schedule import TICK_SECONDS, load_at
from keda_gpu_scaler.cli.demo.workload import ScaledWorkload
from keda_gpu_scaler.cli.output import say
from keda_gpu_scaler.cli.pace import OK, Pace, Timing, repeat
from keda_gpu_scaler.cli.probe.client import ProbeAnswer

TARGET = 10
"""Requests in flight for each replica."""
SCRAPE_SECONDS = 0.5
SERVE_FLAGS = ("--backend", "none", "--allow-endpoints", "127.0.0.1", "--scrape-interval", f"{SCRAPE_SECONDS:g}")
_LONGEST_SCRAPE_SECONDS = 2.5


class LoadPage(Protocol):
    """Where the load is written, for the scaler to read."""

    def set_requests(self, requests: int) -> None:
        """Set the requests in flight."""

    def wait_until_read(self, timeout_seconds: float) -> bool:
        """Wait until the load has been read and processed; return whether it was in time."""


def trigger(url: str) -> dict[str, str]:
    """Return the metadata of the demonstration's trigger: the requests at the gateway, shared by the replicas."""
    return {
        "engineEndpoint": url,
        "engineMetric": SERIES,
        "aggregation": "sum",
        "targetValue": str(TARGET),
        "windowSeconds": "0",
    }


def play(query: Callable[[], ProbeAnswer], page: LoadPage, timing: Timing, ticks: int) -> int:
    """Play the ticks and print a line for each; return the highest exit status of all.

    Args:
        query: makes KEDA's calls to the scaler.
        page: where the load is written.
        timing: the clocks.
        ticks: how many.
    """
    workload = ScaledWorkload()

    def tick(index: int) -> int:
        phase, requests = load_at(index)
        page.set_requests(requests)
        page.wait_until_read(_LONGEST_SCRAPE_SECONDS)
        answer = query()
        step = workload.step(float(index * TICK_SECONDS), answer)
        say(row(index * TICK_SECONDS, phase, answer, step))
        return OK if answer.error is None else 1

    return repeat(tick, Pace(True, TICK_SECONDS, ticks), timing)
