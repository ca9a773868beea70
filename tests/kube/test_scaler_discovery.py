# SPDX-License-Identifier: Apache-2.0
"""Tests of finding an instance: the one that KEDA calls, ready before unready, front ends first."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.scaler_discovery import (
    ScalerPod,
    ScalerService,
    find_scaler,
    hpa,
    pod_for_people,
    scaled,
    scaler_pod,
    scaler_service,
)
from tests.apiserver import FakeApiServer

SERVICE_LABELS = {"kubernetes.io/service-name": "gpu"}


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as server:
        yield server


def called(server: FakeApiServer, call: Any) -> Any:
    async def calling() -> Any:
        api = ApiClient(server.access)
        try:
            return await call(api)
        finally:
            await api.close()

    return asyncio.run(calling())


def found(server: FakeApiServer, address: str = "", namespace: str = "") -> ScalerPod:
    instance: ScalerPod = called(server, lambda api: find_scaler(api, address, namespace))
    return instance


def endpoint(pod: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": ["10.0.0.1"], "conditions": conditions, "nodeName": f"of-{pod}", "targetRef": {"name": pod}}


def put_slice(server: FakeApiServer, *endpoints: dict[str, Any], port: int = 6000) -> None:
    ports = [{"name": "metrics", "port": 9400}, {"name": "grpc", "port": port}]
    server.put(
        "endpointslices", "gpu-1", "keda", metadata={"labels": SERVICE_LABELS}, ports=ports, endpoints=list(endpoints)
    )


def pod(server: FakeApiServer, name: str, component: str, *, ready: bool = True, namespace: str = "keda") -> None:
    labels = {"app.kubernetes.io/part-of": "keda-gpu-scaler", "app.kubernetes.io/component": component}
    server.pod(name, f"of-{name}", namespace=namespace, labels=labels, ready=ready)


@pytest.mark.parametrize("address", ["gpu.keda:6000", "gpu.keda.svc:6000", "gpu.keda.svc.cluster.local:6000"])
def test_the_service_that_the_trigger_names_is_used(server: FakeApiServer, address: str) -> None:
    put_slice(server, endpoint("a", ready=False), endpoint("b", ready=True, terminating=True), endpoint("c"), port=7000)
    pod(server, "front", "frontend")
    assert found(server, address) == ScalerPod("keda", "c", 7000, "of-c")


def test_a_pod_that_is_not_ready_is_better_than_none(server: FakeApiServer) -> None:
    put_slice(server, endpoint("a", ready=False))
    pod = found(server, "gpu.keda:6000")
    assert pod == ScalerPod("keda", "a", 6000, "of-a", is_ready=False)
    assert not pod.is_ready


def test_a_front_end_comes_before_an_agent_and_other_components_do_not_count(server: FakeApiServer) -> None:
    pod(server, "a-test", "test")
    pod(server, "an-agent", "agent")
    assert found(server, "elsewhere:6000").pod == "an-agent"
    pod(server, "front", "frontend")
    assert found(server).pod == "front"
    pod(server, "front", "frontend", ready=False)
    assert found(server).pod == "an-agent"


def test_a_given_namespace_takes_precedence_over_the_address(server: FakeApiServer) -> None:
    put_slice(server, endpoint("c"))
    pod(server, "other", "agent", namespace="gpu")
    assert found(server, "gpu.keda:6000", "gpu") == ScalerPod("gpu", "other", 6000, "of-other")


@pytest.mark.parametrize(
    ("address", "namespace", "sentence"),
    [
        ("gpu.keda:6000", "", "no instance is found by the Service gpu in namespace keda"),
        ("", "", "no instance is found by a pod labelled app.kubernetes.io/part-of=keda-gpu-scaler in any namespace"),
        (
            "",
            "gpu",
            "keda-gpu-scaler in namespace gpu: is it installed there? List its pods: kubectl get pods -A -l ",
        ),
        ("", "../x", "not a valid name of a Kubernetes object"),
    ],
)
def test_a_missing_instance_is_reported_with_the_criterion(
    server: FakeApiServer, address: str, namespace: str, sentence: str
) -> None:
    with pytest.raises(KubeError) as caught:
        found(server, address, namespace)
    assert sentence in str(caught.value)


def test_without_the_right_to_list_everywhere_the_remedy_is_a_namespace(server: FakeApiServer) -> None:
    server.forbid("list", "pods")
    with pytest.raises(KubeError, match="name the scaler's namespace with --namespace-of-scaler"):
        found(server)


def test_a_scaled_object_is_found_before_a_job_of_the_same_name(server: FakeApiServer) -> None:
    missing = "ai/llama: Not found: there is no ScaledObject and no ScaledJob of this name; list them: kubectl get "
    with pytest.raises(KubeError, match=missing):
        called(server, lambda api: scaled(api, "ai", "llama"))
    server.put("scaledjobs", "llama", spec={})
    assert called(server, lambda api: scaled(api, "ai", "llama"))["kind"] == "ScaledJob"
    server.put("scaledobjects", "llama", spec={})
    assert called(server, lambda api: scaled(api, "ai", "llama"))["kind"] == "ScaledObject"


@pytest.mark.parametrize("name", ["../pods", "a b", "", "LLAMA"])
def test_an_invalid_name_does_not_become_a_part_of_a_path(server: FakeApiServer, name: str) -> None:
    with pytest.raises(KubeError, match="not a valid name of a Kubernetes object"):
        called(server, lambda api: scaled(api, "ai", name))
    assert not server.asked


def test_an_hpa_that_cannot_be_read_is_none(server: FakeApiServer) -> None:
    assert called(server, lambda api: hpa(api, "ai", "keda-hpa-llama")) is None
    server.put("horizontalpodautoscalers", "keda-hpa-llama", status={"currentReplicas": 3})
    assert called(server, lambda api: hpa(api, "ai", "keda-hpa-llama"))["status"] == {"currentReplicas": 3}
    server.forbid("get", "horizontalpodautoscalers")
    assert called(server, lambda api: hpa(api, "ai", "keda-hpa-llama")) is None


@pytest.mark.parametrize(
    ("address", "service"),
    [
        ("gpu.keda:6000", ScalerService("gpu", "keda")),
        ("gpu.keda.svc.cluster.local:6000", ScalerService("gpu", "keda")),
        ("dns:///gpu.keda.svc:6000", ScalerService("gpu", "keda")),
        ("gpu:6000", ScalerService("gpu")),
        ("gpu.example.com:6000", None),
        ("10.0.0.1:6000", None),
        ("[fd00::1]:6000", None),
        ("", None),
    ],
)
def test_a_scaler_address_names_a_service_or_none(address: str, service: ScalerService | None) -> None:
    assert scaler_service(address) == service


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        pytest.param(
            {"spec": {"nodeName": "a", "containers": [{"ports": [{"name": "grpc", "containerPort": 7000}]}]}},
            ScalerPod("gpu", "scaler-a", 7000, "a"), id="a port named grpc",
        ),
        pytest.param({"spec": {"nodeName": "a"}}, ScalerPod("gpu", "scaler-a", 6000, "a"), id="no port"),
        pytest.param({"spec": {}}, ScalerPod("gpu", "scaler-a", 6000), id="no node"),
        pytest.param({"spec": {}, "status": {"phase": "Pending"}}, None, id="a pod that does not run yet"),
        pytest.param({"metadata": {"name": "scaler-a", "deletionTimestamp": "now"}}, None, id="a pod being deleted"),
        pytest.param({"metadata": {"name": "../secrets"}}, None, id="an invalid name of a pod"),
        pytest.param({"metadata": None, "spec": [], "status": 3}, None, id="fields of other types"),
    ],
)  # fmt: skip
def test_a_pod_of_the_scaler_is_read_where_it_runs(item: dict[str, Any], expected: ScalerPod | None) -> None:
    base = {"metadata": {"name": "scaler-a", "namespace": "gpu"}, "status": {"phase": "Running"}}
    assert scaler_pod({**base, **item}) == expected


@pytest.mark.parametrize(
    ("component", "ports", "expected"),
    [
        pytest.param("frontend", {"grpc": 6000, "explain": 6001}, (6001, True), id="a front end with an explain port"),
        pytest.param("frontend", {"grpc": 6000}, (6000, False), id="a front end without one is called as KEDA does"),
        pytest.param("agent", {"grpc": 6000, "explain": 6001}, (6001, True), id="an agent that KEDA calls"),
        pytest.param("agent", {"grpc": 6000}, None, id="an agent behind a front end"),
    ],
)
def test_people_call_the_explain_port(component: str, ports: dict[str, int], expected: tuple[int, bool] | None) -> None:
    containers = [{"ports": [{"name": name, "containerPort": port} for name, port in ports.items()]}]
    found = pod_for_people(
        {
            "metadata": {
                "name": "one", "namespace": "keda", "labels": {"app.kubernetes.io/component": component}
            },
            "spec": {"containers": containers},
            "status": {"phase": "Running"},
        }
    )  # fmt: skip
    assert (found and (found.port, found.is_for_people)) == expected
