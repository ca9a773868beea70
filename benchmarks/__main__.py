# SPDX-License-Identifier: Apache-2.0
"""Runs all benchmarks, or the named ones, and prints their figures: ``python -m benchmarks [name…]``."""

import importlib
import pkgutil
import sys

import benchmarks
from benchmarks.lab import report
from benchmarks.machine import heading

_PREFIX = "bench_"


def main(requested: list[str]) -> int:
    """Run the benchmarks; return the exit status."""
    found = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    names = sorted(name.removeprefix(_PREFIX) for name in found if name.startswith(_PREFIX))
    if unknown := set(requested) - set(names):
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    print(heading())
    for name in requested or names:
        module = importlib.import_module(f"benchmarks.{_PREFIX}{name}")
        report(f"{name}: {module.TITLE}", module.figures())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
