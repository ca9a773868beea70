# SPDX-License-Identifier: Apache-2.0
"""Describes the machine, the versions and the commit of a measurement, with the standard library only."""

import os
import platform
import subprocess
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent


def heading(*paths: str) -> str:
    """Return the machine, the versions and the commit; uncommitted changes of these paths (of all, if none) count."""
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    dirty = " and uncommitted changes" if _git("status", "--porcelain", "--", *paths) else ""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    machine = f"{cores} cores {platform.machine()} ({_processor()}), load {load:.1f} at start"
    return f"{machine}; Linux {platform.release()}; Python {platform.python_version()}; commit {commit}{dirty}"


def _git(*arguments: str) -> str:
    git = subprocess.run(["git", *arguments], cwd=HOME, capture_output=True, text=True, check=False)  # noqa: S607
    return git.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"
