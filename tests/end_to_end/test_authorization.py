# SPDX-License-Identifier: Apache-2.0
"""Tests of who may call what, in real processes: KEDA, instances, and people through a port-forward."""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import fleet_pb2 as fleet_pb
from keda_gpu_scaler.wire import fleet_pb2_grpc as fleet_pb_grpc
from keda_gpu_scaler.wire.tls import ClientTls, Pem
from tests import forked
from tests.apiserver import TOKEN, FakeApiServer
from tests.certificates import NAME, Authority, Pair
from tests.free_ports import free_port
from tests.limits import WAIT_SECONDS
from tests.polling import pause
from tests.serving import SERVING, Serving, refused_to_start

POD, NAMESPACE = "front", "keda"
_PATIENT = ("--timeout", "60")  # on a machine with other work
TRIGGER: dict[str, Any] = {"targetValue": "80"}


class Installation:
    """A front end with mutual TLS and an explain port, whose pod an API server knows."""

    def __init__(self, folder: Path, server: FakeApiServer, stack: contextlib.ExitStack) -> None:
        self.folder, self.server = folder, server
        self.ca = Authority(folder)
        self.pair = self.ca.issue("instance")
        self.keda = self.ca.issue("keda", usage="clientAuth", host="keda-operator.keda")
        self.kubeconfig = server.kubeconfig(folder / "config")
        self.explain_port = free_port()
        self.serving = stack.enter_context(
            Serving(
                *("--backend", "none", "--peers", "none", "--kubeconfig", str(self.kubeconfig)),
                *("--tls-cert", str(self.pair.certificate), "--tls-key", str(self.pair.key)),
                *("--tls-client-ca", str(self.ca.certificate), "--tls-peer-name", NAME, "--tls-keda-names", "keda"),
                *("--explain-port", str(self.explain_port), "--log-level", "debug"),
                tls=self.client(self.keda),
            )
        )
        self.serving.wait_for_health(SERVING)
        server.scale("llama", 0)
        server.scaled_object("llama", scalerAddress=f"{NAME}:6000", **TRIGGER)
        server.pod(
            POD, "node-1", namespace=NAMESPACE,
            labels={"app.kubernetes.io/part-of": "keda-gpu-scaler", "app.kubernetes.io/component": "frontend"},
            spec={
                "containers": [
                    {"ports": [{"name": "grpc", "containerPort": 6000}, {"name": "explain", "containerPort": 6001}]}
                ]
            },
        )  # fmt: skip
        server.put(
            "endpointslices", "keda-gpu-scaler-1", NAMESPACE,
            metadata={"labels": {"kubernetes.io/service-name": "keda-gpu-scaler"}},
            ports=[{"name": "grpc", "port": 6000, "protocol": "TCP"}],
            endpoints=[
                {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": POD}}
            ],
        )  # fmt: skip
        server.forwards[NAMESPACE, POD, 6000] = self.serving.port
        server.forwards[NAMESPACE, POD, 6001] = self.explain_port

    def client(self, pair: Pair) -> ClientTls:
        own = Pem("--tls-cert", pair.certificate), Pem("--tls-key", pair.key, is_key=True)
        return ClientTls(Pem("--tls-ca", self.ca.certificate), *own, NAME)

    @contextlib.contextmanager
    def channel(self, pair: Pair) -> Iterator[grpc.Channel]:
        tls = self.client(pair)
        options = (("grpc.use_local_subchannel_pool", 1), *tls.options())
        with grpc.secure_channel(f"127.0.0.1:{self.serving.port}", tls.credentials(), options=options) as channel:
            yield channel

    def explain(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ("explain", "--kubeconfig", str(self.kubeconfig), "ai/llama", "--json", *_PATIENT, *arguments)
        return forked.run(command, environment={**os.environ, "GRPC_VERBOSITY": "debug"}, timeout=WAIT_SECONDS)

    def explained(self, *arguments: str) -> Any:
        """Explain until the first connection of the instance to the API server is ready."""
        while True:
            outcome = self.explain("--namespace-of-scaler", NAMESPACE, *arguments)
            assert TOKEN not in outcome.stdout + outcome.stderr
            assert outcome.stdout, outcome.stderr
            shown = json.loads(outcome.stdout)
            if "unavailable" not in (shown["no_value_reason"], str((shown["error"] or {}).get("status")).lower()):
                return shown
            assert self.serving.process.poll() is None
            pause()


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installation]:
    with FakeApiServer() as server, contextlib.ExitStack() as stack:
        yield Installation(tmp_path, server, stack)


def code_of(call: Any) -> str:
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def test_keda_and_instances_call_their_own_methods_and_no_certificate_explains(installed: Installation) -> None:
    found = {}
    for client, pair in (("keda", installed.keda), ("instance", installed.pair)):
        with installed.channel(pair) as channel:
            watch = fleet_pb_grpc.FleetStub(channel)  # type: ignore[no-untyped-call]
            explain = evaluation_pb_grpc.EvaluationsStub(channel)  # type: ignore[no-untyped-call]
            ref = pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata=TRIGGER)
            followed = watch.Watch(fleet_pb.WatchRequest(), timeout=WAIT_SECONDS)
            spec = channel.unary_unary("/externalscaler.ExternalScaler/GetMetricSpec")
            found[client] = (
                code_of(lambda: spec(ref.SerializeToString(), timeout=WAIT_SECONDS)),  # noqa: B023 - called at once
                code_of(lambda: next(followed)),  # noqa: B023 - called at once
                code_of(lambda: watch.RegisterInterest(fleet_pb.InterestRequest(seconds=1))),  # noqa: B023
                code_of(lambda: explain.Explain(ref, timeout=WAIT_SECONDS)),  # noqa: B023
            )
            followed.cancel()
    denied = "PERMISSION_DENIED"
    assert found == {"keda": ("OK", denied, denied, denied), "instance": (denied, "OK", "OK", denied)}


def test_a_person_explains_with_the_token_of_the_kubeconfig_and_no_certificate(installed: Installation) -> None:
    reviews = installed.server.caller_reviews
    reviews.person(TOKEN, "alice", "gpu-users")
    reviews.grant("gpu-users", "get", "scaledobjects", "ai", "llama")
    shown = installed.explained()
    assert (shown["error"], shown["value"], shown["instance"]) == (None, 0.0, f"pod {NAMESPACE}/{POD}")
    changed = installed.explained("-m", "targetValue=60")
    assert 'user "alice" may not update scaledobjects.keda.sh "llama"' in changed["error"]["details"]
    installed.serving.wait_for_log(re.compile('"alice" may get scaledobjects "ai"/"llama"'))
    assert TOKEN not in json.dumps(installed.serving.log)


def test_a_person_without_the_right_is_refused(installed: Installation) -> None:
    installed.server.caller_reviews.person(TOKEN, "alice")
    error = installed.explained()["error"]
    assert error["status"] == "PERMISSION_DENIED"
    assert 'user "alice" may not get scaledobjects.keda.sh "llama" in namespace "ai"' in error["details"]


def test_a_token_for_the_scaler_alone_is_enough(installed: Installation, tmp_path: Path) -> None:
    reviews = installed.server.caller_reviews
    reviews.person("for-the-scaler", "system:serviceaccount:ai:viewer", audience="keda-gpu-scaler")
    reviews.grant("system:serviceaccount:ai:viewer", "get", "scaledobjects", "ai", "llama")
    file = tmp_path / "token"
    file.write_text("for-the-scaler\n")
    assert installed.explained("--token-file", str(file))["value"] == 0.0


def test_a_token_is_sent_only_to_a_pod_in_the_namespace_that_its_owner_names(installed: Installation) -> None:
    """The author of a ScaledObject chooses scalerAddress, and with it the pod that would have the token."""
    installed.server.caller_reviews.person(TOKEN, "alice")
    outcome = installed.explain()
    assert (outcome.returncode, outcome.stdout) == (3, "")
    assert "Your token is sent to it if you name its namespace, because the pods there can read it: " in outcome.stderr
    assert f"--namespace-of-scaler {NAMESPACE}" in outcome.stderr
    assert installed.server.caller_reviews.asked == []


def test_the_service_of_a_trigger_in_another_namespace_gets_no_token(installed: Installation) -> None:
    server = installed.server
    server.scaled_object("llama", scalerAddress="mine.evil.svc:6000", **TRIGGER)
    server.pod(
        "thief",
        "node-1",
        namespace="evil",
        spec={"containers": [{"ports": [{"name": "explain", "containerPort": 6001}]}]},
    )
    server.put(
        "endpointslices", "mine-1", "evil",
        metadata={"labels": {"kubernetes.io/service-name": "mine"}},
        ports=[{"name": "grpc", "port": 6000, "protocol": "TCP"}],
        endpoints=[
            {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": "thief"}}
        ],
    )  # fmt: skip
    outcome = installed.explain()
    assert outcome.returncode == 3
    assert "--namespace-of-scaler evil" in outcome.stderr
    assert server.requests["portforward"] == 0


def test_a_kubeconfig_with_a_client_certificate_is_told_what_to_do(installed: Installation) -> None:
    config = json.loads(installed.kubeconfig.read_text())
    config["users"][0]["user"] = {
        "client-certificate": str(installed.keda.certificate),
        "client-key": str(installed.keda.key),
    }
    installed.kubeconfig.write_text(json.dumps(config))
    installed.server.tokens.add("")
    outcome = installed.explain("--namespace-of-scaler", NAMESPACE)
    assert outcome.returncode == 3
    assert "the kubeconfig has none (a client certificate cannot be checked there)" in outcome.stderr
    assert "kubectl create token SERVICEACCOUNT --audience keda-gpu-scaler" in outcome.stderr


def workloads(installed: Installation, *arguments: str) -> subprocess.CompletedProcess[str]:
    """List the workloads after KEDA has asked once."""
    with installed.channel(installed.keda) as channel:
        metrics = channel.unary_unary("/externalscaler.ExternalScaler/GetMetrics")
        ref = pb.ScaledObjectRef(
            name="llama", namespace="ai", scalerMetadata={"scalerAddress": f"{NAME}:6000", **TRIGGER}
        )
        request = pb.GetMetricsRequest(scaledObjectRef=ref).SerializeToString()
        while code_of(lambda: metrics(request, timeout=WAIT_SECONDS)) != "OK":
            assert installed.serving.process.poll() is None
    command = ("top", "--once", "--by", "workload", "--format", "json", "--kubeconfig", str(installed.kubeconfig))
    outcome = forked.run((*command, *_PATIENT, *arguments), environment={**os.environ}, timeout=WAIT_SECONDS)
    assert TOKEN not in outcome.stdout + outcome.stderr
    return outcome


def test_top_lists_the_workloads_for_a_person_who_may_list_them(installed: Installation, tmp_path: Path) -> None:
    reviews = installed.server.caller_reviews
    reviews.person(TOKEN, "alice", "gpu-users")
    reviews.grant("gpu-users", "list", "scaledobjects", "", "")
    listed = workloads(installed, "--namespace", NAMESPACE)
    assert [row["name"] for row in json.loads(listed.stdout)["rows"]] == ["llama"], listed

    reviews.person("of-bob", "bob", audience="keda-gpu-scaler")
    (tmp_path / "token").write_text("of-bob\n")
    refused = workloads(installed, "--namespace", NAMESPACE, "--token-file", str(tmp_path / "token"))
    assert refused.returncode == 3
    assert (
        'user "bob" may not list scaledobjects.keda.sh in all namespaces; grant it: '
        in json.loads(refused.stdout)["notes"][0]
    )


def test_top_sends_no_token_where_the_namespace_of_the_pod_is_not_named(installed: Installation) -> None:
    installed.server.caller_reviews.person(TOKEN, "alice")
    outcome = workloads(installed)
    assert outcome.returncode == 3
    assert f"if you name its namespace, because the pods there can read it: --namespace {NAMESPACE}" in outcome.stdout
    assert installed.server.caller_reviews.asked == []


def test_a_certificate_that_may_explain_needs_no_token(installed: Installation) -> None:
    with Serving(
        *("--backend", "none", "--peers", "none", "--kubeconfig", "off"),
        *("--tls-cert", str(installed.pair.certificate), "--tls-key", str(installed.pair.key)),
        *("--tls-client-ca", str(installed.ca.certificate), "--tls-explain-names", "keda"),
        tls=installed.client(installed.keda),
    ) as serving:
        tls = ("--tls-ca", str(installed.ca.certificate), "--tls-server-name", NAME)
        own = ("--tls-cert", str(installed.keda.certificate), "--tls-key", str(installed.keda.key))
        outcome = installed.explain("--address", f"127.0.0.1:{serving.port}", *tls, *own)
        assert json.loads(outcome.stdout)["error"] is None


@pytest.mark.parametrize("command", [("explain", "-m", "scope=fleet"), ("top", "--once")], ids=["explain", "top"])
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(
            ("--address", "10.0.0.1:6001", "--token-file", "$FILE"),
            "--token-file: Invalid value: with --address a token is sent to this machine only", id="another machine",
        ),
        pytest.param(
            ("--address", "scaler.example:6001", "--token-file", "$FILE"),
            "--token-file: Invalid value: with --address a token is sent to this machine only", id="a name",
        ),
        pytest.param(
            ("--token-file", "$FILE", "--tls-ca", "ca.crt"),
            "--token-file: Forbidden: with --tls-ca the certificate decides", id="a certificate too",
        ),
        pytest.param(("--token-file", "nowhere"), "--token-file: cannot read nowhere", id="no file"),
        pytest.param(
            ("--token-file", "$TWO"), "must hold one token, in one line: see kubectl create token", id="two lines"
        ),
    ],
)  # fmt: skip
def test_a_token_that_must_not_be_sent_is_refused_and_not_shown(
    command: tuple[str, ...], arguments: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    files = {"$FILE": tmp_path / "one", "$TWO": tmp_path / "two"}
    files["$FILE"].write_text("a-secret-token\n")
    files["$TWO"].write_text("a-secret-token\na-secret-token\n")
    given = [str(files.get(argument, argument)) for argument in arguments]
    outcome = forked.run((*command, *given), timeout=WAIT_SECONDS)
    assert outcome.returncode == 2
    assert sentence in outcome.stderr
    assert "a-secret-token" not in outcome.stdout + outcome.stderr


def test_an_explain_port_without_an_api_server_is_refused_at_the_start() -> None:
    status, sentence = refused_to_start("--backend", "none", "--port", "0", "--explain-port", "6001")
    assert status == 1
    assert sentence.startswith("keda-gpu-scaler: --explain-port: Invalid value: 6001: needs access to the API server")


def test_an_explain_port_in_use_is_refused_at_the_start(installed: Installation) -> None:
    status, sentence = refused_to_start(
        *("--backend", "none", "--port", "0", "--kubeconfig", str(installed.kubeconfig)),
        *("--peers", "none", "--explain-port", str(installed.explain_port)),
    )
    assert status == 1
    assert f"--explain-port: cannot listen on 127.0.0.1 port {installed.explain_port}" in sentence
