# SPDX-License-Identifier: Apache-2.0
"""The verdict on a workload: its pods wherever they are, what they hold, and what cannot be seen of them."""

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
from tests.fakes import blind, device, node_history, pod, sample, workload

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


def judge(known: Workload | Unavailable | None, with_value: Fleet, **metadata: str) -> Evaluation:
    return evaluate(parse_trigger(metadata), with_value, NOW, known, metadata)


def size(evaluation: Evaluation, known: Workload) -> int:
    """What the HPA makes of it."""
    assert evaluation.value is not None
    kind = ValueType(known.triggers[0].metric_type)
    ready = sum(one.is_ready and not one.is_deleting for one in known.pods)
    recommendation = desired_replicas(
        kind, milli(evaluation.value), milli(TARGET), replicas=known.status_replicas, ready_pods=ready
    )
    return recommendation.replicas


def spread(utilizations: Sequence[float | None], *, nodes: int = 2) -> tuple[Workload, Fleet]:
    """As many ready pods as figures, dealt out over nodes."""
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
        pytest.param([92, 92, 92], 4, id="three replicas at 92 % ask for a fourth"),
        pytest.param([0] * 8, 1, id="eight idle ones ask for one"),
        pytest.param([80, 80, 80], 3, id="at the target nothing moves"),
        pytest.param([100] * 8, 10, id="eight saturated ones ask for ten, not for two"),
    ],
)
def test_the_hpa_does_what_the_pods_readings_ask_for(
    utilizations: list[float], replicas: int, metric_type: str
) -> None:
    known, with_value = spread(utilizations)
    known = replace(known, triggers=(replace(known.triggers[0], metric_type=metric_type),))
    evaluation = judge(known, with_value)
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
def test_the_total_or_the_mean_as_the_type_needs_or_the_trigger_says(
    metric_type: str, report: str, value: float
) -> None:
    known = workload(pod("a"), pod("b"), metric_type=metric_type)
    assert judge(known, fleet(node("gpu-7", {"a": 85, "b": 95})), report=report).value == value


def test_only_the_devices_of_its_own_pods_count() -> None:
    with_value = fleet(node("gpu-7", {"a": 50, "stranger": 100}), node("gpu-8", {"b": 70, "other": 0}))
    assert judge(workload(pod("a"), pod("b", "gpu-8")), with_value, report="average").value == 60.0


def test_a_pod_of_that_name_on_another_node_is_another_pod() -> None:
    with_value = fleet(node("old", {"llama-0": 100}), node("new", {"llama-0": 40}))
    assert judge(workload(pod("llama-0", "new")), with_value, report="average").value == 40.0


@pytest.mark.parametrize(
    ("aggregation", "value"), [("max", 90.0), ("min", 10.0), ("avg", 50.0), ("sum", 150.0), ("p95", 90.0)]
)
def test_the_aggregation_makes_one_value_of_a_pods_devices(aggregation: str, value: float) -> None:
    history = node_history(
        "gpu-7", sample(0, 0.1), sample(1, 0.5), sample(2, 0.9), held={device(number).uuid: "a" for number in range(3)}
    )
    known = workload(pod("a"))
    assert judge(known, fleet(history), aggregation=aggregation, report="average").value == value


def shared(utilization: float) -> History:
    """One device that two pods hold."""
    history = node_history("gpu-7", sample(0, utilization), held={device(0).uuid: "a"})
    [both] = history.newest.allocations or ()
    allocations = (both, replace(both, pod="b"))
    return History((replace(history.newest, allocations=allocations),), history.received_at_seconds)


def test_law_4_two_pods_on_one_device_have_half_of_it_each() -> None:
    with_value = fleet(shared(0.9))
    each = [judge(workload(pod(name)), with_value, report="average").value for name in "ab"]
    assert each == [45.0, 45.0]
    both = judge(workload(pod("a"), pod("b")), with_value)
    assert both.value == 90.0
    assert "shared by 2 pods (in equal parts)" in " ".join(both.steps)


def test_a_temperature_is_not_divided() -> None:
    metadata = {"metricType": "temperature", "targetValue": "70", "report": "average"}
    evaluation = judge(workload(pod("a")), fleet(shared(0.9)), **metadata)
    assert evaluation.value == 55.0
    assert "shared by 2 pods (each counts it whole)" in " ".join(evaluation.steps)


def test_what_a_device_did_for_another_pod_before_is_not_this_ones_load() -> None:
    before = node_history("gpu-7", sample(0, 1.0), held={device(0).uuid: "old"}, at=NOW - 3, seconds=5)
    after = node_history("gpu-7", sample(0, 0.2), held={device(0).uuid: "new"}, at=NOW, seconds=3)
    history = History((*before.snapshots, *after.snapshots), NOW)
    assert judge(workload(pod("new")), fleet(history), report="average").value == 20.0
    assert judge(workload(), fleet(history), scope="fleet", report="average").value == 70.0


# ---- what cannot be seen ----


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
            "no fresh sample for 2 of 3 ready pods: node gpu-8 last answered 41 s ago (limit 10 s); node gpu-9 has "
            "told nothing: connection refused",
            id="fewer than half of the pods are seen",
        ),
        pytest.param(
            workload(pod("a")),
            fleet(node("gpu-7", {"a": 50}, known=False)),
            {},
            NoValue.UNAVAILABLE,
            "no fresh sample for 1 of 1 ready pods: node gpu-7 cannot tell who holds its devices; its own log says why",
            id="nobody knows who holds what",
        ),
        pytest.param(
            workload(pod("a")),
            fleet(node("gpu-7", {"a": None})),
            {},
            NoValue.UNAVAILABLE,
            "no fresh sample for 1 of 1 ready pods: GPU 0 (GPU-0000) of node gpu-7 gives no gpu_utilization",
            id="the device gives no reading",
        ),
        pytest.param(
            workload(pod("a"), pod("b")),
            fleet(node("gpu-7", {"stranger": 50})),
            {},
            NoValue.MISCONFIGURED,
            "ai/llama: not one of its 2 pods holds a device that the kubelet handed out: have it request one "
            "(nvidia.com/gpu), or set scope: node or fleet",
            id="its pods hold no device",
        ),
        pytest.param(
            workload(pod("a")),
            fleet(node("gpu-7", {"a": 50})),
            {"gpuModel": "*T4*"},
            NoValue.MISCONFIGURED,
            "ai/llama: not one of its 1 pods holds a device that nodeSelector, gpuModel and gpuIndex mean",
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
def test_law_1_a_workload_that_cannot_be_judged_has_no_value_stays_and_hears_why(
    known: Workload | Unavailable | None,
    with_value: Fleet,
    metadata: dict[str, str],
    no_value_reason: NoValue,
    reason: str,
) -> None:
    evaluation = judge(known, with_value, **metadata)
    assert (evaluation.value, evaluation.no_value_reason, evaluation.reason) == (None, no_value_reason, reason)
    assert (evaluation.active, evaluation.known_activity) == (True, None)


@pytest.mark.parametrize(
    ("seen_utilizations", "replicas"),
    [
        pytest.param([95] * 6, 8, id="growing, silent pods count as idle: six at 95 % of eight do not ask for more"),
        pytest.param([100] * 7, 8, id="growing, what is left of it is within the tolerance"),
        pytest.param([0] * 6, 2, id="shrinking, the two silent pods are kept"),
        pytest.param([80] * 6, 8, id="nothing to do"),
    ],
)
def test_law_1_pods_on_silent_nodes_hold_their_place_and_ask_for_nothing(
    seen_utilizations: list[float], replicas: int
) -> None:
    names = [f"llama-{number}" for number in range(len(seen_utilizations))]
    lost = [pod(f"lost-{number}", "gone") for number in range(8 - len(names))]
    known = workload(*(pod(name) for name in names), *lost)
    evaluation = judge(known, fleet(node("gpu-7", dict(zip(names, seen_utilizations, strict=True)))))
    assert size(evaluation, known) == replicas
    assert evaluation.active


def test_min_coverage_is_the_share_of_ready_pods_that_must_be_seen() -> None:
    known = workload(pod("a"), pod("b", "gone"), pod("c", "gone"))
    with_value = fleet(node("gpu-7", {"a": 50}))
    assert judge(known, with_value).value is None
    assert judge(known, with_value, minCoverage="0.3").value is not None
    assert judge(known, with_value, minCoverage="0").value is not None
    assert judge(known, fleet(), minCoverage="0").value is None


def test_pods_outside_the_trigger_are_neither_unseen_nor_shrunk_away() -> None:
    history = node_history(
        "gpu-7",
        sample(0, 0.0),
        sample(1, 1.0, device=device(1, model="Tesla T4")),
        held={device(0).uuid: "a", device(1).uuid: "b"},
    )
    known = workload(pod("a"), pod("b"))
    evaluation = judge(known, fleet(history), gpuModel="*H100*")
    assert (evaluation.with_value, evaluation.expected) == (1, 1)
    assert size(evaluation, known) == 1
    assert "1 ready pods are not meant: they count as at the target" in evaluation.steps
    # 100 % and, not meant, 80: 90 on average.
    assert size(judge(known, fleet(history), gpuModel="*T4*"), known) == 3


def two_models(h100: float, t4: float) -> tuple[Workload, Fleet]:
    """Ten pods, each on a device of its own: five on H100s that do so much, five on T4s that do so much."""
    devices = [device(index, model="NVIDIA H100" if index < 5 else "Tesla T4") for index in range(10)]
    samples = [sample(one.index, h100 if one.index < 5 else t4, device=one) for one in devices]
    history = node_history("gpu-7", *samples, held={one.uuid: f"pod-{one.index}" for one in devices})
    return workload(*(pod(f"pod-{index}") for index in range(10))), fleet(history)


def test_a_saturated_half_grows_the_workload_whatever_the_other_half_does() -> None:
    known, with_value = two_models(1.0, 0.1)
    assert size(judge(known, with_value, gpuModel="*H100*"), known) == 12


def test_a_half_at_work_keeps_the_workload_awake_though_the_trigger_means_the_other() -> None:
    known, with_value = two_models(0.0, 0.9)
    evaluation = judge(known, with_value, gpuModel="*H100*")
    assert (evaluation.active, evaluation.known_activity) == (True, True)
    assert size(evaluation, known) == 5
    known, with_value = two_models(0.0, 0.0)
    assert judge(known, with_value, gpuModel="*H100*").known_activity is False


def test_law_1_pods_that_the_trigger_does_not_mean_and_nobody_sees_keep_the_workload_awake() -> None:
    known = workload(pod("a"), pod("b", "gone"))
    with_value = replace(fleet(node("gpu-7", {"a": 0})), node_labels={"gpu-7": {"pool": "a"}, "gone": {"pool": "b"}})
    evaluation = judge(known, with_value, nodeSelector="pool=a")
    assert (evaluation.active, evaluation.known_activity) == (True, None)


@pytest.mark.parametrize(
    ("metric_type", "report", "right"),
    [("AverageValue", "average", "total"), ("Value", "total", "average")],
)
def test_a_report_that_contradicts_the_triggers_own_type_is_refused(metric_type: str, report: str, right: str) -> None:
    known = workload(pod("a"), triggers=(DeclaredTrigger({"report": report}, metric_type),))
    with_value = fleet(node("gpu-7", {"a": 100}))
    evaluation = judge(known, with_value, report=report)
    assert evaluation.no_value_reason is NoValue.MISCONFIGURED
    other = "Value" if metric_type == "AverageValue" else "AverageValue"
    assert evaluation.reason == (
        f'metadata.report: Invalid value: "{report}": of this trigger\'s metricType {metric_type} the HPA expects the '
        f"{right}: leave report out, or set metricType: {other} on the trigger"
    )
    # Of a person who tries something out, and sends what no trigger has, nobody knows better.
    assert judge(known, with_value, report=report, windowSeconds="0").value is not None


@pytest.mark.parametrize(
    ("percent", "jobs", "wanted"),
    [
        pytest.param(81, 8, 8, id="a hair above the target"),
        pytest.param(88, 8, 8, id="at the edge of the tolerance"),
        pytest.param(95, 8, 10, id="above it"),
        pytest.param(40, 8, 4, id="below it"),
        pytest.param(0, 3, 0, id="idle"),
    ],
)
def test_jobs_are_told_so_that_keda_which_knows_no_tolerance_for_them_does_as_the_hpa_would(
    percent: float, jobs: int, wanted: int
) -> None:
    known = workload(*(pod(f"job-{index}") for index in range(jobs)), kind="ScaledJob", target="ScaledJob llama")
    evaluation = judge(known, fleet(node("gpu-7", {f"job-{index}": percent for index in range(jobs)})))
    assert evaluation.value is not None
    assert math.ceil(evaluation.value / 80) == wanted


def test_a_node_selector_means_the_pods_on_these_nodes() -> None:
    with_value = replace(
        fleet(node("gpu-7", {"a": 90}), node("gpu-8", {"b": 10})),
        node_labels={"gpu-7": {"pool": "a"}, "gpu-8": {"pool": "b"}},
    )
    known = workload(pod("a", "gpu-7"), pod("b", "gpu-8"), metric_type="Value")
    evaluation = judge(known, with_value, nodeSelector="pool=b", report="average")
    assert "pod a: node gpu-7 is outside nodeSelector" in evaluation.steps
    assert (evaluation.with_value, evaluation.expected) == (1, 1)


# ---- what is not running, or not yet ----


def test_a_workload_scaled_to_zero_is_idle_whatever_cannot_be_seen() -> None:
    evaluation = judge(workload(replicas=0), fleet())
    assert (evaluation.value, evaluation.active, evaluation.known_activity) == (0.0, False, False)


def test_a_workload_whose_last_pods_are_ending_is_asleep() -> None:
    evaluation = judge(workload(pod("a", is_deleting=True), replicas=0), fleet(node("gpu-7", {"a": 90})))
    assert (evaluation.value, evaluation.active) == (0.0, False)


def test_a_workload_that_was_woken_and_has_no_pod_yet_is_kept() -> None:
    evaluation = judge(workload(replicas=1), fleet())
    assert (evaluation.active, evaluation.known_activity) == (True, None)


def test_a_pod_that_loads_its_model_keeps_the_workload_active_for_its_grace() -> None:
    known = workload(pod("a"), pod("b", ready=False, age=599))
    with_value = fleet(node("gpu-7", {"a": 0, "b": 0}))
    young = judge(known, with_value)
    assert (young.active, young.known_activity) == (True, True)
    assert young.steps[-1] == "active: b is starting, 599 s old"
    assert judge(known, with_value, startupGraceSeconds="599").active is False


@pytest.mark.parametrize(
    ("utilization", "replicas"),
    [
        pytest.param(80, 2, id="at the target: no shrinking because one is loading"),
        pytest.param(100, 2, id="above: the one that is loading will help, no doubling"),
        pytest.param(0, 1, id="idle"),
    ],
)
def test_a_pod_that_is_loading_neither_doubles_the_fleet_nor_lets_it_shrink(utilization: float, replicas: int) -> None:
    known = workload(pod("a"), pod("b", ready=False, age=30))
    with_value = fleet(node("gpu-7", {"a": utilization, "b": 0}))
    assert max(1, size(judge(known, with_value), known)) == replicas


def test_while_all_pods_are_starting_nothing_moves_and_there_is_an_answer() -> None:
    known = workload(pod("a", ready=False, age=30), pod("b", None, ready=False, age=30))
    evaluation = judge(known, fleet(node("gpu-7", {"a": 0})))
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
def test_pods_that_end_are_ignored(gone: dict[str, Any]) -> None:
    known = workload(pod("a"), pod("b", **gone))
    with_value = fleet(node("gpu-7", {"a": 50, "b": 100}))
    evaluation = judge(known, with_value)
    assert (evaluation.value, evaluation.expected) == (50.0, 1)


def test_a_pod_waiting_for_a_node_longer_than_its_grace_does_not_keep_the_workload_awake() -> None:
    known = workload(pod("a"), pod("b", None, ready=False, age=3600))
    assert judge(known, fleet(node("gpu-7", {"a": 0}))).active is False


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
        evaluation = judge(workload(pod("a"), pending), with_value)
        assert (evaluation.with_value, evaluation.expected) == (1, 1)
        assert (evaluation.active, evaluation.known_activity) == (active, active)
        [_, unready] = evaluation.observations
        assert unready.value is None
        assert isinstance(unready, PodObservation)
        assert unready.observation is not ObservationState.OBSERVED


def test_active_means_that_any_pod_is_above_the_threshold() -> None:
    known = workload(pod("a"), pod("b"))
    quiet, busy = fleet(node("gpu-7", {"a": 5, "b": 5})), fleet(node("gpu-7", {"a": 0, "b": 6}))
    assert judge(known, quiet, activationThreshold="5").active is False
    assert judge(known, busy, activationThreshold="5").active is True


def test_law_1_a_ready_pod_that_cannot_be_seen_keeps_an_idle_workload() -> None:
    known = workload(pod("a"), pod("b", "gone"))
    evaluation = judge(known, fleet(node("gpu-7", {"a": 0})))
    assert (evaluation.active, evaluation.known_activity) == (True, None)


def test_ambiguous_types_are_refused_with_the_way_out() -> None:
    known = workload(pod("a"))
    [declared] = known.triggers
    known = replace(
        known,
        triggers=(
            replace(declared, metadata={"targetValue": "1"}),
            replace(declared, metadata={"targetValue": "2"}, metric_type="Value"),
        ),
    )
    evaluation = judge(known, fleet(node("gpu-7", {"a": 50})))
    assert evaluation.no_value_reason is NoValue.MISCONFIGURED
    assert "set report: total (for AverageValue) or average (for Value)" in evaluation.reason
    assert "average of 1 pods: 50" in judge(known, fleet(node("gpu-7", {"a": 50})), targetValue="2").steps


def test_the_steps_say_where_the_value_came_from() -> None:
    known = workload(pod("a"), pod("b", "gone"), pod("c", None, ready=False, age=30))
    evaluation = judge(known, fleet(node("gpu-7", {"a": 92})), activationThreshold="5")
    assert evaluation.steps[:4] == (
        "scope workload: gpu_utilization of Deployment llama (mean of the last 10 s): 3 replicas of 3 wanted, "
        "2 ready pods, 1 seen",
        "pod a: 92 % on node gpu-7: GPU 0 NVIDIA H100 92 %",
        "pod b: node gone has told nothing: is an instance running there, and does discovery find it?",
        "pod c (not ready): not scheduled yet",
    )
    assert evaluation.steps[-1] == "active: 92 is above activationThreshold 5"


# ---- the fleet and the node ----


def test_scope_fleet_is_every_device_and_multiplies_by_the_replicas() -> None:
    with_value = fleet(node("gpu-7", {"stranger": 90}), node("gpu-8", {"other": 30}))
    known = workload(pod("a", "gpu-7"), pod("b", "gpu-8"), pod("c", "gpu-8"))
    assert judge(known, with_value, scope="fleet").value == 270.0
    assert judge(known, with_value, scope="fleet", report="average").value == 90.0
    assert judge(known, with_value, scope="fleet", aggregation="sum").value == 120.0


def test_scope_fleet_counts_silent_peers_as_unseen() -> None:
    with_value = fleet(node("gpu-7", {"a": 20}), unavailable={"10.0.0.9:6000": "connection refused"})
    evaluation = judge(workload(pod("a")), with_value, scope="fleet", report="average")
    assert (evaluation.value, evaluation.with_value, evaluation.expected) == (TARGET, 1, 2)
    assert "node 10.0.0.9:6000: connection refused" in evaluation.steps


def test_law_1_a_sleeping_workload_is_not_woken_because_part_of_the_fleet_is_silent() -> None:
    with_value = fleet(node("gpu-7", {"a": 0}), unavailable={"gpu-8": "connection refused"})
    assert judge(workload(replicas=0), with_value, scope="fleet").active is False
    assert judge(workload(replicas=1), with_value, scope="fleet").active is True


def test_without_replicas_the_total_of_an_aggregate_is_refused_with_the_ways_out() -> None:
    evaluation = judge(None, fleet(node("gpu-7", {"a": 50})))
    assert evaluation.no_value_reason is NoValue.MISCONFIGURED
    assert evaluation.reason == (
        "metadata.report: under metricType AverageValue the total over the replicas is needed, and their number is not "
        "known: give this instance access to the API server (chart: rbac.create), or set report: average here and "
        "metricType: Value on the trigger"
    )
    assert judge(None, fleet(node("gpu-7", {"a": 50})), aggregation="sum").value == 50.0


def test_law_1_a_sum_with_a_missing_device_has_no_value_where_the_replicas_are_not_known() -> None:
    with_value = fleet(node("gpu-7", {"a": 50, "b": None}))
    for report in ("total", "auto"):
        evaluation = judge(None, with_value, report=report, aggregation="sum")
        assert (evaluation.value, evaluation.no_value_reason) == (None, NoValue.UNAVAILABLE)
        assert (evaluation.active, evaluation.known_activity) == (True, None)
        assert (evaluation.with_value, evaluation.expected) == (1, 2)
        assert "GPU 1 (GPU-0001) of node gpu-7" in evaluation.reason
    assert judge(workload(pod("a")), with_value, scope="fleet", report="total", aggregation="sum").value is not None


# ---- laws over whole clusters ----

utilizations = st.lists(st.integers(0, 100), min_size=1, max_size=12)


@given(utilizations, st.integers(1, 4), st.sets(st.integers(0, 3)), st.sampled_from(["AverageValue", "Value"]))
def test_law_1_losing_nodes_never_asks_for_more_and_shrinks_no_unseen_pod(
    values: list[float], nodes: int, lost: set[int], metric_type: str
) -> None:
    known, with_value = spread(values, nodes=nodes)
    known = replace(known, triggers=(replace(known.triggers[0], metric_type=metric_type),))
    full = size(judge(known, with_value, minCoverage="0"), known)
    remaining = {name: history for name, history in with_value.peers.items() if int(name[4:]) not in lost}
    evaluation = judge(known, replace(with_value, peers=remaining), minCoverage="0")
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
    front_end = judge(known, with_value)
    shuffled = {f"gpu-{number}": with_value.peers[f"gpu-{number}"] for number in order if number < nodes}
    assert judge(known, replace(with_value, peers=shuffled)) == front_end
    own = shuffled.pop("gpu-0")
    on_a_node = Fleet(own, 10.0, peers=shuffled)
    assert judge(known, on_a_node) == front_end
    assert judge(known, on_a_node) == front_end


def test_a_lost_card_is_a_pod_that_cannot_be_seen() -> None:
    history = node_history("gpu-7", sample(0, 0.0), blind(1), held={device(0).uuid: "a", device(1).uuid: "b"})
    known = workload(pod("a"), pod("b"))
    evaluation = judge(known, fleet(history))
    assert evaluation.active
    assert size(evaluation, known) == 1


# ---- a fleet of which not everything is known ----


def test_law_1_before_anybody_said_which_nodes_there_are_one_node_does_not_speak_for_the_fleet() -> None:
    with_value = fleet(node("gpu-7", {"a": 0}), unavailable={PEERS_UNKNOWN: "they are being looked up"})
    evaluation = judge(workload(pod("a")), with_value, scope="fleet")
    assert (evaluation.value, evaluation.no_value_reason, evaluation.active, evaluation.known_activity) == (
        None,
        NoValue.UNAVAILABLE,
        True,
        None,
    )
    assert evaluation.reason == "nobody knows which nodes the fleet has: they are being looked up"
    assert (
        judge(workload(pod("a")), with_value, scope="node", report="total").no_value_reason is NoValue.MISCONFIGURED
    )  # its own is none


def test_a_node_that_told_nothing_counts_as_many_devices_as_the_others_have() -> None:
    known = workload(pod("a"))
    one = node("gpu-0", dict.fromkeys("abcdefgh", 10.0))
    unavailable = {f"gpu-{number}": "UNAVAILABLE" for number in range(1, 8)}
    evaluation = judge(known, fleet(one, unavailable=unavailable), scope="fleet")
    assert (evaluation.value, evaluation.with_value, evaluation.expected) == (None, 8, 64)
    unavailable = {"gpu-1": "UNAVAILABLE"}
    evaluation = judge(known, fleet(one, unavailable=unavailable), scope="fleet", minCoverage="0.4")
    assert (evaluation.with_value, evaluation.expected) == (8, 16)
    assert [step for step in evaluation.steps if "gpu-1" in step] == ["node gpu-1: UNAVAILABLE"] + (
        ["active: nobody can tell that it is idle: node gpu-1: UNAVAILABLE"] if not evaluation.known_activity else []
    )


def test_law_1_a_node_selector_does_not_drop_a_peer_whose_node_is_not_known() -> None:
    with_value = replace(
        fleet(node("gpu-7", {"a": 0}), unavailable={"10.0.0.9:6000": "UNAVAILABLE", "gpu-8": "UNAVAILABLE"}),
        node_labels={"gpu-7": {"pool": "a"}, "gpu-8": {"pool": "b"}},
    )
    evaluation = judge(workload(pod("a")), with_value, scope="fleet", nodeSelector="pool=a", activationThreshold="5")
    assert (evaluation.with_value, evaluation.expected, evaluation.known_activity) == (1, 2, None)


def test_law_5_an_instance_whose_own_driver_never_came_up_is_unseen_to_itself_as_it_is_to_others() -> None:
    peer = node("gpu-8", {"a": 0})
    why = "NVML: driver/library version mismatch"
    itself = Fleet(None, 10.0, failure=why, peers={"gpu-8": peer}, own_node="gpu-7")
    other = fleet(peer, unavailable={"gpu-7": why})
    known = workload(pod("a", "gpu-8"), pod("b", "gpu-7"))
    for metadata in ({}, {"scope": "fleet"}):
        evaluations = [judge(known, with_value, **metadata) for with_value in (itself, other)]
        assert [(one.value, one.active, one.with_value, one.expected) for one in evaluations] == 2 * [
            (evaluations[0].value, True, 1, 2)
        ]
    [step] = [step for step in judge(known, itself).steps if step.startswith("pod b")]
    assert step == f"pod b: node gpu-7, this instance's own, has no sample yet: {why}"


@pytest.mark.parametrize(("expected", "share"), [(100, "0.07"), (50, "0.14"), (25, "0.28")])
def test_min_coverage_is_met_at_its_edge(expected: int, share: str) -> None:
    with_value = round(expected * float(share))
    pods = [pod(f"pod-{number:03}", "gpu-7" if number < with_value else "gone") for number in range(expected)]
    held: dict[str, float | None] = {f"pod-{number:03}": 50.0 for number in range(with_value)}
    assert judge(workload(*pods), fleet(node("gpu-7", held)), minCoverage=share).value is not None
