# SPDX-License-Identifier: Apache-2.0
"""Tests that the chart grants exactly the rights that the program uses.

A real process runs with the arguments that the chart gives, is asked about every kind of workload, and each of its
requests is held against the rendered roles.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc
import pytest

from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.apiserver import Asked, FakeApiServer
from tests.deploy.rendering import Grant, Rendered, container, render
from tests.free_ports import free_port
from tests.limits import WAIT_SECONDS
from tests.polling import pause
from tests.serving import Serving

pytestmark = pytest.mark.usefixtures("chart_tools")

NAMESPACE = "gpu"  # where the test API server believes its client to be
EXTRAS = (
    "--set-json",
    'rbac.scaleTargets=[{"group":"argoproj.io","resource":"rollouts"},{"group":"example.com","resource":"modelservers"}]',
    "--set-json",
    'rbac.owners=[{"group":"ray.io","resource":"rayclusters"}]',
)
SHAPES = {
    "the agents of the quick start": EXTRAS,
    "the front end": (*EXTRAS, "--set", "frontend.enabled=true"),
    "a front end for the workloads of one namespace": (
        *EXTRAS,
        *("--set", "frontend.enabled=true", "--set", "rbac.namespaces={ai}"),
    ),
}
WATCHED = {
    "scaledobjects", "scaledjobs", "pods", "deployments", "statefulsets", "rollouts", "nodes", "endpointslices",
    "resourceclaims", "resourceslices", "replicasets", "modelservers", "rayclusters",
}  # fmt: skip
SCALES = 4
MARKS = {"hami.io/vgpu-devices-allocated": "GPU-aaa,NVIDIA,3000,50:;"}
"""Of a scheduler that shares GPUs: the pods of all namespaces are read, where the rights allow it."""


def asked_pod(rendered: Rendered) -> tuple[str, list[str]]:
    """The service account and the arguments of the pods that KEDA's Service leads to."""
    [component] = rendered.selected(rendered.one("Service", "keda-gpu-scaler")["spec"]["selector"])
    pod = rendered.pods()[component]
    return pod["spec"]["serviceAccountName"], container(pod)["args"]


def populate(server: FakeApiServer) -> None:
    for name, kind, api_version, resource in (
        ("llama", "Deployment", "apps/v1", "deployments"),
        ("big", "StatefulSet", "apps/v1", "statefulsets"),
        ("canary", "Rollout", "argoproj.io/v1alpha1", "rollouts"),
        ("ray", "ModelServer", "example.com/v1", "modelservers"),
    ):
        server.scale(name, 1, resource=resource)
        server.scaled_object(name, kind=kind, api_version=api_version, nodeSelector="pool=a")
        server.pod(f"{name}-0", "gpu-1", app=name)
    # Whose pods these are, only their owners show.
    server.pod("other-0", "gpu-1", app="llama", owner="ReplicaSet other")
    for cluster in ("blue", "green"):
        server.pod(f"{cluster}-0", "gpu-1", app="ray", owner=f"RayCluster {cluster}")
    server.put("scaledjobs", "batch", spec={"triggers": [{"type": "external", "metadata": {"nodeSelector": "pool=a"}}]})
    server.pod("batch-0", "gpu-1", labels={"scaledjob.keda.sh/name": "batch"})
    server.pod("llama-1", "gpu-1", spec={"resourceClaims": [{"name": "gpu"}]}, annotations=MARKS)
    server.put("nodes", "gpu-1", "", metadata={"labels": {"pool": "a"}})
    server.put(
        "endpointslices", "agents-x", NAMESPACE,
        metadata={"labels": {"kubernetes.io/service-name": "keda-gpu-scaler-agents"}},
        addressType="IPv4", ports=[{"name": "grpc", "port": 1, "protocol": "TCP"}],
        endpoints=[{"addresses": ["127.0.0.1"], "nodeName": "gpu-1", "conditions": {}}],
    )  # fmt: skip


@pytest.fixture(scope="module", params=SHAPES)
def scenario(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[set[Grant], set[Asked]]]:
    """What the asked instance may do, and what it did."""
    rendered = render(*SHAPES[request.param], namespace=NAMESPACE)
    account, arguments = asked_pod(rendered)
    folder: Path = tmp_path_factory.mktemp("rights")
    with FakeApiServer() as server:
        populate(server)
        # What concerns the node is not there; whatever concerns the API server is as the chart says.
        here = (
            "--backend",
            "none",
            "--pod-resources",
            "off",
            "--kubeconfig",
            str(server.kubeconfig(folder / "config")),
        )
        with Serving(*arguments[1:], *here) as serving:
            # Nobody can answer here, which is an event after a few seconds.
            while not (
                set(+server.watches) >= WATCHED
                and server.requests["get scale"] >= SCALES
                and server.requests["create events"]
            ):
                ask(serving)
                pause()
        grants, asked = set(rendered.grants(account)), set(server.asked)
        # With rights in one namespace the pods of the others are tried, and the program goes on without them.
        tried = {Asked(verb, "", "pods", "") for verb in ("list", "watch")} & asked
        assert tried
        yield grants, asked if ("list", "", "pods", "") in grants else asked - tried


def ask(serving: Serving) -> None:
    """Ask about every workload; where nobody sees the GPUs the answer is an error, and it is not what counts here."""
    for name in ("llama", "big", "canary", "ray", "batch"):
        ref = pb.ScaledObjectRef(name=name, namespace="ai", scalerMetadata={"nodeSelector": "pool=a"})
        with contextlib.suppress(grpc.RpcError):
            serving.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref), timeout=WAIT_SECONDS)
    assert serving.process.poll() is None, "the server has ended"


def covers(grant: Grant, asked: Asked) -> bool:
    verb, group, resource, namespace = grant
    return (verb, group, resource) == (asked.verb, asked.group, asked.resource) and namespace in ("", asked.namespace)


def refused(grants: Iterable[Grant], asked: Iterable[Asked]) -> list[Asked]:
    return [one for one in asked if not any(covers(grant, one) for grant in grants)]


def unused(grants: Iterable[Grant], asked: Iterable[Asked]) -> list[Grant]:
    return [grant for grant in grants if not any(covers(grant, one) for one in asked)]


def test_every_request_of_the_program_is_allowed(scenario: tuple[set[Grant], set[Asked]]) -> None:
    grants, asked = scenario
    assert refused(grants, asked) == []


def test_nothing_is_granted_that_the_program_never_asks(scenario: tuple[set[Grant], set[Asked]]) -> None:
    grants, asked = scenario
    assert unused(grants, asked) == []


def test_a_right_less_is_noticed_and_so_is_one_too_many(scenario: tuple[set[Grant], set[Asked]]) -> None:
    grants, asked = scenario
    for grant in grants:
        assert refused(grants - {grant}, asked), grant
    for excess in (("get", "", "secrets", ""), ("delete", "", "pods", ""), ("list", "", "pods", "elsewhere")):
        assert unused({*grants, excess}, asked) == [excess]


def test_rights_at_one_namespace_reach_no_other() -> None:
    rendered = render(*SHAPES["a front end for the workloads of one namespace"], namespace=NAMESPACE)
    grants = set(rendered.grants("keda-gpu-scaler"))
    in_no_namespace = {("nodes", ""), ("resourceclaims", ""), ("resourceslices", "")}
    assert {(resource, namespace) for _, _, resource, namespace in grants if namespace == ""} == in_no_namespace
    assert refused(grants, [Asked("list", "", "pods", "elsewhere")])


def test_agents_behind_a_front_end_have_neither_rights_nor_a_token() -> None:
    rendered = render("--set", "frontend.enabled=true")
    agent = rendered.pods()["agent"]["spec"]
    assert agent["automountServiceAccountToken"] is False
    assert not rendered.one("ServiceAccount", agent["serviceAccountName"])["automountServiceAccountToken"]
    assert list(rendered.grants(agent["serviceAccountName"])) == []
    assert {"--kubeconfig=off", "--peers=none"} <= set(container(rendered.pods()["agent"])["args"])
    assert rendered.pods()["frontend"]["spec"]["serviceAccountName"] != agent["serviceAccountName"]


def test_without_rbac_nothing_is_granted_and_nodes_and_claims_can_be_left_out() -> None:
    assert render("--set", "rbac.create=false").all("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding") == []
    grants = render("--set", "rbac.nodes=false", "--set", "rbac.resourceClaims=false").grants("keda-gpu-scaler")
    assert not {"nodes", "resourceclaims", "resourceslices"} & {resource for _, _, resource, _ in grants}


@pytest.mark.parametrize("mode", ["write", "remove"])
def test_pods_are_changed_only_where_deletion_costs_are_switched_on(mode: str) -> None:
    changing = ("patch", "", "pods", "")
    assert changing not in set(render().grants("keda-gpu-scaler"))
    rendered = render("--set", f"deletionCost={mode}", "--set", "frontend.enabled=true", namespace=NAMESPACE)
    account, arguments = asked_pod(rendered)
    assert changing in set(rendered.grants(account))
    assert f"--deletion-cost={mode}" in arguments
    assert not any("deletion-cost" in argument for argument in container(rendered.pods()["agent"])["args"])


def test_callers_are_reviewed_only_where_people_have_a_port(tmp_path: Path) -> None:
    reviewing = {
        ("create", "authentication.k8s.io", "tokenreviews", ""),
        ("create", "authorization.k8s.io", "subjectaccessreviews", ""),
    }
    assert not reviewing & set(render().grants("keda-gpu-scaler"))
    rendered = render("--set", "explain.enabled=true", "--set", "frontend.enabled=true", namespace=NAMESPACE)
    account, arguments = asked_pod(rendered)
    assert reviewing <= set(rendered.grants(account))
    port = free_port()
    given = [f"--explain-port={port}" if one == "--explain-port=6001" else one for one in arguments[1:]]
    assert given != arguments[1:]
    with FakeApiServer() as server:
        server.caller_reviews.person("token-of-alice", "alice")
        config = server.kubeconfig(tmp_path / "config")
        with (
            Serving(*given, "--kubeconfig", str(config)),
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            stub = evaluation_pb_grpc.EvaluationsStub(channel)  # type: ignore[no-untyped-call]
            ref, headers = pb.ScaledObjectRef(name="llama"), (("authorization", "Bearer token-of-alice"),)
            with pytest.raises(grpc.RpcError) as denied:
                stub.Explain(ref, metadata=headers, timeout=WAIT_SECONDS)
        assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
        created = [one for one in server.asked if one.verb == "create"]
    assert refused(reviewing, created) == []
    assert unused(reviewing, created) == []


def test_every_rule_says_what_it_is_for() -> None:
    lines = (Path(__file__).parents[2] / "deploy/helm/keda-gpu-scaler/templates/rbac.yaml").read_text().splitlines()
    rules = [at for at, line in enumerate(lines) if re.match(r" +- apiGroups:", line)]
    assert len(rules) > 5
    for at in rules:
        # A pair of rules, of a resource and its scale, has one comment.
        assert "#" in lines[at - 1] or "{{ .resource }}/scale" in lines[at + 1], lines[at : at + 3]
