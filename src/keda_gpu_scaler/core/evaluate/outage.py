# SPDX-License-Identifier: Apache-2.0
"""Finds the last time in which a workload had no value, and how long it counts as active after it.

Law: while there is no value, KEDA does not ask whether the workload is active, and so it never learns that it may be.
After the outage, KEDA would take the whole of it for idle time, and the first idle answer would scale to zero. So the
workload counts as active for one more cooldown.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.state.data_run import LONGEST_GAP_SECONDS, DataRun
from keda_gpu_scaler.core.types import Workload


@dataclass(frozen=True, slots=True)
class DataSource:
    """One pod, device or endpoint that has data now. ``exists_since_seconds`` is when it could first have data."""

    run: DataRun
    exists_since_seconds: float


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which the workload had no value; monotonic seconds."""

    begin_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class ActivityHold:
    """The workload counts as active until ``until_seconds``, in monotonic seconds; ``reason`` says why."""

    until_seconds: float
    reason: str


def activity_hold(
    workload: Workload | None, sources: Sequence[DataSource], min_coverage: float, now: float
) -> ActivityHold | None:
    """Return why a workload without work still counts as active; None where it does not.

    Args:
        workload: the workload, None where it is not known. One that is at its idle size is not activated.
        sources: those that have data now.
        min_coverage: the share of the sources that a value needs.
        now: monotonic seconds.
    """
    if workload is None or workload.jobs is not None or workload.spec_replicas <= workload.idle_replicas:
        return None
    outage = last_outage(sources, min_coverage)
    if outage is None or now >= outage.end_seconds + workload.cooldown_seconds:
        return None
    return ActivityHold(
        outage.end_seconds + workload.cooldown_seconds,
        f"there was no value until {now - outage.end_seconds:.0f} s ago, and KEDA takes that time for idle time: the "
        f"workload counts as active for one cooldownPeriod ({workload.cooldown_seconds:g} s)",
    )


def last_outage(sources: Iterable[DataSource], min_coverage: float) -> Outage | None:
    """Return the last outage of more than ``LONGEST_GAP_SECONDS``; None where none is known.

    The data of each source began again at some time, the last time at the end of its own outage. The workload had no
    value while too few of its sources had data.
    """
    known = list(sources)
    for end in sorted({source.run.since_seconds for source in known}, reverse=True):
        existing = [source for source in known if source.exists_since_seconds < end]
        absent = [source for source in existing if _is_absent_before(end, source)]
        with_data = len(existing) - len(absent)
        if not absent or (with_data and with_data / len(existing) >= min_coverage):
            continue
        begin = max(_absent_since(source) for source in absent)
        if end - begin > LONGEST_GAP_SECONDS:
            return Outage(begin, end)
    return None


def _is_absent_before(end: float, source: DataSource) -> bool:
    before = source.run.before_seconds
    return source.run.since_seconds >= end and (before is None or before < end)


def _absent_since(source: DataSource) -> float:
    before = source.run.before_seconds
    return source.exists_since_seconds if before is None else max(before, source.exists_since_seconds)
