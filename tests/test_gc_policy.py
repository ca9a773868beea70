# SPDX-License-Identifier: Apache-2.0
import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from keda_gpu_scaler.gc_policy import ALL_SECONDS, GcPolicy


class Cycle:
    """Nothing but a search frees it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def no_search_but_ours() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def lost() -> "weakref.ref[Cycle]":
    return weakref.ref(Cycle())


def test_what_is_new_is_found_at_each_sweep() -> None:
    sweeper = GcPolicy(0.0)
    cycle = lost()
    sweeper.sweep(1.0)
    assert cycle() is None


def test_what_lasted_before_it_was_lost_is_found_when_all_is_searched_and_not_before() -> None:
    sweeper = GcPolicy(0.0)
    held = Cycle()
    cycle = weakref.ref(held)
    sweeper.sweep(1.0)
    del held
    sweeper.sweep(ALL_SECONDS - 1)
    assert cycle() is not None
    sweeper.sweep(ALL_SECONDS)
    assert cycle() is None
    held = Cycle()
    cycle = weakref.ref(held)
    sweeper.sweep(ALL_SECONDS + 1)
    del held
    sweeper.sweep(2 * ALL_SECONDS - 1)
    assert cycle() is not None


def test_what_is_there_at_the_start_is_not_searched_again() -> None:
    script = (
        "import gc; from keda_gpu_scaler.gc_policy import GcPolicy; sweeper = GcPolicy(0.0); sweeper.start();"
        "assert gc.get_freeze_count() > 5000; assert len(gc.get_objects()) < 1000; assert gc.isenabled()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
