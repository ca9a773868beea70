# SPDX-License-Identifier: Apache-2.0
"""Tests of the cycle collection by the clock."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from keda_gpu_scaler.gc_policy import FULL_COLLECTION_SECONDS, GcPolicy


class Cycle:
    """An object that only a cycle collection frees."""

    def __init__(self) -> None:
        self.cycle = self


@pytest.fixture(autouse=True)
def no_automatic_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def unreachable_cycle() -> "weakref.ref[Cycle]":
    return weakref.ref(Cycle())


def test_each_sweep_frees_new_cycles() -> None:
    policy = GcPolicy(0.0)
    cycle = unreachable_cycle()
    policy.sweep(1.0)
    assert cycle() is None


def test_older_cycles_are_freed_by_the_next_full_collection_and_not_before() -> None:
    policy = GcPolicy(0.0)
    reachable = Cycle()
    cycle = weakref.ref(reachable)
    policy.sweep(1.0)
    del reachable
    policy.sweep(FULL_COLLECTION_SECONDS - 1)
    assert cycle() is not None
    policy.sweep(FULL_COLLECTION_SECONDS)
    assert cycle() is None
    reachable = Cycle()
    cycle = weakref.ref(reachable)
    policy.sweep(FULL_COLLECTION_SECONDS + 1)
    del reachable
    policy.sweep(2 * FULL_COLLECTION_SECONDS - 1)
    assert cycle() is not None


def test_objects_from_before_the_start_are_not_scanned_again() -> None:
    script = (
        "import gc; from keda_gpu_scaler.gc_policy import GcPolicy; policy = GcPolicy(0.0); gc.collect();"
        "before = len(gc.get_objects()); policy.start();"
        "print(before, gc.get_freeze_count(), len(gc.get_objects()), gc.isenabled())"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    before, frozen, scanned, is_enabled = output.split()
    assert int(frozen) > 0.9 * int(before) > 1000
    assert int(scanned) < 1000
    assert is_enabled == "True"
