# SPDX-License-Identifier: Apache-2.0
"""A warm process that forks for each command of a page, and the file on the PATH that calls it.

An import of the whole program takes a second, and the pages have a hundred commands. A command gets the words, the
folder, the environment and the open files of its caller, and its exit status goes back to it.
"""

import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

Done = Callable[[int], object]
"""Reports the exit status to the caller; the process may go on afterwards."""

_HOME = Path(__file__).resolve().parents[2]
_LENGTH_BYTES = 4
_FORWARDER = """\
#!{python} -IS
import json, os, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
words = [sys.argv[0], *sys.argv[1:]]
request = json.dumps(dict(words=words, folder=os.getcwd(), environment=dict(os.environ))).encode()
socket.send_fds(link, [len(request).to_bytes({length}, "big")], [0, 1, 2])
link.sendall(request)
answer = link.makefile().read()
sys.exit(int(answer) if answer else 137)
"""


class Launcher:
    """The warm process, inside a ``with`` block. ``folder`` must have a short path: it gets a socket."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "launcher")

    def __enter__(self) -> Self:
        command = (sys.executable, "-m", "tests.newcomer.launcher", self.address)
        path = os.pathsep.join((str(_HOME / "src"), *filter(None, [os.environ.get("PYTHONPATH")])))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=_HOME, env=environment, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":  # python -OO removes an assert, and would not wait
            raise RuntimeError("the warm process did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # the end of its standard input ends it

    def put(self, path: Path) -> None:
        """Write an executable file that runs the command of its name in the warm process."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_FORWARDER.format(python=sys.executable, address=self.address, length=_LENGTH_BYTES))
        path.chmod(0o755)


def serve(address: str, run: Callable[[list[str], Done], int]) -> None:
    """Fork for each caller until standard input ends.

    Args:
        address: the path of the socket.
        run: runs the words of a command, the path of its file first, and returns its exit status; a number below 0 if
            it goes on until its caller is ended.
    """
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(address)
        listener.listen(64)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print("ready", flush=True)
        while all(key.fileobj is listener for key, _ in selector.select()):
            link, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(link, run)
            link.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _answer(link: socket.socket, run: Callable[[list[str], Done], int]) -> None:
    """Become the command of a caller, and end this process."""
    status = 1
    try:
        request = _become(link)

        def done(status: int) -> None:
            with contextlib.suppress(OSError):  # the caller is gone
                link.sendall(str(status).encode())
                link.shutdown(socket.SHUT_RDWR)

        status = run(request["words"], done)
        sys.stdout.flush()
        if status < 0:
            link.recv(1)  # the caller is ended
        done(status)
    except BrokenPipeError:  # the next command of a pipeline has ended
        done(128 + signal.SIGPIPE)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def _become(link: socket.socket) -> Any:
    length, files, _, _ = socket.recv_fds(link, _LENGTH_BYTES, 3)
    left, pieces = int.from_bytes(length, "big"), []
    while left:
        pieces.append(piece := link.recv(left))
        left -= len(piece)
    request = json.loads(b"".join(pieces))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # The buffer of the parent's standard input must not be read here.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the file is open already
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return request


if __name__ == "__main__":
    from tests.newcomer.programs import run_command

    importlib.import_module("tests.whole_program")  # what the commands import when they run
    serve(sys.argv[1], cast("Callable[[list[str], Done], int]", run_command))
