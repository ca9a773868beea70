# SPDX-License-Identifier: Apache-2.0
"""Tests the owner of each pod: clusters in which a selector matches pods of several owners, one a row."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest

from keda_gpu_scaler.core.types import Workload
from keda_gpu_scaler.kube import backoff as backoff_module
from keda_gpu_scaler.kube import watched_workload
from tests.apiserver import FakeApiServer, owner_references, scale_status
from tests.kube.test_workloads import Client, names, run

LWS = "leaderworkerset.sigs.k8s.io"
OF_TARGETS = {
    "scaledobjects", "scaledjobs", "pods", "deployments", "statefulsets", "rollouts", "leaderworkersets",
    "rayclusterfleets", "modelservers",
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff_module, "jittered", lambda seconds: 0.0)
    monkeypatch.setattr(watched_workload, "MIN_SCALE_INTERVAL_SECONDS", 0.0)


# ---- clusters ----


def deployment(server: FakeApiServer, name: str, *hashes: str, pods: int = 1, kind: str = "Deployment") -> None:
    """A Deployment or Rollout over the label app=llama, with a ReplicaSet for each hash."""
    is_rollout = kind == "Rollout"
    key = "rollouts-pod-template-hash" if is_rollout else "pod-template-hash"
    server.put(
        "rollouts" if is_rollout else "deployments", name,
        spec={"replicas": pods * len(hashes), "selector": {"matchLabels": {"app": "llama"}}},
        status=scale_status("rollouts" if is_rollout else "deployments", "llama", pods * len(hashes)),
    )  # fmt: skip
    server.scaled_object(name, kind=kind, api_version="argoproj.io/v1alpha1" if is_rollout else "apps/v1")
    for text in hashes:
        owner = f"{name}-{text}"
        server.put("replicasets", owner, metadata={"ownerReferences": owner_references(f"{kind} {name}")})
        for number in range(pods):
            server.pod(f"{owner}-{number}", "gpu-1", labels={"app": "llama", key: text}, owner=f"ReplicaSet {owner}")


def overlapping(server: FakeApiServer) -> None:
    deployment(server, "llama", "aaa", pods=2)
    deployment(server, "llama-v2", "bbb", pods=3)


def two_revisions(server: FakeApiServer) -> None:
    deployment(server, "llama", "aaa", "bbb", pods=2)


def adopted(server: FakeApiServer) -> None:
    """A Deployment was replaced by one of another name, which adopted its ReplicaSet."""
    deployment(server, "llama", "bbb")
    server.put("replicasets", "old-aaa", metadata={"ownerReferences": owner_references("Deployment llama")})
    server.pod("old-aaa-0", "gpu-1", labels={"app": "llama", "pod-template-hash": "aaa"}, owner="ReplicaSet old-aaa")


def without_the_right(server: FakeApiServer) -> None:
    overlapping(server)
    server.forbid("list", "replicasets")


def replicaset_is_deleted(server: FakeApiServer) -> None:
    overlapping(server)
    server.delete("replicasets", "llama-v2-bbb")


def orphans(server: FakeApiServer) -> None:
    deployment(server, "llama", "aaa")
    server.pod("stray", "gpu-1", labels={"app": "llama"})


def bare_replicaset(server: FakeApiServer) -> None:
    deployment(server, "llama", "aaa")
    server.put("replicasets", "bare")
    server.pod("bare-0", "gpu-1", labels={"app": "llama"}, owner="ReplicaSet bare")


def unknown_replicaset(server: FakeApiServer) -> None:
    deployment(server, "llama", "aaa")
    server.pod("new-0", "gpu-1", labels={"app": "llama"}, owner="ReplicaSet new")


def two_stateful_sets(server: FakeApiServer) -> None:
    server.scale("llama", 1, resource="statefulsets")
    server.scaled_object("llama", kind="StatefulSet")
    server.pod("llama-0", "gpu-1", owner="StatefulSet llama")
    server.pod("other-0", "gpu-1", owner="StatefulSet other")


def canary(server: FakeApiServer) -> None:
    deployment(server, "llama", "aaa", "bbb", kind="Rollout")
    server.put("replicasets", "llama-ccc", metadata={"ownerReferences": owner_references("Deployment llama")})
    server.pod(
        "llama-ccc-0", "gpu-1", labels={"app": "llama", "pod-template-hash": "ccc"}, owner="ReplicaSet llama-ccc"
    )


def scaled_job(server: FakeApiServer) -> None:
    labels = {"scaledjob.keda.sh/name": "llama", "batch.kubernetes.io/job-name": "llama-x7x2p"}
    server.put("scaledjobs", "llama", spec={"triggers": [{"type": "external", "metadata": {}}]})
    server.pod("llama-x7x2p-0", "gpu-1", labels=labels, owner="Job llama-x7x2p")
    server.pod("copy-aaa-0", "gpu-1", labels={**labels, "pod-template-hash": "aaa"}, owner="ReplicaSet copy-aaa")


def leader_worker_set(server: FakeApiServer) -> None:
    server.scale("llama", 2, resource="leaderworkersets")
    server.scaled_object("llama", kind="LeaderWorkerSet", api_version="leaderworkerset.x-k8s.io/v1")
    for group in range(2):
        for worker in range(2):
            labels = {f"{LWS}/name": "llama", f"{LWS}/group-index": str(group), f"{LWS}/worker-index": str(worker)}
            name = f"llama-{group}-{worker}" if worker else f"llama-{group}"
            owner = f"StatefulSet llama-{group}" if worker else "StatefulSet llama"
            server.pod(name, "gpu-1", labels=labels, annotations={f"{LWS}/size": "2"}, owner=owner)
    server.pod("other-0", "gpu-1", labels={f"{LWS}/name": "other", f"{LWS}/worker-index": "0"})


def ray_cluster_fleet(server: FakeApiServer) -> None:
    fleet = {"orchestration.aibrix.ai/raycluster-fleet-name": "llama"}
    server.put(
        "rayclusterfleets",
        "llama",
        spec={"replicas": 2, "selector": {"matchLabels": fleet}},
        status={"replicas": 2, "scalingTargetSelector": "orchestration.aibrix.ai/raycluster-fleet-name=llama"},
    )
    server.scaled_object("llama", kind="RayClusterFleet", api_version="orchestration.aibrix.ai/v1alpha1")
    for cluster in ("llama-aaa-1", "llama-aaa-2"):
        for kind in ("head", "worker"):
            labels = {**fleet, "ray.io/cluster": cluster, "ray.io/node-type": kind}
            server.pod(f"{cluster}-{kind}", "gpu-1", labels=labels, owner=f"RayCluster {cluster}")


def model_servers(server: FakeApiServer) -> None:
    server.scale("llama", 1, resource="modelservers")
    server.scaled_object("llama", kind="ModelServer", api_version="example.com/v1")
    for name in ("llama", "other"):
        server.put("rayclusters", f"{name}-x", metadata={"ownerReferences": owner_references(f"ModelServer {name}")})
        server.pod(f"{name}-x-0", "gpu-1", owner=f"RayCluster {name}-x")


def model_servers_without_the_right(server: FakeApiServer) -> None:
    model_servers(server)
    server.forbid("list", "rayclusters")


def model_server_alone(server: FakeApiServer) -> None:
    model_servers(server)
    server.delete("pods", "other-x-0")


@dataclass(frozen=True)
class Expected:
    pods: list[str]
    remarks: tuple[str, ...] = ()
    watched: frozenset[str] = frozenset()
    """The resources that are watched in addition to the target, its ScaledObject and its pods."""


OWN = ["llama-aaa-0", "llama-aaa-1"]
OTHERS = ["llama-v2-bbb-0", "llama-v2-bbb-1", "llama-v2-bbb-2"]
REPLICASETS = frozenset({"replicasets"})
NOT_GRANTED = (
    'the API server forbids to list and watch {0} in namespace "ai": grant list and watch on {0} (chart: rbac.create)'
)
UNKNOWN_OWNER = "whether {} is not known, so they count by its selector: {}"
CLUSTERS: Mapping[str, tuple[Callable[[FakeApiServer], None], Expected]] = {
    "two deployments whose selectors overlap": (
        overlapping,
        Expected(
            OWN,
            ("the selector of Deployment llama also matches 3 pods of Deployment llama-v2: they do not count",),
            REPLICASETS,
        ),
    ),
    "a deployment with two revisions is proved by the names": (
        two_revisions,
        Expected(
            ["llama-aaa-0", "llama-aaa-1", "llama-bbb-0", "llama-bbb-1"],
            ("Deployment llama owns its pods through ReplicaSet llama-aaa (2 pods), ReplicaSet llama-bbb (2 pods)",),
        ),
    ),
    "an adopted replicaset of another name": (
        adopted,
        Expected(
            ["llama-bbb-0", "old-aaa-0"],
            ("Deployment llama owns its pods through ReplicaSet llama-bbb (1 pod), ReplicaSet old-aaa (1 pod)",),
            REPLICASETS,
        ),
    ),
    "without the right to read replicasets the selector decides": (
        without_the_right,
        Expected(
            [*OWN, *OTHERS],
            (
                UNKNOWN_OWNER.format(
                    "Deployment llama owns the pods of ReplicaSet llama-v2-bbb (3 pods)",
                    NOT_GRANTED.format("replicasets.apps"),
                ),
            ),
        ),
    ),
    "a replicaset that is deleted is known by its name": (
        replicaset_is_deleted,
        Expected(
            OWN,
            ("the selector of Deployment llama also matches 3 pods of Deployment llama-v2: they do not count",),
            REPLICASETS,
        ),
    ),
    "a pod without a controller counts": (
        orphans,
        Expected(
            ["llama-aaa-0", "stray"],
            ("1 pod has no controller, and counts by the selector of Deployment llama",),
        ),
    ),
    "a replicaset of nobody": (
        bare_replicaset,
        Expected(
            ["llama-aaa-0"],
            ("the selector of Deployment llama also matches 1 pod of ReplicaSet bare: it does not count",),
            REPLICASETS,
        ),
    ),
    "a replicaset that is not listed yet": (
        unknown_replicaset,
        Expected(
            ["llama-aaa-0", "new-0"],
            (
                UNKNOWN_OWNER.format(
                    "Deployment llama owns the pods of ReplicaSet new (1 pod)", "ReplicaSet new does not exist"
                ),
            ),
            REPLICASETS,
        ),
    ),
    "two stateful sets of one label": (
        two_stateful_sets,
        Expected(
            ["llama-0"],
            ("the selector of StatefulSet llama also matches 1 pod of StatefulSet other: it does not count",),
        ),
    ),
    "canary and stable pods of a rollout both count, and the deployment of the same name does not": (
        canary,
        Expected(
            ["llama-aaa-0", "llama-bbb-0"],
            (
                "Rollout llama owns its pods through ReplicaSet llama-aaa (1 pod), ReplicaSet llama-bbb (1 pod)",
                "the selector of Rollout llama also matches 1 pod of Deployment llama: it does not count",
            ),
            REPLICASETS,
        ),
    ),
    "a pod with the label of a scaled job that no job owns": (
        scaled_job,
        Expected(
            ["llama-x7x2p-0"],
            ("the selector of ScaledJob llama also matches 1 pod of Deployment copy: it does not count",),
        ),
    ),
    "a leader worker set has its workers too": (
        leader_worker_set,
        Expected(
            ["llama-0", "llama-0-1", "llama-1", "llama-1-1"],
            (
                "LeaderWorkerSet llama owns its pods through StatefulSet llama (2 pods), StatefulSet llama-0 (1 pod), "
                "StatefulSet llama-1 (1 pod)",
            ),
        ),
    ),
    "a fleet of ray clusters": (
        ray_cluster_fleet,
        Expected(
            ["llama-aaa-1-head", "llama-aaa-1-worker", "llama-aaa-2-head", "llama-aaa-2-worker"],
            (
                "RayClusterFleet llama owns its pods through RayCluster llama-aaa-1 (2 pods), RayCluster llama-aaa-2 "
                "(2 pods)",
            ),
        ),
    ),
    "two custom resources, followed over the objects between": (
        model_servers,
        Expected(
            ["llama-x-0"],
            ("the selector of ModelServer llama also matches 1 pod of ModelServer other: it does not count",),
            frozenset({"rayclusters"}),
        ),
    ),
    "two custom resources without the right to follow them": (
        model_servers_without_the_right,
        Expected(
            ["llama-x-0", "other-x-0"],
            (
                UNKNOWN_OWNER.format(
                    "ModelServer llama owns the pods of RayCluster llama-x (1 pod), RayCluster other-x (1 pod)",
                    NOT_GRANTED.format("rayclusters.ray.io"),
                ),
            ),
        ),
    ),
    "one owner of all pods is not followed": (model_server_alone, Expected(["llama-x-0"])),
}


@pytest.mark.parametrize(("prepare", "expected"), CLUSTERS.values(), ids=CLUSTERS)
def test_a_pod_belongs_to_the_workload_that_owns_it(
    server: FakeApiServer, prepare: Callable[[FakeApiServer], None], expected: Expected
) -> None:
    prepare(server)

    async def talk(client: Client) -> None:
        known = await client.wait_for_sync()
        assert isinstance(known, Workload), known
        assert names(known) == expected.pods
        assert known.remarks == expected.remarks
        watching = {resource for resource, state in watched(client) if state == "watching"}
        assert watching - OF_TARGETS == expected.watched

    run(server, talk)


def watched(client: Client) -> set[tuple[str, str]]:
    return {(kind.partition(".")[0], state.value) for kind, state in client.workloads.watches()}


def test_overlapping_deployments_count_each_pod_once(server: FakeApiServer) -> None:
    overlapping(server)

    async def talk(client: Client) -> None:
        one, other = await client.wait_for_sync("llama"), await client.wait_for_sync("llama-v2")
        assert isinstance(one, Workload)
        assert isinstance(other, Workload)
        assert (names(one), names(other)) == (OWN, OTHERS)
        # The HPA counts the ready pods of a selector, whoever owns them.
        assert (one.hpa_ready_pods, other.hpa_ready_pods) == (5, 5)

    run(server, talk)


def test_an_ordinary_deployment_costs_no_further_watch(server: FakeApiServer) -> None:
    two_revisions(server)

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        await client.wait_for_watches()
        assert +server.watches == {"scaledobjects": 1, "deployments": 1, "pods": 1}
        assert server.requests["list replicasets"] == 0

    run(server, talk)


def test_the_watch_of_owners_ends_with_the_last_pod_that_needs_it(server: FakeApiServer) -> None:
    overlapping(server)

    async def talk(client: Client) -> None:
        await client.until(lambda known: "also matches 3 pods" in " ".join(known.remarks))
        for name in OTHERS:
            server.delete("pods", name)
        known = await client.until(lambda known: not known.remarks)
        assert names(known) == OWN
        while any(resource == "replicasets" for resource, _ in watched(client)):
            await client.changed.wait()

    run(server, talk)


def test_a_right_that_is_granted_later_is_used(server: FakeApiServer) -> None:
    without_the_right(server)

    async def talk(client: Client) -> None:
        known = await client.until(lambda known: len(known.pods) == 5)
        assert "is not known" in known.remarks[0]
        server.allow("list", "replicasets")
        known = await client.until(lambda known: len(known.pods) == 2)
        assert names(known) == OWN

    run(server, talk)


def test_a_leader_worker_set_counts_groups_and_the_hpa_its_leaders(server: FakeApiServer) -> None:
    leader_worker_set(server)

    async def talk(client: Client) -> None:
        known = await client.wait_for_sync()
        assert isinstance(known, Workload)
        assert not known.counts_pods
        assert (known.spec_replicas, known.status_replicas, known.hpa_ready_pods) == (2, 2, 2)
        shown = [(pod.ref.name, pod.group, pod.group_size, pod.is_worker) for pod in known.pods]
        assert shown == [
            ("llama-0", "llama-0", 2, False),
            ("llama-0-1", "llama-0", 2, True),
            ("llama-1", "llama-1", 2, False),
            ("llama-1-1", "llama-1", 2, True),
        ]

    run(server, talk)
