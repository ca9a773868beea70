# SPDX-License-Identifier: Apache-2.0
"""Tests of the content of the image: it runs, and it holds only what is locked and used."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from scripts import image

from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from tests.limits import WAIT_SECONDS
from tests.serving import SERVING, ref

HOME = Path(__file__).resolve().parent.parent.parent
LOCK = (HOME / "requirements" / "run.txt").read_text()
# A hostile surrounding: what it names must neither be imported nor change what is done.
SURROUNDINGS = {"PATH": "/nowhere", "PYTHONPATH": "/nowhere", "PYTHONSTARTUP": "/nowhere", "PYTHONVERBOSE": "1"}
PORTS = ("--host", "127.0.0.1", "--port", "0", "--metrics-port", "0", "--probe-port", "0")


def library(layout: Path) -> Path:
    return layout / "lib" / image.COMMAND


def files(layout: Path) -> dict[str, int]:
    return {str(path.relative_to(layout)): path.stat().st_mtime_ns for path in layout.rglob("*")}


def first_value(address: str) -> float:
    """Ask as KEDA does, as soon as there is a snapshot to speak of."""
    with grpc.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_SECONDS)
        next(answer for answer in watch if answer.status == SERVING)
        watch.cancel()
        stub = pb_grpc.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]
        request = pb.GetMetricsRequest(scaledObjectRef=ref(windowSeconds="0"))
        value: float = stub.GetMetrics(request, timeout=WAIT_SECONDS).metricValues[0].metricValueFloat
        return value


def test_it_serves_without_path_or_environment_and_writes_nothing(layout: Path) -> None:
    before = files(layout)
    command = (str(layout / "bin" / image.COMMAND), "serve", "--backend", "synthetic", *PORTS)
    # The folder takes no writes, as where the root is read-only; root is not stopped by that, hence the comparison too.
    for path in (layout, *layout.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    process = subprocess.Popen(command, env=SURROUNDINGS, cwd="/", stderr=subprocess.PIPE, text=True)
    watchdog = threading.Timer(WAIT_SECONDS, process.kill)
    watchdog.start()
    assert process.stderr is not None
    with process.stderr:
        messages = (json.loads(line)["message"] for line in process.stderr)
        port = next(found[1] for message in messages if (found := re.search(r"on port (\d+)", message)))
        value = first_value(f"127.0.0.1:{port}")
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.wait(WAIT_SECONDS) == 0
    watchdog.cancel()
    assert 0 <= value <= 100
    assert files(layout) == before


def test_it_imports_only_itself_and_the_standard_library(layout: Path) -> None:
    probe = (
        "import sys; sys.argv[1:] = ['version']; import runpy\n"
        f"try: runpy.run_path({str(layout / 'bin' / image.COMMAND)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "import json, keda_gpu_scaler.agent, keda_gpu_scaler.cli.probe.command, keda_gpu_scaler.cli.record.command\n"
        "import keda_gpu_scaler.kube.workloads, keda_gpu_scaler.devices.nvml.backend, pynvml, httpx, yaml\n"
        "import keda_gpu_scaler.cli.page, keda_gpu_scaler.kube.port_forward, rich.table\n"
        "print(json.dumps([sys.path, sorted({m.__file__ for m in sys.modules.values() if getattr(m, '__file__', 0)})]))"
    )
    done = subprocess.run((sys.executable, "-IBSOO", "-c", probe), capture_output=True, text=True, check=True)
    path, loaded = json.loads(done.stdout.splitlines()[-1])
    assert path[0] == str(library(layout))
    standard = Path(os.__file__).parent
    foreign = [
        name
        for name in loaded
        if not Path(name).is_relative_to(layout)
        and not (Path(name).is_relative_to(standard) and "site-packages" not in name)
        and Path(name) != layout / "bin" / image.COMMAND
    ]
    assert not foreign


def test_every_module_is_compiled_and_never_held_against_its_source(layout: Path) -> None:
    sources = list(library(layout).rglob("*.py"))
    assert len(sources) > 300
    for source in sources:
        (compiled,) = source.parent.glob(f"__pycache__/{source.stem}.{sys.implementation.cache_tag}.opt-2.pyc")
        # PEP 552: the flags follow the magic number; 0b01 is a hash in the place of a date, that nobody compares.
        assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00", compiled


def test_tracebacks_speak_of_the_place_in_the_image(layout: Path) -> None:
    compiled = next(library(layout).glob("keda_gpu_scaler/__pycache__/agent.*.pyc"))
    assert b"/usr/local/lib/keda-gpu-scaler/keda_gpu_scaler/agent.py" in compiled.read_bytes()
    assert str(layout).encode() not in compiled.read_bytes()


def test_it_holds_what_is_locked_and_itself_and_nothing_else(layout: Path) -> None:
    def canonical(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK, re.MULTILINE))
    held = {canonical(name): version for name, version in image.distributions(library(layout))}
    assert held == {**pinned, "keda-gpu-scaler": importlib.metadata.version("keda-gpu-scaler")}


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("pip", id="no installer"),
        pytest.param("bin/*", id="no commands of the packages"),
        pytest.param("*.pyi", id="no types"),
        pytest.param("*.c", id="no C"),
        pytest.param("*.proto", id="no protocol sources"),
        pytest.param("direct_url.json", id="no paths of the builder"),
        pytest.param("tests", id="no tests"),
    ],
)
def test_what_nobody_reads_is_gone(layout: Path, pattern: str) -> None:
    assert list(library(layout).rglob(pattern)) == []


def test_licences_stay(layout: Path) -> None:
    for package in ("grpcio", "httpx", "keda_gpu_scaler"):
        assert list(library(layout).glob(f"{package}-*.dist-info/**/LICENSE*")), package


def test_rights_and_dates_do_not_depend_on_who_builds(layout: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    (again / "bin").mkdir(parents=True)
    (again / "lib").mkdir(mode=0o700)
    (again / "lib" / "module.py").write_text("")
    (again / "bin" / image.COMMAND).write_text("")
    image.settle(again)
    assert {(path.name, path.stat().st_mode & 0o777) for path in again.rglob("*")} == {
        ("bin", 0o755),
        (image.COMMAND, 0o755),
        ("lib", 0o755),
        ("module.py", 0o644),
    }
    assert len({path.stat().st_mtime for path in (*again.rglob("*"), *layout.rglob("*"))}) == 1


def test_the_contents_are_told_with_their_size(layout: Path) -> None:
    told = image.contents(layout)
    assert "grpcio 1." in told
    size = re.search(r"([\d.]+) MiB in all, \d+ files", told)
    assert size
    # docs/releasing.md states 36 MiB; a change that adds to it must be noticed.
    assert 20 < float(size[1]) < 40


MISTAKES = [
    pytest.param({"out": "."}, "exists: name a folder that does not", id="a folder that is there is left alone"),
    pytest.param(
        {"platform": "linux/s390x"},
        "platform: Unsupported value: 'linux/s390x': supported values: linux/amd64, linux/arm64",
        id="another platform is refused with those there are",
    ),
    pytest.param(
        {"python": "/usr/bin/python3.99"},
        "the image runs /usr/bin/python3.99, but this is Python 3.",
        id="bytecode of another Python is refused",
    ),
]


@pytest.mark.parametrize(("mistake", "sentence"), MISTAKES)
def test_a_mistake_is_told_before_anything_is_made(tmp_path: Path, mistake: dict[str, str], sentence: str) -> None:
    out = tmp_path / mistake.get("out", "out")
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        image.lay_out(out, mistake.get("python", sys.executable), mistake.get("platform"))
    assert list(tmp_path.iterdir()) == []


def needed(distribution: str) -> set[str]:
    """A distribution and all it needs, by its own word."""
    names = {distribution}
    for requirement in importlib.metadata.requires(distribution) or ():
        if ";" not in requirement:
            names |= needed(re.split(r"[^A-Za-z0-9_-]", requirement)[0])
    return names


def test_the_build_tools_are_all_that_hatchling_needs() -> None:
    assert needed("hatchling") == set(image.BUILD_TOOLS)


def test_the_build_tools_are_cut_out_of_the_lock_with_their_hashes() -> None:
    cut = image.locked(image.BUILD_TOOLS, (HOME / "requirements" / "dev.txt").read_text())
    assert re.findall(r"^([a-z-]+)==", cut, re.MULTILINE) == list(image.BUILD_TOOLS)
    assert cut.count("--hash=sha256:") >= len(image.BUILD_TOOLS)
    with pytest.raises(SystemExit, match="has no nonsense"):
        image.locked(["nonsense"], cut)
