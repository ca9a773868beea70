# SPDX-License-Identifier: Apache-2.0
"""Tests the checks of a node: driver, device files, kubelet, ports and clock."""

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from keda_gpu_scaler.cli.doctor.host_access import HostAccess
from keda_gpu_scaler.cli.doctor.node import node_checks
from tests.cli.doctor.support import HOST, PLAIN, findings_of
from tests.devices.sysfs_tree import AMD, BATTLEMAGE, INSTINCT, INTEL, SysfsTree, write
from tests.fake_nvml import NOT_SUPPORTED, Card, FakeNvml
from tests.free_ports import free_port
from tests.kubelet import FakeKubelet
from tests.serving import Serving


def test_a_driver_reports_its_version_and_its_devices(fake_nvml: FakeNvml) -> None:
    config = replace(PLAIN, backend="nvml", nvml_library=str(fake_nvml.library))
    assert findings_of(node_checks(config, HOST), "driver", "devices") == [
        f"ok: NVIDIA's, version 999.99.99, through {fake_nvml.library}",
        "ok: 2 devices: 2 of NVIDIA Fake 80GB",
    ]


def test_a_driver_without_a_version_is_ok(fake_nvml: FakeNvml) -> None:
    fake_nvml.refuse("driver version", NOT_SUPPORTED)
    config = replace(PLAIN, backend="nvml", nvml_library=str(fake_nvml.library))
    assert findings_of(node_checks(config, HOST), "driver")[0].startswith("ok: NVIDIA's, of an unknown version")


def test_missing_readings_of_a_device_are_named(fake_nvml: FakeNvml) -> None:
    fake_nvml.device(1).refuse("utilisation")
    config = replace(PLAIN, backend="nvml", nvml_library=str(fake_nvml.library))
    assert findings_of(node_checks(config, HOST), "devices")[1:] == [
        "warning: unknown for device 1: gpu_utilization, memory_utilization"
    ]


def test_a_device_without_a_reading_is_a_problem(fake_nvml: FakeNvml) -> None:
    fake_nvml.devices = [Card("GPU-a"), Card("GPU-b", pci_bus_id="00000000:3B:00.0")]
    for call in ("utilisation", "memory v1", "memory v2", "temperature v1", "temperature v2", "power"):
        fake_nvml.device(1).refuse(call)
    config = replace(PLAIN, backend="nvml", nvml_library=str(fake_nvml.library))
    assert findings_of(node_checks(config, HOST), "devices")[1:] == [
        "problem: device 1 (GPU-b) has no reading: Not Supported (3)"
    ]


def test_a_driver_that_hangs_is_abandoned(fake_nvml: FakeNvml) -> None:
    config = replace(PLAIN, backend="nvml", nvml_library=str(fake_nvml.library))
    fake_nvml.hang("init")
    try:
        assert findings_of(node_checks(config, replace(HOST, driver_timeout_seconds=0.2)), "driver", "devices") == [
            "problem: it did not answer within 0.2 s",
            "skipped: the driver does not answer",
        ]
    finally:
        fake_nvml.release()


@pytest.mark.parametrize(
    ("backend", "library", "expected"),
    [
        pytest.param("nvml", "/nowhere.so", "problem: cannot load /nowhere.so: ", id="a missing library"),
        pytest.param(
            "auto",
            "/nowhere.so",
            "problem: --backend auto: no AMD GPU here (/nowhere/class/drm: No such file or directory), "
            "no Intel GPU here (/nowhere/class/drm: No such file or directory), no NVIDIA driver library here",
            id="no driver is detected",
        ),
        pytest.param("magic", None, "problem: --backend: Unsupported value", id="an unknown backend"),
        pytest.param("none", None, "skipped: --backend none has no device by design", id="no device by design"),
        pytest.param("synthetic", None, "ok: no driver is needed: the readings are a synthetic", id="a demonstration"),
    ],
)
def test_a_backend_without_a_working_driver(backend: str, library: str | None, expected: str) -> None:
    config = replace(PLAIN, backend=backend, nvml_library=library, sysfs_root="/nowhere")
    assert findings_of(node_checks(config, HOST), "driver")[0].startswith(expected)


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    """A node with a card of AMD and one of Intel."""
    tree = SysfsTree(tmp_path / "sys")
    tree.card(0, "0000:05:00.0", files=INSTINCT)
    tree.card(1, "0000:04:00.0", vendor=INTEL, device="0xe211", driver="xe", files=BATTLEMAGE)
    return tree


def test_each_vendor_of_a_node_is_checked(tree: SysfsTree, fake_nvml: FakeNvml) -> None:
    config = replace(PLAIN, backend="auto", nvml_library=str(fake_nvml.library), sysfs_root=str(tree.root))
    checks = node_checks(config, replace(HOST, sleep=lambda seconds: None))
    assert findings_of(checks, "driver", "devices") == [
        f"ok: AMD's amdgpu, through {tree.root}: 1 from gpu_metrics 1.8",
        "ok: 1 device: 1 of AMD Instinct MI300X OAM",
        f"ok: Intel's, through {tree.root}: 1 with xe",
        "ok: 1 device: 1 of Intel Arc Pro B60",
        "warning: unknown for device 0: gpu_utilization, memory_utilization, memory_used_mib, memory_used_percent, "
        "power_draw",
        f"ok: NVIDIA's, version 999.99.99, through {fake_nvml.library}",
        "ok: 2 devices: 2 of NVIDIA Fake 80GB",
    ]


def test_rates_are_read_twice(tree: SysfsTree) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        write(tree.root / "devices/pci0000:00/0000:04:00.0", {"hwmon/hwmon4/temp2_input": ""})

    config = replace(PLAIN, backend="intel", sysfs_root=str(tree.root))
    findings = [one for check in node_checks(config, replace(HOST, sleep=sleep)) for one in check.run()]
    assert waits == [0.2]
    [unknown] = [one for one in findings if one.check == "devices" and one.heading]
    # The second read counts, in which the temperature is gone too.
    assert unknown.text == "device 0 (intel-0000:04:00.0) has no reading: the card has no render node"
    assert any(one.text == "--backend intel opens no device file" for one in findings)


def test_an_unknown_memory_of_intel_says_how_to_grant_it(tree: SysfsTree) -> None:
    config = replace(PLAIN, backend="intel", sysfs_root=str(tree.root))
    checks = node_checks(config, replace(HOST, sleep=lambda seconds: None))
    [unknown] = [one for check in checks for one in check.run() if one.check == "devices" and one.heading]
    assert "memory_used_mib, memory_used_percent" in unknown.text
    assert "CAP_PERFMON" in unknown.remedy


def refusing(number: int) -> Callable[[Path], None]:
    def open_device(path: Path) -> None:
        if path.name == "nvidia1":
            raise OSError(number, os.strerror(number))

    return open_device


@pytest.mark.parametrize(
    ("files", "opening", "expected"),
    [
        pytest.param(
            ("nvidiactl", "nvidia0", "nvidia-modeset", "null"),
            refusing(0),
            "ok: 2 device files of",
            id="every file can be opened",
        ),
        pytest.param(
            ("nvidiactl", "nvidia1"),
            refusing(errno.EPERM),
            "problem: ",
            id="the device rules of the runtime forbid one",
        ),
        pytest.param(
            ("nvidiactl", "nvidia1"), refusing(errno.EIO), "ok: 2 device files", id="a device that fell off the bus"
        ),
        pytest.param((), refusing(0), "problem: ", id="no device file"),
    ],
)
def test_each_device_file_is_opened(
    files: tuple[str, ...], opening: Callable[[Path], None], expected: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    config = replace(PLAIN, backend="nvml", nvml_library="/nowhere.so")
    [finding] = findings_of(
        node_checks(config, replace(HOST, device_directory=tmp_path, open_device=opening)), "permissions"
    )
    assert finding.startswith(expected)


def test_the_kubelet_lists_the_holders_of_devices(tmp_path: Path, fake_nvml: FakeNvml) -> None:
    fake_nvml.devices = [Card("GPU-00000000-0000-0000-0000-00000000000a")]
    config = replace(PLAIN, backend="nvml", nvml_library=str(fake_nvml.library), pod_resources=f"{tmp_path}/k.sock")
    with FakeKubelet(tmp_path / "k.sock") as kubelet:
        kubelet.hold(
            {
                "llama-0": ["GPU-00000000-0000-0000-0000-00000000000a"],
                "llama-1": ["GPU-00000000-0000-0000-0000-0000000000ff"],
            }
        )
        assert findings_of(node_checks(config, HOST), "allocations") == [
            f"ok: {tmp_path}/k.sock lists 2 allocations; pods with devices that the driver lists: 1",
            "warning: ai/llama-1 holds GPU-00000000-0000-0000-0000-0000000000ff, which the driver does not list",
        ]
        kubelet.error = grpc.StatusCode.UNIMPLEMENTED
        assert findings_of(node_checks(config, HOST), "allocations") == [
            f"problem: {tmp_path}/k.sock: this kubelet does not serve the PodResources API v1"
        ]


def test_an_id_of_a_scheduler_that_shares_gpus_is_no_fault(tmp_path: Path, fake_nvml: FakeNvml) -> None:
    uuids = [f"GPU-00000000-0000-0000-0000-00000000000{digit}" for digit in "ab"]
    fake_nvml.devices = [Card(uuid) for uuid in uuids]
    config = replace(PLAIN, backend="nvml", nvml_library=str(fake_nvml.library), pod_resources=f"{tmp_path}/k.sock")
    with FakeKubelet(tmp_path / "k.sock") as kubelet:
        kubelet.hold({"llama-0": [f"{uuids[0]}-3"]})
        assert findings_of(node_checks(config, HOST), "allocations") == [
            f"ok: {tmp_path}/k.sock lists 1 allocation; pods with devices that the driver lists: 0",
            f"skipped: ai/llama-0 holds {uuids[0]}-3, which names no device",
        ]


@pytest.mark.parametrize(
    ("pod_resources", "is_pod", "expected"),
    [
        pytest.param("auto", False, "skipped: the kubelet's socket does not exist", id="a plain host"),
        pytest.param("auto", True, "problem: the kubelet's socket does not exist", id="a pod of the scaler"),
        pytest.param("off", True, "skipped: --pod-resources off", id="allocations are off"),
        pytest.param(
            "/nowhere/k.sock", False, "problem: cannot open /nowhere/k.sock: there is no such", id="a wrong path"
        ),
    ],
)
def test_a_missing_kubelet(pod_resources: str, is_pod: bool, expected: str, tmp_path: Path) -> None:
    host = replace(HOST, kubelet_socket=str(tmp_path / "none.sock"), is_pod=is_pod)
    [finding] = findings_of(node_checks(replace(PLAIN, pod_resources=pod_resources), host), "allocations")
    assert finding.startswith(expected)


def test_free_ports_and_ports_of_another_program() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = replace(PLAIN, host="127.0.0.1", port=free_port(), metrics_port=port)
        assert findings_of(node_checks(config, HOST), "ports") == [
            f"ok: --port {config.port} is free",
            f"problem: --metrics-port {port}: another program listens there",
            "skipped: --probe-port 0: it is off",
        ]


def test_an_address_of_another_machine_is_a_problem() -> None:
    [finding, *_] = findings_of(node_checks(replace(PLAIN, host="192.0.2.1", port=6000), HOST), "ports")
    assert finding.startswith("problem: --port: cannot listen on 192.0.2.1 port 6000: ")


def test_the_ports_of_a_running_instance_are_ok() -> None:
    metrics, probes = free_port(), free_port()
    arguments = ("--backend", "synthetic", "--metrics-port", str(metrics), "--probe-port", str(probes))
    with Serving(*arguments) as serving:
        serving.value_in_the_end(scope="node")
        ports = replace(PLAIN, host="127.0.0.1", port=serving.port, metrics_port=metrics, probe_port=probes)
        assert findings_of(node_checks(ports, HOST), "ports") == [
            f"ok: --port {serving.port}: an instance already serves there",
            f"ok: --metrics-port {metrics}: an instance already serves its metrics there",
            f"ok: --probe-port {probes}: a process already answers probes there",
        ]


def test_an_instance_that_is_not_ready_is_a_warning() -> None:
    with Serving("--backend", "nvml", "--nvml-library", "/nowhere.so") as serving:
        config = replace(PLAIN, host="127.0.0.1", port=serving.port)
        assert findings_of(node_checks(config, HOST), "ports")[0] == (
            f"warning: --port {serving.port}: an instance serves there and is not ready"
        )


CARD = "0000:c1:00.0"


@pytest.mark.parametrize(
    ("backend", "vendor", "device", "driver", "kind", "expected"),
    [
        pytest.param(
            *("amd", AMD, "0x74a1", "", "0x120000"),
            f"problem: {CARD} (0x1002:0x74a1) has no driver in the kernel",
            id="an accelerator of AMD without a driver",
        ),
        pytest.param(
            *("auto", AMD, "0x744c", "", "0x030000"),
            f"problem: {CARD} (0x1002:0x744c) has no driver in the kernel",
            id="a card without a driver where auto detects no vendor",
        ),
        pytest.param(
            *("amd", AMD, "0x744c", "vfio-pci", "0x030000"),
            f"warning: {CARD} (0x1002:0x744c) has the driver 'vfio-pci', and not amdgpu",
            id="a card of a virtual machine",
        ),
        pytest.param(
            *("intel", INTEL, "0xe211", "xe", "0x030000"),
            f"problem: {CARD} (0x8086:0xe211) has the driver xe, which lists no card for it",
            id="a card whose driver failed to start it",
        ),
        pytest.param("intel", INTEL, "0x643e", "", "0x120000", None, id="an NPU of Intel is no GPU"),
        pytest.param("intel", AMD, "0x744c", "", "0x030000", None, id="a card of a vendor that is not selected"),
        pytest.param("amd", AMD, "0x14da", "", "0x060000", None, id="a bridge of AMD"),
    ],
)
def test_a_device_that_no_driver_lists_is_named(
    tmp_path: Path, backend: str, vendor: str, device: str, driver: str, kind: str, expected: str | None
) -> None:
    tree = SysfsTree(tmp_path / "sys")
    tree.pci(CARD, vendor, device, driver=driver, kind=kind)
    config = replace(PLAIN, backend=backend, nvml_library="/nowhere.so", sysfs_root=str(tree.root))
    findings = findings_of(node_checks(config, HOST), "driver")
    assert findings[0].startswith("problem: ")  # no card
    assert findings[1:] == ([expected] if expected else [])


def test_a_device_that_its_driver_lists_is_no_problem(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path / "one")
    tree.card(0, CARD, files=INSTINCT)
    tree.pci(CARD, AMD, "0x74a1", driver="amdgpu", kind="0x120000")
    [finding] = findings_of(node_checks(replace(PLAIN, backend="amd", sysfs_root=str(tree.root)), HOST), "driver")
    assert finding.startswith("ok: ")


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        pytest.param("amd.com/gpu", [], id="a pod with an AMD GPU"),
        pytest.param("amd.com/cpx_nps4", [], id="a pod with a partition"),
        pytest.param("example.com/nic", ["skipped: no pod holds a device of AMD"], id="a pod with another device"),
    ],
)
def test_a_vendor_whose_devices_nobody_holds_is_named(tmp_path: Path, resource: str, expected: list[str]) -> None:
    tree = SysfsTree(tmp_path / "one")
    tree.card(0, CARD, files=INSTINCT)
    socket_path = tmp_path / "k.sock"
    config = replace(PLAIN, backend="amd", sysfs_root=str(tree.root), pod_resources=str(socket_path))
    with FakeKubelet(socket_path) as kubelet:
        kubelet.hold({"llama-0": [CARD]}, resource=resource)
        findings = findings_of(node_checks(config, HOST), "allocations")
    assert [finding for finding in findings if "no pod holds" in finding] == expected


def forbidden() -> int:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param(lambda: 0, "ok: the kernel's clock is synchronized", id="a synchronized clock"),
        pytest.param(lambda: 5, "warning: the kernel reports that no time service", id="no time service"),
        pytest.param(forbidden, "skipped: the kernel does not report", id="the runtime forbids the call"),
    ],
)
def test_the_state_of_the_clock_is_read_from_the_kernel(state: Callable[[], int], expected: str) -> None:
    [finding] = findings_of(node_checks(PLAIN, replace(HOST, clock_state=state)), "clock")
    assert finding.startswith(expected)


def test_the_clock_of_this_machine_can_be_read() -> None:
    [finding] = findings_of(node_checks(PLAIN, replace(HOST, clock_state=HostAccess().clock_state)), "clock")
    assert finding.partition(":")[0] in ("ok", "warning", "skipped")
