# SPDX-License-Identifier: Apache-2.0
"""Runs a command of this program with a meter.

``python -m benchmarks.soak_instance FACTOR serve [flag…]``: the meter is a thread. It reads commands from standard
input, and writes one line of JSON for each: ``measure``, ``trim`` (malloc returns free memory to the system first),
``collect`` (cycles are collected first), ``trace`` (notes where memory is allocated from now on) and ``compare`` (what
grew since ``trace``).
"""

import asyncio
import ctypes
import functools
import gc
import json
import os
import sys
import threading
import tracemalloc
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import fast_clock

_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / (1 << 20)
_COMPARED = 25
_TRACED_FRAMES = 8


class _MallInfo(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


class Meter:
    """Measures this process."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._loops: list[asyncio.AbstractEventLoop] = []
        self._caches: list[tuple[str, weakref.ref[Any]]] = []
        self._before: tracemalloc.Snapshot | None = None

    def note_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count the tasks of an event loop."""
        self._loops.append(loop)

    def note_caches(self) -> None:
        """Count the entries of each bounded cache that is made from now on."""
        from keda_gpu_scaler.server.bounded_cache import BoundedCache

        caches, init = self._caches, BoundedCache.__init__

        @functools.wraps(init)
        def noted(cache: Any, *arguments: Any, **named: Any) -> None:
            init(cache, *arguments, **named)
            frame = sys._getframe(1)
            caches.append((f"{frame.f_code.co_qualname.split('.')[0]}:{frame.f_lineno}", weakref.ref(cache)))

        setattr(BoundedCache, "__init__", noted)  # noqa: B010 - mypy refuses an assignment to a method

    def answer_commands(self) -> None:
        """Answer each line of standard input, until its end."""
        for line in sys.stdin:
            print(json.dumps(self._answer(line.strip())), flush=True)

    def _answer(self, command: str) -> dict[str, Any]:
        if command == "collect":
            gc.collect()
        elif command == "trim":
            self._libc.malloc_trim(0)
        elif command == "trace":
            tracemalloc.start(_TRACED_FRAMES)
            self._before = tracemalloc.take_snapshot()
        elif command == "compare" and self._before is not None:
            return {"grown": _grown(self._before, tracemalloc.take_snapshot())}
        return self._measure()

    def _measure(self) -> dict[str, Any]:
        mallinfo = self._libc.mallinfo2
        mallinfo.restype = _MallInfo
        malloc = mallinfo()
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        return {
            "RSS, MiB": resident * _PAGE_MIB,
            "malloc, used, MiB": (malloc.uordblks + malloc.hblkhd) / (1 << 20),
            "malloc, free, MiB": malloc.fordblks / (1 << 20),
            "Python blocks, thousands": sys.getallocatedblocks() / 1000,
            "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "tasks": sum(len(asyncio.all_tasks(loop)) for loop in self._loops if not loop.is_closed()),
            **self._cache_sizes(),
        }

    def _cache_sizes(self) -> dict[str, int]:
        from keda_gpu_scaler.core.idle_cache import CacheInfo

        sizes: Counter[str] = Counter()
        for title, reference in self._caches:
            if (cache := reference()) is not None:
                sizes[f"expiring entries of {title}"] += len(cache)
        for name, module in list(sys.modules.items()):
            if name.startswith("keda_gpu_scaler.") and module is not None:
                for key, value in list(vars(module).items()):
                    if hasattr(value, "cache_info") and value.__module__ == name and value.cache_info().currsize > 1:
                        info, short = value.cache_info(), name.removeprefix("keda_gpu_scaler.")
                        kind = "expiring entries" if isinstance(info, CacheInfo) else f"of {info.maxsize} entries"
                        sizes[f"{kind} of {short}.{key}"] = info.currsize
        return dict(sizes)


def _grown(before: tracemalloc.Snapshot, after: tracemalloc.Snapshot) -> list[dict[str, Any]]:
    filters = (tracemalloc.Filter(False, tracemalloc.__file__), tracemalloc.Filter(False, __file__))
    differences = after.filter_traces(filters).compare_to(before.filter_traces(filters), "lineno")
    return [
        {"where": str(one.traceback), "grown_bytes": one.size_diff, "bytes": one.size, "count": one.count_diff}
        for one in sorted(differences, key=lambda one: -one.size_diff)[:_COMPARED]
    ]


def main() -> None:
    """Run the command in this thread, and the meter in another."""
    meter = Meter()
    fast_clock.install(float(sys.argv[1]), meter.note_loop)
    meter.note_caches()
    threading.Thread(target=meter.answer_commands, daemon=True).start()
    from keda_gpu_scaler.cli import main as command

    sys.argv[1:] = sys.argv[2:]
    command()


if __name__ == "__main__":
    main()
