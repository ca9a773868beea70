# SPDX-License-Identifier: Apache-2.0
"""Tests that engines share a calibration by the model of the devices that their pods hold."""

from dataclasses import replace

import pytest

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from tests.core.evaluate.load.replicas import NOW, ReplicaModel, steady
from tests.fakes import device, node_history, pod, sample, workload

SLOW, FAST = ReplicaModel(), ReplicaModel(base=0.006, each=0.0001)
A100, H100 = "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"


def node(name: str, model: str, *pods: str, age: float = 0.0) -> History:
    """A node with a device of this model for each of these pods."""
    samples = [replace(sample(it), device=device(it, model=model)) for it in range(len(pods))]
    held = {device(it).uuid: one for it, one in enumerate(pods)}
    return node_history(name, *samples, held=held, at=NOW - age)


def evaluated(*nodes: History) -> Evaluation:
    """Evaluate ``profile: llm`` for two pods on ``gpu-0`` that are slow, and one on ``gpu-1`` that is fast."""
    pods = [pod(f"llama-{it}", "gpu-1" if it == 2 else "gpu-0", address=f"10.0.0.{it + 1}") for it in range(3)]
    models = (SLOW, SLOW, FAST)
    results = {
        Endpoint(one.ref, one.address): ScrapeResult((steady(model, model.most_requests / 2),))
        for one, model in zip(pods, models, strict=True)
    }
    fleet = Fleet(None, 10.0, True, peers={one.newest.node: one for one in nodes}, scrape_results=results)
    return evaluate(parse_trigger({"profile": "llm"}), fleet, NOW, workload(*pods), {"profile": "llm"})


def calibrations(evaluation: Evaluation) -> list[str]:
    return [step for step in evaluation.steps if "load is computed" in step]


def test_pods_on_another_model_of_gpu_have_their_own_floor() -> None:
    mixed = evaluated(node("gpu-0", A100, "llama-0", "llama-1"), node("gpu-1", H100, "llama-2"))
    slow, fast = calibrations(mixed)
    assert slow.startswith(f"{A100}: load is computed from the time between tokens; the floor is 12 ms per token")
    assert fast.startswith(f"{H100}: load is computed from the time between tokens; the floor is 6 ms per token")


def test_pods_on_one_model_of_gpu_share_their_floor_on_whichever_nodes() -> None:
    same = evaluated(node("gpu-0", A100, "llama-0", "llama-1"), node("gpu-1", A100, "llama-2"))
    assert len(calibrations(same)) == 1
    assert calibrations(same) == [f"{A100}: {one}" for one in calibrations(evaluated())], "no model is known"


@pytest.mark.parametrize("age", [0.0, 60.0], ids=["a fresh snapshot", "an old snapshot"])
def test_the_model_is_known_from_an_old_snapshot_too(age: float) -> None:
    mixed = evaluated(node("gpu-0", A100, "llama-0", "llama-1", age=age), node("gpu-1", H100, "llama-2", age=age))
    assert len(calibrations(mixed)) == 2


def test_pods_of_which_the_model_is_not_known_are_a_group_of_their_own() -> None:
    unknown = evaluated(node("gpu-0", A100, "llama-0", "llama-1"))
    assert sorted(one.partition("load is")[0] for one in calibrations(unknown)) == ["", f"{A100}: "]
