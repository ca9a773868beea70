# SPDX-License-Identifier: Apache-2.0
"""Prepares a simulation: the traffic, the replica and the circumstances, with what is assumed of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keda_gpu_scaler.cli.simulate.prometheus_range import ask_prometheus
from keda_gpu_scaler.cli.simulate.workers import Setup
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.simulate.engine_model import EngineModel, ReplicaModel, ServiceModel, SimulationError
from keda_gpu_scaler.simulate.engine_samples import ASSUMED_ENGINE, ASSUMED_SERVICE
from keda_gpu_scaler.simulate.gateway import Router
from keda_gpu_scaler.simulate.presets import engine_model
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.scaler import demand_sentence
from keda_gpu_scaler.simulate.scenario import Circumstances, Objective, ScalingSpec
from keda_gpu_scaler.simulate.simulation import initial_replicas
from keda_gpu_scaler.simulate.traffic.assembly import fitted_to, scaled
from keda_gpu_scaler.simulate.traffic.engine_history import is_recording
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.recording import traffic_of_recording
from keda_gpu_scaler.simulate.traffic.request_log import read_request_log
from keda_gpu_scaler.simulate.traffic.shapes import SHAPES, traffic_of_shape

MOST_SECONDS = 8 * 86400.0


@dataclass(frozen=True, slots=True)
class PreparedSimulation:
    """What is simulated, and the sentences about it."""

    setup: Setup
    title: str
    assumptions: tuple[str, ...]
    remarks: tuple[str, ...]


def prepare(given: Mapping[str, Any], specs: Sequence[ScalingSpec]) -> PreparedSimulation:
    """Prepare a simulation by the flags of the command.

    Raises:
        TriggerError: the metadata of a trigger cannot be used.
        SimulationError: the traffic, the model or a number cannot be used.
    """
    model = _model(given)
    traffic = scaled(_traffic(given), given["scale"], given["seed"])
    if traffic.seconds > MOST_SECONDS:
        raise SimulationError(
            f"--traffic: {traffic.title} covers {traffic.seconds / 86400:.0f} days: at most "
            f"{MOST_SECONDS / 86400:.0f} are simulated: take a part of it"
        )
    if isinstance(model, EngineModel):
        traffic = fitted_to(traffic, model)
    circumstances = Circumstances(
        objective=Objective(given["slo_ttft"], given["slo_token_ms"] / 1000),
        cold_start_seconds=_range(given["cold_start"]),
        node_start_seconds=given["node_start"],
        router=Router(given["router"]),
        seed=given["seed"],
    )
    initial = initial_replicas(traffic, model) if given["initial"] is None else given["initial"]
    setup = Setup(traffic, model, circumstances, initial, given["goal"])
    return PreparedSimulation(
        setup,
        _title(traffic, model),
        (*traffic.assumptions, *_assumptions(given, specs, setup)),
        traffic.remarks,
    )


def _traffic(given: Mapping[str, Any]) -> RequestTraffic:
    name = given["traffic"]
    lengths = Lengths(given["prompt_tokens"], given["answer_tokens"], given["length_spread"], given["seed"])
    if given["prometheus"]:
        return ask_prometheus(given["prometheus"], given["query"], given["start"], given["end"], lengths)
    path = Path(name)
    if name in SHAPES or not path.exists():
        return traffic_of_shape(name, given["rate"], lengths, given["minutes"])
    return traffic_of_recording(path, lengths) if is_recording(path) else read_request_log(path, lengths)


def _model(given: Mapping[str, Any]) -> ReplicaModel:
    if given["service_time"] is not None:
        return ServiceModel(
            "--service-time", given["service_time"], given["batch"], given["instances"], gpus=given["gpus"] or 1
        )
    model = engine_model(given["engine_model"])
    changes = {name: given[name] for name in ("max_seqs", "gpus") if given[name] is not None}
    return replace(model, **changes) if changes else model


def _range(text: str) -> tuple[float, float]:
    low, dash, high = text.partition("-")
    try:
        found = float(low), float(high if dash else low)
    except ValueError:
        found = (-1.0, -1.0)
    if not 0 <= found[0] <= found[1] <= 86400:
        raise SimulationError(f"--cold-start: Invalid value: {quoted(text, 40)}: must be seconds, as 90 or 60-120")
    return found


def _title(traffic: RequestTraffic, model: ReplicaModel) -> str:
    return (
        f"{len(traffic)} requests in {traffic.seconds / 3600:.2f} h of {traffic.title}, on replicas of {model.name}: "
        f"{len(traffic) / traffic.seconds:.3g} requests/s, {_mean(traffic.prompts):.0f} prompt and "
        f"{_mean(traffic.answers):.0f} answer tokens on average"
    )


def _mean(values: Sequence[int]) -> float:
    return sum(values) / max(1, len(values))


def _assumptions(given: Mapping[str, Any], specs: Sequence[ScalingSpec], setup: Setup) -> Iterator[str]:
    model, circumstances = setup.model, setup.circumstances
    yield f"the replica {model.name}: {model.describe()}" + (f" ({model.source})" if model.source else "")
    low, high = circumstances.cold_start_seconds
    span = f"{low:g} s" if low == high else f"{low:g} to {high:g} s"
    node = ", there is always a node" if circumstances.node_start_seconds is None else ""
    yield f"a pod is ready {span} after its creation (--cold-start){node}"
    origin = "enough for the first two minutes at 70 % of their work" if given["initial"] is None else "--initial"
    yield f"{setup.initial} replicas are ready at the start ({origin}), within the sizes of the ScaledObject"
    yield (
        f"the gateway sends each request to a replica by {circumstances.router} (--router), and holds it while none is "
        "ready"
    )
    triggers = [parse_trigger(trigger.metadata) for spec in specs for trigger in spec.triggers]
    if any(trigger.engine is not None and trigger.engine.engine == "auto" for trigger in triggers):
        assumed = ASSUMED_SERVICE if isinstance(model, ServiceModel) else ASSUMED_ENGINE
        yield f"the engines export what {assumed} exports (set `engine` in the trigger for another one)"
    if any(trigger.engine is None for trigger in triggers):
        share = "50 %" if isinstance(model, ServiceModel) else "90 %, as vLLM takes it at its start,"
        yield f"a GPU is busy while its engine computes, and {share} of its memory is in use"
    yield from dict.fromkeys(sentence for trigger in triggers if (sentence := demand_sentence(trigger)))
