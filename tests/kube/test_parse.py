# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest

from keda_gpu_scaler.kube import parse as objects


def pod(*, spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None, **annotations: Any) -> Any:
    item = {
        "metadata": {
            "namespace": "ai",
            "name": "llama-0",
            "annotations": {f"prometheus.io/{key}": value for key, value in annotations.items()},
        },
        "spec": spec or {},
        "status": status or {},
    }
    return objects.pod(item, 0.0)


@pytest.mark.parametrize(
    ("told", "address"),
    [("10.0.0.1", "10.0.0.1"), ("fd00::1", "fd00::1"), ("", ""), (None, ""), ("metadata.google.internal", ""), (7, "")],
)
def test_a_pods_address_is_an_ip_or_none(told: object, address: str) -> None:
    assert pod(status={"podIP": told}).address == address


def test_the_tcp_ports_of_every_container_are_kept_once_and_in_order() -> None:
    containers = [
        {"ports": [{"containerPort": 8000}, {"containerPort": 53, "protocol": "UDP"}]},
        {"ports": [{"containerPort": 9090, "protocol": "TCP"}, {"containerPort": 8000}]},
        {},
    ]
    assert pod(spec={"containers": containers}).ports == (8000, 9090)


@pytest.mark.parametrize(
    "containers",
    [None, "x", [None], [{"ports": None}], [{"ports": ["8000"]}], [{"ports": [{"containerPort": "8000"}]}]],
)
def test_ports_that_are_none_are_no_ports(containers: object) -> None:
    assert pod(spec={"containers": containers}).ports == ()


@pytest.mark.parametrize(
    ("annotations", "kept"),
    [
        pytest.param({"port": "8000", "path": "/stats", "scheme": "https"}, (8000, "/stats", "https"), id="all three"),
        pytest.param({}, (None, None, None), id="none"),
        pytest.param({"port": "http"}, (None, None, None), id="a port's name"),
        pytest.param({"port": "0"}, (None, None, None), id="no port"),
        pytest.param({"port": "65536"}, (None, None, None), id="beyond the ports"),
        pytest.param({"path": "metrics"}, (None, None, None), id="a path without its slash"),
        pytest.param({"path": "/a b"}, (None, None, None), id="a blank in a path"),
        pytest.param({"path": "/a\r\nHost: b"}, (None, None, None), id="a header in a path"),
        pytest.param({"scheme": "ftp"}, (None, None, None), id="another scheme"),
        pytest.param({"port": 8000}, (None, None, None), id="no text"),
    ],
)
def test_annotations_that_can_be_followed_are_kept(annotations: dict[str, Any], kept: tuple[object, ...]) -> None:
    found = pod(**annotations)
    assert (found.metrics_port, found.metrics_path, found.metrics_scheme) == kept
