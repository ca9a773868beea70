# SPDX-License-Identifier: Apache-2.0
"""What does Ollama tell? Which models are loaded, and nothing of how busy they are.

The law of this module: a model that is loaded is no request that runs.

Facts are from Ollama's documentation ("List Running Models", GET /api/ps): a list under ``models``, each with its name.
"""

from collections.abc import Mapping

from keda_gpu_scaler.engines.prometheus_text import SeriesSample

LOADED = "ollama_loaded_models"
"""The series that a page comes to: how many models are loaded, by their name in the label ``model``."""


def loaded_models(page: Mapping[str, object]) -> tuple[SeriesSample, ...] | None:
    """Read a page as series; None where it is no page of Ollama's."""
    models = page.get("models")
    if not isinstance(models, list) or len(page) != 1:
        return None
    found: dict[str, int] = {}
    for model in models:
        name = model.get("name") if isinstance(model, Mapping) else None
        if not isinstance(name, str):
            return None
        found[name] = found.get(name, 0) + 1
    # Without any the total is known all the same.
    return tuple(SeriesSample(LOADED, {"model": name}, count) for name, count in found.items()) or (
        SeriesSample(LOADED, {}, 0.0),
    )
