# SPDX-License-Identifier: Apache-2.0
"""Tests ``explain`` against a whole fleet: real instances, reached through the API server."""

import contextlib
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.apiserver import FakeApiServer
from tests.certificates import NAME, Authority
from tests.end_to_end.test_fleet import FleetOfNodes, with_value
from tests.limits import WAIT_SECONDS
from tests.polling import pause
from tests.serving import Serving

ADDRESS = f"{NAME}:6000"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetOfNodes]:
    with FakeApiServer() as server, contextlib.ExitStack() as stack:
        yield FleetOfNodes(tmp_path, server, stack)


def install(fleet: FleetOfNodes, *nodes: str) -> None:
    """Register these instances with the API server as the endpoints of the Service that KEDA calls."""
    for node in nodes:
        name = f"scaler-{node}"
        fleet.server.pod(
            name, node, namespace="keda",
            labels={"app.kubernetes.io/part-of": "keda-gpu-scaler", "app.kubernetes.io/component": "agent"},
        )  # fmt: skip
        fleet.server.forwards["keda", name, 6000] = fleet.nodes[node].port
    fleet.server.put(
        "endpointslices", "keda-gpu-scaler-1", "keda",
        metadata={"labels": {"kubernetes.io/service-name": "keda-gpu-scaler"}},
        ports=[{"name": "grpc", "port": 6000, "protocol": "TCP"}],
        endpoints=[
            {
                "addresses": ["10.0.0.1"],
                "conditions": {"ready": True},
                "nodeName": node,
                "targetRef": {"kind": "Pod", "name": f"scaler-{node}"},
            }
            for node in nodes
        ],
    )  # fmt: skip


def explain(fleet: FleetOfNodes, *arguments: str, columns: int = 100) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": str(columns)}
    command = ("explain", "--kubeconfig", str(fleet.kubeconfig), *arguments)
    return forked.run(command, environment=environment, timeout=WAIT_SECONDS)


def parsed(outcome: subprocess.CompletedProcess[str]) -> Any:
    assert outcome.stdout, outcome.stderr
    return json.loads(outcome.stdout)


def build(fleet: FleetOfNodes, **spec: Any) -> None:
    """Build two replicas on two nodes, at 92 and 40 %, with a trigger that names the Service."""
    fleet.build(a=[92], b=[40])
    fleet.workload("llama", {"llama-0": ("a", 0), "llama-1": ("b", 0)})
    fleet.server.put(
        "scaledobjects", "llama", "ai",
        spec={
            "scaleTargetRef": {"name": "llama"},
            "triggers": [
                {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "80"}},
                {"type": "external", "metadata": {"scalerAddress": ADDRESS, "profile": "triton-inference"}},
            ],
            **spec,
        },
    )  # fmt: skip
    install(fleet, "a", "b")
    fleet.until("a", with_value(2), profile="triton-inference", scalerAddress=ADDRESS)


def test_a_scaledobject_is_explained_through_the_service_that_keda_calls(fleet: FleetOfNodes) -> None:
    build(fleet, minReplicaCount=2, maxReplicaCount=6)
    outcome = explain(fleet, "ai/llama")
    assert outcome.returncode == 0, outcome.stderr
    text = re.sub(r"\s+", " ", outcome.stdout)
    for part in (
        "ai/llama (trigger 2 of 2): 66 % per replica against 75 → 2 → 2 replicas (limit: none)",
        "from pod keda/scaler-a on node a",
        "llama-0 a yes 92 %",
        "GPU 0 NVIDIA H100 40 %",
        "66 % per replica 75 % 132 the total of 2 of 2 ready pods (AverageValue)",
        "active: 92 is above activationThreshold 10",
        "132 for the HPA is 0.88 times its target, below the tolerance of 0.9",
        "the triggers of other scalers (cpu) are not evaluated here",
        "next keda-gpu-scaler explain ai/llama -o wide # more",
    ):
        assert part in text, outcome.stdout
    wide = re.sub(r"\s+", " ", explain(fleet, "ai/llama", "-o", "wide").stdout)
    for part in (
        "targetValue 75 % profile triton-inference",
        "workload Deployment llama: 2 replicas specified, 2 exist, 2 ready",
        "132 is 0.880 of 2 * 75, so ceil(132 / 75) = 2",
        "2 to 6 replicas",
    ):
        assert part in wide, wide
    assert fleet.server.requests["portforward"] >= 1


def test_json_is_one_object_with_every_reading(fleet: FleetOfNodes) -> None:
    build(fleet)
    fleet.server.put(
        "horizontalpodautoscalers", "keda-hpa-llama", "ai",
        status={
            "currentReplicas": 2, "desiredReplicas": 3,
            "conditions": [
                {"type": "ScalingLimited", "status": "True", "reason": "TooManyReplicas", "message": "the desired …"}
            ],
        },
    )  # fmt: skip
    shown = parsed(explain(fleet, "ai/llama", "--json", "-m", "targetValue=20"))
    assert (shown["error"], shown["node"], shown["value"], shown["target"]) == (None, "a", 132.0, 20.0)
    assert {"key": "targetValue", "value": "20 %", "origin": "given"} in shown["settings"]
    assert [
        (observation["pod"], observation["node"], observation["value"]) for observation in shown["observations"]
    ] == [
        ("llama-0", "a", 92.0),
        ("llama-1", "b", 40.0),
    ]
    assert all(0 <= observation["age_seconds"] <= 1.1 for observation in shown["observations"])
    assert shown["observations"][0]["devices"] == [
        {"index": 0, "model": "NVIDIA H100", "uuid": "GPU-a-0", "value": 92.0, "sharers": 1}
    ]
    assert (shown["hpa"]["recommended"], shown["hpa"]["replicas"], shown["hpa"]["limit"]) == (7, 4, "rate up")
    assert (shown["hpa_status"]["current"], shown["hpa_status"]["desired"]) == (2, 3)


def test_an_unknown_reading_is_shown_as_unknown(fleet: FleetOfNodes) -> None:
    build(fleet)
    fleet.until("a", with_value(2), profile="triton-inference", scalerAddress=ADDRESS)  # b was read once
    fleet.nodes["b"].kill()
    fleet.until("a", with_value(1), profile="triton-inference", scalerAddress=ADDRESS)
    outcome = explain(fleet, "ai/llama", columns=140)
    assert outcome.returncode == 0
    # After six times --stale-after, which is 1 s here, the node's last snapshot is removed.
    reason = r"node b (last answered \d+ s ago|has no snapshot)"
    lines = outcome.stdout.splitlines()
    assert re.search(rf"1 of 2 ready pods without a value: {reason}", lines[1]), outcome.stdout
    assert re.search(r"llama-1 +b +yes +\? +-", outcome.stdout), outcome.stdout
    assert "1 of 2 ready pods (AverageValue)" in outcome.stdout


def test_another_instance_replaces_one_that_is_gone(fleet: FleetOfNodes) -> None:
    build(fleet)
    fleet.nodes["a"].kill()
    install(fleet, "b")
    fleet.until("b", with_value(1), profile="triton-inference", scalerAddress=ADDRESS)
    outcome = explain(fleet, "ai/llama", "-o", "json")
    assert parsed(outcome)["instance"] == "pod keda/scaler-b"
    assert outcome.returncode == 0


def test_without_an_address_in_the_trigger_an_instance_is_found_by_its_label(fleet: FleetOfNodes) -> None:
    fleet.build(a=[92])
    fleet.workload("llama", {"llama-0": ("a", 0)})
    fleet.server.scaled_object("llama", scalerAddress="gpu-scaler:6000")
    install(fleet, "a")
    fleet.until("a", with_value(1), scalerAddress="gpu-scaler:6000")
    shown = parsed(explain(fleet, "ai/llama", "--json"))
    assert (shown["instance"], shown["value"]) == ("pod keda/scaler-a", 92.0)
    outcome = explain(fleet, "ai/llama", "--namespace-of-scaler", "elsewhere")
    assert outcome.returncode == 3
    assert "no instance is found by a pod labelled app.kubernetes.io/part-of=keda-gpu-scaler" in outcome.stderr


def test_a_workload_that_does_not_exist_has_no_value(fleet: FleetOfNodes, tmp_path: Path) -> None:
    build(fleet)
    file = tmp_path / "scaledobject.yaml"
    file.write_text(
        f"apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {{name: new, namespace: ai}}\n"
        f"spec: {{scaleTargetRef: {{name: nothing}}, "
        f"triggers: [{{type: external, metadata: {{scalerAddress: '{ADDRESS}'}}}}]}}\n"
    )
    outcome = explain(fleet, "-f", str(file), columns=200)
    assert outcome.returncode == 1
    why = "no value (the configuration must change): ai/new: its scale target Deployment nothing does not exist"
    assert why in outcome.stdout
    assert "KEDA gets an error, and no fallback is set: the HPA does not change the size" in outcome.stdout


@pytest.mark.parametrize(
    ("verb", "resource", "sentence"),
    [
        ("get", "pods/portforward", "the API server answers 403: pods/portforward is forbidden"),
        ("get", "scaledobjects", "the API server answers 403: scaledobjects.keda.sh is forbidden"),
        ("list", "endpointslices", "the API server answers 403: endpointslices.discovery.k8s.io is forbidden"),
    ],
)
def test_a_missing_right_is_named(fleet: FleetOfNodes, verb: str, resource: str, sentence: str) -> None:
    fleet.build(a=[1])
    fleet.workload("llama", {"llama-0": ("a", 0)})
    fleet.server.scaled_object("llama", scalerAddress=ADDRESS)
    install(fleet, "a")
    fleet.server.forbid(verb, resource)
    outcome = explain(fleet, "ai/llama")
    assert (outcome.returncode, outcome.stdout) == (3, "")
    assert sentence in outcome.stderr
    assert "kubectl auth can-i --list --namespace NAMESPACE" in outcome.stderr


def test_credentials_that_are_not_accepted_have_a_remedy(fleet: FleetOfNodes) -> None:
    fleet.server.tokens.clear()
    outcome = explain(fleet, "ai/llama")
    assert outcome.returncode == 3
    assert "the API server answers 401" in outcome.stderr
    assert "have expired or are not valid: log in again, then check with: kubectl auth whoami" in outcome.stderr


@pytest.mark.parametrize("command", ["explain", "probe"])
def test_an_api_server_that_does_not_answer_has_the_reason_of_the_system_and_a_next_command(
    fleet: FleetOfNodes, command: str
) -> None:
    fleet.server.stop()
    words = ("ai/llama",) if command == "explain" else ()
    outcome = forked.run((command, "--kubeconfig", str(fleet.kubeconfig), *words), timeout=WAIT_SECONDS)
    assert outcome.returncode == 3
    assert "does not answer: connection refused\n" in outcome.stderr
    assert "kubectl cluster-info" in outcome.stderr


def test_a_port_without_a_listener_is_reported(fleet: FleetOfNodes) -> None:
    fleet.build(a=[1])
    fleet.workload("llama", {"llama-0": ("a", 0)})
    fleet.server.scaled_object("llama", scalerAddress=ADDRESS)
    install(fleet, "a")
    del fleet.server.forwards["keda", "scaler-a", 6000]
    outcome = explain(fleet, "ai/llama", columns=200)
    assert outcome.returncode == 3
    assert "the kubelet cannot reach the port: connection to port 6000 inside the pod refused" in outcome.stdout


def test_refused_metadata_is_shown_with_every_problem(fleet: FleetOfNodes) -> None:
    build(fleet)
    outcome = explain(fleet, "ai/llama", "-m", "targetValue=eighty", columns=200)
    assert outcome.returncode == 1
    assert 'metadata.targetValue: Invalid value: "eighty"' in outcome.stdout


def test_a_watch_repeats_the_explanation(fleet: FleetOfNodes) -> None:
    build(fleet)
    outcome = explain(fleet, "ai/llama", "--json", "--count", "3", "--interval", "0.01")
    assert [json.loads(line)["value"] for line in outcome.stdout.splitlines()] == [132.0] * 3


def test_a_watch_continues_with_another_instance(fleet: FleetOfNodes) -> None:
    build(fleet)
    command = ("explain", "--kubeconfig", str(fleet.kubeconfig), "ai/llama", "--json", "--watch", "--interval", "0.05")
    with forked.Forked(command) as watching:
        watchdog = threading.Timer(2 * WAIT_SECONDS, watching.kill)
        watchdog.start()
        rounds = (json.loads(line) for line in watching.stdout)
        assert next(rounds)["instance"] == "pod keda/scaler-a"
        fleet.nodes["a"].kill()
        assert next(one for one in rounds if one["error"])["value"] is None
        install(fleet, "b")
        assert next(one for one in rounds if not one["error"] and one["instance"] == "pod keda/scaler-b")
        watching.terminate()
        watchdog.cancel()


def test_a_certificate_must_name_the_host_that_keda_calls(fleet: FleetOfNodes, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("instance")
    fleet.server.scale("llama", 0)
    fleet.server.scaled_object("llama", scalerAddress=ADDRESS)
    with Serving(
        *("--backend", "none", "--peers", "none", "--kubeconfig", str(fleet.kubeconfig)),
        *("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)),
    ) as instance:
        install(fleet)
        fleet.server.pod(
            "front", "z", namespace="keda",
            labels={"app.kubernetes.io/part-of": "keda-gpu-scaler", "app.kubernetes.io/component": "frontend"},
        )  # fmt: skip
        fleet.server.forwards["keda", "front", 6000] = instance.port
        arguments = ("ai/llama", "--json", "--namespace-of-scaler", "keda", "--tls-ca", str(authority.certificate))
        while parsed(outcome := explain(fleet, *arguments))["no_value_reason"] == "unavailable":
            assert instance.process.poll() is None  # its first connection to the API server is not ready yet
            pause()
        assert (outcome.returncode, parsed(outcome)["value"]) == (0, 0.0)
        refused = explain(fleet, *arguments, "--tls-server-name", "another")
        assert refused.returncode == 3
        assert "its certificate contains another name" in parsed(refused)["error"]["details"]


def test_a_file_is_explained_before_anything_is_applied(fleet: FleetOfNodes, tmp_path: Path) -> None:
    build(fleet)
    fleet.server.delete("scaledobjects", "llama", "ai")
    file = tmp_path / "scaledobject.yaml"
    file.write_text(
        f"apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {{name: new, namespace: ai}}\n"
        f"spec: {{scaleTargetRef: {{name: llama}}, maxReplicaCount: 6, triggers: [{{type: external, "
        f"metadata: {{scalerAddress: '{ADDRESS}', profile: triton-inference, targetValue: '50'}}}}]}}\n"
    )
    outcome = explain(fleet, "-f", str(file))
    assert outcome.returncode == 0, outcome.stdout
    assert outcome.stdout.splitlines()[0] == "ai/new: 66 % per replica against 50 → 2 → 3 replicas (limit: none)"


def test_another_context_of_the_kubeconfig_is_used(fleet: FleetOfNodes) -> None:
    build(fleet)
    assert parsed(explain(fleet, "ai/llama", "--json", "--context", "test"))["value"] == 132.0
    outcome = explain(fleet, "ai/llama", "--context", "elsewhere")
    assert outcome.returncode == 2
    assert 'contexts: Not found: "elsewhere"' in re.sub(r"\s+", " ", outcome.stderr)


def test_probe_calls_an_instance_of_the_cluster_through_a_port_forward(fleet: FleetOfNodes) -> None:
    build(fleet)
    install(fleet, "a")
    words = ("--namespace", "ai", "--name", "llama", "-m", f"scalerAddress={ADDRESS}", "-m", "profile=triton-inference")
    command = ("probe", "--kubeconfig", str(fleet.kubeconfig), "--replicas", "2", "--timeout", "20", *words)
    outcome = forked.run(command, timeout=WAIT_SECONDS)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert outcome.stderr == "calling pod keda/scaler-a\n"
    assert "total of 2 pods: 132" in outcome.stdout
