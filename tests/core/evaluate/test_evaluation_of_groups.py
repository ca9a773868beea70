# SPDX-License-Identifier: Apache-2.0
"""Tests workloads whose replicas are several pods: clusters, each with the size that the HPA reaches."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.evaluate.observation import ObservationState, PodObservation
from keda_gpu_scaler.core.evaluate.replica_groups import grouped_pods, replica_groups
from keda_gpu_scaler.core.evaluate.workload_view import WorkloadView, scrape_requests
from keda_gpu_scaler.core.scaling_rules import Formula
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import Pod, Workload
from tests.core.hpa.oracle import UNREADY, external_average_value, external_value, resource_metric
from tests.examples_drawn import examples
from tests.fakes import device, node_history, pod, sample, workload

NOW = 1000.0
TARGET = 80

Member = float | str | None
"""A pod: a utilisation in per cent, None without a reading, "loading" (not ready), "none" (it holds no device)."""
Group = Sequence[Member]
"""The pods of one replica, the leader first."""
Groups = Sequence[Group]


@dataclass(frozen=True)
class Kind:
    """A kind of scale target: how its pods look, and what its sizes and the HPA count.

    ``selects`` says which pods the selector of its scale subresource matches.
    """

    counts_pods: bool
    make: Callable[[str, str, int, int], Pod]
    metadata: Mapping[str, str] = field(default_factory=dict)
    selects: Callable[[Pod], bool] = lambda pod: True


def lws_pod(name: str, group: str, number: int, size: int) -> Pod:
    return pod(name, group=group, group_size=size, is_worker=number > 0)


def ray_pod(name: str, group: str, number: int, size: int) -> Pod:
    return pod(name, group=group, group_size=number + 1)


def labelled_pod(name: str, group: str, number: int, size: int) -> Pod:
    return pod(name, labels=(("example.com/group", group), ("example.com/rank", str(number))))


LWS = Kind(False, lws_pod, selects=lambda one: not one.is_worker)
RAY = Kind(False, ray_pod)
BY_LABEL = {"groupBy": "example.com/group", "groupSize": "2"}
STATEFUL_SET = Kind(True, labelled_pod, BY_LABEL)
CUSTOM = Kind(False, labelled_pod, {"groupBy": "example.com/group"})


def scene(
    kind: Kind, groups: Groups, size: int, spec: int | None = None, metric_type: str = "AverageValue", **changes: object
) -> tuple[Workload, Fleet]:
    """A workload of these groups, each of ``size`` pods when it is complete. Every device is on one node."""
    pods: list[Pod] = []
    held: dict[str, float | None] = {}
    for number, members in enumerate(groups):
        for index, value in enumerate(members):
            one = kind.make(f"llama-{number:03}-{index}", f"llama-{number:03}", index, size)
            if value == "loading":
                one = replace(one, is_ready=False)
            elif not isinstance(value, str):
                held[one.ref.name] = value
            pods.append(one)
    exist = len(pods) if kind.counts_pods else len(groups)
    known = workload(
        *pods,
        replicas=exist if spec is None else spec,
        metric_type=metric_type,
        counts_pods=kind.counts_pods,
        selected_ready_pods=sum(one.is_serving for one in pods if kind.selects(one)),
        target="LeaderWorkerSet llama",
        **changes,
    )
    known = replace(known, status_replicas=exist)
    return known, Fleet(None, 10.0, deviceless=True, peers={"gpu-7": node(held)})


def node(held: Mapping[str, float | None]) -> History:
    samples = [sample(number, None if value is None else value / 100) for number, value in enumerate(held.values())]
    holders = {device(number).uuid: owner for number, owner in enumerate(held)}
    return node_history("gpu-7", *samples, held=holders, at=NOW)


def evaluated(kind: Kind, known: Workload, fleet: Fleet, **metadata: str) -> Evaluation:
    given = {"minCoverage": "0", **kind.metadata, **metadata}
    return evaluate(parse_trigger(given), fleet, NOW, known, given)


def hpa_size(known: Workload, value: float, metric_type: str) -> int:
    """The size that the HPA computes, from its Go source."""
    milli = round(value * 1000)
    if metric_type == "AverageValue":
        return external_average_value(milli, TARGET * 1000, known.status_replicas)
    return external_value(milli, TARGET * 1000, known.spec_replicas, known.hpa_ready_pods)


# ---- ten polls ----

Share = Callable[[float], Group]
"""The pods of a group that carries this load."""


def idle_leader(load: float) -> Group:
    return [5, load, load, load]


def equal(load: float) -> Group:
    return [load, load]


def launcher(load: float) -> Group:
    return ["none", load]


@dataclass(frozen=True)
class Polls:
    """A load that the groups of a workload share, the number of groups at the beginning, and after ten polls.

    ``broken`` are groups that stay as they are and carry no load.
    """

    kind: Kind
    share: Share
    load: float
    groups: int
    after: int
    broken: Groups = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


CLUSTERS = {
    "leaders are idle, and workers at the target": Polls(LWS, idle_leader, 320, 4, 4),
    "leaders are idle, and workers busy": Polls(LWS, idle_leader, 380, 4, 5),
    "leaders are idle, and workers half busy": Polls(LWS, idle_leader, 160, 4, 2),
    "leaders are idle, and workers too": Polls(LWS, idle_leader, 0, 4, 1),
    "twice the load": Polls(LWS, idle_leader, 640, 4, 8),
    "a group that is created stops no growth": Polls(LWS, idle_leader, 800, 4, 10, broken=[[5, "loading"]]),
    "a half-created group counts as idle": Polls(LWS, idle_leader, 320, 3, 4, broken=[[5.0]]),
    "an unknown worker prevents a smaller size": Polls(LWS, idle_leader, 240, 3, 4, broken=[[5, 5, None, 5]]),
    "the mean of all devices of a group": Polls(LWS, idle_leader, 400, 4, 4, metadata={"aggregation": "avg"}),
    "a launcher without a device": Polls(LWS, launcher, 380, 4, 5),
    "a multi-host group of Ray": Polls(RAY, equal, 380, 4, 5),
    "a multi-host group of Ray without its first host": Polls(RAY, equal, 240, 3, 4, broken=[["loading", 10]]),
    "a stateful set whose size counts pods": Polls(STATEFUL_SET, equal, 380, 4, 5),
    "a stateful set at the target": Polls(STATEFUL_SET, equal, 320, 4, 4),
    "a stateful set that shrinks by groups": Polls(STATEFUL_SET, equal, 200, 4, 3),
    "a custom resource with a label": Polls(CUSTOM, equal, 380, 4, 5),
}  # fmt: skip


@pytest.mark.parametrize("metric_type", ["AverageValue", "Value"])
@pytest.mark.parametrize("row", CLUSTERS.values(), ids=CLUSTERS)
def test_the_size_after_ten_polls(row: Polls, metric_type: str) -> None:
    size, groups = len(row.share(0)), row.groups + len(row.broken)
    for _ in range(10):
        working = max(1, groups - len(row.broken))
        members = [*[row.share(row.load / working)] * working, *row.broken]
        unit = size if row.kind.counts_pods else 1
        known, fleet = scene(row.kind, members, size, spec=groups * unit, metric_type=metric_type)
        evaluation = evaluated(row.kind, known, fleet, **row.metadata)
        assert evaluation.value is not None
        groups, rest = divmod(hpa_size(known, evaluation.value, metric_type), unit)
        assert not rest, "a size between two groups"
        groups = max(1, groups)
    assert groups == row.after


# ---- the parts ----


@pytest.mark.parametrize(
    ("groups", "metadata", "value"),
    [
        pytest.param([[10, 95], [10, 95]], {}, 190, id="the busiest device of each group"),
        pytest.param([[10, 50], [30, 50]], {"aggregation": "sum"}, 140, id="all devices of a group"),
        pytest.param([[10, 95], [10, 95]], {"groupBy": "none"}, 210, id="without grouping each pod is a replica"),
        pytest.param([[10, 95], [10, 95]], {"report": "average"}, 95, id="the mean over the groups"),
    ],
)
def test_the_value_of_a_group(groups: Groups, metadata: dict[str, str], value: float | None) -> None:
    known, fleet = scene(LWS, groups, 2)
    if metadata.get("groupBy") == "none":
        known = replace(known, spec_replicas=4, status_replicas=4)
    assert evaluated(LWS, known, fleet, **metadata).value == value


def test_devices_of_a_group_count_once_each_whatever_pod_holds_them() -> None:
    """The mean over three devices of two pods is not the mean of the pods' means."""
    pods = [lws_pod("llama-0", "llama-0", 0, 2), lws_pod("llama-0-1", "llama-0", 1, 2)]
    samples = [sample(0, 0.9), sample(1, 0.3), sample(2, 0.3)]
    holders = {device(0).uuid: "llama-0", device(1).uuid: "llama-0-1", device(2).uuid: "llama-0-1"}
    fleet = Fleet(None, 10.0, deviceless=True, peers={"gpu-7": node_history("gpu-7", *samples, held=holders, at=NOW)})
    view = WorkloadView(parse_trigger({"aggregation": "avg"}), workload(*pods, replicas=1), fleet, NOW)
    assert [round(group.value or 0, 6) for group in view.groups] == [50]


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        pytest.param([95, 95], "replica llama-000: 2 pods: 95", id="a complete group"),
        pytest.param([95], "replica llama-000: 1 pod: not_ready (1 of 2 pods exist)", id="a half-created one"),
        pytest.param(
            [95, "loading"], "replica llama-000: 2 pods: not_ready (llama-000-1 is not ready)", id="a worker loads"
        ),
        pytest.param([95, None], "replica llama-000: 2 pods: 95", id="at least the target, whatever the other has"),
        pytest.param([10, None], "replica llama-000: 2 pods: missing", id="a worker is unknown"),
    ],
)
def test_the_steps_describe_the_groups(group: Group, sentence: str) -> None:
    known, fleet = scene(LWS, [group, [80, 80]], 2)
    steps = evaluated(LWS, known, fleet).steps
    assert sentence in steps
    counted = "2 of 2 pods" if len(group) == 2 else "1 of 1 pod, 1 of 2 pods"
    assert f"pods are grouped into replicas by the labels of their controller: {counted}" in steps


def test_a_label_that_no_pod_has_is_named() -> None:
    known, fleet = scene(LWS, [[95, 95]], 2)
    evaluation = evaluated(LWS, known, fleet, groupBy="example.com/other")
    assert "no pod has the label example.com/other (groupBy): each pod is a replica" in evaluation.steps


def test_pods_without_the_label_are_replicas_by_themselves() -> None:
    known, fleet = scene(CUSTOM, [[95, 95]], 2)
    known = replace(known, pods=(*known.pods, pod("zz-alone")))
    steps = evaluated(CUSTOM, known, fleet).steps
    expected = "1 of 1 pod, 1 of 2 pods; 1 pod without it counts alone"
    assert f"pods are grouped into replicas by the label example.com/group: {expected}" in steps


@pytest.mark.parametrize(
    ("groups", "is_active"),
    [
        pytest.param([[0, 40]], True, id="the leader is idle, and a worker is busy"),
        pytest.param([[0, 0]], False, id="all are idle"),
        pytest.param([[0, None]], True, id="a worker is unknown"),
        pytest.param([[0]], False, id="a worker was not created for an hour"),
    ],
)
def test_the_activity_of_a_group(groups: Groups, is_active: bool) -> None:
    known, fleet = scene(LWS, groups, 2)
    assert evaluated(LWS, known, fleet).active is is_active


def test_a_group_whose_workers_are_still_created_is_starting() -> None:
    known, fleet = scene(LWS, [[0]], 2)
    known = replace(known, pods=tuple(replace(one, created_at_seconds=NOW - 5) for one in known.pods))
    evaluation = evaluated(LWS, known, fleet)
    assert evaluation.active
    assert evaluation.steps[-1] == "active: llama-000-0 is starting, 5 s old"


def test_the_threshold_applies_to_the_value_of_a_group() -> None:
    known, fleet = scene(LWS, [[30, 30]], 2)
    assert evaluated(LWS, known, fleet, aggregation="sum", activationThreshold="50").active
    assert not evaluated(LWS, known, fleet, aggregation="max", activationThreshold="50").active


def test_a_formula_gets_one_value_for_each_group() -> None:
    known, fleet = scene(LWS, [[10, 95], [10, 85]], 2, formula=Formula("gpu"))
    assert evaluated(LWS, known, fleet).value == 180
    known, fleet = scene(STATEFUL_SET, [[10, 95], [10, 85]], 2, formula=Formula("gpu"))
    assert evaluated(STATEFUL_SET, known, fleet).value == 360
    known, fleet = scene(LWS, [[10, None]], 2, formula=Formula("gpu"))
    evaluation = evaluated(LWS, known, fleet)
    assert evaluation.value is None
    assert "takes a number" in evaluation.reason


@pytest.mark.parametrize(
    ("kind", "metadata", "asked"),
    [
        pytest.param(LWS, {}, ["llama-000-0", "llama-001-0"], id="the leaders of a LeaderWorkerSet"),
        pytest.param(LWS, {"groupBy": "none"}, 4, id="every pod without grouping"),
        pytest.param(CUSTOM, {}, 4, id="every pod where no leader is known"),
        pytest.param(
            CUSTOM, {"groupLeader": "example.com/rank=1"}, ["llama-000-1", "llama-001-1"], id="the leaders by a label"
        ),
    ],
)
def test_engines_are_asked_at_the_leader(kind: Kind, metadata: dict[str, str], asked: list[str] | int) -> None:
    known, fleet = scene(kind, [[10, 95], [10, 95]], 2)
    pods = [replace(one, address="10.0.0.7") for one in known.pods]
    trigger = parse_trigger({"profile": "llm", **kind.metadata, **metadata})
    names = [one.endpoint.pod.name for one in scrape_requests(trigger, pods) if one.endpoint.pod]
    assert names == asked or len(names) == asked
    view = WorkloadView(trigger, replace(known, pods=tuple(pods)), fleet, NOW)
    workers = [one for one in view.observations if one.state is ObservationState.WORKER]
    assert len(workers) == 4 - len(names)
    assert {one.sentence for one in workers} <= {"the leader of its replica answers for it"}


def test_a_leader_that_is_not_ready_may_be_at_work() -> None:
    """Its engine is not scraped, and ready workers say nothing about requests."""
    known, fleet = scene(LWS, [["loading", 95]], 2)
    evaluation = evaluated(LWS, known, fleet, profile="llm")
    assert evaluation.active
    assert evaluation.kept_active_by_missing_data


# ---- properties ----

VALUES = st.integers(0, 200) | st.none() | st.just("loading") | st.just(TARGET)
GROUPS = st.lists(st.lists(VALUES, min_size=1, max_size=4), min_size=1, max_size=10)
AGGREGATION = st.sampled_from(["max", "sum", "avg", "min", "p95"])


@settings(max_examples=examples(200))
@given(GROUPS, AGGREGATION, st.sampled_from([LWS, RAY, CUSTOM, STATEFUL_SET]))
def test_the_groups_partition_the_pods(groups: Groups, aggregation: str, kind: Kind) -> None:
    known, fleet = scene(kind, groups, 4)
    view = WorkloadView(parse_trigger({**kind.metadata, "aggregation": aggregation}), known, fleet, NOW)
    assert sum(group.pods for group in view.groups) == len(known.pods)
    assert [group.key for group in view.groups] == [f"llama-{number:03}" for number in range(len(groups))]
    assert [group.pods for group in view.groups] == [len(members) for members in groups]


def as_replica(members: Group, size: int) -> int | str | None:
    """A group in the words of the oracle: thousandths, UNREADY, or None without a value."""
    if len(members) < size or "loading" in members:
        return UNREADY
    known = [one for one in members if isinstance(one, int | float)]
    if len(known) < len(members) and max(known, default=0) < TARGET:
        return None
    return int(max(known) * 1000)


@settings(max_examples=examples(300))
@given(st.lists(st.lists(VALUES, min_size=2, max_size=2), min_size=1, max_size=10), st.booleans())
def test_the_hpa_reaches_the_size_of_the_resource_rules_over_groups(groups: Groups, is_average_value: bool) -> None:
    metric_type = "AverageValue" if is_average_value else "Value"
    known, fleet = scene(LWS, groups, 2, metric_type=metric_type)
    evaluation = evaluated(LWS, known, fleet)
    if evaluation.value is None:
        return
    wanted = resource_metric([as_replica(one, 2) for one in groups], TARGET * 1000, len(groups))
    wanted = len(groups) if wanted is None else wanted
    reached = hpa_size(known, evaluation.value, metric_type)
    # The tolerance of the HPA swallows some sizes; then it stays between the present size and the wanted one.
    assert reached == wanted or min(len(groups), wanted) <= reached <= max(len(groups), wanted)
    if is_average_value and abs(wanted - len(groups)) > 0.1 * len(groups) + 1:
        assert reached == wanted


@settings(max_examples=examples(300))
@given(
    st.lists(st.lists(st.integers(0, 200), min_size=2, max_size=2), min_size=1, max_size=8),
    st.integers(0, 7),
    st.sampled_from(["max", "sum", "avg"]),
)
def test_an_unknown_pod_never_raises_the_size_that_is_asked_for(groups: Groups, at: int, aggregation: str) -> None:
    """A group with a pod whose reading is unknown asks for no more than the present size, or than before."""
    at %= len(groups)
    with_unknown = [[*members[:1], None] if number == at else members for number, members in enumerate(groups)]
    known, fleet = scene(LWS, groups, 2)
    before = evaluated(LWS, known, fleet, aggregation=aggregation)
    after = evaluated(LWS, *scene(LWS, with_unknown, 2), aggregation=aggregation)
    assert before.value is not None
    assert after.value is not None or after.reason
    if after.value is not None:
        reached = hpa_size(known, after.value, "AverageValue")
        assert reached <= max(len(groups), hpa_size(known, before.value, "AverageValue"))


@given(st.lists(st.integers(0, 200), min_size=1, max_size=5), AGGREGATION)
def test_an_unknown_pod_never_raises_the_value_of_its_group(values: list[int], aggregation: str) -> None:
    def group(*members: float | None) -> float | None:
        observed = [
            PodObservation(
                replace(pod(f"llama-{number}"), group="llama"),
                ObservationState.MISSING if value is None else ObservationState.OBSERVED,
                value,
                "",
            )
            for number, value in enumerate(members)
        ]
        [one] = replica_groups(observed, parse_trigger({"aggregation": aggregation}))
        return one.value

    known, unknown = group(*values), group(*values, None)
    assert known is not None
    assert unknown is None or TARGET <= unknown <= known


@given(st.permutations(range(6)))
def test_grouping_ignores_the_order_of_pods(order: Sequence[int]) -> None:
    pods = [labelled_pod(f"llama-{number}", f"group-{number % 2}", number, 3) for number in range(6)]
    grouping = parse_trigger(dict(BY_LABEL)).grouping
    keys = {one.ref.name: one.replica for one in grouped_pods([pods[number] for number in order], grouping)}
    assert keys == {f"llama-{number}": f"group-{number % 2}" for number in range(6)}
    assert len(list(itertools.groupby(sorted(keys.values())))) == 2
    assert math.prod(one.group_size for one in grouped_pods(pods, grouping)) == 2**6


def test_the_slowest_pod_of_a_group_says_how_long_a_replica_starts() -> None:
    starts = {"a-0": 10, "a-1": 90, "b-0": 20, "b-1": 70, "c-0": 10, "c-1": 60}
    pods = [
        replace(pod(name), group=name[0], created_at_seconds=0.0, ready_at_seconds=float(seconds))
        for name, seconds in starts.items()
    ]
    assert workload(*pods).cold_start_seconds == 70
