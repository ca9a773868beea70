# SPDX-License-Identifier: Apache-2.0
"""How is what the devices do written to a file that ``replay:PATH`` can play?

The law of this module: a stop ends it, whoever hangs. The devices are read in the sampler's thread and the
main thread waits and writes, so that a driver that hangs is left behind; a pipe that nobody reads is given up
a second after the stop.
"""

import math
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from keda_gpu_scaler.cli.logs import set_up
from keda_gpu_scaler.cli.options import BACKEND_FLAGS, config_of, flags
from keda_gpu_scaler.config import ConfigError
from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.sampler import Sampler
from keda_gpu_scaler.wire.recording import RecordingError, RecordingWriter
from keda_gpu_scaler.wire.snapshot_codec import CodecError

GRACE_SECONDS = 1.0
"""How long a write may take that was under way when the stop came."""

MAX_DURATION_SECONDS = 10**9

_ALARM_SECONDS = 0.25
_LOOK_SECONDS = 1.0

Heard = Snapshot | str | None
"""What the main thread waits for: a snapshot, the sentence of a failure, or None for the stop."""


class _GivenUp(BaseException):  # like KeyboardInterrupt: no error that anybody on the way would handle
    """The stop came, and a second later a call still waits for somebody who does not come."""


@click.command()
@click.option(
    "--out", required=True, metavar="FILE", help="The file to write; gzipped when it ends in .gz, - for stdout."
)
@click.option(
    "--duration",
    type=click.FloatRange(min=0, max=MAX_DURATION_SECONDS),
    metavar="SECONDS",
    help="Stop after so many seconds; 0 takes one snapshot. Without it, Ctrl-C stops.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@flags(*BACKEND_FLAGS, "sample_interval", "log_level")
def record(out: str, duration: float | None, overwrite: bool, **settings: Any) -> None:
    """Record this node's devices.

    \b
    keda-gpu-scaler record --out gpus.jsonl.gz --duration 600
        ten minutes of this machine's GPUs
    keda-gpu-scaler record --out - --duration 0
        one snapshot, to standard output
    keda-gpu-scaler serve --backend replay:gpus.jsonl.gz
        play it

    SIGTERM and Ctrl-C end the recording; it is whole then.

    Exit status: 0 recorded, 1 nothing to record or nowhere to write it (one sentence says why), 2 wrong usage.
    """
    from keda_gpu_scaler.agent import open_backend

    try:
        # Nothing grows stale in a recording: the limit only has to suit the interval.
        config = config_of({**settings, "stale_after": max(10.0, 2 * settings["sample_interval"])})
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    set_up(config.log_level, "text")
    heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
    try:
        backend = open_backend(config)
        if backend.deviceless:
            raise BackendError(f"--backend {config.backend} has no device, so there is nothing to record")

        def published() -> None:
            history = sampler.history
            heard.put(history.newest if history and sampler.failure is None else sampler.failure)

        interval = config.sample_interval
        sampler = Sampler(backend, node=config.node_name, interval_seconds=interval, on_publish=published)
        try:
            with _stops(lambda: heard.put(None)):
                # A thread inherits what is blocked: the alarm must not interrupt a call of the driver.
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
                sampler.start()
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
                _record(heard, out, duration, overwrite=overwrite, interval_seconds=interval)
        finally:
            sampler.stop()
    except _GivenUp:
        where = "standard output" if out == "-" else out
        click.echo(f"keda-gpu-scaler: stopped while {where} took no more: is it read? The end is missing", err=True)
        sys.exit(1)
    except (BackendError, RecordingError, CodecError) as error:
        click.echo(f"keda-gpu-scaler: {error}", err=True)
        sys.exit(1)


@contextmanager
def _stops(wake: Callable[[], object]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call ``wake``, and after ``GRACE_SECONDS`` break off whatever hangs in this block.

    Not at once: what ends by itself is not cut in half. An alarm goes off several times a second, because a
    signal that comes just before a call begins to wait does not end the waiting.

    Raises:
        _GivenUp: in a call that hung. Closing what it wrote to may hang again, and is broken off in turn.
    """
    give_up_at = math.inf

    def stop(*_: object) -> None:
        nonlocal give_up_at
        give_up_at = min(give_up_at, time.monotonic() + GRACE_SECONDS)
        wake()

    def alarm(*_: object) -> None:
        if time.monotonic() >= give_up_at:
            raise _GivenUp

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGALRM: alarm}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    signal.setitimer(signal.ITIMER_REAL, _ALARM_SECONDS, _ALARM_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _record(
    heard: "queue.SimpleQueue[Heard]", out: str, duration: float | None, *, overwrite: bool, interval_seconds: float
) -> None:
    """Write every new snapshot until the time is up; the first one must come before there is a file."""
    first = heard.get()
    if not isinstance(first, Snapshot):
        raise BackendError(first or "stopped before the devices gave a reading: nothing is recorded")
    written = 0
    with RecordingWriter(out, first.source, overwrite=overwrite) as recording:
        for snapshot in due(heard, first, duration, interval_seconds):
            recording.write(snapshot)
            written += 1
    click.echo(f"wrote {written} snapshot(s) of {len(snapshot.samples)} device(s) to {out}", err=True)


def due(
    heard: "queue.SimpleQueue[Heard]", first: Snapshot, duration: float | None, interval_seconds: float
) -> Iterator[Snapshot]:
    """Yield the first snapshot and what follows, until the last of the duration or the stop.

    Snapshots are counted by their times, to the nearest interval: one that was read a little late belongs to
    the recording all the same, and the next after the last is not waited for.
    """
    # A little more than the quotient, which falls short of whole numbers: 1 // 0.1 is 9.
    last = math.inf if duration is None else math.floor(duration / interval_seconds + 1e-9)
    ends_at = first.at_seconds + (last + 1) * interval_seconds
    yield first
    place = 0
    while place < last and time.monotonic() < ends_at:
        try:
            news = heard.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            continue
        if news is None:
            return
        if isinstance(news, Snapshot):
            place = round((news.at_seconds - first.at_seconds) / interval_seconds)
            if place <= last:
                yield news
