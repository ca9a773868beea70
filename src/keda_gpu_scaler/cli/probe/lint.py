# SPDX-License-Identifier: Apache-2.0
"""What about an answer would hurt with KEDA, or with some version of it?

The law of this module: what hurts is named and left as it is; a finding says whether KEDA can do anything
with the answer, and what its author should change.

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
"""What is below has no thousandth left after KEDA's rounding."""

_SAFE_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class LintFinding:
    """Something the protocol does not allow, or that means trouble. ``unusable``: KEDA can do nothing with it."""

    code: str
    text: str
    unusable: bool = False


def lint(answer: ProbeAnswer) -> tuple[LintFinding, ...]:
    """Everything about an answer that would hurt with KEDA, or with some version of it."""
    return tuple(_judge(answer))


def _judge(answer: ProbeAnswer) -> Iterator[LintFinding]:
    if answer.specs is not None:
        yield from _judge_specs(answer.specs)
    if answer.values is not None:
        yield from _judge_values(answer.values, answer.specs or ())
    error = answer.error
    if error is not None and error.method == "IsActive" and answer.connected:
        yield LintFinding(
            "is-active-failed", "IsActive fails after GetMetrics: KEDA throws the value away", unusable=True
        )


def _judge_specs(specs: tuple[MetricReading, ...]) -> Iterator[LintFinding]:
    if not specs:
        yield LintFinding("no-spec", "the spec is empty: KEDA has no metric to ask for", unusable=True)
        return
    if len(specs) > 1:
        names = ", ".join(quoted(spec.name) for spec in specs)
        yield LintFinding("many-specs", f"{len(specs)} specs ({names}): return exactly one; only the first is probed")
    name = specs[0].name
    if not _SAFE_NAME.fullmatch(name):
        remedy = "use lower-case letters, digits, '-' and '_' only"
        yield LintFinding("unsafe-name", f"KEDA may ask for {quoted(name)} as {quoted(name_from_keda(name))}: {remedy}")
    yield from _judge_number("target", specs[0], "targetSize")
    target = specs[0].as_keda_reads_it
    if 0 <= target < SMALLEST_TARGET:
        text = f"target {target:g} is below {SMALLEST_TARGET:g}: with KEDA's three decimals it is 0"
        yield LintFinding("target-too-small", text, unusable=True)


def _judge_values(values: tuple[MetricReading, ...], specs: tuple[MetricReading, ...]) -> Iterator[LintFinding]:
    if not values:
        yield LintFinding("no-value", "no value came: KEDA has nothing to hand to the HPA", unusable=True)
        return
    if len(values) > 1:
        yield LintFinding("many-values", f"{len(values)} values: return exactly one; the HPA adds them up")
    for value in values:
        if specs and name_from_keda(value.name) != name_from_keda(specs[0].name):
            text = f"the value is named {quoted(value.name)}, the spec {quoted(specs[0].name)}: use one name"
            yield LintFinding("other-name", text)
        yield from _judge_number("value", value, "metricValue")


def _judge_number(what: str, sent: MetricReading, integer_field: str) -> Iterator[LintFinding]:
    number = sent.floating
    both = f"{integer_field} {sent.integer}, {integer_field}Float {number:.12g}"
    if not math.isfinite(number):
        text = f"{what} is not a finite number ({both}): KEDA makes it 0 or takes the integer, by its version"
        yield LintFinding(f"{what}-not-finite", text, unusable=True)
    elif number < 0 or sent.integer < 0:
        yield LintFinding(f"{what}-negative", f"{what} is below 0 ({both}): the HPA has no use for it", unusable=True)
    elif abs(sent.as_keda_reads_it) * 1000 > LARGEST_MILLI:
        text = f"{what} is too large to count in thousandths ({both}): keep it below {LARGEST_MILLI / 1000:.2g}"
        yield LintFinding(f"{what}-too-large", text, unusable=True)
    elif number == 0 and sent.integer != 0:
        yield LintFinding("integer-only", f"{what}: only the integer is filled ({both}); KEDA falls back to it")
    elif math.ceil(number) != sent.integer:
        text = f"{what}: the fields disagree ({both}); KEDA before 2.17 reads the integer: make it {math.ceil(number)}"
        yield LintFinding("fields-disagree", text)
