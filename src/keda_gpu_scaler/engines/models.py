# SPDX-License-Identifier: Apache-2.0
"""Selects the series of some models of a page, and counts the models that are added up.

Law: a series that names no model belongs to none. A page does not say which model is an ensemble.
"""

from collections.abc import Collection, Sequence

from keda_gpu_scaler.core.trigger.engines import Engine
from keda_gpu_scaler.engines.exposition import SamplesByName, SeriesSample
from keda_gpu_scaler.engines.metric_map import MetricMap


def of_models(samples: SamplesByName, labels: Sequence[str], models: Collection[str]) -> SamplesByName:
    """Return the samples of these models. Names without a sample of them are left out.

    Args:
        samples: the samples of a page.
        labels: the labels that may name the model.
        models: the models.
    """
    found = ((name, [it for it in of_name if _model_of(it, labels) in models]) for name, of_name in samples.items())
    return {name: own for name, own in found if own}


def summed_models(metric_map: MetricMap, engine: Engine, samples: SamplesByName) -> int:
    """Return how many models have served requests, of an engine whose models may count requests of others; else 0."""
    if not engine.has_ensembles:
        return 0
    names = {source.selector.name for source in metric_map.requests_total}
    served = (it for name in names for it in samples.get(name, ()) if it.value > 0)
    models = {_model_of(it, engine.model_labels) for it in served}
    return len(models) if len(models) > 1 else 0


def _model_of(sample: SeriesSample, labels: Sequence[str]) -> str:
    return next((sample.labels[label] for label in labels if label in sample.labels), "")
