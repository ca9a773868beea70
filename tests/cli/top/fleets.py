# SPDX-License-Identifier: Apache-2.0
"""Builds fleets and rows for the tests of ``top``."""

from keda_gpu_scaler.cli.top.rows import TopRow, device_rows
from keda_gpu_scaler.core.state.fleet import Fleet
from tests.fakes import node_history, sample, sample_without_readings

NOW = 1000.0
BASE = next(device_rows(Fleet(None, 10.0, peers={"a": node_history("a", sample(), held={})}), NOW))


def fleet(**unavailable: str) -> Fleet:
    """Two nodes with fresh snapshots, and one with a stale snapshot and unknown holders."""
    return Fleet(
        None,
        10.0,
        peers={
            "gpu-10": node_history(
                "gpu-10", sample(0, 0.9), sample(1, 0.3), held={"GPU-0000": "llama-0", "GPU-0001": "whisper-0"}
            ),
            "gpu-9": node_history(
                "gpu-9", sample(0, 0.6, power_watts=None), sample_without_readings(1), held={"GPU-0000": "llama-1"}
            ),
            "gpu-11": node_history("gpu-11", sample(0, 0.5), held={"GPU-0000": "old-0"}, at=NOW - 41),
        },
        unavailable=unavailable,
    )


def rows() -> list[TopRow]:
    return list(device_rows(fleet(), NOW))
