# SPDX-License-Identifier: Apache-2.0
"""Tests that ``validate`` finds the usual mistakes in triggers and in the object around them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from keda_gpu_scaler.cli.validate.command import validate
from keda_gpu_scaler.cli.validate.rules import validate_text
from tests.cli.validate.mistakes import ADDRESS, CORRECT, MISTAKES, Mistake
from tests.cli.validate.test_engine_rules import scaled

OTHER = "queues.jobs.svc:9000"
BEHAVIOR = "spec.advanced.horizontalPodAutoscalerConfig.behavior"


def findings(*triggers: dict[str, Any], hosts: tuple[str, ...] = (), **spec: Any) -> list[str]:
    text = scaled(spec={"triggers": list(triggers), **spec})
    return [f"{one.severity} {one.message}" for one in validate_text(text, hosts=hosts).findings]


def external(address: str = ADDRESS, **metadata: str) -> dict[str, Any]:
    return {"type": "external", "metadata": {"scalerAddress": address, **metadata}}


@pytest.mark.parametrize("mistake", [pytest.param(one, id=one.title) for one in MISTAKES])
def test_a_mistake_in_a_trigger_has_one_finding_with_its_remedy(mistake: Mistake) -> None:
    assert findings(mistake.trigger) == [mistake.finding]


@pytest.mark.parametrize("metadata", [pytest.param(one, id=title) for title, one in CORRECT.items()])
def test_correct_metadata_has_no_finding(metadata: dict[str, Any]) -> None:
    assert findings(external(**metadata)) == []


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        pytest.param(
            {"apiVersion": "keda.sh/v1"},
            'error apiVersion: Unsupported value: "keda.sh/v1": must be keda.sh/v1alpha1',
            id="a version that KEDA does not have",
        ),
        pytest.param(
            {"apiVersion": "keda.k8s.io/v1alpha1"},
            'error apiVersion: Unsupported value: "keda.k8s.io/v1alpha1": must be keda.sh/v1alpha1',
            id="the group of KEDA 1",
        ),
        pytest.param(
            {"spec": {"scaleTargetRef": None}},
            "error spec.scaleTargetRef: Required value: the workload that KEDA scales: scaleTargetRef: {name: NAME}",
            id="no scale target",
        ),
        pytest.param(
            {"spec": {"scaleTargetRef": {"kind": "Deployment"}}},
            "error spec.scaleTargetRef.name: Required value: the name of the workload that KEDA scales",
            id="a scale target without a name",
        ),
        pytest.param(
            {"spec": {"pollingInterval": 0}},
            "warning spec.pollingInterval: Invalid value: 0: KEDA calls the scaler again without a pause: set 1 or "
            "more, or remove the key for 30 s",
            id="a poll without a pause",
        ),
        pytest.param(
            {"spec": {"minReplicaCount": 1, "idleReplicaCount": 1}},
            "error spec.idleReplicaCount: Invalid value: 1: KEDA refuses it, because it must be below minReplicaCount "
            "(1)",
            id="an idle size that is the minimum",
        ),
    ],
)
def test_a_mistake_in_the_object_has_one_finding(changes: dict[str, Any], finding: str) -> None:
    value = json.loads(scaled(profile="triton-inference"))
    value["spec"] |= changes.pop("spec", {})
    report = validate_text(json.dumps(value | changes))
    assert [f"{one.severity} {one.message}" for one in report.findings] == [finding]


def test_a_scaled_job_without_a_job_is_an_error() -> None:
    value = {**json.loads(scaled(profile="batch")), "kind": "ScaledJob"}
    messages = [one.message for one in validate_text(json.dumps(value)).findings]
    assert "spec.jobTargetRef: Required value: the Job that KEDA starts" in messages


@pytest.mark.parametrize(
    ("rules", "finding"),
    [
        pytest.param(
            {"stabilizationWindowSeconds": 7200},
            "stabilizationWindowSeconds: Invalid value: 7200: the API server refuses the HPA: must be a whole number "
            "from 0 to 3600",
            id="a window above an hour",
        ),
        pytest.param(
            {"stabilizationWindowSeconds": -1},
            "stabilizationWindowSeconds: Invalid value: -1: the API server refuses the HPA: must be a whole number "
            "from 0 to 3600",
            id="a window below zero",
        ),
        pytest.param(
            {"stabilizationWindowSeconds": "5m"},
            'stabilizationWindowSeconds: Invalid value: "5m": the API server refuses the HPA: must be a whole number '
            "from 0 to 3600",
            id="a window with a unit",
        ),
        pytest.param(
            {"selectPolicy": "max"},
            'selectPolicy: Unsupported value: "max": the API server refuses the HPA: supported values: Max, Min, '
            "Disabled",
            id="a policy in lower case",
        ),
        pytest.param(
            {"policies": []},
            "policies: Required value: the API server refuses an empty list: remove the key",
            id="no policy",
        ),
        pytest.param(
            {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 3600}]},
            "policies[0].periodSeconds: Invalid value: 3600: the API server refuses the HPA: must be a whole number "
            "from 1 to 1800",
            id="a period above half an hour",
        ),
        pytest.param(
            {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 60}]},
            "policies[0].value: Invalid value: 0: the API server refuses the HPA: must be a whole number from 1",
            id="a policy of nothing",
        ),
        pytest.param(
            {"policies": [{"type": "Replicas", "value": 1, "periodSeconds": 60}]},
            'policies[0].type: Unsupported value: "Replicas": the API server refuses the HPA: supported values: Pods, '
            "Percent",
            id="a policy of another type",
        ),
        pytest.param(
            {"policies": [{"type": "Pods", "value": 1}]},
            "policies[0].periodSeconds: Required value: must be a whole number from 1 to 1800",
            id="a policy without a period",
        ),
        pytest.param({"stabilizationWindowSeconds": 3600, "selectPolicy": "Disabled"}, "", id="the longest window"),
        pytest.param(
            {"policies": [{"type": "Percent", "value": 100, "periodSeconds": 1800}]}, "", id="the longest period"
        ),
    ],
)
def test_a_behavior_that_the_api_server_refuses_is_an_error(rules: dict[str, Any], finding: str) -> None:
    advanced = {"horizontalPodAutoscalerConfig": {"behavior": {"scaleDown": rules}}}
    expected = [f"error {BEHAVIOR}.scaleDown.{finding}"] if finding else []
    assert findings(external(profile="triton-inference"), advanced=advanced) == expected


@pytest.mark.parametrize(
    ("first", "second", "finding"),
    [
        pytest.param(
            {"targetValue": "80"},
            {"targetGpuUtilization": "60"},
            "warning trigger 2: Duplicate value: it reads gpu_utilization as trigger 1 does, and their targets are 80 "
            "and 60: the HPA follows trigger 2 alone, whose target is lower: remove the other",
            id="one reading with two targets",
        ),
        pytest.param(
            {"profile": "triton-inference"},
            {"metricType": "gpu_utilization", "targetValue": "75"},
            "warning trigger 2: Duplicate value: it reads gpu_utilization as trigger 1 does, with the same target: "
            "remove one",
            id="one trigger in two spellings",
        ),
        pytest.param(
            {"targetValue": "80"},
            {"targetValue": "80"},
            "warning trigger 2: Duplicate value: it is the same as trigger 1: remove one",
            id="one trigger twice",
        ),
        pytest.param({"targetValue": "80"}, {"targetValue": "60", "gpuModel": "*H100*"}, "", id="other devices"),
        pytest.param({"targetValue": "80"}, {"targetValue": "60", "windowSeconds": "60"}, "", id="another window"),
        pytest.param({"targetValue": "80"}, {"targetValueFromEnv": "TARGET"}, "", id="a target from the environment"),
    ],
)
def test_two_triggers_at_odds_have_a_finding(first: dict[str, str], second: dict[str, str], finding: str) -> None:
    assert findings(external(**first), external(**second)) == ([finding] if finding else [])


def test_two_targets_in_a_formula_are_no_mistake() -> None:
    triggers = [{**external(targetValue=value), "name": name} for name, value in (("low", "60"), ("high", "80"))]
    modifiers = {"scalingModifiers": {"formula": "max(low, high)", "target": "60"}}
    assert not [one for one in findings(*triggers, advanced=modifiers) if "Duplicate" in one]


def test_another_scaler_with_the_same_keys_is_noted_and_not_checked() -> None:
    note = (
        f'info metadata.scalerAddress: "{OTHER}" is not an address of this scaler, so trigger 1 is not checked: if it '
        "is, add --address queues.jobs.svc"
    )
    assert findings(external(OTHER, targetValue="eighty")) == [note]
    assert validate_text(scaled(spec={"triggers": [external(OTHER, targetValue="eighty")]})).trigger_count == 0


@pytest.mark.parametrize("host", ["queues.jobs.svc", "queues.jobs", "queues.jobs:9000", "dns:///queues.jobs"])
def test_the_host_of_the_scaler_may_have_another_name(host: str) -> None:
    assert findings(external(OTHER, profile="triton"), hosts=(host,)) == [
        'error metadata.profile: Unsupported value: "triton": did you mean "triton-inference"?'
    ]
    assert "is not an address of this scaler" in findings(external("queues2.jobs:1", profile="llm"), hosts=(host,))[0]


def test_a_required_key_may_come_from_the_environment() -> None:
    assert findings(external(profile="llm", demand="epp", demandEndpointFromEnv="URL")) == []


def run(*arguments: str, stdin: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(validate, arguments, input=stdin)
    return result.exit_code, result.output


def test_a_strict_run_without_a_trigger_fails() -> None:
    status, output = run("-", "--strict")
    assert status == 1
    assert output.startswith("<stdin>:1:1: error: no trigger of this scaler: check the path; ")
    assert run("-")[0] == 0
    text = scaled(spec={"triggers": [external(OTHER, profile="triton-inference")]})
    assert run("-", "--strict", stdin=text)[0] == 1
    assert run("-", "--strict", "--address", "queues.jobs", stdin=text)[0] == 0


def test_the_templates_of_a_chart_are_named_once_with_the_command_that_checks_them(tmp_path: Path) -> None:
    chart = tmp_path / "llama"
    (chart / "templates" / "deep").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("name: llama")
    (chart / "templates" / "one.yaml").write_text("kind: {{ .Values.kind }}")
    (chart / "templates" / "deep" / "two.yaml").write_text("{{- if .Values.kind }}\nkind: a\n{{- end }}")
    (chart / "templates" / "plain.yaml").write_text(scaled(profile="nothing"))
    status, output = run(str(tmp_path))
    lines = output.splitlines()
    assert lines[0] == (
        f"{chart}:1:1: info: 2 templates of a chart not checked: helm template {chart} | keda-gpu-scaler validate -"
    )
    assert status == 1
    assert "metadata.profile" in lines[1]
    assert len(lines) == 3


def test_a_template_outside_of_a_chart_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "one.yaml").write_text("kind: {{ .Values.kind }}")
    assert run(str(tmp_path))[0] == 1
