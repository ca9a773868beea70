# SPDX-License-Identifier: Apache-2.0
"""Runs the simulator of the judge for a few simulated minutes, where it and its libraries are there."""

import csv
import os
import subprocess
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
SHARED = HOME.parent / "shared"
PYTHON = HOME / ".tools" / "judge" / "bin" / "python"
TRACE = '''
"""A trace of four minutes: one replica is enough for the first minute, and not for the rest."""

import numpy
from judge.core import LARGE
from judge.traces import CHAT, Trace


def build(name):
    arrival = numpy.concatenate([numpy.arange(0, 60, 0.5), numpy.arange(60, 240, 0.03)])
    prompt, answer = numpy.full(len(arrival), 1500), numpy.full(len(arrival), 300)
    return Trace(name, (arrival, prompt, answer), LARGE, CHAT)
'''


def simulated(folder: Path, *options: str) -> dict[str, str]:
    """Return the figures of one run of this product."""
    if not (SHARED / "judge" / "run.py").exists():
        pytest.skip("the simulator's folder ../shared/judge is not there")
    if not PYTHON.exists():
        pytest.skip("the libraries of the simulator are not installed: make .tools/judge/.installed")
    trace, out = folder / "trace.py", folder / "results.csv"
    trace.write_text(TRACE)
    files = ("--adapter", "benchmarks/judge_adapter.py", "--extra", str(trace), "--out", str(out))
    command = (PYTHON, "-m", "judge", "run", *files, "--traces", "steps", "--policies", "^product llm$", "--jobs", "1")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(SHARED), str(HOME / "src")))}
    subprocess.run([*command, "--initial", "1", *options], cwd=HOME, env=environment, check=True, capture_output=True)
    with out.open(newline="") as lines:
        [figures] = csv.DictReader(lines)
    return figures


def test_a_queue_gets_replicas(tmp_path: Path) -> None:
    figures = simulated(tmp_path)
    assert int(figures["peak"]) > 1


def test_law_1_a_fleet_that_cannot_be_scraped_is_not_moved(tmp_path: Path) -> None:
    figures = simulated(tmp_path, "--lost", "1")
    assert (figures["moves"], figures["peak"]) == ("0", "1")
