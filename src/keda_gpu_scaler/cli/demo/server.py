# SPDX-License-Identifier: Apache-2.0
"""The real ``serve`` process of the demonstration, and the checks before it starts."""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from keda_gpu_scaler.cli.options import PREFIX
from keda_gpu_scaler.cli.output import say
from keda_gpu_scaler.cli.probe.client import unreachable

START_SECONDS = 20.0
STOP_SECONDS = 5.0
RECORDING = Path(__file__).parent / "demo-synthetic.jsonl.gz"
_COMMAND = (sys.executable, "-P", "-m", "keda_gpu_scaler")
_QUIET = ("--metrics-port", "0", "--probe-port", "0", "--log-level", "warning", "--peers", "none")


class DemoError(Exception):
    """The demonstration cannot start; the text says why, and what to do."""


def split_address(address: str) -> tuple[str, str]:
    """Return host and port; an IPv6 address has no brackets in the result."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), port


def check_address(address: str) -> None:
    """Check that the scaler can listen. Without this check, the numbers of another server could be shown.

    Raises:
        DemoError: it cannot.
    """
    host, port = split_address(address)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, int(port)), family=family).close()
    except OSError as error:
        reason = "another server uses this port" if error.errno == errno.EADDRINUSE else error.strerror
        raise DemoError(
            f"cannot serve on {address}: {reason}; choose another port: --address 127.0.0.1:7000 "
            "(make run ADDRESS=127.0.0.1:7000)"
        ) from None


def has_gpus() -> bool:
    """Whether one reading of this machine's devices succeeds. That a library exists is not enough."""
    with tempfile.TemporaryDirectory() as folder:
        record = (*_COMMAND, "record", "--backend", "auto", "--duration", "0", "--out", f"{folder}/once.jsonl")
        try:
            outcome = subprocess.run(  # noqa: S603 - this program
                record, capture_output=True, check=False, timeout=START_SECONDS, env=_environment(keeps_settings=True)
            )
        except subprocess.TimeoutExpired:
            say("this machine's driver does not answer", err=True)
            return False
        return outcome.returncode == 0


@contextlib.contextmanager
def serving(address: str, flags: Sequence[str], *, keeps_settings: bool) -> Iterator[None]:
    """Run ``serve`` for the time of a ``with`` block.

    In a session of its own it does not receive Ctrl-C, and is stopped at the end of the block.

    Args:
        address: where it listens.
        flags: further flags.
        keeps_settings: whether the environment variables of its flags count.

    Raises:
        DemoError: it does not listen in time.
    """
    host, port = split_address(address)
    command = (*_COMMAND, "serve", "--host", host, "--port", port, *_QUIET, *flags)
    environment = _environment(keeps_settings=keeps_settings)
    with subprocess.Popen(command, start_new_session=True, env=environment) as server:  # noqa: S603 - this program
        try:
            _wait_until_it_listens(server, address)
            yield
        finally:
            server.terminate()
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_until_it_listens(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while unreachable(address, 1.0) is not None:
        if server.poll() is not None or time.monotonic() > deadline:
            raise DemoError(f"the server does not answer on {address}; its log lines are above")
        time.sleep(0.05)


def _environment(*, keeps_settings: bool) -> dict[str, str]:
    """Return the environment of a child: the same packages, and no cluster, also in a pod."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("KUBERNETES_SERVICE_") and (keeps_settings or not name.startswith(PREFIX))
    }
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
