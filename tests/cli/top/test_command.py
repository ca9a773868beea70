# SPDX-License-Identifier: Apache-2.0
"""Tests the command ``top``: single tables, wrong usage, and the live view on a pseudoterminal."""

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
from keda_gpu_scaler.cli.pace import Timing
from keda_gpu_scaler.cli.top.sources import FollowedFleet, InstanceList
from keda_gpu_scaler.peers.client import FleetClient
from keda_gpu_scaler.peers.discovery import StaticDiscovery
from tests import forked
from tests.devices.sysfs_tree import BATTLEMAGE, INSTINCT, INTEL, SysfsTree
from tests.fake_nvml import Card, FakeNvml
from tests.free_ports import free_port
from tests.kubelet import FakeKubelet
from tests.limits import WAIT_SECONDS
from tests.serving import COMMAND

LOCAL = ("--local", "--backend", "synthetic", "--node-name", "here", "--pod-resources", "off")
SCREEN_ON, SCREEN_OFF = b"\x1b[?1049h", b"\x1b[?1049l"
CURSOR_ON, CURSOR_OFF = b"\x1b[?25h", b"\x1b[?25l"
REDRAW = "\x0c"


def clean_environment() -> dict[str, str]:
    """Return the environment without the variables of a scheduler or a cluster."""
    prefixes = ("SLURM_", "FLUX_", "CUDA_", "NVIDIA_", "KUBE", "NO_COLOR")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)} | {"HOME": "/nowhere"}


def once(*arguments: object, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    given = {**clean_environment(), "COLUMNS": "100", **(environment or {})}
    command = ("top", "--once", *map(str, arguments))
    if "PYTHONIOENCODING" in given:  # the interpreter reads it when it starts
        return subprocess.run(
            (*COMMAND, *command), env=given, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS
        )
    return forked.run(command, environment=given, timeout=WAIT_SECONDS)


def document(outcome: subprocess.CompletedProcess[str]) -> Any:
    assert outcome.stdout, outcome.stderr
    return json.loads(outcome.stdout)


def invoked(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["top", *arguments])


# ---- the single table ----


def test_the_table_of_this_machine() -> None:
    outcome = once(*LOCAL)
    assert outcome.returncode == 0, outcome.stderr
    head, first, *others = outcome.stdout.splitlines()
    assert head.split() == ["NODE", "GPU", "MODEL", "UTIL", "MEMORY", "GiB", "°C", "W", "HELD", "BY"]
    assert re.fullmatch(r"here +0  Synthetic H100 80GB +\d+% +72\.0/80\.0  \d\d +\d+  \?", first)
    assert len(others) == 7
    assert outcome.stderr == "keda-gpu-scaler: here: synthetic demonstration load, not a real GPU\n"
    assert "\x1b" not in outcome.stdout


def test_json_and_csv_of_this_machine() -> None:
    found = document(once(*LOCAL, "--format", "json", "--sort", "memory", "--filter", "h100"))
    assert (found["place"], found["by"], found["unavailable"]) == ("host", "device", {})
    assert [row["device"] for row in found["rows"]][:2] == ["0", "2"]  # 72 GiB of 80 each
    assert len(found["rows"]) == 4
    table = list(csv.DictReader(io.StringIO(once(*LOCAL, "--format", "csv", "--by", "node").stdout)))
    assert [(row["node"], row["devices"], row["power_watts"]) for row in table] == [("here", "8", "")]


def test_an_output_that_encodes_ascii_only_gets_ascii_only() -> None:
    outcome = once(*LOCAL, environment={"PYTHONIOENCODING": "ascii", "COLUMNS": "60"})
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.isascii()


@pytest.mark.parametrize(
    ("environment", "place", "devices", "held", "note"),
    [
        pytest.param(
            {"SLURM_JOB_ID": "4711", "SLURM_JOB_GPUS": "1,3", "SLURMD_NODENAME": "n7"},
            "slurm job 4711", ["1", "3"], ["slurm/4711"], "2 of 4 devices are assigned, by SLURM_JOB_GPUS=1,3",
            id="a SLURM job",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_GPUS": "0,7"},
            "slurm job 4711.0", ["0"], ["slurm/4711.0"],
            "SLURM_STEP_GPUS also names 7, which the driver does not list", id="a SLURM step with an unknown device",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "4711"}, "slurm job 4711", ["0", "1", "2", "3"], None,
            "slurm job 4711 names no device, so every device of the driver is shown", id="a SLURM job without devices",
        ),
        pytest.param(
            {"FLUX_JOB_ID": "f2x9", "CUDA_VISIBLE_DEVICES": "2"},
            "flux job f2x9", ["2"], ["flux/f2x9"], "1 of 4 devices are assigned, by CUDA_VISIBLE_DEVICES=2",
            id="a Flux job",
        ),
        pytest.param(
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "llama-0"},
            "pod llama-0", ["0", "1", "2", "3"], None, "", id="a container with every device",
        ),
    ],
)  # fmt: skip
def test_a_job_sees_its_assigned_devices_only(
    fake_nvml: FakeNvml, environment: dict[str, str], place: str, devices: list[str], held: list[str] | None, note: str
) -> None:
    fake_nvml.devices = [Card(f"GPU-{number}", pci_bus_id=f"00000000:{number}9:00.0") for number in range(4)]
    found = document(
        once(
            *("--local", "--backend", "nvml", "--nvml-library", fake_nvml.library, "--pod-resources", "off"),
            *("--format", "json"),
            environment=environment,
        )
    )
    assert found["place"] == place
    assert [row["device"] for row in found["rows"]] == devices
    assert all(row["held_by"] == held for row in found["rows"])
    assert note in "\n".join(found["notes"])


def test_the_kubelet_of_the_node_names_the_holders(tmp_path: Path) -> None:
    with FakeKubelet(tmp_path / "kubelet.sock") as kubelet:
        kubelet.hold({"llama-0": ["synthetic-gpu-0", "synthetic-gpu-1"], "whisper-0": ["synthetic-gpu-1"]})
        outcome = once(*LOCAL[:-1], kubelet.path, "--by", "pod", "--format", "json")
    rows = document(outcome)["rows"]
    assert [(row["pod"], row["devices"]) for row in rows] == [("ai/llama-0", 2), ("ai/whisper-0", 1), ("", 6)]
    assert rows[2]["held_by"] == []


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    """A node with a card of AMD and one of Intel."""
    tree = SysfsTree(tmp_path / "sys")
    tree.card(0, "0000:05:00.0", files=INSTINCT)
    tree.card(1, "0000:04:00.0", vendor=INTEL, device="0xe211", driver="xe", files=BATTLEMAGE)
    return tree


def test_the_devices_of_several_vendors_are_shown_alike(tree: SysfsTree) -> None:
    flags = ("--local", "--backend", "amd,intel", "--sysfs-root", tree.root)
    rows = document(once(*flags, "--pod-resources", "off", "--format", "json"))["rows"]
    found = {row["vendor"]: row for row in rows}
    assert found.keys() == {"AMD", "Intel"}
    assert found["AMD"]["model"] == "AMD Instinct MI300X OAM"
    assert found["AMD"]["gpu_utilization_percent"] == pytest.approx(57)
    # The counters of this card stand still, so it was busy all the time, and its power is not known.
    assert (found["Intel"]["model"], found["Intel"]["gpu_utilization_percent"]) == ("Intel Arc Pro B60", 100)
    assert (found["Intel"]["temperature_celsius"], found["Intel"]["power_watts"]) == (44, None)


@pytest.mark.parametrize(
    ("backend", "has_column"),
    [
        pytest.param("amd", False, id="one vendor needs no column"),
        pytest.param("amd,intel", True, id="several vendors have one"),
    ],
)
def test_the_column_of_vendors(tree: SysfsTree, backend: str, has_column: bool) -> None:
    flags = ("--local", "--backend", backend, "--sysfs-root", tree.root)
    outcome = once(*flags, "--pod-resources", "off", environment={"COLUMNS": "140"})
    assert ("VENDOR" in outcome.stdout) is has_column
    assert "AMD Instinct MI300X OAM" in outcome.stdout


def test_a_missing_driver_ends_with_a_sentence_and_exit_status_3() -> None:
    outcome = once("--local", "--nvml-library", "/nowhere", "--sysfs-root", "/nowhere")
    assert (outcome.returncode, outcome.stdout) == (3, "")
    assert outcome.stderr.startswith("keda-gpu-scaler: --backend auto: no AMD GPU here (/nowhere/class/drm: ")


def test_a_driver_that_cannot_be_loaded_makes_the_node_unavailable() -> None:
    outcome = once("--local", "--backend", "nvml", "--nvml-library", "/nowhere", "--node-name", "here")
    assert (outcome.returncode, outcome.stdout) == (3, "")
    assert outcome.stderr.startswith("keda-gpu-scaler: unavailable: here: ")


def test_without_a_cluster_the_command_calls_an_instance_on_this_machine() -> None:
    outcome = once("--timeout", 20)
    assert outcome.returncode == 3
    assert "keda-gpu-scaler: unavailable: 127.0.0.1:6000: " in outcome.stderr
    assert "name other instances with --address, or read this machine's own devices with --local" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--local", "--address", "gpu-7:6000"], "--local: calls no instance; remove --address"),
        (["--peers", "dns:x:1", "--address", "gpu-7:6000"], "--address, --peers: both name the instances"),
        (["--address", "gpu-7"], "must be HOST:PORT"),
        (["--format", "json"], "--format: requires --once"),
        (["--tls-server-name", "x"], "--tls-ca: Required value: without it there is no TLS"),
        (["--once", "--peers", "elsewhere"], '--peers: Unsupported value: "elsewhere"'),
        (["--once", "--address", "x:1", "--tls-ca", "/nowhere"], "--tls-ca: cannot read /nowhere"),
        (["--interval", "0"], "0.0 is not in the range 0.1<=x<=60"),
        (
            ["--local", "--backend", "synthetic"],
            "standard input or output is not a terminal: print the table once with --once",
        ),
    ],
)
def test_wrong_usage_ends_with_exit_status_2(arguments: list[str], sentence: str) -> None:
    outcome = invoked(*arguments)
    assert outcome.exit_code == 2
    assert sentence in outcome.stderr


def test_an_unusable_kubeconfig_ends_with_a_sentence_and_exit_status_3(tmp_path: Path) -> None:
    outcome = invoked("--once", "--kubeconfig", str(tmp_path / "none"))
    assert outcome.exit_code == 3
    assert outcome.stderr == f"keda-gpu-scaler: cannot read {tmp_path / 'none'}: No such file or directory\n"


def test_an_agent_whose_port_cannot_be_forwarded_is_unavailable() -> None:
    async def unavailable() -> dict[str, str]:
        discovery = StaticDiscovery(())
        client = FleetClient(discovery, instance="us", clock=time.monotonic)
        instances = InstanceList(discovery, lambda: {"b": "pod gpu/scaler-b: the API server answers 502"})
        try:
            return dict(FollowedFleet(client, instances, 10.0, Timing()).readings().unavailable)
        finally:
            await client.close()

    assert asyncio.run(unavailable())["b"] == "pod gpu/scaler-b: the API server answers 502"


# ---- the live view ----


def test_a_python_without_curses_ends_with_exit_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "keda_gpu_scaler.cli.top.curses_terminal", raising=False)
    monkeypatch.setitem(sys.modules, "curses", None)
    outcome = invoked(*LOCAL)
    assert outcome.exit_code == 2
    assert "the live view is not available (" in outcome.stderr
    assert "print the table once with --once" in outcome.stderr


class OnTerminal:
    """A live ``top`` on its own pseudoterminal. ``shown`` is everything that it wrote there."""

    def __init__(self, *arguments: str, lines: int = 24, columns: int = 100, **environment: str) -> None:
        self._arguments = (*COMMAND, "top", *arguments)
        self._size = lines, columns
        self._environment = {**clean_environment(), "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment}
        self.shown = b""

    def __enter__(self) -> Self:
        self._own_end, other = pty.openpty()
        self.resize(*self._size)
        self.process = subprocess.Popen(
            self._arguments,
            stdin=other,
            stdout=other,
            stderr=other,
            env=self._environment,
            start_new_session=True,
        )
        # Reading the own end now reports an error after the process has closed its end.
        os.close(other)
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
            os.close(self._own_end)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._own_end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._own_end, keys.encode())

    def until(self, text: str) -> str:
        """Read until this text is shown. Redraw at an interval, because the program writes changes only."""
        received = b""
        while text.encode() not in received:
            if not select.select([self._own_end], [], [], 0.2)[0]:
                self.press(REDRAW)
                continue
            try:
                received += os.read(self._own_end, 65536)
            except OSError as error:
                raise AssertionError(f"ended before it showed {text!r}: {received[-2000:]!r}") from error
        self.shown += received
        return received.decode("utf-8", "replace")

    def ended(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        reader = threading.Thread(target=self._drain, daemon=True)
        reader.start()
        status = self.process.wait(WAIT_SECONDS)
        reader.join(WAIT_SECONDS)
        return status

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(self._own_end, 65536):
                self.shown += chunk


@pytest.fixture
def terminal() -> Iterator[Callable[..., OnTerminal]]:
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(OnTerminal(*arguments, **options))


def test_the_live_view_follows_its_keys_and_restores_the_terminal(terminal: Callable[..., OnTerminal]) -> None:
    live = terminal(*LOCAL)
    assert "host  1 node  8 devices" in live.until("Synthetic L4 24GB")
    live.press("h")
    live.until("show every unavailable instance, with the reason")
    live.press("h")
    live.until("HELD BY")
    live.press("/L4\n")
    live.until("filter: ")
    live.press("q")
    assert live.ended() == 0
    assert live.shown.count(SCREEN_ON) == live.shown.count(SCREEN_OFF) == 1
    assert live.shown.index(SCREEN_ON) < live.shown.rindex(SCREEN_OFF)
    assert live.shown.rindex(CURSOR_ON) > live.shown.rindex(CURSOR_OFF)


def test_the_live_view_follows_the_size_of_the_terminal(terminal: Callable[..., OnTerminal]) -> None:
    live = terminal(*LOCAL, lines=6, columns=60)
    live.until("HELD BY")
    live.resize(30, 140)
    live.process.send_signal(signal.SIGWINCH)
    live.until("Synthetic L4 24GB")
    live.press("q")
    assert live.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_live_view_as_q_does(terminal: Callable[..., OnTerminal], number: signal.Signals) -> None:
    live = terminal(*LOCAL)
    live.until("HELD BY")
    live.process.send_signal(number)
    assert live.ended() == 0
    assert SCREEN_OFF in live.shown


def test_a_closed_connection_ends_the_live_view(terminal: Callable[..., OnTerminal]) -> None:
    live = terminal(*LOCAL)
    live.until("HELD BY")
    os.close(live._own_end)
    assert live.process.wait(WAIT_SECONDS) == 0


@pytest.mark.parametrize(("environment", "has_colours"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_used_unless_no_color_is_set(
    terminal: Callable[..., OnTerminal], environment: dict[str, str], has_colours: bool
) -> None:
    live = terminal("--address", f"127.0.0.1:{free_port()}", **environment)
    live.until("nothing listens there")
    live.press("q")
    assert live.ended() == 0
    assert (b"\x1b[31m" in live.shown) is has_colours


def test_an_unknown_terminal_ends_with_exit_status_2(terminal: Callable[..., OnTerminal]) -> None:
    live = terminal(*LOCAL, TERM="none-such")
    assert live.ended() == 2
    assert b"the terminal 'none-such' is not known here" in live.shown
    assert SCREEN_ON not in live.shown
