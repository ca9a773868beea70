# SPDX-License-Identifier: Apache-2.0
"""A fit to a published load test of vLLM predicts the latencies that its clients measured."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HOME = Path(__file__).resolve().parent.parent.parent
SWEEP = HOME.parent / "shared" / "telemetry" / "vllm-load-sweep"


@pytest.mark.skipif(not (SWEEP / "experiment_summary.csv").is_file(), reason=f"no recorded load test in {SWEEP}")
def test_the_fit_to_a_real_load_test_predicts_its_medians_and_no_single_run_can_be_fitted() -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "benchmarks.fit_against_sweep", "--sweep", str(SWEEP)],
        cwd=HOME,
        env={**os.environ, "PYTHONPATH": "src:."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    lines: list[dict[str, Any]] = [json.loads(line) for line in outcome.stdout.splitlines()]
    alone = [line["alone"] for line in lines if "alone" in line]
    assert len(alone) == 3
    assert all("refused" in one and "2 times the least" in one for one in alone)
    (fitted,) = [line for line in lines if "explained" in line]
    assert fitted["explained"] > 0.8
    compared = [line for line in lines if "clients" in line]
    assert [line["clients"] for line in compared] == [16, 64, 128]
    for line in compared:
        assert 0.75 < line["ttft_p50"]["ratio"] < 1.3, line
        assert 0.75 < line["tpot_p50"]["ratio"] < 1.3, line
