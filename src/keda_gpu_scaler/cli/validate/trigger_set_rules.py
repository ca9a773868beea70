# SPDX-License-Identifier: Apache-2.0
"""Checks what the triggers of one ScaledObject do together: equal ones, a formula, and the fallback.

Law: what works as written, and may surprise, is an information; it is no warning.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from keda_gpu_scaler.cli.explain.scaledobject import Fallback, fallback_of
from keda_gpu_scaler.cli.formula import FormulaError, formula_names
from keda_gpu_scaler.cli.validate.documents import mapping
from keda_gpu_scaler.cli.validate.findings import Severity
from keda_gpu_scaler.cli.validate.parsed_metadata import parsed_metadata
from keda_gpu_scaler.cli.validate.problem import Problem
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.scaling_rules import Formula
from keda_gpu_scaler.core.trigger.near_keys import FROM_ENVIRONMENT
from keda_gpu_scaler.core.trigger.parser import Trigger

_RESOURCE_TRIGGERS = ("cpu", "memory")
_MODIFIERS = "scalingModifiers"


def check_trigger_set(spec: Mapping[str, Any], own: Sequence[int], found: Formula | None) -> Iterator[Problem]:
    """Yield the problems of a ScaledObject's triggers that no trigger has alone.

    Args:
        spec: the ScaledObject's spec.
        own: the indexes of this scaler's triggers.
        found: the formula, None without scalingModifiers.
    """
    triggers = [mapping(trigger) for trigger in spec.get("triggers", ())]
    if found is not None and all(triggers[number].get("name") for number in own):
        yield from _check_names(triggers, found)
    elif found is None:
        yield from _check_equal_triggers(triggers, own)
        yield from _check_targets_at_odds(triggers, own)
    if (fallback := fallback_of(spec)) is not None:
        yield from _check_fallback(fallback, triggers, own, found)


def _check_names(triggers: Sequence[Mapping[str, Any]], found: Formula) -> Iterator[Problem]:
    path = ("spec", "advanced", "scalingModifiers", "formula")
    try:
        taken = formula_names(found.text)
    except FormulaError as error:
        yield Problem(
            Severity.INFO, path,
            f"spec.advanced.scalingModifiers.formula: {error}; KEDA may still compute it",
        )  # fmt: skip
        return
    names = {str(one.get("name") or "") for one in triggers if one.get("type") not in _RESOURCE_TRIGGERS}
    for name in sorted(taken - names):
        yield Problem(
            Severity.ERROR, path,
            f"spec.advanced.scalingModifiers.formula: Not found: {quoted(name, 100)}: no external trigger has this "
            "name, and KEDA refuses the formula",
        )  # fmt: skip


def _check_equal_triggers(triggers: Sequence[Mapping[str, Any]], own: Sequence[int]) -> Iterator[Problem]:
    for position, number in enumerate(own):
        metadata, value_type = mapping(triggers[number].get("metadata")), _value_type(triggers[number])
        for other in own[:position]:
            if mapping(triggers[other].get("metadata")) != metadata:
                continue
            path = ("spec", "triggers", number)
            is_same_type = triggers[other].get("type") == triggers[number].get("type")
            if _value_type(triggers[other]) == value_type:
                if not is_same_type:  # one of the two pushes
                    continue
                message = f"trigger {number + 1}: Duplicate value: it is the same as trigger {other + 1}: remove one"
                yield Problem(Severity.WARNING, path, message)
            else:
                yield Problem(
                    Severity.ERROR, (*path, "metricType"),
                    f"metricType: Invalid value: {value_type}: trigger {other + 1} has the same metadata and "
                    f"metricType {_value_type(triggers[other])}, and KEDA sends the metadata alone, so no value fits "
                    "both: remove one",
                )  # fmt: skip
            break


def _check_targets_at_odds(triggers: Sequence[Mapping[str, Any]], own: Sequence[int]) -> Iterator[Problem]:
    """Yield a warning for each trigger that reads the same as another one, and compares it with its own target."""
    known: dict[int, Trigger] = {}
    for number in own:
        metadata = mapping(triggers[number].get("metadata"))
        parsed = parsed_metadata(metadata)
        if parsed is None or any(str(key).endswith(FROM_ENVIRONMENT) for key in metadata):
            continue
        same = next((at for at, one in known.items() if _reading(one) == _reading(parsed)), None)
        known[number] = parsed
        if same is None or mapping(triggers[same].get("metadata")) == metadata:
            continue
        first, second = known[same].target, parsed.target
        is_typed_alike = _value_type(triggers[same]) == _value_type(triggers[number])
        if first == second and not is_typed_alike:
            continue
        path = ("spec", "triggers", number)
        reads = f"trigger {number + 1}: Duplicate value: it reads {parsed.metric.name} as trigger {same + 1} does"
        lower = number if second < first else same
        message = (
            f"{reads}, and their targets are {first:g} and {second:g}: the HPA follows trigger {lower + 1} alone, "
            "whose target is lower: remove the other"
            if first != second
            else f"{reads}, with the same target: remove one"
        )
        yield Problem(Severity.WARNING, path, message)


def _reading(trigger: Trigger) -> Trigger:
    """Return a trigger without its target, its names, and what says how a part of them was given."""
    return replace(
        trigger, target=0, activation=0, is_activation_given=False, metric_name="", profile=None, hints=(),
        poll_interval_seconds=0, report="", demand=None,
    )  # fmt: skip


def _check_fallback(
    fallback: Fallback, triggers: Sequence[Mapping[str, Any]], own: Sequence[int], found: Formula | None
) -> Iterator[Problem]:
    path = ("spec", "fallback")
    if fallback.behavior == _MODIFIERS and found is None:
        yield Problem(
            Severity.ERROR, (*path, "behavior"),
            'spec.fallback.behavior: Invalid value: "scalingModifiers": there is no formula, and then KEDA\'s fallback '
            "fails: use currentReplicas",
        )  # fmt: skip
        return
    if found is not None and not (found.target.isascii() and found.target.isdigit()):
        yield Problem(
            Severity.WARNING, path,
            f"spec.fallback: has no effect: with a formula KEDA needs a whole number as its target, and it is "
            f"{quoted(found.target, 40)}",
        )  # fmt: skip
        return
    yield Problem(
        Severity.INFO, path,
        f"spec.fallback: after more than {fallback.failures} errors in a row KEDA {fallback.describe()}. This scaler "
        "returns an error when too little is known, and without a fallback the HPA then keeps the size",
    )  # fmt: skip
    types = {found.metric_type} if found is not None else {_value_type(triggers[number]) for number in own}
    if ValueType.VALUE in types and fallback.behavior != _MODIFIERS:
        yield Problem(
            Severity.INFO, path,
            "spec.fallback: with metricType Value KEDA divides by the ready pods, and without a ready pod its fallback "
            "fails: the size stays",
        )  # fmt: skip


def _value_type(trigger: Mapping[str, Any]) -> str:
    return str(trigger.get("metricType") or ValueType.AVERAGE_VALUE)
