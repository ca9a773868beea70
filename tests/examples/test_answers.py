# SPDX-License-Identifier: Apache-2.0
"""Tests that a real ``serve`` answers every example.

Two pods of each workload hold one device each, all equally busy; one more device, of another model, belongs to nobody.
An engine answers for each pod, and before the workloads that may sleep stands what holds their requests. In a second
namespace everything is at zero replicas.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest

from keda_gpu_scaler.core.hpa.replica_calculator import ValueType, desired_replicas, milli
from keda_gpu_scaler.core.trigger.metrics import EngineMetric
from keda_gpu_scaler.core.trigger.parser import Scope, Trigger, parse_trigger
from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.apiserver import FakeApiServer, scale_status
from tests.examples import pages
from tests.examples.documents import EXAMPLES, Example, every_trigger
from tests.kubelet import FakeKubelet
from tests.limits import WAIT_SECONDS
from tests.polling import pause
from tests.serving import SERVING, Serving, recorded

NODE = "gpu-1"
ZONE = {"topology.kubernetes.io/zone": "europe-west4-a"}
AWAKE, ASLEEP, QUIET = "ai", "asleep", "quiet"
PODS = 2
READINGS = {
    "gpu_utilization": 92.0,
    "memory_used_percent": 90.0,
    "queue_depth": pages.WAITING,
    "engine": pages.WAITING,
    "queue_wait_ms": pages.WAIT_MS,
}
FULL_ENOUGH = 55.0
"""The least per cent of a replica that an engine carries whose KV cache is half full."""
RESOURCES = {"Deployment": "deployments", "StatefulSet": "statefulsets", "LeaderWorkerSet": "leaderworkersets"}
GROUPS = "leaderworkerset.sigs.k8s.io"


def is_unread(trigger: Mapping[str, Any]) -> bool:
    """Whether the devices of a log have no reading of the trigger's metric, as of the traffic over links."""
    return parse_trigger(trigger["metadata"]).metric.name.startswith("nvlink_")


each_trigger = pytest.mark.parametrize(
    ("example", "trigger"),
    [pytest.param(example, trigger, id=f"{example.path.name}, {index}") for example, index, trigger in every_trigger()],
)


each_answered_trigger = pytest.mark.parametrize(
    ("example", "trigger"),
    [
        pytest.param(example, trigger, id=f"{example.path.name}, {index}")
        for example, index, trigger in every_trigger()
        if not is_unread(trigger)
    ],
)


def leaders(name: str) -> dict[str, str]:
    """The labels by which a LeaderWorkerSet's scale subresource names its leaders, and those alone."""
    return {f"{GROUPS}/name": name, f"{GROUPS}/worker-index": "0"}


def engine_path(example: Example) -> str:
    return f"/{example.name}/metrics"


def local_metadata(example: Example, metadata: Mapping[str, str], engines: int, demand: int) -> dict[str, str]:
    """Return the metadata of a trigger with ports and hosts of this machine."""
    local = dict(metadata)
    if "enginePort" in local:
        local |= {"enginePort": str(engines), "enginePath": engine_path(example)}
    if "demandEndpoint" in local:
        path = urlsplit(local["demandEndpoint"]).path
        local["demandEndpoint"] = f"http://127.0.0.1:{demand}/{example.name}{path}"
    return local


def apply(server: FakeApiServer, example: Example, namespace: str, replicas: int, port: int, demand: int) -> None:
    """Put the example's ScaledObject there, as it is on this machine, and the workload it is for."""
    triggers = [
        {**one, "metadata": local_metadata(example, one["metadata"], port, demand)} for one in example.spec["triggers"]
    ]
    server.put("scaledobjects", example.workload, namespace, spec={**example.spec, "triggers": triggers})
    kind = example.spec["scaleTargetRef"].get("kind", "Deployment")
    is_grouped = kind == "LeaderWorkerSet"
    labels = leaders(example.workload) if is_grouped else {"app": example.workload}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}}
    status = scale_status(RESOURCES[kind], example.workload, replicas)
    server.put(RESOURCES[kind], example.workload, namespace, spec=spec, status=status)
    # All engines share an address here, and are told apart by their paths.
    where = {"prometheus.io/port": str(port), "prometheus.io/path": engine_path(example)}
    for index in range(replicas):
        pod = f"{example.workload}-{index}"
        pair = {"example.com/pair": str(index // 2), "example.com/rank": str(index % 2)}
        group = {f"{GROUPS}/group-index": str(index)} if is_grouped else pair
        size = {f"{GROUPS}/size": "2"} if is_grouped else {}
        names = {pod: {**labels, **group}}
        if is_grouped:
            names[f"{pod}-1"] = {**labels, **group, f"{GROUPS}/worker-index": "1"}
        for name, shown in names.items():
            server.pod(
                name, NODE, namespace=namespace, labels=shown, address="127.0.0.1", annotations={**where, **size}
            )


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
    """Asks as KEDA does.

    ``engines`` is the port of every engine; ``holding`` that of what holds requests, and ``quiet`` of what holds none.
    """

    def __init__(self, serving: Serving, engines: int, holding: int, quiet: int) -> None:
        self._serving = serving
        self._engines, self._holding, self._quiet = engines, holding, quiet

    def ref(
        self, example: Example, trigger: Mapping[str, Any], namespace: str, *, quiet: bool = False
    ) -> pb.ScaledObjectRef:
        """Name the workload; ports and hosts that the trigger tells are those of this machine."""
        demand = self._quiet if quiet else self._holding
        metadata = local_metadata(example, trigger["metadata"], self._engines, demand)
        return pb.ScaledObjectRef(name=example.workload, namespace=namespace, scalerMetadata=metadata)

    def evaluation(self, ref: pb.ScaledObjectRef) -> Any:
        """Ask until every pod has a part in the value; a scaler that never has one is ended by the watchdog."""
        with grpc.insecure_channel(f"127.0.0.1:{self._serving.port}") as channel:
            stub = evaluation_pb_grpc.EvaluationsStub(channel)  # type: ignore[no-untyped-call]
            while True:
                evaluation = stub.Explain(ref, timeout=WAIT_SECONDS)
                is_whole = evaluation.HasField("value") and evaluation.with_value == evaluation.expected
                if is_whole and "is unknown" not in evaluation.steps[-1]:
                    return evaluation
                assert evaluation.no_value_reason in ("", "unavailable"), evaluation.reason
                assert self._serving.process.poll() is None, evaluation.reason
                pause()

    def ask(self, example: Example, trigger: Mapping[str, Any], namespace: str = AWAKE) -> tuple[float, float, bool]:
        """Return the value, the target, and whether it is active."""
        ref = self.ref(example, trigger, namespace)
        self.evaluation(ref)
        stub = self._serving.stub
        (spec,) = stub.GetMetricSpec(ref, timeout=WAIT_SECONDS).metricSpecs
        request = pb.GetMetricsRequest(scaledObjectRef=ref, metricName=spec.metricName)
        (value,) = stub.GetMetrics(request, timeout=WAIT_SECONDS).metricValues
        assert value.metricName == spec.metricName
        return value.metricValueFloat, spec.targetSizeFloat, self.is_active(ref)

    def refusal(self, ref: pb.ScaledObjectRef) -> str:
        """Ask for the value, and return why there is none."""
        with pytest.raises(grpc.RpcError) as caught:
            self._serving.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref), timeout=WAIT_SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        return str(caught.value.details())

    def is_active(self, ref: pb.ScaledObjectRef) -> bool:
        """Ask whether it is active."""
        active: bool = self._serving.stub.IsActive(ref, timeout=WAIT_SECONDS).result
        return active


def holding(requests: int) -> pages.Site:
    """Whatever the examples name in demandEndpoint, each with so many requests."""
    paths = {
        f"/{example.name}{urlsplit(trigger['metadata']['demandEndpoint']).path}": pages.DEMANDS[example.name](requests)
        for example, _, trigger in every_trigger()
        if "demandEndpoint" in trigger["metadata"]
    }
    return pages.Site(paths)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as stack:
        served = {engine_path(example): pages.engine_of(example) for example in EXAMPLES}
        engines = stack.enter_context(pages.Site(served))
        busy, quiet = stack.enter_context(holding(pages.HELD)), stack.enter_context(holding(0))
        server = stack.enter_context(FakeApiServer())
        server.put("nodes", NODE, "", metadata={"labels": ZONE})
        for example in EXAMPLES:
            apply(server, example, AWAKE, PODS, engines.port, busy.port)
            apply(server, example, ASLEEP, 0, engines.port, busy.port)
            apply(server, example, QUIET, 0, engines.port, quiet.port)
        kubelet = stack.enter_context(FakeKubelet(folder / "kubelet.sock"))
        kubelet.hold(held(), namespace=AWAKE)
        serving = stack.enter_context(
            Serving(
                *("--backend", recorded(folder, *recording()), "--node-name", NODE, "--peers", "none"),
                *("--pod-resources", str(kubelet.path), "--kubeconfig", str(server.kubeconfig(folder / "kubeconfig"))),
                *("--scrape-interval", "0.1", "--demand-interval", "0.1", "--allow-endpoints", "127.0.0.0/8"),
            )
        )
        serving.wait_for_health(SERVING)
        yield Cluster(serving, engines.port, busy.port, quiet.port)


def expected(parsed: Trigger, value_type: str) -> object:
    """What must be handed out, from what the devices do: of two pods, or of the devices that fit; or from engines."""
    if parsed.metric.name == "ttft_ms":  # within a bucket
        return pytest.approx(PODS * pages.FIRST_TOKEN_MS, rel=0.05)
    reading = READINGS[parsed.metric.reading if isinstance(parsed.metric, EngineMetric) else parsed.metric.name]
    if parsed.scope is Scope.FLEET:
        assert parsed.aggregation == "sum"
        return pytest.approx(reading * (PODS * len(EXAMPLES) + (parsed.gpu_model is None)))
    return pytest.approx(reading if value_type == "Value" else PODS * reading)


def test_a_workload_whose_devices_have_no_such_reading_keeps_its_size_and_the_reason_is_named(
    cluster: Cluster,
) -> None:
    [(example, trigger)] = [(example, trigger) for example, _, trigger in every_trigger() if is_unread(trigger)]
    ref = cluster.ref(example, trigger, AWAKE)
    while "has no reading of nvlink_tx_mib_s" not in cluster.refusal(ref):
        pause()  # the workload is not read yet
    assert cluster.is_active(ref)


@each_answered_trigger
def test_a_busy_workload_is_answered_with_what_its_devices_and_engines_do(
    cluster: Cluster, example: Example, trigger: Mapping[str, Any]
) -> None:
    parsed = parse_trigger(trigger["metadata"])
    value_type = trigger.get("metricType", "AverageValue")
    value, target, active = cluster.ask(example, trigger)
    assert target == parsed.target
    assert active
    if parsed.metric.name == "triton_request_rate":
        assert value > 0  # by two clocks, that of the page and that of whoever reads it
        return
    if parsed.metric.name == "load":
        assert value >= FULL_ENOUGH * PODS  # by two clocks, and the queue by requests that are yet to end
    else:
        assert value == expected(parsed, value_type)
    # As busy as that, nothing shrinks, and two busy pods do not ask for all that the example allows.
    told = desired_replicas(ValueType(value_type), milli(value), milli(target), replicas=PODS).replicas
    assert told >= PODS
    assert parsed.scope is Scope.FLEET or told <= example.spec["maxReplicaCount"]


@each_trigger
def test_at_zero_only_demand_and_other_devices_can_wake_it(
    cluster: Cluster, example: Example, trigger: Mapping[str, Any]
) -> None:
    parsed = parse_trigger(trigger["metadata"])
    value, _, active = cluster.ask(example, trigger, ASLEEP)
    assert active is (parsed.scope is Scope.FLEET or parsed.demand is not None)
    if parsed.demand is not None:
        # Three requests are held: one replica, where the example sizes by demand at all.
        assert value == (parsed.target if parsed.demand.per_replica else 0)


@each_trigger
def test_while_nothing_is_held_nothing_is_woken(cluster: Cluster, example: Example, trigger: Mapping[str, Any]) -> None:
    if "demandEndpoint" not in trigger["metadata"]:
        assert cluster.ref(example, trigger, ASLEEP, quiet=True) == cluster.ref(example, trigger, ASLEEP)
        return
    ref = cluster.ref(example, trigger, QUIET, quiet=True)
    cluster.evaluation(ref)
    assert not cluster.is_active(ref)
