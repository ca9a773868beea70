# SPDX-License-Identifier: Apache-2.0
"""BentoML, by the requests in progress of its Services.

Law: BentoML exports no queue. Requests in progress contain those that wait inside a Service.

Facts are from BentoML's source (bentoml/BentoML: src/bentoml/_internal/server/http/instruments.py and
src/_bentoml_impl/server/app.py, 1.4) and its documentation ("Observability, Metrics"): each request has the path of its
``endpoint``, also those of the probes, and the scrape itself is not counted. The gauge adds up the live workers. A
series exists from the first request to its endpoint on, and stays. So a page that has other series of the name, such as
those of the probes, and none of an endpoint says that no request is in progress. Each Service of a Bento counts the
requests that it receives, so a request that passes through two Services counts twice; ``runner_name`` is the name of
the Service. Versions before 1.2 name the series ``bentoml_api_server``. Other names, which ``metrics.namespace`` sets,
are read by ``engineMetric``.

The time of a request contains its wait, so it is no time of computation. ``load`` is computed from the requests in
progress and their limit, which ``maxSeqs`` states.
"""

from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine, LoadRung
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, SeriesSource, source

_PROBES = 'endpoint!="/livez",endpoint!="/readyz",endpoint!="/healthz"'
_NAMESPACES = ("bentoml_service", "bentoml_api_server")


def _sources(name: str, more: str = "") -> tuple[SeriesSource, ...]:
    return tuple(source(f"{namespace}_{name}{{{_PROBES}{more}}}", appears_with_use=True) for namespace in _NAMESPACES)


ENGINE = Engine(
    "bentoml",
    "BentoML",
    3000,
    detection_order=89,
    behind=("vllm",),
    remark="exports requests in progress alone: set `maxSeqs` to what one replica should have at most",
    reports_queue=False,
    reports_kv_cache=False,
    preallocating_containers=ContainerNames("BentoML", image_words=("bentoml",), commands=("bentoml",)),
    load_rung=LoadRung.RUNNING,
    model_labels=("runner_name",),
    has_ensembles=True,
)

GUIDE = EngineGuide(
    switch_on="Nothing: `metrics.enabled` is on by default, at the port of the Service.",
    traps=(
        "There is no queue on the page. Requests in progress contain those that wait inside the Service. Set "
        "`maxSeqs` to the number of requests that one replica should have at most; `load` is at 100 % when 0.8 of "
        "it are in progress.",
        "A request that passes through two Services of a Bento counts in both. Select the one that owns the GPU "
        "with `engineModel`, by its class name.",
        "Probes count as requests under their own `endpoint`. They are left out.",
        "A new pod has no series before its first request or probe. With a readiness probe, 0 requests are in progress "
        "from the first probe on.",
        "With `metrics.namespace` the series have another prefix. Then use `engineMetric`.",
        "Versions before 1.2 name the series `bentoml_api_server`. Those before 1.0.6 put the name of the Bento "
        "into the name of the series: use `engineMetric`.",
        "A Bento that mounts vLLM's server has the series of vLLM on a page of its own path: set `enginePath`.",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=tuple(f"{namespace}_request_in_progress" for namespace in _NAMESPACES),
    families=tuple(f"{namespace}_request_total" for namespace in _NAMESPACES),
    running=_sources("request_in_progress"),
    requests_total=_sources("request_total", ',http_response_code="200"'),
)
