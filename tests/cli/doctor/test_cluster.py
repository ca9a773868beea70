# SPDX-License-Identifier: Apache-2.0
"""Tests the checks of a cluster: the API server, KEDA and the ScaledObjects."""

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from keda_gpu_scaler.cli.doctor.findings import Heading
from keda_gpu_scaler.cli.doctor.installation import list_error
from keda_gpu_scaler.kube.access_review import AccessReviewer
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.resource_query import ResourceQuery
from tests.cli.doctor.fake_cluster import IN_CLUSTER, INSTALLATION, FakeCluster, findings_in


def test_the_api_server_reports_its_version_and_its_time(cluster: FakeCluster) -> None:
    assert findings_in(cluster, "api", "clock") == [
        f"ok: v1.34.1 at {cluster.url}",
        "ok: this machine's clock and the API server's agree",
    ]


@pytest.mark.parametrize(("shift", "expected"), [(63.0, "63 s ahead of"), (-3600.0, "3600 s behind")])
def test_a_different_clock_is_a_warning(cluster: FakeCluster, shift: float, expected: str) -> None:
    options = replace(IN_CLUSTER, unix_clock=lambda: datetime.now(UTC).timestamp() + shift)
    [finding] = findings_in(cluster, "clock", options=options)
    seconds = int(re.search(r"(\d+) s", finding)[1])  # type: ignore[index]
    assert abs(seconds - abs(shift)) <= 2
    assert finding.startswith("warning: this machine's clock is ")
    assert expected.partition(" s ")[2] in finding


def test_a_response_without_a_time_is_skipped(cluster: FakeCluster) -> None:
    cluster.has_time = False
    assert findings_in(cluster, "clock") == ["skipped: the API server's response has no time"]


def test_without_an_api_server_there_are_no_other_checks(cluster: FakeCluster) -> None:
    cluster.stop()
    [finding] = findings_in(cluster)
    assert finding.startswith(f"problem: the API server {cluster.url} does not answer: ")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(
            "ghcr.io/kedacore/keda:2.20.1", "ok: keda/keda-operator is KEDA 2.20, which reads f", id="a new version"
        ),
        pytest.param(
            "registry:5000/keda:v2.17.0@sha256:0", "ok: keda/keda-operator is KEDA 2.17", id="by tag and digest"
        ),
        pytest.param(
            "keda:2.16.1", "warning: keda/keda-operator is KEDA 2.16, which reads integers only", id="an old version"
        ),
        pytest.param("keda:2.9.3", "warning: keda/keda-operator is KEDA 2.9, ", id="versions compare as numbers"),
        pytest.param(
            "registry:5000/keda@sha256:0",
            "skipped: keda/keda-operator: its image registry:5000/keda@sha256:0 does",
            id="no tag",
        ),
        pytest.param(
            "keda:main",
            "skipped: keda/keda-operator: its image keda:main does not contain",
            id="a tag that is not a version",
        ),
    ],
)
def test_the_version_of_keda_is_read_from_its_image(cluster: FakeCluster, image: str, expected: str) -> None:
    cluster.keda(image)
    [finding] = findings_in(cluster, "keda")
    assert finding.startswith(expected)


def test_the_version_of_keda_is_read_from_its_label(cluster: FakeCluster) -> None:
    labels = {"app.kubernetes.io/name": "keda-operator", "app.kubernetes.io/version": "2.18.3"}
    cluster.keda("keda@sha256:0", 0, **labels)
    assert findings_in(cluster, "keda") == [
        "ok: keda/keda-operator is KEDA 2.18, which reads fractions",
        "problem: keda/keda-operator has no ready pod",
    ]


def test_keda_is_not_installed(cluster: FakeCluster) -> None:
    cluster.uninstall("scaledobjects")
    assert findings_in(cluster, "keda", "workloads") == [
        "warning: no Deployment of KEDA's operator is found by its labels (app: keda-operator)",
        "problem: the API server does not know ScaledObjects",
    ]


def test_scaled_objects_without_a_problem_are_counted(cluster: FakeCluster) -> None:
    cluster.own_scaled_object("llama")
    cluster.own_scaled_object("mistral", active="False", paused="Unknown", fallback="Unknown")
    cluster.scaled_object("another", scalerAddress="other-scaler.gpu.svc.cluster.local:6000")
    cluster.scaled_object("elsewhere", scalerAddress="keda-gpu-scaler.keda.svc.cluster.local:6000")
    assert findings_in(cluster, "workloads") == ["ok: 2 of 2 ScaledObjects that name this scaler are ready, 1 active"]


def test_no_scaled_object_names_the_scaler(cluster: FakeCluster) -> None:
    text = "skipped: no ScaledObject and no ScaledJob names keda-gpu-scaler.gpu.svc.cluster.local"
    assert findings_in(cluster, "workloads") == [text]


def test_scaled_jobs_are_checked_as_scaled_objects_are(cluster: FakeCluster) -> None:
    cluster.own_scaled_object("llama")
    cluster.own_scaled_job("embed")
    cluster.own_scaled_job("train", ready="False", targetValue="eighty")
    findings = findings_in(cluster, "workloads")
    assert findings[0].startswith('problem: ai/train: metadata.targetValue: Invalid value: "eighty"')
    assert findings[1:] == [
        "problem: ai/train: KEDA reports it as not ready",
        "ok: 1 of 1 ScaledObjects that name this scaler are ready, 1 active",
        "ok: 1 of 2 ScaledJobs that name this scaler are ready, 2 active",
    ]


def test_scaled_jobs_that_may_not_be_listed_leave_the_scaled_objects(cluster: FakeCluster) -> None:
    cluster.own_scaled_object("llama")
    cluster.forbid("list", "scaledjobs")
    assert findings_in(cluster, "workloads") == [
        "skipped: you may not list ScaledJobs here",
        "ok: 1 of 1 ScaledObjects that name this scaler are ready, 1 active",
    ]


def test_the_triggers_are_checked_whatever_the_name_of_the_service(cluster: FakeCluster) -> None:
    cluster.own_scaled_object("llama", scalerAddress="gpu-scaler.gpu.svc:6000", targetValue="eighty")
    installation = replace(INSTALLATION, service="gpu-scaler")
    first = findings_in(cluster, "workloads", installation=installation)[0]
    assert first.startswith('problem: ai/llama: metadata.targetValue: Invalid value: "eighty"')


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        pytest.param(
            {"ready": "False", "message": "Triggers defined in ScaledObject are not well"},
            "problem: ai/llama: KEDA reports it as not ready: Triggers defined in ScaledObject are not well",
            id="a ScaledObject that is not ready",
        ),
        pytest.param({"paused": "True"}, "warning: ai/llama: it is paused", id="a paused ScaledObject"),
        pytest.param({"fallback": "True"}, "warning: ai/llama: KEDA uses its fallback", id="a fallback in use"),
        pytest.param(
            {"ready": "Unknown"}, "problem: ai/llama: KEDA reports it as not ready", id="an unknown condition"
        ),
        pytest.param(
            {"scalerAddress": "keda-gpu-scaler-agents.gpu.svc:6000"},
            "problem: ai/llama: scalerAddress keda-gpu-scaler-agents.gpu.svc:6000 is the agents' headless Service",
            id="the address of the headless Service",
        ),
        pytest.param(
            {"targetValu": "80"},
            "problem: ai/llama: metadata.targetValu: Forbidden: it is not a key of this scaler, but almost",
            id="a misspelt key",
        ),
        pytest.param(
            {"targetValue": "eighty"},
            'problem: ai/llama: metadata.targetValue: Invalid value: "eighty"',
            id="invalid metadata",
        ),
    ],
)
def test_a_scaled_object_with_a_problem(cluster: FakeCluster, how: dict[str, str], expected: str) -> None:
    cluster.own_scaled_object("llama", **how)
    assert findings_in(cluster, "workloads")[0].startswith(expected)


def test_many_findings_are_limited_and_the_rest_is_counted(cluster: FakeCluster) -> None:
    for number in range(25):
        cluster.own_scaled_object(f"llama-{number:02}", ready="False")
    findings = findings_in(cluster, "workloads")
    assert (len(findings), findings[-1]) == (21, "problem: and 5 more")


def test_the_most_severe_findings_are_not_left_out(cluster: FakeCluster) -> None:
    for number in range(25):
        cluster.own_scaled_object(f"llama-{number:02}", paused="True")
    cluster.own_scaled_object("zephyr", ready="False")
    findings = findings_in(cluster, "workloads")
    assert findings[0] == "problem: ai/zephyr: KEDA reports it as not ready"
    assert findings[-2:] == [
        "warning: and 6 more",
        "ok: 25 of 26 ScaledObjects that name this scaler are ready, 26 active",
    ]


def test_every_page_of_a_list_is_read(cluster: FakeCluster) -> None:
    cluster.page_limit = 2
    for number in range(5):
        cluster.pod(f"pod-{number}")

    async def listed() -> list[str]:
        api = AccessReviewer(cluster.access)
        try:
            return [str(item["metadata"]["name"]) for item in await api.items(ResourceQuery("pods"))]
        finally:
            await api.close()

    assert asyncio.run(listed()) == [f"pod-{number}" for number in range(5)]


def test_credentials_that_are_not_accepted_have_a_remedy() -> None:
    finding = list_error("keda", "Deployments", ApiError("the API server answers 401: Unauthorized", 401))
    assert finding.remedy == (
        "the credentials have expired or are not valid: log in again, then check with: kubectl auth whoami"
    )
    assert finding.heading is Heading.FORBIDDEN
