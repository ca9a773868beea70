# SPDX-License-Identifier: Apache-2.0
"""Runs the image's layout on its base's own Debian packages, without a container engine.

The packages are extracted and not installed. The program runs in namespaces, as restricted as in a cluster: read-only,
uid 65532, without capabilities, with loopback alone. It is called as KEDA calls it, and ended as the kubelet ends it.

Law: what this machine cannot do is one line, and no failure. A program that does not answer or end is a failure.
"""

import argparse
import errno
import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
SUITE = "trixie"
PYTHON = "/usr/bin/python3.13"
COMMAND = "/usr/local/bin/keda-gpu-scaler"
UID = 65532
PACKAGES = (
    *("base-files", "ca-certificates", "netbase", "tzdata"),
    *("libc6", "libgcc-s1", "libgomp1", "libstdc++6", "libssl3t64"),
    *("libbz2-1.0", "libcrypt1", "libdb5.3t64", "libexpat1", "libffi8", "liblzma5", "libncursesw6", "libreadline8t64"),
    *("libsqlite3-0", "libtinfo6", "libuuid1", "libzstd1", "zlib1g"),
    *("libpython3.13-minimal", "libpython3.13-stdlib", "python3.13-minimal"),
)
"""What ``gcr.io/distroless/python3-debian13`` is made of, as far as a Python program can notice."""
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
_ALONE = ("unshare", "--user", "--map-root-user", "--mount", "--net", "--ipc", "--uts")
_CHECK = """
import os
capabilities = [line.split()[1] for line in open('/proc/self/status') if line.startswith('CapEff')]
try:
    open('/written', 'w')
except OSError as error:
    print(os.getuid(), *capabilities, error.strerror)
"""
_INTERFACE_UP, _SET_FLAGS = 0x1, 0x8914


class SkippedError(Exception):
    """The machine cannot run the test; the text says why."""


def extract_packages(root: Path, folder: Path) -> None:
    """Extract the packages of the base into ``root``, with lists and keys of their own below ``folder``.

    Raises:
        SkippedError: the packages are not to be had.
    """
    targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").stdout.split()
    mirror = next((uri for uri in targets if re.search(r"/debian/?$", uri)), None)
    if mirror is None:
        raise SkippedError("apt names no mirror of Debian")
    (folder / "lists").mkdir()
    (folder / "packages").mkdir()
    (folder / "sources.list").write_text(f"deb {mirror} {SUITE} main\n")
    settings = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder,
        "APT::Sandbox::User": "root",
    }
    apt = ("apt-get", "--quiet", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}")))
    for words in (("update",), ("download", *(f"{name}/{SUITE}" for name in PACKAGES))):
        outcome = _run(*apt, *words, cwd=folder / "packages")
        if outcome.returncode != 0:
            raise SkippedError(f"apt-get {words[0]}: {_last_line(outcome.stderr)}")
    for package in sorted((folder / "packages").glob("*.deb")):
        _must("dpkg-deb", "-x", str(package), str(root))


def lay_out(root: Path, folder: Path) -> None:
    """Put the image's layout on the base.

    Raises:
        SkippedError: there is no Python of the image's version, which makes the layout.
    """
    python = os.environ.get("IMAGE_PYTHON", "python3.13")
    if shutil.which(python) is None or _run(python, "--version").returncode != 0:
        raise SkippedError("there is no Python 3.13, which makes the layout; name one: IMAGE_PYTHON=PATH")
    made = _run(python, str(HOME / "scripts" / "image.py"), str(folder / "layout"), "--python", PYTHON)
    if made.returncode != 0:
        raise SystemExit(f"the layout cannot be made: {made.stderr}")
    shutil.copytree(folder / "layout", root / "usr" / "local", dirs_exist_ok=True, symlinks=True)
    for name in ("dev", "proc", "sys", "tmp"):
        (root / name).mkdir(exist_ok=True)


def restricted(root: Path, *command: str) -> tuple[str, ...]:
    """Return what runs a command in the root as 65532; a program that this user starts has no capabilities."""
    identity = (f"--map-user={UID}", f"--map-group={UID}")
    return ("unshare", "--user", *identity, f"--root={root}", "--wd=/", *command)


def run_inside(root: Path) -> None:
    """Run the program in the namespaces of this process, and print its start time and its memory.

    Raises:
        SystemExit: it is not as restricted as it should be, does not answer, or does not end by itself with 0.
    """
    _must("mount", "--bind", str(root), str(root))
    for name in ("dev", "proc"):
        _must("mount", "--rbind", f"/{name}", str(root / name))
    _must("mount", "-o", "remount,bind,ro", str(root))
    _bring_loopback_up()
    environment = {"PATH": "/usr/local/bin:/usr/bin"}
    found = _run(*restricted(root, PYTHON, "-IBSc", _CHECK), env=environment)
    if found.stdout.strip() != f"{UID} {'0' * 16} {os.strerror(errno.EROFS)}":
        raise SystemExit(f"not as restricted as in a cluster: {found.stdout}{found.stderr}")
    began = time.monotonic()
    serve = restricted(root, COMMAND, "serve", "--backend", "synthetic", "--log-level", "warning")
    with subprocess.Popen(serve, env=environment) as server:
        try:
            started = _seconds_until_it_listens(server, began)
            probe = ("probe", "--metadata", "scope=fleet", "--metadata", "report=average")
            answer = _run(*restricted(root, COMMAND, *probe), env=environment)
            memory = _memory_mib(server.pid)
            server.terminate()
            status = server.wait(_STOP_SECONDS)
        finally:
            server.kill()
    if answer.returncode != 0 or status != 0:
        raise SystemExit(f"{answer.stdout}{answer.stderr}probe: {answer.returncode}; the server ended with {status}")
    print(
        f"the image answers and ends: Debian {SUITE}, uid {UID}, read-only, no capabilities, loopback only; "
        f"it listens after {started:.2f} s and uses {memory:.1f} MiB (RSS)"
    )


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh14x", b"lo", _INTERFACE_UP))


def _seconds_until_it_listens(server: subprocess.Popen[bytes], began: float) -> float:
    while time.monotonic() - began < _START_SECONDS and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", 6000), 1.0).close()
        except OSError:
            time.sleep(0.01)
        else:
            return time.monotonic() - began
    raise SystemExit("the server does not listen; its log lines are above")


def _memory_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def _must(*command: str) -> None:
    if (outcome := _run(*command)).returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {_last_line(outcome.stderr)}")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "it said nothing"


def check_machine() -> None:
    """See that this machine has what the test needs.

    Raises:
        SkippedError: it lacks a program, or allows no namespaces.
    """
    for name in ("apt-get", "dpkg-deb", "mount", "unshare"):
        if shutil.which(name) is None:
            raise SkippedError(f"{name} is not installed")
    tried = _run(*_ALONE, *restricted(Path("/"), "true"))
    if tried.returncode != 0:
        raise SkippedError(f"namespaces are not to be had: {_last_line(tried.stderr)}")


def main() -> None:
    """Make the root, and run this script again in namespaces of its own."""
    parser = argparse.ArgumentParser(description="Run the image's layout on its base's own packages.")
    parser.add_argument("--inside", type=Path, help="the root, where the namespaces exist already")
    options = parser.parse_args()
    if options.inside:
        run_inside(options.inside)
        return
    with tempfile.TemporaryDirectory() as name:
        folder, root = Path(name), Path(name) / "root"
        root.mkdir()
        try:
            check_machine()
            extract_packages(root, folder)
            lay_out(root, folder)
        except SkippedError as error:
            print(f"skipped: {error}")
            return
        inside = subprocess.run((*_ALONE, sys.executable, __file__, "--inside", root), check=False)
    raise SystemExit(inside.returncode)


if __name__ == "__main__":
    main()
