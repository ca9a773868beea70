# SPDX-License-Identifier: Apache-2.0
"""Tests of the readers of Kubernetes objects, with fields of unexpected types."""

from typing import Any

import pytest

from keda_gpu_scaler.kube import parse


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
    return parse.pod(item, 0.0)


@pytest.mark.parametrize(
    ("value", "address"),
    [("10.0.0.1", "10.0.0.1"), ("fd00::1", "fd00::1"), ("", ""), (None, ""), ("metadata.google.internal", ""), (7, "")],
)
def test_a_pods_address_is_an_ip_address_or_empty(value: object, address: str) -> None:
    assert pod(status={"podIP": value}).address == address


@pytest.mark.parametrize(
    ("annotations", "uid"),
    [
        pytest.param({}, "8f1c", id="the pod's own UID"),
        pytest.param({"kubernetes.io/config.hash": "0123"}, "0123", id="a static pod: the UID on its node"),
        pytest.param({"kubernetes.io/config.hash": 7}, "8f1c", id="an annotation that is no text"),
    ],
)
def test_a_pod_has_the_uid_of_its_cgroup(annotations: dict[str, Any], uid: str) -> None:
    metadata = {"namespace": "ai", "name": "llama-0", "uid": "8f1c", "annotations": annotations}
    assert parse.pod({"metadata": metadata}, 0.0).uid == uid


@pytest.mark.parametrize(
    ("status", "addresses"),
    [
        pytest.param(
            {"podIP": "fd00::1", "podIPs": [{"ip": "fd00::1"}, {"ip": "10.0.0.1"}]}, ("fd00::1", "10.0.0.1"), id="both"
        ),
        pytest.param({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}, ("10.0.0.1",), id="one address"),
        pytest.param({"podIP": "10.0.0.1"}, ("10.0.0.1",), id="no list"),
        pytest.param({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}, ("10.0.0.1", "fd00::1"), id="only the list"),
        pytest.param({"podIPs": "x"}, ("",), id="no address"),
        pytest.param(
            {"podIP": "10.0.0.1", "podIPs": [None, {"ip": "host"}, {"ip": 7}, {}]}, ("10.0.0.1",), id="invalid entries"
        ),
        pytest.param(
            {"podIPs": [{"ip": f"10.0.0.{number}"} for number in range(9)]},
            ("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"),
            id="more than the limit",
        ),
    ],
)
def test_each_address_of_a_pod_is_kept_once(status: dict[str, object], addresses: tuple[str, ...]) -> None:
    found = pod(status=status)
    assert (found.address, *found.other_addresses) == addresses


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
def test_entries_that_are_not_ports_are_left_out(containers: object) -> None:
    assert pod(spec={"containers": containers}).ports == ()


READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2023-11-14T22:13:10Z"}


@pytest.mark.parametrize(
    ("condition", "ready_at"),
    [
        pytest.param(READY, 1_699_999_990.0, id="a ready pod"),
        pytest.param({**READY, "status": "False"}, None, id="the time at which it became unready"),
        pytest.param({**READY, "lastTransitionTime": None}, None, id="no time"),
        pytest.param({**READY, "lastTransitionTime": "yesterday"}, None, id="a time that cannot be read"),
        pytest.param({**READY, "type": "PodScheduled"}, None, id="another condition"),
    ],
)
def test_the_time_of_readiness_is_known_of_a_ready_pod(condition: dict[str, Any], ready_at: float | None) -> None:
    assert pod(status={"conditions": [condition]}).ready_at_seconds == ready_at


def test_the_time_of_readiness_is_on_the_monotonic_clock() -> None:
    item = {
        "metadata": {"creationTimestamp": "2023-11-14T22:12:00Z"},
        "status": {"conditions": [READY]},
    }
    one = parse.pod(item, -1_699_999_000.0)
    assert (one.ready_at_seconds, one.cold_start_seconds) == (990.0, 70.0)


@pytest.mark.parametrize(
    ("statuses", "restarts"),
    [
        pytest.param([{"restartCount": 2}, {"restartCount": 1}, {}], 3, id="of all containers"),
        pytest.param(None, 0, id="no status"),
        pytest.param([{"restartCount": "x"}, None, {"restartCount": -3}], 0, id="no counts"),
    ],
)
def test_the_restarts_of_containers_are_added_up(statuses: object, restarts: int) -> None:
    assert pod(status={"containerStatuses": statuses}).restarts == restarts


@pytest.mark.parametrize(
    ("annotations", "kept"),
    [
        pytest.param({"port": "8000", "path": "/stats", "scheme": "https"}, (8000, "/stats", "https"), id="all three"),
        pytest.param({}, (None, None, None), id="none"),
        pytest.param({"port": "http"}, (None, None, None), id="the name of a port"),
        pytest.param({"port": "0"}, (None, None, None), id="port 0"),
        pytest.param({"port": "65536"}, (None, None, None), id="a port above 65535"),
        pytest.param({"path": "metrics"}, (None, None, None), id="a path without a leading slash"),
        pytest.param({"path": "/a b"}, (None, None, None), id="a blank in a path"),
        pytest.param({"path": "/a\r\nHost: b"}, (None, None, None), id="a header in a path"),
        pytest.param({"scheme": "ftp"}, (None, None, None), id="another scheme"),
        pytest.param({"port": 8000}, (None, None, None), id="a value that is not text"),
    ],
)
def test_usable_annotations_are_kept(annotations: dict[str, Any], kept: tuple[object, ...]) -> None:
    found = pod(**annotations)
    assert (found.metrics_port, found.metrics_path, found.metrics_scheme) == kept


SLICE = {"ports": [{"name": "grpc", "port": 6000}], "endpoints": [{"addresses": ["10.0.0.1"]}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"ports": None}, {"ports": ["6000"]}, {"ports": [{"name": "grpc", "port": "6000"}]}, {"ports": [{"port": 0}]},
        {"endpoints": 7}, {"endpoints": [None]}, {"endpoints": [{"addresses": "10.0.0.1"}]},
        {"endpoints": [{"addresses": [7]}]}, {"endpoints": [{"addresses": []}]},
    ],
)  # fmt: skip
def test_a_slice_with_fields_of_other_types_has_no_endpoint(fields: dict[str, Any]) -> None:
    assert len(parse.endpoints(SLICE)) == 1
    assert parse.endpoints({**SLICE, **fields}) == ()


def test_endpoints_that_differ_in_readiness_alone_are_equal() -> None:
    unready = {**SLICE, "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": False}}]}
    assert parse.endpoints(unready) == parse.endpoints(SLICE)
    assert [endpoint.is_ready for endpoint in (*parse.endpoints(unready), *parse.endpoints(SLICE))] == [False, True]


@pytest.mark.parametrize(
    ("allocatable", "expected"),
    [
        ({"nvidia.com/gpu": "8"}, True), ({"nvidia.com/gpu": "0"}, False), ({"amd.com/gpu": "1"}, True),
        ({"volcano.sh/vgpu-number": "10"}, True), ({"aliyun.com/gpu-mem": "80"}, True), ({"rdma/hca": "1000"}, False),
        ({"gpu.intel.com/i915": "1"}, True), ({"cpu": "8"}, False), ({}, False), (None, False),
    ],
)  # fmt: skip
def test_a_node_has_accelerators_where_a_device_plugin_reports_some(allocatable: object, expected: bool) -> None:
    assert parse.has_accelerators({"status": {"allocatable": allocatable}}) is expected


@pytest.mark.parametrize(
    ("spec", "requests", "has_claims"),
    [
        pytest.param(
            {"containers": [{"resources": {"limits": {"amd.com/gpu": "1", "cpu": "2"}}}]}, ("amd.com/gpu",), False,
            id="a device plugin's resource",
        ),
        pytest.param(
            {
                "containers": [{"resources": {"requests": {"b.io/x": "1"}}}],
                "initContainers": [{"resources": {"limits": {"a.io/x": 1}}}],
            },
            ("a.io/x", "b.io/x"), False, id="requests of every container, sorted",
        ),
        pytest.param(
            {"containers": [{"resources": {"limits": {"requests.kubernetes.io/x": "1"}}}]}, (), False,
            id="a resource of Kubernetes itself",
        ),
        pytest.param({"resourceClaims": [{"name": "gpu"}]}, (), True, id="a claim"),
        pytest.param({"resourceClaims": "gpu", "containers": [7, {"resources": 7}]}, (), False, id="other types"),
    ],
)  # fmt: skip
def test_a_pods_requests_say_how_it_gets_devices(
    spec: dict[str, Any], requests: tuple[str, ...], has_claims: bool
) -> None:
    read = pod(spec=spec)
    assert (read.requests, read.has_claims, read.assigned) == (requests, has_claims, None)
