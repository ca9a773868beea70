# SPDX-License-Identifier: Apache-2.0
"""Compares a page that was read with what its endpoint asks for."""

from collections.abc import Collection

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import AUTO, Endpoint, TargetHistory
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.types import EngineSample

Selectors = Collection[SeriesSelector]


def mismatch_of(endpoint: Endpoint, history: TargetHistory, selectors: Selectors) -> str | None:
    """Return why a page that was read is not the page of the endpoint, None if it is."""
    newest = history.newest if history.failure is None else None
    if newest is None or _has_requested_series(newest, endpoint, selectors):
        return None
    if endpoint.engine == AUTO:
        return None if newest.engine else "the page has no series of a known engine"
    if newest.engine == endpoint.engine or newest.engine in ENGINES[endpoint.engine].behind:
        return None
    if newest.engine:
        return f"the page is of {newest.engine}, not of {endpoint.engine}: correct `engine`, or set the engine's port"
    hint = ENGINES[endpoint.engine].no_queue_hint  # such a page may be of the engine before its first request
    return f"the page has no series of {endpoint.engine}{f'; {hint}' if hint else ''}"


def _has_requested_series(sample: EngineSample, endpoint: Endpoint, selectors: Selectors) -> bool:
    """Whether the page is accepted for its series. A URL is accepted before the requested series appear."""
    if endpoint.pod is None:
        return bool(selectors)
    return any(sample.selected.get(it.text) is not None for it in selectors)


def checked(history: TargetHistory, mismatch: str | None) -> TargetHistory:
    """Return a history, or a failure in its place if its page is not the page of the endpoint."""
    return history if mismatch is None else TargetHistory(history.url, failure=mismatch, attempt=history.attempt)


def has_unsearched(history: TargetHistory, selectors: Selectors) -> bool:
    """Whether the newest page was read before some of these series were requested."""
    newest = history.newest
    return newest is not None and not all(it.text in newest.selected for it in selectors)
