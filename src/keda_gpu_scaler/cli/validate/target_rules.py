# SPDX-License-Identifier: Apache-2.0
"""Checks a trigger's target: fractions, values that no reading reaches, activation above it."""

from collections.abc import Iterator, Mapping

from keda_gpu_scaler.cli.validate.documents import YamlPath
from keda_gpu_scaler.cli.validate.findings import Severity
from keda_gpu_scaler.cli.validate.problem import Problem
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.parser import SHORTHANDS, Trigger
from keda_gpu_scaler.core.trigger.value_forms import FULL_PERCENT, is_at_most_full

_SUM = "sum"


def check_targets(metadata_path: YamlPath, texts: Mapping[str, str], parsed: Trigger) -> Iterator[Problem]:
    """Yield the problems of the target and of the activation threshold.

    Args:
        metadata_path: of the trigger's metadata.
        texts: the metadata without keys that KEDA reads from the environment.
        parsed: the trigger.
    """
    yield from _check_percentage(metadata_path, texts, parsed)
    key = "activationThreshold"
    if key in texts and parsed.activation > parsed.target:
        yield Problem(
            Severity.WARNING, (*metadata_path, key),
            f"metadata.{key}: Invalid value: {quoted(texts[key])}: is above the target ({parsed.target:g}), so a "
            "workload at its target is inactive and may be scaled to zero: set it below the target",
        )  # fmt: skip


def _check_percentage(metadata_path: YamlPath, texts: Mapping[str, str], parsed: Trigger) -> Iterator[Problem]:
    key = next((key for key in (*SHORTHANDS, "targetValue") if key in texts), None)
    if key is None or parsed.metric.unit != "%":
        return
    value, name = quoted(texts[key]), parsed.metric.name
    if parsed.target <= 1:
        yield Problem(
            Severity.WARNING, (*metadata_path, key),
            f"metadata.{key}: Invalid value: {value}: {name} is in percent, so this is {parsed.target:g} %, and almost "
            f"any load asks for more replicas: write {100 * parsed.target:g} for a share of {parsed.target:g}",
        )  # fmt: skip
    elif parsed.target > FULL_PERCENT and is_at_most_full(parsed.metric):
        if parsed.aggregation != _SUM:
            yield Problem(
                Severity.ERROR, (*metadata_path, key),
                f"metadata.{key}: Invalid value: {value}: {name} is at most 100 %, so the workload never grows: must "
                f"be at most 100, or set aggregation: {_SUM} for the sum over several devices",
            )  # fmt: skip
    elif parsed.target > FULL_PERCENT and parsed.aggregation != _SUM:
        yield Problem(
            Severity.WARNING, (*metadata_path, key),
            f"metadata.{key}: Invalid value: {value}: 100 % of {name} is a full replica, so requests wait before a "
            "replica is added: set 100 or less",
        )  # fmt: skip
