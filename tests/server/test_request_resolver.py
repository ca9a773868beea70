# SPDX-License-Identifier: Apache-2.0
"""Tests of the step resolve: what a trigger's URLs belong to."""

from collections.abc import Mapping

import pytest

from keda_gpu_scaler.core.evaluate.workload_view import scrape_requests
from keda_gpu_scaler.server.request_resolver import RequestResolver

URL = {"metricType": "queue_depth", "targetValue": "5", "engineEndpoint": "http://router.ai.svc/metrics"}
DEMAND = {"demandEndpoint": "http://gateway.web.svc/metrics", "demandMetric": "waiting"}


@pytest.mark.parametrize("has_cluster", [True, False])
@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param(URL, id="the URL of an engine"),
        pytest.param({"metricType": "gpu_utilization", "targetValue": "80", **DEMAND}, id="the URL of demand"),
        pytest.param({**URL, **DEMAND}, id="both"),
    ],
)
def test_a_url_is_scraped_for_the_namespace_of_its_trigger_where_namespaces_are_known(
    metadata: Mapping[str, str], has_cluster: bool
) -> None:
    resolver = RequestResolver(has_cluster=has_cluster)
    for namespace in ("ai", "web"):
        resolved = resolver.resolve(metadata, namespace, "llama", 0.0).resolved
        endpoints = [request.endpoint for request in scrape_requests(resolved.trigger, ())]
        assert len(endpoints) == len(metadata.keys() & {"engineEndpoint", "demandEndpoint"})
        assert {endpoint.namespace for endpoint in endpoints} == {namespace if has_cluster else None}
