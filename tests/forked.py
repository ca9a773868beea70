# SPDX-License-Identifier: Apache-2.0
"""Commands of the program in processes that are forked from one that has imported it.

Each is a process of its own, with its own arguments, environment and descriptors, but it starts in a tenth of the
processor time: the import of the program takes longer than most tests. What it has imported is in
``tests/whole_program.py``.
"""

import atexit
import importlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from threading import Thread
from typing import Self

from keda_gpu_scaler.cli import main

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.whole_program", "tests.forked"])


class Forked:
    """A process with a command of the program: the part of ``subprocess.Popen`` that the tests use.

    ``stdout`` and ``stderr`` are what it writes, as text. ``entry`` is the program's entry, a function of a module.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        entry: Callable[[], object] | None = None,
    ) -> None:
        pipes = [_FORKS.Pipe(duplex=False) for _ in range(2)]
        self._process = _FORKS.Process(
            target=_run,
            args=(list(arguments), dict(os.environ if environment is None else environment), os.getcwd()),
            kwargs={"writers": [writer for _, writer in pipes], "entry": entry or as_module},
            daemon=True,  # its end is the end of the tests, if it has not ended before
        )
        self._process.start()
        for _, writer in pipes:
            writer.close()
        self.stdout, self.stderr = (_text_of(reader) for reader, _ in pipes)

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.stderr.close()
        self.wait()


def as_module() -> None:
    """Run the program as ``python -m keda_gpu_scaler`` does."""
    main(prog_name="python -m keda_gpu_scaler")


def as_command() -> None:
    """Run the program as the installed command does."""
    main(prog_name="keda-gpu-scaler")


def run(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    entry: Callable[[], object] | None = None,
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as ``subprocess.run`` does with its output captured."""
    with Forked(arguments, environment, entry) as process:
        errors: list[str] = []
        reading = Thread(target=lambda: errors.append(process.stderr.read()))
        reading.start()
        output = process.stdout.read()
        reading.join()
        status = process.wait(timeout)
    return subprocess.CompletedProcess(list(arguments), status, output, errors[0])


def _text_of(reader: "Connection") -> io.TextIOWrapper:
    descriptor = os.dup(reader.fileno())
    reader.close()
    return open(descriptor, encoding="utf-8")  # its user closes it


def _run(
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    *,
    writers: "list[Connection]",
    entry: Callable[[], object],
) -> None:
    for descriptor, writer in zip((1, 2), writers, strict=True):
        os.dup2(writer.fileno(), descriptor)
        writer.close()
    sys.stdout, sys.stderr = (open(one, "w", encoding="utf-8", closefd=False) for one in (1, 2))  # noqa: SIM115
    importlib.import_module("tests.whole_program")  # it is imported, or its error is shown: a preload ignores errors
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["keda-gpu-scaler", *arguments]
    try:
        entry()
    finally:
        atexit._run_exitfuncs()
