# SPDX-License-Identifier: Apache-2.0
"""Measures the metric load of fleets of constant size, on the pages of the judge's simulator.

Run it with the Python of ``make judge``, as ``benchmarks/simulate_against_judge.py``. It prints the mean total load, in
replicas, of each fleet and traffic as JSON.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from benchmarks.judge_adapter import judge

SCRAPE_SECONDS, ANSWER_SECONDS = 2, 15
WARM_SECONDS, SECONDS = 330, 480
"""The history of an engine is 300 s long. Answers count from then on."""


@dataclass(frozen=True, slots=True)
class FleetRun:
    """A fleet of ready replicas and the traffic that it gets; ``load`` is the mean answer in replicas."""

    replicas: int
    requests_per_second: float
    load: float


@dataclass(frozen=True, slots=True)
class ReadyPod:
    """A pod that was ready before the run."""

    name: str
    address: str
    node: str = "node"
    created_at: float = 0.0
    is_running: bool = True
    is_ready: bool = True
    is_deleting: bool = False


def measured(replicas: int, requests_per_second: float, kind: str) -> FleetRun:
    """Serve traffic with prompts of 10 to 3000 tokens and answers of 1 to 400 by a fleet of constant size."""
    simulator: Any = importlib.import_module("judge.core")
    pages: Any = importlib.import_module("judge.pages")
    random = Random(7)  # noqa: S311 - the same traffic in each run
    count = int(requests_per_second * SECONDS)
    arrivals = sorted(random.uniform(0, SECONDS) for _ in range(count))
    prompts = [random.randint(10, 3000) for _ in range(count)]
    answers = [random.randint(1, 400) for _ in range(count)]
    core = simulator.Core(
        {"large": simulator.LARGE, "small": simulator.SMALL}[kind], arrivals, prompts, [0] * count, answers
    )
    for _ in range(replicas):
        core.add(0, 0)
    judged = judge({"profile": "llm"}, "AverageValue", None)
    pods = [ReadyPod(f"llama-{number}", f"10.0.0.{number + 1}") for number in range(replicas)]
    values: list[float] = []
    for now in range(SCRAPE_SECONDS, SECONDS, SCRAPE_SECONDS):
        core.run(now)
        gauges = core.gauges()
        for number, pod in enumerate(pods):
            judged.scraped(float(now), pod.name, pages.render(gauges[number], core.histograms(number)))
        if now >= WARM_SECONDS and now % ANSWER_SECONDS < SCRAPE_SECONDS:
            answer = judged.answer(float(now), pods, replicas, replicas, 0.0)
            values += [answer.value / answer.target] if answer.value is not None else []
    return FleetRun(replicas, requests_per_second, fmean(values))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the fleets of the command line."""
    parser = argparse.ArgumentParser(description="the load of fleets of constant size")
    parser.add_argument("--judge", type=Path, required=True, help="the folder of the simulator")
    parser.add_argument("--kind", choices=("large", "small"), default="large")
    parser.add_argument("fleets", nargs="+", metavar="REPLICAS:REQUESTS_PER_SECOND")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(options.judge.resolve().parent))
    runs = []
    for fleet in options.fleets:
        replicas, _, rate = fleet.partition(":")
        runs.append(asdict(measured(int(replicas), float(rate), options.kind)))
    print(json.dumps(runs))


if __name__ == "__main__":
    main()
