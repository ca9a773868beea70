# SPDX-License-Identifier: Apache-2.0
"""Reads the ScaledObjects of a simulation, and makes the variants that ``--set`` asks for.

Law: a field that is not given has KEDA's default, as in ``explain``.
"""

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from keda_gpu_scaler.cli.explain.scaledobject import ScaledObject, scaled_object_of
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.own_trigger import recognized_triggers
from keda_gpu_scaler.kube.parse import mappings, part
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.scenario import POLLING_SECONDS, FallbackSpec, ScalingSpec, TriggerSpec

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


def read_specs(paths: Sequence[str], settings: Sequence[FieldSetting]) -> tuple[list[ScalingSpec], list[str]]:
    """Return each ScaledObject of some files with each combination of the settings, and sentences about them.

    Raises:
        SimulationError: a file cannot be read, or has no ScaledObject with a trigger of this scaler.
    """
    items = [(path, item) for path in paths for item in _scaled_objects(path)]
    names = [_name(item) for _, item in items]
    specs: list[ScalingSpec] = []
    remarks: list[str] = []
    for (path, item), name in zip(items, names, strict=True):
        title = name if names.count(name) == 1 else f"{Path(path).stem}:{name}"
        for changed, suffix in _variants(item, settings):
            scaled_object = scaled_object_of(changed)
            specs.append(_spec(f"{title} {suffix}".strip(), changed, scaled_object))
        remarks += _remarks(title, scaled_object)
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
    found = [item for item in items if item.get("kind") == "ScaledObject"]
    if not found and any(item.get("kind") == "ScaledJob" for item in items):
        raise SimulationError(f"--file: {path}: a ScaledJob is not simulated: give a ScaledObject")
    if not found:
        raise SimulationError(f"--file: {path} has no ScaledObject")
    return found


def _items(document: object) -> list[Mapping[str, Any]]:
    if not isinstance(document, Mapping):
        return []
    items = document.get("items")
    return mappings(items if isinstance(items, list) else [document])


def _name(item: Mapping[str, Any]) -> str:
    metadata = part(item, "metadata")
    return "/".join(str(metadata[key]) for key in ("namespace", "name") if metadata.get(key)) or "scaledobject"


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
        own = recognized_triggers(triggers)
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


def _spec(title: str, item: Mapping[str, Any], scaled_object: ScaledObject) -> ScalingSpec:
    raw = mappings(part(item, "spec").get("triggers"))
    if not recognized_triggers(raw):
        raise SimulationError(
            f"{title}: no trigger of this scaler: it needs one of type external-push or external with metadata such as "
            "profile: llm"
        )
    fallback = scaled_object.fallback
    return ScalingSpec(
        title=title,
        triggers=tuple(
            TriggerSpec(one.metadata, one.value_type, one.name, raw[one.number - 1].get("type") == _PUSH)
            for one in scaled_object.triggers
        ),
        others=scaled_object.others,
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
    )


def _seconds(item: Mapping[str, Any], key: str, default: float) -> float:
    value = part(item, "spec").get(key)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _remarks(title: str, scaled_object: ScaledObject) -> Iterator[str]:
    if scaled_object.others:
        types = ", ".join(scaled_object.others)
        yield (
            f"{title}: the triggers of other scalers ({types}) are taken as constant: they are inactive and never ask "
            "for more replicas"
        )
    if scaled_object.paused:
        yield f"{title}: KEDA is paused by the annotation {scaled_object.paused}; it is simulated as if it were not"
    for remark in scaled_object.remarks:
        yield f"{title}: {remark}"
