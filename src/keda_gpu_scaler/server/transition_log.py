# SPDX-License-Identifier: Apache-2.0
"""Logs when a trigger loses its value or has it again, and the problems of triggers.

Law: a log line reports a change, never a poll. Questions that no ScaledObject declares write a bounded number of lines,
and push no condition of a declared trigger out.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

from keda_gpu_scaler.core.evaluate.demand import DemandObservation
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.server.line_limit import LineLimit
from keda_gpu_scaler.server.request_resolver import Standing

MAX_CONDITIONS = 1024
MAX_UNDECLARED_CONDITIONS = 128
UNDECLARED_BURST, UNDECLARED_REFILL_SECONDS = 10, 10.0
"""The lines about triggers that no ScaledObject declares, and about metadata that is not valid."""
UNVERIFIABLE_BURST, UNVERIFIABLE_REFILL_SECONDS = 200, 1.0
"""The lines where it is not known what ScaledObjects declare."""

_log = logging.getLogger(__name__)
_Key = tuple[str, str | Trigger]


class TransitionLog:
    """Logs a condition when it begins and when it ends; forgets the oldest conditions.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        undeclared = LineLimit(UNDECLARED_BURST, UNDECLARED_REFILL_SECONDS, clock)
        unverifiable = LineLimit(UNVERIFIABLE_BURST, UNVERIFIABLE_REFILL_SECONDS, clock)
        self._conditions = {
            Standing.DECLARED: _Conditions(MAX_CONDITIONS),
            Standing.UNVERIFIABLE: _Conditions(MAX_CONDITIONS, unverifiable),
            Standing.UNDECLARED: _Conditions(MAX_UNDECLARED_CONDITIONS, undeclared),
        }

    def log_problems(self, title: str, problems: Sequence[str], standing: Standing) -> None:
        """Log the problems or hints of a trigger, each once."""
        conditions = self._conditions[standing]
        for problem in problems:
            conditions.begin((title, problem), problem, f"{title}: {problem}")

    def log_evaluation(self, title: str, trigger: Trigger, evaluation: Evaluation, standing: Standing) -> None:
        """Log when a trigger loses its value or its demand, and when it has it again."""
        conditions = self._conditions[standing]
        if standing is Standing.UNDECLARED:
            title = f"{title} (no ScaledObject declares this trigger)"
        key = (title, trigger)
        # The kind of reason and not its sentence: an age in the sentence changes with every poll.
        if evaluation.no_value_reason is not None:
            sentence = f"{title}: {trigger.metric_name} has no value: {evaluation.reason}"
            conditions.begin(key, evaluation.no_value_reason.value, sentence)
            # Without a value it is not known whether the queue is still there.
        else:
            conditions.end(key, f"{title}: {trigger.metric_name} has a value again")
            _log_contradiction(conditions, title, trigger, evaluation.contradiction)
        if evaluation.demand is not None:
            _log_demand(conditions, f"{title} (demand)", trigger, evaluation.demand)


class _Conditions:
    """The conditions that were logged, and the limit of their lines."""

    def __init__(self, max_entries: int, limit: LineLimit | None = None) -> None:
        self._max_entries = max_entries
        self._limit = limit
        self._logged: OrderedDict[_Key, str] = OrderedDict()

    def begin(self, key: _Key, condition: str, sentence: str) -> None:
        """Log a condition that was not logged last. One above the limit is logged when it is found again."""
        if self._logged.get(key) == condition or not self._write(logging.WARNING, sentence):
            return
        self._logged[key] = condition
        if len(self._logged) > self._max_entries:
            self._logged.popitem(last=False)

    def end(self, key: _Key, sentence: str) -> None:
        """Log the end of a condition that was logged."""
        if self._logged.pop(key, None) is not None:
            self._write(logging.INFO, sentence)

    def _write(self, level: int, sentence: str) -> bool:
        left_out = 0 if self._limit is None else self._limit.take()
        if left_out is None:
            return False
        more = f" ({left_out} more lines of this kind are left out)" if left_out else ""
        _log.log(level, "%s%s", sentence, more)
        return True


def _log_contradiction(conditions: _Conditions, title: str, trigger: Trigger, contradiction: str) -> None:
    key = (f"{title} (queue)", trigger)
    if contradiction:
        conditions.begin(key, "contradiction", f"{title}: {trigger.metric_name}: {contradiction}")
    else:
        conditions.end(key, f"{title}: {trigger.metric_name}: the queue no longer contradicts the value")


def _log_demand(conditions: _Conditions, title: str, trigger: Trigger, demand: DemandObservation) -> None:
    if demand.is_active is None:
        sentence = f"{title}: {demand.sentence}; the workload is neither activated nor scaled to zero"
        conditions.begin((title, trigger), "unknown", sentence)
    else:
        conditions.end((title, trigger), f"{title}: it is known again: {demand.sentence}")
