# SPDX-License-Identifier: Apache-2.0
"""Checks whether the URLs of a trigger lead to another namespace, which the operator must allow."""

from collections.abc import Iterator, Mapping
from typing import Any

from keda_gpu_scaler.cli.validate.documents import as_text
from keda_gpu_scaler.cli.validate.findings import Severity
from keda_gpu_scaler.cli.validate.problem import Problem
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.engine_params import ENDPOINT_KEYS
from keda_gpu_scaler.core.urls import UrlError, parse_url, service_name

URL_KEYS = (*ENDPOINT_KEYS, "demandEndpoint")


def check_endpoints(namespace: str, triggers: Mapping[int, Mapping[Any, Any]]) -> Iterator[Problem]:
    """Yield a note for each URL whose host is no Service of the object's own namespace.

    Args:
        namespace: of the object; empty where the manifest does not name it.
        triggers: the metadata of this scaler's triggers by their index.
    """
    for number, metadata in triggers.items():
        for key in URL_KEYS if namespace else ():
            host = _host(metadata.get(key))
            if host and service_name(host, namespace) is None:
                yield Problem(
                    Severity.INFO, ("spec", "triggers", number, "metadata", key),
                    f"metadata.{key}: {quoted(host, 100)} is no Service of namespace {namespace}: it is scraped only "
                    f"if the operator allows it: --allow-endpoints={host} (chart: engines.allowEndpoints)",
                )  # fmt: skip


def _host(value: object) -> str:
    """Return the host of a URL; empty where there is none, or where it is another finding."""
    if value is None:
        return ""
    try:
        return parse_url(as_text(value)).host.rstrip(".")
    except UrlError:
        return ""
