# SPDX-License-Identifier: Apache-2.0
"""Ollama, which reports the models that are loaded and no load.

Law: a loaded model is not a running request.

Facts are from Ollama's documentation ("List Running Models", GET /api/ps): a list under ``models``, each with its name.
``load`` cannot be computed: neither requests nor tokens are reported.
"""

from collections.abc import Mapping

from keda_gpu_scaler.core.trigger.engines import Engine, LoadRung
from keda_gpu_scaler.engines.exposition import SeriesSample
from keda_gpu_scaler.engines.guide import EngineGuide

LOADED = "ollama_loaded_models"
"""The series made of a page: the number of loaded models, with the model's name in the label ``model``."""

ENGINE = Engine(
    "ollama",
    "Ollama",
    11434,
    detection_order=90,
    path="/api/ps",
    remark="reports which models are loaded, but neither its queue nor its KV cache",
    reports_queue=False,
    reports_kv_cache=False,
    load_rung=LoadRung.NONE,
)

GUIDE = EngineGuide(
    switch_on="Nothing. There are no Prometheus metrics.",
    traps=(
        "Ollama reports which models are loaded, but neither requests nor a queue, so no metric of engines has a "
        "value. Use GPU utilisation, as [the example](../../../deploy/examples/ollama.yaml) does.",
        "A loaded model is not a running request. Ollama unloads it after `OLLAMA_KEEP_ALIVE`.",
    ),
    reads='The loaded models, as the series `ollama_loaded_models{model="NAME"}`, which `engineMetric` can select.',
)


def read_json(page: Mapping[str, object]) -> tuple[SeriesSample, ...] | None:
    """Read a page as series; None where the page is not Ollama's."""
    models = page.get("models")
    if not isinstance(models, list) or len(page) != 1:
        return None
    loaded: dict[str, int] = {}
    for model in models:
        name = model.get("name") if isinstance(model, Mapping) else None
        if not isinstance(name, str):
            return None
        loaded[name] = loaded.get(name, 0) + 1
    # Without any loaded model the total is still known: it is 0.
    return tuple(SeriesSample(LOADED, {"model": name}, count) for name, count in loaded.items()) or (
        SeriesSample(LOADED, {}, 0.0),
    )


def write_json(samples: tuple[SeriesSample, ...]) -> Mapping[str, object]:
    """Return the page of these series: the names of the models alone."""
    names = [sample.labels["model"] for sample in samples if "model" in sample.labels for _ in range(int(sample.value))]
    return {"models": [{"name": name} for name in names]}
