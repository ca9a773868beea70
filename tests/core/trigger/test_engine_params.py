# SPDX-License-Identifier: Apache-2.0
"""Tests of the trigger parameters about engines and demand."""

import pytest

from keda_gpu_scaler.core.selectors import SeriesSelector, parse_series
from keda_gpu_scaler.core.trigger.demand_params import DemandQuery
from keda_gpu_scaler.core.trigger.demand_presets import DEMANDS
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS
from keda_gpu_scaler.core.trigger.parser import Scope, Trigger, TriggerError, parse_trigger

EPP = "http://epp.ai:9090/metrics"


def problems(**metadata: str) -> list[str]:
    with pytest.raises(TriggerError) as caught:
        parse_trigger(metadata)
    return list(caught.value.problems)


def engine(trigger: Trigger) -> EngineQuery:
    assert trigger.engine is not None
    return trigger.engine


def test_a_device_metric_queries_no_engine() -> None:
    trigger = parse_trigger({})
    assert (trigger.engine, trigger.demand, trigger.is_scraped) == (None, None, False)


@pytest.mark.parametrize(
    ("metadata", "metric", "target", "activation", "about"),
    [
        pytest.param({"profile": "llm"}, "load", 100, 0, "auto", id="llm"),
        pytest.param({"profile": "sglang"}, "load", 100, 0, "sglang", id="sglang"),
        pytest.param({"profile": "tgi"}, "load", 100, 0, "tgi", id="tgi"),
        pytest.param({"profile": "vllm-queue-depth"}, "vllm_queue_depth", 5, 1, "vllm", id="vllm-queue-depth"),
        pytest.param({"profile": "triton-queue-wait"}, "triton_queue_wait_ms", 50, 5, "triton", id="triton-queue-wait"),
        pytest.param(
            {"profile": "triton-request-rate"}, "triton_request_rate", 50, 1, "triton", id="triton-request-rate"
        ),
        pytest.param({"metricType": "queue_depth"}, "queue_depth", 5, 0, "auto", id="a metric with a default target"),
        pytest.param(
            {"metricType": "kv_cache_usage"}, "kv_cache_usage", 80, 0, "auto", id="the KV cache is in per cent"
        ),
        pytest.param(
            {"profile": "vllm-inference", "metricType": "saturation"},
            "saturation",
            100,
            5,
            "auto",
            id="a profile's target does not apply to another metric",
        ),
        pytest.param({"profile": "llm", "engine": "sglang"}, "load", 100, 0, "sglang", id="a named engine"),
    ],
)
def test_metric_target_and_engine_follow_from_the_keys(
    metadata: dict[str, str], metric: str, target: float, activation: float, about: str
) -> None:
    trigger = parse_trigger(metadata)
    assert (trigger.metric.name, trigger.target, trigger.activation) == (metric, target, activation)
    assert engine(trigger).engine == about
    assert trigger.scope is Scope.WORKLOAD
    assert not trigger.hints


def test_every_key_about_engines_is_read() -> None:
    trigger = parse_trigger(
        {
            "metricType": "saturation",
            "engine": "vllm",
            "enginePort": "8080",
            "enginePath": "/stats",
            "engineScheme": "https",
            "quantile": "0.5",
            "queueTarget": "3",
            "kvTarget": "0.7",
            "maxSeqs": "128",
        }
    )
    assert trigger.engine == EngineQuery(
        "vllm", (8080,), "/stats", "https", quantile=0.5, queue_target=3, kv_target=0.7, max_seqs=128
    )


@pytest.mark.parametrize(
    ("key", "about"), [("vllmEndpoint", "vllm"), ("tritonEndpoint", "triton"), ("engineEndpoint", "auto")]
)
def test_an_endpoint_key_sets_url_engine_and_scope(key: str, about: str) -> None:
    trigger = parse_trigger({"metricType": "queue_depth", key: "http://vllm-svc:8000/metrics"})
    assert engine(trigger).url == "http://vllm-svc:8000/metrics"
    assert engine(trigger).engine == about
    assert trigger.scope is Scope.ENDPOINT


def test_any_series_of_an_engine_can_be_the_metric() -> None:
    trigger = parse_trigger({"engineMetric": 'queue{model="a"}', "targetValue": "3"})
    assert trigger.metric is ENGINE_METRICS["engine"]
    assert engine(trigger).selectors == (parse_series('queue{model="a"}'),)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        pytest.param(
            {"metricType": "token_rate"},
            "metadata.targetValue: Required value: token_rate has no default: set how much of it one replica should "
            "have",
            id="a metric without a default target",
        ),
        pytest.param(
            {"metricType": "engine", "targetValue": "1"},
            'metadata.engineMetric: Required value: name the series: name{label="value"}',
            id="no series",
        ),
        pytest.param(
            {"engineMetric": '{model="a"}', "targetValue": "1"},
            'metadata.engineMetric: Invalid value: "{model=\\"a\\"}": must begin with the series\' name: '
            'name{label="value"}',
            id="labels without a name",
        ),
        pytest.param(
            {"engineMetric": 'queue{model=~"a.*"}', "targetValue": "1"},
            'metadata.engineMetric: Invalid value: "queue{model=~\\"a.*\\"}": must look like '
            'name{label="value",other!="value"}; patterns (=~, !~) are not supported',
            id="a pattern",
        ),
        pytest.param(
            {"engineMetric": "queue", "metricType": "queue_depth", "targetValue": "1"},
            'metadata.engineMetric: Invalid value: "queue": means metricType engine, but metricType is queue_depth; '
            "keep one",
            id="a series and another metric",
        ),
        pytest.param(
            {"profile": "llm", "engine": "vLMM"},
            f'metadata.engine: Unsupported value: "vLMM": supported values: auto, {", ".join(ENGINES)}',
            id="an unknown engine",
        ),
        pytest.param(
            {"profile": "vllm-queue-depth", "engine": "sglang"},
            'metadata.engine: Invalid value: "sglang": the other keys select vllm; remove engine',
            id="an engine that differs from the metric's",
        ),
        pytest.param(
            {"profile": "llm", "enginePort": "http"},
            'metadata.enginePort: Invalid value: "http": must be a port from 1 to 65535, or a list with '
            "ranges such as 8000-8007,9000",
            id="the name of a port",
        ),
        pytest.param(
            {"profile": "llm", "enginePath": "metrics"},
            'metadata.enginePath: Invalid value: "metrics": must begin with / and have at most 256 printable '
            "characters without blanks",
            id="a path without its slash",
        ),
        pytest.param(
            {"profile": "llm", "engineEndpoint": "vllm:8000/metrics"},
            'metadata.engineEndpoint: Invalid value: "vllm:8000/metrics": must begin with http:// or https://',
            id="no scheme",
        ),
        pytest.param(
            {"profile": "llm", "engineEndpoint": "http://a/", "vllmEndpoint": "http://b/"},
            "metadata.vllmEndpoint: Forbidden: engineEndpoint is given as well; keep one of the two",
            id="two URLs",
        ),
        pytest.param(
            {"profile": "llm", "engineEndpoint": "http://a/", "enginePort": "80"},
            'metadata.enginePort: Invalid value: "80": engineEndpoint contains it already; keep one of the two',
            id="a URL and a port",
        ),
        pytest.param(
            {"profile": "llm", "scope": "fleet"},
            'metadata.scope: Invalid value: "fleet": load is reported by the workload\'s pods: remove scope, or '
            "set engineEndpoint to one URL",
            id="a scope for devices",
        ),
        pytest.param(
            {"profile": "llm", "kvTarget": "80"},
            'metadata.kvTarget: Invalid value: "80": must be a plain number from 0.01 to 1, without a unit',
            id="a ratio in per cent",
        ),
        pytest.param(
            {"engineModel": "a,,b"},
            'metadata.engineModel: Invalid value: "a,,b": must be at most 16 names of models with commas between them, '
            "each of at most 256 printable characters",
            id="a model without a name",
        ),
        pytest.param(
            {"engine": "tgi", "engineModel": "a"},
            'metadata.engineModel: Invalid value: "a": tgi names no models in its series; remove the key',
            id="models of an engine that names none",
        ),
        pytest.param(
            {"demand": "epp"},
            "metadata.demandEndpoint: Required value: demand needs the URL of the source of demand",
            id="demand without its URL",
        ),
        pytest.param(
            {"demandEndpoint": EPP},
            "metadata.demandMetric: Required value: name the series that reports the demand, or set demand to one of: "
            + ", ".join(DEMANDS),
            id="demand without a series",
        ),
        pytest.param(
            {"demandEndpoint": EPP, "demandMetric": '{inference_pool="a"}'},
            'metadata.demandMetric: Invalid value: "{inference_pool=\\"a\\"}": labels alone narrow a preset, and '
            "demand names no preset: begin with the series' name",
            id="labels without a preset",
        ),
        pytest.param(
            {"demandEndpoint": EPP, "demand": "nginx"},
            "metadata.demandMetric: Required value: demand nginx counts the requests of every workload behind it; "
            "select one with the label ingress or service or host, for example "
            '{namespace="NAMESPACE",ingress="NAME"}',
            id="a source of several workloads, of which none is selected",
        ),
        pytest.param(
            {"demandEndpoint": EPP, "demand": "envoy", "demandMetric": '{envoy_cluster_name!="a"}'},
            'metadata.demandMetric: Invalid value: "{envoy_cluster_name!=\\"a\\"}": envoy counts the requests of every '
            "workload behind it; select one with the label envoy_cluster_name, for example "
            '{envoy_cluster_name="NAME"}',
            id="a label that excludes one workload selects none",
        ),
        pytest.param(
            {"demandEndpoint": EPP, "demand": "epp", "demandHoldSeconds": "600"},
            'metadata.demandHoldSeconds: Invalid value: "600": must be a plain number from 0 to 300, without a unit',
            id="a hold longer than the history",
        ),
    ],
)
def test_a_problem_names_the_key_the_value_and_the_remedy(metadata: dict[str, str], expected: str) -> None:
    assert problems(**metadata) == [expected]


@pytest.mark.parametrize(
    ("metadata", "demand"),
    [
        pytest.param(
            {"demand": "epp"},
            DemandQuery(EPP, tuple(SeriesSelector(name) for name in DEMANDS["epp"].series)),
            id="a preset has its series",
        ),
        pytest.param(
            {"demand": "epp", "demandMetric": '{inference_pool="a"}'},
            DemandQuery(EPP, tuple(parse_series(name + '{inference_pool="a"}') for name in DEMANDS["epp"].series)),
            id="labels narrow a preset",
        ),
        pytest.param(
            {"demand": "envoy", "demandMetric": '{envoy_cluster_name="a"}'},
            DemandQuery(
                EPP,
                (parse_series('envoy_cluster_upstream_rq_pending_active{envoy_cluster_name="a"}'),),
                plus=(
                    parse_series('envoy_cluster_upstream_rq_active{envoy_cluster_name="a"}'),
                    parse_series('envoy_cluster_upstream_cx_none_healthy{envoy_cluster_name="a"}'),
                ),
                is_always_exported=True,
            ),
            id="a preset of several series that are added up",
        ),
        pytest.param(
            {"demand": "dynamo", "demandMetric": '{model="Qwen/Q"}'},
            DemandQuery(
                EPP,
                tuple(
                    parse_series(f'dynamo_frontend_{name}_requests{{model="{model}"}}')
                    for name in ("queued", "inflight", "active")
                    for model in ("Qwen/Q", "qwen/q")
                ),
            ),
            id="a label that the source writes in lower case",
        ),
        pytest.param(
            {"demand": "dynamo", "demandMetric": 'dynamo_frontend_inflight_requests{endpoint="A",model!="B"}'},
            DemandQuery(
                EPP,
                (parse_series('dynamo_frontend_inflight_requests{endpoint="A",model!="b"}'),),
            ),
            id="an excluded name in lower case, and no other label",
        ),
        pytest.param(
            {"demand": "dynamo", "demandMetric": '{model="q"}'},
            DemandQuery(
                EPP,
                (
                    parse_series('dynamo_frontend_queued_requests{model="q"}'),
                    parse_series('dynamo_frontend_inflight_requests{model="q"}'),
                    parse_series('dynamo_frontend_active_requests{model="q"}'),
                ),
            ),
            id="a name in lower case has no alternative",
        ),
        pytest.param(
            {"demand": "litellm", "demandMetric": '{requested_model="m"}'},
            DemandQuery(EPP, (parse_series('litellm_proxy_total_requests_metric_total{requested_model="m"}'),)),
            id="a label that the gauges of the source do not have",
        ),
        pytest.param(
            {"demand": "litellm", "demandMetric": '{requested_model!="m"}'},
            DemandQuery(
                EPP,
                tuple(
                    parse_series(f'litellm_{name}{{requested_model!="m"}}')
                    for name in ("admission_queued_requests", "in_flight_requests", "proxy_total_requests_metric_total")
                ),
                plus=(parse_series('litellm_admission_admitted_requests{requested_model!="m"}'),),
            ),
            id="an excluded label leaves the gauges in",
        ),
        pytest.param(
            {"demand": "envoy", "demandMetric": 'envoy_cluster_upstream_rq_active{envoy_cluster_name="a"}'},
            DemandQuery(EPP, (parse_series('envoy_cluster_upstream_rq_active{envoy_cluster_name="a"}'),)),
            id="a series of the trigger replaces the preset",
        ),
        pytest.param(
            {
                "demandMetric": "queue",
                "demandThreshold": "2",
                "demandHoldSeconds": "30",
                "demandPerReplica": "8",
            },
            DemandQuery(EPP, (SeriesSelector("queue"),), 2.0, 30.0, 8.0),
            id="every key about demand",
        ),
    ],
)
def test_demand_follows_from_the_keys(metadata: dict[str, str], demand: DemandQuery) -> None:
    trigger = parse_trigger({"demandEndpoint": EPP, **metadata})
    assert trigger.demand == demand
    assert trigger.metric.name == "gpu_utilization"


@pytest.mark.parametrize("preset", sorted(name for name, one in DEMANDS.items() if one.labels))
def test_the_example_in_the_error_is_accepted(preset: str) -> None:
    (problem,) = problems(demandEndpoint=EPP, demand=preset)
    example = problem.partition("for example ")[2]
    assert parse_trigger({"demandEndpoint": EPP, "demand": preset, "demandMetric": example}).demand


def test_an_unused_key_gives_a_hint() -> None:
    assert parse_trigger({"engine": "vllm"}).hints == (
        "metadata.engine: is not used: gpu_utilization is reported by devices, not by engines",
    )
    assert parse_trigger({"profile": "llm", "gpuModel": "*H100*"}).hints == (
        "metadata.gpuModel: is not used: load is reported by engines, whatever devices they run on",
    )


def test_the_models_of_an_engine_are_a_list() -> None:
    trigger = parse_trigger({"profile": "llm", "engine": "triton", "engineModel": "detector, ocr,detector"})
    assert engine(trigger).models == ("detector", "ocr")
