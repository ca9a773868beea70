# SPDX-License-Identifier: Apache-2.0
"""``keda-gpu-scaler serve``: sample this node's devices and answer KEDA until told to stop."""

import asyncio
import os
import signal
import sys
from typing import Any

import click

from keda_gpu_scaler.cli.logs import set_up
from keda_gpu_scaler.cli.options import config_of, flags
from keda_gpu_scaler.config import HELP, ConfigError
from keda_gpu_scaler.core.ports import BackendError


@click.command()
@flags(*HELP)
def serve(**settings: Any) -> None:
    """Sample this node's devices and serve KEDA's ExternalScaler until SIGTERM or Ctrl-C.

    \b
    keda-gpu-scaler serve                                     this machine's NVIDIA GPUs
    keda-gpu-scaler serve --backend replay:gpus.csv           a log of nvidia-smi --query-gpu=… --format=csv -l 1
    keda-gpu-scaler serve --backend synthetic --port 6001     a demonstration load, without a GPU

    Exit status: 0 stopped as told, 1 cannot start (one sentence says why), 2 wrong usage.
    """
    # The core library writes its own lines to the terminal when a port is taken; ours says it better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from keda_gpu_scaler.agent import Agent, StartError, open_backend

    try:
        config = config_of(settings)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    set_up(config.log_level, config.log_format)

    async def run() -> None:
        agent = Agent(config, open_backend(config))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, agent.stop)
        await agent.run()

    try:
        asyncio.run(run())
    except (BackendError, StartError) as error:
        click.echo(f"keda-gpu-scaler: {error}", err=True)
        sys.exit(1)
