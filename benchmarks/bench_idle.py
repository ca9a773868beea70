# SPDX-License-Identifier: Apache-2.0
"""Measures the cost of an idle agent: ``python -m benchmarks.bench_idle``."""

import itertools
import os
import statistics
import tracemalloc
from collections.abc import Iterator

from benchmarks.lab import Figure, Resident, Serve, node, run_alone
from keda_gpu_scaler.core.state.fleet import MAX_WINDOW_SECONDS
from keda_gpu_scaler.devices.nvml.backend import NvmlBackend
from keda_gpu_scaler.sampler import Sampler
from tests.fake_nvml import FakeNvml, forget_library

TITLE = "`serve` at rest, 8 devices read once a second"
ROUNDS = 3
_SECONDS = 30.0
_TRIGGERS = 1000


def figures() -> Iterator[Figure]:
    """Yield CPU time and memory at rest, memory after calls, and the size of the history."""
    shares: list[float] = []
    at_rest: list[Resident] = []
    after_one_call: list[Resident] = []
    after_calls: list[Resident] = []
    for _ in range(ROUNDS):
        with node() as fake, Serve(fake) as serve:
            serve.wait_until_it_listens()
            shares.append(serve.cpu_share(_SECONDS))
            at_rest.append(serve.memory())
            serve.wait_until_it_answers()
            after_one_call.append(serve.memory())
            serve.call_triggers(_TRIGGERS)
            after_calls.append(serve.memory())
    yield Figure(f"CPU over {_SECONDS:.0f} s, of one core", {"median": f"{100 * statistics.median(shares):.2f} %"})
    yield _memory(f"memory after {_SECONDS:.0f} s without a call", at_rest)
    yield _memory("memory after GetMetrics for one trigger", after_one_call)
    yield _memory(f"memory after GetMetrics for {_TRIGGERS:,} triggers, no two alike", after_calls)
    with node() as fake:
        snapshots, size = _history(fake)
    yield Figure(f"a history of {snapshots} snapshots", {"Python objects": f"{size / 1024:.0f} KiB"})


def _memory(what: str, rounds: list[Resident]) -> Figure:
    return Figure(
        what,
        {
            "RSS": f"{statistics.median(each.rss for each in rounds):.1f} MiB",
            "PSS": f"{statistics.median(each.pss for each in rounds):.1f} MiB",
            "of it anonymous": f"{statistics.median(each.anonymous for each in rounds):.1f} MiB",
        },
    )


def _history(fake: FakeNvml) -> tuple[int, int]:
    """Fill the history of a sampler in this process with a simulated clock; return the snapshots and bytes."""
    os.environ.update(fake.environment)
    forget_library()
    backend = NvmlBackend(fake.library)
    clock = itertools.count().__next__  # called twice per tick: a tick takes one second
    sampler = Sampler(backend, node="gpu-7", interval_seconds=1, clock=lambda: clock() / 2)
    sampler.tick()  # modules and caches that are loaded once are not part of the history
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(2 * int(MAX_WINDOW_SECONDS)):
        sampler.tick()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    backend.close()
    return len(sampler.history.snapshots) if sampler.history else 0, after - before


if __name__ == "__main__":
    run_alone(TITLE, figures())
