# SPDX-License-Identifier: Apache-2.0
"""Adds the table of the URLs that were asked for an engine to a page of ``explain``."""

from collections.abc import Iterator, Sequence

from keda_gpu_scaler.cli.output import age, cut
from keda_gpu_scaler.cli.page import Page
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

_MIN_POD_WIDTH = 12
_OTHER_COLUMNS = 68  # of the table beside the pod's name, with an address of the usual length
_NO_STATUS = "-"


def add_attempts(page: Page, observations: Sequence[evaluation_pb.Observation], max_rows: int | None) -> None:
    """Add one line for each pod: the URL of its engine, and what it answered.

    Further URLs of a pod are added only where it has no value, or where an engine of it does not answer.

    Args:
        page: the page.
        observations: the observed pods, or the observed URL.
        max_rows: the most rows that are shown; None to show each URL of every pod.
    """
    rows = [
        (observation.pod or "-", *row)
        for observation in observations
        for row in (_all_rows(observation) if max_rows is None else _short_rows(observation))
    ]
    shown = rows[:max_rows]
    width = max(_MIN_POD_WIDTH, page.width - _OTHER_COLUMNS)
    has_pods = any(observation.pod for observation in observations)
    heads, first = ("pod", "http", "time", "age", "url"), 0 if has_pods else 1
    page.table("asked", heads[first:], [(cut(pod, width), *row)[first:] for pod, *row in shown])
    if len(shown) < len(rows):
        page.entry("", f"and {len(rows) - len(shown)} more; -o wide and --json show them")


def _all_rows(observation: evaluation_pb.Observation) -> Iterator[tuple[str, ...]]:
    for attempt in observation.attempts:
        yield _row(attempt)
    if observation.attempts_omitted:
        yield _NO_STATUS, "", "", f"and {observation.attempts_omitted} more"


def _short_rows(observation: evaluation_pb.Observation) -> Iterator[tuple[str, ...]]:
    engines = [attempt for attempt in observation.attempts if attempt.engine]
    good = [attempt for attempt in engines if not attempt.failure and not attempt.remarks]
    is_wrong = not observation.HasField("value") or any(attempt.failure for attempt in engines)
    if good:
        yield _row(good[0], f" (one of {len(good)} engines)" if len(good) > 1 else "")
    for attempt in observation.attempts:
        if attempt not in good and (attempt.engine or is_wrong):
            yield _row(attempt)


def _row(attempt: evaluation_pb.ScrapeAttempt, more: str = "") -> tuple[str, ...]:
    status = str(attempt.status) if attempt.HasField("status") else _NO_STATUS
    texts = [attempt.url + (f": {attempt.failure}" if attempt.failure else ""), *attempt.remarks]
    return status, _duration(attempt.answer_seconds), age(attempt.age_seconds), "; ".join(texts) + more


def _duration(seconds: float) -> str:
    milliseconds = 1000 * seconds
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{seconds:.1f} s"
