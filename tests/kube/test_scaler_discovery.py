# SPDX-License-Identifier: Apache-2.0
"""Which instance is asked: the one that KEDA would ask, ready before not ready, a front end before an agent."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.scaler_discovery import ScalerPod, find_scaler, hpa, scaled
from tests.apiserver import FakeApiServer

BEHIND = {"kubernetes.io/service-name": "gpu"}


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as server:
        yield server


def asked(server: FakeApiServer, ask: Any) -> Any:
    async def asking() -> Any:
        api = ApiClient(server.access)
        try:
            return await ask(api)
        finally:
            await api.close()

    return asyncio.run(asking())


def found(server: FakeApiServer, address: str = "", namespace: str = "") -> ScalerPod:
    instance: ScalerPod = asked(server, lambda api: find_scaler(api, address, namespace))
    return instance


def endpoint(pod: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": ["10.0.0.1"], "conditions": conditions, "nodeName": f"of-{pod}", "targetRef": {"name": pod}}


def behind(server: FakeApiServer, *endpoints: dict[str, Any], port: int = 6000) -> None:
    ports = [{"name": "metrics", "port": 9400}, {"name": "grpc", "port": port}]
    server.put("endpointslices", "gpu-1", "keda", metadata={"labels": BEHIND}, ports=ports, endpoints=list(endpoints))


def pod(server: FakeApiServer, name: str, component: str, *, ready: bool = True, namespace: str = "keda") -> None:
    labels = {"app.kubernetes.io/name": "keda-gpu-scaler", "app.kubernetes.io/component": component}
    server.pod(name, f"of-{name}", namespace=namespace, labels=labels, ready=ready)


@pytest.mark.parametrize("address", ["gpu.keda:6000", "gpu.keda.svc:6000", "gpu.keda.svc.cluster.local:6000"])
def test_the_service_that_the_trigger_names_is_followed(server: FakeApiServer, address: str) -> None:
    behind(server, endpoint("a", ready=False), endpoint("b", ready=True, terminating=True), endpoint("c"), port=7000)
    pod(server, "front", "frontend")
    assert found(server, address) == ScalerPod("keda", "c", 7000, "of-c")


def test_one_that_is_not_ready_is_better_than_none(server: FakeApiServer) -> None:
    behind(server, endpoint("a", ready=False))
    assert found(server, "gpu.keda:6000") == ScalerPod("keda", "a", 6000, "of-a", is_ready=False)


def test_a_front_end_comes_before_an_agent_and_what_is_neither_is_none(server: FakeApiServer) -> None:
    pod(server, "a-test", "test")
    pod(server, "an-agent", "agent")
    assert found(server, "elsewhere:6000").pod == "an-agent"
    pod(server, "front", "frontend")
    assert found(server).pod == "front"
    pod(server, "front", "frontend", ready=False)
    assert found(server).pod == "an-agent"


def test_a_namespace_that_is_said_wins_over_the_address(server: FakeApiServer) -> None:
    behind(server, endpoint("c"))
    pod(server, "other", "agent", namespace="gpu")
    assert found(server, "gpu.keda:6000", "gpu") == ScalerPod("gpu", "other", 6000, "of-other")


@pytest.mark.parametrize(
    ("address", "namespace", "sentence"),
    [
        ("gpu.keda:6000", "", "no instance is found by the Service gpu in namespace keda"),
        ("", "", "no instance is found by a pod labelled app.kubernetes.io/name=keda-gpu-scaler in any namespace"),
        ("", "gpu", "keda-gpu-scaler in namespace gpu: is it installed there"),
        ("", "../x", "no object of Kubernetes can be called so"),
    ],
)
def test_none_at_all_is_said(server: FakeApiServer, address: str, namespace: str, sentence: str) -> None:
    with pytest.raises(KubeError) as caught:
        found(server, address, namespace)
    assert sentence in str(caught.value)


def test_who_may_not_look_everywhere_is_told_to_say_where(server: FakeApiServer) -> None:
    server.forbid("list", "pods")
    with pytest.raises(KubeError, match="say where it is installed: --namespace-of-scaler"):
        found(server)


def test_a_scaled_object_is_found_before_a_job_of_the_same_name(server: FakeApiServer) -> None:
    with pytest.raises(KubeError, match="ai/llama: Not found: there is no ScaledObject and no ScaledJob"):
        asked(server, lambda api: scaled(api, "ai", "llama"))
    server.put("scaledjobs", "llama", spec={})
    assert asked(server, lambda api: scaled(api, "ai", "llama"))["kind"] == "ScaledJob"
    server.put("scaledobjects", "llama", spec={})
    assert asked(server, lambda api: scaled(api, "ai", "llama"))["kind"] == "ScaledObject"


@pytest.mark.parametrize("name", ["../pods", "a b", "", "LLAMA"])
def test_what_is_no_name_becomes_no_part_of_a_path(server: FakeApiServer, name: str) -> None:
    with pytest.raises(KubeError, match="no object of Kubernetes can be called so"):
        asked(server, lambda api: scaled(api, "ai", name))
    assert not server.asked


def test_an_hpa_that_cannot_be_read_is_none(server: FakeApiServer) -> None:
    assert asked(server, lambda api: hpa(api, "ai", "keda-hpa-llama")) is None
    server.put("horizontalpodautoscalers", "keda-hpa-llama", status={"currentReplicas": 3})
    assert asked(server, lambda api: hpa(api, "ai", "keda-hpa-llama"))["status"] == {"currentReplicas": 3}
    server.forbid("get", "horizontalpodautoscalers")
    assert asked(server, lambda api: hpa(api, "ai", "keda-hpa-llama")) is None
