# SPDX-License-Identifier: Apache-2.0
"""Tests ``top`` with a fleet of real instances: directly, with TLS, and through the API server."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keda_gpu_scaler.wire.tls import ClientTls, Pem
from tests import forked
from tests.apiserver import FakeApiServer
from tests.certificates import NAME, Authority
from tests.cli.top.test_command import OnTerminal
from tests.end_to_end.test_fleet import FleetOfNodes
from tests.free_ports import free_port
from tests.limits import WAIT_SECONDS
from tests.serving import SERVING, Serving, recorded

AGENT = {"app.kubernetes.io/part-of": "keda-gpu-scaler", "app.kubernetes.io/component": "agent"}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetOfNodes]:
    with FakeApiServer() as server, contextlib.ExitStack() as stack:
        yield FleetOfNodes(tmp_path, server, stack)


def top(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": "/nowhere", "COLUMNS": "100"}
    command = ("top", "--once", "--timeout", "20", *arguments)
    return forked.run(command, environment=environment, timeout=WAIT_SECONDS)


def document(outcome: subprocess.CompletedProcess[str]) -> Any:
    assert outcome.stdout, outcome.stderr
    return json.loads(outcome.stdout)


def addresses(fleet: FleetOfNodes, *names: str) -> str:
    return ",".join(f"127.0.0.1:{fleet.nodes[name].port}" for name in names)


def until(call: Callable[[], Any], is_expected: Callable[[Any], object]) -> Any:
    """Repeat a call until its result is as expected: the list of a kubelet takes a moment to arrive."""
    for _ in range(100):
        if is_expected(found := call()):
            return found
    raise AssertionError(found)


def install(fleet: FleetOfNodes, *names: str) -> None:
    """Add these instances to the API server as pods of the chart, with ports that it can reach."""
    for name in names:
        fleet.server.pod(f"scaler-{name}", name, namespace="gpu", labels=AGENT)
        fleet.server.forwards["gpu", f"scaler-{name}", 6000] = fleet.nodes[name].port


def test_the_fleet_by_device_node_and_pod(fleet: FleetOfNodes) -> None:
    fleet.build(a=[92, 10], b=[40])
    fleet.hold({"llama-0": ("a", 0), "llama-1": ("b", 0), "whisper-0": ("b", 0)})
    where = addresses(fleet, "a", "b")
    by_pod = until(
        lambda: document(top("--address", where, "--by", "pod", "--sort", "util", "--format", "json")),
        lambda table: len(table["rows"]) == 4,
    )
    assert by_pod["unavailable"] == {}
    assert [(row["pod"], row["gpu_utilization_percent"]) for row in by_pod["rows"]] == [
        ("ai/llama-0", 92.0),
        ("ai/llama-1", 20.0),
        ("ai/whisper-0", 20.0),
        ("", 10.0),
    ]
    outcome = top("--peers", f"static:{where}", "--by", "node")
    assert outcome.returncode == 0
    assert [line.split()[:4] for line in outcome.stdout.splitlines()[1:]] == [
        ["a", "2", "H100", "51%"],
        ["b", "1", "H100", "40%"],
    ]
    assert "replay of a.csv" in outcome.stderr


def test_an_unavailable_instance_is_named_and_the_others_are_shown(fleet: FleetOfNodes) -> None:
    fleet.build(a=[92], b=[40])
    fleet.nodes["b"].kill()
    outcome = top("--address", addresses(fleet, "a", "b"))
    assert outcome.returncode == 1
    assert outcome.stdout.splitlines()[1].split()[:4] == ["a", "0", "H100", "92%"]
    assert f"unavailable: 127.0.0.1:{fleet.nodes['b'].port}: nothing listens there" in outcome.stderr
    # The log is suppressed: the lines of the command have the same reasons.
    assert all(line.startswith("keda-gpu-scaler: ") for line in outcome.stderr.splitlines())
    none_left = top("--address", addresses(fleet, "b"), "--format", "json")
    assert (none_left.returncode, document(none_left)["rows"]) == (3, [])


def test_an_instance_that_hangs_is_waited_for_until_the_timeout(fleet: FleetOfNodes) -> None:
    fleet.build(a=[92], b=[40])
    with fleet.nodes["b"].cut_off():
        outcome = top("--address", addresses(fleet, "a", "b"), "--timeout", "1", "--format", "json")
    found = document(outcome)
    assert found["unavailable"][addresses(fleet, "b")] == "it has not answered yet"
    assert outcome.returncode == (1 if found["rows"] else 3)  # a busy machine may have no answer of a within a second


def test_a_front_end_forwards_no_snapshots_and_a_note_says_so(fleet: FleetOfNodes) -> None:
    with Serving("--backend", "none", "--peers", "none") as front:
        outcome = top("--address", f"127.0.0.1:{front.port}")
        workloads = top("--address", f"127.0.0.1:{front.port}", "--by", "workload")
    assert (workloads.returncode, workloads.stdout) == (3, "")
    assert "no instance has answered for a workload in the last minutes" in workloads.stderr
    assert (outcome.returncode, outcome.stdout) == (3, "")
    assert (
        "the instance has no device by design, and does not forward the snapshots of others: name the agents with"
        in outcome.stderr
    )


def test_the_agents_of_a_cluster_are_reached_through_its_api_server(fleet: FleetOfNodes) -> None:
    fleet.build(a=[92], b=[40])
    install(fleet, "a", "b")
    fleet.server.pod("scaler-c", "c", namespace="gpu", labels=AGENT, phase="Pending")
    fleet.server.pod("front", "a", namespace="gpu", labels={**AGENT, "app.kubernetes.io/component": "frontend"})
    found = document(top("--kubeconfig", str(fleet.kubeconfig), "--format", "json"))
    assert found["unavailable"] == {}
    assert [(row["node"], row["gpu_utilization_percent"]) for row in found["rows"]] == [("a", 92.0), ("b", 40.0)]
    elsewhere = top("--kubeconfig", str(fleet.kubeconfig), "--namespace", "elsewhere")
    assert elsewhere.returncode == 3
    assert "unavailable: discovery: " in elsewhere.stderr


def test_the_endpoints_of_a_service_are_followed_directly(fleet: FleetOfNodes) -> None:
    fleet.build(a=[92])
    fleet.server.put(
        "endpointslices", "agents-1", "gpu",
        metadata={"labels": {"kubernetes.io/service-name": "agents"}},
        ports=[{"name": "grpc", "port": fleet.nodes["a"].port, "protocol": "TCP"}],
        endpoints=[{"addresses": ["127.0.0.1"], "nodeName": "a", "targetRef": {"kind": "Pod", "name": "scaler-a"}}],
    )  # fmt: skip
    where = ("--kubeconfig", str(fleet.kubeconfig), "--namespace", "gpu")
    found = document(top(*where, "--peers", "kubernetes:agents", "--format", "json"))
    assert [(row["node"], row["gpu_utilization_percent"]) for row in found["rows"]] == [("a", 92.0)]
    assert fleet.server.requests["portforward"] == 0
    assert top(*where, "--peers", "kubernetes:others").returncode == 3


@pytest.mark.parametrize(
    ("verb", "resource", "sentence"),
    [
        ("list", "pods", "forbids to list and watch pods"),
        ("get", "pods/portforward", "the right to create pods/portforward"),
    ],
)
def test_a_missing_right_is_named(fleet: FleetOfNodes, verb: str, resource: str, sentence: str) -> None:
    fleet.build(a=[92])
    install(fleet, "a")
    fleet.server.forbid(verb, resource)
    outcome = top("--kubeconfig", str(fleet.kubeconfig))
    assert outcome.returncode == 3
    assert sentence in outcome.stderr


def test_the_live_view_shows_a_node_that_starts_and_one_that_stops(fleet: FleetOfNodes) -> None:
    fleet.build(a=[92], b=[40])
    install(fleet, "a")
    arguments = ("--kubeconfig", str(fleet.kubeconfig), "--stale-after", "2", "--interval", "0.5")
    with OnTerminal(*arguments) as live:
        live.press("d")
        live.until("fleet  1 node  1 device")
        install(fleet, "b")
        live.until("2 nodes")
        fleet.nodes["b"].kill()
        live.until("last answered")
        live.press("q")
        assert live.ended() == 0


def test_instances_that_require_a_client_certificate_get_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue("instance"), authority.issue("operator", usage="clientAuth")
    trust = ("--tls-ca", str(authority.certificate), "--tls-server-name", NAME)
    port = free_port()
    lines = ["timestamp, index, uuid, name, utilization.gpu [%]"]
    lines += [f"2026/01/01 00:00:0{second}.000, 0, GPU-a, NVIDIA H100, 92 %" for second in range(2)]
    flags = ("--tls-cert", str(server.certificate), "--tls-key", str(server.key))
    requirement = ("--tls-client-ca", str(authority.certificate))
    tls = ClientTls(
        Pem("--tls-ca", authority.certificate), Pem("--tls-cert", client.certificate),
        Pem("--tls-key", client.key, is_key=True), NAME,
    )  # fmt: skip
    backend = ("--backend", recorded(tmp_path, *lines), "--node-name", "a", "--peers", "none", "--port", str(port))
    with Serving(*backend, *flags, *requirement, tls=tls) as serving:
        serving.wait_for_health(SERVING)
        identity = ("--tls-cert", str(client.certificate), "--tls-key", str(client.key))
        outcome = top("--address", f"127.0.0.1:{port}", *trust, *identity)
        assert outcome.returncode == 0, outcome.stderr
        assert outcome.stdout.splitlines()[1].split()[:4] == ["a", "0", "H100", "92%"]
        assert top("--address", f"127.0.0.1:{port}", *trust, "--timeout", "3").returncode == 3
