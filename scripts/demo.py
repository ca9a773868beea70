# SPDX-License-Identifier: Apache-2.0
"""``make run``: a scaler on this machine's GPUs, or else on the shipped recording, and KEDA's view of it.

Starts the very commands of the README as processes of their own, and ends them with Ctrl-C.
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
GOODBYE_SECONDS = 2.0


def has_gpus() -> bool:
    """Ask the scaler itself: one reading of this machine's devices tells more than a library's presence."""
    with tempfile.TemporaryDirectory() as folder:
        record = (*COMMAND, "record", "--backend", "auto", "--duration", "0", "--out", f"{folder}/once.jsonl")
        try:
            return subprocess.run(record, capture_output=True, check=False, timeout=START_SECONDS).returncode == 0
        except subprocess.TimeoutExpired:
            print("this machine's NVIDIA driver does not answer", flush=True)
            return False


def refusal_to_listen(host: str, port: str) -> str | None:
    """Why this address cannot be served; another server's numbers must not pass for ours."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, int(port)), family=family).close()
    except OSError as error:
        return "another server is there" if error.errno == errno.EADDRINUSE else error.strerror
    except ValueError:
        return "it is not HOST:PORT"
    return None


def wait_until_served(server: subprocess.Popen[bytes], address: str) -> bool:
    """Whether the server answers, be it with an error, before it gives up."""
    probe = (*COMMAND, "probe", "--address", address, "--json")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if subprocess.run(probe, capture_output=True, check=False).returncode in (0, 1):
            return True
        time.sleep(0.1)
    return False


def watch(address: str, options: argparse.Namespace) -> int:
    """Show what KEDA is told until Ctrl-C; return the probe's exit status."""
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
            # Ctrl-C reached the probe too, which ends by itself; the end of this process alone did not.
            try:
                return probe.wait(GOODBYE_SECONDS)
            except subprocess.TimeoutExpired:
                probe.terminate()
                return 0


def demonstrate(options: argparse.Namespace) -> int:
    """Start the server, show it, and stop it; return the exit status."""
    host, _, port = options.address.rpartition(":")
    host = host.strip("[]")
    refusal = refusal_to_listen(host, port)
    if refusal:
        sys.exit(f"cannot serve on {options.address}: {refusal}; choose another: make run ADDRESS=127.0.0.1:7000")
    backend = "auto" if has_gpus() else f"replay:{RECORDING}"
    what = "this machine's GPUs" if backend == "auto" else f"no GPU here: a recording, {RECORDING.relative_to(HOME)}"
    print(f"serving {what}, on {options.address}; Ctrl-C ends it", flush=True)
    serve = (*COMMAND, "serve", "--host", host, "--port", port, "--backend", backend)
    quiet = ("--metrics-port", "0", "--probe-port", "0", "--log-level", "warning")
    # A session of its own: Ctrl-C reaches the probe, and the server is stopped when that has ended.
    with subprocess.Popen([*serve, *quiet], start_new_session=True) as server:
        try:
            if wait_until_served(server, options.address):
                return watch(options.address, options)
            sys.exit(f"the server did not answer on {options.address}; what it said stands above")
        finally:
            if server.poll() is None:
                os.kill(server.pid, signal.SIGTERM)


def main() -> int:
    """Run the demonstration; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:6000")
    parser.add_argument("--replicas", default="3")
    parser.add_argument("--value-type", default="Value")
    parser.add_argument("--count", help="stop after so many rounds instead of at Ctrl-C")
    parser.add_argument("metadata", nargs="*", help="trigger metadata, KEY=VALUE")
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return demonstrate(parser.parse_args())
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
