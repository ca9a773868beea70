# SPDX-License-Identifier: Apache-2.0
"""The forms of the values in a trigger's metadata, for programs that check them without the parser.

Law: the parser decides. A test compares this table with the parser, key by key.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType

from keda_gpu_scaler.core.aggregation import AGGREGATIONS
from keda_gpu_scaler.core.state.fleet import MAX_WINDOW_SECONDS
from keda_gpu_scaler.core.trigger.demand_params import MAX_DEMAND_HOLD_SECONDS
from keda_gpu_scaler.core.trigger.demand_presets import DEMANDS
from keda_gpu_scaler.core.trigger.engine_params import FORECASTS
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.trigger.metadata import MAX_NUMBER
from keda_gpu_scaler.core.trigger.metrics import EngineMetric, Metric
from keda_gpu_scaler.core.trigger.parser import (
    MAX_POLL_INTERVAL_SECONDS,
    MAX_STARTUP_GRACE_SECONDS,
    METRIC_TYPES,
    MIN_TARGET,
    PARAMETERS,
    REPORTS,
    SCOPES,
)
from keda_gpu_scaler.core.trigger.profiles import PROFILES

FULL_PERCENT = 100.0
NUMBER_PATTERN = r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,3})?"
"""A number as the parser reads it, in the syntax that Python, ECMAScript and RE2 share."""


@dataclass(frozen=True, slots=True)
class NumberBounds:
    """The least and the greatest number that a key may have."""

    at_least: float
    at_most: float = MAX_NUMBER


_SECONDS = NumberBounds(0, MAX_STARTUP_GRACE_SECONDS)
_TARGET = NumberBounds(MIN_TARGET)

NUMBERS: MappingProxyType[str, NumberBounds] = MappingProxyType(
    {
        "targetValue": _TARGET,
        "targetGpuUtilization": _TARGET,
        "targetMemoryUtilization": _TARGET,
        "activationThreshold": NumberBounds(0),
        "startupGraceSeconds": _SECONDS,
        "missingHoldSeconds": _SECONDS,
        "minCoverage": NumberBounds(0, 1),
        "pollIntervalSeconds": NumberBounds(1, MAX_POLL_INTERVAL_SECONDS),
        "windowSeconds": NumberBounds(0, MAX_WINDOW_SECONDS),
        "quantile": NumberBounds(0.001, 0.999),
        "queueTarget": NumberBounds(0.001),
        "kvTarget": NumberBounds(0.01, 1),
        "maxSeqs": NumberBounds(1, 1e6),
        "itlTargetMs": NumberBounds(1, 60_000),
        "itlFloorMs": NumberBounds(0.1, 60_000),
        "headroom": NumberBounds(1, 3),
        "drainSeconds": NumberBounds(5, 3600),
        "demandThreshold": NumberBounds(0),
        "demandHoldSeconds": NumberBounds(0, MAX_DEMAND_HOLD_SECONDS),
        "demandPerReplica": NumberBounds(0.001),
    }
)
"""The keys whose value is a number, with its bounds."""

_CHOICES: MappingProxyType[str, Iterable[str]] = MappingProxyType(
    {
        "profile": PROFILES,
        "metricType": METRIC_TYPES,
        "scope": SCOPES,
        "aggregation": AGGREGATIONS,
        "report": REPORTS,
        "engine": ENGINES,
        "engineScheme": ("http", "https"),
        "forecast": FORECASTS,
        "demand": DEMANDS,
    }
)


def choices() -> dict[str, tuple[str, ...]]:
    """Return the keys whose value is one of several words, with these words.

    It is a function, because the tables of engines and of sources of demand are filled after this module is imported.
    """
    words = {key: tuple(str(word) for word in listed) for key, listed in _CHOICES.items()}
    return {**words, "engine": ("auto", *words["engine"])}


def own_keys() -> tuple[str, ...]:
    """Return every key of this scaler."""
    return tuple(parameter.key for parameter in PARAMETERS)


def is_at_most_full(metric: Metric | EngineMetric) -> bool:
    """Whether no device and no engine reports more than 100 % of a metric.

    ``load`` and ``saturation`` count waiting requests too, and may be above 100.
    """
    is_open_ended = isinstance(metric, EngineMetric) and metric.falls_back_to_devices
    return metric.unit == "%" and not is_open_ended


def metrics_at_most_full() -> tuple[str, ...]:
    """Return the values of ``metricType`` that are never above 100."""
    return tuple(name for name, metric in METRIC_TYPES.items() if is_at_most_full(metric))
