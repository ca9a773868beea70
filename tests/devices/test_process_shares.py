# SPDX-License-Identifier: Apache-2.0
"""Tests of what the processes of pods use of a GPU, and of the pod of a process by its cgroup."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.agent import open_backend
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.pod_use import PROCESS_UTILIZATION, PodUse
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices.nvml.backend import NvmlBackend
from keda_gpu_scaler.devices.nvml.process_shares import pod_uid, sum_uses
from tests.fake_nvml import (
    FUNCTION_NOT_FOUND,
    GIB,
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_SUPPORTED,
    UNKNOWN,
    FakeNvml,
    Process,
    Slice,
    forget_library,
)

A = "8f1c2e66-6c3f-4f5e-9a3e-aaaaaaaaaaaa"
B = "8f1c2e66-6c3f-4f5e-9a3e-bbbbbbbbbbbb"
UNDERSCORES = A.replace("-", "_")
STATIC = "0123456789abcdef0123456789abcdef"
CONTAINER = "ab" * 32
SYSTEMD = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORES}.slice"


@pytest.mark.parametrize(
    ("cgroup", "uid"),
    [
        pytest.param(f"0::{SYSTEMD}/cri-containerd-{CONTAINER}.scope", A, id="version 2, systemd, containerd"),
        pytest.param(f"0::{SYSTEMD}/crio-{CONTAINER}.scope", A, id="version 2, systemd, CRI-O"),
        pytest.param(f"0::{SYSTEMD}/crio-{CONTAINER}.scope/container", A, id="version 2, CRI-O with a cgroup within"),
        pytest.param(f"0::/kubepods/burstable/pod{A}/{CONTAINER}", A, id="version 2, cgroupfs"),
        pytest.param(f"0::/kubepods/pod{A}/{CONTAINER}", A, id="a guaranteed pod, cgroupfs"),
        pytest.param(f"0::/kubepods/pod{A}", A, id="the pod's own cgroup"),
        pytest.param(
            f"0::/kubepods.slice/kubepods-pod{UNDERSCORES}.slice/cri-containerd-{CONTAINER}.scope",
            A,
            id="a guaranteed pod, systemd",
        ),
        pytest.param(
            f"0::/../../kubepods-besteffort-pod{UNDERSCORES}.slice/cri-containerd-{CONTAINER}.scope",
            A,
            id="as a container with a cgroup namespace sees it, systemd",
        ),
        pytest.param(f"0::/../../pod{A}/{CONTAINER}", A, id="as a container with a cgroup namespace sees it, cgroupfs"),
        pytest.param(
            f"12:devices:/kubepods/besteffort/pod{A}/{CONTAINER}\n3:memory:/kubepods/besteffort/pod{A}/{CONTAINER}\n"
            "1:name=systemd:/",
            A,
            id="version 1, cgroupfs",
        ),
        pytest.param(
            f"11:cpu,cpuacct:/system.slice/containerd.service/kubepods-burstable-pod{UNDERSCORES}.slice"
            f":cri-containerd:{CONTAINER}",
            A,
            id="version 1, containerd with another cgroup driver than the kubelet",
        ),
        pytest.param(
            f"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDERSCORES}.slice/x.scope",
            A,
            id="a kubelet with a cgroup root",
        ),
        pytest.param(f"0::/kubepods/burstable/pod{STATIC}/{CONTAINER}", STATIC, id="a static pod"),
        pytest.param(
            f"0::/kubepods/pod{A}/{CONTAINER}/kubepods/pod{B}/x", A, id="the outermost pod, whatever a container makes"
        ),
        pytest.param(f"2:cpu:/kubepods/pod{A}/x\n1:memory:/kubepods/pod{B}/x", "", id="two pods are none"),
        pytest.param("0::/system.slice/gdm.service", "", id="a service of the host"),
        pytest.param(f"0::/system.slice/docker-{CONTAINER}.scope", "", id="a container without a pod"),
        pytest.param("0::/user.slice/podman-1.scope", "", id="no UID behind the word"),
        pytest.param(f"0::/kubepods/pod{A}0/x", "", id="a UID that is too long"),
        pytest.param("", "", id="a process that has ended"),
    ],
)
def test_the_pod_of_a_process_is_in_its_cgroup(cgroup: str, uid: str) -> None:
    assert pod_uid(cgroup) == uid
    assert pod_uid(cgroup + "\n") == uid


@given(st.text())
def test_any_text_has_a_pod_or_none(text: str) -> None:
    assert isinstance(pod_uid(text), str)


# ---- the driver ----


class Host:
    """A folder in the place of /proc."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.add("1", "0::/init.scope")
        self.add("self", "0::/")

    def add(self, pid: int | str, cgroup: str, comm: str = "python3") -> None:
        folder = self.proc / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup").write_text(f"{cgroup}\n")
        (folder / "comm").write_text(f"{comm}\n")

    def end(self, pid: int) -> None:
        (self.proc / str(pid) / "cgroup").unlink()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    found = Host(tmp_path / "proc")
    found.add(11, f"0::/kubepods/pod{A}/x")
    found.add(12, f"0::/kubepods/pod{A}/y")
    found.add(21, f"0::/kubepods/pod{B}/x")
    found.add(31, "0::/system.slice/display.service")
    return found


Read = Callable[[], Sample]


@pytest.fixture
def read(fake_nvml: FakeNvml, host: Host) -> Iterator[Read]:
    """Reads the first GPU, once a second."""
    backend = NvmlBackend(fake_nvml.library, measure_shares=True, proc=host.proc)
    now = iter(range(1000))
    yield lambda: backend.read(float(next(now)))[0]
    backend.close()


def reason(sample: Sample) -> str:
    failure = sample.failure_of(PROCESS_UTILIZATION)
    return failure.reason if failure else ""


def test_the_processes_of_a_pod_are_added_up(fake_nvml: FakeNvml, read: Read) -> None:
    fake_nvml.device(0).utilisation = (70, 10)
    fake_nvml.device(0).run_processes(
        Process(11, 30, GIB), Process(12, 10, 2 * GIB), Process(21, 20, GIB, memory_time=5)
    )
    sample = read()
    assert sample.uses == (PodUse(A, 0.4, 0.0, 3 * GIB), PodUse(B, 0.2, 0.05, GIB))
    assert (sample.gpu_utilization_ratio, sample.failures) == (0.7, ())


def test_without_the_flag_nothing_of_it_is_read(fake_nvml: FakeNvml, host: Host) -> None:
    fake_nvml.device(0).run_processes(Process(11, 30))
    backend = NvmlBackend(fake_nvml.library, proc=host.proc)
    assert [sample.uses for sample in backend.read(0.0)] == [None, None]
    assert not fake_nvml.calls("compute processes", "graphics processes", "process utilisation")
    backend.close()


def test_the_setting_reaches_the_backend(fake_nvml: FakeNvml) -> None:
    for is_measured in (False, True):
        backend = open_backend(Config(backend="nvml", nvml_library=fake_nvml.library, measure_shares=is_measured))
        sample = backend.read(0.0)[0]
        # Whether this machine shows the processes of the host does not matter: either is an answer.
        assert (sample.uses is not None or reason(sample) != "") is is_measured
        backend.close()
        forget_library()


def test_a_process_of_no_pod_is_listed_without_one(fake_nvml: FakeNvml, read: Read) -> None:
    fake_nvml.device(0).run_processes(Process(31, 50, GIB, graphics=True), Process(99, 5, GIB), Process(11, 1, GIB))
    assert read().uses == (PodUse("", 0.55, 0.0, 2 * GIB), PodUse(A, 0.01, 0.0, GIB))


def test_no_new_sample_is_no_use(fake_nvml: FakeNvml, read: Read) -> None:
    fake_nvml.device(0).run_processes(Process(11, 30, at_us=500))
    assert read().uses == (PodUse(A, 0.3, 0.0, GIB),)
    assert read().uses == (PodUse(A, 0.0, 0.0, GIB),)  # the driver returns NOT_FOUND
    fake_nvml.device(0).run_processes(Process(11, 40, at_us=501))
    assert read().uses == (PodUse(A, 0.4, 0.0, GIB),)
    fake_nvml.device(0).run_processes()
    sample = read()
    assert (sample.uses, sample.failures) == ((), ())


def test_an_implausible_sample_does_not_count(fake_nvml: FakeNvml, read: Read) -> None:
    fake_nvml.device(0).run_processes(Process(11, 30), Process(21, 4_000_000), Process(12, 1, memory_time=101))
    assert read().uses == (PodUse(A, 0.3, 0.0, 2 * GIB), PodUse(B, 0.0, 0.0, GIB))


def test_the_newest_sample_of_a_process_counts(fake_nvml: FakeNvml, read: Read) -> None:
    newer = Process(11, 80, at_us=900, running=False)
    fake_nvml.device(0).run_processes(Process(11, 30, at_us=800), newer)
    assert read().uses == (PodUse(A, 0.8, 0.0, GIB),)


def test_a_process_that_ended_has_the_pod_of_the_read_before(fake_nvml: FakeNvml, host: Host, read: Read) -> None:
    fake_nvml.device(0).run_processes(Process(11, 30, at_us=100))
    read()
    host.end(11)
    fake_nvml.device(0).run_processes(Process(11, 20, at_us=200, running=False))
    assert read().uses == (PodUse(A, 0.2, 0.0, 0),)
    fake_nvml.device(0).run_processes(Process(11, 10, at_us=300, running=False))
    assert read().uses == (PodUse("", 0.1, 0.0, 0),)


def test_a_process_that_ends_during_the_read_has_the_pod_of_the_read_before(
    fake_nvml: FakeNvml, host: Host, read: Read
) -> None:
    fake_nvml.device(0).run_processes(Process(11, 30, at_us=100))
    read()
    host.end(11)
    fake_nvml.device(0).run_processes(Process(11, 20, at_us=200))
    assert read().uses == (PodUse(A, 0.2, 0.0, GIB),)


def test_a_number_that_another_process_has_by_now_is_of_that_process(
    fake_nvml: FakeNvml, host: Host, read: Read
) -> None:
    fake_nvml.device(0).run_processes(Process(11, 30, at_us=100))
    read()
    host.add(11, "0::/system.slice/other.service")
    fake_nvml.device(0).run_processes(Process(11, 20, at_us=200))
    assert read().uses == (PodUse("", 0.2, 0.0, GIB),)


def test_memory_that_the_driver_does_not_return_is_unknown(fake_nvml: FakeNvml, read: Read) -> None:
    fake_nvml.device(0).run_processes(Process(11, 30, None), Process(12, 30, GIB))
    assert read().uses == (PodUse(A, 0.6, 0.0, None),)


@pytest.mark.parametrize("call", ["compute processes", "graphics processes", "process utilisation"])
@pytest.mark.parametrize("code", [NO_PERMISSION, UNKNOWN])
def test_a_refusal_has_a_reason_and_costs_no_other_reading(
    call: str, code: int, fake_nvml: FakeNvml, read: Read
) -> None:
    card = fake_nvml.device(0)
    card.utilisation = (70, 10)
    card.run_processes(Process(11, 30))
    card.refuse(call, code)
    sample = read()
    assert sample.uses is None
    assert f"({code})" in reason(sample)
    assert sample.gpu_utilization_ratio == 0.7
    card.allow(call)
    sample = read()
    assert sample.uses == (PodUse(A, 0.3, 0.0, GIB),)
    assert sample.failures == ()


@pytest.mark.parametrize("code", [NOT_SUPPORTED, FUNCTION_NOT_FOUND])
def test_a_driver_without_the_call_has_a_reason_for_good(code: int, fake_nvml: FakeNvml, read: Read) -> None:
    fake_nvml.device(0).run_processes(Process(11, 30))
    fake_nvml.device(0).refuse("process utilisation", code)
    sample = read()
    failure = sample.failure_of(PROCESS_UTILIZATION)
    assert sample.uses is None
    assert failure is not None
    assert failure.since_seconds is None


def test_a_driver_without_processes_that_draw_has_the_others(fake_nvml: FakeNvml, read: Read) -> None:
    fake_nvml.device(0).run_processes(Process(11, 30))
    fake_nvml.device(0).refuse("graphics processes", NOT_SUPPORTED)
    assert read().uses == (PodUse(A, 0.3, 0.0, GIB),)


def test_not_found_is_no_process_at_work(fake_nvml: FakeNvml, read: Read) -> None:
    fake_nvml.device(0).run_processes(Process(11, None))
    fake_nvml.device(0).refuse("process utilisation", NOT_FOUND)
    assert read().uses == (PodUse(A, 0.0, 0.0, GIB),)


def test_a_gpu_that_is_lost_during_the_call_is_lost(fake_nvml: FakeNvml, read: Read) -> None:
    fake_nvml.device(0).refuse("compute processes", GPU_IS_LOST)
    sample = read()
    assert not sample.has_reading
    assert sample.failure_of("") is not None


def test_a_call_that_hangs_keeps_its_own_gpu_alone(fake_nvml: FakeNvml, host: Host) -> None:
    backend = NvmlBackend(fake_nvml.library, measure_shares=True, proc=host.proc)
    backend.read(0.0)
    fake_nvml.device(0).hang("process utilisation")
    hung, other = backend.read(1.0)
    assert not hung.has_reading
    assert other.uses == ()
    fake_nvml.release()
    backend.close()


def test_a_mig_slice_has_no_use_and_a_reason(fake_nvml: FakeNvml, read: Read) -> None:
    fake_nvml.device(0).mig = True
    fake_nvml.device(0).slices = [Slice("MIG-00000000-0000-0000-0000-00000000000a", instances=(7, 0))]
    sample = read()
    assert sample.uses is None
    assert reason(sample) == "NVML has no utilisation of processes in MIG mode"
    assert sample.memory_used_bytes is not None


def test_without_the_hosts_pid_namespace_no_call_is_made(fake_nvml: FakeNvml, host: Host, read: Read) -> None:
    host.add("1", "0::/")
    sample = read()
    assert sample.uses is None
    assert "needs hostPID" in reason(sample)
    assert not fake_nvml.calls("compute processes", "process utilisation")


def test_an_mps_server_does_the_work_of_others(fake_nvml: FakeNvml, host: Host, read: Read) -> None:
    host.add(41, f"0::/kubepods/pod{B}/x", comm="nvidia-cuda-mps")
    fake_nvml.device(0).run_processes(Process(11, 30), Process(41, 60))
    sample = read()
    assert sample.uses is None
    assert "MPS" in reason(sample)


RATIOS = st.integers(0, 100).map(lambda percent: percent / 100)
USES = st.lists(st.builds(PodUse, st.sampled_from(["", A, B]), RATIOS, RATIOS, st.none() | st.integers(0, GIB)))


@given(USES)
def test_sums_by_pod_lose_nothing(uses: list[PodUse]) -> None:
    summed = sum_uses(uses)
    assert [use.pod_uid for use in summed] == sorted({use.pod_uid for use in uses})
    assert sum(use.sm_ratio for use in summed) == pytest.approx(sum(use.sm_ratio for use in uses))
    for use in summed:
        parts = [one.memory_bytes for one in uses if one.pod_uid == use.pod_uid]
        assert use.memory_bytes == (None if None in parts else sum(part or 0 for part in parts))
