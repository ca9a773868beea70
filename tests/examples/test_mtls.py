# SPDX-License-Identifier: Apache-2.0
"""Tests the TLS example with a real ``serve`` and a client that reads its secrets as KEDA does."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire.tls import ClientTls, Pem
from tests.certificates import Authority, Pair
from tests.examples.documents import EXAMPLES
from tests.limits import WAIT_SECONDS
from tests.serving import Serving, recorded

EXAMPLE = next(one for one in EXAMPLES if one.name == "mtls")
(TRIGGER,) = EXAMPLE.triggers
HOST = TRIGGER["metadata"]["scalerAddress"].rpartition(":")[0]


def secret(folder: Path, ca: Authority, client: Pair) -> Path:
    """Write a Secret's keys as files: those that the example's first lines name."""
    folder.mkdir()
    for key, path in {"ca.crt": ca.certificate, "tls.crt": client.certificate, "tls.key": client.key}.items():
        assert f"#            {key} " in EXAMPLE.text
        (folder / key).write_bytes(path.read_bytes())
    return folder


def as_keda(folder: Path) -> ClientTls:
    """What KEDA makes of the example: each parameter from its Secret's key, and the name from scalerAddress."""
    (authentication,) = (one for one in EXAMPLE.documents if one["kind"] == "ClusterTriggerAuthentication")
    assert TRIGGER["authenticationRef"] == {
        "name": authentication["metadata"]["name"], "kind": "ClusterTriggerAuthentication"
    }  # fmt: skip
    references: list[dict[str, Any]] = authentication["spec"]["secretTargetRef"]
    assert len({one["name"] for one in references}) == 1
    files = {one["parameter"]: folder / one["key"] for one in references}
    return ClientTls(
        Pem("caCert", files["caCert"]),
        Pem("tlsClientCert", files["tlsClientCert"]),
        Pem("tlsClientKey", files["tlsClientKey"], is_key=True),
        HOST,
    )


def asked(serving: Serving, tls: ClientTls) -> str:
    """Ask for the metric's name."""
    options = (("grpc.use_local_subchannel_pool", 1), *tls.options())
    with grpc.secure_channel(f"127.0.0.1:{serving.port}", tls.credentials(), options=options) as channel:
        call = channel.unary_unary(
            "/externalscaler.ExternalScaler/GetMetricSpec",
            request_serializer=pb.ScaledObjectRef.SerializeToString,
            response_deserializer=pb.GetMetricSpecResponse.FromString,
        )
        ref = pb.ScaledObjectRef(name=EXAMPLE.workload, namespace="ai", scalerMetadata=TRIGGER["metadata"])
        name: str = call(ref, timeout=WAIT_SECONDS).metricSpecs[0].metricName
        return name


def test_keda_is_answered_and_whoever_shows_no_certificate_is_not(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    server, keda = ca.issue("scaler"), ca.issue("keda", usage="clientAuth", host="keda-operator.keda")
    tls = as_keda(secret(tmp_path / "secret", ca, keda))
    backend = recorded(
        tmp_path,
        "timestamp, index, uuid, name, utilization.gpu [%]",
        *(f"2026/01/01 00:00:0{second}.000, 0, GPU-0, NVIDIA H100, 92 %" for second in range(2)),
    )
    with Serving(
        *("--backend", backend, "--tls-cert", str(server.certificate), "--tls-key", str(server.key)),
        *("--tls-client-ca", str(ca.certificate)),
        tls=tls,
    ) as serving:
        assert asked(serving, tls) == "keda_gpu_triton_inference"
        assert serving.value_in_the_end(**TRIGGER["metadata"]) == 92.0
        with pytest.raises(grpc.RpcError) as refused:
            asked(serving, ClientTls(tls.ca, server_name=HOST))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
