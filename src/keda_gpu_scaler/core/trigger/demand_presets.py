# SPDX-License-Identifier: Apache-2.0
"""Presets for sources of demand: routers, gateways and interceptors whose series are known.

Law: a preset says what its source counts, also where this is not the number of waiting requests. A source that counts
the requests of several workloads is read for one workload only.

Facts are from the sources' own code and documentation:

- epp: llm-d's router (llm-d/llm-d-router, 0.10), formerly the Gateway API inference extension (pkg/epp/metrics and
  flowcontrol). The gauge of a flow is deleted when the flow is idle. Newer versions set ``pool_saturation`` in each
  cycle of flow control, and export each series by both names. Without endpoints a request waits for
  ``defaultRequestTTL`` (pull requests 1751 and 2284). The configuration is read once, when the picker starts.
- vllm-router: the vLLM production stack (vllm_router/services/metrics_service).
- http-add-on: ``engines/interceptor.py``.
- dynamo: NVIDIA Dynamo (ai-dynamo/dynamo: docs/observability, lib/llm/src/http/service/metrics.rs and openai.rs,
  lib/llm/src/discovery; 1.2) and its issue 10753. The label ``model`` of requests is in lower case. While no worker
  serves a model, its requests are refused with 404: newer versions count them under the model ``unknown_model``. The
  gauges exist from the first request on. In 1.3 the first two are deprecated. ``active_requests`` counts what
  ``inflight_requests`` does.
- litellm: LiteLLM (BerriAI/litellm: proxy/middleware, in_flight_requests and admission_control;
  integrations/prometheus.py) and its documentation ("Pod health metrics"). The gauges add up the workers. The gauge of
  requests in flight is made by the first request, which may be a scrape, and counts every request of HTTP. Admission
  control does not count probes and scrapes.
- envoy: Envoy (envoyproxy/envoy: cluster_stats.rst of its documentation, source/common/upstream/cluster_manager_impl.cc
  and source/server/admin/prometheus_stats.cc, 2026). Requests that wait for a connection are not among the active ones.
  A request for a cluster without a healthy host is refused and counted by ``upstream_cx_none_healthy``.
- istio: Istio's documentation (istio/istio.io: content/en/docs/reference/config/metrics). The response flag UH marks a
  request that had no endpoint.
- nginx: ingress-nginx (kubernetes/ingress-nginx: internal/ingress/metric/collectors/socket.go, 1.12) and its
  documentation ("Monitoring"). The series of an Ingress are deleted with it.
- traefik: Traefik (traefik/traefik: pkg/metrics/prometheus.go), its documentation ("Metrics"), and its issue 9242 about
  Services without endpoints. A series is deleted after the scrape at which its service is no longer configured.
- knative: Knative Serving (knative/serving: pkg/activator/handler, cmd/activator,
  config/core/deployments/activator-service.yaml) and its documentation ("Metrics"). The activator's gauge contains
  requests that wait and requests that are forwarded.
- kserve: KServe (kserve/kserve: config/llmisvcconfig/config-llm-scheduler.yaml, 2026): the scheduler of an
  LLMInferenceService is llm-d's endpoint picker.
"""

from dataclasses import dataclass
from types import MappingProxyType

_WAITING = "requests that wait in its queue"
_FLOW_CONTROL = ("llm_d_epp_flow_control_queue_size", "inference_extension_flow_control_queue_size")
# The gauge of a flow is deleted when the flow is idle. The other series of flow control stay, and exist only where flow
# control is switched on.
_FLOW_CONTROL_SIBLINGS = ("llm_d_epp_flow_control_", "inference_extension_flow_control_")


@dataclass(frozen=True, slots=True)
class DemandPreset:
    """One known source of demand.

    ``series`` are the names that its series of waiting requests may have. The first name that is found counts. ``plus``
    are further series that are added to the first of ``series``. ``siblings`` are beginnings of names that the source
    exports also while it has no such series. A page with one of them and without the series says that no request waits.
    ``is_always_exported`` says that the series exist from the start, so that a page without them says nothing.
    ``labels`` are the labels of which one must select the workload, because the source serves several; empty where it
    serves one, or where its total is useful. ``lower_case_labels`` are labels whose values the source writes in lower
    case, whatever their case elsewhere. ``unlabelled`` are series of the source that have no labels: they are not
    read where a label must have a value. ``counters`` are further series of the source that users may name. With
    ``needs_replica`` the source shows requests in ``series`` only while a replica runs. For users, ``counts`` says what
    is counted, ``place`` where the page is, ``at_zero`` what the page says while nothing is requested, and
    ``narrowing`` how one workload is selected.
    """

    name: str
    title: str
    series: tuple[str, ...]
    counts: str
    place: str
    at_zero: str
    narrowing: str
    remark: str = ""
    siblings: tuple[str, ...] = ()
    plus: tuple[str, ...] = ()
    is_always_exported: bool = False
    labels: tuple[str, ...] = ()
    lower_case_labels: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    needs_replica: bool = False


DEMANDS: MappingProxyType[str, DemandPreset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            DemandPreset(
                "epp",
                "endpoint picker of the Gateway API inference extension, or of llm-d",
                _FLOW_CONTROL,
                counts=_WAITING,
                place="the picker's Service, port 9090, `/metrics`",
                at_zero="the series of an idle flow is deleted, and others of flow control stay: no demand. An older "
                "picker that was restarted has none of them before its first request: unknown",
                narrowing='one pool: `{inference_pool="NAME"}`',
                remark="flow control must be switched on, and the picker restarted: without it no request waits. A "
                "request waits for `defaultRequestTTL` (60 s) at most, so make it longer than the slowest start",
                siblings=_FLOW_CONTROL_SIBLINGS,
            ),
            DemandPreset(
                "vllm-router",
                "router of the vLLM production stack",
                ("vllm:num_incoming_requests_total",),
                counts="incoming requests per second, also those that are refused",
                place="the router's Service, port 80, `/metrics`",
                at_zero="the counter does not grow: no demand. After a restart its family is declared: no demand",
                narrowing='one model: `{model="NAME"}`',
                remark="it holds no request: clients must retry",
            ),
            DemandPreset(
                "http-add-on",
                "interceptor of KEDA's HTTP add-on",
                ("http_add_on_pending_requests",),
                counts="requests that it holds or has forwarded and that have not ended",
                place="a headless Service beside the admin Service, port 9090, `/queue`",
                at_zero="each host is listed with 0. A host that is not listed is unknown",
                narrowing='one host: `{host="NAMESPACE/NAME"}`',
            ),
            DemandPreset(
                "dynamo",
                "frontend of NVIDIA Dynamo",
                (
                    "dynamo_frontend_queued_requests",
                    "dynamo_frontend_inflight_requests",
                    "dynamo_frontend_active_requests",
                ),
                counts="requests that have no first token yet; if their gauge is not exported, all requests in flight",
                place="the frontend's Service, port 8000, `/metrics`",
                at_zero="the gauge is 0. After a restart other series of the frontend are there: no demand",
                narrowing='one model: `{model="NAME"}`, in any case: the frontend writes it in lower case',
                remark="while no worker serves the model, its requests are refused (404) and not in the gauges: keep "
                "one replica, or name the counter of refused ones, "
                '`dynamo_frontend_requests_total{error_type="not_found"}`. It counts the requests for every unknown '
                "model, and clients must retry",
                siblings=("dynamo_frontend_",),
                lower_case_labels=("model",),
                counters=("dynamo_frontend_requests_total",),
                needs_replica=True,
            ),
            DemandPreset(
                "litellm",
                "LiteLLM proxy",
                (
                    "litellm_admission_queued_requests",
                    "litellm_in_flight_requests",
                    "litellm_proxy_total_requests_metric_total",
                ),
                counts="with admission control, requests that wait or are admitted; without it, all requests in "
                "flight but the scrape itself; for one model, requests per second when they end",
                place="a headless Service, port 4000, `/metrics/`",
                at_zero="the gauges are 0. After a restart there are other series of LiteLLM: no demand",
                narrowing='one model: `{requested_model="NAME"}`; the gauges have no label',
                remark="set `callbacks: [prometheus]`; probes are in flight too: set `SEPARATE_HEALTH_APP=1` or "
                "`max_in_flight_requests_per_worker`",
                siblings=("litellm_",),
                plus=("litellm_admission_admitted_requests",),
                unlabelled=(
                    "litellm_admission_queued_requests",
                    "litellm_admission_admitted_requests",
                    "litellm_in_flight_requests",
                ),
            ),
            DemandPreset(
                "envoy",
                "Envoy, and gateways that are made of it",
                ("envoy_cluster_upstream_rq_pending_active",),
                counts="requests that wait for a connection or are served, and requests per second that are refused "
                "because no endpoint is there",
                place="each Envoy's admin or statistics port (Envoy Gateway: 19001), `/stats/prometheus`",
                at_zero="each series is 0, from the start. A cluster without series is unknown",
                narrowing='one cluster: `{envoy_cluster_name="NAME"}`',
                remark="it holds no request while no endpoint is there: clients must retry. With "
                "`enable_deferred_creation_stats` a restarted Envoy is unknown before its first request",
                plus=("envoy_cluster_upstream_rq_active", "envoy_cluster_upstream_cx_none_healthy"),
                is_always_exported=True,
                labels=("envoy_cluster_name",),
            ),
            DemandPreset(
                "istio",
                "gateway or sidecar of Istio",
                ("istio_requests_total",),
                counts="requests per second when they end, also those that are refused because no endpoint is there",
                place="each proxy of the gateway, port 15020, `/stats/prometheus`",
                at_zero="the counter does not grow, or is deleted: no demand. After a restart `istio_build` is there: "
                "no demand",
                narrowing='one Service: `{destination_service_name="NAME",destination_service_namespace="NAMESPACE"}`',
                remark="it cannot show requests that run or wait, and holds none: clients must retry",
                siblings=("istio_",),
                labels=("destination_service_name", "destination_service"),
            ),
            DemandPreset(
                "nginx",
                "ingress-nginx",
                ("nginx_ingress_controller_requests",),
                counts="requests per second when they end, also those that are refused because no endpoint is there",
                place="a headless Service of the controller, port 10254, `/metrics`",
                at_zero="the counter does not grow: no demand. After a restart other series of the controller are "
                "there: no demand",
                narrowing='one Ingress: `{namespace="NAMESPACE",ingress="NAME"}`',
                remark="set `controller.metrics.enabled`; it cannot show requests that run or wait, and holds none: "
                "clients must retry. A wildcard host needs `--metrics-per-host=false`",
                siblings=("nginx_ingress_controller_",),
                labels=("ingress", "service", "host"),
            ),
            DemandPreset(
                "traefik",
                "Traefik",
                ("traefik_service_requests_total",),
                counts="requests per second when they end, also those that are refused because no endpoint is there",
                place="a headless Service, the port of the metrics' entry point (chart: 9100), `/metrics`",
                at_zero="the counter does not grow, or is deleted with its service: no demand. After a restart "
                "`traefik_config_reloads_total` is there: no demand",
                narrowing='one service: `{service="NAMESPACE-NAME-PORT@kubernetes"}`',
                remark="set `allowEmptyServices`: without it a request for a Service without endpoints is a 404 and is "
                "not counted. It cannot show requests that run or wait, and holds none: clients must retry",
                siblings=("traefik_config_",),
                labels=("service",),
            ),
            DemandPreset(
                "knative",
                "activator of Knative Serving",
                ("kn_revision_request_concurrency", "activator_request_concurrency"),
                counts="requests that the activator holds or has forwarded and that have not ended",
                place="a headless Service beside `activator-service`, port 9090, `/metrics`",
                at_zero="the gauge is 0, or is deleted. After a restart other series of the activator are there: no "
                "demand. An older one that was restarted may have none of them before its first request: unknown",
                narrowing='one Revision: `{kn_revision_name="NAME",k8s_namespace_name="NAMESPACE"}`; older versions: '
                '`{revision_name="NAME",namespace_name="NAMESPACE"}`',
                remark="set `metrics-protocol: prometheus` in `config-observability`; the gauge is set once a second",
                siblings=("kn_activator_", "kn_revision_request_", "activator_"),
                labels=(
                    *("kn_revision_name", "kn_configuration_name", "kn_service_name"),
                    *("revision_name", "configuration_name", "service_name"),
                ),
            ),
            DemandPreset(
                "kserve",
                "scheduler of a KServe LLMInferenceService",
                _FLOW_CONTROL,
                counts=_WAITING,
                place="the Service `NAME-epp-service`, port 9090, `/metrics`",
                at_zero="as `epp`",
                narrowing="not needed: it serves one LLMInferenceService",
                remark="as `epp`. An InferenceService in Knative mode is read by `knative`; in "
                "Standard mode KServe has no source of demand",
                siblings=_FLOW_CONTROL_SIBLINGS,
            ),
        )
    }
)
"""Every preset by its name in trigger metadata."""


def siblings_of(series: str) -> tuple[str, ...]:
    """Return how the names of the other series begin that the source of this series exports; empty if unknown."""
    return _SIBLINGS.get(series, ())


def counts_its_scrape(series: str) -> bool:
    """Whether this gauge of requests contains the request that reads it."""
    return series == "litellm_in_flight_requests"


_SIBLINGS = MappingProxyType(
    {name: preset.siblings for preset in DEMANDS.values() for name in (*preset.series, *preset.plus, *preset.counters)}
)
