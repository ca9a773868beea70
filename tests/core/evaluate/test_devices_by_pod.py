# SPDX-License-Identifier: Apache-2.0
"""Tests who holds which device over several snapshots."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.evaluate.device_load import devices_by_pod
from keda_gpu_scaler.core.state.fleet import History, next_history
from keda_gpu_scaler.core.types import ClusterAssignments, PodRef, Snapshot
from tests.fakes import GIB, allocation, device, node_history, sample

A, B = sample(0), sample(1)
HELD = {A.device.uuid: "llama-0", B.device.uuid: "llama-1"}


def following(history: History, **changes: object) -> History:
    """Return the history after one more snapshot, which shares with the one before what did not change."""
    newest = replace(history.newest, at_seconds=history.newest.at_seconds + 1, **changes)  # type: ignore[arg-type]
    return next_history(history, (*history.snapshots, newest), history.received_at_seconds + 1)


def held(history: History) -> dict[str, list[int]]:
    return {
        pod.name: [share.device.index for share in devices.shares]
        for pod, devices in (devices_by_pod(history) or {}).items()
    }


def test_new_readings_change_no_holder() -> None:
    history = node_history("gpu-7", A, B, held=HELD)
    known = devices_by_pod(history)
    read = following(history, samples=(replace(A, gpu_utilization_ratio=0.9), B))
    assert devices_by_pod(read) is known
    assert devices_by_pod(following(read)) is known


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            lambda newest: {
                "allocations": (allocation("llama-1", A.device.uuid), allocation("llama-0", B.device.uuid))
            },
            {"llama-1": [0], "llama-0": [1]},
            id="the pods exchange their devices",
        ),
        pytest.param(lambda newest: {"allocations": None}, {}, id="the allocations are not known any more"),
        pytest.param(
            lambda newest: {"samples": (replace(A, device=device(5, uuid=A.device.uuid)), B)},
            {"llama-0": [5], "llama-1": [1]},
            id="a device has another index",
        ),
        pytest.param(lambda newest: {"samples": (A,)}, {"llama-0": [0]}, id="a device is gone"),
    ],
)
def test_a_change_of_allocations_or_devices_changes_the_holders(
    change: Callable[[Snapshot], dict[str, object]], expected: dict[str, list[int]]
) -> None:
    history = node_history("gpu-7", A, B, held=HELD)
    assert held(history) == {"llama-0": [0], "llama-1": [1]}
    changed = following(history, **change(history.newest))
    assert held(changed) == expected
    assert held(history) == {"llama-0": [0], "llama-1": [1]}


def test_the_memory_of_a_device_may_change_the_holders() -> None:
    """Schedulers that share a GPU state parts of its memory."""
    history = node_history("gpu-7", A, B, held=HELD)
    known = devices_by_pod(history)
    assert devices_by_pod(following(history, samples=(replace(A, memory_total_bytes=40 * GIB), B))) is not known


def test_each_state_of_the_cluster_has_its_own_holders_and_old_ones_are_dropped() -> None:
    history = node_history("gpu-7", A, B, held=HELD)
    for _ in range(100):
        found = devices_by_pod(history, ClusterAssignments())
        assert found is not None
        assert found.keys() == {PodRef("ai", "llama-0"), PodRef("ai", "llama-1")}
        history = following(history)
    assert len(history.holders) <= 16
