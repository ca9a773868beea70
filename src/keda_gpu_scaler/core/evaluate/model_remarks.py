# SPDX-License-Identifier: Apache-2.0
"""Remarks about the models of an engine's page, which are appended to a sentence or are empty."""

from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.types import EngineSample


def missing_model_remark(sample: EngineSample) -> str:
    """Return why the models that ``engineModel`` selects have no readings."""
    engine = ENGINES.get(sample.engine)
    if sample.has_model or engine is None:
        return ""
    if not engine.model_labels:
        return "; it names no models in its series: remove engineModel"
    return f"; no series has a model of engineModel in its label {' or '.join(engine.model_labels)}"


def ensemble_remark(sample: EngineSample) -> str:
    """Return a remark about models that may be counted twice."""
    if not sample.summed_models:
        return ""
    return (
        f"; its {sample.summed_models} models are added up, and an ensemble counts what its steps count: select one of "
        "them with engineModel"
    )
