# SPDX-License-Identifier: Apache-2.0
"""The last hour of a workload that wakes up, grows, and has no value for a while."""

import math

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.evaluate.observation import ObservationState, PodObservation
from keda_gpu_scaler.core.instance_status import RecentAnswer
from keda_gpu_scaler.core.trigger.parser import Scope
from keda_gpu_scaler.server.workload_history import WorkloadHistories, WorkloadPoint
from tests.fakes import pod

KEY = ("ai", "llama", "keda_gpu_metric", "gpu_utilization")


def last_hour(now: float) -> WorkloadHistories:
    """Return the history: an answer every 15 s, with five minutes without one."""
    histories = WorkloadHistories()
    for ago in range(3540, 0, -15):
        if 1500 < ago <= 1800:
            continue  # KEDA asked another instance
        histories.record(KEY, point(3540 - ago), now - ago)
    return histories


def point(elapsed: float) -> WorkloadPoint:
    """Return the answer this many seconds after the first one."""
    if elapsed < 600:
        return WorkloadPoint(None, 80.0, 0, 0, 0, 6, active=False, ready=0)
    if 2400 <= elapsed < 2700:
        return WorkloadPoint(None, 80.0, 3, None, 0, 6, active=True, ready=3)
    load = 70 + 35 * math.sin(elapsed / 400)
    wanted = min(6, max(1, math.ceil(elapsed / 700)))
    replicas = min(wanted, max(1, math.ceil((elapsed - 120) / 700)))
    ready = min(replicas, max(0, math.ceil((elapsed - 300) / 700)))
    return WorkloadPoint(load, 80.0, replicas, wanted, 0, 6, active=True, ready=ready)


def last_evaluation(answer: RecentAnswer) -> Evaluation | None:
    """Return the last evaluation of the workload: three pods with a value, one without, and one that is not ready."""
    if answer.name != "llama":
        return None
    observations = (
        *(
            PodObservation(pod(f"llama-{number}", "gpu-1"), ObservationState.OBSERVED, 90.04 + number, f"H100 {number}")
            for number in range(3)
        ),
        PodObservation(
            pod("llama-3"), ObservationState.MISSING, None, "node gpu-7 last answered 41 s ago (limit 10 s)"
        ),
        PodObservation(pod("llama-4", None, ready=False), ObservationState.NOT_READY, None, "not ready"),
    )
    return Evaluation(Scope.WORKLOAD, answer.value, answer.active, answer.steps, observations=observations)
