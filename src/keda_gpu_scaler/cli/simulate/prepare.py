# SPDX-License-Identifier: Apache-2.0
"""Prepares a simulation: the traffic, the replica and the circumstances, with what is assumed of them."""

import math
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
from keda_gpu_scaler.simulate.presets import DEFAULT_PRESET, engine_model
from keda_gpu_scaler.simulate.queue_triggers import queue_sentence
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.scaler import demand_sentence
from keda_gpu_scaler.simulate.scenario import Circumstances, Objective, QueueRules, ScalingSpec
from keda_gpu_scaler.simulate.simulation import initial_replicas
from keda_gpu_scaler.simulate.traffic.assembly import fitted_to, scaled
from keda_gpu_scaler.simulate.traffic.engine_history import is_recording
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.recording import traffic_of_recording
from keda_gpu_scaler.simulate.traffic.request_log import read_request_log
from keda_gpu_scaler.simulate.traffic.shapes import SHAPES, traffic_of_shape

MOST_SECONDS = 8 * 86400.0
MIN_TAIL_SECONDS = 900.0
"""After the last arrival the simulation goes on for so long at least."""
UNFINISHED = "unfinished"
"""The value of --queue-length with which items count until they are done."""


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
    is_queue = given["queue"] or any(spec.jobs is not None for spec in specs)
    model = _model(given, has_jobs=any(spec.jobs is not None for spec in specs))
    traffic = scaled(_traffic(given), given["scale"], given["seed"])
    if traffic.seconds > MOST_SECONDS:
        raise SimulationError(
            f"--traffic: {traffic.title} covers {traffic.seconds / 86400:.0f} days: at most "
            f"{MOST_SECONDS / 86400:.0f} are simulated: take a part of it"
        )
    if isinstance(model, EngineModel):
        traffic = fitted_to(traffic, model)
    circumstances = Circumstances(
        objective=_objective(given, is_queue=is_queue),
        cold_start_seconds=_range(given["cold_start"]),
        node_start_seconds=given["node_start"],
        router=Router(given["router"]),
        seed=given["seed"],
        queue=_queue(given) if is_queue else None,
        tail_seconds=max(MIN_TAIL_SECONDS, given["slo_item"]) if is_queue else MIN_TAIL_SECONDS,
    )
    initial = initial_replicas(traffic, model) if given["initial"] is None else given["initial"]
    setup = Setup(traffic, model, circumstances, initial, given["goal"])
    return PreparedSimulation(
        setup,
        _title(traffic, model, "items" if is_queue else "requests"),
        (*traffic.assumptions, *_assumptions(given, specs, setup)),
        traffic.remarks,
    )


def _traffic(given: Mapping[str, Any]) -> RequestTraffic:
    name = given["traffic"]
    lengths = Lengths(
        given["prompt_tokens"],
        given["answer_tokens"],
        given["length_spread"],
        given["seed"],
        matter=given["service_time"] is None,
    )
    if given["prometheus"]:
        return ask_prometheus(given["prometheus"], given["query"], given["start"], given["end"], lengths)
    path = Path(name)
    if name in SHAPES or not path.exists():
        return traffic_of_shape(name, given["rate"], lengths, given["minutes"])
    return traffic_of_recording(path, lengths) if is_recording(path) else read_request_log(path, lengths)


def _objective(given: Mapping[str, Any], *, is_queue: bool) -> Objective:
    if is_queue:
        return Objective(given["slo_item"], math.inf, is_for_items=True)
    return Objective(given["slo_ttft"], given["slo_token_ms"] / 1000)


def _queue(given: Mapping[str, Any]) -> QueueRules:
    return QueueRules(given["items_per_pod"] or None, given["queue_length"] == UNFINISHED)


def _model(given: Mapping[str, Any], *, has_jobs: bool) -> ReplicaModel:
    if has_jobs and given["service_time"] is None and given["engine_model"] is None:
        raise SimulationError(
            "--service-time: Required value: a ScaledJob is simulated with the seconds that a pod needs for one item "
            "of the queue (or with --engine-model, where its pods are LLM engines)"
        )
    if given["service_time"] is not None:
        return ServiceModel(
            f"--service-time {given['service_time']:g}",
            given["service_time"],
            given["batch"],
            given["instances"],
            gpus=given["gpus"] or 1,
        )
    model = engine_model(given["engine_model"] or DEFAULT_PRESET)
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


def _title(traffic: RequestTraffic, model: ReplicaModel, noun: str) -> str:
    rate = len(traffic) / traffic.seconds
    shown = f"{rate:.3g} a second" if rate >= 0.1 else f"{3600 * rate:.3g} an hour"
    hours = traffic.seconds / 3600
    title = f"{len(traffic)} {noun} in {hours:.2f} h of {traffic.title}, on replicas of {model.name}: {shown}"
    if isinstance(model, ServiceModel):
        return title
    return f"{title}, {_mean(traffic.prompts):.0f} prompt and {_mean(traffic.answers):.0f} answer tokens on average"


def _mean(values: Sequence[int]) -> float:
    return sum(values) / max(1, len(values))


def _assumptions(given: Mapping[str, Any], specs: Sequence[ScalingSpec], setup: Setup) -> Iterator[str]:
    model, circumstances = setup.model, setup.circumstances
    yield f"the replica {model.name}: {model.describe()}" + (f" ({model.source})" if model.source else "")
    low, high = circumstances.cold_start_seconds
    span = f"{low:g} s" if low == high else f"{low:g} to {high:g} s"
    node = ", there is always a node" if circumstances.node_start_seconds is None else ""
    yield f"a pod is ready {span} after its creation (--cold-start){node}"
    if any(spec.jobs is None for spec in specs):
        origin = "enough for the first two minutes at 70 % of their work" if given["initial"] is None else "--initial"
        yield f"{setup.initial} replicas are ready at the start ({origin}), within the sizes of the ScaledObject"
    if circumstances.queue is None:
        yield (
            f"the gateway sends each request to a replica by {circumstances.router} (--router), and holds it while "
            "none is ready"
        )
    else:
        yield from _queue_assumptions(circumstances.queue, specs)
    triggers = [parse_trigger(trigger.metadata) for spec in specs for trigger in spec.triggers]
    if any(trigger.engine is not None and trigger.engine.engine == "auto" for trigger in triggers):
        assumed = ASSUMED_SERVICE if isinstance(model, ServiceModel) else ASSUMED_ENGINE
        yield f"the engines export what {assumed} exports (set `engine` in the trigger for another one)"
    if any(trigger.engine is None for trigger in triggers):
        share = "50 %" if isinstance(model, ServiceModel) else "90 %, as vLLM takes it at its start,"
        yield f"a GPU is busy while its engine computes, and {share} of its memory is in use"
    yield from dict.fromkeys(sentence for trigger in triggers if (sentence := demand_sentence(trigger)))


def _queue_assumptions(queue: QueueRules, specs: Sequence[ScalingSpec]) -> Iterator[str]:
    yield "items wait in one queue, and a pod takes the oldest ones when it has room for them"
    if any(spec.jobs is not None for spec in specs):
        count = "items" if queue.items_per_pod is None else f"at most {_items(queue.items_per_pod)}"
        yield (
            f"a pod of a Job takes {count} (--items-per-pod), and succeeds after that or when it finds the queue "
            "empty; no Job is there at the start, and none fails"
        )
    yield from dict.fromkeys(queue_sentence(trigger) for spec in specs for trigger in spec.queue_triggers)


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"
