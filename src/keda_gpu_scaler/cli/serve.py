# SPDX-License-Identifier: Apache-2.0
"""``keda-gpu-scaler serve``: sample this node's devices and answer KEDA until told to stop."""

import asyncio
import logging
import os
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

_REPEAT_SECONDS = 60.0
_log = logging.getLogger(__name__)


@click.command()
@flags(*HELP)
def serve(**settings: Any) -> None:
    """Sample this node's devices and serve KEDA's ExternalScaler until SIGTERM or Ctrl-C.

    \b
    keda-gpu-scaler serve
        this machine's NVIDIA GPUs
    keda-gpu-scaler serve --backend replay:gpus.csv
        a log of nvidia-smi --query-gpu=... --format=csv -l 1
    keda-gpu-scaler serve --backend synthetic --port 6001
        a demonstration load, without a GPU

    Exit status: 0 stopped as told, 1 cannot start (one sentence says why), 2 wrong usage.
    """
    try:
        config = config_of(settings)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    stop = _Stop()
    # The core library writes its own lines to the terminal when a port is taken; ours says it better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from keda_gpu_scaler.agent import Agent, StartError, open_backend

    set_up(config.log_level, config.log_format)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_Complaints())
        agent = Agent(config, backend)
        stop.then(lambda: loop.call_soon_threadsafe(agent.stop))
        await agent.run()
        stop.then(lambda: None)

    try:
        backend = open_backend(config)
        asyncio.run(run())
    except (BackendError, StartError) as error:
        click.echo(f"keda-gpu-scaler: {error}", err=True)
        sys.exit(1)


class _Stop:
    """What SIGTERM and Ctrl-C do, from the first moment on: as process 1 of a container an unhandled one is lost."""

    def __init__(self) -> None:
        self._action: Callable[[], object] = lambda: sys.exit(0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._act)

    def then(self, action: Callable[[], object]) -> None:
        """Do this from now on."""
        self._action = action

    def _act(self, number: int, frame: FrameType | None) -> None:
        self._action()


class _Complaints:
    """The event loop's complaints (no file descriptor left, for one), each at most once a minute."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        sentence = f"{context['message']}: {context.get('exception', '')}"
        if time.monotonic() - self._said.get(context["message"], -_REPEAT_SECONDS) >= _REPEAT_SECONDS:
            self._said[context["message"]] = time.monotonic()
            _log.error("%s", sentence)
