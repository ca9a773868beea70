# SPDX-License-Identifier: Apache-2.0
"""Tests of the PodResources client against a kubelet that a test controls."""

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.core.interfaces import Allocations
from keda_gpu_scaler.core.types import Allocation
from keda_gpu_scaler.kube import podresources
from keda_gpu_scaler.kube.podresources import PodResources
from keda_gpu_scaler.wire import podresources_pb2 as pb
from tests.contract.allocations import HELD, NOW, AllocationsContract
from tests.fakes import ManualClock
from tests.kubelet import FakeAllocations, FakeKubelet, claim, container, pod_resources
from tests.limits import WAIT_SECONDS


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[FakeKubelet]:
    with FakeKubelet(tmp_path / "kubelet.sock") as running:
        yield running


def client(kubelet: FakeKubelet, clock: ManualClock | None = None) -> PodResources:
    return PodResources(str(kubelet.path), interval_seconds=0, clock=clock or ManualClock(NOW))


def while_running(resources: PodResources, talk: Callable[[], Awaitable[None]]) -> None:
    """Run the client in a loop while ``talk`` lasts."""

    async def run() -> None:
        task = asyncio.create_task(resources.run())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await talk()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def listed_once(resources: PodResources) -> PodResources:
    while_running(resources, lambda: until(lambda: resources.held(NOW) is not None or resources.failure is not None))
    return resources


class TestTheKubelets(AllocationsContract):
    @pytest.fixture
    def allocations(self, kubelet: FakeKubelet) -> Allocations:
        kubelet.hold({"llama-1": ["GPU-0001"], "llama-0": ["GPU-0000"]})
        return listed_once(client(kubelet))

    @pytest.fixture
    def unavailable(self, tmp_path: Path) -> Allocations:
        return PodResources(str(tmp_path / "absent.sock"))


class TestTheFakes(AllocationsContract):
    @pytest.fixture
    def allocations(self) -> Allocations:
        return FakeAllocations(*HELD)

    @pytest.fixture
    def unavailable(self) -> Allocations:
        unavailable = FakeAllocations()
        unavailable.allocations = None
        return unavailable


def test_containers_and_claims_are_read_and_duplicates_are_removed(kubelet: FakeKubelet) -> None:
    kubelet.pods = [
        pod_resources(
            "llama-0",
            container("server", "nvidia.com/gpu", "GPU-1", "GPU-0", "GPU-1"),
            container("sidecar", "example.com/nic", "mlx5_0"),
            claim("worker", "gpu.nvidia.com", "gpu-3"),
        )
    ]
    assert listed_once(client(kubelet)).held(NOW) == (
        Allocation("ai", "llama-0", "server", "nvidia.com/gpu", "GPU-0"),
        Allocation("ai", "llama-0", "server", "nvidia.com/gpu", "GPU-1"),
        Allocation("ai", "llama-0", "sidecar", "example.com/nic", "mlx5_0"),
        Allocation("ai", "llama-0", "worker", "gpu.nvidia.com", "gpu-3"),
    )


def test_an_unchanged_list_is_the_same_object_and_a_changed_one_is_not(kubelet: FakeKubelet) -> None:
    clock = ManualClock(NOW)
    resources = client(kubelet, clock)
    kubelet.hold({"llama-0": ["GPU-0"], "llama-1": ["GPU-1"]})

    async def listed_again() -> tuple[Allocation, ...] | None:
        # A call that starts from now on has ended when the next call but one starts.
        calls = kubelet.calls
        await until(lambda: kubelet.calls > calls + 2)
        return resources.held(clock.now)

    async def talk() -> None:
        first = await listed_again()
        clock.now += 11  # the first list is stale by now
        assert first is not None
        kubelet.pods.reverse()
        assert await listed_again() is first
        kubelet.hold({"llama-0": ["GPU-0"]})
        assert await listed_again() == first[:1]

    while_running(resources, talk)


def test_a_node_without_allocations_has_an_empty_list(kubelet: FakeKubelet) -> None:
    assert listed_once(client(kubelet)).held(NOW) == ()


def test_a_list_without_pods_is_not_trusted(kubelet: FakeKubelet) -> None:
    kubelet.has_read_pods = False
    resources = listed_once(client(kubelet))
    assert resources.held(NOW) is None
    assert resources.failure is not None
    assert "lists no pods, not even this one" in resources.failure


def test_implausible_names_are_left_out_and_logged_once(kubelet: FakeKubelet, caplog: pytest.LogCaptureFixture) -> None:
    kubelet.hold({"llama-0": ["GPU-0", "GPU-\x1b[31m", "G" * 254, "", "H" * 253]})
    resources = client(kubelet)
    while_running(resources, lambda: until(lambda: kubelet.calls > 2))
    held = resources.held(NOW)
    assert held is not None
    assert [allocation.device_id for allocation in held] == ["GPU-0", "H" * 253]
    assert resources.failure is None
    assert [record.getMessage() for record in caplog.records] == [
        f'{kubelet.path}: allocations with names like "GPU-\\u001b[31m" are left out: '
        "names must have 1 to 253 printable characters"
    ]


def test_more_allocations_than_the_limit_are_not_trusted(kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podresources, "MAX_ALLOCATIONS", 2)
    kubelet.hold({"llama-0": ["GPU-0", "GPU-1", "GPU-2"]})
    resources = listed_once(client(kubelet))
    assert resources.held(NOW) is None
    assert resources.failure == f"{kubelet.path}: more than 2 allocations: not plausible for one node"


def test_as_many_allocations_as_the_limit_are_trusted(kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podresources, "MAX_ALLOCATIONS", 2)
    kubelet.hold({"llama-0": ["GPU-0", "GPU-1"]})
    assert len(listed_once(client(kubelet)).held(NOW) or ()) == 2


def test_no_more_allocations_than_the_limit_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podresources, "MAX_ALLOCATIONS", 2)
    made: list[Allocation] = []

    def make(*fields: Any) -> Allocation:
        made.append(Allocation(*fields))
        return made[-1]

    monkeypatch.setattr(podresources, "Allocation", make)
    resources = PodResources("unused")
    resources.accept(
        pb.ListPodResourcesResponse(pod_resources=[pod_resources("llama-0", container("server", "r", *"abcdefgh"))])
    )
    assert len(made) == 3
    assert resources.held(NOW) is None


def test_a_response_of_too_many_bytes_is_refused(kubelet: FakeKubelet) -> None:
    kubelet.raw = bytes(17 << 20)
    resources = listed_once(client(kubelet))
    assert resources.held(NOW) is None
    assert "too many requests, or too large a response" in str(resources.failure)


def test_law_1_the_last_list_counts_until_it_is_stale(kubelet: FakeKubelet) -> None:
    kubelet.hold({"llama-0": ["GPU-0000"]})
    resources = listed_once(client(kubelet))
    assert resources.held(NOW + 10) is not None
    assert resources.held(NOW + 10.1) is None


def test_a_kubelet_that_restarts_is_called_on_its_new_socket(kubelet: FakeKubelet) -> None:
    clock = ManualClock(NOW)
    resources = client(kubelet, clock)
    kubelet.hold({"old": ["GPU-0000"]})

    def pods() -> list[str]:
        return [allocation.pod for allocation in resources.held(clock.now) or ()]

    async def talk() -> None:
        await until(lambda: pods() == ["old"])
        await asyncio.to_thread(kubelet.stop)
        await until(lambda: resources.failure is not None)
        assert pods() == ["old"]
        kubelet.hold({"new": ["GPU-0000"]})
        await asyncio.to_thread(kubelet.start)
        await until(lambda: pods() == ["new"])
        assert resources.failure is None

    while_running(resources, talk)


def test_a_list_that_hangs_is_cancelled_and_repeated(kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podresources, "TIMEOUT_SECONDS", 0.05)
    resources = client(kubelet)
    kubelet.hold({"llama-0": ["GPU-0000"]})
    kubelet.may_answer.clear()

    async def talk() -> None:
        await until(lambda: resources.failure is not None)
        assert resources.failure == f"{kubelet.path}: the kubelet gave no answer in 0.05 s; is it overloaded?"
        assert resources.held(NOW) is None
        monkeypatch.setattr(podresources, "TIMEOUT_SECONDS", WAIT_SECONDS)
        kubelet.may_answer.set()
        await until(lambda: resources.held(NOW) is not None)

    while_running(resources, talk)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            grpc.StatusCode.UNIMPLEMENTED,
            "this kubelet does not serve the PodResources API v1; Kubernetes 1.20 and later do",
        ),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "the kubelet refuses: too many requests, or too large a response: 'requested by the test'",
        ),
        (grpc.StatusCode.INTERNAL, "the kubelet answers INTERNAL: 'requested by the test'"),
    ],
)
def test_an_error_of_the_kubelet_is_quoted(kubelet: FakeKubelet, error: grpc.StatusCode, sentence: str) -> None:
    kubelet.error = error
    resources = listed_once(client(kubelet))
    assert resources.held(NOW) is None
    assert sentence in str(resources.failure)


def test_a_response_of_another_protocol_is_refused(kubelet: FakeKubelet) -> None:
    kubelet.raw = b"\xff\xff\xff\xff"
    resources = listed_once(client(kubelet))
    assert resources.held(NOW) is None
    assert resources.failure == f"{kubelet.path}: the server is not a kubelet: it speaks another protocol"


def test_a_missing_socket_is_reported_with_the_remedy(tmp_path: Path) -> None:
    resources = listed_once(PodResources(str(tmp_path / "absent.sock"), interval_seconds=0))
    assert resources.failure == (
        f"cannot open {tmp_path}/absent.sock: there is no such file; mount its directory (chart: podResources.path)"
    )


def test_a_socket_without_a_kubelet_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "left-behind.sock"
    path.touch()
    resources = listed_once(PodResources(str(path), interval_seconds=0))
    assert resources.failure == f"cannot open {path}: no process listens; is the kubelet running?"


@pytest.fixture
def as_unprivileged() -> Iterator[None]:
    """Run the test as a user without privileges, to whom a file's mode can deny access."""
    user = os.geteuid()
    if user == 0:
        try:
            os.seteuid(65534)
        except OSError:
            pytest.skip("this root cannot change its user")
    yield
    os.seteuid(user)


@pytest.mark.parametrize("locked", ["the socket", "its directory"])
@pytest.mark.usefixtures("as_unprivileged")
def test_a_socket_without_permission_is_reported(locked: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # owned by the unprivileged user, who can remove it
        path = Path(folder) / "kubelet.sock"
        with socket.socket(socket.AF_UNIX) as kubelet:
            kubelet.bind(str(path))
            kubelet.listen()
            denied = path if locked == "the socket" else Path(folder)
            denied.chmod(0)
            try:
                resources = listed_once(PodResources(str(path), interval_seconds=0))
            finally:
                denied.chmod(0o700)
    assert resources.failure == (
        f"cannot open {path}: permission denied; run as root on the node (chart: podResources.path)"
    )


def test_a_path_that_is_too_long_for_a_socket_is_reported(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)
    resources = listed_once(PodResources(str(path), interval_seconds=0))
    assert resources.failure == f"cannot open {path}: AF_UNIX path too long"


def test_an_unexpected_error_does_not_end_the_loop(kubelet: FakeKubelet) -> None:
    failures: list[str | None] = []

    def clock() -> float:
        failures.append(resources.failure)
        if len(failures) == 1:
            raise ValueError("no time")
        return NOW

    kubelet.hold({"llama-0": ["GPU-0000"]})
    resources = PodResources(str(kubelet.path), interval_seconds=0, clock=clock)
    while_running(resources, lambda: until(lambda: resources.held(NOW) is not None))
    assert failures[1] == f"{kubelet.path}: unexpected ValueError: no time"
    assert resources.failure is None


def test_after_a_failure_the_next_list_does_not_wait_for_a_long_interval(
    kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podresources, "_RETRY_SECONDS", 0)
    kubelet.error = grpc.StatusCode.INTERNAL
    resources = PodResources(str(kubelet.path), interval_seconds=3600, clock=ManualClock(NOW))

    async def talk() -> None:
        await until(lambda: resources.failure is not None)
        kubelet.error = None
        await until(lambda: resources.held(NOW) is not None)

    while_running(resources, talk)


UNITS = "aliyun.com/gpu-mem"


def accepted(*containers: pb.ContainerResources) -> PodResources:
    resources = PodResources("unused", clock=ManualClock(NOW))
    resources.accept(pb.ListPodResourcesResponse(pod_resources=[pod_resources("p", *containers)]))
    return resources


def test_twenty_thousand_units_of_memory_do_not_blind_the_node() -> None:
    units = [f"GPU-{gpu}-_-{unit}" for gpu in range(8) for unit in range(2500)]
    resources = accepted(container("server", UNITS, *reversed(units)), container("other", "nvidia.com/gpu", "GPU-9"))
    held = resources.held(NOW)
    assert held is not None
    assert resources.failure is None
    counted = [Allocation("ai", "p", "server", UNITS, f"GPU-{gpu}-_-0", 2500) for gpu in range(8)]
    assert held == (Allocation("ai", "p", "other", "nvidia.com/gpu", "GPU-9"), *counted)


def test_as_many_ids_as_a_node_may_have_devices_are_kept() -> None:
    ids = [f"GPU-1::{number}" for number in range(podresources.MAX_SINGLE_IDS)]
    held = accepted(container("server", "nvidia.com/gpu.shared", *ids)).held(NOW)
    assert held is not None
    assert [one.quantity for one in held] == [1] * podresources.MAX_SINGLE_IDS


def test_ids_without_a_number_at_their_end_leave_out_their_resource_only(caplog: pytest.LogCaptureFixture) -> None:
    ids = [f"{number}-x" for number in range(podresources.MAX_UNIT_GROUPS + 1)]
    resources = accepted(container("a", "example.com/odd", *ids), container("b", "nvidia.com/gpu", "GPU-9"))
    assert resources.held(NOW) == (Allocation("ai", "p", "b", "nvidia.com/gpu", "GPU-9"),)
    assert [record.getMessage() for record in caplog.records] == [
        'unused: the resource "example.com/odd" is left out: a container has more than 1024 ids of it that differ in '
        "more than a number at their end"
    ]
