# SPDX-License-Identifier: Apache-2.0
"""Runs the command ``serve``: samples the devices of this node and answers KEDA."""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import click

from keda_gpu_scaler.cli.logs import set_up
from keda_gpu_scaler.cli.options import config_of, flags
from keda_gpu_scaler.config import HELP, ConfigError
from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.file_descriptors import raise_limit

_REPEAT_SECONDS = 60.0
_log = logging.getLogger(__name__)


_HELP = """Sample this node's devices and serve KEDA's ExternalScaler until SIGTERM or Ctrl-C.

\b
keda-gpu-scaler serve
    read the NVIDIA GPUs of this machine
keda-gpu-scaler serve --backend replay:gpus.csv
    replay a log of nvidia-smi, rocm-smi, amd-smi, gpustat or dcgm-exporter
keda-gpu-scaler serve --backend synthetic --port 6001
    use a demonstration load, without a GPU

SIGHUP reads certificates and credentials again.

Exit status: 0 stopped by a signal, 1 cannot start (one sentence says why), 2 wrong usage.
"""


@click.command(help=_HELP)
@flags(*HELP)
def serve(**settings: Any) -> None:
    """Check the settings, then run the agent until a signal stops it."""
    try:
        config = config_of(settings)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    stop, reload = _StopSignals(), _ReloadSignal()
    from keda_gpu_scaler.agent import Agent, StartError, open_backend
    from keda_gpu_scaler.core.state.reading_interest import ReadingInterest

    set_up(config.log_level, config.log_format)
    raise_limit()
    performance = ReadingInterest()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_LoopErrorLog())
        agent = Agent(config, backend, performance=performance)
        stop.set_action(lambda: loop.call_soon_threadsafe(agent.stop))
        reload.set_action(lambda: loop.call_soon_threadsafe(agent.reload))
        await agent.run()
        reload.set_action(lambda: None)
        stop.set_action(lambda: None)

    try:
        backend = open_backend(config, lambda: performance.is_live(time.monotonic()))
        asyncio.run(run())
    except (BackendError, StartError) as error:
        click.echo(f"keda-gpu-scaler: {error}", err=True)
        sys.exit(1)


class _StopSignals:
    """Handles SIGTERM and Ctrl-C from the start: process 1 of a container ignores a signal without a handler."""

    def __init__(self) -> None:
        self._action: Callable[[], object] = lambda: sys.exit(0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def set_action(self, action: Callable[[], object]) -> None:
        """Set the action of the signals; it replaces the action before."""
        self._action = action

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._action()


class _ReloadSignal:
    """Handles SIGHUP from the start: without a handler it ends the process."""

    def __init__(self) -> None:
        self._action: Callable[[], object] = lambda: None
        signal.signal(signal.SIGHUP, self._handle)

    def set_action(self, action: Callable[[], object]) -> None:
        """Set the action of the signal; it replaces the action before."""
        self._action = action

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._action()


def _is_accept_retry_after_close(context: dict[str, Any]) -> bool:
    """Return whether asyncio listens again, after a shortage of descriptors, on a socket that is closed by now.

    It happens when the process ends within the second after the shortage; there is nothing left to accept.
    """
    retried = "_start_serving" in context["message"]
    return retried and isinstance(context.get("exception"), ValueError)


class _LoopErrorLog:
    """Logs errors of the event loop (for example: no file descriptor is left), each at most once a minute."""

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if _is_accept_retry_after_close(context):
            return
        sentence = f"{context['message']}: {context.get('exception', '')}"
        if time.monotonic() - self._logged_at.get(context["message"], -_REPEAT_SECONDS) >= _REPEAT_SECONDS:
            self._logged_at[context["message"]] = time.monotonic()
            _log.error("%s", sentence)
