# SPDX-License-Identifier: Apache-2.0
"""Known models of engines, by name, and those that a file describes.

Two are measured: the coefficients of Llama 3.3 70B in FP4 on B200 were fitted to the medians of the time per token at
16 to 256 clients that InferenceX publishes (github.com/SemiAnalysisAI/InferenceX, experimental/multiturn; vLLM).

The others are computed from published figures. Each iteration reads the weights and the KV cache once from the memory,
at 75 % of its bandwidth. Each token takes two operations for each parameter, at half of the peak rate without sparsity.
Host and kernel launches take 20 us a request, and with tensor parallelism the two all-reduces of a layer 20 us each.
The KV cache has 90 % of the memory less the weights and 2 GB a GPU. The parameters, layers and heads are from the
models' config.json (Llama 3.1, meta-llama on Hugging Face). Bandwidth, memory and peak rates are from the vendors' data
sheets: NVIDIA H100 SXM (3.35 TB/s, 80 GB, 989 TFLOPS in BF16), A100 SXM (2.04 TB/s, 80 GB, 312), L4 (0.3 TB/s, 24 GB,
121), and AMD MI300X (5.3 TB/s, 192 GB, 1307). A computed model is right within a third; fit your own where it matters.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from keda_gpu_scaler.simulate.engine_model import EngineModel, SimulationError

DEFAULT_PRESET = "llama-3.1-8b-h100"

_BANDWIDTH_SHARE, _PEAK_SHARE, _MEMORY_SHARE = 0.75, 0.5, 0.9
_HOST_SECONDS = 20e-6
_ALL_REDUCE_SECONDS = 20e-6
_WORKSPACE_BYTES = 2e9
_COMPUTED = "computed from the data sheet of the GPU and the shape of the model; not measured"
_MEASURED = "fitted to InferenceX's published multi-turn sweep of vLLM"


@dataclass(frozen=True, slots=True)
class _Gpu:
    name: str
    bytes_per_second: float
    memory_bytes: float
    flops: float


@dataclass(frozen=True, slots=True)
class _Shape:
    name: str
    parameters: float
    layers: int
    kv_heads: int
    head_size: int = 128


_H100 = _Gpu("h100", 3.35e12, 80e9, 989e12)
_A100 = _Gpu("a100", 2.04e12, 80e9, 312e12)
_L4 = _Gpu("l4", 0.3e12, 24e9, 121e12)
_MI300X = _Gpu("mi300x", 5.3e12, 192e9, 1307e12)
_LLAMA_8B = _Shape("llama-3.1-8b", 8.03e9, 32, 8)
_LLAMA_70B = _Shape("llama-3.1-70b", 70.6e9, 80, 8)


def _computed(shape: _Shape, gpu: _Gpu, gpus: int = 1) -> EngineModel:
    """Compute a model in BF16 on one GPU or several with tensor parallelism."""
    weights = 2 * shape.parameters
    bandwidth = _BANDWIDTH_SHARE * gpu.bytes_per_second * gpus
    token_seconds = 2 * shape.parameters / (_PEAK_SHARE * gpu.flops * gpus)
    kv_bytes = 2 * 2 * shape.layers * shape.kv_heads * shape.head_size
    free = gpus * (_MEMORY_SHARE * gpu.memory_bytes - _WORKSPACE_BYTES) - weights
    return EngineModel(
        name=f"{shape.name}-{gpu.name}" + (f"-tp{gpus}" if gpus > 1 else ""),
        iteration_seconds=weights / bandwidth + (2 * shape.layers * _ALL_REDUCE_SECONDS if gpus > 1 else 0.0),
        request_seconds=token_seconds + _HOST_SECONDS,
        prompt_token_seconds=token_seconds,
        kv_token_seconds=kv_bytes / bandwidth,
        kv_tokens=int(free / kv_bytes),
        gpus=gpus,
        source=_COMPUTED,
    )


PRESETS: MappingProxyType[str, EngineModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            _computed(_LLAMA_8B, _H100),
            _computed(_LLAMA_8B, _A100),
            _computed(_LLAMA_8B, _L4),
            _computed(_LLAMA_8B, _MI300X),
            _computed(_LLAMA_70B, _H100, 4),
            _computed(_LLAMA_70B, _A100, 4),
            _computed(_LLAMA_70B, _MI300X),
            EngineModel(
                "llama-3.3-70b-fp4-b200", 12.6e-3, 0.23e-3, 39e-6, 2.05e-8, 700_000, overhead_seconds=0.06,
                source=_MEASURED,
            ),
            EngineModel(
                "llama-3.3-70b-fp4-b200-tp8", 7.6e-3, 0.108e-3, 5.8e-6, 2.6e-9, 7_600_000, overhead_seconds=0.06,
                gpus=8, source=_MEASURED,
            ),
        )
    }
)  # fmt: skip
"""Every known model by its name."""


def engine_model(name: str) -> EngineModel:
    """Return a known model, or the one that a JSON file describes.

    Raises:
        SimulationError: there is none of this name, or the file does not describe one.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if not path.is_file():
        raise SimulationError(
            f"--engine-model: {name} is neither a file nor one of {', '.join(PRESETS)}; `keda-gpu-scaler simulate fit` "
            "makes such a file from a recording"
        )
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SimulationError(f"--engine-model: cannot read {path}: {error}") from error
    return _from_json(found, path)


def model_json(model: EngineModel) -> str:
    """Return a model as the JSON that ``engine_model`` reads."""
    return json.dumps(asdict(model), indent=2) + "\n"


def _from_json(found: Any, path: Path) -> EngineModel:
    known = {field.name: field.type for field in fields(EngineModel)}
    if not isinstance(found, Mapping) or (unknown := sorted(found.keys() - known.keys())):
        what = "must be a JSON object" if not isinstance(found, Mapping) else f"unknown field {unknown[0]}"
        raise SimulationError(f"--engine-model: {path}: {what}; its fields are {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, value in found.items():
        is_text = name in ("name", "source")
        if is_text is not isinstance(value, str) or isinstance(value, bool):
            raise SimulationError(f"--engine-model: {path}: {name}: must be a {'text' if is_text else 'number'}")
        values[name] = int(value) if known[name] is int else value
    try:
        return EngineModel(**values)
    except TypeError as error:
        raise SimulationError(f"--engine-model: {path}: a field is missing: {error}") from error
