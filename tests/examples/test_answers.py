# SPDX-License-Identifier: Apache-2.0
"""What does a running scaler answer to each example? A real ``serve``, a kubelet, and an API server with all of them.

Two pods of each workload hold one device each, all equally busy; one more device, of another model, belongs to nobody.
In a second namespace everything is at zero replicas.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.core.replicas import ValueType, desired_replicas, milli
from keda_gpu_scaler.core.trigger import Scope, Trigger, parse
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import verdict_pb2_grpc as verdict_pb_grpc
from tests.apiserver import FakeApiServer
from tests.examples.documents import EXAMPLES, Example, every_trigger
from tests.kubelet import FakeKubelet
from tests.serving import SERVING, WAIT_SECONDS, Serving, recorded

NODE = "gpu-1"
ZONE = {"topology.kubernetes.io/zone": "europe-west4-a"}
AWAKE, ASLEEP = "ai", "asleep"
PODS = 2
READINGS = {"gpu_utilization": 92.0, "memory_used_percent": 90.0}
RESOURCES = {"Deployment": "deployments", "StatefulSet": "statefulsets", "LeaderWorkerSet": "leaderworkersets"}
GROUPS = "leaderworkerset.sigs.k8s.io"

each_trigger = pytest.mark.parametrize(
    ("example", "trigger"),
    [pytest.param(example, trigger, id=f"{example.path.name}, {index}") for example, index, trigger in every_trigger()],
)


def leaders(name: str) -> dict[str, str]:
    """The labels by which a LeaderWorkerSet's scale subresource names its leaders, and those alone."""
    return {f"{GROUPS}/name": name, f"{GROUPS}/worker-index": "0"}


def apply(server: FakeApiServer, example: Example, namespace: str, replicas: int) -> None:
    """Put the example's ScaledObject there, and the workload it is for."""
    server.put("scaledobjects", example.workload, namespace, spec=example.spec)
    kind = example.spec["scaleTargetRef"].get("kind", "Deployment")
    labels = leaders(example.workload) if kind == "LeaderWorkerSet" else {"app": example.workload}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}}
    server.put(RESOURCES[kind], example.workload, namespace, spec=spec, status={"replicas": replicas})
    for index in range(replicas):
        server.pod(f"{example.workload}-{index}", NODE, namespace=namespace, labels=labels)
    if kind == "LeaderWorkerSet" and replicas:
        others = {**labels, f"{GROUPS}/worker-index": "1"}
        server.pod(f"{example.workload}-0-1", "another-node", namespace=namespace, labels=others)


def held() -> dict[str, list[str]]:
    return {
        f"{example.workload}-{pod}": [f"GPU-{PODS * index + pod}"]
        for index, example in enumerate(EXAMPLES)
        for pod in range(PODS)
    }


def recording() -> Iterator[str]:
    yield "timestamp, index, uuid, name, utilization.gpu [%], memory.used [MiB], memory.total [MiB]"
    for second in range(2):
        for index in range(PODS * len(EXAMPLES) + 1):
            model = "NVIDIA H100 80GB HBM3" if index < PODS * len(EXAMPLES) else "NVIDIA L4"
            yield f"2026/01/01 00:00:0{second}.000, {index}, GPU-{index}, {model}, 92 %, 72000 MiB, 80000 MiB"


class Cluster:
    """Asks as KEDA does."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def verdict(self, ref: pb.ScaledObjectRef) -> Any:
        """Ask until there is a value; a scaler that never has one is ended by the watchdog."""
        with grpc.insecure_channel(f"127.0.0.1:{self._serving.port}") as channel:
            stub = verdict_pb_grpc.VerdictsStub(channel)  # type: ignore[no-untyped-call]
            while True:
                verdict = stub.Explain(ref, timeout=WAIT_SECONDS)
                if verdict.HasField("value"):
                    return verdict
                assert verdict.lack == "unseen", verdict.reason
                assert self._serving.process.poll() is None, verdict.reason

    def ask(self, example: Example, trigger: Mapping[str, Any], namespace: str = AWAKE) -> tuple[float, float, bool]:
        """Return the value, the target, and whether it is active."""
        ref = pb.ScaledObjectRef(name=example.workload, namespace=namespace, scalerMetadata=trigger["metadata"])
        self.verdict(ref)
        stub = self._serving.stub
        (spec,) = stub.GetMetricSpec(ref, timeout=WAIT_SECONDS).metricSpecs
        request = pb.GetMetricsRequest(scaledObjectRef=ref, metricName=spec.metricName)
        (value,) = stub.GetMetrics(request, timeout=WAIT_SECONDS).metricValues
        assert value.metricName == spec.metricName
        active: bool = stub.IsActive(ref, timeout=WAIT_SECONDS).result
        return value.metricValueFloat, spec.targetSizeFloat, active


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(FakeApiServer())
        server.put("nodes", NODE, "", metadata={"labels": ZONE})
        for example in EXAMPLES:
            apply(server, example, AWAKE, PODS)
            apply(server, example, ASLEEP, 0)
        kubelet = stack.enter_context(FakeKubelet(folder / "kubelet.sock"))
        kubelet.hold(held(), namespace=AWAKE)
        serving = stack.enter_context(
            Serving(
                *("--backend", recorded(folder, *recording()), "--node-name", NODE, "--peers", "none"),
                *("--pod-resources", str(kubelet.path), "--kubeconfig", str(server.kubeconfig(folder / "kubeconfig"))),
            )
        )
        serving.wait_for_health(SERVING)
        yield Cluster(serving)


def expected(parsed: Trigger, value_type: str) -> float:
    """What must be handed out, from what the devices do: of two pods, or of the devices that fit."""
    reading = READINGS[parsed.metric.name]
    if parsed.scope is Scope.FLEET:
        assert parsed.aggregation == "sum"
        return reading * (PODS * len(EXAMPLES) + (parsed.gpu_model is None))
    return reading if value_type == "Value" else PODS * reading


@each_trigger
def test_a_busy_workload_is_answered_with_what_its_devices_do(
    cluster: Cluster, example: Example, trigger: Mapping[str, Any]
) -> None:
    parsed = parse(trigger["metadata"])
    value_type = trigger.get("metricType", "AverageValue")
    value, target, active = cluster.ask(example, trigger)
    assert value == pytest.approx(expected(parsed, value_type))
    assert target == parsed.target
    assert active
    # As busy as that, nothing shrinks, and two busy pods do not ask for all that the example allows.
    told = desired_replicas(ValueType(value_type), milli(value), milli(target), replicas=PODS).replicas
    assert told >= PODS
    assert parsed.scope is Scope.FLEET or told <= example.spec["maxReplicaCount"]


@each_trigger
def test_at_zero_only_other_devices_can_wake_it(cluster: Cluster, example: Example, trigger: Mapping[str, Any]) -> None:
    _, _, active = cluster.ask(example, trigger, ASLEEP)
    assert active is (parse(trigger["metadata"]).scope is Scope.FLEET)
