# SPDX-License-Identifier: Apache-2.0
"""Tests of whole fleets: real processes, kubelets on real sockets, and an API server."""

import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.core.hpa.replica_calculator import ValueType, desired_replicas, milli
from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests import forked
from tests.apiserver import FakeApiServer
from tests.fake_nvml import FakeNvml
from tests.free_ports import free_port
from tests.kubelet import FakeKubelet
from tests.limits import WAIT_SECONDS
from tests.polling import pause
from tests.serving import SERVING, Serving

TARGET = 80.0


class Node:
    """A node of the fleet: a kubelet, and an agent that plays a recording the test has written."""

    def __init__(self, name: str, fleet: "FleetOfNodes", port: int) -> None:
        self.name = name
        self.port = port
        self.kubelet = FakeKubelet(fleet.folder / f"{name}.sock")
        self._recording = fleet.folder / f"{name}.csv"
        self._fleet = fleet
        self.agent: Serving | None = None

    def works(self, *percent: float) -> None:
        """From its next start its devices do so much."""
        lines = ["timestamp, index, uuid, name, utilization.gpu [%]"]
        for second in range(2):
            lines += [
                f"2026/01/01 00:00:0{second}.000, {index}, {self.uuid(index)}, NVIDIA H100, {value} %"
                for index, value in enumerate(percent)
            ]
        self._recording.write_text("\n".join(lines) + "\n")

    def uuid(self, index: int) -> str:
        return f"GPU-{self.name}-{index}"

    def start(self) -> None:
        self.kubelet.start()
        self.agent = self._fleet.stack.enter_context(
            Serving(
                *("--backend", f"replay:{self._recording}", "--node-name", self.name, "--port", str(self.port)),
                *("--pod-resources", str(self.kubelet.path), "--peers", self._fleet.peers()),
                *("--kubeconfig", str(self._fleet.kubeconfig), "--stale-after", "1", *self._fleet.flags),
            )
        )
        self.agent.wait_for_health(SERVING)

    def kill(self) -> None:
        """End the agent as a power failure does."""
        assert self.agent is not None
        self.agent.process.kill()
        self.agent.process.wait(WAIT_SECONDS)

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Let nothing come from the agent, and no connection end, as when the network to the node is gone."""
        assert self.agent is not None
        self.agent.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.agent.process.send_signal(signal.SIGCONT)


class FleetOfNodes:
    """Nodes, an API server, and the question that KEDA asks of any of them."""

    def __init__(self, folder: Path, server: FakeApiServer, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.server = server
        self.stack = stack
        self.kubeconfig = server.kubeconfig(folder / "kubeconfig")
        self.nodes: dict[str, Node] = {}
        self.flags: tuple[str, ...] = ()

    def peers(self) -> str:
        return "static:" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes.values())

    def build(self, **work: Sequence[float]) -> None:
        """Make a node of each name, whose devices do so much, and start them all."""
        for name in work:
            self.nodes[name] = Node(name, self, free_port())
            self.stack.callback(self.nodes[name].kubelet.stop)
        for name, percent in work.items():
            self.nodes[name].works(*percent)
            self.nodes[name].start()

    def workload(self, name: str, pods: Mapping[str, tuple[str, int]], metric_type: str = "AverageValue") -> None:
        """A workload whose ready pods hold devices: node and index by pod."""
        self.server.scale(name, len(pods))
        self.server.scaled_object(name, metric_type=metric_type)
        for pod, (node, _) in pods.items():
            self.server.pod(pod, node, app=name)
        self.hold(pods)

    def hold(self, pods: Mapping[str, tuple[str, int]]) -> None:
        """Let these pods hold these devices, beside what others hold."""
        for node in self.nodes.values():
            held = {entry.name: list(entry.containers[0].devices[0].device_ids) for entry in node.kubelet.pods}
            held |= {pod: [node.uuid(index)] for pod, (place, index) in pods.items() if place == node.name}
            node.kubelet.hold(held)

    def evaluation(self, node: str, workload: str = "llama", **metadata: str) -> Any:
        agent = self.nodes[node].agent
        assert agent is not None
        ref = pb.ScaledObjectRef(name=workload, namespace="ai", scalerMetadata=metadata)
        with grpc.insecure_channel(f"127.0.0.1:{agent.port}") as channel:
            stub = evaluation_pb_grpc.EvaluationsStub(channel)  # type: ignore[no-untyped-call]
            return stub.Explain(ref, timeout=WAIT_SECONDS)

    def value(self, node: str, workload: str = "llama", **metadata: str) -> float:
        """Ask as KEDA does."""
        agent = self.nodes[node].agent
        assert agent is not None
        ref = pb.ScaledObjectRef(name=workload, namespace="ai", scalerMetadata=metadata)
        agent.stub.GetMetricSpec(ref, timeout=WAIT_SECONDS)
        answer = agent.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref), timeout=WAIT_SECONDS)
        agent.stub.IsActive(ref, timeout=WAIT_SECONDS)
        value: float = answer.metricValues[0].metricValueFloat
        return value

    def until(self, node: str, wanted: Callable[[Any], object], workload: str = "llama", **metadata: str) -> Any:
        """Ask for the verdict until it is as wanted; a fleet that never comes to it is ended by the watchdog."""
        while not wanted(evaluation := self.evaluation(node, workload, **metadata)):
            agent = self.nodes[node].agent
            assert agent is not None
            assert agent.process.poll() is None, evaluation
            pause()
        return evaluation


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetOfNodes]:
    with FakeApiServer() as server, contextlib.ExitStack() as stack:
        yield FleetOfNodes(tmp_path, server, stack)


def size(value: float, replicas: int) -> int:
    return desired_replicas(ValueType.AVERAGE_VALUE, milli(value), milli(TARGET), replicas=replicas).replicas


def with_value(count: int) -> Callable[[Any], bool]:
    return lambda evaluation: evaluation.with_value == count and evaluation.HasField("value")


def test_three_replicas_at_92_percent_ask_for_a_fourth_whomever_keda_asks(fleet: FleetOfNodes) -> None:
    fleet.build(a=[92], b=[92, 5], c=[92])
    fleet.workload("llama", {"llama-0": ("a", 0), "llama-1": ("b", 0), "llama-2": ("c", 0)})
    for node in "abc":
        fleet.until(node, with_value(3))
        assert fleet.value(node) == 276.0
    assert size(276.0, 3) == 4


def test_eight_idle_replicas_ask_for_one(fleet: FleetOfNodes) -> None:
    fleet.build(a=[0] * 4, b=[0] * 4)
    fleet.workload("llama", {f"llama-{index}": ("ab"[index % 2], index // 2) for index in range(8)})
    fleet.until("a", with_value(8))
    assert fleet.value("a") == 0.0
    assert max(1, size(0.0, 8)) == 1


def test_a_node_that_dies_and_comes_back(fleet: FleetOfNodes) -> None:
    fleet.build(a=[95, 95], b=[95])
    fleet.workload("llama", {"llama-0": ("a", 0), "llama-1": ("a", 1), "llama-2": ("b", 0)})
    fleet.until("a", with_value(3))
    assert size(fleet.value("a"), 3) == 4
    fleet.nodes["b"].kill()
    evaluation = fleet.until("a", with_value(2))
    assert evaluation.active
    assert any("llama-2: node b last answered" in step for step in evaluation.steps)
    # Two at 95 % and an idle one would be 63 %: what was not seen asks for nothing, and nothing is shrunk.
    assert size(evaluation.value, 3) == 3
    fleet.nodes["b"].start()
    fleet.until("a", with_value(3))
    assert size(fleet.value("a"), 3) == 4


def test_a_node_that_is_cut_off_is_unseen_until_it_is_back(fleet: FleetOfNodes) -> None:
    fleet.build(a=[0], b=[95], c=[0])
    fleet.workload("llama", {"llama-0": ("a", 0), "llama-1": ("b", 0), "llama-2": ("c", 0)})
    fleet.until("a", with_value(3))
    with fleet.nodes["b"].cut_off():
        evaluation = fleet.until("a", with_value(2))
        # Two idle pods and a missing one: nothing is deleted while it may be the missing one, and the workload stays.
        assert size(evaluation.value, 3) == 3
        assert evaluation.active
        evaluation = fleet.until("a", with_value(2), missingHoldSeconds="0")
        assert size(evaluation.value, 3) == 1
    fleet.until("a", with_value(3))


def test_before_a_shrink_the_idlest_pods_get_the_lowest_deletion_cost(fleet: FleetOfNodes) -> None:
    fleet.flags = ("--deletion-cost", "write")
    fleet.build(a=[0, 60], b=[30])
    fleet.workload("llama", {"llama-0": ("a", 0), "llama-1": ("a", 1), "llama-2": ("b", 0)})
    fleet.until("a", with_value(3))
    while fleet.server.requests["patch pods"] < 3:
        assert size(fleet.value("a"), 3) == 2
        pause()
    costs = [fleet.server.annotations("pods", f"llama-{number}") for number in range(3)]
    assert [int(one["controller.kubernetes.io/pod-deletion-cost"]) for one in costs] == [0, 8, 4]


def test_the_instance_that_keda_asks_may_be_another_every_time(fleet: FleetOfNodes) -> None:
    fleet.build(a=[50], b=[70])
    fleet.workload("llama", {"llama-0": ("a", 0), "llama-1": ("b", 0)})
    fleet.until("a", with_value(2))
    fleet.nodes["a"].kill()
    fleet.nodes["a"].start()
    fleet.until("a", with_value(2))
    fleet.until("b", with_value(2))
    assert fleet.value("a") == fleet.value("b") == 120.0


def test_too_little_sight_is_no_answer_and_names_the_nodes(fleet: FleetOfNodes) -> None:
    fleet.build(a=[50], b=[70], c=[70])
    fleet.workload("llama", {"llama-0": ("a", 0), "llama-1": ("b", 0), "llama-2": ("c", 0)})
    fleet.until("a", with_value(3))
    fleet.nodes["b"].kill()
    fleet.nodes["c"].kill()
    evaluation = fleet.until("a", lambda evaluation: not evaluation.HasField("value"))
    assert evaluation.no_value_reason == "unavailable"
    assert evaluation.reason.startswith("no fresh sample for 2 of 3 ready pods: node b last answered")
    with pytest.raises(grpc.RpcError) as caught:
        fleet.value("a")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_kubelet_that_is_gone_leaves_its_pods_unseen(fleet: FleetOfNodes) -> None:
    fleet.build(a=[50], b=[70])
    fleet.workload("llama", {"llama-0": ("a", 0), "llama-1": ("b", 0)})
    fleet.until("a", with_value(2))
    fleet.nodes["b"].kubelet.stop()
    evaluation = fleet.until("a", with_value(1))
    assert any("llama-1: node b does not know which pods hold its devices" in step for step in evaluation.steps)
    fleet.nodes["b"].kubelet.start()
    fleet.until("a", with_value(2))


def test_a_rollout_is_followed_pod_by_pod(fleet: FleetOfNodes) -> None:
    fleet.build(a=[90, 0], b=[90])
    fleet.workload("llama", {"old-0": ("a", 0), "old-1": ("b", 0)})
    fleet.until("a", with_value(2))
    fleet.server.scale("llama", 2, actual=3)
    fleet.server.pod("new-0", "a", app="llama", ready=False)
    fleet.hold({"new-0": ("a", 1)})
    evaluation = fleet.until("a", lambda evaluation: any("new-0 (not ready)" in step for step in evaluation.steps))
    assert evaluation.active
    fleet.server.pod("new-0", "a", app="llama")
    fleet.server.delete("pods", "old-0")
    fleet.server.scale("llama", 2)
    fleet.until("a", lambda evaluation: evaluation.with_value == 2 and evaluation.value == 90.0)


def test_a_pod_that_moves_to_another_node_takes_its_load_along(fleet: FleetOfNodes) -> None:
    fleet.build(a=[90], b=[20])
    fleet.workload("llama", {"llama-0": ("a", 0)})
    fleet.until("a", lambda evaluation: with_value(1)(evaluation) and evaluation.value == 90.0)
    fleet.server.pod("llama-0", "b")
    evaluation = fleet.evaluation("a")
    fleet.hold({"llama-0": ("b", 0)})
    evaluation = fleet.until("a", lambda evaluation: with_value(1)(evaluation) and evaluation.value == 20.0)
    assert any("llama-0: 20 % on node b" in step for step in evaluation.steps)


def test_a_workload_is_scaled_to_zero_and_back(fleet: FleetOfNodes) -> None:
    fleet.build(a=[0], b=[0])
    fleet.workload("llama", {"llama-0": ("a", 0)})
    evaluation = fleet.until("b", with_value(1))
    assert (evaluation.value, evaluation.active) == (0.0, False)
    fleet.server.delete("pods", "llama-0")
    fleet.server.scale("llama", 0)
    evaluation = fleet.until("b", lambda evaluation: evaluation.expected == 0 and not evaluation.active)
    assert evaluation.value == 0.0
    fleet.server.scale("llama", 1, actual=0)
    fleet.until("b", lambda evaluation: evaluation.active)
    fleet.server.scale("llama", 1)
    fleet.server.pod("llama-1", "a", ready=False)
    fleet.until("b", lambda evaluation: evaluation.active and evaluation.value == TARGET)
    fleet.hold({"llama-1": ("a", 0)})
    fleet.server.pod("llama-1", "a")
    fleet.until("b", lambda evaluation: with_value(1)(evaluation) and evaluation.value == 0.0)


def test_two_workloads_on_one_node_and_a_device_shared_by_both(fleet: FleetOfNodes) -> None:
    fleet.build(a=[90, 30, 60])
    fleet.workload("llama", {"llama-0": ("a", 0), "llama-1": ("a", 2)})
    fleet.workload("whisper", {"whisper-0": ("a", 1), "whisper-1": ("a", 2)})
    fleet.until("a", lambda evaluation: with_value(2)(evaluation) and evaluation.value == 120.0)
    evaluation = fleet.until("a", with_value(2), workload="whisper")
    assert evaluation.value == 60.0
    assert any("shared by 2 pods (in equal shares)" in step for step in evaluation.steps)


def test_a_front_end_without_a_device_answers_for_the_fleet(fleet: FleetOfNodes) -> None:
    fleet.build(a=[50], b=[70])
    fleet.workload("llama", {"llama-0": ("a", 0), "llama-1": ("b", 0)}, metric_type="Value")
    with Serving(
        *("--backend", "none", "--node-name", "front", "--peers", fleet.peers()),
        *("--kubeconfig", str(fleet.kubeconfig), "--stale-after", "1"),
    ) as front:
        ref = pb.ScaledObjectRef(name="llama", namespace="ai")
        request = pb.GetMetricsRequest(scaledObjectRef=ref)
        with contextlib.suppress(grpc.RpcError):
            front.stub.GetMetrics(request, timeout=WAIT_SECONDS)
        while True:
            with contextlib.suppress(grpc.RpcError):
                answer = front.stub.GetMetrics(request, timeout=WAIT_SECONDS)
                if answer.metricValues[0].metricValueFloat == 60.0:
                    break
            assert front.process.poll() is None
            pause()


def test_the_whole_fleet_is_a_scope_of_its_own(fleet: FleetOfNodes) -> None:
    fleet.build(a=[50, 10], b=[70])
    fleet.workload("llama", {"llama-0": ("a", 0), "llama-1": ("b", 0)})
    fleet.until("a", with_value(3), scope="fleet")
    assert fleet.value("a", scope="fleet") == 140.0  # the busiest, times two replicas
    assert fleet.value("a", scope="fleet", aggregation="sum") == 130.0
    assert fleet.value("a", scope="node", report="average") == 50.0
    assert fleet.value("b", scope="node", report="average") == 70.0


def test_a_stream_is_told_when_a_workload_elsewhere_wakes_up(fleet: FleetOfNodes, fake_nvml: FakeNvml) -> None:
    fake_nvml.device(0).utilisation = (0, 0)
    fleet.build(a=[0])
    busy = FakeKubelet(fleet.folder / "busy.sock")
    busy.hold({"llama-0": [fake_nvml.device(0).uuid]})
    port = free_port()
    common = ("--kubeconfig", str(fleet.kubeconfig), "--stale-after", "1")
    with (
        busy,
        Serving(
            *("--backend", "nvml", "--nvml-library", fake_nvml.library, "--node-name", "busy", "--port", str(port)),
            *("--pod-resources", str(busy.path), *common),
        ),
        Serving("--backend", "none", "--peers", f"static:127.0.0.1:{port}", *common) as front,
    ):
        fleet.server.scale("llama", 1)
        fleet.server.scaled_object("llama")
        fleet.server.pod("llama-0", "busy")
        ref = pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata={"windowSeconds": "0"})
        stream = front.stub.StreamIsActive(ref, timeout=WAIT_SECONDS)
        assert next(stream).result is False
        fake_nvml.device(0).utilisation = (70, 0)
        assert next(stream).result is True


def test_probe_shows_how_the_answer_came_about(fleet: FleetOfNodes) -> None:
    fleet.build(a=[92], b=[40])
    fleet.workload("llama", {"llama-0": ("a", 0), "llama-1": ("b", 0)})
    fleet.until("a", with_value(2))
    asked = ("probe", "--address", f"127.0.0.1:{fleet.nodes['a'].port}", "--namespace", "ai")
    shown = forked.run((*asked, "--name", "llama"), timeout=WAIT_SECONDS)
    assert shown.returncode == 0, shown.stderr
    assert "measured    66 % per replica\nvalue       132\n" in shown.stdout
    assert "metricType AverageValue, 2 replicas" in shown.stdout
    assert "coverage    2 of 2 ready pods with a value, scope workload" in shown.stdout
    assert "pod llama-1: 40 % on node b: GPU 0 NVIDIA H100 40 %" in shown.stdout
    watched = forked.run(
        (*asked, "--name", "llama", "--json", "--count", "2", "--interval", "0.1"), timeout=WAIT_SECONDS
    )
    assert [json.loads(line)["replicas"] for line in watched.stdout.splitlines()] == [2, 2]
    given = forked.run((*asked, "--name", "llama", "--json", "--replicas", "5"), timeout=WAIT_SECONDS)
    assert (json.loads(given.stdout)["replicas"], json.loads(given.stdout)["evaluation"]["measured"]) == (5, 66)
    unnamed = forked.run(asked, timeout=WAIT_SECONDS)
    assert "name the ScaledObject with --namespace NAMESPACE --name NAME" in unnamed.stderr
    told = forked.run((*asked, "--name", "nobody", "--json"), timeout=WAIT_SECONDS)
    evaluation = json.loads(told.stdout)["evaluation"]
    assert evaluation["value"] is None
    assert evaluation["reason"] == "ai/nobody: there is no ScaledObject and no ScaledJob of this name"
