# SPDX-License-Identifier: Apache-2.0
"""Tests of the trigger parser."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.aggregation import AGGREGATIONS
from keda_gpu_scaler.core.selectors import parse_labels
from keda_gpu_scaler.core.trigger.grouping import Grouping
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS, METRICS
from keda_gpu_scaler.core.trigger.parser import (
    DEFAULT_STARTUP_GRACE_SECONDS,
    METRIC_TYPES,
    PARAMETERS,
    Scope,
    Trigger,
    TriggerError,
    parse_trigger,
)
from keda_gpu_scaler.core.trigger.profiles import PROFILES

KEYS = [parameter.key for parameter in PARAMETERS]


def problems(metadata: dict[str, str]) -> list[str]:
    with pytest.raises(TriggerError) as caught:
        parse_trigger(metadata)
    return list(caught.value.problems)


def test_empty_metadata_gives_every_default() -> None:
    assert parse_trigger({}) == Trigger(
        metric=METRICS["gpu_utilization"],
        target=80.0,
        activation=0.0,
        gpu_index=None,
        aggregation="max",
        poll_interval_seconds=10.0,
        window_seconds=10.0,
        metric_name="keda_gpu_metric",
    )


def test_every_key_is_read() -> None:
    trigger = parse_trigger(
        {
            "profile": "training",
            "metricType": "power_draw",
            "targetValue": "450.5",
            "activationThreshold": "60",
            "gpuIndex": "3",
            "aggregation": "p95",
            "pollIntervalSeconds": "5",
            "windowSeconds": "0",
            "metricName": "board-power",
            "scope": "fleet",
            "report": "total",
            "gpuModel": "*H100*",
            "nodeSelector": "pool=gpu",
            "startupGraceSeconds": "90",
            "missingHoldSeconds": "40",
            "minCoverage": "0.8",
            "groupBy": "example.com/group",
            "groupSize": "4",
            "groupLeader": "example.com/rank=0",
        }
    )
    assert trigger == Trigger(
        metric=METRICS["power_draw"],
        target=450.5,
        activation=60.0,
        gpu_index=3,
        aggregation="p95",
        poll_interval_seconds=5.0,
        window_seconds=0.0,
        metric_name="board-power",
        scope=Scope.FLEET,
        report="total",
        gpu_model="*H100*",
        node_selector=parse_labels("pool=gpu"),
        startup_grace_seconds=90.0,
        missing_hold_seconds=40.0,
        min_coverage=0.8,
        is_activation_given=True,
        profile="training",
        grouping=Grouping("example.com/group", 4, parse_labels("example.com/rank=0")),
    )


@pytest.mark.parametrize(
    ("name", "metric", "target", "activation"),
    [
        ("vllm-inference", "memory_used_percent", 80, 5),
        ("triton-inference", "gpu_utilization", 75, 10),
        ("training", "gpu_utilization", 90, 0),
        ("batch", "memory_used_percent", 70, 1),
        ("ollama", "memory_used_percent", 70, 3),
        ("tgi-inference", "memory_used_percent", 75, 5),
        ("distributed-training", "nvlink_tx_mib_s", 800, 100),
    ],
)
def test_a_profile_has_the_values_of_the_original(name: str, metric: str, target: float, activation: float) -> None:
    trigger = parse_trigger({"profile": name})
    assert (trigger.metric.name, trigger.target, trigger.activation) == (metric, target, activation)
    assert trigger.metric_name == "keda_gpu_" + name.replace("-", "_")


def test_the_documented_profiles_and_metrics_are_all_there_are() -> None:
    assert sorted(PROFILES) == [
        "batch",
        "distributed-training",
        "llm",
        "ollama",
        "sglang",
        "tgi",
        "tgi-inference",
        "training",
        "triton-inference",
        "triton-queue-wait",
        "triton-request-rate",
        "vllm-inference",
        "vllm-queue-depth",
    ]
    assert sorted(METRICS) == [
        "dram_active",
        "gpu_utilization",
        "memory_used_mib",
        "memory_used_percent",
        "memory_utilization",
        "nvlink_rx_mib_s",
        "nvlink_throughput",
        "nvlink_tx_mib_s",
        "pcie_rx_kbps",
        "pcie_rx_mib_s",
        "pcie_throughput",
        "pcie_tx_kbps",
        "pcie_tx_mib_s",
        "power_draw",
        "sm_active",
        "temperature",
        "tensor_active",
    ]
    assert sorted(ENGINE_METRICS) == [
        "engine",
        "kv_cache_usage",
        "load",
        "queue_depth",
        "queue_wait_ms",
        "request_rate",
        "running_requests",
        "saturation",
        "token_rate",
        "triton_queue_wait_ms",
        "triton_request_rate",
        "ttft_ms",
        "vllm_kv_cache_usage",
        "vllm_queue_depth",
    ]


@pytest.mark.parametrize(
    ("metadata", "metric", "target"),
    [
        pytest.param({"targetGpuUtilization": "60"}, "gpu_utilization", 60, id="GPU shorthand"),
        pytest.param(
            {"targetMemoryUtilization": "60"}, "memory_used_percent", 60, id="memory shorthand: how full the memory is"
        ),
        pytest.param(
            {"profile": "vllm-inference", "targetGpuUtilization": "60"},
            "gpu_utilization",
            60,
            id="a shorthand overrides a profile",
        ),
        pytest.param(
            {"metricType": "gpu_utilization", "targetGpuUtilization": "60"},
            "gpu_utilization",
            60,
            id="a shorthand with the same metric",
        ),
        pytest.param(
            {"profile": "batch", "targetValue": "90"}, "memory_used_percent", 90, id="a target overrides a profile"
        ),
        pytest.param(
            {"targetValueFromEnv": "42"}, "gpu_utilization", 42, id="a value that KEDA took from the environment"
        ),
        pytest.param({"targetValue": " 42 "}, "gpu_utilization", 42, id="blanks around a value"),
        pytest.param({"targetValue": "8e1"}, "gpu_utilization", 80, id="exponent"),
        pytest.param({"targetValue": ".5"}, "gpu_utilization", 0.5, id="no digit before the point"),
    ],
)
def test_metric_and_target_follow_from_the_keys(metadata: dict[str, str], metric: str, target: float) -> None:
    trigger = parse_trigger(metadata)
    assert (trigger.metric.name, trigger.target) == (metric, target)


NUMBER = "must be a plain number from {} to {}, without a unit"
TARGET = NUMBER.format("0.001", "1e+12")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        pytest.param({"targetValue": value}, [f'metadata.targetValue: Invalid value: "{value}": {TARGET}'], id=value)
        for value in [
            "eighty",
            "nan",
            "NaN",
            "inf",
            "-Infinity",
            "80%",
            "80 W",
            "1_000",
            "0x50",
            "0",
            "-1",
            "1e13",
            "1e999",
        ]
    ]
    + [
        pytest.param(
            {"scope": "cluster"},
            ['metadata.scope: Unsupported value: "cluster": supported values: workload, fleet, node'],
            id="unknown scope",
        ),
        pytest.param(
            {"report": "totals"},
            ['metadata.report: Unsupported value: "totals": did you mean "total"?'],
            id="a misspelled report",
        ),
        pytest.param(
            {"nodeSelector": "pool in (gpu)"},
            [
                'metadata.nodeSelector: Invalid value: "pool in (gpu)": must be label conditions joined by commas: '
                "key=value, key!=value, key or !key"
            ],
            id="a label selector with a set of values",
        ),
        pytest.param(
            {"groupBy": "a=b"},
            ['metadata.groupBy: Invalid value: "a=b": must be the key of a label, auto or none'],
            id="a label with a value",
        ),
        pytest.param(
            {"groupBy": "example.com/pair", "groupSize": "1"},
            ['metadata.groupSize: Invalid value: "1": must be a whole number from 2 to 10000'],
            id="a group of one pod",
        ),
        pytest.param(
            {"groupSize": "2.5"},
            ['metadata.groupSize: Invalid value: "2.5": must be a whole number from 2 to 10000'],
            id="a group of a part of a pod",
        ),
        pytest.param(
            {"groupBy": "none", "groupSize": "2", "groupLeader": "rank=0"},
            [
                'metadata.groupSize: Invalid value: "2": has no meaning with groupBy none: remove one of the two',
                'metadata.groupLeader: Invalid value: "rank=0": has no meaning with groupBy none: remove one of the '
                "two",
            ],
            id="a group without grouping",
        ),
        pytest.param(
            {"groupLeader": "rank in (0)"},
            [
                'metadata.groupLeader: Invalid value: "rank in (0)": must be label conditions joined by commas: '
                "key=value, key!=value, key or !key"
            ],
            id="a leader by a set of values",
        ),
        pytest.param(
            {"gpuModel": "*" * 257},
            [f'metadata.gpuModel: Invalid value: "{"*" * 39}\\u2026": must have at most 256 characters'],
            id="a pattern that is too long",
        ),
        pytest.param(
            {"minCoverage": "80%"},
            [f'metadata.minCoverage: Invalid value: "80%": {NUMBER.format("0", "1")}'],
            id="a share in per cent",
        ),
        pytest.param(
            {"startupGraceSeconds": "10m"},
            [f'metadata.startupGraceSeconds: Invalid value: "10m": {NUMBER.format("0", "86400")}'],
            id="seconds with a unit",
        ),
        pytest.param(
            {"metricType": "gpu_util"},
            ['metadata.metricType: Unsupported value: "gpu_util": did you mean "gpu_utilization"?'],
            id="a misspelled metric",
        ),
        pytest.param(
            {"metricType": "nvlink_tx_mbps"},
            [
                'metadata.metricType: Unsupported value: "nvlink_tx_mbps": use nvlink_tx_mib_s, a rate in MiB/s, and '
                "measure targetValue again: the original's value is a sum of counters that only grow"
            ],
            id="a metric of the original that means something else here",
        ),
        pytest.param(
            {"metricType": "nvlink_rx_mbps", "targetValue": "600"},
            [
                'metadata.metricType: Unsupported value: "nvlink_rx_mbps": use nvlink_rx_mib_s, a rate in MiB/s, and '
                "measure targetValue again: the original's value is a sum of counters that only grow"
            ],
            id="and the one of the other direction",
        ),
        pytest.param(
            {"metricType": "xyz"},
            [f'metadata.metricType: Unsupported value: "xyz": supported values: {", ".join(METRIC_TYPES)}'],
            id="a metric unlike every known one",
        ),
        pytest.param(
            {"profile": "xyz"},
            [f'metadata.profile: Unsupported value: "xyz": supported values: {", ".join(PROFILES)}'],
            id="unknown profile",
        ),
        pytest.param(
            {"profile": "vLLM"},
            ['metadata.profile: Unsupported value: "vLLM": did you mean "vllm-inference"?'],
            id="the beginning of a profile's name",
        ),
        pytest.param(
            {"aggregation": "mean"},
            [f'metadata.aggregation: Unsupported value: "mean": supported values: {", ".join(AGGREGATIONS)}'],
            id="unknown aggregation",
        ),
        pytest.param(
            {"targetGpuUtilization": "60", "targetMemoryUtilization": "70"},
            ["metadata.targetMemoryUtilization: Forbidden: targetGpuUtilization is given as well; keep one of the two"],
            id="two shorthands",
        ),
        pytest.param(
            {"metricType": "power_draw", "targetGpuUtilization": "60"},
            [
                'metadata.targetGpuUtilization: Invalid value: "60": means metricType gpu_utilization, but metricType '
                "is power_draw; keep one of the two"
            ],
            id="a shorthand and another metric",
        ),
        pytest.param(
            {"activationThreshold": "-1"},
            [f'metadata.activationThreshold: Invalid value: "-1": {NUMBER.format("0", "1e+12")}'],
            id="negative activation",
        ),
        pytest.param(
            {"pollIntervalSeconds": "0"},
            [f'metadata.pollIntervalSeconds: Invalid value: "0": {NUMBER.format("1", "3600")}'],
            id="a poll interval below a second",
        ),
        pytest.param(
            {"pollIntervalSeconds": "3601"},
            [f'metadata.pollIntervalSeconds: Invalid value: "3601": {NUMBER.format("1", "3600")}'],
            id="a poll interval above an hour",
        ),
        pytest.param(
            {"windowSeconds": "301"},
            [f'metadata.windowSeconds: Invalid value: "301": {NUMBER.format("0", "300")}'],
            id="a window longer than the history",
        ),
        pytest.param(
            {"targetValue": "80", "targetValueFromEnv": "80"},
            ["metadata.targetValueFromEnv: Forbidden: targetValue is given as well; keep one of the two"],
            id="a key twice, once from the environment",
        ),
        pytest.param(
            {"targetValue": "  "},
            ["metadata.targetValue: Required value: it is empty; give a value or remove the key"],
            id="blank value",
        ),
        pytest.param(
            {"metricName": "--"},
            [
                "metadata.metricName: Invalid value: \"--\": must be 1 to 60 letters, digits, '-' and '_', one letter "
                "or digit at least"
            ],
            id="a metric name without a letter or digit",
        ),
    ]
    + [
        pytest.param(
            {"gpuIndex": value},
            [
                f'metadata.gpuIndex: Invalid value: "{value}": must be -1 (all devices) or a device\'s index, a whole '
                "number from 0"
            ],
            id=f"gpuIndex {value}",
        )
        for value in ["-2", "1.5", "all", "9999999999", "0,1"]
    ],
)
def test_a_problem_names_the_key_the_value_and_the_remedy(metadata: dict[str, str], expected: list[str]) -> None:
    assert problems(metadata) == expected


def test_every_problem_is_reported_at_once() -> None:
    found = problems({"targetValue": "eighty", "metricType": "gpu_util", "gpuIndex": "x", "windowSeconds": "-1"})
    assert [problem.split(":")[0] for problem in found] == [
        "metadata.metricType",
        "metadata.targetValue",
        "metadata.gpuIndex",
        "metadata.windowSeconds",
    ]


def test_metadata_that_is_too_long_is_refused_as_a_whole() -> None:
    assert problems({"targetValue": "8" * 20_000}) == ["metadata: Too long: 20011 characters: must have at most 16384"]


def test_a_long_value_is_quoted_in_part() -> None:
    [problem] = problems({"targetValue": "x" * 10_000})
    assert len(problem) < 160


def test_keys_of_keda_are_not_taken_for_misspelt_keys() -> None:
    metadata = {"scalerAddress": "keda-gpu-scaler.keda:6000", "enableTLS": "true", "unsafeSsl": "false", "foo": "bar"}
    assert parse_trigger(metadata).hints == ()


def test_a_shorthand_overrides_the_target_as_in_the_original_with_a_hint() -> None:
    trigger = parse_trigger({"targetValue": "60", "targetGpuUtilization": "70"})
    assert trigger.target == 70
    assert trigger.hints == ('metadata.targetValue: "60" is overridden by targetGpuUtilization "70"',)


@pytest.mark.parametrize(
    ("metadata", "hint"),
    [
        (
            {"metricType": "power_draw"},
            "metadata.targetValue: not given, so the target is 80 W, the default for gpu_utilization; set a target "
            "for power_draw",
        ),
        (
            {"profile": "batch", "metricType": "temperature"},
            "metadata.targetValue: not given, so the target is 70 °C, the default for memory_used_percent; set a "
            "target for temperature",
        ),
    ],
)
def test_a_default_target_of_another_unit_is_used_with_a_hint(metadata: dict[str, str], hint: str) -> None:
    assert parse_trigger(metadata).hints == (hint,)
    assert parse_trigger({**metadata, "targetValue": "80"}).hints == ()


def test_a_long_number_is_refused_in_a_short_time() -> None:
    """A pattern that backtracks takes minutes for this number."""
    assert "must be a plain number" in problems({"targetValue": "1" * 16_000 + "x"})[0]


def test_a_metric_name_is_made_safe_with_a_hint() -> None:
    trigger = parse_trigger({"metricName": "GPU.Load (all)"})
    assert trigger.metric_name == "gpu-load-all"
    assert trigger.hints == ('metadata.metricName: "GPU.Load (all)" is reported to KEDA as "gpu-load-all"',)


numeric = st.one_of(st.floats().map(str), st.integers().map(str), st.sampled_from(["80", "0", "-1", "1e400", "٣"]))
values = st.one_of(
    st.text(max_size=20), numeric, st.sampled_from([*METRICS, *PROFILES, *AGGREGATIONS, "-1", "0", "3", ""])
)
keys = st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS).map(lambda key: key + "FromEnv"), st.text(max_size=25))


@given(st.dictionaries(keys, values, max_size=14))
def test_any_metadata_gives_a_valid_trigger_or_a_trigger_error(metadata: dict[str, str]) -> None:
    trigger: Trigger | None = None
    found: tuple[str, ...] = ()
    try:
        trigger = parse_trigger(metadata)
    except TriggerError as error:
        found = error.problems
    if trigger is None:
        assert found
        assert all(problem.startswith("metadata") and problem.isprintable() for problem in found)
        return
    assert 0.001 <= trigger.target <= 1e12
    assert 0 <= trigger.activation <= 1e12
    assert math.isfinite(trigger.window_seconds)
    assert trigger.metric_name
    assert set(trigger.metric_name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert parse_trigger(metadata) == trigger


@pytest.mark.parametrize("key", ["targetValue", "targetGpuUtilization"])
def test_the_target_has_three_decimals_as_in_keda(key: str) -> None:
    """KEDA rounds the target that it is given; a product with more decimals would be above the rounded one."""
    assert parse_trigger({key: "33.3333"}).target == 33.333
    assert parse_trigger({key: "66.6667"}).target == 66.667


def test_a_missing_pod_holds_the_size_as_long_as_a_pod_may_start_unless_the_trigger_says_otherwise() -> None:
    assert parse_trigger({}).missing_hold_seconds == DEFAULT_STARTUP_GRACE_SECONDS
    assert parse_trigger({"startupGraceSeconds": "90"}).missing_hold_seconds == 90.0
    assert parse_trigger({"startupGraceSeconds": "90", "missingHoldSeconds": "0"}).missing_hold_seconds == 0.0
