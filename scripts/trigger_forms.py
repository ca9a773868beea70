# SPDX-License-Identifier: Apache-2.0
"""Generates the JSON Schema of triggers, and the lists of the chart's admission policy.

The law of this script: both come from the tables of the parser. A test says when a committed file is stale.
"""

import json
import re
from pathlib import Path
from typing import Any

from keda_gpu_scaler.core.trigger.parser import DEFAULT_METRIC, PARAMETERS, SHORTHANDS
from keda_gpu_scaler.core.trigger.profiles import PROFILES
from keda_gpu_scaler.core.trigger.value_forms import (
    NUMBER_PATTERN,
    NUMBERS,
    choices,
    metrics_at_most_full,
    own_keys,
)

HOME = Path(__file__).resolve().parent.parent
SCHEMA = HOME / "docs" / "reference" / "trigger.schema.json"
CHART_FORMS = HOME / "deploy" / "helm" / "keda-gpu-scaler" / "files" / "trigger-forms.json"

TYPES = ("external", "external-push")
FROM_ENVIRONMENT = "FromEnv"
NAME_OF_SCALER = "keda-gpu-scaler"

_ABOVE_FULL = r"^\s*\+?0*(10[1-9]|1[1-9][0-9]|[2-9][0-9]{2}|[1-9][0-9]{3,})(\.[0-9]*)?\s*$"
_NOT_ZERO = r"(?=[^eE]*[1-9])"
_ADDRESS = r"^((dns|passthrough):/+([^/]*/)?)?[^/:]+:[0-9]{1,5}$"
_SEPARATORS = re.compile(r"[-_. ]+")


def metadata_schema() -> dict[str, Any]:
    """Return the schema of the metadata of one trigger. Keys of other programs pass."""
    words = choices()
    properties: dict[str, Any] = {
        "scalerAddress": {
            "type": "string",
            "pattern": _ADDRESS,
            "description": "The Service of this scaler: HOST:PORT, without a scheme.",
        }
    }
    for parameter in PARAMETERS:
        description = f"{parameter.description}. Default: {parameter.default}"
        properties[parameter.key] = {"type": "string", "description": description, **_form(parameter.key, words)}
    environment = {"type": "string", "minLength": 1, "description": "The name of a variable of the workload."}
    properties |= {key + FROM_ENVIRONMENT: environment for key in ("scalerAddress", *own_keys())}
    return {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "propertyNames": {"not": {"enum": sorted({*spellings()} - {*properties})}},
        "properties": properties,
        "anyOf": [{"required": ["scalerAddress"]}, {"required": ["scalerAddress" + FROM_ENVIRONMENT]}],
        "allOf": [_at_most_full()],
    }


def schema() -> dict[str, Any]:
    """Return the schema of ScaledObjects and ScaledJobs, as far as it is about the triggers of this scaler."""
    own_address = {"required": ["scalerAddress"], "properties": {"scalerAddress": {"pattern": NAME_OF_SCALER}}}
    trigger = {
        "type": "object",
        "required": ["type", "metadata"],
        "properties": {"type": {"type": "string"}, "metadata": {"type": "object"}},
        "if": {"properties": {"metadata": own_address}, "required": ["metadata"]},
        "then": {
            "properties": {
                "type": {"enum": list(TYPES)},
                "metricType": {"enum": ["AverageValue", "Value"]},
                "metadata": {"$ref": "#/definitions/metadata"},
            }
        },
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Triggers of keda-gpu-scaler in a ScaledObject or ScaledJob",
        "type": "object",
        "if": {"properties": {"kind": {"enum": ["ScaledObject", "ScaledJob"]}}, "required": ["kind"]},
        "then": {
            "required": ["spec"],
            "properties": {
                "apiVersion": {"const": "keda.sh/v1alpha1"},
                "spec": {
                    "type": "object",
                    "required": ["triggers"],
                    "properties": {"triggers": {"type": "array", "items": {"$ref": "#/definitions/trigger"}}},
                },
            },
        },
        "definitions": {"trigger": trigger, "metadata": metadata_schema()},
    }


def chart_forms() -> dict[str, Any]:
    """Return the lists of the admission policy. Numbers are text, because CEL distinguishes 1 and 1.0."""
    return {
        "choices": {key: list(listed) for key, listed in choices().items()},
        "defaultMetric": DEFAULT_METRIC,
        "numberPattern": NUMBER_PATTERN.replace("{1,3}", "{1,2}"),
        "numbers": {key: [f"{it.at_least:g}", f"{it.at_most:g}"] for key, it in NUMBERS.items()},
        "percentages": list(metrics_at_most_full()),
        "profiles": {one.name: one.metric for one in PROFILES.values()},
        "spellings": {_letters(key): key for key in own_keys()},
    }


def spellings() -> dict[str, str]:
    """Return usual misspellings of the keys, with the key that is meant: other cases and separators."""
    wrong: dict[str, str] = {}
    for key in own_keys():
        parts = re.findall(r"[A-Z]?[a-z]+", key)
        lower = [part.lower() for part in parts]
        forms = (key.lower(), key.upper(), key[0].upper() + key[1:], "_".join(lower), "-".join(lower))
        wrong |= {form: key for form in forms if form not in own_keys()}
    return wrong


def texts() -> dict[Path, str]:
    """Return the text of each file."""
    return {
        path: json.dumps(value, indent=2) + "\n" for path, value in ((SCHEMA, schema()), (CHART_FORMS, chart_forms()))
    }


def write() -> list[Path]:
    """Write the files, and return their paths."""
    for path, text in texts().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(texts())


def _form(key: str, words: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    if key in NUMBERS:
        sign = r"\+?" if NUMBERS[key].at_least >= 0 else "[+-]?"
        must = _NOT_ZERO if NUMBERS[key].at_least > 0 else ""
        return {"pattern": rf"^\s*{must}{NUMBER_PATTERN.replace('[+-]?', sign, 1)}\s*$"}
    if key in words:
        # Editors complete the words of an enum; the parser takes blanks around a word too.
        blanks = {"pattern": rf"^(\s+({'|'.join(words[key])})\s*|({'|'.join(words[key])})\s+)$"}
        return {"anyOf": [{"enum": list(words[key])}, blanks]}
    return {"pattern": r"\S"}


def _at_most_full() -> dict[str, Any]:
    """Refuse a target above 100 of a metric that never is, where the metric is named, or is the default."""
    is_sum = {"properties": {"aggregation": {"pattern": r"^\s*sum\s*$"}}, "required": ["aggregation"]}
    elsewhere = [{"required": [key]} for key in ("profile", "engineMetric", "metricType", *SHORTHANDS)]
    unknown = ("profile", "metricType", "engineMetric", "aggregation", *SHORTHANDS)
    environment = [{"required": [key + FROM_ENVIRONMENT]} for key in unknown]
    named = {
        "required": ["metricType"],
        "properties": {"metricType": {"enum": list(metrics_at_most_full())}},
        "not": {"anyOf": [{"required": [key]} for key in ("engineMetric", *SHORTHANDS)]},
    }
    above = {"not": {"pattern": _ABOVE_FULL}}
    return {
        "if": {"not": {"anyOf": [is_sum, *environment]}},
        "then": {
            "properties": dict.fromkeys(SHORTHANDS, above),
            "if": {"anyOf": [named, {"not": {"anyOf": elsewhere}}]},
            "then": {"properties": {"targetValue": above}},
        },
    }


def _letters(key: str) -> str:
    return _SEPARATORS.sub("", key).lower()
