# SPDX-License-Identifier: Apache-2.0
"""Finds a queue that the reported value does not answer: requests wait, and no replica is asked for.

Law: a replica that was asked for and is not ready yet is an answer, and so is one that became ready just now.
"""

import math
from collections.abc import Iterator

from keda_gpu_scaler.core.evaluate.engine_load import fresh_history, pod_endpoint
from keda_gpu_scaler.core.evaluate.ranks import ranks_of
from keda_gpu_scaler.core.evaluate.sample_window import WAITING
from keda_gpu_scaler.core.evaluate.workload_view import HISTORY_SECONDS, WorkloadView
from keda_gpu_scaler.core.hpa.reported_value import ReportedValue
from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.trigger.metrics import EngineMetric, Metric

ASSUMED_COLD_START_SECONDS = 120.0
"""Used while no cold start was measured. A 70B model with cached weights needs one to two minutes."""


def queue_contradiction(view: WorkloadView, reported: ReportedValue) -> str:
    """Say that requests waited longer than a replica needs to start while the value asks for no more replicas.

    Returns an empty text where there is no such contradiction, or where it is not known.
    """
    query = view.trigger.engine
    if query is None or reported.replicas is None:
        return ""
    if reported.replicas > min(view.workload.spec_replicas, view.ready_replicas):
        return ""
    measured = view.cold_start_seconds
    limit = min(HISTORY_SECONDS, ASSUMED_COLD_START_SECONDS if measured is None else measured)
    longest, waiting = 0.0, 0.0
    for history in _histories(view):
        seconds, requests = _waiting(history)
        longest, waiting = max(longest, seconds), waiting + requests
    joined_at = max([one.pod.ready_at_seconds or -math.inf for one in view.ready], default=-math.inf)
    if not waiting or min(longest, view.now - joined_at) < limit:
        return ""
    source = "measured" if measured is not None else "assumed"
    return (
        f"contradiction: {waiting:.0f} requests wait, some queue for {longest:.0f} s, which is longer than a replica "
        f"needs to start ({limit:.0f} s, {source}), and the value asks for no more than {reported.replicas} replicas. "
        f"{_remedy(view.trigger.metric)}"
    )


def _remedy(metric: Metric | EngineMetric) -> str:
    if isinstance(metric, EngineMetric) and metric.reading == "load":
        return (
            "load shows less than one more replica: check that the router gives no pod more than its part, or raise "
            "headroom"
        )
    return f"{metric.name} does not show this load: lower targetValue, or use metricType: load"


def _histories(view: WorkloadView) -> Iterator[TargetHistory]:
    query = view.trigger.engine
    if query is None:
        return
    for pod in [one.pod for one in view.ready]:
        for rank in ranks_of(query, view.fleet.scrape_results.get(pod_endpoint(query, pod))):
            if history := fresh_history(rank, view.now, view.fleet.stale_after_seconds):
                yield history


def _waiting(history: TargetHistory) -> tuple[float, float]:
    """Return for how long every sample had waiting requests, in seconds, and how many there are now."""
    newest = history.newest
    if newest is None or not WAITING.known_part(newest):
        return 0.0, 0.0
    since = newest.at_seconds
    for sample in reversed(history.samples):
        if not WAITING.known_part(sample):
            break
        since = sample.at_seconds
    return newest.at_seconds - since, WAITING.known_part(newest)
