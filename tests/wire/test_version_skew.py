# SPDX-License-Identifier: Apache-2.0
"""Two versions in one fleet, and a command of another version: each reads what the other one writes.

The texts and the fields are those of version 0.1. They never change while 0.1 is supported. A change of the format that
breaks a test here needs another version number, and support for both of them. New fields may be added.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf.descriptor import FileDescriptor

from keda_gpu_scaler.cli.explain.forecast import forecast_of
from keda_gpu_scaler.cli.explain.render import explanation_page
from keda_gpu_scaler.cli.explain.result import ExplainResult
from keda_gpu_scaler.cli.explain.scaledobject import ScaledObject, ScaledObjectTrigger
from keda_gpu_scaler.core.types import Allocation, Device, Sample, Snapshot
from keda_gpu_scaler.wire import evaluation_pb2, fleet_pb2
from keda_gpu_scaler.wire.snapshot_codec import apply_change, decode, encode, encode_change

FIELDS = Path(__file__).parents[1] / "golden" / "wire-fields-0.1.txt"

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


# ---- the messages of the commands and of the peers ----


def fields_of(file: FileDescriptor) -> Iterator[str]:
    """Yield a line for each field and each RPC of a protocol: its name, its number and its type."""
    for message in file.message_types_by_name.values():
        for field in message.fields:
            kind = field.message_type.full_name if field.message_type is not None else str(field.type)
            presence = "repeated" if field.is_repeated else "optional" if field.has_presence else "plain"
            yield f"{message.full_name}.{field.name} {field.number} {kind} {presence}"
    for service in file.services_by_name.values():
        for method in service.methods:
            yield f"{service.full_name}/{method.name} {method.input_type.full_name} {method.output_type.full_name}"


@pytest.mark.parametrize("line", FIELDS.read_text().splitlines())
def test_a_field_of_version_0_1_keeps_its_number_and_its_type(line: str) -> None:
    assert line in {*fields_of(evaluation_pb2.DESCRIPTOR), *fields_of(fleet_pb2.DESCRIPTOR)}


def page_of(evaluation: evaluation_pb2.Evaluation) -> str:
    scaled_object = ScaledObject("ai", "llama", triggers=(ScaledObjectTrigger(1, {}),))
    trigger = scaled_object.triggers[0]
    forecast = forecast_of(evaluation, scaled_object, trigger)
    result = ExplainResult(
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), scaled_object, trigger, 1, "gpu-a", evaluation, forecast=forecast
    )
    return explanation_page(result, 80)


EVALUATION = evaluation_pb2.Evaluation(
    scope="workload", target=75.0, value=294.0, active=True, value_type="AverageValue",
    workload=evaluation_pb2.Workload(kind="ScaledObject", target="Deployment llama", wanted=3, actual=3, ready=3),
)  # fmt: skip


def test_a_command_shows_the_answer_of_an_instance_that_has_more_fields() -> None:
    unknown = b"\xfa\x7f\x03new"  # field 2047, a text
    newer = evaluation_pb2.Evaluation.FromString(EVALUATION.SerializeToString() + unknown)
    assert page_of(newer) == page_of(EVALUATION)
    assert "3 → 4 replicas" in page_of(newer)


def test_a_command_shows_the_answer_of_an_instance_that_has_fewer_fields() -> None:
    assert EVALUATION.HasField("comparison") is False
    assert "ai/llama: ? per replica against 75 → 3 → 4 replicas" in page_of(EVALUATION)
