# SPDX-License-Identifier: Apache-2.0
"""Tests of evaluations of devices: the scopes fleet and node."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.aggregation import AGGREGATIONS, mean
from keda_gpu_scaler.core.evaluate.evaluation import NoValue, evaluate
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.metrics import METRICS
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.trigger.parser import parse_trigger as parse_metadata
from keda_gpu_scaler.core.types import PerformanceReadings, ReadingFailure, Sample
from tests.fakes import fleet_of, sample, sample_without_readings

NOW = 1000.0


def parse_trigger(metadata: dict[str, str]) -> Trigger:
    """A trigger with the devices' own value, which does not need the number of replicas."""
    return parse_metadata({"report": "average", **metadata})


def moment(*utilizations: float | None) -> list[Sample]:
    return [sample(index, None if value is None else value / 100) for index, value in enumerate(utilizations)]


@pytest.mark.parametrize(
    ("metadata", "moments", "expected"),
    [
        pytest.param({}, [moment(10, 92, 40)], 92.0, id="the busiest device by default"),
        pytest.param({"gpuIndex": "2"}, [moment(10, 92, 40)], 40.0, id="one device by its index"),
        pytest.param({"aggregation": "avg"}, [moment(10, 20, 60)], 30.0, id="the mean over devices"),
        pytest.param({"aggregation": "sum"}, [moment(10, 20, 60)], 90.0, id="the total over devices"),
        pytest.param({}, [moment(0), moment(50), moment(100)], 50.0, id="each device averaged over the window"),
        pytest.param({"windowSeconds": "0"}, [moment(0), moment(50), moment(100)], 100.0, id="window 0: newest sample"),
        pytest.param({"windowSeconds": "2"}, [moment(0), moment(50), moment(100)], 75.0, id="window of two samples"),
        pytest.param({}, [moment(100, 0), moment(0, 100)], 50.0, id="window first, then devices"),
        pytest.param({"metricType": "power_draw"}, [moment(10)], 350.0, id="another metric"),
        pytest.param(
            {},
            [moment(40), moment(None), moment(60)],
            50.0,
            id="a missing reading within the window is left out and is not 0",
        ),
    ],
)
def test_the_value_is_the_aggregate_of_the_devices_windows(
    metadata: dict[str, str], moments: list[list[Sample]], expected: float
) -> None:
    evaluation = evaluate(parse_trigger(metadata), fleet_of(*moments), NOW)
    assert evaluation.value == expected
    assert evaluation.no_value_reason is None


@pytest.mark.parametrize(
    ("utilization", "activation", "active"),
    [(0, 0, False), (1, 0, True), (5, 5, False), (6, 5, True)],
)
def test_active_means_strictly_above_the_threshold(utilization: float, activation: float, active: bool) -> None:
    trigger = parse_trigger({"activationThreshold": str(activation)})
    assert evaluate(trigger, fleet_of(moment(utilization)), NOW).active is active


@pytest.mark.parametrize(
    ("fleet", "metadata", "no_value_reason", "reason"),
    [
        pytest.param(Fleet(None, 10.0), {}, NoValue.UNAVAILABLE, "no sample yet", id="nothing was sampled yet"),
        pytest.param(
            fleet_of(moment(50), last_at=900.0),
            {},
            NoValue.UNAVAILABLE,
            "no fresh sample: node gpu-7 last answered 100 s ago (limit 10 s)",
            id="the snapshot is stale",
        ),
        pytest.param(
            replace(fleet_of(moment(50), last_at=900.0), failure="the driver is gone"),
            {},
            NoValue.UNAVAILABLE,
            "no fresh sample: node gpu-7 last answered 100 s ago (limit 10 s): the driver is gone",
            id="the snapshot is stale, and it is known why",
        ),
        pytest.param(
            Fleet(None, 10.0, deviceless=True),
            {},
            NoValue.MISCONFIGURED,
            "this instance has no device by design (--backend none), and knows no peer with a device; call one on a "
            "GPU node, or name the peers with --peers",
            id="no device by design",
        ),
        pytest.param(
            fleet_of(moment(1, 2)),
            {"gpuIndex": "5"},
            NoValue.MISCONFIGURED,
            "metadata.gpuIndex: node gpu-7 has no device 5: it has 0, 1; -1 means all",
            id="no device of that index",
        ),
        pytest.param(
            fleet_of([]),
            {},
            NoValue.MISCONFIGURED,
            "node gpu-7 has no device; run the scaler on GPU nodes only",
            id="a node without devices",
        ),
        pytest.param(
            fleet_of([sample(0, 0.1), sample_without_readings(1), sample_without_readings(2)]),
            {},
            NoValue.UNAVAILABLE,
            "gpu_utilization is unknown for 2 of 3 devices: GPU 1 (GPU-0001) of node gpu-7 has no reading of "
            "gpu_utilization; GPU 2 (GPU-0002) of node gpu-7 has no reading of gpu_utilization; there is no value "
            "until they have a reading. Repair them, use another metricType, or narrow the trigger",
            id="fewer than half of the devices have a value",
        ),
        pytest.param(
            fleet_of([sample(0, power_watts=None)]),
            {"metricType": "power_draw", "targetValue": "300"},
            NoValue.UNAVAILABLE,
            "power_draw is unknown for 1 of 1 devices: GPU 0 (GPU-0000) of node gpu-7 has no reading of power_draw; "
            "there is no value until they have a reading. Repair them, use another metricType, or narrow the trigger",
            id="a device without that reading",
        ),
    ],
)
def test_law_1_unknown_data_gives_no_value_keeps_the_workload_active_and_has_a_reason(
    fleet: Fleet, metadata: dict[str, str], no_value_reason: NoValue, reason: str
) -> None:
    evaluation = evaluate(parse_trigger(metadata), fleet, NOW)
    assert (evaluation.value, evaluation.no_value_reason, evaluation.reason) == (None, no_value_reason, reason)
    assert evaluation.active
    assert reason in evaluation.steps


LOST = ReadingFailure("", "GPU is lost (15)", 960.0)
FAILED = ReadingFailure("power", "Unknown Error (999)", 990.0)
NOT_OFFERED = ReadingFailure("utilization", "Not Supported (3)")


@pytest.mark.parametrize(
    ("metric", "moments", "reason"),
    [
        pytest.param(
            "gpu_utilization",
            [[replace(sample_without_readings(2), failures=(LOST,))]],
            "GPU 2 (GPU-0002) of node gpu-7 has no reading of gpu_utilization: GPU is lost (15), for 40 s",
            id="the whole device",
        ),
        pytest.param(
            "power_draw",
            [[sample(2, power_watts=None, failures=(NOT_OFFERED, FAILED))]],
            "GPU 2 (GPU-0002) of node gpu-7 has no reading of power_draw: Unknown Error (999), for 10 s",
            id="one reading",
        ),
        pytest.param(
            "memory_utilization",
            [[sample_without_readings(2)], [replace(sample_without_readings(2), failures=(NOT_OFFERED,))]],
            "GPU 2 (GPU-0002) of node gpu-7 has no reading of memory_utilization: Not Supported (3);",
            id="a reading that the device does not have",
        ),
        pytest.param(
            "temperature",
            [[sample(2, temperature_celsius=None, failures=(FAILED,))]],
            "GPU 2 (GPU-0002) of node gpu-7 has no reading of temperature;",
            id="another reading",
        ),
        pytest.param(
            "gpu_utilization",
            [
                [sample(2, 0.9)],
                *[[sample_without_readings(2)]] * 11,
                [replace(sample_without_readings(2), failures=(LOST,))],
            ],
            "GPU 2 (GPU-0002) of node gpu-7 has no recent reading of gpu_utilization: the last one is 12 s older than "
            "the newest snapshot (limit 10 s): GPU is lost (15), for 40 s",
            id="the last reading is too old",
        ),
        pytest.param(
            "gpu_utilization",
            [[sample(2, 0.9, lag_seconds=15.0)]],
            "GPU 2 (GPU-0002) of node gpu-7 has no recent reading of gpu_utilization: the last one is 15 s older than "
            "the newest snapshot (limit 10 s);",
            id="the reading lags its snapshot by too much",
        ),
    ],
)
def test_the_reason_of_an_unknown_reading_is_in_the_answer(
    metric: str, moments: list[list[Sample]], reason: str
) -> None:
    metadata = {"metricType": metric, "targetValue": "80", "windowSeconds": "60", "minCoverage": "1"}
    evaluation = evaluate(parse_trigger(metadata), fleet_of(*moments), NOW)
    assert evaluation.value is None
    assert reason in evaluation.reason


def test_a_reading_counts_at_its_own_time_and_not_at_that_of_its_snapshot() -> None:
    late = [[sample(0, 0.1)], [sample(0, 0.9, lag_seconds=4.0)]]
    assert evaluate(parse_trigger({"windowSeconds": "3"}), fleet_of(*late), NOW).value == 50  # the newest counts
    later = [*late, [sample(0, 0.1)]]
    assert evaluate(parse_trigger({"windowSeconds": "3"}), fleet_of(*later), NOW).value == 10
    assert evaluate(parse_trigger({"windowSeconds": "0"}), fleet_of(*late), NOW).value == 90
    observation = evaluate(parse_trigger({"windowSeconds": "0"}), fleet_of(*late), NOW)
    assert observation.expires_at_seconds == NOW + 10 - 4


def test_law_1_with_full_coverage_one_unknown_device_takes_the_value_away() -> None:
    for aggregation in AGGREGATIONS:
        for utilizations in ((95, None), (0, None), (10, 10, 10, None)):
            trigger = parse_trigger({"aggregation": aggregation, "minCoverage": "1"})
            evaluation = evaluate(trigger, fleet_of(moment(*utilizations)), NOW)
            assert (evaluation.value, evaluation.active) == (None, True)


@pytest.mark.parametrize(
    ("aggregation", "utilizations", "value"),
    [
        pytest.param("max", (10, 20, None), 80.0, id="on the way down the missing device counts as at the target"),
        pytest.param("max", (10, 95, None), 95.0, id="on the way up the missing device adds nothing"),
        pytest.param("avg", (10, 20, None), 110 / 3, id="on the way down by the mean it counts as at the target"),
        pytest.param(
            "avg",
            (100, 100, 100, None),
            80.0,
            id="a mean that is above the target only without the idle missing device is the target",
        ),
        pytest.param(
            "min",
            (90, 95, None),
            80.0,
            id="a minimum that is above the target only without the missing device is the target",
        ),
        pytest.param("sum", (10, 20, None), 80.0, id="a sum below the target is the target"),
    ],
)
def test_law_1_a_missing_device_moves_nothing_up_and_counts_as_at_target_on_the_way_down(
    aggregation: str, utilizations: tuple[float | None, ...], value: float
) -> None:
    evaluation = evaluate(parse_trigger({"aggregation": aggregation}), fleet_of(moment(*utilizations)), NOW)
    assert evaluation.value == pytest.approx(value, abs=0.001)
    assert (evaluation.with_value, evaluation.expected) == (len(utilizations) - 1, len(utilizations))
    assert evaluation.active


def test_law_1_activity_that_rests_on_missing_data_alone_is_not_known() -> None:
    quiet = evaluate(parse_trigger({}), fleet_of(moment(0, 0, None)), NOW)
    assert (quiet.active, quiet.known_activity) == (True, None)
    busy = evaluate(parse_trigger({}), fleet_of(moment(0, 5, None)), NOW)
    assert (busy.active, busy.known_activity) == (True, True)


def test_an_unknown_device_out_of_scope_changes_nothing() -> None:
    assert evaluate(parse_trigger({"gpuIndex": "0"}), fleet_of(moment(95, None, None)), NOW).value == 95


def test_the_reason_lists_a_few_missing_devices_and_counts_the_rest() -> None:
    reason = evaluate(parse_trigger({}), fleet_of(moment(*[None] * 5)), NOW).reason
    assert reason.startswith("gpu_utilization is unknown for 5 of 5 devices: GPU 0 (GPU-0000) of node gpu-7 has no")
    assert "GPU 2 (GPU-0002) of node gpu-7 has no reading of gpu_utilization and 2 more;" in reason


def test_a_reading_older_than_the_limit_is_unknown_also_in_a_longer_window() -> None:
    trigger = parse_trigger({"windowSeconds": "300"})
    ten_ago = fleet_of(moment(50), *[moment(None)] * 10)
    assert evaluate(trigger, ten_ago, NOW).value == 50.0
    eleven_ago = fleet_of(moment(50), *[moment(None)] * 11)
    assert evaluate(trigger, eleven_ago, NOW).value is None


@given(
    st.lists(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=2, max_size=2), min_size=1, max_size=40),
    st.floats(0, 300),
    st.sampled_from([0.1, 1.0, 9.0]),
)
def test_a_window_has_exactly_the_known_readings_less_than_its_length_before_the_newest_snapshot(
    moments: list[list[float | None]], window: float, interval: float
) -> None:
    fleet = fleet_of(
        *[[sample(index, ratio) for index, ratio in enumerate(moment)] for moment in moments],
        interval_seconds=interval,
        stale_after=1e9,
    )
    assert fleet.history is not None
    trigger = parse_trigger({"windowSeconds": f"{window:.6f}", "gpuIndex": "0"})
    inside = [
        value
        for snapshot in fleet.history.within(trigger.window_seconds)
        if (value := METRICS[trigger.metric.name].read(snapshot.samples[0])) is not None
    ]
    value = evaluate(trigger, fleet, NOW).value
    assert value == (round(mean(inside), 3) if inside else None)


def test_the_age_of_a_reading_is_the_age_of_its_history_plus_its_lag() -> None:
    trigger = parse_trigger({})
    six_behind = fleet_of(moment(50), *[moment(None)] * 6)
    evaluation = evaluate(trigger, six_behind, NOW)
    assert (evaluation.value, evaluation.expires_at_seconds) == (50.0, NOW + 4)
    assert evaluate(trigger, six_behind, NOW + 4).value == 50.0
    assert evaluate(trigger, six_behind, NOW + 5).value is None


def test_the_steps_describe_the_source_of_the_value() -> None:
    evaluation = evaluate(parse_trigger({"activationThreshold": "5"}), fleet_of(moment(10, 92)), NOW)
    assert evaluation.steps == (
        "scope fleet: gpu_utilization of 2 device(s) of node gpu-7 (mean of the last 10 s; fake)",
        "GPU 0 NVIDIA H100 (GPU-0000): 10 %",
        "GPU 1 NVIDIA H100 (GPU-0001): 92 %",
        "max: 92",
        "active: 92 is above activationThreshold 5",
    )


metadata = st.fixed_dictionaries(
    {
        "metricType": st.sampled_from(sorted(METRICS)),
        "aggregation": st.sampled_from(sorted(AGGREGATIONS)),
        "targetValue": st.sampled_from(["1", "50", "80", "300"]),
        "activationThreshold": st.sampled_from(["0", "5", "60"]),
        "windowSeconds": st.sampled_from(["0", "3", "10"]),
    }
)
ratio = st.floats(0, 1)
known = st.builds(
    lambda utilization, memory, temperature, power: sample(
        0,
        utilization,
        memory_utilization_ratio=utilization,
        memory_used_bytes=memory,
        temperature_celsius=temperature,
        power_watts=power,
        performance=PerformanceReadings(NOW, 5.0, *[utilization] * 3, *[1e9 * power] * 4),
    ),
    ratio,
    st.integers(0, 80 << 30),
    st.floats(0, 110),
    st.floats(0, 1500),
)


def placed(samples: list[Sample], index_of_unknown: set[int] = frozenset()) -> list[Sample]:  # type: ignore[assignment]
    return [
        sample_without_readings(index)
        if index in index_of_unknown
        else replace(one, device=sample_without_readings(index).device)
        for index, one in enumerate(samples)
    ]


@given(metadata, st.lists(known, min_size=1, max_size=6), st.data())
def test_law_1_a_lost_reading_leaves_the_value_unchanged_or_takes_it_away(
    given_metadata: dict[str, str], samples: list[Sample], data: st.DataObject
) -> None:
    index = data.draw(st.sampled_from([-1, *range(len(samples))]))
    trigger = parse_trigger({**given_metadata, "gpuIndex": str(index), "minCoverage": "1"})
    lost = data.draw(st.sets(st.integers(0, len(samples) - 1), min_size=1))
    with_value = evaluate(trigger, fleet_of(placed(samples)), NOW)
    partial = evaluate(trigger, fleet_of(placed(samples, lost)), NOW)
    if index != -1 and index not in lost:
        assert partial == with_value
    else:
        assert (partial.value, partial.active) == (None, True)


@given(metadata, st.lists(known, min_size=1, max_size=4), st.floats(0, 10))
def test_law_3_asking_twice_gives_the_same_answer_while_the_snapshot_is_fresh(
    given_metadata: dict[str, str], samples: list[Sample], later: float
) -> None:
    trigger, fleet = parse_trigger(given_metadata), fleet_of(placed(samples))
    first = evaluate(trigger, fleet, NOW)
    assert evaluate(trigger, fleet, NOW) == first
    assert evaluate(trigger, fleet, NOW + later) == first


@given(metadata, st.lists(known, min_size=1, max_size=6))
def test_law_4_the_reported_total_is_the_sum_of_the_measured_devices(
    given_metadata: dict[str, str], samples: list[Sample]
) -> None:
    fleet = fleet_of(placed(samples))
    device_values = [
        evaluate(parse_trigger({**given_metadata, "gpuIndex": str(index)}), fleet, NOW).value
        for index in range(len(samples))
    ]
    total = evaluate(parse_trigger({**given_metadata, "aggregation": "sum"}), fleet, NOW).value
    # Each reported number is rounded to the three decimals that KEDA keeps.
    assert total == pytest.approx(math.fsum(part for part in device_values if part is not None), abs=0.0005 * 7)


@given(metadata, st.lists(known, min_size=1, max_size=4))
def test_law_5_the_same_snapshots_give_the_same_answer_on_any_clock(
    given_metadata: dict[str, str], samples: list[Sample]
) -> None:
    trigger = parse_trigger(given_metadata)
    here = fleet_of(placed(samples), placed(samples[::-1]))
    assert here.history is not None
    elsewhere = replace(here, history=replace(here.history, received_at_seconds=5.0))
    assert evaluate(trigger, elsewhere, 6.0) == evaluate(trigger, here, NOW)


@given(metadata, st.lists(known, min_size=1, max_size=6))
def test_no_value_is_ever_negative_or_not_a_number(given_metadata: dict[str, str], samples: list[Sample]) -> None:
    value = evaluate(parse_trigger(given_metadata), fleet_of(placed(samples)), NOW).value
    assert value is not None
    assert math.isfinite(value)
    assert value >= 0


def test_a_metric_whose_first_reading_is_due_says_so() -> None:
    answer = evaluate(parse_trigger({"metricType": "nvlink_tx_mib_s"}), fleet_of([sample(0, 0.5)]), NOW)
    assert answer.value is None
    assert (
        "a device that has it is read while a trigger needs it, and its first value takes some seconds" in answer.reason
    )
    failed = sample(0, 0.5, failures=(ReadingFailure("nvlink", "the GPU has no counter of it"),))
    answer = evaluate(parse_trigger({"metricType": "nvlink_tx_mib_s"}), fleet_of([failed]), NOW)
    assert "the GPU has no counter of it" in answer.reason
