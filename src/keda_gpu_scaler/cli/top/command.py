# SPDX-License-Identifier: Apache-2.0
"""Runs the command ``top``: its flags, its single table and its exit status."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import astuple
from typing import Any

import click

from keda_gpu_scaler.cli.arguments import (
    client_tls,
    context_option,
    host_and_port,
    interval_option,
    kubeconfig_option,
    timeout_option,
    tls_options,
    token_option,
)
from keda_gpu_scaler.cli.job_environment import JobEnvironment, job_environment_of
from keda_gpu_scaler.cli.options import BACKEND_FLAGS, config_of, flags
from keda_gpu_scaler.cli.output import output_width, printable, say, say_error, waiting_notice
from keda_gpu_scaler.cli.pace import Timing
from keda_gpu_scaler.cli.people_port import TokenError, given_token
from keda_gpu_scaler.cli.top.arrangement import RowKind, SortKey, arrange, arrange_workloads
from keda_gpu_scaler.cli.top.columns import ALL_GLYPHS, ASCII_GLYPHS, Glyphs, LineStyle, StyledLine
from keda_gpu_scaler.cli.top.export import as_csv, as_json
from keda_gpu_scaler.cli.top.live import run_live_view, whole_terminal
from keda_gpu_scaler.cli.top.local_source import local_devices
from keda_gpu_scaler.cli.top.rows import FleetReadings, TopRow
from keda_gpu_scaler.cli.top.sources import FleetSelection, FleetSource, followed_fleet
from keda_gpu_scaler.cli.top.table import table_lines
from keda_gpu_scaler.cli.top.view import NO_WORKLOAD
from keda_gpu_scaler.cli.top.view_state import ViewState
from keda_gpu_scaler.cli.top.workload_rows import WorkloadRow
from keda_gpu_scaler.cli.top.workload_table import workload_lines
from keda_gpu_scaler.config import Config, ConfigError
from keda_gpu_scaler.core.interfaces import BackendError, KubeError
from keda_gpu_scaler.peers.discovery import DiscoveryError
from keda_gpu_scaler.wire.tls import TlsError

OK, INCOMPLETE, NO_READINGS = 0, 1, 3
DEFAULT_WIDTH = 140
"""Columns of the table where no terminal limits it."""


def _addresses(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Read addresses HOST:PORT; one argument may hold several, with commas between.

    Raises:
        click.BadParameter: an address has no port.
    """
    texts = [part.strip() for argument in given for part in argument.split(",")]
    return tuple(dict.fromkeys(address for text in texts if (address := host_and_port(ctx, param, text))))


HELP = """Show every workload with its value, target and replicas, and every device of the fleet with its holders.

Without flags, the command follows the agents of the cluster that kubectl reaches: through port-forwards, or in a pod
directly. Where no cluster is configured, it follows an instance on this machine. It changes nothing, and calls the
agents as they call each other.

Where the instances have an explain port, your Kubernetes token is sent to the instance for the workloads, if you name
its namespace: --namespace. The token's user needs the right to list the ScaledObjects of all namespaces.

With --local it reads this machine's driver, and calls no instance. In a SLURM or Flux job or in a container it shows
the assigned devices only. SLURM_STEP_GPUS, SLURM_JOB_GPUS, CUDA_VISIBLE_DEVICES and NVIDIA_VISIBLE_DEVICES name them.

\b
keda-gpu-scaler top
    the fleet of the cluster
keda-gpu-scaler top --address gpu-7:6000,gpu-8:6000 --by node
    these two instances
keda-gpu-scaler top --local
    this machine
srun --jobid=4711 --overlap keda-gpu-scaler top --local
    the devices of a job
keda-gpu-scaler top --once --by workload
    one table of the workloads
keda-gpu-scaler top --once --by pod --sort util --filter llama
    one table of the pods of llama
keda-gpu-scaler top --once --format json | jq '.rows[] | .uuid'
    for programs (an unknown reading is null, not 0)

\b
Keys: q quit, h help, b or Tab workload/device/node/pod, s or arrows sort,
      r reverse, / filter, ! unavailable instances

\b
Exit status:
  0  with --once: every instance, device and workload has readings; or quit
  1  with --once: an instance is unavailable, or a reading is missing
  2  wrong usage, for example no terminal and no --once
  3  with --once: no readings; or no driver, or no access to the cluster
"""


@click.command(help=HELP)
@click.option(
    "--address", "addresses", multiple=True, metavar="HOST:PORT,…", callback=_addresses,
    help="The instances to follow. Can be repeated.",
)  # fmt: skip
@click.option(
    "--peers", metavar="SOURCE",
    help="How to find the instances, as for serve: dns:NAME:PORT, static:HOST:PORT,… or kubernetes:SERVICE. The "
    "addresses of the Service's pods must be reachable from here.",
)  # fmt: skip
@kubeconfig_option(
    "The cluster whose agents are followed, through port-forwards.  [default: in a pod its own cluster, "
    "otherwise the file that kubectl uses]"
)
@context_option()
@click.option(
    "--namespace", default="", metavar="NAME",
    help="The namespace of the agents.  [default: every namespace, or in a pod its own]",
)  # fmt: skip
@token_option
@tls_options("the host of the instance's address")
@click.option("--local", "is_local", is_flag=True, help="Read this machine's devices, and call no instance.")
@flags(*BACKEND_FLAGS, "pod_resources", "stale_after")
@click.option(
    "--by", type=click.Choice([kind.value for kind in RowKind]), default=None,
    help="The kind of the rows.  [default: workload in the live view, device with --once or --local]",
)  # fmt: skip
@click.option(
    "--sort", type=click.Choice([sort.value for sort in SortKey]), default=SortKey.NODE.value, show_default=True,
    help="The column that orders the rows. Numbers begin with the largest, and unknown values come last.",
)  # fmt: skip
@click.option("--reverse", is_flag=True, help="Reverse the order.")
@click.option(
    "--filter", "words", default="", metavar="WORDS",
    help="Show only rows with all these words in the node, model, UUID or holder.",
)  # fmt: skip
@interval_option("Time between two readings, and between two drawings.", default_seconds=1.0, least=0.1, most=60)
@click.option("--once", is_flag=True, help="Print the table once to standard output, and exit.")
@click.option(
    "--format", "style", type=click.Choice(["table", "json", "csv"]), default=None,
    help="The output format; requires --once.  [default: table]",
)  # fmt: skip
@timeout_option("With --once: how long to wait for the snapshots of the instances.")
@click.pass_context
def top(ctx: click.Context, /, **given: Any) -> None:
    """Run the command."""
    _check_usage(ctx, given)
    default_kind = RowKind.DEVICE if given["once"] or given["is_local"] else RowKind.WORKLOAD
    state = ViewState(RowKind(given["by"] or default_kind), SortKey(given["sort"]), given["reverse"], given["words"])
    timing = ctx.find_object(Timing) or Timing()
    try:
        source = _local(given, timing) if given["is_local"] else followed_fleet(_selection(ctx, given), timing)
        with _log_suppressed():
            if given["once"]:
                ctx.exit(asyncio.run(_print_once(source, state, given["style"] or "table", given["timeout"])))
            with whole_terminal(ctx) as terminal:
                asyncio.run(run_live_view(source, state, terminal, given["interval"], timing, _glyphs()))
    except (ConfigError, DiscoveryError, TlsError, TokenError) as error:
        raise click.UsageError(str(error), ctx) from error
    except (BackendError, KubeError) as error:
        say_error(str(error))
        ctx.exit(NO_READINGS)


def _check_usage(ctx: click.Context, given: dict[str, Any]) -> None:
    """Refuse flags that contradict each other.

    Raises:
        click.UsageError: two flags do.
    """
    if given["is_local"] and (
        given["addresses"] or given["peers"] or given["kubeconfig"] or given["kube_context"] or given["namespace"]
    ):
        message = "--local: calls no instance; remove --address, --peers, --kubeconfig and --namespace"
        raise click.UsageError(message, ctx)
    if given["addresses"] and given["peers"]:
        raise click.UsageError("--address, --peers: both name the instances; give one of them", ctx)
    if given["is_local"] and given["by"] == RowKind.WORKLOAD:
        raise click.UsageError("--by workload: an instance knows the workloads; remove --local", ctx)
    if given["style"] and not given["once"]:
        raise click.UsageError("--format: requires --once", ctx)


def _selection(ctx: click.Context, given: dict[str, Any]) -> FleetSelection:
    tls = client_tls(ctx, given)
    return FleetSelection(
        given["addresses"],
        given["peers"],
        given["kubeconfig"],
        given["kube_context"],
        given["namespace"],
        tls,
        given["interval"],
        max(given["stale_after"], 2 * given["interval"]),
        given_token(given["token_file"], given["addresses"], uses_tls=tls is not None),
    )


def _local(given: dict[str, Any], timing: Timing) -> AbstractAsyncContextManager[FleetSource]:
    """Open this machine's backend.

    Raises:
        ConfigError: the settings contradict each other.
        BackendError: the backend cannot be opened.
    """
    from keda_gpu_scaler.agent import open_backend

    environment = job_environment_of(os.environ)
    config = _config(given, environment)
    return local_devices(open_backend(config), config, environment, timing)


def _config(given: dict[str, Any], environment: JobEnvironment) -> Config:
    settings = {name: given[name] for name in (*BACKEND_FLAGS, "pod_resources", "stale_after")}
    settings["node_name"] = settings["node_name"] or environment.node or None
    interval = given["interval"]
    return config_of(
        {**settings, "sample_interval": interval, "stale_after": max(settings["stale_after"], 2 * interval)}
    )


# ---- the single table ----


async def _print_once(
    opening: AbstractAsyncContextManager[FleetSource], state: ViewState, style: str, timeout_seconds: float
) -> int:
    """Wait for the readings, print them, and return the exit status."""
    async with opening as source:
        with waiting_notice("waiting for readings"), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await source.wait_for_sync()
                if state.kind is RowKind.WORKLOAD:
                    await source.wait_for_workloads()
        readings = source.readings()
    if state.kind is RowKind.WORKLOAD:
        return _print_workloads(readings, state, style)
    rows = arrange(readings.rows, state.kind, state.sort, state.words, is_reversed=state.is_reversed)
    _print(readings, state.kind, rows, style)
    if not any(row.with_value for row in readings.rows):
        return NO_READINGS
    return INCOMPLETE if readings.unavailable or any(row.unknown for row in readings.rows) else OK


def _print_workloads(readings: FleetReadings, state: ViewState, style: str) -> int:
    """Print the workloads, and return the exit status: every one should have a value."""
    rows = arrange_workloads(readings.workloads, state.sort, state.words, is_reversed=state.is_reversed)
    _print(readings, state.kind, rows, style)
    if not readings.workloads:
        if style == "table":
            say_error(NO_WORKLOAD)
        return NO_READINGS
    return INCOMPLETE if readings.unavailable or any(row.reported is None for row in readings.workloads) else OK


def _print(readings: FleetReadings, kind: RowKind, rows: Sequence[TopRow | WorkloadRow], style: str) -> None:
    if style == "json":
        say(as_json(readings, kind, rows))
        return
    if style == "csv":
        say(as_csv(kind, rows), nl=False)
    elif rows:
        for line in _lines(kind, rows):
            say(_coloured(line))
    for name, reason in readings.unavailable.items():
        say_error(f"unavailable: {name}: {reason}")
    for note in readings.notes:
        say(f"keda-gpu-scaler: {printable(note)}", err=True)


def _lines(kind: RowKind, rows: Sequence[TopRow | WorkloadRow]) -> Sequence[StyledLine]:
    width, glyphs = output_width(DEFAULT_WIDTH), _glyphs()
    if kind is RowKind.WORKLOAD:
        return workload_lines([row for row in rows if isinstance(row, WorkloadRow)], width, glyphs)
    return table_lines([row for row in rows if isinstance(row, TopRow)], kind, width, glyphs)


def _coloured(line: StyledLine) -> str:
    if line.style is LineStyle.HEAD:
        return click.style(line.text.rstrip(), bold=True)
    return click.style(line.text, fg="red") if line.style is LineStyle.BAD else line.text


# ---- the terminal ----


def _glyphs() -> Glyphs:
    """Return the characters that standard output can encode: all of them, or ASCII only."""
    try:
        "".join(astuple(ALL_GLYPHS)).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII_GLYPHS
    return ALL_GLYPHS


@contextlib.contextmanager
def _log_suppressed() -> Iterator[None]:
    """Suppress the log: the table shows the unavailable instances and the reasons."""
    log = logging.getLogger("keda_gpu_scaler")
    handler = logging.NullHandler()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
