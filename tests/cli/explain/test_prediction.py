# SPDX-License-Identifier: Apache-2.0
"""Tests that explain predicts the size that the HPA or KEDA reaches, for any ScaledObject.

The HPA and the executor of ScaledJobs are the independent copies in ``tests/core/hpa``.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import given, note
from hypothesis import strategies as st

from keda_gpu_scaler.cli.explain.forecast import forecast_of
from keda_gpu_scaler.cli.explain.formula_forecast import with_formula
from keda_gpu_scaler.cli.explain.scaledobject import ScaledObject, scaled_object_of
from keda_gpu_scaler.core.evaluate.evaluation import evaluate
from keda_gpu_scaler.core.hpa.replica_calculator import milli
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import Workload
from keda_gpu_scaler.kube import keda_objects
from keda_gpu_scaler.server.explain import explanation
from keda_gpu_scaler.wire import evaluation_pb2 as pb
from tests.cli.explain.test_command import explained
from tests.core.hpa import oracle
from tests.core.hpa.keda_jobs import KedaJobs
from tests.fakes import device, node_history, pod, sample, workload

NOW = 1000.0
METADATA = {"scalerAddress": "keda-gpu-scaler:6000", "targetValue": "75"}
FORMULAS = {
    "gpu": lambda gpu: gpu,
    "gpu > 100 ? gpu * 1.5 : gpu / 2": lambda gpu: gpu * 1.5 if gpu > 100 else gpu / 2,
    "max(gpu - 20, 0)": lambda gpu: max(gpu - 20, 0),
}


@dataclass(frozen=True)
class Cluster:
    """A ScaledObject or ScaledJob as in YAML, and the utilisation of each ready pod, None where it is missing."""

    item: dict[str, Any]
    loads: tuple[float | None, ...]
    starting: int

    @property
    def spec(self) -> Mapping[str, Any]:
        spec: Mapping[str, Any] = self.item["spec"]
        return spec


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    least = draw(st.integers(0, 6))
    trigger: dict[str, Any] = {"type": "external", "name": "gpu", "metadata": METADATA}
    if draw(st.booleans()):
        trigger["metricType"] = draw(st.sampled_from(["AverageValue", "Value"]))
    advanced: dict[str, Any] = {}
    if draw(st.booleans()):
        rules = {key: {"tolerance": draw(st.sampled_from(["0", "0.05", "200m"]))} for key in ("scaleUp", "scaleDown")}
        advanced["horizontalPodAutoscalerConfig"] = {"behavior": rules}
    if draw(st.booleans()):
        modifiers = {"formula": draw(st.sampled_from([*FORMULAS])), "target": draw(st.sampled_from(["75", "12.5"]))}
        if draw(st.booleans()):
            modifiers["metricType"] = draw(st.sampled_from(["AverageValue", "Value"]))
        advanced["scalingModifiers"] = modifiers
    spec = {
        "minReplicaCount": least,
        "maxReplicaCount": least + draw(st.integers(1, 12)),
        "advanced": advanced,
        "triggers": [trigger],
    }
    loads = draw(st.lists(st.one_of(st.none(), st.integers(0, 100).map(float)), min_size=1, max_size=8))
    return Cluster({"kind": "ScaledObject", "metadata": {"name": "llama"}, "spec": spec}, tuple(loads), 0)


def scene(cluster: Cluster) -> tuple[Workload, Fleet]:
    """The workload of a cluster: the pods with a load on one node, and the missing ones on another."""
    names = [f"llama-{number}" for number in range(len(cluster.loads))]
    known = [(name, load) for name, load in zip(names, cluster.loads, strict=True) if load is not None]
    held = {device(number).uuid: name for number, (name, _) in enumerate(known)}
    samples = [sample(number, load / 100) for number, (_, load) in enumerate(known)]
    pods = [
        pod(name, "gpu-1" if load is not None else "gpu-2") for name, load in zip(names, cluster.loads, strict=True)
    ]
    scaled = keda_objects.scaled_object(cluster.item)
    found = workload(*pods, triggers=scaled.triggers, formula=scaled.formula, tolerances=scaled.tolerances)
    return found, Fleet(None, 10.0, True, peers={"gpu-1": node_history("gpu-1", *samples, held=held)})


def predicted(cluster: Cluster) -> tuple[pb.Evaluation, ScaledObject, int | None]:
    """The evaluation, and the size that explain predicts."""
    found, fleet = scene(cluster)
    trigger = parse_trigger(METADATA)
    evaluation = explanation(trigger, evaluate(trigger, fleet, NOW, found, METADATA), found, METADATA, fleet, NOW)
    scaled_object = scaled_object_of(cluster.item)
    [result] = with_formula([explained(evaluation, scaled_object)], None)
    assert result.forecast is not None
    decision = result.forecast.decision
    return evaluation, scaled_object, decision.replicas if decision is not None else None


def reached(cluster: Cluster, value: float) -> int:
    """The size that the HPA reaches with a value within one sync period, by the independent copy of it."""
    size, modifiers = len(cluster.loads), cluster.spec["advanced"].get("scalingModifiers")
    target, kind = 75.0, cluster.spec["triggers"][0].get("metricType", "AverageValue")
    if modifiers is not None:
        value = math.trunc(FORMULAS[modifiers["formula"]](value) * 1000) / 1000
        target, kind = float(modifiers["target"]), modifiers.get("metricType", "AverageValue")
    behavior = cluster.spec["advanced"].get("horizontalPodAutoscalerConfig", {}).get("behavior", {})
    given_texts = [behavior.get(key, {}).get("tolerance", "0.1") for key in ("scaleUp", "scaleDown")]
    tolerances = tuple(float({"200m": "0.2"}.get(one, one)) for one in given_texts)
    usage, wanted = milli(value), milli(target)
    if kind == "AverageValue":
        desired = oracle.external_average_value(usage, wanted, size, (tolerances[0], tolerances[1]))
    else:
        desired = oracle.external_value(usage, wanted, size, size, (tolerances[0], tolerances[1]))
    least, most = max(1, int(cluster.spec["minReplicaCount"])), int(cluster.spec["maxReplicaCount"])
    if not least <= size <= most:  # reconcileAutoscaler does not read the metrics then
        return least if size < least else most
    # Without a behavior (calculateScaleUpLimit), and with the default policies of one (4 pods or 100 per cent).
    limit = max(2 * size, size + 4) if behavior else max(2 * size, 4)
    return max(least, min(most, desired, limit))


@given(clusters())
def test_the_predicted_size_is_the_size_that_the_hpa_reaches(cluster: Cluster) -> None:
    evaluation, _, size = predicted(cluster)
    note(f"{evaluation.value} {evaluation.steps}")
    if not evaluation.HasField("value"):
        assert size in (None, max(1, cluster.spec["minReplicaCount"], min(len(cluster.loads), size or 0)))
        return
    assert size == reached(cluster, evaluation.value)


@given(
    loads=st.lists(st.integers(0, 100).map(float), min_size=1, max_size=8),
    strategy=st.sampled_from(["default", "accurate", "eager"]),
    least=st.integers(0, 3),
    more=st.integers(1, 12),
)
def test_the_predicted_jobs_are_those_that_keda_starts(
    loads: list[float], strategy: str, least: int, more: int
) -> None:
    spec = {
        "minReplicaCount": least,
        "maxReplicaCount": least + more,
        "scalingStrategy": {"strategy": strategy},
        "triggers": [{"type": "external", "metadata": METADATA}],
        "jobTargetRef": {},
    }
    cluster = Cluster({"kind": "ScaledJob", "metadata": {"name": "llama"}, "spec": spec}, tuple(loads), 0)
    scaled = keda_objects.scaled_job(cluster.item)
    found, fleet = scene(cluster)
    jobs = Workload(
        found.namespace, found.name, "ScaledJob", "ScaledJob llama", len(loads), len(loads), found.pods,
        scaled.triggers, jobs=scaled.jobs,
    )  # fmt: skip
    trigger = parse_trigger(METADATA)
    evaluation = explanation(trigger, evaluate(trigger, fleet, NOW, jobs, METADATA), jobs, METADATA, fleet, NOW)
    scaled_object = scaled_object_of(cluster.item)
    sentences = forecast_of(evaluation, scaled_object, scaled_object.triggers[0]).keda
    keda = KedaJobs(spec, running=len(loads))
    created = keda.poll(evaluation.value, evaluation.target, is_active=evaluation.active)
    [said] = [match for one in sentences if (match := re.match(r"KEDA starts (\d+|no) job", one))]
    assert (0 if said[1] == "no" else int(said[1])) == created
