# SPDX-License-Identifier: Apache-2.0
"""Tests the checks of the Service, the agents and the nodes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from keda_gpu_scaler.cli.doctor.installation import ClusterOptions
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire.tls import ClientTls, Pem, own_pair
from tests.certificates import Authority
from tests.cli.doctor.fake_agent import NOW, fake_agent, update
from tests.cli.doctor.fake_cluster import IN_CLUSTER, INSTALLATION, OUTSIDE, FakeCluster, findings_in, loopback
from tests.free_ports import free_port
from tests.serving import Serving


def test_the_name_of_the_service_cannot_be_resolved(cluster: FakeCluster) -> None:
    assert findings_in(cluster, "service") == [
        "problem: keda-gpu-scaler.gpu.svc.cluster.local cannot be resolved: name or service not known"
    ]
    assert findings_in(cluster, "service", options=OUTSIDE) == [
        "skipped: keda-gpu-scaler.gpu.svc.cluster.local is a name in the cluster only"
    ]


def test_no_instance_answers_behind_the_service(cluster: FakeCluster) -> None:
    port = free_port()
    findings = findings_in(cluster, "service", options=ClusterOptions(is_in_cluster=True, resolve=loopback, port=port))
    assert findings == [
        "ok: keda-gpu-scaler.gpu.svc.cluster.local is 127.0.0.1",
        f"problem: no instance answers at keda-gpu-scaler.gpu.svc.cluster.local:{port}",
    ]


def test_there_are_no_agents(cluster: FakeCluster) -> None:
    cluster.node("gpu-7", nvidia_gpu="8")
    assert findings_in(cluster, "agents", "peers", "nodes") == [
        "problem: the headless Service gpu/keda-gpu-scaler-agents has no endpoint",
        "warning: 1 node with accelerators and without an agent: gpu-7",
    ]


def test_the_endpoints_of_the_agents_may_not_be_listed(cluster: FakeCluster) -> None:
    cluster.forbid("list", "endpointslices")
    [finding] = findings_in(cluster, "agents", "peers", "nodes")
    assert finding.startswith("problem: the API server forbids to list and watch endpointslices.discovery.k8s.io")


def test_a_working_fleet_is_ok_and_a_missing_agent_is_named(cluster: FakeCluster) -> None:
    gone = free_port()
    for node in ("gpu-7", "gpu-8", "gpu-9"):
        cluster.node(node, nvidia_gpu="8")
    cluster.node("cpu-1", nvidia_gpu="0")
    arguments = ("--backend", "synthetic", "--pod-resources", "off")
    with (
        Serving(*arguments, "--node-name", "gpu-7") as seven,
        Serving(*arguments, "--node-name", "gpu-8") as eight,
        Serving("--backend", "none", "--node-name", "front") as front,
    ):
        for one in (seven, eight):
            one.value_in_the_end(scope="node")
        cluster.agents({"gpu-7": seven.port, "gpu-8": eight.port, "gpu-9": gone})
        options = ClusterOptions(is_in_cluster=True, resolve=loopback, port=front.port)
        findings = findings_in(cluster, "service", "agents", "peers", "nodes", options=options)
    assert findings[1].startswith(f"ok: keda-gpu-scaler.gpu.svc.cluster.local:{front.port} serves; ")
    assert findings[2] == "ok: the headless Service gpu/keda-gpu-scaler-agents has 3 endpoints"
    assert findings[3].startswith(f"problem: node gpu-9 (127.0.0.1:{gone}): nothing listens there ")
    assert re.fullmatch(r"ok: 2 of 3 agents report 16 devices; the oldest snapshot is \d\.\d s old", findings[4])
    assert findings[5:] == ["ok: each of 3 nodes with accelerators has an agent"]


def test_a_fleet_with_tls_is_called_with_its_certificates(cluster: FakeCluster, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, ca = authority.issue("instance", host=INSTALLATION.host), str(authority.certificate)
    files = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), "--tls-ca", ca, "--tls-client-ca", ca)
    own = own_pair(str(pair.certificate), str(pair.key))
    assert own is not None
    tls = ClientTls(Pem("--tls-ca", authority.certificate), *own, INSTALLATION.host)
    arguments = ("--backend", "synthetic", "--pod-resources", "off", "--node-name", "gpu-7")
    with Serving(*arguments, *files, "--tls-peer-name", INSTALLATION.host, tls=tls) as serving:
        serving.value_in_the_end(scope="node")
        cluster.agents({"gpu-7": serving.port})
        options = ClusterOptions(is_in_cluster=True, resolve=loopback, port=serving.port)
        with_tls, without_tls = (
            findings_in(cluster, "service", "peers", options=replace(options, tls=one)) for one in (tls, None)
        )
    assert with_tls[1].startswith(f"ok: {INSTALLATION.host}:{serving.port} serves; ")
    assert with_tls[2].startswith("ok: 1 of 1 agents report 8 devices")
    assert [one.partition(":")[0] for one in without_tls] == ["ok", "problem", "problem"]


def test_agents_that_are_not_reachable_from_outside_are_skipped(cluster: FakeCluster) -> None:
    cluster.agents({"gpu-7": free_port()})
    assert findings_in(cluster, "peers", options=OUTSIDE) == [
        "skipped: the addresses of pods are not reachable from here"
    ]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            update(), "ok: 1 of 1 agents report 1 device; the oldest snapshot is 0.5 s old", id="a fresh snapshot"
        ),
        pytest.param(
            update(age=41.0),
            "problem: node gpu-7 (127.0.0.1:PORT): its snapshot is 41 s old (limit 10 s)",
            id="a stale snapshot",
        ),
        pytest.param(
            update(wall=NOW + 90), "warning: node gpu-7: its clock is 90 s ahead of this machine's", id="a fast clock"
        ),
        pytest.param(
            update(wall=NOW - 90), "warning: node gpu-7: its clock is 90 s behind this machine's", id="a slow clock"
        ),
        pytest.param(
            update(node="other"),
            "problem: 127.0.0.1:PORT reports the node name other, and it runs on node gpu-7",
            id="the name of another node",
        ),
        pytest.param(
            update(failure="the driver hangs"), "problem: node gpu-7 (127.0.0.1:PORT): the driver hangs", id="a failure"
        ),
        pytest.param(
            pb.Update(instance="x").SerializeToString(),
            "problem: node gpu-7 (127.0.0.1:PORT): it has no snapshot yet",
            id="no snapshot yet",
        ),
        pytest.param(
            pb.Update(instance="x", deviceless=True).SerializeToString(),
            "ok: 1 of 1 agents report 0 devices; the oldest snapshot is 0.0 s old",
            id="no device by design",
        ),
        pytest.param(
            pb.Update(instance="x", snapshot=b"{}").SerializeToString(),
            "problem: node gpu-7 (127.0.0.1:PORT): its answer cannot be read: ",
            id="an invalid snapshot",
        ),
        pytest.param(
            b"\xff",
            "problem: node gpu-7 (127.0.0.1:PORT): its answer cannot be read: ",
            id="not a message of the protocol",
        ),
    ],
)
def test_the_answer_of_an_agent_is_evaluated(cluster: FakeCluster, message: bytes, expected: str) -> None:
    with fake_agent(message) as port:
        cluster.agents({"gpu-7": port})
        first = findings_in(cluster, "peers", options=replace(IN_CLUSTER, unix_clock=lambda: NOW))[0]
    assert first.startswith(expected.replace("PORT", str(port)))


def test_two_agents_with_one_node_name_are_a_problem(cluster: FakeCluster) -> None:
    with fake_agent(update()) as one, fake_agent(update()) as other:
        cluster.agents({"gpu-7": one, "gpu-8": other})
        findings = findings_in(cluster, "peers", options=replace(IN_CLUSTER, unix_clock=lambda: NOW))
    assert "problem: 2 agents report the node name gpu-7" in findings
