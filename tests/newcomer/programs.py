# SPDX-License-Identifier: Apache-2.0
"""What the commands of a page run: the program itself, and the stand-ins of other programs.

Law: the program runs with the words of the page. Three things differ. The fixed ports of the pages become free ones.
Ctrl-C ends what watches or records after some rounds. And ``serve`` stays in the background once it serves, as in a
terminal of its own. A stand-in accepts the flags that its program has, and nothing else.
"""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from keda_gpu_scaler import __version__
from keda_gpu_scaler.cli import PLUGIN, PROGRAM, main
from keda_gpu_scaler.cli.pace import Timing
from tests.newcomer import helm, kubectl
from tests.newcomer.launcher import Done

HOME = Path(__file__).resolve().parents[2]
STATE, PORTS = "NEWCOMER_STATE", "NEWCOMER_PORTS"
"""Environment variables: the folder of the journal, and the free port in the place of each fixed one."""
RECORDS = 12
"""After so many records Ctrl-C ends a recording."""
LISTED: Mapping[str, str] = {
    "cosign": "it needs Sigstore's public log, and a release",
    "docker": "it needs a container engine; `docker run` is run without one",
    "gh": "it needs GitHub, and a release",
    "pipx": "it needs a release; the wheel's entry points are tested in tests/image",
}
"""Programs that cannot run here, and why."""
_DEPTH, _MAX_DEPTH = "NEWCOMER_DEPTH", 3
_COMMANDS_WITH_ADDRESS = ("probe", "demo")
_DEMO_PORT = "demo"
_SERVES = re.compile(r"serves ExternalScaler on port")
_COLD = re.compile(
    rb"not read from the API server yet|has one sample so far|not scraped yet|does not answer in time|DEADLINE_EXCEEDED"
)
_MAX_CALLS = 30
_PAUSE_SECONDS = 0.1
"""Between two calls of an instance that has no data yet: its devices and engines are read a few times a second."""
_HEADINGS = re.compile(rb"WORKLOAD|NODE")


def run_command(words: list[str], done: Done) -> int:
    """Run a command, write it into the journal, and return its exit status."""
    path, name = words[0], Path(words[0]).name
    if (depth := int(os.environ.get(_DEPTH, "0"))) > _MAX_DEPTH:
        raise RuntimeError(f"{name}: it runs itself")
    os.environ[_DEPTH] = str(depth + 1)
    note: dict[str, Any] = {"name": name, "words": words[1:]}

    def done_and_noted(status: int) -> None:
        with (Path(os.environ[STATE]) / "journal").open("a") as journal:
            journal.write(json.dumps({**note, "status": max(0, status)}) + "\n")
        if status >= 0:
            done(status)

    try:
        status = _PROGRAMS[name](path, words[1:], done_and_noted)
        sys.stdout.flush()
    except (helm.UsageError, kubectl.UsageError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        status = 2
    except helm.MissingError as error:
        note["missing"], status = str(error), 0
    if name in LISTED:
        note["listed"] = LISTED[name]
    done_and_noted(status)
    return status


# ---- the program ----


def run_program(words: list[str], prog_name: str = PROGRAM) -> int:
    """Run the program until it ends or Ctrl-C ends it; return its exit status."""
    try:
        main.main(words, prog_name=prog_name, obj=Timing(sleep=_sleep))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _sleep(seconds: float) -> None:
    """Press Ctrl-C in the pause between two rounds; a short pause is one between two attempts."""
    if seconds >= 1.0:
        raise KeyboardInterrupt
    time.sleep(seconds)


def _program(path: str, words: list[str], done: Done) -> int:
    words = with_free_ports(words)
    if words[:1] == ["serve"]:
        return _serve(words, done)
    if words[:1] == ["top"] and "--once" not in words and "--help" not in words:
        return _on_terminal(words)
    if words[:1] == ["record"]:
        _interrupt_recordings()
    if words[:1] in (["probe"], ["explain"]):
        return _until_warm(words)
    return run_program(words)


def _until_warm(words: list[str]) -> int:
    """Call an instance again while it has no data yet, as one that KEDA does not call; show the last output."""
    for _ in range(_MAX_CALLS):
        with tempfile.TemporaryFile() as output:
            sys.stdout.flush()
            if (child := os.fork()) == 0:
                for number in (1, 2):
                    os.dup2(output.fileno(), number)
                status = run_program(words)
                sys.stdout.flush()
                os._exit(status)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            shown = output.read()
        if not _COLD.search(b" ".join(shown.split())):
            break
        time.sleep(_PAUSE_SECONDS)
    sys.stdout.buffer.write(shown)
    return status


def with_free_ports(words: list[str]) -> list[str]:
    """Return the words of a command with free ports in the place of the fixed ones."""
    ports: dict[str, int] = json.loads(os.environ[PORTS])
    for fixed, free in ports.items():
        words = [
            re.sub(rf"(127\.0\.0\.1|localhost|[\w.-]+\.cluster\.local):{fixed}\b", f"127.0.0.1:{free}", one)
            for one in words
        ]
    words = [re.sub("^/tls/", "", one) for one in words]  # the folder where a pod has the files that the page makes
    is_plain = words[:1] and words[0] in _COMMANDS_WITH_ADDRESS and not any("--address" in one for one in words)
    port = ports[_DEMO_PORT if words[:1] == ["demo"] else "6000"]
    return [*words, "--address", f"127.0.0.1:{port}"] if is_plain else words


def _serve(words: list[str], done: Done) -> int:
    """Run ``serve`` in the background; report 0 when it serves, or its exit status."""
    _end_the_last_one()
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.dup2(writing, 2)
        os.close(reading)
        os._exit(run_program(words))
    os.close(writing)
    with (Path(os.environ[STATE]) / "pids").open("a") as pids:
        pids.write(f"{child}\n")
    serves = False
    with open(reading, errors="replace") as log:
        for line in log:
            if not serves:
                print(line, end="", file=sys.stderr)
                if serves := bool(_SERVES.search(line)):
                    done(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if serves:
        os._exit(0)
    return status or 1


def _end_the_last_one() -> None:
    """End the last ``serve`` of the page, as Ctrl-C in its terminal does."""
    pids = Path(os.environ[STATE]) / "pids"
    for pid in map(int, pids.read_text().split() if pids.exists() else ()):
        with contextlib.suppress(ProcessLookupError):
            ended = os.pidfd_open(pid)
            os.kill(pid, signal.SIGINT)
            select.select([ended], [], [])


def _on_terminal(words: list[str]) -> int:
    """Run a command on a terminal, and press q when its first table is there."""
    os.environ["TERM"] = "xterm"
    child, terminal = pty.fork()
    if child == 0:
        os._exit(run_program(words))
    shown, is_pressed = b"", False
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not piece:
            break
        shown += piece
        if not is_pressed and (is_pressed := _HEADINGS.search(shown) is not None):
            os.write(terminal, b"q")
    sys.stdout.buffer.write(shown)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _interrupt_recordings() -> None:
    """Let Ctrl-C come after some records."""
    from keda_gpu_scaler.wire.recording import RecordingWriter

    written = 0

    def interrupting(write: Callable[..., None]) -> Callable[..., None]:
        def write_and_count(self: RecordingWriter, record: Any) -> None:
            nonlocal written
            write(self, record)
            written += 1
            if written == RECORDS:
                signal.raise_signal(signal.SIGINT)

        return write_and_count

    for name in ("write", "write_record"):
        setattr(RecordingWriter, name, interrupting(getattr(RecordingWriter, name)))


# ---- other programs ----


def _plugin(path: str, words: list[str], done: Done) -> int:
    return run_program(with_free_ports(words), PLUGIN)


def _kubectl(path: str, words: list[str], done: Done) -> int:
    status = kubectl.run(words)
    if isinstance(status, int):
        return status
    name, *rest = status.words  # what a pod or a plugin runs
    return _PROGRAMS[name](name, rest, done)


def _helm(path: str, words: list[str], done: Done) -> int:
    command = helm.run(words)
    if isinstance(command, int):
        return command
    return run_program(with_free_ports(command))  # what the pod of a test runs


def _docker(path: str, words: list[str], done: Done) -> int:
    """Run what a container would run; other commands of docker are listed."""
    if words[0] == "save":
        print(f"an archive of {words[1]}")
    if words[0] != "run":
        return 0
    options: dict[str, str] = {}
    rest = words[1:]
    while rest[0].startswith("--"):
        flag = rest.pop(0)
        if flag != "--rm":
            options[flag] = rest.pop(0)
    if unknown := options.keys() - {"--user", "--network", "--volume", "--env"}:
        raise helm.UsageError(f"{', '.join(unknown)}: the stand-in of docker does not know it")
    repository = yaml.safe_load((helm.CHART / "values.yaml").read_text())["image"]["repository"]
    if rest.pop(0) != f"{repository}:{__version__}":
        raise helm.UsageError(f"the image is not {repository}:{__version__}")
    outside, inside, _ = options["--volume"].split(":")
    if not Path(outside).is_file() or options["--env"] != f"KUBECONFIG={inside}":
        raise helm.UsageError(f"{outside} is no file, or it is not the KUBECONFIG of the container")
    os.environ["KUBECONFIG"] = outside
    return run_program(with_free_ports(rest))


def _python(path: str, words: list[str], done: Done) -> int:
    if words[:2] == ["-m", "venv"]:
        (folder := Path(words[2], "bin")).mkdir(parents=True)
        for name in ("python", "pip"):
            shutil.copy(path if "/" in path else str(shutil.which(path)), folder / name)
        return 0
    if words[:2] == ["-m", "pytest"]:
        return _pytest(words[2:])
    return subprocess.run((sys.executable, *words), check=False).returncode


def _pytest(words: list[str]) -> int:
    """Check that a selection of tests selects some; the suite itself runs them."""
    paths = [word for word in words if (HOME / word).exists()]
    chosen = words[words.index("-k") + 1]
    names = [name for path in paths for file in (HOME / path).rglob("test_*.py") for name in _tests(file)]
    return 0 if paths and any(chosen in name for name in names) else 5


def _tests(file: Path) -> list[str]:
    return [
        f"{file.stem}::{name}" for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    ]


def _pip(path: str, words: list[str], done: Done) -> int:
    """Install the wheel of a release: its two commands."""
    wheel = f"keda_gpu_scaler-{__version__}-py3-none-any.whl"
    if words[0] != "install" or not words[1].endswith(f"/v{__version__}/{wheel}"):
        raise helm.UsageError(f"{' '.join(words)}: does not install {wheel} of release v{__version__}")
    for name in (PROGRAM, "kubectl-gpu_scaler"):
        shutil.copy(path, Path(path).with_name(name))
    return 0


def _make(_: str, words: list[str], done: Done) -> int:
    """Check that the target exists, and the commands of the program in it."""
    real = shutil.which("make", path=os.defpath)
    if real is None:
        raise helm.MissingError("there is no make")
    command, path = (real, "-n", *words), os.defpath
    shown = subprocess.run(command, env={"PATH": path}, cwd=HOME, capture_output=True, text=True, check=False)
    for line in re.findall(rf"^\.venv/bin/{PROGRAM} (.*)", shown.stdout.replace("\\\n", " "), re.MULTILINE):
        parse(line.split())
    print(shown.stdout, shown.stderr)
    return shown.returncode


def _curl(path: str, words: list[str], done: Done) -> int:
    real = shutil.which("curl", path=os.defpath)
    if real is None:
        raise helm.MissingError("there is no curl")
    return subprocess.run((real, *with_free_ports(words)), check=False).returncode


def _srun(path: str, words: list[str], done: Done) -> int:
    """Run a step of a job."""
    while words and words[0].startswith("--"):
        if words.pop(0).partition("=")[0] not in ("--jobid", "--overlap"):
            return 1
    os.environ |= {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_GPUS": "0,1"}
    return _program(words[0], words[1:], done)


def _listed(path: str, words: list[str], done: Done) -> int:
    return 0


def parse(words: list[str]) -> None:
    """Parse a command of the program without running it.

    Raises:
        click.UsageError: a command, a flag or a value does not exist.
    """
    command: click.Command = main
    context = click.Context(main, info_name=PROGRAM)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"{name}: there is no such command")
        command, context = found, click.Context(found, parent=context, info_name=name)
    with click.Context(command) as fresh:
        if not {"-h", "--help", "--version"} & set(words):
            command.parse_args(fresh, list(words))


_PROGRAMS: Mapping[str, Callable[[str, list[str], Done], int]] = {
    PROGRAM: _program,
    "kubectl-gpu_scaler": _plugin,
    "kubectl": _kubectl,
    "helm": _helm,
    "docker": _docker,
    "make": _make,
    "curl": _curl,
    "srun": _srun,
    "python": _python,
    "python3": _python,
    "pip": _pip,
    **dict.fromkeys(("cosign", "gh", "pipx"), _listed),
}
STAND_INS = tuple(_PROGRAMS)
