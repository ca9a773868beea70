# SPDX-License-Identifier: Apache-2.0
"""Tests the chart's admission policy: its lists, and its expressions on a real API server.

The expressions need KEDA_GPU_SCALER_TEST_KUBECONFIG, the kubeconfig of a cluster administrator (Kubernetes 1.30 or
later). The tests leave nothing behind but the definition of ScaledObjects, where the cluster has none.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from scripts import chart, tools, trigger_forms

from keda_gpu_scaler.core.trigger.metrics import METRICS
from keda_gpu_scaler.core.trigger.profiles import PROFILES
from tests.cli.validate.mistakes import ADDRESS, CORRECT, MISTAKES, Mistake
from tests.deploy.rendering import Rendered, render, sets
from tests.deploy.test_chart import conform
from tests.polling import pause
from tests.real_apiserver import VARIABLE, RealApiServer

pytestmark = pytest.mark.usefixtures("chart_tools")

ENABLED = sets("admissionPolicy.enabled=true")
POLICY, BINDING = "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"
ROOT = "/apis/admissionregistration.k8s.io/v1"
EXAMPLES = sorted((chart.HOME / "deploy" / "examples").glob("*.yaml"))


def policy(rendered: Rendered) -> dict[str, Any]:
    [found] = rendered.all(POLICY)
    return found


def variable(name: str) -> Any:
    expressions = {one["name"]: one["expression"] for one in policy(render(*ENABLED))["spec"]["variables"]}
    return json.loads(expressions[name])


# ---- what the chart renders ----


def test_the_policy_is_off_by_default() -> None:
    assert render().all(POLICY, BINDING) == []


@pytest.mark.parametrize("version", [it for it in tools.KUBERNETES_VERSIONS if it >= "1.30"])
def test_the_policy_and_its_binding_are_objects_that_kubernetes_takes(version: str, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump_all(render(*chart.ADMISSION).all(POLICY, BINDING)))
    assert conform(tmp_path, version) == []


def test_the_lists_of_the_policy_are_those_of_the_program() -> None:
    assert set(variable("profiles")) == set(PROFILES)
    assert set(METRICS) <= set(variable("choices")["metricType"])
    assert variable("choices") == trigger_forms.chart_forms()["choices"]


@pytest.mark.parametrize("path", [trigger_forms.SCHEMA, trigger_forms.CHART_FORMS], ids=lambda path: str(path.name))
def test_a_generated_file_is_current(path: Path) -> None:
    assert path.read_text() == trigger_forms.texts()[path], "stale: run `make docs`, then `make manifests`"


def test_the_binding_names_the_policy_and_what_happens() -> None:
    [binding] = render(*chart.ADMISSION).all(BINDING)
    assert binding["spec"] == {
        "policyName": policy(render(*ENABLED))["metadata"]["name"],
        "validationActions": ["Deny", "Audit"],
        "matchResources": {"namespaceSelector": {"matchLabels": {"team": "ml"}}},
    }


def test_an_error_of_the_policy_refuses_nothing() -> None:
    assert policy(render(*ENABLED))["spec"]["failurePolicy"] == "Ignore"


# ---- what an API server makes of it ----


class PolicyServer:
    """A real API server with the policy, bound to one namespace."""

    def __init__(self, server: RealApiServer, http: httpx.Client) -> None:
        self._server, self._http = server, http
        self._objects = f"/apis/keda.sh/v1alpha1/namespaces/{server.namespace}/scaledobjects"

    def apply_policy(self) -> str:
        """Create the policy and its binding, and wait until the policy refuses; return its name."""
        selector = {"matchLabels": {"kubernetes.io/metadata.name": self._server.namespace}}
        flags = ("--set-json", f"admissionPolicy.namespaceSelector={json.dumps(selector)}")
        rendered = render(*ENABLED, *flags)
        for kind, plural in ((POLICY, "validatingadmissionpolicies"), (BINDING, "validatingadmissionpolicybindings")):
            [item] = rendered.all(kind)
            self._http.post(f"{ROOT}/{plural}", json=item).raise_for_status()
        while not self.refusal({"type": "external", "metadata": {"scalerAddress": ADDRESS, "profile": "?"}}):
            pause()  # the API server needs a moment after the policy is created
        return str(policy(rendered)["metadata"]["name"])

    def refusal(self, *triggers: dict[str, Any]) -> str:
        """Return the message of the refusal of an object with these triggers, empty where it is taken."""
        spec = {"scaleTargetRef": {"name": "llama"}, "triggers": list(triggers)}
        item = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "llama"}, "spec": spec}
        answer = self._http.post(self._objects, params={"dryRun": "All"}, json=item)
        return "" if answer.is_success else str(answer.json()["message"])

    def update(self, before: dict[str, Any], after: dict[str, Any], labels: dict[str, str]) -> int:
        """Create an object, change it, and return the status of the change."""
        spec = {"scaleTargetRef": {"name": "llama"}, "triggers": [before]}
        item = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "old"}, "spec": spec}
        self._http.post(self._objects, json=item).raise_for_status()
        changes = {"metadata": {"labels": labels}, "spec": {"triggers": [after]}}
        media = {"Content-Type": "application/merge-patch+json"}
        status = self._http.patch(f"{self._objects}/old", json=changes, headers=media).status_code
        self._http.delete(f"{self._objects}/old").raise_for_status()
        return status


@pytest.fixture(scope="module")
def policy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicyServer]:
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} names no kubeconfig of a real API server")
    with RealApiServer(Path(os.environ[VARIABLE]), tmp_path_factory.mktemp("kube")) as server:
        made = PolicyServer(server, server.http)
        name = ""
        try:
            name = made.apply_policy()
            yield made
        finally:
            for plural in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
                server.http.delete(f"{ROOT}/{plural}/{name or policy(render(*ENABLED))['metadata']['name']}")


@pytest.mark.parametrize("mistake", [pytest.param(one, id=one.title) for one in MISTAKES])
def test_the_policy_refuses_the_mistakes_that_cel_can_express(policy_server: PolicyServer, mistake: Mistake) -> None:
    if any(not isinstance(value, str) for value in mistake.metadata.values()):
        pytest.skip("the definition of KEDA's objects refuses it")
    refusal = policy_server.refusal(mistake.trigger)
    assert bool(refusal) == mistake.is_in_policy, refusal
    key, kind = mistake.finding.removeprefix("error ").split(": ")[:2]
    assert not refusal or f"{key}: {kind}: " in refusal


@pytest.mark.parametrize("metadata", [pytest.param(one, id=title) for title, one in CORRECT.items()])
def test_the_policy_takes_correct_metadata(policy_server: PolicyServer, metadata: dict[str, str]) -> None:
    assert policy_server.refusal({"type": "external", "metadata": {"scalerAddress": ADDRESS, **metadata}}) == ""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.stem))
def test_the_policy_takes_every_example(policy_server: PolicyServer, path: Path) -> None:
    for item in yaml.safe_load_all(path.read_text()):
        if item["kind"] in ("ScaledObject", "ScaledJob"):
            assert policy_server.refusal(*item["spec"]["triggers"]) == ""


@pytest.mark.parametrize(
    "address",
    [
        "queues.jobs.svc:9000",
        "keda-gpu-scaler.other.svc:6000",
        "my-keda-gpu-scaler.keda.svc:6000",
        "http://queues.jobs",
    ],
)
def test_the_policy_leaves_other_services_alone(policy_server: PolicyServer, address: str) -> None:
    assert policy_server.refusal({"type": "external", "metadata": {"scalerAddress": address, "profile": "?"}}) == ""


def test_the_policy_names_every_problem(policy_server: PolicyServer) -> None:
    def trigger(**metadata: str) -> dict[str, Any]:
        return {"type": "external", "metadata": {"scalerAddress": ADDRESS, **metadata}}

    refusal = policy_server.refusal(trigger(profile="a", scope="b"), trigger(), trigger(targetValue="800", Engine="c"))
    for key in ("profile: Unsupp", "scope: Unsupp", "targetValue: Invalid", "Engine: Forbidden"):
        assert f"metadata.{key}" in refusal


def test_an_object_that_is_older_than_the_policy_can_still_be_labelled(policy_server: PolicyServer) -> None:
    correct = {"type": "external", "metadata": {"scalerAddress": ADDRESS, "profile": "llm"}}
    wrong = {"type": "external", "metadata": {"scalerAddress": ADDRESS, "profile": "?"}}
    assert policy_server.update(correct, correct, {"team": "ml"}) == 200
    assert policy_server.update(correct, wrong, {}) == 422
