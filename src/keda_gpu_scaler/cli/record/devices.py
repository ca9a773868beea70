# SPDX-License-Identifier: Apache-2.0
"""Records the devices of this node.

Law: a stop signal ends the recording even if a call hangs. The sampler's thread reads the devices and the main thread
waits and writes, so a driver that hangs is left behind. A write that hangs is aborted one second after the signal.
"""

import math
import queue
import signal
import time
from collections.abc import Iterator

from keda_gpu_scaler.cli.output import say
from keda_gpu_scaler.cli.record.stop_signals import stop_signals
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.sampler import Sampler
from keda_gpu_scaler.wire.recording import RecordingWriter

_POLL_SECONDS = 1.0

SamplerEvent = Snapshot | str | None
"""The main thread waits for these: a snapshot, the sentence of a failure, or None for the stop signal."""


def record_devices(
    backend: Backend, config: Config, out: str, duration: float | None, *, overwrite: bool
) -> None:  # fmt: skip
    """Write the snapshots of a backend until the time is over or a signal arrives.

    Raises:
        BackendError: the devices cannot be read.
        RecordingError: the file cannot be written.
        CodecError: a snapshot cannot be encoded.
        WriteAborted: a write hangs after the signal.
    """
    events: queue.SimpleQueue[SamplerEvent] = queue.SimpleQueue()

    def published() -> None:
        history = sampler.history
        events.put(history.newest if history and sampler.failure is None else sampler.failure)

    interval = config.sample_interval
    sampler = Sampler(backend, node=config.node_name, interval_seconds=interval, on_publish=published)
    try:
        with stop_signals(lambda: events.put(None)):
            # A thread inherits the blocked signals: the alarm must not interrupt a call of the driver.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            sampler.start()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
            _record(events, out, duration, overwrite=overwrite, interval_seconds=interval)
    finally:
        sampler.stop()


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
    say(f"wrote {written} snapshot(s) of {len(snapshot.samples)} device(s) to {out}", err=True)


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
