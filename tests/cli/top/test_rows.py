# SPDX-License-Identifier: Apache-2.0
"""Tests the rows that ``top`` builds from the snapshots of a fleet."""

from dataclasses import replace

from keda_gpu_scaler.cli.top.rows import TopRow, device_rows, unavailable_instances, unmeasured_sources
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, Fleet
from tests.cli.top.fleets import BASE, NOW, fleet, rows
from tests.fakes import GIB, device, node_history, sample


def test_a_row_has_the_readings_of_the_device() -> None:
    row = rows()[0]
    assert row == TopRow(
        "gpu-10", "", "0", "GPU-0000", "NVIDIA", "NVIDIA H100", 1, 1, 90.0, 40 * GIB, 80 * GIB, 55.0, 350.0,
        ("ai/llama-0",), 0.0, "fake", "", (("gpu-10", "GPU-0000"),),
    )  # fmt: skip


def test_a_stale_device_and_one_without_a_reading_are_unknown_with_the_reason() -> None:
    stale, without_reading = rows()[2], rows()[-1]
    assert (stale.node, stale.with_value, stale.gpu_utilization_percent, stale.held_by) == ("gpu-11", 0, None, None)
    assert stale.unknown == "node gpu-11 last answered 41 s ago (limit 10 s)"
    assert stale.age_seconds == 41.0
    assert (without_reading.with_value, without_reading.unknown) == (0, "the driver returns no reading")


def test_an_unavailable_instance_is_listed_with_the_reason() -> None:
    unavailable = fleet(
        **{"gpu-12": "nothing came for 6 s", "gpu-9": "it ended the connection", PEERS_UNKNOWN: "no rights"}
    )
    assert unavailable_instances(unavailable) == {"discovery": "no rights", "gpu-12": "nothing came for 6 s"}


def test_a_slice_has_the_number_of_its_gpu_and_of_its_instance() -> None:
    slices = (sample(), replace(sample(), device=device(1, gpu_instance=3)))
    found = device_rows(Fleet(None, 10.0, peers={"a": node_history("a", *slices)}), NOW)
    assert [row.device for row in found] == ["0", "1/3"]


def test_the_default_holder_holds_the_devices_where_there_is_no_kubelet() -> None:
    peers = {"a": node_history("a", sample())}
    [row] = device_rows(Fleet(None, 10.0, peers=peers), NOW, default_holder="slurm/4711")
    assert row.held_by == ("slurm/4711",)
    [row] = device_rows(Fleet(None, 10.0, peers=peers), NOW)
    assert row.held_by is None


def test_a_device_that_is_not_included_has_no_row() -> None:
    kept = device_rows(fleet(), NOW, is_included=lambda device: device.index == 1)
    assert [(row.node, row.device) for row in kept] == [("gpu-10", "1"), ("gpu-9", "1")]


def test_a_source_that_is_not_a_driver_gets_a_note() -> None:
    demo = [replace(BASE, node=node, source="synthetic load") for node in "abcd"]
    assert unmeasured_sources([replace(BASE, source="nvml")]) == ()
    assert unmeasured_sources([*demo[:2], replace(BASE, source="nvml")]) == ("a, b: synthetic load",)
    assert unmeasured_sources(demo) == ("4 nodes: synthetic load",)
