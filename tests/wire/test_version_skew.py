# SPDX-License-Identifier: Apache-2.0
"""Instances of two versions in one fleet: each reads what the other one writes.

The texts are those that version 0.1 writes. They never change while instances of 0.1 are supported. A change of the
format that breaks a test here needs another version number, and support for both of them.
"""

import json
from dataclasses import replace

from keda_gpu_scaler.core.types import Allocation, Device, Sample, Snapshot
from keda_gpu_scaler.wire.snapshot_codec import apply_change, decode, encode, encode_change

SNAPSHOT_TEXT = """{"version":1,"node":"gpu-7","sequence":12,"at_seconds":41.5,"unix_seconds":1700000000.0,\
"source":"nvml","samples":[{"uuid":"GPU-a","index":0,"model":"NVIDIA H100 80GB HBM3","pci_address":"0000:19:00.0",\
"gpu_utilization_ratio":0.57,"memory_utilization_ratio":0.25,"memory_used_bytes":1073741824,\
"memory_total_bytes":85899345920,"temperature_celsius":41.0,"power_watts":350.5},{"uuid":"MIG-b","index":0,\
"model":"NVIDIA H100 80GB HBM3 MIG 1g.10gb","parent":"GPU-a"}],\
"allocations":[["ai","llama-0","engine","nvidia.com/gpu","GPU-a"]]}"""
CHANGE_TEXT = """{"version":1,"after":12,"sequence":13,"at_seconds":42.5,"unix_seconds":1700000001.0,\
"samples":{"0":[0.9,0.25,1073741824,85899345920,41.0,350.5]}}"""
CARD = Sample(
    Device("GPU-a", 0, "NVIDIA H100 80GB HBM3", "0000:19:00.0"),
    gpu_utilization_ratio=0.57,
    memory_utilization_ratio=0.25,
    memory_used_bytes=2**30,
    memory_total_bytes=80 * 2**30,
    temperature_celsius=41.0,
    power_watts=350.5,
)
SNAPSHOT = Snapshot(
    node="gpu-7",
    sequence=12,
    at_seconds=41.5,
    unix_seconds=1.7e9,
    source="nvml",
    samples=(CARD, Sample(Device("MIG-b", 0, "NVIDIA H100 80GB HBM3 MIG 1g.10gb", parent="GPU-a"))),
    allocations=(Allocation("ai", "llama-0", "engine", "nvidia.com/gpu", "GPU-a"),),
)
LATER = replace(
    SNAPSHOT,
    sequence=13,
    at_seconds=42.5,
    unix_seconds=1.7e9 + 1,
    samples=(replace(CARD, gpu_utilization_ratio=0.9), SNAPSHOT.samples[1]),
)


def test_what_version_0_1_writes_is_read() -> None:
    assert decode(SNAPSHOT_TEXT) == SNAPSHOT
    assert apply_change(SNAPSHOT, CHANGE_TEXT) == LATER


def test_version_0_1_reads_what_is_written_now() -> None:
    """It ignores keys that it does not know, so every key that it knows must be there with the same value."""
    written = json.loads(encode(SNAPSHOT))
    known = json.loads(SNAPSHOT_TEXT)
    for key, value in known.items():
        if key != "samples":
            assert written[key] == value
    for sample, expected in zip(written["samples"], known["samples"], strict=True):
        assert {key: sample[key] for key in expected} == expected
    change = encode_change(SNAPSHOT, LATER)
    assert change is not None
    now, then = json.loads(change), json.loads(CHANGE_TEXT)
    assert {key: now[key] for key in then} == then
