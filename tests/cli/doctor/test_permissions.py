# SPDX-License-Identifier: Apache-2.0
"""Tests the review of the permissions of the service account."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from keda_gpu_scaler.cli.doctor.permissions import (
    CLAIM_PERMISSIONS,
    NODE_PERMISSION,
    OWN_NAMESPACE_PERMISSION,
    WORKLOAD_PERMISSIONS,
)
from tests.cli.doctor.fake_cluster import INSTALLATION, OUTSIDE, VALID_METADATA, FakeCluster, findings_in

HOME = Path(__file__).resolve().parents[3]


def test_every_permission_is_reviewed(cluster: FakeCluster) -> None:
    assert findings_in(cluster, "rights") == ["ok: this account has 23 needed permissions"]
    assert cluster.reviews == [("SelfSubjectAccessReview", "")] * 23


def test_from_outside_the_permissions_of_the_service_account_are_reviewed(cluster: FakeCluster) -> None:
    assert findings_in(cluster, "rights", options=OUTSIDE) == [
        "ok: the service account keda-gpu-scaler of gpu has 23 needed permissions"
    ]
    assert set(cluster.reviews) == {("SubjectAccessReview", "system:serviceaccount:gpu:keda-gpu-scaler")}


def test_an_account_that_may_not_review_others_gets_a_remedy(cluster: FakeCluster) -> None:
    cluster.may_review = False
    assert findings_in(cluster, "rights", options=OUTSIDE) == [
        "skipped: you may not review the permissions of gpu:keda-gpu-scaler"
    ]


def test_the_reviewed_permissions_are_those_that_the_chart_grants() -> None:
    granted = set()
    for document in yaml.safe_load_all((HOME / "deploy" / "manifests.yaml").read_text()):
        if document["kind"] not in ("Role", "ClusterRole"):
            continue
        for rule in document["rules"]:
            for group in rule["apiGroups"]:
                granted |= {(group, resource, verb) for resource in rule["resources"] for verb in rule["verbs"]}
    reviewed = {
        (group, resource, verb)
        for group, resource, verbs in (
            *WORKLOAD_PERMISSIONS,
            OWN_NAMESPACE_PERMISSION,
            NODE_PERMISSION,
            *CLAIM_PERMISSIONS,
        )
        for verb in verbs
    }
    assert reviewed == granted


@pytest.mark.parametrize(
    ("denied", "expected"),
    [
        pytest.param(
            {("list", "pods", ""), ("watch", "pods", "")},
            "problem: may not list and watch pods in the whole cluster",
            id="a permission that every workload needs",
        ),
        pytest.param(
            {("get", "deployments/scale", "")},
            "problem: may not get deployments.apps/scale in the whole cluster",
            id="a subresource",
        ),
        pytest.param(
            {("watch", "endpointslices", "gpu")},
            "problem: may not watch endpointslices.discovery.k8s.io in namespace gpu",
            id="a permission in the own namespace",
        ),
        pytest.param(
            {("create", "events", "")},
            "warning: may not create events in the whole cluster",
            id="a permission that evaluations do not need",
        ),
        pytest.param(
            {("list", "replicasets", ""), ("watch", "replicasets", "")},
            "warning: may not list and watch replicasets.apps in the whole cluster",
            id="a permission without which the selector decides",
        ),
        pytest.param(
            {("list", "nodes", ""), ("watch", "nodes", "")},
            "skipped: may not list and watch nodes in the whole cluster, which only triggers with a nodeSelector need",
            id="a permission that no trigger needs",
        ),
        pytest.param(
            {("list", "resourceclaims", "")},
            "skipped: may not list resourceclaims.resource.k8s.io in the whole cluster, which only workloads with "
            "resource claims need",
            id="a permission that only resource claims need",
        ),
    ],
)
def test_a_missing_permission(cluster: FakeCluster, denied: set[tuple[str, str, str]], expected: str) -> None:
    cluster.denied = denied
    assert findings_in(cluster, "rights")[0] == expected


def test_a_trigger_with_a_node_selector_needs_access_to_nodes(cluster: FakeCluster) -> None:
    cluster.denied = {("list", "nodes", "")}
    cluster.own_scaled_object("llama", nodeSelector="pool=a")
    assert findings_in(cluster, "rights")[0].startswith(
        "problem: may not list nodes in the whole cluster, and a trigger"
    )


def test_permissions_in_every_used_namespace_are_sufficient(cluster: FakeCluster) -> None:
    cluster.own_scaled_object("llama")
    cluster.denied = {("list", "pods", ""), ("list", "pods", "b")}
    assert findings_in(cluster, "rights") == ["ok: this account has 22 needed permissions"]
    installation = replace(INSTALLATION, workload_namespaces=("ai", "b"))
    assert findings_in(cluster, "rights", installation=installation)[0] == "problem: may not list pods in namespace b"


def test_a_scale_target_of_another_kind_needs_its_own_permissions(cluster: FakeCluster) -> None:
    cluster.scaled_object("llama", kind="Rollout", api_version="argoproj.io/v1alpha1", **VALID_METADATA)
    cluster.denied = {("get", "rollouts/scale", ""), ("get", "rollouts/scale", "ai")}
    assert findings_in(cluster, "rights")[0] == "problem: may not get rollouts.argoproj.io/scale in namespace ai"


def test_objects_that_may_not_be_listed_are_skipped(cluster: FakeCluster) -> None:
    for resource in ("deployments", "scaledobjects"):
        cluster.forbid("list", resource)
    assert findings_in(cluster, "keda", "workloads") == [
        "skipped: you may not list Deployments here",
        "skipped: you may not list ScaledObjects here",
    ]
