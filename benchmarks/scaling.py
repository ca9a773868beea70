# SPDX-License-Identifier: Apache-2.0
"""Judges the scaling decisions in a simulated fleet, and writes the generated parts of SCALING.md.

Run it with ``make judge``. The simulator is not a part of this repository. Each run is kept in .tools/scaling, under a
hash of the code that it depends on, so that an interrupted measurement continues and no old row is used.

Law: the text between two markers of SCALING.md is generated, and everything else is written by hand. A new part is a
function in ``PARTS`` and a pair of markers of its name.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.machine import HOME, heading
from benchmarks.scaling_timeline import ADAPTER, PRODUCT, USUAL, Timeline, draw, timeline

PAGE = HOME / "benchmarks" / "SCALING.md"
DRAWINGS = HOME / "benchmarks" / "scaling"
RESULTS = HOME / ".tools" / "scaling"
TRACES = ("azure-conv/large", "azure-conv/small", "mooncake-conv/large")
LABELS: Mapping[str, str] = MappingProxyType(
    {
        PRODUCT: "**this product, `profile: llm`**",
        USUAL: "queue length, 5 a replica (Prometheus)",
        "concurrency=64 Prometheus": "running requests, 64 a replica (Prometheus)",
        "KPA 70": "Knative's autoscaler, concurrency 70",
        "WVA v1": "Workload Variant Autoscaler, version 1",
        "WVA v2": "Workload Variant Autoscaler, version 2",
        "Dynamo-like (profiled)": "as Dynamo's planner, with a profile of the replica",
        "P2 linear load": "linear load (the simulator's own P2)",
        "P2h linear, headroom 1.15": "linear load with 15 % headroom (the simulator's own P2h)",
    }
)
"""The judged policies by the simulator's names, as the tables call them."""

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Variation:
    """One machine or one kind of trouble.

    ``options`` are those of ``python -m judge run``. ``concerns_all`` is false where the option reaches this product
    only.
    """

    name: str
    title: str
    options: tuple[str, ...]
    concerns_all: bool = True


STANDARD = Variation("standard", "The standard machine", ())
VARIATIONS = (
    Variation("router-random", "Requests go to a random replica", ("--router", "random")),
    Variation("model-convex", "The time of an iteration grows faster than its batch", ("--model", "convex")),
    Variation("cold-30", "A cold start takes 30 s", ("--cold", "30-30")),
    Variation("cold-300", "A cold start takes 300 s", ("--cold", "300-300")),
    Variation("max-16", "At most 16 replicas", ("--max", "16")),
    Variation("lost-5", "5 % of the scrapes get no answer", ("--lost", "0.05"), concerns_all=False),
    Variation(
        "restart",
        "The product starts again after 20 and 40 minutes",
        ("--restart", "1200,2400"),
        concerns_all=False,
    ),
    Variation("initial-1", "The run begins with one replica", ("--initial", "1")),
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The clairvoyant schedule of a trace, and the least GPU hours for each share of requests within the objective."""

    slo: float
    gpu_hours: float
    constant: int
    constant_gpu_hours: float
    row: Mapping[str, Any]

    def hours_at(self, slo: float) -> float:
        """Return the least hours at which at least this share is within the objective; of the best, if none is."""
        frontier: list[list[float]] = self.row["frontier"]
        return next((hours for share, hours in frontier if share >= slo - 0.05), frontier[-1][1])


class Measurement:
    """All runs, by variation, what the simulator knows of the traces, and the machine that it ran on."""

    def __init__(self, simulator: "Simulator", variations: Sequence[Variation]) -> None:
        self.heading = heading("src", "benchmarks/*.py")
        self.variations = variations
        self.rows = {one.name: simulator.rows(one) for one in (STANDARD, *variations)}
        self.schedules = simulator.schedules()
        self.timelines = simulator.timelines()

    def of(self, variation: Variation, trace: str) -> dict[str, Row]:
        """Return the rows of a trace by policy, in the order of ``LABELS``."""
        found = {row["policy"]: row for row in self.rows[variation.name] if row["trace"] == trace}
        return {policy: found[policy] for policy in LABELS if policy in found}


class Simulator:
    """The judge's command line, and its files.

    Args:
        folder: the folder of the package ``judge``.
        jobs: the number of runs at the same time.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        self._folder = folder
        self._jobs = jobs
        simulator = _digest(sorted(one for one in folder.iterdir() if one.suffix in (".py", ".c", ".json")))
        package = HOME / "src" / "keda_gpu_scaler"
        files = [package / "config.py", *package.glob("core/**/*.py"), *package.glob("engines/*.py"), ADAPTER]
        self._product_results = RESULTS / f"product-{_digest(sorted(files))}-{simulator}"
        self._other_results = RESULTS / f"others-{simulator}"

    def rows(self, variation: Variation) -> list[Row]:
        """Run this product, and the other policies where the variation concerns them."""
        rows = self._run(self._product_results, [PRODUCT], variation)
        if variation.concerns_all:
            rows += self._run(self._other_results, [policy for policy in LABELS if policy != PRODUCT], variation)
        return rows

    def schedules(self) -> dict[str, Schedule]:
        """Read the clairvoyant schedules."""
        known = json.loads((self._folder / "oracles.json").read_text())
        return {
            trace: Schedule(row["slo"], row["gpu_hours"], row["static"], row["static_gpu_hours"], row)
            for trace, row in known.items()
        }

    def timelines(self) -> dict[tuple[str, str], Timeline]:
        """Run this product and the usual policy once more on each trace, with a log."""
        jobs = [(trace, policy) for trace in TRACES for policy in (PRODUCT, USUAL)]
        with ProcessPoolExecutor(self._jobs) as pool:
            runs = {job: pool.submit(timeline, *job, self._log_file(*job)) for job in jobs}
            return {job: run.result() for job, run in runs.items()}

    def _log_file(self, trace: str, policy: str) -> Path:
        folder = self._product_results if policy == PRODUCT else self._other_results
        return folder / f"{_file_name(trace)}.json"

    def _run(self, folder: Path, policies: Sequence[str], variation: Variation) -> list[Row]:
        folder.mkdir(parents=True, exist_ok=True)
        out = folder / f"{variation.name}.csv"
        pattern = f"^({'|'.join(map(re.escape, policies))})$"
        flags = ("--traces", ",".join(TRACES), "--policies", pattern, "--out", str(out), "--jobs", str(self._jobs))
        command = (sys.executable, "-m", "judge", "run", "--adapter", str(ADAPTER), *flags, *variation.options)
        print(f"{variation.title}: {', '.join(policies)}", flush=True)
        subprocess.run(command, cwd=HOME, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=True)
        with out.open(newline="") as lines:
            return list(csv.DictReader(lines))


# ---- the generated parts of the page ----

_HEAD = (
    "policy",
    "within the objective, %",
    "GPU hours",
    "times the schedule",
    "times, at the same share",
    "changes",
    "changes of direction",
    "longest queue",
    "most replicas",
)


def _run_part(measured: Measurement) -> str:
    seconds = [float(row["seconds"]) for row in measured.of(STANDARD, TRACES[0]).values()]
    return f"Measured on {measured.heading}. A run of this product takes {seconds[0]:.0f} s there."


def _standard_part(measured: Measurement) -> str:
    parts = []
    for trace in TRACES:
        schedule = measured.schedules[trace]
        _draw_timelines(measured, trace, schedule)
        rows = [
            ("clairvoyant schedule", *_figures(_of_schedule(schedule), schedule)),
            _constant(schedule),
            *_rows(measured.of(STANDARD, trace), schedule),
        ]
        picture = f"![Replicas and queue over time, {trace}](scaling/{_file_name(trace)}.svg)"
        parts.append(f"### {trace}\n\n{_table(_HEAD, rows)}\n\n{picture}")
    return "\n\n".join(parts)


def _variations_part(measured: Measurement) -> str:
    parts = []
    if missing := [one.title for one in VARIATIONS if one not in measured.variations]:
        parts.append(f"Not measured this time: {'; '.join(missing)}.")
    for variation in measured.variations:
        rows: list[tuple[str, ...]] = []
        for trace in TRACES:
            rows += [(trace, *row) for row in _rows(measured.of(variation, trace), measured.schedules[trace])]
        options = " ".join(variation.options)
        parts.append(f"### {variation.title}\n\n`python -m judge run {options}`\n\n{_table(('trace', *_HEAD), rows)}")
    return "\n\n".join(parts)


PARTS: Mapping[str, Callable[[Measurement], str]] = MappingProxyType(
    {"run": _run_part, "standard": _standard_part, "variations": _variations_part}
)
"""The generated parts of the page by the name in their markers."""


def with_parts(page: str, parts: Mapping[str, str]) -> str:
    """Return the page with each generated part replaced.

    Raises:
        ValueError: the page does not have exactly one pair of markers for a part.
    """
    for name, text in parts.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
            raise ValueError(f"{PAGE.name}: needs the lines {begin} and {end}, each once and in this order")
        head, _, rest = page.partition(begin)
        page = f"{head}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"
    return page


def _rows(policies: Mapping[str, Row], schedule: Schedule) -> Iterator[tuple[str, ...]]:
    for policy, row in policies.items():
        yield (LABELS[policy], *_figures(row, schedule))


def _figures(row: Mapping[str, Any], schedule: Schedule) -> tuple[str, ...]:
    slo, hours = float(row["slo"]), float(row["gpu_hours"])
    ratio, same = f"{hours / schedule.gpu_hours:.2f}", f"{hours / schedule.hours_at(slo):.2f}"
    counts = (str(row[key]) for key in ("moves", "flaps", "max_queue", "peak"))
    return (f"{slo:.1f}", f"{hours:.2f}", ratio, same, *counts)


def _of_schedule(schedule: Schedule) -> Mapping[str, Any]:
    return {**schedule.row, "slo": schedule.slo, "gpu_hours": schedule.gpu_hours}


def _constant(schedule: Schedule) -> tuple[str, ...]:
    ratio = f"{schedule.constant_gpu_hours / schedule.gpu_hours:.2f}"
    size = str(schedule.constant)
    hours = f"{schedule.constant_gpu_hours:.2f}"
    return (f"static peak: always {size} replicas", "99 or more", hours, ratio, "", "0", "0", "", size)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _draw_timelines(measured: Measurement, trace: str, schedule: Schedule) -> None:
    runs = [(LABELS[policy].replace("**", ""), measured.timelines[trace, policy]) for policy in (PRODUCT, USUAL)]
    title = f"{trace}: this product beside a usual trigger"
    draw(DRAWINGS / f"{_file_name(trace)}.svg", title, runs, schedule.row["plan"])


def _file_name(trace: str) -> str:
    return trace.replace("/", "-")


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def main() -> None:
    """Measure, and write the page and its drawings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--judge", type=Path, required=True, help="the folder of the simulator's package, named judge")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time (%(default)s)")
    parser.add_argument("--variations", default=".", metavar="REGEX", help="the others leave the page; default: all")
    arguments = parser.parse_args()
    folder: Path = arguments.judge.resolve()
    if folder.name != "judge" or not (folder / "run.py").is_file():
        parser.error(f"--judge: Invalid value: {folder}: must be the folder of the package judge, with run.py in it")
    sys.path.insert(0, str(folder.parent))
    variations = [one for one in VARIATIONS if re.search(arguments.variations, one.name)]
    measured = Measurement(Simulator(folder, arguments.jobs), variations)
    page = with_parts(PAGE.read_text(), {name: part(measured) for name, part in PARTS.items()})
    PAGE.write_text(page)
    print(f"wrote {PAGE.relative_to(HOME)} and {len(TRACES)} drawings in {DRAWINGS.relative_to(HOME)}")


if __name__ == "__main__":
    main()
