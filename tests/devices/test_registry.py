# SPDX-License-Identifier: Apache-2.0
"""A vendor is one module of devices/: a dummy that registers itself appears everywhere."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.trigger.metrics import METRICS
from keda_gpu_scaler.devices.registry import (
    BackendSettings,
    Vendor,
    find,
    is_measured,
    maker_of,
    open_backend,
    register,
    vendors,
)

DUMMY = """
import re
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.registry import DriverCheck, Vendor, VisibleDevices, register

class Acme:
    source = "acme"
    deviceless = False
    def read(self, now):
        return (Sample(Device("ACME-1", 0, "Acme One"), gpu_utilization_ratio=0.5),)
    def close(self):
        pass

register(Vendor(
    name="acme",
    title="Acme accelerators",
    open=lambda argument, settings: Acme(),
    detect=lambda settings: None,
    is_measured=True,
    metrics=("gpu_utilization",),
    units="percent of an anvil",
    visible_devices=VisibleDevices("ACME_VISIBLE", "ACME_CONTAINER", ("ACME-",), "acme{}"),
    check=DriverCheck("Acme", lambda backend, settings: "Acme driver 1.0", re.compile(r"acme\\d"), "acme-smi"),
))
"""
QUESTIONS = """
import json, sys
from keda_gpu_scaler import devices
devices.__path__.append(sys.argv[1])
from pathlib import Path
from scripts.reference import pages
from keda_gpu_scaler.agent import open_backend
from keda_gpu_scaler.cli.doctor.host_access import HostAccess
from keda_gpu_scaler.cli.doctor.node import node_checks
from keda_gpu_scaler.cli.job_environment import job_environment_of
from keda_gpu_scaler.cli.top.rows import device_rows, unmeasured_sources
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.types import Snapshot

def refusal(backend):
    try:
        open_backend(Config(backend=backend))
    except BackendError as error:
        return str(error)

files = Path(sys.argv[2])
(files / "acme0").touch()
host = HostAccess(
    device_directory=files, open_device=lambda path: None, kubelet_socket=str(files / "none"), clock_state=lambda: 0
)
config = Config(backend="acme", pod_resources="off", port=0, metrics_port=0, probe_port=0)
backend = open_backend(Config(backend="acme"))
snapshot = Snapshot("n", 1, 0.0, 0.0, backend.source, backend.read(0.0))
rows = device_rows(Fleet(History((snapshot,), 0.0), 10.0), 0.0)
print(json.dumps({
    "auto": open_backend(Config()).source,
    "refusal": refusal("acme:7"),
    "doctor": [f"{finding.check}: {finding.text}" for check in node_checks(config, host) for finding in check.run()],
    "not measured": unmeasured_sources(rows),
    "environment": str(job_environment_of({"ACME_VISIBLE": "ACME-1"}).assigned),
    "files": job_environment_of(
        {"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "1", "ACME_VISIBLE": "0"}
    ).assigned.device_files,
    "reference": [line for line in pages()["devices.md"].splitlines() if "acme" in line.lower()],
}))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program says after one file was added to devices/, in a process of its own."""
    folder, files = tmp_path_factory.mktemp("vendors"), tmp_path_factory.mktemp("dev")
    (folder / "acme.py").write_text(DUMMY)
    command = (sys.executable, "-c", QUESTIONS, str(folder), str(files))
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert outcome.returncode == 0, outcome.stderr
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


def test_auto_detects_a_vendor_that_was_added(answers: dict[str, Any]) -> None:
    assert answers["auto"] == "acme"


def test_an_unsupported_backend_is_refused_with_every_choice(answers: dict[str, Any]) -> None:
    assert answers["refusal"] == (
        '--backend: Unsupported value: "acme:7": must be one of auto, acme, amd, intel, none, nvml, '
        "replay:PATH, synthetic"
    )


def test_doctor_checks_its_driver_and_its_device_files(answers: dict[str, Any]) -> None:
    assert "driver: Acme driver 1.0" in answers["doctor"]
    assert any(line.startswith("permissions: 1 device file of ") for line in answers["doctor"])


def test_its_readings_count_as_measured(answers: dict[str, Any]) -> None:
    assert answers["not measured"] == []


def test_its_environment_variables_assign_devices(answers: dict[str, Any]) -> None:
    assert answers["environment"] == "ACME_VISIBLE=ACME-1"
    assert answers["files"] == ["acme{}"]


def test_the_reference_lists_it(answers: dict[str, Any]) -> None:
    assert answers["reference"] == [
        "| `acme` | Acme accelerators | yes | `gpu_utilization` | percent of an anvil "
        "| `ACME_VISIBLE`, `ACME_CONTAINER` |"
    ]


def test_every_module_of_the_folder_is_a_vendor_except_the_registry() -> None:
    assert [vendor.name for vendor in vendors()] == ["amd", "intel", "none", "nvml", "replay", "synthetic"]


def test_a_vendor_offers_only_metrics_that_exist() -> None:
    assert all(set(vendor.metrics) <= set(METRICS) for vendor in vendors())


@pytest.mark.parametrize(
    ("source", "measured"),
    [
        pytest.param("nvml", True, id="a driver"),
        pytest.param("replay of gpus.csv", False, id="a recording"),
        pytest.param("replay", False, id="the name of a backend without a driver"),
        pytest.param("synthetic demonstration load, not a real GPU", False, id="a demonstration"),
        pytest.param("", False, id="no source"),
        pytest.param("registry", False, id="a module that is no vendor"),
        pytest.param("../nvml", False, id="a path"),
    ],
)
def test_only_a_driver_measures(source: str, measured: bool) -> None:
    assert is_measured(source) is measured


@pytest.mark.parametrize("name", ["nvml", "auto"])
def test_a_name_is_registered_once(name: str) -> None:
    find("nvml")
    with pytest.raises(ValueError, match=f'Duplicate value: "{name}"'):
        register(Vendor(name=name, title="", open=lambda argument, settings: open_backend("none")))


def test_without_any_driver_auto_says_what_each_vendor_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError) as refusal:
        open_backend("auto", BackendSettings(library="/nowhere/libnvidia-ml.so.1", sysfs_root="/nowhere"))
    assert str(refusal.value).startswith(
        "--backend auto: no AMD GPU here (/nowhere/class/drm: No such file or directory), "
        "no Intel GPU here (/nowhere/class/drm: No such file or directory), no NVIDIA driver library here ("
    )
    assert str(refusal.value).endswith(
        "or choose another backend: none (no device by design), replay:PATH (a recording, played in a loop), "
        "synthetic (a demonstration load, not a measurement)"
    )


def test_opening_one_backend_imports_no_other_vendor() -> None:
    script = (
        "import sys; from keda_gpu_scaler.devices.registry import open_backend; open_backend('none');"
        "print(*sorted(name for name in sys.modules if name.startswith('keda_gpu_scaler.devices.')))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["keda_gpu_scaler.devices.none", "keda_gpu_scaler.devices.registry"]


def test_a_node_of_nvidia_imports_no_other_vendor() -> None:
    script = (
        "import sys; from keda_gpu_scaler.devices.registry import open_backend; open_backend('nvml');"
        "print(*sorted({name.split('.')[2] for name in sys.modules if name.startswith('keda_gpu_scaler.devices.')}))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["failure_log", "nvml", "rates", "reader_threads", "registry"]


def test_detection_loads_no_binding_of_a_driver() -> None:
    script = (
        "import sys; from keda_gpu_scaler.devices.registry import vendors; list(vendors());"
        "print([name for name in sys.modules if name in ('pynvml', 'fcntl') or name.endswith(('.backend', '.memory'))])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("uuid", "maker"),
    [
        ("GPU-5a1c", "NVIDIA"),
        ("MIG-5a1c", "NVIDIA"),
        ("amd-e3aa140f9a5f9e31-3", "AMD"),
        ("intel-0000:03:00.0", "Intel"),
        ("synthetic-gpu-0", ""),
        ("", ""),
    ],
)
def test_the_maker_of_a_device_is_that_of_the_vendor_with_such_uuids(uuid: str, maker: str) -> None:
    assert maker_of(uuid) == maker
