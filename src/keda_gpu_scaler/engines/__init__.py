# SPDX-License-Identifier: Apache-2.0
"""Inference engines, one file each; importing this package registers every engine.

The first read of the table of engines imports it (``core/trigger/engines.py``).
An engine's file defines ``ENGINE``, and either ``METRIC_MAP``, where the engine exports Prometheus series, or
``read_json`` and ``write_json``, where it serves JSON. ``GUIDE`` has the hand-written parts of its page in the guide.
No other file has to name the engine.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType, ModuleType

from keda_gpu_scaler.core.trigger.engines import Engine, EngineRegistrationError, register_engine
from keda_gpu_scaler.engines.exposition import SeriesSample
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap

JsonReader = Callable[[Mapping[str, object]], tuple[SeriesSample, ...] | None]
"""Reads a JSON page as series; returns None where the page is not this engine's."""

JsonWriter = Callable[[tuple[SeriesSample, ...]], Mapping[str, object]]
"""Makes the smallest page from which ``JsonReader`` reads these series."""

_SHARED_MODULES = frozenset(
    {
        "bound_readings",
        "dynamo_queue",
        "exposition",
        "guide",
        "interceptor",
        "layout_store",
        "metric_map",
        "models",
        "page_layout",
        "page_writer",
        "prometheus_text",
        "scrape_parser",
        "series_selection",
        "series_text",
        "steps",
    }
)


def _engine_modules() -> Iterator[tuple[Engine, ModuleType]]:
    for info in pkgutil.iter_modules(__path__):
        if info.name in _SHARED_MODULES:
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        if not hasattr(module, "ENGINE"):
            raise EngineRegistrationError(f"{module.__name__}: ENGINE is missing; an engine's file must define it")
        if hasattr(module, "METRIC_MAP") == hasattr(module, "read_json"):
            raise EngineRegistrationError(f"{module.__name__}: define METRIC_MAP or read_json, and only one of them")
        if hasattr(module, "read_json") != hasattr(module, "write_json"):
            raise EngineRegistrationError(f"{module.__name__}: define write_json beside read_json")
        yield module.ENGINE, module


def _register_all() -> dict[str, ModuleType]:
    found = sorted(_engine_modules(), key=lambda pair: pair[0].detection_order)
    for engine, _ in found:
        register_engine(engine)
    return {engine.name: module for engine, module in found}


_MODULES = _register_all()
METRIC_MAPS: Mapping[str, MetricMap] = MappingProxyType(
    {name: module.METRIC_MAP for name, module in _MODULES.items() if hasattr(module, "METRIC_MAP")}
)
"""What each engine exports, by the engine's name, in detection order. Engines that serve JSON are not in it."""
JSON_WRITERS: Mapping[str, JsonWriter] = MappingProxyType(
    {name: module.write_json for name, module in _MODULES.items() if hasattr(module, "write_json")}
)
"""How the series of each engine that serves JSON become its page again, by the engine's name."""
JSON_READERS: Mapping[str, JsonReader] = MappingProxyType(
    {name: module.read_json for name, module in _MODULES.items() if hasattr(module, "read_json")}
)
"""How the JSON page of each engine that serves one is read, by the engine's name, in detection order."""
GUIDES: Mapping[str, EngineGuide] = MappingProxyType(
    {name: module.GUIDE for name, module in _MODULES.items() if hasattr(module, "GUIDE")}
)
"""The hand-written parts of each engine's page in the guide, by the engine's name, in detection order."""
