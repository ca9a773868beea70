# SPDX-License-Identifier: Apache-2.0
"""Runs the command ``record``: writes the devices' readings to a file that ``replay:PATH`` can play.

Law: a stop signal ends the recording even if a call hangs. The sampler's thread reads the devices and the main thread
waits and writes, so a driver that hangs is left behind. A write that hangs is aborted one second after the signal.
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
from keda_gpu_scaler.config import Config, ConfigError
from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.sampler import Sampler
from keda_gpu_scaler.wire.recording import RecordingError, RecordingWriter
from keda_gpu_scaler.wire.snapshot_codec import CodecError

GRACE_SECONDS = 1.0
"""Time limit of a write that is in progress when the stop signal arrives."""

MAX_DURATION_SECONDS = 10**9

_ALARM_SECONDS = 0.25
_POLL_SECONDS = 1.0

SamplerEvent = Snapshot | str | None
"""The main thread waits for these: a snapshot, the sentence of a failure, or None for the stop signal."""


class _WriteAborted(BaseException):  # as KeyboardInterrupt: no handler of errors must catch it
    """The stop signal arrived, and a write still hangs one second later."""


HELP = """Record the devices of this node to a file.

\b
keda-gpu-scaler record --out gpus.jsonl.gz --duration 600
    record the GPUs of this machine for ten minutes
keda-gpu-scaler record --out - --duration 0
    print one snapshot
keda-gpu-scaler serve --backend replay:gpus.jsonl.gz
    replay the recording

SIGTERM and Ctrl-C end the recording. The file is complete.

Exit status: 0 recorded, 1 no device, or a file that cannot be written (one sentence says why), 2 wrong usage.
"""


@click.command(help=HELP)
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    help="The file to write, with gzip where its name ends in .gz; - for standard output.",
)
@click.option(
    "--duration",
    type=click.FloatRange(min=0, max=MAX_DURATION_SECONDS),
    metavar="SECONDS",
    help="Stop after this time; 0 records one snapshot.  [default: until Ctrl-C]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@flags(*BACKEND_FLAGS, "sample_interval", "log_level")
def record(out: str, duration: float | None, overwrite: bool, **settings: Any) -> None:
    """Open the devices and write their snapshots until the time is over or a signal arrives."""
    from keda_gpu_scaler.agent import open_backend

    try:
        # A recording has no stale snapshots; the setting only has to fit the interval.
        config = config_of({**settings, "stale_after": max(10.0, 2 * settings["sample_interval"])})
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    set_up(config.log_level, "text")
    try:
        backend = open_backend(config)
        if backend.deviceless:
            raise BackendError(f"--backend {config.backend} has no device, so there is nothing to record")
        _sample_and_record(backend, config, out, duration, overwrite=overwrite)
    except _WriteAborted:
        target = "standard output" if out == "-" else out
        click.echo(
            f"keda-gpu-scaler: stopped while {target} accepted no more data: check its reader. The end is missing",
            err=True,
        )
        sys.exit(1)
    except (BackendError, RecordingError, CodecError) as error:
        click.echo(f"keda-gpu-scaler: {error}", err=True)
        sys.exit(1)


def _sample_and_record(
    backend: Backend, config: Config, out: str, duration: float | None, *, overwrite: bool
) -> None:  # fmt: skip
    events: queue.SimpleQueue[SamplerEvent] = queue.SimpleQueue()

    def published() -> None:
        history = sampler.history
        events.put(history.newest if history and sampler.failure is None else sampler.failure)

    interval = config.sample_interval
    sampler = Sampler(backend, node=config.node_name, interval_seconds=interval, on_publish=published)
    try:
        with _stop_signals(lambda: events.put(None)):
            # A thread inherits the blocked signals: the alarm must not interrupt a call of the driver.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            sampler.start()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
            _record(events, out, duration, overwrite=overwrite, interval_seconds=interval)
    finally:
        sampler.stop()


@contextmanager
def _stop_signals(on_stop: Callable[[], object]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call ``on_stop``, and abort a call in this block that hangs ``GRACE_SECONDS`` longer.

    The grace period lets a write finish that does not hang. An alarm is raised several times a second, because a
    signal that arrives just before a call blocks does not interrupt this call.

    Raises:
        _WriteAborted: in the call that hangs. If closing the file hangs too, it is aborted in the same way.
    """
    abort_at = math.inf

    def stop(*_: object) -> None:
        nonlocal abort_at
        abort_at = min(abort_at, time.monotonic() + GRACE_SECONDS)
        on_stop()

    def alarm(*_: object) -> None:
        if time.monotonic() >= abort_at:
            raise _WriteAborted

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
    events: "queue.SimpleQueue[SamplerEvent]",
    out: str,
    duration: float | None,
    *,
    overwrite: bool,
    interval_seconds: float,
) -> None:
    """Write every new snapshot until the time is over. The file is created after the first snapshot."""
    first = events.get()
    if not isinstance(first, Snapshot):
        raise BackendError(first or "stopped before the first reading of the devices: nothing is recorded")
    written = 0
    with RecordingWriter(out, first.source, overwrite=overwrite) as recording:
        for snapshot in due(events, first, duration, interval_seconds):
            recording.write(snapshot)
            written += 1
    click.echo(f"wrote {written} snapshot(s) of {len(snapshot.samples)} device(s) to {out}", err=True)


def due(
    events: "queue.SimpleQueue[SamplerEvent]", first: Snapshot, duration: float | None, interval_seconds: float
) -> Iterator[Snapshot]:
    """Yield the first snapshot and the following ones, until the end of the duration or the stop signal.

    Snapshots are counted by their times, to the nearest interval: one that was read a little late still belongs to
    the recording. The function does not wait for a snapshot after the last one.
    """
    # Slightly more than the quotient, which can be just below a whole number: 1 // 0.1 is 9.
    last = math.inf if duration is None else math.floor(duration / interval_seconds + 1e-9)
    ends_at = first.at_seconds + (last + 1) * interval_seconds
    yield first
    position = 0
    while position < last and time.monotonic() < ends_at:
        try:
            event = events.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        if event is None:
            return
        if isinstance(event, Snapshot):
            position = round((event.at_seconds - first.at_seconds) / interval_seconds)
            if position <= last:
                yield event
