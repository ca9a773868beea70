# SPDX-License-Identifier: Apache-2.0
"""Fuzzes the decoders, guided by coverage: ``scripts/fuzz.py [--seconds S] [--jobs N] [TARGET…]``.

Each target runs in a process of its own under libFuzzer. What it learns stays in FOLDER/TARGET, and the next run begins
there. A finding is FOLDER/TARGET-findings/crash-…; put it into ``tests/fuzz/corpus`` with its reason as the name.
"""

import argparse
import concurrent.futures
import os
import re
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(HOME), str(HOME / "src")]
_MAX_LENGTH = 16_384
_RSS_LIMIT_MIB = 2048
_SLOW_SECONDS = 10
_LAST_LINES = 25
_STATUS = re.compile(r"^#(\d+).*?cov: (\d+).*?corp: (\d+)", re.MULTILINE)


def main() -> int:
    """Fuzz every requested target; return the exit status: 1 after a finding."""
    from tests.fuzz.targets import TARGETS

    arguments = _arguments(sorted(TARGETS))
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        runs = {name: pool.submit(_run, name, arguments) for name in arguments.targets or sorted(TARGETS)}
        statuses = [_report(name, run.result()) for name, run in runs.items()]
    return int(any(statuses))


def _arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fuzz the decoders.")
    parser.add_argument("targets", nargs="*", help=f"by default all: {', '.join(names)}")
    parser.add_argument("--seconds", type=int, default=600, help="the time for each target")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at the same time")
    parser.add_argument("--folder", type=Path, default=HOME / ".fuzz", help="where inputs and findings stay")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return arguments


def _run(name: str, arguments: argparse.Namespace) -> subprocess.CompletedProcess[str]:
    from tests.fuzz.targets import TARGETS

    found, seeds, findings = (arguments.folder / f"{name}{suffix}" for suffix in ("", "-seeds", "-findings"))
    for folder in (found, seeds, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for title, data in TARGETS[name].seeds().items():
        (seeds / re.sub(r"\W", "-", title)).write_bytes(data)
    flags = (
        f"-max_total_time={arguments.seconds}",
        f"-max_len={_MAX_LENGTH}",
        f"-rss_limit_mb={_RSS_LIMIT_MIB}",
        f"-timeout={_SLOW_SECONDS}",
        f"-artifact_prefix={findings}/",
    )
    command = (sys.executable, "-m", "tests.fuzz.libfuzzer", name, *flags, str(found), str(seeds))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HOME / "src"), str(HOME)))}
    return subprocess.run(
        command, cwd=HOME, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", check=False,
    )  # fmt: skip


def _report(name: str, run: subprocess.CompletedProcess[str]) -> bool:
    """Print a row, and the end of the output after a finding; return whether there was one."""
    states = _STATUS.findall(run.stdout)
    runs, coverage, inputs = states[-1] if states else ("0", "0", "0")
    result = "a finding" if run.returncode else "no finding"
    print(f"{name:<20} {runs:>12} runs {coverage:>7} edges {inputs:>6} inputs  {result}", flush=True)
    if run.returncode:
        print("\n".join(run.stdout.splitlines()[-_LAST_LINES:]), flush=True)
    return run.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
