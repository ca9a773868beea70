# SPDX-License-Identifier: Apache-2.0
"""Selects the series of some models of a page, and finds the models that are added up.

Law: a series that names no model belongs to none. A page does not say which model is an ensemble.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from keda_gpu_scaler.core.trigger.engines import Engine
from keda_gpu_scaler.engines.bound_readings import BoundMetricMap, NumberedSeries, SeriesByName, in_steps
from keda_gpu_scaler.engines.metric_map import MetricMap
from keda_gpu_scaler.engines.series_text import series_labels
from keda_gpu_scaler.engines.steps import Steps


def bind_models(
    metric_map: MetricMap, engine: Engine, series: SeriesByName, models: Collection[str]
) -> Steps[BoundMetricMap]:
    """Find the series of a page from which the readings of some models are taken.

    Args:
        metric_map: what the engine exports.
        engine: the engine whose page this is.
        series: the series of the page.
        models: the models; empty where every model counts.
    """
    if models:
        own = yield from _of_models(series, engine.model_labels, models)
        return replace((yield from metric_map.bind(own, engine.name)), has_model=bool(own))
    served = (yield from _served(metric_map, engine, series)) if engine.has_ensembles else ()
    return replace((yield from metric_map.bind(series, engine.name)), served=served)


def _of_models(series: SeriesByName, labels: Sequence[str], models: Collection[str]) -> Steps[SeriesByName]:
    """Return the series of these models. Names without a series of them are left out."""
    own: dict[str, list[NumberedSeries]] = {}
    for name, of_name in series.items():
        if found := (
            yield from in_steps(of_name, lambda it: it if _model_of(series_labels(it[1]), labels) in models else None)
        ):
            own[name] = found
    return own


def _served(metric_map: MetricMap, engine: Engine, series: SeriesByName) -> Steps[tuple[tuple[int, str], ...]]:
    """Return the series that count the requests of a model, of an engine whose models may count requests of others."""
    served: list[tuple[int, str]] = []
    for name in {source.selector.name for source in metric_map.requests_total}:
        served += yield from in_steps(
            series.get(name, ()), lambda it: (it[0], _model_of(series_labels(it[1]), engine.model_labels))
        )
    return tuple(served)


def _model_of(labels: Mapping[str, str], names: Sequence[str]) -> str:
    return next((labels[name] for name in names if name in labels), "")
