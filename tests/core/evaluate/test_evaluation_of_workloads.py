# SPDX-License-Identifier: Apache-2.0
"""Tests the evaluation of workloads: pods on several nodes, their devices, and missing data."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, NoValue, evaluate
from keda_gpu_scaler.core.evaluate.observation import ObservationState, PodObservation
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType, desired_replicas, milli
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, Fleet, History
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import DeclaredTrigger, Unavailable, Workload
from tests.fakes import device, node_history, pod, sample, sample_without_readings, workload

NOW = 1000.0
TARGET = 80.0


def node(name: str, held: dict[str, float | None], *, age: float = 0.0, known: bool = True) -> History:
    """A node whose pods hold a device each, with this utilisation."""
    samples = [sample(number, None if value is None else value / 100) for number, value in enumerate(held.values())]
    holders = {device(number).uuid: owner for number, owner in enumerate(held)} if known else None
    return node_history(name, *samples, held=holders, at=NOW - age)


def fleet(*nodes: History, unavailable: dict[str, str] | None = None) -> Fleet:
    return Fleet(
        None, 10.0, deviceless=True, peers={one.newest.node: one for one in nodes}, unavailable=unavailable or {}
    )


def evaluated(known: Workload | Unavailable | None, with_value: Fleet, **metadata: str) -> Evaluation:
    return evaluate(parse_trigger(metadata), with_value, NOW, known, metadata)


def size(evaluation: Evaluation, known: Workload) -> int:
    """Return the size that the HPA computes from the value."""
    assert evaluation.value is not None
    kind = ValueType(known.triggers[0].metric_type)
    ready = sum(one.is_ready and not one.is_deleting for one in known.pods)
    recommendation = desired_replicas(
        kind, milli(evaluation.value), milli(TARGET), replicas=known.status_replicas, ready_pods=ready
    )
    return recommendation.replicas


def spread(utilizations: Sequence[float | None], *, nodes: int = 2) -> tuple[Workload, Fleet]:
    """One ready pod for each utilisation, spread over the nodes."""
    names = [f"llama-{number}" for number in range(len(utilizations))]
    held: list[dict[str, float | None]] = [{} for _ in range(nodes)]
    for number, (name, value) in enumerate(zip(names, utilizations, strict=True)):
        held[number % nodes][name] = value
    pods = [pod(name, f"gpu-{number % nodes}") for number, name in enumerate(names)]
    return workload(*pods), fleet(*(node(f"gpu-{number}", one) for number, one in enumerate(held)))


@pytest.mark.parametrize("metric_type", ["AverageValue", "Value"])
@pytest.mark.parametrize(
    ("utilizations", "replicas"),
    [
        pytest.param([92, 92, 92], 4, id="three replicas at 92 % need a fourth"),
        pytest.param([0] * 8, 1, id="eight idle replicas need one"),
        pytest.param([80, 80, 80], 3, id="at the target the size stays"),
        pytest.param([100] * 8, 10, id="eight saturated replicas need ten and not two"),
    ],
)
def test_the_hpa_computes_the_size_that_the_pods_readings_need(
    utilizations: list[float], replicas: int, metric_type: str
) -> None:
    known, with_value = spread(utilizations)
    known = replace(known, triggers=(replace(known.triggers[0], metric_type=metric_type),))
    evaluation = evaluated(known, with_value)
    assert max(1, size(evaluation, known)) == replicas
    assert (evaluation.with_value, evaluation.expected) == (len(utilizations), len(utilizations))


@pytest.mark.parametrize(
    ("metric_type", "report", "value"),
    [
        ("AverageValue", "auto", 180.0),
        ("Value", "auto", 90.0),
        ("AverageValue", "average", 90.0),
        ("Value", "total", 180.0),
    ],
)
def test_the_report_follows_the_metric_type_or_the_trigger(metric_type: str, report: str, value: float) -> None:
    known = workload(pod("a"), pod("b"), metric_type=metric_type)
    assert evaluated(known, fleet(node("gpu-7", {"a": 85, "b": 95})), report=report).value == value


def test_only_the_devices_of_its_own_pods_count() -> None:
    with_value = fleet(node("gpu-7", {"a": 50, "unrelated": 100}), node("gpu-8", {"b": 70, "other": 0}))
    assert evaluated(workload(pod("a"), pod("b", "gpu-8")), with_value, report="average").value == 60.0


def test_a_pod_of_the_same_name_on_another_node_is_another_pod() -> None:
    with_value = fleet(node("old", {"llama-0": 100}), node("new", {"llama-0": 40}))
    assert evaluated(workload(pod("llama-0", "new")), with_value, report="average").value == 40.0


@pytest.mark.parametrize(
    ("aggregation", "value"), [("max", 90.0), ("min", 10.0), ("avg", 50.0), ("sum", 150.0), ("p95", 90.0)]
)
def test_the_aggregation_combines_the_devices_of_a_pod(aggregation: str, value: float) -> None:
    history = node_history(
        "gpu-7", sample(0, 0.1), sample(1, 0.5), sample(2, 0.9), held={device(number).uuid: "a" for number in range(3)}
    )
    known = workload(pod("a"))
    assert evaluated(known, fleet(history), aggregation=aggregation, report="average").value == value


def shared(utilization: float) -> History:
    """One device that two pods hold."""
    history = node_history("gpu-7", sample(0, utilization), held={device(0).uuid: "a"})
    [both] = history.newest.allocations or ()
    allocations = (both, replace(both, pod="b"))
    return History((replace(history.newest, allocations=allocations),), history.received_at_seconds)


def test_law_4_two_pods_on_one_device_have_half_of_its_value_each() -> None:
    with_value = fleet(shared(0.9))
    each = [evaluated(workload(pod(name)), with_value, report="average").value for name in "ab"]
    assert each == [45.0, 45.0]
    both = evaluated(workload(pod("a"), pod("b")), with_value)
    assert both.value == 90.0
    assert "shared by 2 pods (in equal shares)" in " ".join(both.steps)


def test_a_temperature_is_not_divided() -> None:
    metadata = {"metricType": "temperature", "targetValue": "70", "report": "average"}
    evaluation = evaluated(workload(pod("a")), fleet(shared(0.9)), **metadata)
    assert evaluation.value == 55.0
    assert "shared by 2 pods (each counts the whole value)" in " ".join(evaluation.steps)


def test_the_load_of_an_earlier_pod_is_not_the_load_of_this_pod() -> None:
    before = node_history("gpu-7", sample(0, 1.0), held={device(0).uuid: "old"}, at=NOW - 3, seconds=5)
    after = node_history("gpu-7", sample(0, 0.2), held={device(0).uuid: "new"}, at=NOW, seconds=3)
    history = History((*before.snapshots, *after.snapshots), NOW)
    assert evaluated(workload(pod("new")), fleet(history), report="average").value == 20.0
    assert evaluated(workload(), fleet(history), scope="fleet", report="average").value == 70.0


# ---- missing data ----


@pytest.mark.parametrize(
    ("known", "with_value", "metadata", "no_value_reason", "reason"),
    [
        pytest.param(
            None,
            fleet(),
            {"scope": "workload"},
            NoValue.MISCONFIGURED,
            "metadata.scope: give this instance access to the API server (chart: rbac.create), or set scope: fleet or "
            "node",
            id="no access to the API server",
        ),
        pytest.param(
            Unavailable("ai/llama: not read yet", is_permanent=False),
            fleet(),
            {},
            NoValue.UNAVAILABLE,
            "ai/llama: not read yet",
            id="the API server has not answered",
        ),
        pytest.param(
            Unavailable("ai/llama: there is none", is_permanent=True),
            fleet(),
            {},
            NoValue.MISCONFIGURED,
            "ai/llama: there is none",
            id="there is no such object",
        ),
        pytest.param(
            workload(pod("a", "gpu-7"), pod("b", "gpu-8"), pod("c", "gpu-9")),
            fleet(
                node("gpu-7", {"a": 50}), node("gpu-8", {"b": 50}, age=41), unavailable={"gpu-9": "connection refused"}
            ),
            {},
            NoValue.UNAVAILABLE,
            "no fresh sample for 2 of 3 ready pods: node gpu-8 last answered 41 s ago (limit 10 s); node gpu-9 has no "
            "snapshot: connection refused",
            id="fewer than half of the pods have a value",
        ),
        pytest.param(
            workload(pod("a")),
            fleet(node("gpu-7", {"a": 50}, known=False)),
            {},
            NoValue.UNAVAILABLE,
            "no fresh sample for 1 of 1 ready pods: node gpu-7 does not know which pods hold its devices; "
            "the log of its instance says why",
            id="the allocations of the node are not known",
        ),
        pytest.param(
            workload(pod("a")),
            fleet(node("gpu-7", {"a": None})),
            {},
            NoValue.UNAVAILABLE,
            "no fresh sample for 1 of 1 ready pods: GPU 0 (GPU-0000) of node gpu-7 has no reading of gpu_utilization",
            id="the device has no reading",
        ),
        pytest.param(
            workload(pod("a"), pod("b")),
            fleet(node("gpu-7", {"unrelated": 50})),
            {},
            NoValue.MISCONFIGURED,
            "ai/llama: none of its 2 pods holds a device: request one in the pod template, with a device plugin's "
            "resource (nvidia.com/gpu, amd.com/gpu, gpu.intel.com/xe), a resource claim or the scheduler that shares "
            "your GPUs, or set scope: node or fleet",
            id="its pods hold no device",
        ),
        pytest.param(
            workload(pod("a")),
            fleet(node("gpu-7", {"a": 50})),
            {"gpuModel": "*T4*"},
            NoValue.MISCONFIGURED,
            "ai/llama: none of its 1 pods holds a device that nodeSelector, gpuModel and gpuIndex select",
            id="its pods hold devices of another model",
        ),
        pytest.param(
            workload(pod("a"), triggers=()),
            fleet(node("gpu-7", {"a": 50})),
            {"nodeSelector": "pool=gpu"},
            NoValue.MISCONFIGURED,
            "metadata.nodeSelector: node labels cannot be read without access to the API server",
            id="the nodes' labels cannot be read",
        ),
    ],
)
def test_law_1_a_workload_that_cannot_be_measured_has_no_value_stays_active_and_has_a_reason(
    known: Workload | Unavailable | None,
    with_value: Fleet,
    metadata: dict[str, str],
    no_value_reason: NoValue,
    reason: str,
) -> None:
    evaluation = evaluated(known, with_value, **metadata)
    assert (evaluation.value, evaluation.no_value_reason, evaluation.reason) == (None, no_value_reason, reason)
    assert (evaluation.active, evaluation.known_activity) == (True, None)


@pytest.mark.parametrize(
    ("known_utilizations", "replicas"),
    [
        pytest.param([95] * 6, 8, id="on the way up missing pods count as idle: six of eight at 95 % need no more"),
        pytest.param([100] * 7, 8, id="on the way up the rest is within the tolerance"),
        pytest.param([0] * 6, 2, id="on the way down the two missing pods are kept"),
        pytest.param([80] * 6, 8, id="at the target"),
    ],
)
def test_law_1_pods_on_unavailable_nodes_keep_their_place_and_need_no_more(
    known_utilizations: list[float], replicas: int
) -> None:
    names = [f"llama-{number}" for number in range(len(known_utilizations))]
    lost = [pod(f"lost-{number}", "gone") for number in range(8 - len(names))]
    known = workload(*(pod(name) for name in names), *lost)
    evaluation = evaluated(known, fleet(node("gpu-7", dict(zip(names, known_utilizations, strict=True)))))
    assert size(evaluation, known) == replicas
    assert evaluation.active


def test_min_coverage_is_the_share_of_ready_pods_that_must_have_a_value() -> None:
    known = workload(pod("a"), pod("b", "gone"), pod("c", "gone"))
    with_value = fleet(node("gpu-7", {"a": 50}))
    assert evaluated(known, with_value).value is None
    assert evaluated(known, with_value, minCoverage="0.3").value is not None
    assert evaluated(known, with_value, minCoverage="0").value is not None
    assert evaluated(known, fleet(), minCoverage="0").value is None


def test_pods_out_of_scope_are_not_missing_and_are_not_removed() -> None:
    history = node_history(
        "gpu-7",
        sample(0, 0.0),
        sample(1, 1.0, device=device(1, model="Tesla T4")),
        held={device(0).uuid: "a", device(1).uuid: "b"},
    )
    known = workload(pod("a"), pod("b"))
    evaluation = evaluated(known, fleet(history), gpuModel="*H100*")
    assert (evaluation.with_value, evaluation.expected) == (1, 1)
    assert size(evaluation, known) == 1
    assert "1 ready pods are out of scope: they count as at the target" in evaluation.steps
    # 100 % and, for the pod out of scope, 80 %: 90 % on average.
    assert size(evaluated(known, fleet(history), gpuModel="*T4*"), known) == 3


def two_models(h100: float, t4: float) -> tuple[Workload, Fleet]:
    """Ten pods, each on its own device: five on H100s and five on T4s, with these utilisations."""
    devices = [device(index, model="NVIDIA H100" if index < 5 else "Tesla T4") for index in range(10)]
    samples = [sample(one.index, h100 if one.index < 5 else t4, device=one) for one in devices]
    history = node_history("gpu-7", *samples, held={one.uuid: f"pod-{one.index}" for one in devices})
    return workload(*(pod(f"pod-{index}") for index in range(10))), fleet(history)


def test_a_saturated_half_scales_the_workload_up_also_where_the_other_half_is_idle() -> None:
    known, with_value = two_models(1.0, 0.1)
    assert size(evaluated(known, with_value, gpuModel="*H100*"), known) == 12


def test_pods_out_of_scope_that_have_work_keep_the_workload_active() -> None:
    known, with_value = two_models(0.0, 0.9)
    evaluation = evaluated(known, with_value, gpuModel="*H100*")
    assert (evaluation.active, evaluation.known_activity) == (True, True)
    assert size(evaluation, known) == 5
    known, with_value = two_models(0.0, 0.0)
    assert evaluated(known, with_value, gpuModel="*H100*").known_activity is False


def test_law_1_missing_pods_out_of_scope_keep_the_workload_active() -> None:
    known = workload(pod("a"), pod("b", "gone"))
    with_value = replace(fleet(node("gpu-7", {"a": 0})), node_labels={"gpu-7": {"pool": "a"}, "gone": {"pool": "b"}})
    evaluation = evaluated(known, with_value, nodeSelector="pool=a")
    assert (evaluation.active, evaluation.known_activity) == (True, None)


@pytest.mark.parametrize(
    ("metric_type", "report", "right"),
    [("AverageValue", "average", "total"), ("Value", "total", "average")],
)
def test_a_report_that_contradicts_the_triggers_own_type_is_refused(metric_type: str, report: str, right: str) -> None:
    known = workload(pod("a"), triggers=(DeclaredTrigger({"report": report}, metric_type),))
    with_value = fleet(node("gpu-7", {"a": 100}))
    evaluation = evaluated(known, with_value, report=report)
    assert evaluation.no_value_reason is NoValue.MISCONFIGURED
    other = "Value" if metric_type == "AverageValue" else "AverageValue"
    assert evaluation.reason == (
        f'metadata.report: Invalid value: "{report}": the trigger has metricType {metric_type}, for which the HPA '
        f"expects the {right}: leave report out, or set metricType: {other} on the trigger"
    )
    # Metadata that no trigger of the workload has, as a person sends who tries a setting, is not contradicted.
    assert evaluated(known, with_value, report=report, windowSeconds="0").value is not None


@pytest.mark.parametrize(
    ("percent", "jobs", "wanted"),
    [
        pytest.param(81, 8, 8, id="just above the target"),
        pytest.param(88, 8, 8, id="at the edge of the tolerance"),
        pytest.param(95, 8, 10, id="above the tolerance"),
        pytest.param(40, 8, 4, id="below the target"),
        pytest.param(0, 3, 0, id="idle"),
    ],
)
def test_the_value_of_jobs_leads_keda_without_a_tolerance_to_the_size_of_the_hpa(
    percent: float, jobs: int, wanted: int
) -> None:
    known = workload(*(pod(f"job-{index}") for index in range(jobs)), kind="ScaledJob", target="ScaledJob llama")
    evaluation = evaluated(known, fleet(node("gpu-7", {f"job-{index}": percent for index in range(jobs)})))
    assert evaluation.value is not None
    assert math.ceil(evaluation.value / 80) == wanted


def test_a_node_selector_selects_the_pods_on_these_nodes() -> None:
    with_value = replace(
        fleet(node("gpu-7", {"a": 90}), node("gpu-8", {"b": 10})),
        node_labels={"gpu-7": {"pool": "a"}, "gpu-8": {"pool": "b"}},
    )
    known = workload(pod("a", "gpu-7"), pod("b", "gpu-8"), metric_type="Value")
    evaluation = evaluated(known, with_value, nodeSelector="pool=b", report="average")
    assert "pod a: node gpu-7 is not selected by nodeSelector" in evaluation.steps
    assert (evaluation.with_value, evaluation.expected) == (1, 1)


# ---- scaled to zero, and starting ----


def test_a_workload_scaled_to_zero_is_inactive_also_where_data_is_missing() -> None:
    evaluation = evaluated(workload(replicas=0), fleet())
    assert (evaluation.value, evaluation.active, evaluation.known_activity) == (0.0, False, False)


def test_a_workload_whose_last_pods_are_being_deleted_is_scaled_to_zero() -> None:
    evaluation = evaluated(workload(pod("a", is_deleting=True), replicas=0), fleet(node("gpu-7", {"a": 90})))
    assert (evaluation.value, evaluation.active) == (0.0, False)


def test_an_activated_workload_without_a_pod_yet_stays_active() -> None:
    evaluation = evaluated(workload(replicas=1), fleet())
    assert (evaluation.active, evaluation.known_activity) == (True, None)


def test_a_pod_that_loads_its_model_keeps_the_workload_active_within_its_grace() -> None:
    known = workload(pod("a"), pod("b", ready=False, age=599))
    with_value = fleet(node("gpu-7", {"a": 0, "b": 0}))
    young = evaluated(known, with_value)
    assert (young.active, young.known_activity) == (True, True)
    assert young.steps[-1] == "active: b is starting, 599 s old"
    assert evaluated(known, with_value, startupGraceSeconds="599").active is False


@pytest.mark.parametrize(
    ("utilization", "replicas"),
    [
        pytest.param(80, 2, id="at the target: the pod that is loading scales nothing down"),
        pytest.param(100, 2, id="above: the pod that is loading will take load, so nothing doubles"),
        pytest.param(0, 1, id="idle"),
    ],
)
def test_a_pod_that_is_loading_neither_doubles_the_workload_nor_scales_it_down(
    utilization: float, replicas: int
) -> None:
    known = workload(pod("a"), pod("b", ready=False, age=30))
    with_value = fleet(node("gpu-7", {"a": utilization, "b": 0}))
    assert max(1, size(evaluated(known, with_value), known)) == replicas


def test_while_all_pods_are_starting_the_size_stays_and_there_is_a_value() -> None:
    known = workload(pod("a", ready=False, age=30), pod("b", None, ready=False, age=30))
    evaluation = evaluated(known, fleet(node("gpu-7", {"a": 0})))
    assert evaluation.value == 2 * TARGET
    assert evaluation.active


@pytest.mark.parametrize(
    "gone",
    [
        pytest.param({"is_deleting": True}, id="ending"),
        pytest.param({"phase": "Failed", "is_ready": False}, id="failed"),
        pytest.param({"phase": "Succeeded", "is_ready": False}, id="finished"),
    ],
)
def test_pods_that_are_deleted_or_have_ended_are_ignored(gone: dict[str, Any]) -> None:
    known = workload(pod("a"), pod("b", **gone))
    with_value = fleet(node("gpu-7", {"a": 50, "b": 100}))
    evaluation = evaluated(known, with_value)
    assert (evaluation.value, evaluation.expected) == (50.0, 1)


def test_a_pod_that_waits_for_a_node_beyond_its_grace_does_not_keep_the_workload_active() -> None:
    known = workload(pod("a"), pod("b", None, ready=False, age=3600))
    assert evaluated(known, fleet(node("gpu-7", {"a": 0}))).active is False


@pytest.mark.parametrize(
    ("node_name", "phase", "is_ready"),
    [
        pytest.param(None, "Pending", False, id="Pending without a node"),
        pytest.param(None, "Pending", True, id="Pending without a node, with an old condition Ready"),
        pytest.param(None, "Running", True, id="without a node, whatever its phase and condition"),
        pytest.param("gpu-7", "Pending", True, id="Pending on a node, with an old condition Ready"),
    ],
)
def test_a_pending_pod_is_not_ready_and_keeps_active_only_within_its_grace(
    node_name: str | None, phase: str, is_ready: bool
) -> None:
    with_value = fleet(node("gpu-7", {"a": 0}))
    for age, active in ((599.0, True), (601.0, False)):
        pending = pod("b", node_name, ready=is_ready, age=age, phase=phase)
        evaluation = evaluated(workload(pod("a"), pending), with_value)
        assert (evaluation.with_value, evaluation.expected) == (1, 1)
        assert (evaluation.active, evaluation.known_activity) == (active, active)
        [_, unready] = evaluation.observations
        assert unready.value is None
        assert isinstance(unready, PodObservation)
        assert unready.state is not ObservationState.OBSERVED


def test_one_pod_above_the_threshold_makes_the_workload_active() -> None:
    known = workload(pod("a"), pod("b"))
    quiet, busy = fleet(node("gpu-7", {"a": 5, "b": 5})), fleet(node("gpu-7", {"a": 0, "b": 6}))
    assert evaluated(known, quiet, activationThreshold="5").active is False
    assert evaluated(known, busy, activationThreshold="5").active is True


def test_law_1_a_missing_ready_pod_keeps_an_idle_workload_active() -> None:
    known = workload(pod("a"), pod("b", "gone"))
    evaluation = evaluated(known, fleet(node("gpu-7", {"a": 0})))
    assert (evaluation.active, evaluation.known_activity) == (True, None)


def test_ambiguous_metric_types_are_refused_with_a_remedy() -> None:
    known = workload(pod("a"))
    [declared] = known.triggers
    known = replace(
        known,
        triggers=(
            replace(declared, metadata={"targetValue": "1"}),
            replace(declared, metadata={"targetValue": "2"}, metric_type="Value"),
        ),
    )
    evaluation = evaluated(known, fleet(node("gpu-7", {"a": 50})))
    assert evaluation.no_value_reason is NoValue.MISCONFIGURED
    assert "set report: total (for AverageValue) or average (for Value)" in evaluation.reason
    assert "average of 1 pods: 50" in evaluated(known, fleet(node("gpu-7", {"a": 50})), targetValue="2").steps


def test_the_steps_describe_the_source_of_the_value() -> None:
    known = workload(pod("a"), pod("b", "gone"), pod("c", None, ready=False, age=30))
    evaluation = evaluated(known, fleet(node("gpu-7", {"a": 92})), activationThreshold="5")
    assert evaluation.steps[:4] == (
        "scope workload: gpu_utilization of Deployment llama (mean of the last 10 s): 3 replicas of 3 wanted, "
        "2 ready pods, 1 with a value",
        "pod a: 92 % on node gpu-7: GPU 0 NVIDIA H100 92 %",
        "pod b: node gone has no snapshot: is an instance running there, and does discovery find it?",
        "pod c (not ready): not scheduled yet",
    )
    assert evaluation.steps[-1] == "active: 92 is above activationThreshold 5"


# ---- the fleet and the node ----


def test_scope_fleet_aggregates_every_device_and_multiplies_by_the_replicas() -> None:
    with_value = fleet(node("gpu-7", {"unrelated": 90}), node("gpu-8", {"other": 30}))
    known = workload(pod("a", "gpu-7"), pod("b", "gpu-8"), pod("c", "gpu-8"))
    assert evaluated(known, with_value, scope="fleet").value == 270.0
    assert evaluated(known, with_value, scope="fleet", report="average").value == 90.0
    assert evaluated(known, with_value, scope="fleet", aggregation="sum").value == 120.0


def test_scope_fleet_counts_unavailable_peers_as_missing() -> None:
    with_value = fleet(node("gpu-7", {"a": 20}), unavailable={"10.0.0.9:6000": "connection refused"})
    evaluation = evaluated(workload(pod("a")), with_value, scope="fleet", report="average")
    assert (evaluation.value, evaluation.with_value, evaluation.expected) == (TARGET, 1, 2)
    assert "node 10.0.0.9:6000: connection refused" in evaluation.steps


def test_law_1_an_unavailable_node_does_not_activate_a_workload_scaled_to_zero() -> None:
    with_value = fleet(node("gpu-7", {"a": 0}), unavailable={"gpu-8": "connection refused"})
    assert evaluated(workload(replicas=0), with_value, scope="fleet").active is False
    assert evaluated(workload(replicas=1), with_value, scope="fleet").active is True


def test_without_the_replicas_a_total_is_refused_with_remedies() -> None:
    evaluation = evaluated(None, fleet(node("gpu-7", {"a": 50})))
    assert evaluation.no_value_reason is NoValue.MISCONFIGURED
    assert evaluation.reason == (
        "metadata.report: metricType AverageValue needs the total over the replicas, and the number of replicas is not "
        "known: give this instance access to the API server (chart: rbac.create), or set report: average here and "
        "metricType: Value on the trigger"
    )
    assert evaluated(None, fleet(node("gpu-7", {"a": 50})), aggregation="sum").value == 50.0


def test_law_1_a_sum_with_a_missing_device_has_no_value_where_the_replicas_are_not_known() -> None:
    with_value = fleet(node("gpu-7", {"a": 50, "b": None}))
    for report in ("total", "auto"):
        evaluation = evaluated(None, with_value, report=report, aggregation="sum")
        assert (evaluation.value, evaluation.no_value_reason) == (None, NoValue.UNAVAILABLE)
        assert (evaluation.active, evaluation.known_activity) == (True, None)
        assert (evaluation.with_value, evaluation.expected) == (1, 2)
        assert "GPU 1 (GPU-0001) of node gpu-7" in evaluation.reason
    assert evaluated(workload(pod("a")), with_value, scope="fleet", report="total", aggregation="sum").value is not None


# ---- laws over whole clusters ----

utilizations = st.lists(st.integers(0, 100), min_size=1, max_size=12)


@given(utilizations, st.integers(1, 4), st.sets(st.integers(0, 3)), st.sampled_from(["AverageValue", "Value"]))
def test_law_1_lost_nodes_never_scale_up_and_remove_no_missing_pod(
    values: list[float], nodes: int, lost: set[int], metric_type: str
) -> None:
    known, with_value = spread(values, nodes=nodes)
    known = replace(known, triggers=(replace(known.triggers[0], metric_type=metric_type),))
    full = size(evaluated(known, with_value, minCoverage="0"), known)
    remaining = {name: history for name, history in with_value.peers.items() if int(name[4:]) not in lost}
    evaluation = evaluated(known, replace(with_value, peers=remaining), minCoverage="0")
    missing = sum(one.node not in remaining for one in known.pods)
    if evaluation.value is None:
        assert missing == len(known.pods)
        return
    partial = size(evaluation, known)
    assert partial <= max(len(known.pods), full)
    assert partial >= missing
    if missing:
        assert evaluation.active


@given(utilizations, st.integers(1, 4), st.permutations(range(4)))
def test_law_5_instances_with_the_same_snapshots_answer_the_same(
    values: list[float], nodes: int, order: list[int]
) -> None:
    known, with_value = spread(values, nodes=nodes)
    front_end = evaluated(known, with_value)
    shuffled = {f"gpu-{number}": with_value.peers[f"gpu-{number}"] for number in order if number < nodes}
    assert evaluated(known, replace(with_value, peers=shuffled)) == front_end
    own = shuffled.pop("gpu-0")
    on_a_node = Fleet(own, 10.0, peers=shuffled)
    assert evaluated(known, on_a_node) == front_end
    assert evaluated(known, on_a_node) == front_end


def test_a_pod_on_a_lost_card_is_missing() -> None:
    history = node_history(
        "gpu-7", sample(0, 0.0), sample_without_readings(1), held={device(0).uuid: "a", device(1).uuid: "b"}
    )
    known = workload(pod("a"), pod("b"))
    evaluation = evaluated(known, fleet(history))
    assert evaluation.active
    assert size(evaluation, known) == 1


# ---- a fleet that is not completely known ----


def test_law_1_before_the_nodes_are_listed_one_node_gives_no_value_for_the_fleet() -> None:
    with_value = fleet(node("gpu-7", {"a": 0}), unavailable={PEERS_UNKNOWN: "they are being looked up"})
    evaluation = evaluated(workload(pod("a")), with_value, scope="fleet")
    assert (evaluation.value, evaluation.no_value_reason, evaluation.active, evaluation.known_activity) == (
        None,
        NoValue.UNAVAILABLE,
        True,
        None,
    )
    assert evaluation.reason == "the nodes of the fleet are not known yet: they are being looked up"
    assert (
        evaluated(workload(pod("a")), with_value, scope="node", report="total").no_value_reason is NoValue.MISCONFIGURED
    )  # its own is none


def test_a_node_without_a_snapshot_counts_as_many_devices_as_the_other_nodes_have() -> None:
    known = workload(pod("a"))
    one = node("gpu-0", dict.fromkeys("abcdefgh", 10.0))
    unavailable = {f"gpu-{number}": "UNAVAILABLE" for number in range(1, 8)}
    evaluation = evaluated(known, fleet(one, unavailable=unavailable), scope="fleet")
    assert (evaluation.value, evaluation.with_value, evaluation.expected) == (None, 8, 64)
    unavailable = {"gpu-1": "UNAVAILABLE"}
    evaluation = evaluated(known, fleet(one, unavailable=unavailable), scope="fleet", minCoverage="0.4")
    assert (evaluation.with_value, evaluation.expected) == (8, 16)
    assert [step for step in evaluation.steps if "gpu-1" in step] == ["node gpu-1: UNAVAILABLE"] + (
        ["active: it is not known whether the workload is idle: node gpu-1: UNAVAILABLE"]
        if not evaluation.known_activity
        else []
    )


def test_law_1_a_node_selector_counts_a_peer_whose_node_is_not_known() -> None:
    with_value = replace(
        fleet(node("gpu-7", {"a": 0}), unavailable={"10.0.0.9:6000": "UNAVAILABLE", "gpu-8": "UNAVAILABLE"}),
        node_labels={"gpu-7": {"pool": "a"}, "gpu-8": {"pool": "b"}},
    )
    evaluation = evaluated(
        workload(pod("a")), with_value, scope="fleet", nodeSelector="pool=a", activationThreshold="5"
    )
    assert (evaluation.with_value, evaluation.expected, evaluation.known_activity) == (1, 2, None)


def test_law_5_an_instance_without_a_working_driver_counts_as_missing_on_every_instance() -> None:
    peer = node("gpu-8", {"a": 0})
    why = "NVML: driver/library version mismatch"
    itself = Fleet(None, 10.0, failure=why, peers={"gpu-8": peer}, own_node="gpu-7")
    other = fleet(peer, unavailable={"gpu-7": why})
    known = workload(pod("a", "gpu-8"), pod("b", "gpu-7"))
    for metadata in ({}, {"scope": "fleet"}):
        evaluations = [evaluated(known, with_value, **metadata) for with_value in (itself, other)]
        assert [(one.value, one.active, one.with_value, one.expected) for one in evaluations] == 2 * [
            (evaluations[0].value, True, 1, 2)
        ]
    [step] = [step for step in evaluated(known, itself).steps if step.startswith("pod b")]
    assert step == f"pod b: node gpu-7, the node of this instance, has no sample yet: {why}"


@pytest.mark.parametrize(("expected", "share"), [(100, "0.07"), (50, "0.14"), (25, "0.28")])
def test_min_coverage_is_met_at_its_exact_share(expected: int, share: str) -> None:
    with_value = round(expected * float(share))
    pods = [pod(f"pod-{number:03}", "gpu-7" if number < with_value else "gone") for number in range(expected)]
    held: dict[str, float | None] = {f"pod-{number:03}": 50.0 for number in range(with_value)}
    assert evaluated(workload(*pods), fleet(node("gpu-7", held)), minCoverage=share).value is not None
