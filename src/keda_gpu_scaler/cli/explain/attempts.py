# SPDX-License-Identifier: Apache-2.0
"""Adds the table of the URLs that were asked for an engine to a page of ``explain``."""

from collections.abc import Iterator, Sequence

from keda_gpu_scaler.cli.output import age, cut
from keda_gpu_scaler.cli.page import Page
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

_MIN_POD_WIDTH = 12
_OTHER_COLUMNS = 68  # of the table beside the pod's name, with an address of the usual length
_NO_STATUS = "-"


def add_attempts(page: Page, observations: Sequence[evaluation_pb.Observation]) -> None:
    """Add one line for each URL that was asked of a pod, and what it answered.

    Args:
        page: the page.
        observations: the observed pods, or the observed URL.
    """
    rows = [(observation.pod or "-", *row) for observation in observations for row in _rows(observation)]
    width = max(_MIN_POD_WIDTH, page.width - _OTHER_COLUMNS)
    has_pods = any(observation.pod for observation in observations)
    heads, first = ("pod", "http", "time", "age", "url"), 0 if has_pods else 1
    page.table("asked", heads[first:], [(cut(pod, width), *row)[first:] for pod, *row in rows])


def _rows(observation: evaluation_pb.Observation) -> Iterator[tuple[str, ...]]:
    for attempt in observation.attempts:
        yield _row(attempt)
    if observation.attempts_omitted:
        yield _NO_STATUS, "", "", f"and {observation.attempts_omitted} more"


def _row(attempt: evaluation_pb.ScrapeAttempt) -> tuple[str, ...]:
    status = str(attempt.status) if attempt.HasField("status") else _NO_STATUS
    texts = [attempt.url + (f": {attempt.failure}" if attempt.failure else ""), *attempt.remarks]
    return status, _duration(attempt.answer_seconds), age(attempt.age_seconds), "; ".join(texts)


def _duration(seconds: float) -> str:
    milliseconds = 1000 * seconds
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{seconds:.1f} s"
