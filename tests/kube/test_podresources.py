# SPDX-License-Identifier: Apache-2.0
import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import pytest

from keda_gpu_scaler.core.interfaces import Allocations
from keda_gpu_scaler.core.types import Allocation
from keda_gpu_scaler.kube import podresources
from keda_gpu_scaler.kube.podresources import PodResources
from keda_gpu_scaler.wire import podresources_pb2 as pb
from tests.contract.allocations import HELD, NOW, AllocationsContract
from tests.fakes import ManualClock
from tests.kubelet import FakeAllocations, FakeKubelet, claiming, container, pod_resources

WAIT_SECONDS = 20.0


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[FakeKubelet]:
    with FakeKubelet(tmp_path / "kubelet.sock") as running:
        yield running


def client(kubelet: FakeKubelet, clock: ManualClock | None = None) -> PodResources:
    return PodResources(str(kubelet.path), interval_seconds=0, clock=clock or ManualClock(NOW))


def following(resources: PodResources, talk: Callable[[], Awaitable[None]]) -> None:
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


def asked_once(resources: PodResources) -> PodResources:
    following(resources, lambda: until(lambda: resources.held(NOW) is not None or resources.failure is not None))
    return resources


class TestTheKubelets(AllocationsContract):
    @pytest.fixture
    def allocations(self, kubelet: FakeKubelet) -> Allocations:
        kubelet.hold({"llama-1": ["GPU-0001"], "llama-0": ["GPU-0000"]})
        return asked_once(client(kubelet))

    @pytest.fixture
    def unavailable(self, tmp_path: Path) -> Allocations:
        return PodResources(str(tmp_path / "nobody.sock"))


class TestTheFakes(AllocationsContract):
    @pytest.fixture
    def allocations(self) -> Allocations:
        return FakeAllocations(*HELD)

    @pytest.fixture
    def unavailable(self) -> Allocations:
        unavailable = FakeAllocations()
        unavailable.allocations = None
        return unavailable


def test_containers_and_claims_are_all_read_and_what_is_listed_twice_stands_once(kubelet: FakeKubelet) -> None:
    kubelet.pods = [
        pod_resources(
            "llama-0",
            container("server", "nvidia.com/gpu", "GPU-1", "GPU-0", "GPU-1"),
            container("sidecar", "example.com/nic", "mlx5_0"),
            claiming("worker", "gpu.nvidia.com", "gpu-3"),
        )
    ]
    assert asked_once(client(kubelet)).held(NOW) == (
        Allocation("ai", "llama-0", "server", "nvidia.com/gpu", "GPU-0"),
        Allocation("ai", "llama-0", "server", "nvidia.com/gpu", "GPU-1"),
        Allocation("ai", "llama-0", "sidecar", "example.com/nic", "mlx5_0"),
        Allocation("ai", "llama-0", "worker", "gpu.nvidia.com", "gpu-3"),
    )


def test_the_same_answer_is_the_same_object_and_another_is_not(kubelet: FakeKubelet) -> None:
    clock = ManualClock(NOW)
    resources = client(kubelet, clock)
    kubelet.hold({"llama-0": ["GPU-0"], "llama-1": ["GPU-1"]})

    async def asked_again() -> tuple[Allocation, ...] | None:
        # A question that had not begun by now has an answer when the next but one begins.
        asked = kubelet.asked
        await until(lambda: kubelet.asked > asked + 2)
        return resources.held(clock.now)

    async def talk() -> None:
        first = await asked_again()
        clock.now += 11  # stale, had nobody been asked since
        assert first is not None
        kubelet.pods.reverse()
        assert await asked_again() is first
        kubelet.hold({"llama-0": ["GPU-0"]})
        assert await asked_again() == first[:1]

    following(resources, talk)


def test_a_node_where_nobody_holds_anything_says_so(kubelet: FakeKubelet) -> None:
    assert asked_once(client(kubelet)).held(NOW) == ()


def test_a_kubelet_that_has_not_read_its_pods_yet_is_not_believed(kubelet: FakeKubelet) -> None:
    kubelet.has_read_pods = False
    resources = asked_once(client(kubelet))
    assert resources.held(NOW) is None
    assert resources.failure is not None
    assert "lists no pod at all, not even this one" in resources.failure


def test_names_that_cannot_be_are_left_out_and_said_once(
    kubelet: FakeKubelet, caplog: pytest.LogCaptureFixture
) -> None:
    kubelet.hold({"llama-0": ["GPU-0", "GPU-\x1b[31m", "G" * 254, "", "H" * 253]})
    resources = client(kubelet)
    following(resources, lambda: until(lambda: kubelet.asked > 2))
    held = resources.held(NOW)
    assert held is not None
    assert [allocation.device_id for allocation in held] == ["GPU-0", "H" * 253]
    assert resources.failure is None
    assert [record.getMessage() for record in caplog.records] == [
        f'{kubelet.path}: allocations with names like "GPU-\\u001b[31m" are left out: '
        "names must have 1 to 253 printable characters"
    ]


def test_more_than_a_node_can_have_is_not_believed(kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podresources, "MAX_ALLOCATIONS", 2)
    kubelet.hold({"llama-0": ["GPU-0", "GPU-1", "GPU-2"]})
    resources = asked_once(client(kubelet))
    assert resources.held(NOW) is None
    assert resources.failure == f"{kubelet.path}: more than 2 allocations: not believed of one node"


def test_as_many_as_a_node_can_have_are_believed(kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podresources, "MAX_ALLOCATIONS", 2)
    kubelet.hold({"llama-0": ["GPU-0", "GPU-1"]})
    assert len(asked_once(client(kubelet)).held(NOW) or ()) == 2


def test_no_more_is_read_than_a_node_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podresources, "MAX_ALLOCATIONS", 2)
    made: list[Allocation] = []

    def make(*names: str) -> Allocation:
        made.append(Allocation(*names))
        return made[-1]

    monkeypatch.setattr(podresources, "Allocation", make)
    resources = PodResources("unused")
    resources.take(
        pb.ListPodResourcesResponse(pod_resources=[pod_resources("llama-0", container("server", "r", *"abcdefgh"))])
    )
    assert len(made) == 3
    assert resources.held(NOW) is None


def test_an_answer_of_too_many_bytes_is_refused(kubelet: FakeKubelet) -> None:
    kubelet.raw = bytes(17 << 20)
    resources = asked_once(client(kubelet))
    assert resources.held(NOW) is None
    assert "too many questions or too large an answer" in str(resources.failure)


def test_law_1_what_the_kubelet_said_holds_until_it_is_stale(kubelet: FakeKubelet) -> None:
    kubelet.hold({"llama-0": ["GPU-0000"]})
    resources = asked_once(client(kubelet))
    assert resources.held(NOW + 10) is not None
    assert resources.held(NOW + 10.1) is None


def test_a_kubelet_that_restarts_is_asked_again_on_its_new_socket(kubelet: FakeKubelet) -> None:
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

    following(resources, talk)


def test_a_list_that_hangs_is_given_up_and_asked_again(kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch) -> None:
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

    following(resources, talk)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, "this kubelet does not serve the PodResources API v1; it is there from"),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "the kubelet refuses, too many questions or too large an answer: 'as told'",
        ),
        (grpc.StatusCode.INTERNAL, "the kubelet answers INTERNAL: 'as told'"),
    ],
)
def test_a_kubelet_that_errs_is_quoted(kubelet: FakeKubelet, error: grpc.StatusCode, sentence: str) -> None:
    kubelet.error = error
    resources = asked_once(client(kubelet))
    assert resources.held(NOW) is None
    assert sentence in str(resources.failure)


def test_garbage_is_no_answer(kubelet: FakeKubelet) -> None:
    kubelet.raw = b"\xff\xff\xff\xff"
    resources = asked_once(client(kubelet))
    assert resources.held(NOW) is None
    assert resources.failure == f"{kubelet.path}: what answers there is no kubelet: it speaks another protocol"


def test_a_socket_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    resources = asked_once(PodResources(str(tmp_path / "nobody.sock"), interval_seconds=0))
    assert resources.failure == (
        f"cannot open {tmp_path}/nobody.sock: there is no such file; mount its directory (chart: podResources.path)"
    )


def test_a_socket_without_a_kubelet_is_told_from_none(tmp_path: Path) -> None:
    path = tmp_path / "left-behind.sock"
    path.touch()
    resources = asked_once(PodResources(str(path), interval_seconds=0))
    assert resources.failure == f"cannot open {path}: nobody listens; is the kubelet running?"


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Nobody in particular runs the test, whom a directory's mode can keep out."""
    user = os.geteuid()
    if user == 0:
        try:
            os.seteuid(65534)
        except OSError:
            pytest.skip("this root cannot become anybody else")
    yield
    os.seteuid(user)


@pytest.mark.parametrize("locked", ["the socket", "its directory"])
@pytest.mark.usefixtures("as_nobody")
def test_a_socket_that_may_not_be_opened_is_told_from_none(locked: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # owned by whom it keeps out, and so still removable
        path = Path(folder) / "kubelet.sock"
        with socket.socket(socket.AF_UNIX) as kubelet:
            kubelet.bind(str(path))
            kubelet.listen()
            shut = path if locked == "the socket" else Path(folder)
            shut.chmod(0)
            try:
                resources = asked_once(PodResources(str(path), interval_seconds=0))
            finally:
                shut.chmod(0o700)
    assert resources.failure == (
        f"cannot open {path}: permission denied; run as root on the node (chart: podResources.path)"
    )


def test_a_path_that_no_socket_can_have_is_named(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)
    resources = asked_once(PodResources(str(path), interval_seconds=0))
    assert resources.failure == f"cannot open {path}: AF_UNIX path too long"


def test_what_nobody_has_thought_of_does_not_end_the_asking(kubelet: FakeKubelet) -> None:
    failures: list[str | None] = []

    def clock() -> float:
        failures.append(resources.failure)
        if len(failures) == 1:
            raise ValueError("no time")
        return NOW

    kubelet.hold({"llama-0": ["GPU-0000"]})
    resources = PodResources(str(kubelet.path), interval_seconds=0, clock=clock)
    following(resources, lambda: until(lambda: resources.held(NOW) is not None))
    assert failures[1] == f"{kubelet.path}: unexpected ValueError: no time"
    assert resources.failure is None


def test_after_a_failure_the_next_question_does_not_wait_for_a_long_interval(
    kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podresources, "_RETRY_SECONDS", 0)
    kubelet.error = grpc.StatusCode.INTERNAL
    resources = PodResources(str(kubelet.path), interval_seconds=3600, clock=ManualClock(NOW))

    async def talk() -> None:
        await until(lambda: resources.failure is not None)
        kubelet.error = None
        await until(lambda: resources.held(NOW) is not None)

    following(resources, talk)
