# SPDX-License-Identifier: Apache-2.0
"""Runs the demonstration of ``make run``: a scaler on this machine's GPUs or a recording, and a probe.

It starts the commands of the README as separate processes, and ends them on Ctrl-C.
"""

import argparse
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
RECORDING = HOME / "recordings" / "demo-synthetic.jsonl.gz"
COMMAND = (sys.executable, "-m", "keda_gpu_scaler")
START_SECONDS = 20.0
STOP_SECONDS = 2.0


def has_gpus() -> bool:
    """Whether one reading of this machine's devices succeeds. That the library exists is not enough."""
    with tempfile.TemporaryDirectory() as folder:
        record = (*COMMAND, "record", "--backend", "auto", "--duration", "0", "--out", f"{folder}/once.jsonl")
        try:
            return subprocess.run(record, capture_output=True, check=False, timeout=START_SECONDS).returncode == 0
        except subprocess.TimeoutExpired:
            print("this machine's driver does not answer", flush=True)
            return False


def why_not_listening(host: str, port: str) -> str | None:
    """Return why the scaler cannot listen on this address; None when it can.

    Without this check, the probe could show the numbers of another server.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, int(port)), family=family).close()
    except OSError as error:
        return "another server uses this port" if error.errno == errno.EADDRINUSE else error.strerror
    except ValueError:
        return "it is not HOST:PORT"
    return None


def wait_until_served(server: subprocess.Popen[bytes], address: str) -> bool:
    """Wait until the server answers, also with an error; return whether it does so in time."""
    # With this report the answer needs no cluster. Otherwise the server warns, above what the demonstration shows.
    probe = (*COMMAND, "probe", "--address", address, "--json", "--metadata", "report=average")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if subprocess.run(probe, capture_output=True, check=False).returncode in (0, 1):
            return True
        time.sleep(0.1)
    return False


def watch(address: str, options: argparse.Namespace) -> int:
    """Show the answers to KEDA until Ctrl-C; return the probe's exit status."""
    command = [*COMMAND, "probe", "--address", address, "--watch"]
    command += ["--replicas", options.replicas, "--value-type", options.value_type]
    for pair in options.metadata:
        command += ["--metadata", pair]
    if options.count:
        command += ["--count", options.count]
    print(f"keda-gpu-scaler {' '.join(command[3:])}\n", flush=True)
    with subprocess.Popen(command) as probe:
        try:
            return probe.wait()
        except KeyboardInterrupt:
            # The probe also received Ctrl-C and ends. It does not receive a signal that only this process gets.
            try:
                return probe.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                probe.terminate()
                return 0


def demonstrate(options: argparse.Namespace) -> int:
    """Start the server, probe it, and stop it; return the exit status."""
    host, _, port = options.address.rpartition(":")
    host = host.strip("[]")
    refusal = why_not_listening(host, port)
    if refusal:
        sys.exit(f"cannot serve on {options.address}: {refusal}; choose another port: make run ADDRESS=127.0.0.1:7000")
    backend = "auto" if has_gpus() else f"replay:{RECORDING}"
    source = (
        "this machine's GPUs" if backend == "auto" else f"no GPU here, so the recording {RECORDING.relative_to(HOME)}"
    )
    print(f"serving {source} on {options.address}; Ctrl-C ends it", flush=True)
    serve = (*COMMAND, "serve", "--host", host, "--port", port, "--backend", backend)
    quiet = ("--metrics-port", "0", "--probe-port", "0", "--log-level", "warning")
    # In a session of its own the server does not receive Ctrl-C. It is stopped after the probe has ended.
    with subprocess.Popen([*serve, *quiet], start_new_session=True) as server:
        try:
            if wait_until_served(server, options.address):
                return watch(options.address, options)
            sys.exit(f"the server does not answer on {options.address}; its log lines are above")
        finally:
            if server.poll() is None:
                os.kill(server.pid, signal.SIGTERM)


def main() -> int:
    """Run the demonstration; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:6000")
    parser.add_argument("--replicas", default="3")
    parser.add_argument("--value-type", default="Value")
    parser.add_argument("--count", help="stop after this many rounds instead of at Ctrl-C")
    parser.add_argument("metadata", nargs="*", help="trigger metadata, KEY=VALUE")
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return demonstrate(parser.parse_args())
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
