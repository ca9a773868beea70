# SPDX-License-Identifier: Apache-2.0
"""Finds the pages of a pod that show the same engine, once itself and once through a proxy.

Law: two pages are of two engines only where their readings prove it. In doubt they are one, so that no request counts
twice.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from operator import attrgetter

from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.types import EngineSample

LATEST_ANSWER_SECONDS = 6.0
"""A page may be this much older than its arrival: the default of ``--scrape-timeout``, and a second more."""
_COUNTERS = (
    *("requests_total", "tokens_total", "prompt_tokens_total", "first_tokens_total", "token_time_seconds_total"),
    *("queue_waits_total", "queue_wait_seconds_total", "services_total", "service_seconds_total", "executions_total"),
)
_GAUGES = ("running", "waiting")
_MIN_READINGS = 6
"""Of fewer readings of a gauge it may be chance that all of one page are above all of another."""
_at_seconds = attrgetter("at_seconds")


def by_engine(targets: Sequence[TargetHistory]) -> list[tuple[TargetHistory, ...]]:
    """Group the targets of a pod by the engine that they show, in the order of the targets."""
    groups: list[list[TargetHistory]] = []
    for target in targets:
        same = next((group for group in groups if not are_two_engines(group[0], target)), None)
        if same is None:
            groups.append([target])
        else:
            same.append(target)
    return [tuple(group) for group in groups]


def are_two_engines(one: TargetHistory, other: TargetHistory) -> bool:
    """Whether two pages certainly show two engines.

    Different engines are two, unless one of them may do its work with the other. Of equal engines a counter decides: a
    page of the same process has a number that lies between the numbers of the other page before and after it. So do
    requests, where one page always has more than the other.
    """
    if one.newest is None or other.newest is None:
        return False
    key = ("other engine", other.url)
    known: tuple[EngineSample, bool] | None = one.cache.get(key)
    if known is None or known[0] is not other.newest:
        known = (other.newest, _differ(one, other))
        one.cache[key] = known
    return known[1]


def _differ(one: TargetHistory, other: TargetHistory) -> bool:
    names = [target.newest.engine for target in (one, other) if target.newest is not None]
    if names[0] != names[1]:
        return not any(name in ENGINES and rest in ENGINES[name].behind for name, rest in (names, names[::-1]))
    if any(_is_outside(sample, around) for sample, around in _surrounded(one.samples, other.samples)):
        return True
    return any(_are_apart(name, one.samples, other.samples) for name in _GAUGES)


def _surrounded(
    samples: Sequence[EngineSample], others: Sequence[EngineSample]
) -> Iterator[tuple[EngineSample, tuple[EngineSample, EngineSample]]]:
    """Yield each of the other samples with the one that is certainly older and the one that is certainly newer."""
    times = [_at_seconds(sample) for sample in samples]
    for other in others:
        before = bisect_right(times, other.at_seconds - LATEST_ANSWER_SECONDS) - 1
        after = bisect_right(times, other.at_seconds + LATEST_ANSWER_SECONDS)
        if before >= 0 and after < len(samples):
            yield other, (samples[before], samples[after])


def _is_outside(sample: EngineSample, around: tuple[EngineSample, EngineSample]) -> bool:
    for name in _COUNTERS:
        value, before, after = (getattr(one, name) for one in (sample, *around))
        if value is None or before is None or after is None or after < before:
            continue  # not exported, or the engine started again in between
        if not before <= value <= after:
            return True
    return False


def _are_apart(name: str, samples: Sequence[EngineSample], others: Sequence[EngineSample]) -> bool:
    """Whether all readings of one page are above all readings of the other during the time of both."""
    begin = max(samples[0].at_seconds, others[0].at_seconds) - LATEST_ANSWER_SECONDS
    readings: list[list[float]] = []
    for page in (samples, others):
        known = [getattr(sample, name) for sample in page if sample.at_seconds >= begin]
        readings.append([value for value in known if value is not None])
    one, other = readings
    if min(len(one), len(other)) < _MIN_READINGS:
        return False
    return min(one) > max(other) or min(other) > max(one)
