# SPDX-License-Identifier: Apache-2.0
"""Measures the resident memory of each import: ``python -m benchmarks.bench_imports``.

Each row is a new interpreter with the imports of the rows above it and one more import.
"""

import json
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.lab import PYTHON, Figure, Serve, compiled_environment, node, run_alone
from benchmarks.machine import HOME

TITLE = "Resident memory, import by import; then `serve`, and what other settings would change; medians"
ROUNDS = 7
_SETTLE_SECONDS = 3.0
_IMPORTS = {
    "interpreter": "sys",
    "asyncio, logging, json, dataclasses": "asyncio, logging, json, dataclasses",
    "click": "click",
    "protobuf": "google.protobuf.descriptor_pool, google.protobuf.message",
    "grpc": "grpc, grpc.aio",
    "our stubs": "keda_gpu_scaler.wire.externalscaler_pb2_grpc",
    "grpc_health": "grpc_health.v1.health",
    "grpc_reflection": "grpc_reflection.v1alpha.reflection",
    "h11": "h11",
    "pynvml": "pynvml",
    "our modules": "keda_gpu_scaler.cli.serve, keda_gpu_scaler.agent, keda_gpu_scaler.devices.nvml.backend",
}
_SCRIPT = """
import time
{before}
started = time.perf_counter()
import {stage}
seconds = time.perf_counter() - started
import json
from pathlib import Path
sizes = dict(line.split()[:2] for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
print(json.dumps([int(sizes["Rss:"]) / 1024, int(sizes["Anonymous:"]) / 1024, 1e3 * seconds]))
"""


@dataclass(frozen=True, slots=True)
class _Setting:
    """Another way to start ``serve``."""

    what: str
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


_SETTINGS = (
    _Setting("serve"),
    _Setting("serve, MALLOC_ARENA_MAX=1", environment={"MALLOC_ARENA_MAX": "1"}),
    _Setting("serve, MALLOC_ARENA_MAX=2", environment={"MALLOC_ARENA_MAX": "2"}),
    _Setting("serve, GRPC_ENABLE_FORK_SUPPORT=0", environment={"GRPC_ENABLE_FORK_SUPPORT": "0"}),
    _Setting("serve, GRPC_POLL_STRATEGY=poll", environment={"GRPC_POLL_STRATEGY": "poll"}),
    _Setting("serve, python -O", ("-O",)),
    _Setting("serve, python -OO", ("-OO",)),
    _Setting("serve, python -OO -X no_debug_ranges", ("-OO", "-X", "no_debug_ranges")),
    _Setting("serve, python -X frozen_modules=off", ("-X", "frozen_modules=off")),
)


def figures() -> Iterator[Figure]:
    """Yield the memory import by import, then of ``serve``, then of ``serve`` under other settings."""
    before: list[str] = []
    last_rss = last_anonymous = 0.0
    for what, stage in _IMPORTS.items():
        rss, anonymous, milliseconds = _imported(before, stage)
        before.append(stage)
        values = {
            "RSS": f"{rss:.1f} MiB",
            "more": f"{rss - last_rss:+.1f} MiB",
            "more anonymous": f"{anonymous - last_anonymous:+.1f} MiB",
            "import": f"{milliseconds:.0f} ms",
        }
        last_rss, last_anonymous = rss, anonymous
        yield Figure(("+ " if len(before) > 1 else "") + what, values)
    for setting in _SETTINGS:
        yield _served(setting)


def _imported(before: Sequence[str], stage: str) -> tuple[float, float, float]:
    script = _SCRIPT.format(before="\n".join(f"import {each}" for each in before), stage=stage)
    command, environment = [*PYTHON, "-c", script], compiled_environment()
    rounds = [
        json.loads(
            subprocess.run(command, env=environment, cwd=HOME, capture_output=True, text=True, check=True).stdout
        )
        for _ in range(ROUNDS)
    ]
    rss, anonymous, milliseconds = (statistics.median(column) for column in zip(*rounds, strict=True))
    return rss, anonymous, milliseconds


def _served(setting: _Setting) -> Figure:
    rounds: list[tuple[float, float, float, int]] = []
    for _ in range(3):
        python = (*PYTHON, *setting.options)
        with node() as fake, Serve(fake, python=python, environment=setting.environment) as serve:
            serve.wait_until_it_answers()
            milliseconds = 1e3 * (time.monotonic() - serve.started)
            time.sleep(_SETTLE_SECONDS)
            memory = serve.memory()
            rounds.append((memory.rss, memory.anonymous, milliseconds, serve.threads()))
    rss, anonymous, milliseconds, threads = (statistics.median(column) for column in zip(*rounds, strict=True))
    return Figure(
        setting.what,
        {
            "RSS": f"{rss:.1f} MiB",
            "of it anonymous": f"{anonymous:.1f} MiB",
            "first value after": f"{milliseconds:.0f} ms",
            "threads": f"{threads:.0f}",
        },
    )


if __name__ == "__main__":
    run_alone(TITLE, figures())
