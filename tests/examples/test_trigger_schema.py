# SPDX-License-Identifier: Apache-2.0
"""Tests the JSON Schema of triggers: it takes every example, and refuses the usual mistakes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts import trigger_forms

from keda_gpu_scaler.core.trigger.parser import PARAMETERS
from tests.cli.validate.mistakes import ADDRESS, CORRECT, MISTAKES, Mistake
from tests.json_schema import SchemaChecker

SCHEMA: dict[str, Any] = json.loads(trigger_forms.SCHEMA.read_text())
CHECKER = SchemaChecker(SCHEMA)
EXAMPLES = sorted((trigger_forms.HOME / "deploy" / "examples").glob("*.yaml"))
METADATA = SCHEMA["definitions"]["metadata"]["properties"]


def scaled(trigger: dict[str, Any], **changes: Any) -> dict[str, Any]:
    spec = {"scaleTargetRef": {"name": "llama"}, "triggers": [trigger]}
    return {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "spec": spec, **changes}


def test_the_schema_is_current() -> None:
    assert trigger_forms.SCHEMA.read_text() == trigger_forms.texts()[trigger_forms.SCHEMA], "stale: run `make docs`"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.stem))
def test_the_schema_takes_every_example(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text()))
    assert [one["kind"] for one in documents if not CHECKER.accepts(one)] == []


@pytest.mark.parametrize("metadata", [pytest.param(one, id=title) for title, one in CORRECT.items()])
def test_the_schema_takes_correct_metadata(metadata: dict[str, Any]) -> None:
    assert CHECKER.accepts(scaled({"type": "external", "metadata": {"scalerAddress": ADDRESS, **metadata}}))


@pytest.mark.parametrize("mistake", [pytest.param(one, id=one.title) for one in MISTAKES])
def test_the_schema_refuses_the_mistakes_that_it_can_express(mistake: Mistake) -> None:
    assert CHECKER.accepts(scaled(mistake.trigger)) != mistake.is_in_schema


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(scaled({"type": "external", "metadata": {"scalerAddress": ADDRESS}}, apiVersion="keda.sh/v1"),
                     id="a version that KEDA does not have"),
        pytest.param(scaled({"type": "external", "metricType": "Utilization", "metadata": {"scalerAddress": ADDRESS}}),
                     id="a type of metric for CPU"),
        pytest.param({"kind": "ScaledObject", "spec": {}}, id="no triggers"),
    ],
)  # fmt: skip
def test_the_schema_refuses_mistakes_around_the_metadata(value: dict[str, Any]) -> None:
    assert not CHECKER.accepts(value)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(scaled({"type": "cron", "metadata": {"start": "0 8 * * *"}}), id="a trigger of KEDA's own"),
        pytest.param(
            scaled({"type": "external", "metadata": {"scalerAddress": "queues.jobs:9000", "profile": "?"}}),
            id="another external scaler",
        ),
        pytest.param({"apiVersion": "v1", "kind": "Service", "spec": {"ports": []}}, id="another kind"),
    ],
)
def test_the_schema_leaves_other_objects_and_scalers_alone(value: dict[str, Any]) -> None:
    assert CHECKER.accepts(value)


def test_every_key_has_a_description_and_a_default() -> None:
    for parameter in PARAMETERS:
        text = METADATA[parameter.key]["description"]
        assert parameter.description in text
        assert parameter.default in text


def test_the_patterns_have_the_syntax_of_editors() -> None:
    """Editors use ECMAScript: no named group of Python, no anchor but ^ and $, no look-behind."""
    patterns = re.findall(r'"pattern": "([^\n]*)"', trigger_forms.SCHEMA.read_text())
    assert patterns
    assert not [one for one in patterns if re.search(r"\(\?P|\\\\A|\\\\Z|\(\?<", one)]
