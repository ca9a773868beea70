# SPDX-License-Identifier: Apache-2.0
"""Finds what is wrong in the answers of an external scaler, for KEDA or for some version of it.

Law: a finding changes nothing. It says whether KEDA can use the answer, and what the scaler's author must change.

Facts are from KEDA 2.20: pkg/scalers/external_scaler.go and pkg/util/normalize_string.go.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from keda_gpu_scaler.cli.probe.client import MetricReading, ProbeAnswer, name_from_keda
from keda_gpu_scaler.core.hpa.replica_calculator import LARGEST_MILLI
from keda_gpu_scaler.core.quoting import quoted

SMALLEST_TARGET = 0.0005
"""A smaller target is 0 after KEDA rounds it to three decimals."""

_SAFE_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class LintFinding:
    """A breach of the protocol, or a risk. KEDA cannot use the answer where ``is_unusable``."""

    code: str
    text: str
    is_unusable: bool = False


def lint(answer: ProbeAnswer) -> tuple[LintFinding, ...]:
    """Return everything that is wrong in an answer, for KEDA or for some version of it."""
    return tuple(_findings(answer))


def _findings(answer: ProbeAnswer) -> Iterator[LintFinding]:
    if answer.specs is not None:
        yield from _lint_specs(answer.specs)
    if answer.values is not None:
        yield from _lint_values(answer.values, answer.specs or ())
    error = answer.error
    if error is not None and error.method == "IsActive" and answer.is_connected:
        yield LintFinding(
            "is-active-failed", "IsActive returns an error after GetMetrics: KEDA discards the value", is_unusable=True
        )


def _lint_specs(specs: tuple[MetricReading, ...]) -> Iterator[LintFinding]:
    if not specs:
        yield LintFinding("no-spec", "the spec is empty: KEDA has no metric to request", is_unusable=True)
        return
    if len(specs) > 1:
        names = ", ".join(quoted(spec.name) for spec in specs)
        yield LintFinding("many-specs", f"{len(specs)} specs ({names}): return exactly one; only the first is probed")
    name = specs[0].name
    if not _SAFE_NAME.fullmatch(name):
        remedy = "use lower-case letters, digits, '-' and '_' only"
        yield LintFinding("unsafe-name", f"KEDA may request {quoted(name)} as {quoted(name_from_keda(name))}: {remedy}")
    yield from _lint_number("target", specs[0], "targetSize")
    target = specs[0].as_keda_reads_it
    if 0 <= target < SMALLEST_TARGET:
        text = f"target {target:g} is below {SMALLEST_TARGET:g}: KEDA rounds it to three decimals, which is 0"
        yield LintFinding("target-too-small", text, is_unusable=True)


def _lint_values(values: tuple[MetricReading, ...], specs: tuple[MetricReading, ...]) -> Iterator[LintFinding]:
    if not values:
        yield LintFinding("no-value", "GetMetrics returns no value: KEDA has no number for the HPA", is_unusable=True)
        return
    if len(values) > 1:
        yield LintFinding("many-values", f"{len(values)} values: return exactly one; the HPA adds them up")
    for value in values:
        if specs and name_from_keda(value.name) != name_from_keda(specs[0].name):
            text = f"the value is named {quoted(value.name)}, the spec {quoted(specs[0].name)}: use one name"
            yield LintFinding("other-name", text)
        yield from _lint_number("value", value, "metricValue")


def _lint_number(role: str, sent: MetricReading, integer_field: str) -> Iterator[LintFinding]:
    number = sent.floating
    both = f"{integer_field} {sent.integer}, {integer_field}Float {number:.12g}"
    if not math.isfinite(number):
        text = f"{role} is not a finite number ({both}): KEDA uses 0 or the integer, depending on its version"
        yield LintFinding(f"{role}-not-finite", text, is_unusable=True)
    elif number < 0 or sent.integer < 0:
        yield LintFinding(f"{role}-negative", f"{role} is below 0 ({both}): the HPA cannot use it", is_unusable=True)
    elif abs(sent.as_keda_reads_it) * 1000 > LARGEST_MILLI:
        text = f"{role} is too large to count in thousandths ({both}): keep it below {LARGEST_MILLI / 1000:.2g}"
        yield LintFinding(f"{role}-too-large", text, is_unusable=True)
    elif number == 0 and sent.integer != 0:
        yield LintFinding("integer-only", f"{role}: only the integer is set ({both}); KEDA uses the integer")
    elif math.ceil(number) != sent.integer:
        text = (
            f"{role}: the fields disagree ({both}); KEDA before 2.17 reads the integer: set it to {math.ceil(number)}"
        )
        yield LintFinding("fields-disagree", text)
