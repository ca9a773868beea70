# SPDX-License-Identifier: Apache-2.0
"""Tests the examples against KEDA's definitions, our parser and common sense."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from keda_gpu_scaler.cli.validate.findings import Severity
from keda_gpu_scaler.cli.validate.rules import validate_text
from keda_gpu_scaler.core.trigger.demand_presets import DEMANDS
from keda_gpu_scaler.core.trigger.parser import Scope, parse_trigger
from keda_gpu_scaler.core.trigger.profiles import PROFILES
from tests.examples import keda
from tests.examples.documents import EXAMPLES, FOLDER, HOME, OURS, Example, load
from tests.examples.structural import problems, rules

ADDRESS = "keda-gpu-scaler.keda.svc.cluster.local:6000"
MIN_OF_MAX = "!has(self.minReplicaCount) || self.minReplicaCount <= (has(self.maxReplicaCount) ? self.maxReplicaCount"
POLICIES = {"Pods", "Percent"}
LONGEST_PERIOD_SECONDS = 1800
LONGEST_WINDOW_SECONDS = 3600

each = pytest.mark.parametrize("example", [pytest.param(one, id=one.path.name) for one in EXAMPLES])


def by_kedas_schema(document: dict[str, Any]) -> list[str]:
    group, _, version = document["apiVersion"].partition("/")
    assert group == "keda.sh"
    return problems(document, keda.schema(document["kind"], version))


@each
def test_validate_has_nothing_to_say_of_it(example: Example) -> None:
    report = validate_text(example.path.read_text())
    assert [one for one in report.findings if one.severity is not Severity.INFO] == []
    assert report.trigger_count >= 1


# ---- as the API server and KEDA see them ----


@each
def test_the_api_server_takes_it_without_a_word(example: Example) -> None:
    for document in example.documents:
        assert by_kedas_schema(document) == []


@each
def test_it_is_within_what_the_definitions_say_in_other_words(example: Example) -> None:
    (rule,) = rules(keda.schema("ScaledObject", "v1alpha1"))
    assert rule.startswith(MIN_OF_MAX), "KEDA's definition has a rule that is not checked here"
    assert example.spec["minReplicaCount"] <= example.spec["maxReplicaCount"]
    names = [trigger["name"] for trigger in example.spec["triggers"] if "name" in trigger]
    assert len(names) == len(set(names))


@each
def test_its_behavior_is_one_that_the_hpa_takes(example: Example) -> None:
    behavior = example.spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior", {})
    for direction in behavior.values():
        assert 0 <= direction.get("stabilizationWindowSeconds", 0) <= LONGEST_WINDOW_SECONDS
        for policy in direction.get("policies", ()):
            assert policy["type"] in POLICIES
            assert policy["value"] > 0
            assert 0 < policy["periodSeconds"] <= LONGEST_PERIOD_SECONDS


@each
def test_other_triggers_say_only_what_keda_reads(example: Example) -> None:
    for trigger in example.others:
        assert set(trigger["metadata"]) <= keda.parameters(trigger["type"], "triggerMetadata"), trigger["type"]


@each
def test_what_authenticates_is_in_the_same_file_and_says_what_keda_reads(example: Example) -> None:
    known = {
        (one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one
        for one in example.documents
        if one["kind"] in ("TriggerAuthentication", "ClusterTriggerAuthentication")
    }
    used = set()
    for trigger in example.spec["triggers"]:
        if reference := trigger.get("authenticationRef"):
            kind = reference.get("kind", "TriggerAuthentication")
            namespace = example.scaled["metadata"]["namespace"] if kind == "TriggerAuthentication" else ""
            key = (kind, namespace, reference["name"])
            given = {one["parameter"] for one in known[key]["spec"]["secretTargetRef"]}
            assert given <= keda.parameters(trigger["type"], "authParams")
            used.add(key)
    assert used == set(known)


@each
def test_the_key_of_keda_is_in_no_namespace_of_a_workload(example: Example) -> None:
    """Who reads this key can call the scaler as KEDA does."""
    for trigger in example.triggers:
        if reference := trigger.get("authenticationRef"):
            assert reference.get("kind") == "ClusterTriggerAuthentication"


def test_the_key_of_keda_is_in_no_namespace_of_a_workload_in_any_page_either() -> None:
    for page in sorted((HOME / "docs").rglob("*.md")):
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for one in load(block):
                for trigger in (one or {}).get("spec", {}).get("triggers", ()):
                    if trigger["type"] in OURS and (reference := trigger.get("authenticationRef")):
                        assert reference.get("kind") == "ClusterTriggerAuthentication", page


# ---- as we see them ----


@each
def test_our_parser_has_nothing_to_say_about_it(example: Example) -> None:
    assert example.triggers
    for trigger in example.triggers:
        assert parse_trigger(trigger["metadata"]).hints == ()


# ---- sense ----


@each
def test_it_says_when_to_use_it_what_it_does_and_what_to_change(example: Example) -> None:
    head = re.match(r"(#.*\n)+", example.text)
    assert head is not None
    assert re.fullmatch(r"# \w.*\.\n#\n# When:    .+\n(#.*\n)*# What:    .+\n(#.*\n)*# Change:  .+\n(#.*\n)*", head[0])
    assert max(map(len, example.text.splitlines())) <= 120


@each
def test_it_asks_the_service_that_the_chart_makes(example: Example) -> None:
    assert {trigger["metadata"]["scalerAddress"] for trigger in example.triggers} == {ADDRESS}


def is_active(trigger: dict[str, Any]) -> bool:
    """Whether there is something to read while the workload is at zero."""
    if trigger["type"] not in ("external", "external-push"):
        return True
    parsed = parse_trigger(trigger["metadata"])
    return parsed.scope is Scope.FLEET or parsed.demand is not None


@each
def test_what_may_go_to_zero_has_a_trigger_that_wakes_it(example: Example) -> None:
    if example.spec["minReplicaCount"] == 0:
        assert any(is_active(trigger) for trigger in example.spec["triggers"])
        assert example.spec["cooldownPeriod"] >= 300
    else:
        assert "cooldownPeriod" not in example.spec, "it does nothing above zero"


@each
def test_only_a_reading_that_can_wake_is_pushed(example: Example) -> None:
    for trigger in example.triggers:
        if trigger["type"] == "external-push":
            assert is_active(trigger)
            assert example.spec["minReplicaCount"] == 0


@each
def test_blindness_removes_nothing(example: Example) -> None:
    assert example.spec.get("fallback", {}).get("behavior", "none") in ("none", "currentReplicasIfHigher")


@each
def test_a_loading_model_or_a_job_is_given_more_time_than_the_window_looks_back(example: Example) -> None:
    for trigger in example.triggers:
        parsed = parse_trigger(trigger["metadata"])
        assert parsed.window_seconds < parsed.startup_grace_seconds


# ---- all of them ----


def test_every_profile_has_an_example() -> None:
    shown = {trigger["metadata"].get("profile") for example in EXAMPLES for trigger in example.triggers}
    assert shown >= set(PROFILES)


def test_every_source_of_demand_has_an_example_that_is_pushed() -> None:
    shown = {
        (trigger["metadata"]["demand"], trigger["type"])
        for example in EXAMPLES
        for trigger in example.triggers
        if "demand" in trigger["metadata"]
    }
    assert shown == {(name, "external-push") for name in DEMANDS}


def test_every_use_is_shown() -> None:
    triggers = [trigger for example in EXAMPLES for trigger in example.triggers]
    metadata = [trigger["metadata"] for trigger in triggers]
    kinds = {example.spec["scaleTargetRef"].get("kind", "Deployment") for example in EXAMPLES}
    assert kinds == {"Deployment", "StatefulSet", "LeaderWorkerSet"}
    assert {trigger.get("metricType", "AverageValue") for trigger in triggers} == {"AverageValue", "Value"}
    assert {trigger["type"] for trigger in triggers} == {"external", "external-push"}
    shown = {key for one in metadata for key in one}
    assert {"gpuModel", "nodeSelector", "scope", "enableTLS", "engineMetric", "demandPerReplica"} <= shown
    assert any(len(example.triggers) > 1 for example in EXAMPLES)
    assert any(example.spec["minReplicaCount"] == 0 and not is_active(example.triggers[0]) for example in EXAMPLES)


def test_every_workload_has_a_name_of_its_own_so_that_all_examples_can_be_applied_together() -> None:
    names = [(one["kind"], one["metadata"]["name"]) for example in EXAMPLES for one in example.documents]
    assert len(names) == len(set(names))
    documents = [one for example in EXAMPLES for one in example.documents if not one["kind"].startswith("Cluster")]
    assert {one["metadata"]["namespace"] for one in documents} == {"ai"}
    assert all(example.spec["scaleTargetRef"]["name"] == example.workload for example in EXAMPLES)


def test_the_readme_lists_every_example_once() -> None:
    listed = re.findall(r"^\| \[(.+?)\]\((.+?)\) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(path for _, path in listed) == [example.path.name for example in EXAMPLES]
    assert all(name == path for name, path in listed)


# ---- the tests' own eyes ----


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(_set("spec", "minReplicas", to=1), "spec.minReplicas: unknown field", id="a misspelt field"),
        pytest.param(_set("spec", "pollingInterval", to="30"), "'30' is no integer", id="a number that is text"),
        pytest.param(_set("spec", "pollingInterval", to=True), "True is no integer", id="a truth that is no number"),
        pytest.param(_set("spec", "pollingInterval", to=0), "0 is out of bounds", id="below the minimum"),
        pytest.param(_set("spec", "pollingInterval", to=1 << 31), "does not fit int32", id="too large a number"),
        pytest.param(_set("spec", "triggers", to=[]), "at least 1 items", id="no trigger"),
        pytest.param(_set("spec", "triggers", 0, to={"type": "external"}), "metadata: is required", id="a half"),
        pytest.param(
            _set("spec", "triggers", 0, "metadata", "targetValue", to=80), "80 is no string", id="not text"
        ),
        pytest.param(_set("spec", "scaleTargetRef", to=None), "None is no object", id="nothing at all"),
        pytest.param(_set("spec", "scaleTargetRef", "name", to=""), "is too short", id="an empty name"),
        pytest.param(
            _set("spec", "fallback", to={"failureThreshold": 1, "replicas": 1, "behavior": "panic"}),
            "'panic' is none of",
            id="a word that is not in the list",
        ),
        pytest.param(
            _set(
                "spec", "advanced",
                to={"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": {"tolerance": "a tenth"}}}},
            ),
            "'a tenth' does not match",
            id="text that is no quantity",
        ),
        pytest.param(_set("metadata", "name", to="Llama"), "no name that an object may have", id="a capital"),
    ],
)  # fmt: skip
def test_a_broken_example_is_found_out(change: Callable[[dict[str, Any]], None], said: str) -> None:
    document = copy.deepcopy(next(one for one in EXAMPLES if one.name == "triton").scaled)
    change(document)
    (problem,) = by_kedas_schema(document)
    assert said in problem


def test_a_key_that_stands_there_twice_is_found_out() -> None:
    with pytest.raises(yaml.YAMLError, match="twice"):
        load("spec: {a: 1, a: 2}")


def test_a_schema_that_says_more_than_is_understood_is_found_out() -> None:
    with pytest.raises(AssertionError, match="maxItems"):
        problems({"metadata": {"name": "a"}}, {"type": "object", "maxItems": 3})
