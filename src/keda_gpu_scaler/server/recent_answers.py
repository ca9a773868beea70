# SPDX-License-Identifier: Apache-2.0
"""Keeps the last answer to each trigger, for the status page and the metrics."""

from collections.abc import Mapping
from dataclasses import replace

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.instance_status import RecentAnswer
from keda_gpu_scaler.core.trigger.declared_objects import DeclaredObjects
from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.server.bounded_cache import BoundedCache
from keda_gpu_scaler.server.request_resolver import ResolvedTrigger, ScaledObjectRequest

RECENT_SECONDS = 600.0
"""An answer that was not given again for this time is no longer reported."""
MAX_ANSWERS = 1024

_FIRST_STEPS, _LAST_STEPS = 40, 10  # the steps that are kept of a long evaluation

_Key = tuple[str, str, str, str]


class RecentAnswers:
    """The last answer to each trigger, by ScaledObject and metric; the newest where there are too many."""

    def __init__(self) -> None:
        self._answers: BoundedCache[_Key, tuple[RecentAnswer, ResolvedTrigger]] = BoundedCache(
            MAX_ANSWERS, RECENT_SECONDS
        )

    def note(self, answer: RecentAnswer, resolved: ResolvedTrigger, now: float) -> None:
        """Keep an answer that was given now; the same answer may be given again later."""
        self._answers.put(_key(answer), (answer, resolved), now)

    def discard_undeclared(self, declarations: Mapping[str, DeclaredObjects]) -> None:
        """Remove the answers to triggers that are known not to be declared any more: an edit or a deletion.

        Args:
            declarations: what the objects of each watched namespace declare.
        """
        for _, (answer, resolved) in self._answers.values():
            known = declarations.get(resolved.namespace)
            if known is not None and known.declares(resolved.name, dict(resolved.metadata)) is False:
                self._answers.discard(_key(answer))

    def discard_object(self, namespace: str, name: str) -> None:
        """Remove every answer about an object."""
        for _, (answer, _) in self._answers.values():
            if (answer.namespace, answer.name) == (namespace, name):
                self._answers.discard(_key(answer))

    def answers(self, now: float) -> list[RecentAnswer]:
        """Return the recent answers, each with the time at which it was given last."""
        self._answers.expire(now)
        return [
            answer if answer.at_seconds == at else replace(answer, at_seconds=at)
            for at, (answer, _) in self._answers.values()
        ]


def recent_answer(
    scaled_object: ScaledObjectRequest, evaluation: Evaluation, now: float, known: Workload | Unavailable | None = None
) -> RecentAnswer:
    """Summarise an answer for the status page, the metrics, Events and ``top``.

    Args:
        scaled_object: the request.
        evaluation: its evaluation.
        now: monotonic seconds.
        known: the workload that the evaluation rests on.
    """
    trigger, demand = scaled_object.resolved.trigger, evaluation.demand
    return RecentAnswer(
        namespace=scaled_object.namespace,
        name=scaled_object.name,
        metric_name=trigger.metric_name,
        metric=trigger.metric.name,
        target=round(trigger.target, 3),
        value=None if evaluation.value is None else round(evaluation.value, 3),
        active=evaluation.active,
        with_value=evaluation.with_value,
        expected=evaluation.expected,
        demand=demand.value if demand else None,
        is_demand_known=demand.is_active is not None if demand else None,
        demand_sentence=demand.sentence if demand else "",
        reason=evaluation.reason,
        no_value_reason=evaluation.no_value_reason.value if evaluation.no_value_reason else "",
        steps=_shortened(evaluation.steps),
        has_queue_contradiction=bool(evaluation.contradiction),
        cold_start_seconds=evaluation.cold_start_seconds,
        at_seconds=now,
        comparison=evaluation.comparison,
        limits=known.limits if isinstance(known, Workload) else None,
    )


def _key(answer: RecentAnswer) -> _Key:
    return answer.namespace, answer.name, answer.metric_name, answer.metric


def _shortened(steps: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out the middle of a long list: a thousand triggers are kept, each for minutes."""
    left_out = len(steps) - _FIRST_STEPS - _LAST_STEPS
    if left_out <= 0:
        return steps
    return (*steps[:_FIRST_STEPS], f"({left_out} more)", *steps[-_LAST_STEPS:])
