# SPDX-License-Identifier: Apache-2.0
"""Tests of devices that are divided by what the processes of each pod use of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.attribution import DeviceShare, attribute
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.evaluate.measured_shares import MeasuredShares
from keda_gpu_scaler.core.pod_use import PROCESS_UTILIZATION, PodUse
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.trigger.metrics import METRICS
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import (
    KUBELET_ONLY,
    Allocation,
    AssignedPod,
    ClusterAssignments,
    Pod,
    PodRef,
    ReadingFailure,
    Snapshot,
)
from tests.fakes import device, pod, sample, workload

NOW = 1000.0
UTILIZATION = METRICS["gpu_utilization"]
Uses = tuple[PodUse, ...] | None


def used(**ratios: float) -> tuple[PodUse, ...]:
    """The uses of pods by name: the UID of the pod "a" is "uid-a". ``none`` stands for processes of no known pod."""
    uses = [PodUse("" if name == "none" else f"uid-{name}", ratio, ratio, 0) for name, ratio in ratios.items()]
    return tuple(sorted(uses, key=lambda use: use.pod_uid))


def member(name: str) -> Pod:
    return pod(name, uid=f"uid-{name}")


def history(*uses: Uses, holders: str = "ab", utilization: float = 0.8, **changes: object) -> History:
    """A device that pods hold, with a snapshot for each of the uses, a second apart, the last one at ``NOW``."""
    held = tuple(Allocation("ai", name, "server", "nvidia.com/gpu", device(0).uuid) for name in holders)
    snapshots = [
        Snapshot("gpu-7", number, NOW - len(uses) + 1 + number, 1.7e9, "nvml", (replace(one, **changes),), held)  # type: ignore[arg-type]
        for number, one in enumerate(sample(0, utilization, uses=use) for use in uses)
    ]
    return History(tuple(snapshots), NOW)


def evaluated(
    node: History, *names: str, cluster: ClusterAssignments = KUBELET_ONLY, metadata: Mapping[str, str] | None = None
) -> Evaluation:
    """Evaluate a workload with these pods."""
    known = replace(workload(*map(member, names)), assignments=cluster)
    fleet = Fleet(None, 10.0, deviceless=True, peers={"gpu-7": node}, assignments=cluster)
    return evaluate(parse_trigger(metadata or {}), fleet, NOW, known, metadata or {})


def steps(node: History, *names: str, **metadata: str) -> str:
    return " ".join(evaluated(node, *names, metadata=metadata).steps)


def values(node: History, *names: str, **metadata: str) -> list[float | None]:
    """The value of each pod of one workload."""
    return [one.value for one in evaluated(node, *names, metadata=metadata).observations]


EQUAL = [40.0, 40.0]


@pytest.mark.parametrize(
    ("uses", "expected"),
    [
        pytest.param([used(a=0.6, b=0.2)], [60.0, 20.0], id="by what each pod uses"),
        pytest.param([used(a=0.1)], [80.0, 0.0], id="a pod without a process uses nothing"),
        pytest.param([used(a=0.0, b=0.3)], [0.0, 80.0], id="a pod whose processes rest uses nothing"),
        pytest.param([used()], EQUAL, id="no process at all: equal"),
        pytest.param([used(a=0.0, b=0.0)], EQUAL, id="an idle device: equal"),
        pytest.param([None], EQUAL, id="nothing is measured: equal"),
        pytest.param([used(a=0.6, b=0.2, none=0.0)], [60.0, 20.0], id="a process of no pod that rests"),
        pytest.param([used(a=0.6, b=0.2, none=0.1)], EQUAL, id="a process of no pod at work: equal"),
        pytest.param([used(a=0.6, b=0.2, c=0.1)], EQUAL, id="more pods than hold it: equal"),
        pytest.param([used(a=0.6, c=0.1)], EQUAL, id="a pod that does not hold it: equal"),
        pytest.param([used(a=0.6, b=0.2), used(a=0.2, b=0.6)], EQUAL, id="the sum over the window"),
        pytest.param([used(a=0.6, b=0.2), None], EQUAL, id="a snapshot without uses ends the measurement"),
        pytest.param([None, used(a=0.6, b=0.2)], [60.0, 20.0], id="a snapshot without uses before"),
        pytest.param([used(a=0.6, b=0.2), used()], [60.0, 20.0], id="a snapshot without a new sample"),
    ],
)
def test_a_device_is_divided(uses: Sequence[Uses], expected: list[float]) -> None:
    assert values(history(*uses), "a", "b", windowSeconds="30") == expected


def test_without_a_window_the_newest_snapshot_counts() -> None:
    assert values(history(used(a=0.9), used(a=0.2, b=0.6)), "a", "b", windowSeconds="0") == [20.0, 60.0]


def test_a_failed_read_is_bridged_by_the_window() -> None:
    failure = ReadingFailure(PROCESS_UTILIZATION, "Unknown Error (999)", NOW)
    known = history(used(a=0.6, b=0.2), None)
    newest = replace(known.newest, samples=(replace(known.newest.samples[0], failures=(failure,)),))
    bridged = History((known.snapshots[0], newest), NOW)
    assert values(bridged, "a", "b", windowSeconds="30") == [60.0, 20.0]
    assert values(bridged, "a", "b", windowSeconds="0") == EQUAL
    assert "in equal shares; not measured: Unknown Error (999)" in steps(bridged, "a", "b", windowSeconds="0")


@pytest.mark.parametrize(
    ("uses", "sentence"),
    [
        pytest.param(used(a=0.6, b=0.2), "(this one has 75 % of it, measured by process)", id="measured"),
        pytest.param(used(), "(in equal shares)", id="idle"),
        pytest.param(None, "(in equal shares)", id="not requested"),
        pytest.param(
            used(a=0.6, none=0.1), "(in equal shares; not measured: a process of no known pod uses it too)", id="no pod"
        ),
        pytest.param(
            used(a=0.6, c=0.1), "(in equal shares; not measured: a pod that does not hold it uses it too)", id="other"
        ),
        pytest.param(
            used(a=0.1, b=0.1, c=0.1), "(in equal shares; not measured: more pods use it than hold it)", id="more pods"
        ),
    ],
)
def test_explain_names_the_rule(uses: Uses, sentence: str) -> None:
    assert sentence in steps(history(uses), "a", "b")


def test_stated_parts_are_the_next_choice() -> None:
    def marked(name: str, fraction: str) -> AssignedPod:
        return AssignedPod(PodRef("ai", name), "gpu-7", (("gpu-fraction", fraction), ("runai-gpu-group", "g")))

    reserved = PodRef("kai-resource-reservation", "r")
    reservation = AssignedPod(reserved, "gpu-7", (("runai-gpu-group", "g"),))
    cluster = ClusterAssignments((marked("a", "0.2"), marked("b", "0.6"), reservation))

    def kai(uses: Uses) -> History:
        listed = (Allocation(reserved.namespace, "r", "c", "nvidia.com/gpu", device(0).uuid),)
        return History((replace(history(uses).newest, allocations=listed),), NOW)

    assert [one.value for one in evaluated(kai(None), "a", "b", cluster=cluster).observations] == [20.0, 60.0]
    measured = evaluated(kai(used(a=0.3, b=0.1)), "a", "b", cluster=cluster)
    assert [one.value for one in measured.observations] == [60.0, 20.0]
    stated = evaluated(kai(used(a=0.3, none=0.1)), "a", "b", cluster=cluster)
    assert [one.value for one in stated.observations] == [20.0, 60.0]
    assert "25 % of it, by gpu-fraction; not measured: a process of no known pod" in " ".join(stated.steps)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        pytest.param("gpu_utilization", [60.0, 20.0], id="by the time of the multiprocessors"),
        pytest.param("memory_utilization", [5.0, 20.0], id="by the time of the memory"),
        pytest.param("memory_used_mib", [10240.0, 30720.0], id="by the bytes in use"),
        pytest.param("temperature", [55.0, 55.0], id="a temperature is not divided"),
    ],
)
def test_each_metric_is_divided_by_its_own_use(metric: str, expected: list[float]) -> None:
    uses = (PodUse("uid-a", 0.6, 0.1, 1 << 30), PodUse("uid-b", 0.2, 0.4, 3 << 30))
    trigger = {"metricType": metric, "targetValue": "80"}
    assert values(history(uses), "a", "b", **trigger) == pytest.approx(expected)


def test_memory_that_is_not_known_is_divided_equally_and_the_reason_named() -> None:
    uses = (PodUse("uid-a", 0.6, 0.1, 1 << 30), PodUse("uid-b", 0.2, 0.4, None))
    known = history(uses)
    assert values(known, "a", "b", metricType="memory_used_mib", targetValue="80") == [20480.0, 20480.0]
    sentences = steps(known, "a", "b", metricType="memory_used_mib", targetValue="80")
    assert "not measured: the driver does not return the memory of each process" in sentences


def test_a_device_with_one_holder_is_its_own_whatever_uses_it() -> None:
    assert values(history(used(c=0.5), holders="a"), "a") == [80.0]


def test_readings_from_before_the_present_holders_do_not_count() -> None:
    before = history(used(a=0.9, c=0.1), holders="ac")
    known = history(used(a=0.9, c=0.1), used(a=0.2, b=0.6))
    earlier = replace(known.snapshots[0], allocations=before.newest.allocations)
    assert values(History((earlier, known.newest), NOW), "a", "b", windowSeconds="30") == [20.0, 60.0]


def test_law_1_a_pod_without_a_known_uid_has_no_value() -> None:
    node = history(used(x=0.6, b=0.2))
    known = workload(pod("a"), member("b"))
    fleet = Fleet(None, 10.0, deviceless=True, peers={"gpu-7": node})
    result = evaluate(parse_trigger({}), fleet, NOW, replace(known, pods=(pod("a"),)), {})
    assert result.value is None or result.with_value == 0
    assert "its UID, by which its processes are found, is not known" in str(result)


# ---- law 4 ----

NAMES = "abc"
RATIOS = st.integers(0, 300).map(lambda percent: percent / 100)
MOMENTS = st.none() | st.dictionaries(st.sampled_from([*NAMES, "x", "none"]), RATIOS)
HISTORIES = st.lists(MOMENTS, min_size=1, max_size=4)


def shares_of(node: History, name: str, pods: Sequence[Pod]) -> DeviceShare:
    attributed = attribute(node.newest) or {}
    measured = MeasuredShares(UTILIZATION, 60.0, KUBELET_ONLY, pods)
    [share] = measured.of(member(name), attributed[PodRef("ai", name)].shares, node)
    return share


def part(share: DeviceShare) -> Fraction:
    return Fraction(1, share.sharers) if share.part is None else share.part


def as_history(moments: Sequence[Mapping[str, float] | None]) -> History:
    return history(*(None if moment is None else used(**moment) for moment in moments), holders=NAMES)


@given(HISTORIES)
def test_law_4_measured_shares_of_one_workload_add_up_to_the_device(
    moments: list[Mapping[str, float] | None],
) -> None:
    node, pods = as_history(moments), [member(name) for name in NAMES]
    shares = [shares_of(node, name, pods) for name in NAMES]
    assert sum(map(part, shares)) == 1
    assert len({(share.is_measured, share.not_measured) for share in shares}) == 1


@given(HISTORIES)
def test_law_4_no_part_of_a_device_is_given_to_two_workloads(moments: list[Mapping[str, float] | None]) -> None:
    node = as_history(moments)
    shares = [shares_of(node, name, [member(name)]) for name in NAMES]
    assert len({share.is_measured for share in shares}) == 1
    foreign = any(moment.get("x") for moment in moments if moment is not None)
    total = sum(map(part, shares))
    assert total <= 1
    if not (shares[0].is_measured and foreign):
        assert total == 1


@given(HISTORIES)
def test_law_3_asking_twice_gives_the_same_shares(moments: list[Mapping[str, float] | None]) -> None:
    node, pods = as_history(moments), [member(name) for name in NAMES]
    assert shares_of(node, "a", pods) == shares_of(node, "a", pods)
