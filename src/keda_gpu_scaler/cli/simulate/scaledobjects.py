# SPDX-License-Identifier: Apache-2.0
"""Reads the ScaledObjects and ScaledJobs of a simulation, and makes the variants of ``--set``.

Law: a field that is not given has KEDA's default, as in ``explain``.
"""

import copy
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from keda_gpu_scaler.cli.explain.scaledobject import KINDS, ScaledObject, scaled_object_of, trigger_of
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.own_trigger import recognized_triggers
from keda_gpu_scaler.kube.parse import mappings, part
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.queue_triggers import QUEUE_SCALERS, is_queue_trigger, queue_trigger
from keda_gpu_scaler.simulate.scenario import (
    POLLING_SECONDS,
    FallbackSpec,
    JobSpec,
    QueueTrigger,
    ScalingSpec,
    TriggerSpec,
)

_PUSH = "external-push"


@dataclass(frozen=True, slots=True)
class FieldSetting:
    """One ``--set``: the path of a field, and the values that it takes one after another."""

    path: str
    values: tuple[str, ...]


def read_settings(texts: Iterable[str], *, is_sweep: bool) -> tuple[FieldSetting, ...]:
    """Read ``--set PATH=VALUE[,VALUE…]``.

    Raises:
        SimulationError: a text has no path or no value, or several values without ``--sweep``.
    """
    settings = []
    for text in texts:
        path, equals, values = text.partition("=")
        given = tuple(value.strip() for value in values.split(","))
        if not equals or not all(given) or path.split(".")[0] not in ("trigger", "spec") or "." not in path:
            raise SimulationError(
                f"--set: {quoted(text, 120)}: must be trigger.KEY=VALUE or spec.FIELD=VALUE, for example "
                "trigger.targetValue=60,80,100 with --sweep"
            )
        if len(given) > 1 and not is_sweep:
            raise SimulationError(f"--set: {quoted(text, 120)} has {len(given)} values: add --sweep to simulate each")
        settings.append(FieldSetting(path, given))
    return tuple(settings)


@dataclass(frozen=True, slots=True)
class QueueFlags:
    """The flags on a queue. ``counts_unfinished`` is None where each scaler counts what it counts in a cluster."""

    is_queue: bool = False
    counts_unfinished: bool | None = None


def read_specs(
    paths: Sequence[str], settings: Sequence[FieldSetting], flags: QueueFlags = QueueFlags()
) -> tuple[list[ScalingSpec], list[str]]:
    """Return each ScaledObject and ScaledJob of some files with each combination of the settings, and sentences.

    Raises:
        SimulationError: a file cannot be read, or has no ScaledObject with a trigger that is simulated.
    """
    items = [(path, item) for path in paths for item in _scaled_objects(path)]
    is_queue = flags.is_queue or any(item.get("kind") == "ScaledJob" for _, item in items)
    flags = replace(flags, is_queue=is_queue)
    names = [_name(item) for _, item in items]
    specs: list[ScalingSpec] = []
    remarks: list[str] = []
    for (path, item), name in zip(items, names, strict=True):
        title = name if names.count(name) == 1 else f"{Path(path).stem}:{name}"
        for changed, suffix in _variants(item, settings):
            scaled_object = scaled_object_of(changed)
            specs.append(_spec(f"{title} {suffix}".strip(), changed, scaled_object, flags))
        remarks += _remarks(title, scaled_object, specs[-1])
    return specs, list(dict.fromkeys(remarks))


def _scaled_objects(path: str) -> list[Mapping[str, Any]]:
    try:
        text = Path(path).read_text()
        documents = list(yaml.safe_load_all(text))
    except (OSError, UnicodeDecodeError) as error:
        raise SimulationError(f"--file: cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise SimulationError(
            f"--file: {path}: not valid YAML: {str(error).splitlines()[0]}; render templates first"
        ) from error
    items = [item for document in documents for item in _items(document)]
    found = [item for item in items if item.get("kind") in KINDS]
    if not found:
        raise SimulationError(f"--file: {path} has no ScaledObject and no ScaledJob")
    return found


def _items(document: object) -> list[Mapping[str, Any]]:
    if not isinstance(document, Mapping):
        return []
    items = document.get("items")
    return mappings(items if isinstance(items, list) else [document])


def _name(item: Mapping[str, Any]) -> str:
    metadata = part(item, "metadata")
    return (
        "/".join(str(metadata[key]) for key in ("namespace", "name") if metadata.get(key)) or str(item["kind"]).lower()
    )


def _variants(item: Mapping[str, Any], settings: Sequence[FieldSetting]) -> Iterator[tuple[Mapping[str, Any], str]]:
    for values in itertools.product(*[setting.values for setting in settings]):
        changed = copy.deepcopy(dict(item))
        shown = []
        for setting, value in zip(settings, values, strict=True):
            _set(changed, setting.path, value)
            shown.append(f"{setting.path.rpartition('.')[2]}={value}")
        yield changed, " ".join(shown)


def _set(item: dict[str, Any], path: str, value: str) -> None:
    root, _, rest = path.partition(".")
    if root == "trigger":
        triggers = mappings(part(item, "spec").get("triggers"))
        own = [*recognized_triggers(triggers)]
        own = own or [number for number, one in enumerate(triggers) if one.get("type") in QUEUE_SCALERS]
        for number in own:
            trigger = triggers[number]
            if isinstance(trigger, dict):
                trigger["metadata"] = {**part(trigger, "metadata"), rest: value}
        if not own:
            raise SimulationError(f"--set: {path}: the ScaledObject has no trigger of this scaler")
        return
    place: Any = item
    *folders, last = path.split(".")
    for folder in folders:
        found = place.get(folder)
        if found is None:
            found = place[folder] = {}
        if not isinstance(found, dict):
            raise SimulationError(f"--set: {path}: {folder} holds no fields")
        place = found
    place[last] = yaml.safe_load(value)


def _spec(title: str, item: Mapping[str, Any], scaled_object: ScaledObject, flags: QueueFlags) -> ScalingSpec:
    raw = mappings(part(item, "spec").get("triggers"))
    own = scaled_object.triggers if recognized_triggers(raw) else ()
    queue_triggers, others = _queue_triggers(raw, {one.number for one in scaled_object.triggers}, flags)
    if not own and not queue_triggers:
        raise SimulationError(
            f"{title}: no trigger of this scaler: it needs one of type external-push or external with metadata such as "
            "profile: llm" + _queue_hint(scaled_object.others, flags)
        )
    fallback = scaled_object.fallback
    return ScalingSpec(
        title=title,
        triggers=tuple(
            TriggerSpec(one.metadata, one.value_type, one.name, raw[one.number - 1].get("type") == _PUSH) for one in own
        ),
        others=others,
        min_replicas=scaled_object.min_replicas,
        max_replicas=scaled_object.max_replicas,
        idle_replicas=scaled_object.idle_replicas,
        cooldown_seconds=scaled_object.cooldown_seconds,
        polling_seconds=_seconds(item, "pollingInterval", POLLING_SECONDS),
        behavior=scaled_object.behavior,
        tolerances=scaled_object.tolerances,
        fallback=None if fallback is None else FallbackSpec(fallback.failures, fallback.replicas, fallback.behavior),
        formula=scaled_object.formula,
        initial_cooldown_seconds=_seconds(item, "initialCooldownPeriod", 0.0),
        queue_triggers=queue_triggers,
        jobs=_jobs(title, item, scaled_object, has_own=bool(own)),
    )


def _queue_triggers(
    raw: Sequence[Mapping[str, Any]], own: Collection[int], flags: QueueFlags
) -> tuple[tuple[QueueTrigger, ...], tuple[str, ...]]:
    """Return the triggers on the length of the queue, and the types of those that are not simulated."""
    found, others = [], []
    for number, trigger in enumerate(raw, start=1):
        kind = str(trigger.get("type", "?"))
        if number in own:
            continue
        one = trigger_of(number, trigger)
        if not flags.is_queue or not is_queue_trigger(kind, one.metadata):
            others.append(kind)
            continue
        found.append(
            queue_trigger(
                kind,
                one.metadata,
                metric_type=one.value_type,
                name=one.name,
                counts_unfinished=flags.counts_unfinished,
            )
        )
    return tuple(found), tuple(others)


def _jobs(title: str, item: Mapping[str, Any], scaled_object: ScaledObject, *, has_own: bool) -> JobSpec | None:
    rules = scaled_object.jobs
    if rules is None:
        return None
    problem = (rules if has_own else replace(rules, triggers=1)).problem()
    if problem:
        raise SimulationError(f"{title}: {problem}")
    completions = part(part(item, "spec"), "jobTargetRef").get("completions")
    is_number = isinstance(completions, int) and not isinstance(completions, bool)
    return JobSpec(rules, completions if is_number else None)


def _queue_hint(others: Sequence[str], flags: QueueFlags) -> str:
    kinds = [kind for kind in others if kind in QUEUE_SCALERS]
    return f"; --queue simulates the length of a queue ({', '.join(kinds)})" if kinds and not flags.is_queue else ""


def _seconds(item: Mapping[str, Any], key: str, default: float) -> float:
    value = part(item, "spec").get(key)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _remarks(title: str, scaled_object: ScaledObject, spec: ScalingSpec) -> Iterator[str]:
    if spec.others:
        types = ", ".join(spec.others)
        yield (
            f"{title}: the triggers of other scalers ({types}) are taken as constant: they are inactive and never ask "
            "for more replicas" + ("" if spec.queue_triggers else _queue_hint(spec.others, QueueFlags()))
        )
    if spec.jobs is not None and any(trigger.is_push for trigger in spec.triggers):
        yield f"{title}: KEDA ignores the streams of external-push for a ScaledJob: its triggers are polled"
    if scaled_object.paused:
        yield f"{title}: KEDA is paused by the annotation {scaled_object.paused}; it is simulated as if it were not"
    for remark in scaled_object.remarks:
        yield f"{title}: {remark}"
