# SPDX-License-Identifier: Apache-2.0
"""Compares with an independent simulator for ten minutes; the benchmark compares for an hour."""

import json
import os
import subprocess
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent.parent
JUDGE = Path(os.environ.get("JUDGE", HOME.parent / "shared" / "judge"))
PYTHON = HOME / ".tools" / "judge" / "bin" / "python"


@pytest.mark.skipif(not (JUDGE / "run.py").is_file(), reason=f"no simulator in {JUDGE}: JUDGE names its folder")
@pytest.mark.skipif(not PYTHON.exists(), reason="its libraries are not installed: `make judge` installs them")
def test_another_simulator_agrees_on_ten_minutes_of_a_trace() -> None:
    options = ["--judge", str(JUDGE), "--minutes", "10", "--policy", "llm"]
    outcome = subprocess.run(
        [PYTHON, "-m", "benchmarks.simulate_against_judge", *options],
        cwd=HOME,
        env={**os.environ, "PYTHONPATH": "src:."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert json.loads(outcome.stdout)["agrees"] is True
