# SPDX-License-Identifier: Apache-2.0
"""Properties of the metric load on the pages of the judge's simulator, for fleets of constant size."""

import functools
import json
import os
import subprocess
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent.parent
JUDGE = Path(os.environ.get("JUDGE", HOME.parent / "shared" / "judge"))
PYTHON = HOME / ".tools" / "judge" / "bin" / "python"
LINEAR_WITHIN, TOLERANCE = 1.2, 1.1
RATES = {"large": (8, 16), "small": (16, 24)}
"""Requests per second that four replicas serve at 35 to 95 % of what they should carry."""

pytestmark = [
    pytest.mark.skipif(not (JUDGE / "run.py").is_file(), reason=f"no simulator in {JUDGE}: JUDGE names its folder"),
    pytest.mark.skipif(not PYTHON.exists(), reason="its libraries are not installed: `make judge` installs them"),
    pytest.mark.parametrize("kind", RATES),
]


@functools.cache
def loads(kind: str) -> dict[tuple[int, float], float]:
    """Return the load in replicas, by the size of the fleet and its requests per second."""
    fleets = [f"{size}:{rate}" for size in (4, 5, 8) for rate in RATES[kind]]
    outcome = subprocess.run(
        [PYTHON, "-m", "benchmarks.judge_properties", "--judge", str(JUDGE), "--kind", kind, *fleets],
        cwd=HOME,
        env={**os.environ, "PYTHONPATH": "src:."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    return {(run["replicas"], run["requests_per_second"]): run["load"] for run in json.loads(outcome.stdout)}


def test_load_is_about_the_same_for_four_and_eight_replicas(kind: str) -> None:
    for rate in RATES[kind]:
        few, many = loads(kind)[4, rate], loads(kind)[8, rate]
        assert max(few, many) / min(few, many) <= LINEAR_WITHIN, (rate, few, many)


def test_an_added_replica_does_not_raise_the_load(kind: str) -> None:
    for rate in RATES[kind]:
        assert loads(kind)[5, rate] <= loads(kind)[4, rate] * TOLERANCE, rate


def test_load_is_monotone_in_the_traffic(kind: str) -> None:
    for size in (4, 5, 8):
        values = [loads(kind)[size, rate] for rate in RATES[kind]]
        assert values == sorted(values)
        assert values[0] < values[-1]
