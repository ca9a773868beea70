# SPDX-License-Identifier: Apache-2.0
import asyncio
import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from click.testing import CliRunner, Result

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.cli.top.sources import Clocks, FollowedFleet, _Listing
from keda_gpu_scaler.peers.client import FleetClient
from keda_gpu_scaler.peers.discovery import StaticDiscovery
from tests.fake_nvml import Card, FakeNvml
from tests.kubelet import FakeKubelet
from tests.limits import WAIT_SECONDS
from tests.serving import COMMAND, free_port

LOCAL = ("--local", "--backend", "synthetic", "--node-name", "here", "--pod-resources", "off")
ENTERED, LEFT = b"\x1b[?1049h", b"\x1b[?1049l"
CURSOR, NO_CURSOR = b"\x1b[?25h", b"\x1b[?25l"
REDRAW = "\x0c"


def clean() -> dict[str, str]:
    """The environment without what a scheduler or a cluster has put there."""
    strange = ("SLURM_", "FLUX_", "CUDA_", "NVIDIA_", "KUBE", "NO_COLOR")
    return {name: value for name, value in os.environ.items() if not name.startswith(strange)} | {"HOME": "/nowhere"}


def once(*arguments: object, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*COMMAND, "top", "--once", *map(str, arguments)),
        env={**clean(), "COLUMNS": "100", **(environment or {})},
        capture_output=True, text=True, check=False, timeout=WAIT_SECONDS,
    )  # fmt: skip


def told(outcome: subprocess.CompletedProcess[str]) -> Any:
    assert outcome.stdout, outcome.stderr
    return json.loads(outcome.stdout)


def invoked(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["top", *arguments])


# ---- one picture ----


def test_one_picture_of_this_machine() -> None:
    outcome = once(*LOCAL)
    assert outcome.returncode == 0, outcome.stderr
    head, first, *others = outcome.stdout.splitlines()
    assert head.split() == ["NODE", "GPU", "MODEL", "UTIL", "MEMORY", "GiB", "°C", "W", "HELD", "BY"]
    assert re.fullmatch(r"here +0  Synthetic H100 80GB +\d+% +72\.0/80\.0  \d\d +\d+  \?", first)
    assert len(others) == 7
    assert outcome.stderr == "keda-gpu-scaler: here: synthetic demonstration load, not a real GPU\n"
    assert "\x1b" not in outcome.stdout


def test_one_picture_for_programs() -> None:
    picture = told(once(*LOCAL, "--format", "json", "--sort", "memory", "--filter", "h100"))
    assert (picture["place"], picture["by"], picture["unheard"]) == ("host", "device", {})
    assert [row["device"] for row in picture["rows"]][:2] == ["0", "2"]  # 72 GiB of 80 each
    assert len(picture["rows"]) == 4
    table = list(csv.DictReader(io.StringIO(once(*LOCAL, "--format", "csv", "--by", "node").stdout)))
    assert [(row["node"], row["devices"], row["power_watts"]) for row in table] == [("here", "8", "")]


def test_a_locale_of_ascii_is_sent_nothing_else() -> None:
    outcome = once(*LOCAL, environment={"PYTHONIOENCODING": "ascii", "COLUMNS": "60"})
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.isascii()


@pytest.mark.parametrize(
    ("environment", "place", "devices", "held", "notes"),
    [
        pytest.param(
            {"SLURM_JOB_ID": "4711", "SLURM_JOB_GPUS": "1,3", "SLURMD_NODENAME": "n7"},
            "slurm job 4711", ["1", "3"], ["slurm/4711"], "2 of 4 devices are meant, by SLURM_JOB_GPUS=1,3",
            id="a SLURM job",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_GPUS": "0,7"},
            "slurm job 4711.0", ["0"], ["slurm/4711.0"],
            "SLURM_STEP_GPUS also names 7, which the driver does not show here", id="a step with a stranger",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "4711"}, "slurm job 4711", ["0", "1", "2", "3"], None,
            "slurm job 4711 names no device: all that the driver shows are here", id="a job that names none",
        ),
        pytest.param(
            {"FLUX_JOB_ID": "f2x9", "CUDA_VISIBLE_DEVICES": "2"},
            "flux job f2x9", ["2"], ["flux/f2x9"], "1 of 4 devices are meant, by CUDA_VISIBLE_DEVICES=2",
            id="a Flux job",
        ),
        pytest.param(
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "llama-0"},
            "pod llama-0", ["0", "1", "2", "3"], None, "", id="a container that sees all",
        ),
    ],
)  # fmt: skip
def test_within_a_job_its_devices_alone(
    fake_nvml: FakeNvml, environment: dict[str, str], place: str, devices: list[str], held: list[str] | None, notes: str
) -> None:
    fake_nvml.devices = [Card(f"GPU-{number}", pci_bus_id=f"00000000:{number}9:00.0") for number in range(4)]
    picture = told(
        once(
            *("--local", "--backend", "nvml", "--nvml-library", fake_nvml.library, "--pod-resources", "off"),
            *("--format", "json"),
            environment=environment,
        )
    )
    assert picture["place"] == place
    assert [row["device"] for row in picture["rows"]] == devices
    assert all(row["held_by"] == held for row in picture["rows"])
    assert notes in "\n".join(picture["notes"])


def test_on_a_node_the_kubelet_tells_who_holds_what(tmp_path: Path) -> None:
    with FakeKubelet(tmp_path / "kubelet.sock") as kubelet:
        kubelet.hold({"llama-0": ["synthetic-gpu-0", "synthetic-gpu-1"], "whisper-0": ["synthetic-gpu-1"]})
        outcome = once(*LOCAL[:-1], kubelet.path, "--by", "pod", "--format", "json")
    rows = told(outcome)["rows"]
    assert [(row["pod"], row["devices"]) for row in rows] == [("ai/llama-0", 2), ("ai/whisper-0", 1), ("", 6)]
    assert rows[2]["held_by"] == []


def test_a_driver_that_is_not_there_is_a_sentence_and_exit_status_3() -> None:
    outcome = once("--local", "--nvml-library", "/nowhere")
    assert (outcome.returncode, outcome.stdout) == (3, "")
    assert outcome.stderr.startswith("keda-gpu-scaler: --backend auto: no NVIDIA driver library here")


def test_a_driver_that_cannot_be_read_is_not_heard() -> None:
    outcome = once("--local", "--backend", "nvml", "--nvml-library", "/nowhere", "--node-name", "here")
    assert (outcome.returncode, outcome.stdout) == (3, "")
    assert outcome.stderr.startswith("keda-gpu-scaler: not heard: here: ")


def test_without_a_cluster_an_instance_on_this_machine_is_asked() -> None:
    outcome = once("--timeout", 20)
    assert outcome.returncode == 3
    assert "keda-gpu-scaler: not heard: 127.0.0.1:6000: " in outcome.stderr
    assert "name others with --address, or read this machine's own devices with --local" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--local", "--address", "gpu-7:6000"], "--local: asks nobody; leave out --address"),
        (["--peers", "dns:x:1", "--address", "gpu-7:6000"], "--address, --peers: both say where the instances are"),
        (["--address", "gpu-7"], "must be HOST:PORT"),
        (["--format", "json"], "--format: belongs to --once"),
        (["--tls-server-name", "x"], "--tls-ca: Required value: without it there is no TLS"),
        (["--once", "--peers", "elsewhere"], '--peers: Unsupported value: "elsewhere"'),
        (["--once", "--address", "x:1", "--tls-ca", "/nowhere"], "--tls-ca: cannot read /nowhere"),
        (["--interval", "0"], "0.0 is not in the range 0.1<=x<=60"),
        (
            ["--local", "--backend", "synthetic"],
            "standard input or output is no terminal: take one picture with --once",
        ),
    ],
)
def test_wrong_usage_is_told_with_exit_status_2(arguments: list[str], sentence: str) -> None:
    outcome = invoked(*arguments)
    assert outcome.exit_code == 2
    assert sentence in outcome.stderr


def test_a_kubeconfig_that_cannot_be_used_is_a_sentence_and_exit_status_3(tmp_path: Path) -> None:
    outcome = invoked("--once", "--kubeconfig", str(tmp_path / "none"))
    assert outcome.exit_code == 3
    assert outcome.stderr == f"keda-gpu-scaler: cannot read {tmp_path / 'none'}: No such file or directory\n"


def test_an_agent_whose_port_cannot_be_forwarded_is_not_heard_either() -> None:
    async def unheard() -> dict[str, str]:
        discovery = StaticDiscovery(())
        following = FleetClient(discovery, instance="us", clock=time.monotonic)
        listing = _Listing(discovery, lambda: {"b": "pod gpu/scaler-b: the API server answers 502"})
        try:
            return dict(FollowedFleet(following, listing, 10.0, Clocks()).view().unheard)
        finally:
            await following.close()

    assert asyncio.run(unheard())["b"] == "pod gpu/scaler-b: the API server answers 502"


# ---- live ----


def test_a_python_without_curses_is_told_with_exit_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "keda_gpu_scaler.cli.top.curses_terminal", raising=False)
    monkeypatch.setitem(sys.modules, "curses", None)
    outcome = invoked(*LOCAL)
    assert outcome.exit_code == 2
    assert "no screen can be drawn (" in outcome.stderr
    assert "take one picture with --once" in outcome.stderr


class OnTerminal:
    """A live ``top`` on a terminal of its own; ``shown`` is everything that was sent there."""

    def __init__(self, *arguments: str, lines: int = 24, columns: int = 100, **environment: str) -> None:
        self._arguments = (*COMMAND, "top", *arguments)
        self._size = lines, columns
        self._environment = {**clean(), "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment}
        self.shown = b""

    def __enter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        self.resize(*self._size)
        self.process = subprocess.Popen(
            self._arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=self._environment, start_new_session=True
        )
        # From now on our end tells when the other one is let go.
        os.close(theirs)
        self._watchdog = threading.Timer(WAIT_SECONDS, self.process.kill)
        self._watchdog.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._watchdog.cancel()
        with contextlib.suppress(OSError):
            os.close(self._ours)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, text: str) -> str:
        """Read on until this is on the screen, which is drawn anew now and then: only changes are sent otherwise."""
        news = b""
        while text.encode() not in news:
            if not select.select([self._ours], [], [], 0.2)[0]:
                self.press(REDRAW)
                continue
            try:
                news += os.read(self._ours, 65536)
            except OSError as error:
                raise AssertionError(f"ended before it showed {text!r}: {news[-2000:]!r}") from error
        self.shown += news
        return news.decode("utf-8", "replace")

    def ended(self) -> int:
        """Wait for the end, and return the exit status."""
        reader = threading.Thread(target=self._drain, daemon=True)
        reader.start()
        status = self.process.wait(WAIT_SECONDS)
        reader.join(WAIT_SECONDS)
        return status

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(self._ours, 65536):
                self.shown += chunk


@pytest.fixture
def terminal() -> Iterator[Callable[..., OnTerminal]]:
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(OnTerminal(*arguments, **options))


def test_a_live_table_obeys_its_keys_and_gives_the_terminal_back(terminal: Callable[..., OnTerminal]) -> None:
    live = terminal(*LOCAL)
    assert "host  1 node  8 devices" in live.until("Synthetic L4 24GB")
    live.press("h")
    live.until("who is not heard, and why")
    live.press("h")
    live.until("HELD BY")
    live.press("/L4\n")
    live.until("filter: ")
    live.press("q")
    assert live.ended() == 0
    assert live.shown.count(ENTERED) == live.shown.count(LEFT) == 1
    assert live.shown.index(ENTERED) < live.shown.rindex(LEFT)
    assert live.shown.rindex(CURSOR) > live.shown.rindex(NO_CURSOR)


def test_it_takes_the_size_that_the_terminal_has(terminal: Callable[..., OnTerminal]) -> None:
    live = terminal(*LOCAL, lines=6, columns=60)
    live.until("HELD BY")
    live.resize(30, 140)
    live.process.send_signal(signal.SIGWINCH)
    live.until("Synthetic L4 24GB")
    live.press("q")
    assert live.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_as_q_does(terminal: Callable[..., OnTerminal], number: signal.Signals) -> None:
    live = terminal(*LOCAL)
    live.until("HELD BY")
    live.process.send_signal(number)
    assert live.ended() == 0
    assert LEFT in live.shown


def test_a_line_that_is_dead_ends_it(terminal: Callable[..., OnTerminal]) -> None:
    live = terminal(*LOCAL)
    live.until("HELD BY")
    os.close(live._ours)
    assert live.process.wait(WAIT_SECONDS) == 0


@pytest.mark.parametrize(("environment", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_unless_they_are_not_wanted(
    terminal: Callable[..., OnTerminal], environment: dict[str, str], is_coloured: bool
) -> None:
    live = terminal("--address", f"127.0.0.1:{free_port()}", **environment)
    live.until("UNAVAILABLE")
    live.press("q")
    assert live.ended() == 0
    assert (b"\x1b[31m" in live.shown) is is_coloured


def test_a_terminal_that_is_not_known_is_told_with_exit_status_2(terminal: Callable[..., OnTerminal]) -> None:
    live = terminal(*LOCAL, TERM="none-such")
    assert live.ended() == 2
    assert b"the terminal 'none-such' is not known here" in live.shown
    assert ENTERED not in live.shown
