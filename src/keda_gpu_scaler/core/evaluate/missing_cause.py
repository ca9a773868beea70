# SPDX-License-Identifier: Apache-2.0
"""The cause for which a pod, a device or a URL has no value, as one of a few kinds.

Law: the sentence of an observation says the reason in full. The cause only says what kind of step helps.
"""

import enum

from keda_gpu_scaler.core.evaluate.engine_load import pod_endpoint, url_endpoint
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.evaluate.observation import DeviceObservation, ObservationState, PodObservation
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.trigger.metrics import EngineMetric, Metric
from keda_gpu_scaler.core.trigger.parser import Trigger


class MissingCause(enum.Enum):
    """Why a value is missing."""

    PENDING = "pending"
    """It was not read yet since this instance began to read it."""
    NOT_SCHEDULED = "not_scheduled"
    """The pod has no node or no address yet."""
    NODE = "node"
    """There is no fresh snapshot of the node."""
    HOLDERS = "holders"
    """It is not known which pods hold the devices of the node."""
    READING = "reading"
    """A device has no reading, or cannot be identified."""
    ENGINE = "engine"
    """No engine answers with the reading."""


def missing_cause(
    observation: PodObservation | DeviceObservation, trigger: Trigger, evaluation: Evaluation, fleet: Fleet, now: float
) -> MissingCause | None:
    """Return why an observation has no value; None where it has one, or needs none.

    Args:
        observation: of a pod, a device or a URL.
        trigger: the evaluated trigger.
        evaluation: its evaluation.
        fleet: the snapshots that it rests on.
        now: monotonic seconds on the clock of the fleet's histories.
    """
    if observation.value is not None:
        return None
    is_pod, node = False, ""
    if isinstance(observation, PodObservation):
        if observation.state is not ObservationState.MISSING:
            return None
        is_pod, node = True, observation.pod.node or ""
        if not node:
            return MissingCause.NOT_SCHEDULED
    else:
        node = observation.node
    if isinstance(trigger.metric, EngineMetric) and not evaluation.fallback:
        return _engine_cause(observation, trigger, fleet)
    history = fleet.node(node)
    if history is None or not fleet.is_history_fresh(history, now):
        is_first = history is None and fleet.is_first_call(node)
        return MissingCause.PENDING if is_first else MissingCause.NODE
    if is_pod and history.newest.allocations is None:
        return MissingCause.HOLDERS
    return MissingCause.PENDING if _is_first_wanted(trigger, history) else MissingCause.READING


def _is_first_wanted(trigger: Trigger, history: History) -> bool:
    """Whether no device of a node has been read for an expensive reading yet, and none says why."""
    if not isinstance(trigger.metric, Metric) or not trigger.metric.is_performance:
        return False
    return all(sample.performance is None and not sample.failures for sample in history.newest.samples)


def _engine_cause(observation: PodObservation | DeviceObservation, trigger: Trigger, fleet: Fleet) -> MissingCause:
    query, scraped = trigger.engine, None
    if isinstance(observation, PodObservation):
        if not observation.pod.address:
            return MissingCause.NOT_SCHEDULED
        scraped = fleet.scrape_results.get(pod_endpoint(query, observation.pod)) if query is not None else None
    elif query is not None:
        scraped = fleet.scrape_results.get(url_endpoint(query))
    attempts = observation.attempts
    if not (attempts.engines or attempts.rejected):
        return MissingCause.PENDING
    # The growth of a counter needs a second page.
    targets = scraped.targets if scraped is not None else ()
    is_first_page = any(len(target.samples) == 1 and not target.failure for target in targets)
    return MissingCause.PENDING if is_first_page else MissingCause.ENGINE
