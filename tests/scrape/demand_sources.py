# SPDX-License-Identifier: Apache-2.0
"""The pages of each source of demand: with requests, after an idle hour, and after a restart.

Names and types are from the sources that ``core/trigger/demand_presets.py`` lists. Where a source serves several
workloads, its page has another one that always has requests.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Count = int
"""The number of requests that wait now, or, of a counter, of all requests since its source started."""


@dataclass(frozen=True, slots=True)
class DemandSource:
    """What one source serves.

    ``busy`` returns the page with this count, ``idle`` the page after an hour without a request to the workload, which
    had ``count`` requests before. ``fresh`` is the page after a restart, before the first request. ``is_unknown_fresh``
    says that this page does not show whether a request waits.
    """

    preset: str
    busy: Callable[[Count], str]
    idle: Callable[[Count], str]
    fresh: str
    metric: str = ""
    path: str = "/metrics"
    is_counter: bool = False
    is_unknown_fresh: bool = False

    @property
    def metadata(self) -> dict[str, str]:
        """The keys of a trigger for this source, without a hold."""
        keys = {"demand": self.preset, "demandEndpoint": f"http://source.ai.svc{self.path}", "demandHoldSeconds": "0"}
        return keys | ({"demandMetric": self.metric} if self.metric else {})


def _family(name: str, kind: str, *series: tuple[str, float]) -> str:
    return f"# TYPE {name} {kind}\n" + "".join(f"{name}{labels} {value}\n" for labels, value in series)


def _picker(size: int | None, prefix: str = "inference_extension", saturation: bool = True) -> str:
    name = f"{prefix}_flow_control_"
    page = _family("go_goroutines", "gauge", ("", 90))
    if size is not None:
        flow = ('{fairness_id="a",inference_pool="llama",priority="0"}', size)
        page += _family(f"{name}queue_size", "gauge", flow)
    if saturation:
        page += _family(f"{name}pool_saturation", "gauge", ('{inference_pool="llama"}', 0.1))
    return page


def _shared_picker(size: int | None) -> str:
    name = "inference_extension_flow_control_queue_size"
    flows = [('{fairness_id="a",inference_pool="llama"}', size)] if size is not None else []
    return _family(name, "gauge", *flows, ('{fairness_id="b",inference_pool="other"}', 9))


def _router(count: int | None) -> str:
    series = [] if count is None else [('{model="llama"}', count), ('{model="other"}', 100.0)]
    return _family("vllm:num_incoming_requests_total", "counter", *series) + _family("vllm:current_qps", "gauge")


def _interceptor(size: int) -> str:
    return json.dumps({"ai/llama": {"Concurrency": size, "RPS": 0}, "ai/other": {"Concurrency": 7, "RPS": 1}})


def _dynamo(size: int | None) -> str:
    page = _family("dynamo_frontend_disconnected_clients", "gauge", ("", 0))
    if size is None:
        return page
    page += _family("dynamo_frontend_model_context_length", "gauge", ('{model="Meta/Llama"}', 4096))
    queued = [('{model="meta/llama"}', size), ('{model="other"}', 4)]
    return page + _family("dynamo_frontend_queued_requests", "gauge", *queued)


def _dynamo_active(size: int | None) -> str:
    series = [] if size is None else [('{model="meta/llama"}', size), ('{model="other"}', 4)]
    return _dynamo(None) + (_family("dynamo_frontend_active_requests", "gauge", *series) if series else "")


def _dynamo_without_workers(refused: int | None) -> str:
    labels = 'endpoint="chat_completions",request_type="unary"'
    series = [(f'{{model="other",{labels},error_type="",status="success"}}', 100.0)]
    if refused is not None:
        series.append((f'{{model="unknown_model",{labels},error_type="not_found",status="error"}}', refused))
    return _dynamo(None) + _family("dynamo_frontend_requests_total", "counter", *series)


def _litellm(admitted: int | None, *, in_flight: int = 1, model: int | None = None) -> str:
    series = [] if model is None else [('{requested_model="llama"}', model), ('{requested_model="other"}', 100.0)]
    page = _family("litellm_proxy_total_requests_metric_total", "counter", *series)
    page += _family("litellm_in_flight_requests", "gauge", ("", in_flight))  # the scrape is one of them
    if admitted is None:
        return page
    queued = max(0, admitted - 2)
    page += _family("litellm_admission_admitted_requests", "gauge", ("", admitted - queued))
    return page + _family("litellm_admission_queued_requests", "gauge", ("", queued))


def _envoy(refused: int, active: int = 0, pending: int = 0) -> str:
    page = ""
    for name, kind, value, of_other in (
        ("upstream_rq_active", "gauge", active, 5),
        ("upstream_rq_pending_active", "gauge", pending, 2),
        ("upstream_cx_none_healthy", "counter", refused, 70),
        ("membership_total", "gauge", 0, 3),
    ):
        clusters = [('{envoy_cluster_name="llama"}', value), ('{envoy_cluster_name="other"}', of_other)]
        page += _family(f"envoy_cluster_{name}", kind, *clusters)
    return page + _family("envoy_server_live", "gauge", ("{}", 1))


def _istio(count: int | None) -> str:
    page = _family("istio_build", "gauge", ('{component="proxy",tag="1.29"}', 1))
    if count is None:
        return page
    labels = 'reporter="source",destination_service_namespace="ai",response_code="503",response_flags="UH"'
    llama, other = (f'{{destination_service_name="{name}",{labels}}}' for name in ("llama", "other"))
    return page + _family("istio_requests_total", "counter", (llama, count), (other, 100))


def _nginx(count: int | None, other: bool = True) -> str:
    page = _family("nginx_ingress_controller_nginx_process_requests_total", "counter", ("", 9))
    series = [('{ingress="other",namespace="ai",status="200"}', 100.0)] if other else []
    if count is not None:
        series.append(('{ingress="llama",namespace="ai",service="llama",status="503"}', count))
    return page + (_family("nginx_ingress_controller_requests", "counter", *series) if series else "")


def _traefik(count: int | None, other: bool = True) -> str:
    page = _family("traefik_config_reloads_total", "counter", ("", 3))
    series = [('{code="200",method="POST",protocol="http",service="ai-other-80@kubernetes"}', 100.0)] if other else []
    if count is not None:
        series.append(('{code="503",method="POST",protocol="http",service="ai-llama-80@kubernetes"}', count))
    return page + (_family("traefik_service_requests_total", "counter", *series) if series else "")


def _activator(size: int | None, other: bool = True) -> str:
    page = _family("kn_activator_stats_conn_reachable", "gauge", ('{peer="autoscaler"}', 1))
    series = [('{k8s_namespace_name="ai",kn_revision_name="other-00001"}', 3.0)] if other else []
    if size is not None:
        series.append(('{k8s_namespace_name="ai",kn_revision_name="llama-00001"}', size))
    return page + (_family("kn_revision_request_concurrency", "gauge", *series) if series else "")


def _older_activator(size: int | None) -> str:
    page = _family("activator_go_goroutines", "gauge", ("", 40))
    labels = '{namespace_name="ai",revision_name="llama-00001"}'
    return page + ("" if size is None else _family("activator_request_concurrency", "gauge", (labels, size)))


SOURCES: Mapping[str, DemandSource] = {
    "an endpoint picker": DemandSource("epp", _picker, lambda _: _picker(None), _picker(None)),
    "an endpoint picker of llm-d": DemandSource(
        "epp",
        lambda size: _picker(size, "llm_d_epp"),
        lambda _: _picker(None, "llm_d_epp"),
        _picker(None, "llm_d_epp"),
    ),
    "an endpoint picker of two pools": DemandSource(
        "epp", _shared_picker, lambda _: _shared_picker(None), _shared_picker(None), '{inference_pool="llama"}'
    ),
    "an older endpoint picker": DemandSource(
        "epp",
        lambda size: _picker(size, saturation=False),
        lambda _: _picker(0, saturation=False),
        _picker(None, saturation=False),
        '{inference_pool="llama"}',
        is_unknown_fresh=True,
    ),
    "the router of vLLM": DemandSource(
        "vllm-router", _router, _router, _router(None), '{model="llama"}', is_counter=True
    ),
    "an interceptor": DemandSource(
        "http-add-on", _interceptor, lambda _: _interceptor(0), _interceptor(0), '{host="ai/llama"}', path="/queue"
    ),
    "a frontend of Dynamo": DemandSource(
        "dynamo", _dynamo, lambda _: _dynamo(0), _dynamo(None), '{model="Meta/Llama"}'
    ),
    "a frontend of Dynamo without the deprecated gauges": DemandSource(
        "dynamo", _dynamo_active, lambda _: _dynamo_active(0), _dynamo_active(None), '{model="Meta/Llama"}'
    ),
    "a frontend of Dynamo without workers": DemandSource(
        "dynamo",
        _dynamo_without_workers,
        _dynamo_without_workers,
        _dynamo(None),
        'dynamo_frontend_requests_total{error_type="not_found"}',
        is_counter=True,
    ),
    "LiteLLM": DemandSource(
        "litellm", lambda size: _litellm(None, in_flight=1 + size), lambda _: _litellm(None), _litellm(None)
    ),
    "LiteLLM with admission control": DemandSource(
        "litellm", lambda size: _litellm(size, in_flight=9), lambda _: _litellm(0, in_flight=3), _litellm(None)
    ),
    "one model of LiteLLM": DemandSource(
        "litellm",
        lambda count: _litellm(1, in_flight=9, model=count),
        lambda count: _litellm(1, in_flight=9, model=count),
        _litellm(None),
        '{requested_model="llama"}',
        is_counter=True,
    ),
    "one model of LiteLLM with several workers, whose page declares nothing without a series": DemandSource(
        "litellm",
        lambda count: _litellm(None, model=count),
        lambda count: _litellm(None, model=count),
        _family("litellm_in_flight_requests", "gauge", ("", 1)),
        '{requested_model="llama"}',
        is_counter=True,
    ),
    "Envoy, at zero replicas": DemandSource(
        "envoy", _envoy, _envoy, _envoy(0), '{envoy_cluster_name="llama"}', path="/stats/prometheus", is_counter=True
    ),
    "Envoy, with replicas": DemandSource(
        "envoy",
        lambda size: _envoy(40, active=size, pending=1),
        lambda _: _envoy(40),
        _envoy(0),
        '{envoy_cluster_name="llama"}',
        path="/stats/prometheus",
    ),
    "a gateway of Istio": DemandSource(
        "istio",
        _istio,
        _istio,
        _istio(None),
        '{destination_service_name="llama",destination_service_namespace="ai"}',
        path="/stats/prometheus",
        is_counter=True,
    ),
    "a gateway of Istio that deletes idle series": DemandSource(
        "istio",
        _istio,
        lambda _: _istio(None),
        _istio(None),
        '{destination_service_name="llama"}',
        path="/stats/prometheus",
        is_counter=True,
    ),
    "ingress-nginx": DemandSource(
        "nginx", _nginx, _nginx, _nginx(None, other=False), '{namespace="ai",ingress="llama"}', is_counter=True
    ),
    "Traefik": DemandSource(
        "traefik",
        _traefik,
        lambda _: _traefik(None),
        _traefik(None, other=False),
        '{service="ai-llama-80@kubernetes"}',
        is_counter=True,
    ),
    "an activator": DemandSource(
        "knative",
        _activator,
        lambda _: _activator(0),
        _activator(None, other=False),
        '{kn_revision_name="llama-00001"}',
    ),
    "an activator that deletes idle series": DemandSource(
        "knative", _activator, lambda _: _activator(None), _activator(None), '{kn_revision_name="llama-00001"}'
    ),
    "an older activator": DemandSource(
        "knative",
        _older_activator,
        lambda _: _older_activator(0),
        _older_activator(None),
        '{revision_name="llama-00001"}',
    ),
    "a scheduler of KServe": DemandSource(
        "kserve",
        lambda size: _picker(size, "llm_d_epp"),
        lambda _: _picker(None, "llm_d_epp"),
        _picker(None, "llm_d_epp"),
    ),
}
"""The sources by their names in tests."""
