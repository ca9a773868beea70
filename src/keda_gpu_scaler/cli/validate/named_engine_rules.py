# SPDX-License-Identifier: Apache-2.0
"""Checks the engine and the port that a trigger names, against its metric and its containers.

Law: a named engine is never replaced by GPU utilisation, so a wrong name means that the trigger never has a value.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from keda_gpu_scaler.cli.validate.engine_images import ManifestWorkload
from keda_gpu_scaler.cli.validate.findings import Severity
from keda_gpu_scaler.cli.validate.parsed_metadata import parsed_metadata
from keda_gpu_scaler.cli.validate.problem import Problem
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.engines import ENGINES, LoadRung
from keda_gpu_scaler.core.trigger.metrics import EngineMetric
from keda_gpu_scaler.engines import METRIC_MAPS

_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "saturation": ("waiting", "running", "kv_cache_ratio"),
        "queue_depth": ("waiting", "deferred"),
        "running_requests": ("running",),
        "kv_cache_usage": ("kv_cache_ratio",),
        "queue_wait_ms": ("queue_wait_seconds_total",),
        "request_rate": ("requests_total",),
        "token_rate": ("tokens_total",),
        "ttft_ms": ("first_token",),
    }
)
"""The fields of ``MetricMap`` of which one at least is needed for a reading. ``load`` has its rung instead."""


def check_named_engines(
    triggers: Mapping[int, Mapping[Any, Any]], target: ManifestWorkload | None
) -> Iterator[Problem]:
    """Yield the problems of the engines that triggers name.

    Args:
        triggers: the metadata of this scaler's triggers by their index.
        target: the scale target, if it runs an LLM engine and its manifest is known.
    """
    for number, metadata in triggers.items():
        trigger = parsed_metadata(metadata)
        if trigger is None or trigger.engine is None or not isinstance(trigger.metric, EngineMetric):
            continue
        path = ("spec", "triggers", number, "metadata")
        key = next((it for it in ("engine", "metricType", "profile") if it in metadata), "engine")
        name = trigger.engine.engine
        if name in ENGINES and not _exports(name, trigger.metric.reading):
            yield Problem(
                Severity.WARNING, (*path, key),
                f"metadata.{key}: {ENGINES[name].title} does not export what {trigger.metric.name} needs, so the "
                "trigger never has a value; set another metricType, such as gpu_utilization",
            )  # fmt: skip
        elif target is not None and not trigger.engine.url:
            # A page counts for the series that engineMetric selects, whatever engine it is of.
            if name in ENGINES and not trigger.engine.selectors and not _may_run(name, target):
                yield _other_engine(path, key, metadata, name, target)
            if (port_problem := _undeclared_port(path, trigger.engine, target)) is not None:
                yield port_problem


def _exports(name: str, reading: str) -> bool:
    """Whether the pages of an engine may have a reading, also by an engine behind it."""
    names = (name, *ENGINES[name].behind)
    if reading == "load":
        return any(ENGINES[one].load_rung is not LoadRung.NONE for one in names)
    fields = _PARTS.get(reading)
    return fields is None or any(
        getattr(METRIC_MAPS[one], field) for one in names if one in METRIC_MAPS for field in fields
    )


def _may_run(name: str, target: ManifestWorkload) -> bool:
    """Whether the containers may run an engine. One without known images may run in the image of another one."""
    if not _product(name):
        return True
    possible = {name, *ENGINES[name].behind, *(other for other in ENGINES if name in ENGINES[other].behind)}
    return not target.products.isdisjoint(map(_product, possible))


def _product(name: str) -> str:
    containers = ENGINES[name].preallocating_containers
    return containers.product if containers is not None else ""


def _other_engine(
    path: tuple[str | int, ...], key: str, metadata: Mapping[Any, Any], name: str, target: ManifestWorkload
) -> Problem:
    running = [other for other in ENGINES if _product(other) in target.products]
    return Problem(
        Severity.WARNING, (*path, key),
        f"metadata.{key}: Invalid value: {quoted(str(metadata.get(key)), 80)}: the containers of {target.kind} "
        f"{target.name} run {' and '.join(sorted(target.products))}. A page of another engine than {name} does not "
        f"count, so the trigger never has a value; {' or '.join(f'set engine: {one}' for one in running)}",
    )  # fmt: skip


def _undeclared_port(path: tuple[str | int, ...], query: EngineQuery, target: ManifestWorkload) -> Problem | None:
    if not query.ports or not target.ports or not target.ports.isdisjoint(query.ports):
        return None
    declared = ", ".join(map(str, sorted(target.ports)))
    return Problem(
        Severity.INFO, (*path, "enginePort"),
        f"metadata.enginePort: no container of {target.kind} {target.name} declares "
        f"{'this port' if len(query.ports) == 1 else 'one of these ports'}; they declare {declared}. Only enginePort "
        "is tried: correct it if the engine does not listen there",
    )  # fmt: skip
