# SPDX-License-Identifier: Apache-2.0
"""Tests the rules of ``validate`` about workloads that serve an LLM."""

import json
from typing import Any

import pytest

from keda_gpu_scaler.cli.validate.rules import validate_text

BEHAVIOR = "spec.advanced.horizontalPodAutoscalerConfig.behavior"
PROBE = {"httpGet": {"path": "/health", "port": 8000}}
NO_PROBE = (
    'spec.scaleTargetRef: Invalid value: "llama": its container with vLLM has no readinessProbe, so a pod counts as '
    "ready while it loads its model; add a readinessProbe that succeeds when the model answers (GET /health for most "
    "engines)"
)
SATURATION = (
    'metadata.metricType: Invalid value: "saturation": it is not proportional to the traffic, so the HPA goes between '
    "too few replicas and the maximum; set metricType: load, or profile: llm without metricType"
)


def scaled(*, spec: dict[str, Any] | None = None, behavior: dict[str, Any] | None = None, **metadata: str) -> str:
    """Return a ScaledObject with one trigger, by default of the profile llm."""
    address = "keda-gpu-scaler.keda.svc.cluster.local:6000"
    trigger = {"type": "external", "metadata": {"scalerAddress": address, **(metadata or {"profile": "llm"})}}
    fields: dict[str, Any] = {
        "scaleTargetRef": {"name": "llama"},
        "minReplicaCount": 1,
        "maxReplicaCount": 8,
        "triggers": [trigger],
        **(spec or {}),
    }
    if behavior is not None:
        fields["advanced"] = {"horizontalPodAutoscalerConfig": {"behavior": behavior}}
    names = {"name": "llama", "namespace": "ai"}
    return json.dumps({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": names, "spec": fields})


def from_zero_by_dynamo(*more: dict[str, Any], **metadata: str) -> str:
    """Return a ScaledObject that the frontend of Dynamo activates, and further triggers."""
    own = {"scalerAddress": "keda-gpu-scaler.keda.svc.cluster.local:6000", "profile": "llm", "demand": "dynamo"}
    own |= {"demandEndpoint": "http://frontend:8000/metrics", **metadata}
    triggers = [{"type": "external-push", "metadata": own}, *more]
    return scaled(spec={"minReplicaCount": 0, "cooldownPeriod": 300, "triggers": triggers})


def workload(*containers: dict[str, Any], kind: str = "Deployment") -> str:
    pods = {"template": {"spec": {"containers": list(containers)}}}
    return "\n---\n" + json.dumps({"kind": kind, "metadata": {"name": "llama", "namespace": "ai"}, "spec": pods})


def messages(text: str) -> list[str]:
    return [one.message for one in validate_text(text).findings]


def pods_up(value: int, period: int, **more: Any) -> dict[str, Any]:
    return {"scaleUp": {"policies": [{"type": "Pods", "value": value, "periodSeconds": period}], **more}}


def too_slow(start: int, reached: int, most: int) -> str:
    return (
        f"{BEHAVIOR}.scaleUp: Too slow: {start} replicas become {reached} of {most} within 300 s, and requests wait "
        "longer than the new replicas need to start; remove scaleUp (by default the size may double every 15 s), or "
        "allow the size to double within 300 s"
    )


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        pytest.param(scaled(metricType="saturation"), SATURATION, id="saturation by name"),
        pytest.param(scaled(profile="llm", metricType="saturation"), SATURATION, id="saturation with the profile llm"),
        pytest.param(
            scaled(behavior={"scaleDown": {"stabilizationWindowSeconds": 0}}),
            f"{BEHAVIOR}.scaleDown.stabilizationWindowSeconds: Invalid value: 0: the HPA removes replicas in each "
            "short pause of the load, and they take minutes to start again; set 300, the HPA's default, or remove the "
            "key",
            id="no stabilisation on the way down",
        ),
        pytest.param(
            scaled(behavior={"scaleDown": {"stabilizationWindowSeconds": 119}}),
            f"{BEHAVIOR}.scaleDown.stabilizationWindowSeconds: Invalid value: 119: the HPA removes replicas in each "
            "short pause of the load, and they take minutes to start again; set 300, the HPA's default, or remove the "
            "key",
            id="a short stabilisation on the way down",
        ),
        pytest.param(scaled(behavior=pods_up(1, 120)), too_slow(4, 7, 8), id="one pod every two minutes"),
        pytest.param(
            scaled(spec={"maxReplicaCount": 50}, behavior=pods_up(4, 60)), too_slow(25, 49, 50), id="a large fleet"
        ),
        pytest.param(
            scaled(behavior=pods_up(8, 15, stabilizationWindowSeconds=600)),
            too_slow(4, 4, 8),
            id="a stabilisation on the way up",
        ),
        pytest.param(
            scaled(behavior=pods_up(8, 15, selectPolicy="Disabled")), too_slow(4, 4, 8), id="no way up"
        ),
        pytest.param(
            scaled(spec={"minReplicaCount": 0, "scaleTargetRef": {"name": "other"}}),
            "spec.minReplicaCount: Invalid value: 0: no trigger here can activate it: a workload at zero holds no GPU; "
            "set minReplicaCount: 1, name a demandEndpoint, or add a trigger that reads the demand",
            id="zero replicas without demand",
        ),
        pytest.param(
            from_zero_by_dynamo(demandMetric='{model="q"}'),
            'metadata.demand: Invalid value: "dynamo": it shows no request while no replica runs, so the workload '
            "stays at zero; set minReplicaCount: 1, or begin demandMetric with dynamo_frontend_requests_total "
            "(docs/reference/trigger.md, sources of demand)",
            id="zero replicas with a source that shows nothing at zero",
        ),
        pytest.param(scaled() + workload({"image": "vllm/vllm-openai"}), NO_PROBE, id="no readiness probe"),
        pytest.param(
            scaled(targetGpuUtilization="80") + workload({"image": "vllm/vllm-openai"}),
            NO_PROBE,
            id="no readiness probe, with a metric of devices",
        ),
        pytest.param(
            scaled() + workload({"image": "vllm/vllm-openai"}, {"image": "envoy", "readinessProbe": PROBE}),
            NO_PROBE,
            id="a readiness probe of another container",
        ),
        pytest.param(
            scaled(profile="llm", headroom="1.3", metricType="queue_depth"),
            "metadata.headroom: is not used by queue_depth, only by load: remove it, or change metricType",
            id="a key of load with another metric",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_finding_with_its_remedy(text: str, finding: str) -> None:
    assert messages(text) == [finding]


def test_a_forecast_without_a_readiness_probe_is_a_second_finding_at_its_key() -> None:
    text = scaled(profile="llm", forecast="trend") + workload({"command": ["vllm", "serve"]})
    found = {one.message.partition(":")[0]: one.message for one in validate_text(text).findings}
    assert list(found) == ["spec.scaleTargetRef", "metadata.forecast"]
    assert found["metadata.forecast"] == (
        'metadata.forecast: Invalid value: "trend": the cold start is measured until a pod is ready, and without a '
        "readinessProbe that is too early, so the forecast looks ahead too little; add a readinessProbe that succeeds "
        "when the model answers (GET /health for most engines)"
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(scaled(), id="the profile llm alone"),
        pytest.param(scaled(behavior={"scaleDown": {"stabilizationWindowSeconds": 120}}), id="the least stabilisation"),
        pytest.param(
            scaled(behavior={"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}]}}),
            id="a slow way down",
        ),
        pytest.param(scaled(behavior=pods_up(2, 120)), id="a way up that doubles in time"),
        pytest.param(scaled(spec={"maxReplicaCount": 1}, behavior=pods_up(1, 1800)), id="one replica at most"),
        pytest.param(
            scaled(
                targetGpuUtilization="80",
                behavior={**pods_up(1, 600), "scaleDown": {"stabilizationWindowSeconds": 0}},
            ),
            id="a behavior beside another metric",
        ),
        pytest.param(
            scaled() + workload({"image": "vllm/vllm-openai", "readinessProbe": PROBE}), id="a readiness probe"
        ),
        pytest.param(scaled() + workload({"image": "vllm/vllm-openai", "startupProbe": PROBE}), id="a startup probe"),
        pytest.param(
            scaled(spec={"scaleTargetRef": {"name": "llama", "kind": "LeaderWorkerSet"}})
            + workload(
                {"image": "vllm/vllm-openai"},
                {"image": "vllm/vllm-openai", "readinessProbe": PROBE},
                kind="LeaderWorkerSet",
            ),
            id="a readiness probe of the leader of a group",
        ),
        pytest.param(
            scaled(spec={"scaleTargetRef": {"name": "llama", "kind": "RayCluster"}})
            + workload({"image": "vllm/vllm-openai"}, kind="RayCluster"),
            id="a kind whose operator may add the probe",
        ),
        pytest.param(scaled() + workload({"image": "me/own-server"}), id="an unknown server without a probe"),
        pytest.param(
            from_zero_by_dynamo(demandMetric='dynamo_frontend_requests_total{error_type="not_found"}'),
            id="zero replicas with the refused requests of a source that shows nothing else",
        ),
        pytest.param(
            from_zero_by_dynamo({"type": "cron", "metadata": {"start": "0 8 * * *", "end": "0 20 * * *"}}),
            id="zero replicas with another trigger that activates",
        ),
        pytest.param(scaled(metricType="queue_depth", targetValue="5"), id="the queue by name"),
    ],
)  # fmt: skip
def test_a_working_object_has_no_finding(text: str) -> None:
    assert messages(text) == []


def test_a_finding_about_the_behavior_has_the_place_of_its_key() -> None:
    text = json.dumps(json.loads(scaled(behavior={"scaleDown": {"stabilizationWindowSeconds": 0}})), indent=1)
    (finding,) = validate_text(text).findings
    assert "stabilizationWindowSeconds" in text.splitlines()[finding.line - 1]
