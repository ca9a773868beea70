# SPDX-License-Identifier: Apache-2.0
"""``keda-gpu-scaler record``: write what the devices do to a file that ``replay:PATH`` can play."""

import signal
import sys
import threading
import time
from typing import Any

import click

from keda_gpu_scaler.cli.logs import set_up
from keda_gpu_scaler.cli.options import BACKEND_FLAGS, config_of, flags
from keda_gpu_scaler.config import ConfigError
from keda_gpu_scaler.core.ports import BackendError
from keda_gpu_scaler.sampler import Sampler
from keda_gpu_scaler.wire.codec import CodecError
from keda_gpu_scaler.wire.recording import RecordingError, RecordingWriter


@click.command()
@click.option(
    "--out", required=True, metavar="FILE", help="The file to write; gzipped when it ends in .gz, - for stdout."
)
@click.option(
    "--duration",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Stop after so many seconds; 0 takes one snapshot. Without it, Ctrl-C stops.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@flags(*BACKEND_FLAGS, "sample_interval", "log_level")
def record(out: str, duration: float | None, overwrite: bool, **settings: Any) -> None:
    """Record this node's devices.

    \b
    keda-gpu-scaler record --out gpus.jsonl.gz --duration 600     ten minutes of this machine's GPUs
    keda-gpu-scaler record --out - --duration 0                   one snapshot, to standard output
    keda-gpu-scaler serve --backend replay:gpus.jsonl.gz          play it

    Exit status: 0 recorded, 1 nothing to record or nowhere to write it (one sentence says why), 2 wrong usage.
    """
    from keda_gpu_scaler.agent import open_backend

    try:
        # Nothing grows stale in a recording: the limit only has to suit the interval.
        config = config_of({**settings, "stale_after": 2 * settings["sample_interval"]})
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    set_up(config.log_level, "text")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        backend = open_backend(config)
        if backend.deviceless:
            raise BackendError(f"--backend {config.backend} has no device, so there is nothing to record")
        sampler = Sampler(backend, node=config.node_name, interval_seconds=config.sample_interval)
        try:
            _record(sampler, out, duration, overwrite=overwrite, interval=config.sample_interval, stopping=stopping)
        finally:
            backend.close()
    except (BackendError, RecordingError, CodecError) as error:
        click.echo(f"keda-gpu-scaler: {error}", err=True)
        sys.exit(1)


def _record(
    sampler: Sampler, out: str, duration: float | None, *, overwrite: bool, interval: float, stopping: threading.Event
) -> None:
    """Write every new snapshot until the time is up; the first one must come before there is a file."""
    started = time.monotonic()
    sampler.tick()
    if sampler.history is None:
        raise BackendError(sampler.failure or "the devices gave no reading")
    written = 0
    with RecordingWriter(out, sampler.history.newest.source, overwrite=overwrite) as recording:
        for ticks in range(1, sys.maxsize):
            if sampler.failure is None:
                recording.write(sampler.history.newest)
                written += 1
            due = started + ticks * interval
            if duration is not None and due - started > duration:
                break
            if stopping.wait(max(0.0, due - time.monotonic())):
                break
            sampler.tick()
    devices = len(sampler.history.newest.samples)
    click.echo(f"wrote {written} snapshot(s) of {devices} device(s) to {out}", err=True)
