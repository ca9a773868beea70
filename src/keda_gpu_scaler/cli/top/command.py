# SPDX-License-Identifier: Apache-2.0
"""What does every device of the fleet do now? A live table, or one picture of it for scripts."""

import asyncio
import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import click

from keda_gpu_scaler.cli.arguments import client_tls, host_and_port
from keda_gpu_scaler.cli.job_environment import JobEnvironment, job_environment_of
from keda_gpu_scaler.cli.options import BACKEND_FLAGS, config_of, flags
from keda_gpu_scaler.cli.output import waiting_notice
from keda_gpu_scaler.cli.top.rows import By, Row, Sort, TopView, arranged, as_csv, as_json
from keda_gpu_scaler.cli.top.sources import Clocks, FleetSource, Wanted, followed, local
from keda_gpu_scaler.cli.top.sparklines import Sparklines
from keda_gpu_scaler.cli.top.view import (
    PLAIN,
    Line,
    Signs,
    Style,
    ViewState,
    pressed,
    safe,
    screen,
    screenful,
    table_lines,
)
from keda_gpu_scaler.config import Config, ConfigError
from keda_gpu_scaler.core.interfaces import Backend, BackendError, KubeError
from keda_gpu_scaler.peers.discovery import DiscoveryError
from keda_gpu_scaler.wire.tls import TlsError

if TYPE_CHECKING:
    from keda_gpu_scaler.cli.top.curses_terminal import Terminal

OK, PARTLY, NOTHING = 0, 1, 3
WIDTH = 140
"""Of a table that no terminal bounds."""


def _addresses(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Read addresses, each HOST:PORT, several in one with commas between.

    Raises:
        click.BadParameter: one has no port.
    """
    addresses = [one.strip() for text in given for one in text.split(",")]
    return tuple(dict.fromkeys(address for one in addresses if (address := host_and_port(ctx, param, one))))


HELP = """Show every device of the fleet, and who holds it: a live table by device, node or pod.

Without a flag it follows the agents of the cluster that kubectl reaches (through port-forwards; in a pod,
directly), or where there is none, an instance on this machine. It changes nothing, and asks as instances ask each
other.

With --local it asks no instance but this machine's driver, and within a SLURM or Flux job or a container it shows
the devices that are meant for it: SLURM_STEP_GPUS, SLURM_JOB_GPUS, CUDA_VISIBLE_DEVICES and NVIDIA_VISIBLE_DEVICES
name them.

\b
keda-gpu-scaler top
    the cluster's fleet
keda-gpu-scaler top --address gpu-7:6000,gpu-8:6000 --by node
    these two
keda-gpu-scaler top --local
    this machine; srun --jobid=4711 --overlap keda-gpu-scaler top --local: a job's devices
keda-gpu-scaler top --once --by pod --sort util --filter llama
    one picture, of the pods of llama
keda-gpu-scaler top --once --format json | jq -r '.rows[] | select(.gpu_utilization_percent == 0) | .uuid'
    who idles (null is unknown, and is not 0)

\b
Keys: q quit, h help, b or Tab device/node/pod, s or arrows sort, r reverse, / filter, ! who is not heard

\b
Exit status:
  0  everybody is heard (with --once), or quit
  1  somebody is not heard, or gives no reading; with --once
  2  wrong usage: for one, no terminal and no --once
  3  nobody is heard (with --once), or there is nobody to ask: no driver, no cluster
"""


@click.command(help=HELP)
@click.option(
    "--address", "addresses", multiple=True, metavar="HOST:PORT,…", callback=_addresses,
    help="The instances to follow. Repeat it for more.",
)  # fmt: skip
@click.option(
    "--peers", metavar="WHERE",
    help="Where they are, as for serve: dns:NAME:PORT, static:HOST:PORT,… or kubernetes:SERVICE, whose pods' "
    "addresses must be reachable from here.",
)  # fmt: skip
@click.option(
    "--kubeconfig", metavar="PATH",
    help="The cluster whose agents are followed, through port-forwards.  [default: from within a pod its own cluster, "
    "or else what kubectl uses]",
)  # fmt: skip
@click.option(
    "--namespace", default="", metavar="NAME", help="Where the agents are.  [default: anywhere, or the pod's own]"
)
@click.option(
    "--tls-ca", metavar="PATH", help="The CA (PEM) that signed the instances' certificates; TLS is on with it."
)
@click.option("--tls-cert", metavar="PATH", help="The client certificate to show them (PEM).")
@click.option("--tls-key", metavar="PATH", help="Its private key (PEM).")
@click.option("--tls-server-name", metavar="NAME", help="The name that their certificates must bear.")
@click.option("--local", "is_local", is_flag=True, help="Read this machine's devices, without any server.")
@flags(*BACKEND_FLAGS, "pod_resources", "stale_after")
@click.option(
    "--by", type=click.Choice([by.value for by in By]), default=By.DEVICE.value, show_default=True,
    help="What a row is.",
)  # fmt: skip
@click.option(
    "--sort", type=click.Choice([sort.value for sort in Sort]), default=Sort.NODE.value, show_default=True,
    help="Numbers begin with the largest; unknown comes last.",
)  # fmt: skip
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option(
    "--filter", "words", default="", metavar="WORDS", help="Words that node, model, UUID or holder must hold."
)
@click.option(
    "--interval", type=click.FloatRange(min=0.1, max=60), default=1.0, show_default=True, metavar="SECONDS",
    help="How often devices are read, and the screen is drawn.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Write one picture to standard output, and end.")
@click.option(
    "--format", "style", type=click.Choice(["table", "json", "csv"]), default=None,
    help="With --once.  [default: table]",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True, metavar="SECONDS",
    help="With --once: how long instances may take to tell something.",
)  # fmt: skip
@click.pass_context
def top(ctx: click.Context, /, **given: Any) -> None:
    """Run the command."""
    if given["is_local"] and (given["addresses"] or given["peers"] or given["kubeconfig"] or given["namespace"]):
        raise click.UsageError("--local: asks nobody; leave out --address, --peers, --kubeconfig and --namespace", ctx)
    if given["addresses"] and given["peers"]:
        raise click.UsageError("--address, --peers: both say where the instances are; give one of them", ctx)
    if given["style"] and not given["once"]:
        raise click.UsageError("--format: belongs to --once", ctx)
    # The core library writes its own lines to the terminal when a connection is refused; the table says it better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    look = ViewState(By(given["by"]), Sort(given["sort"]), given["reverse"], given["words"])
    clocks = ctx.find_object(Clocks) or Clocks()
    try:
        source = _local(given, clocks) if given["is_local"] else followed(_wanted(ctx, given), clocks)
        with _silence():
            if given["once"]:
                ctx.exit(asyncio.run(_once(source, look, given["style"] or "table", given["timeout"])))
            with _terminal(ctx) as terminal:
                asyncio.run(_live(source, look, terminal, given["interval"], clocks))
    except (ConfigError, DiscoveryError, TlsError) as error:
        raise click.UsageError(str(error), ctx) from error
    except (BackendError, KubeError) as error:
        _say(f"keda-gpu-scaler: {error}", err=True)
        ctx.exit(NOTHING)


def _wanted(ctx: click.Context, given: dict[str, Any]) -> Wanted:
    return Wanted(
        given["addresses"],
        given["peers"],
        given["kubeconfig"],
        given["namespace"],
        client_tls(ctx, given),
        given["interval"],
        max(given["stale_after"], 2 * given["interval"]),
    )


def _local(given: dict[str, Any], clocks: Clocks) -> AbstractAsyncContextManager[FleetSource]:
    """Open this machine's backend.

    Raises:
        ConfigError: the settings contradict each other.
        BackendError: there is nothing to read.
    """
    from keda_gpu_scaler.agent import open_backend

    place = job_environment_of(os.environ)
    config = _config(given, place)
    backend: Backend = open_backend(config)
    return local(backend, config, place, clocks)


def _config(given: dict[str, Any], place: JobEnvironment) -> Config:
    settings = {name: given[name] for name in (*BACKEND_FLAGS, "pod_resources", "stale_after")}
    settings["node_name"] = settings["node_name"] or place.node or None
    interval = given["interval"]
    return config_of(
        {**settings, "sample_interval": interval, "stale_after": max(settings["stale_after"], 2 * interval)}
    )


# ---- one picture ----


async def _once(
    opening: AbstractAsyncContextManager[FleetSource], look: ViewState, style: str, timeout_seconds: float
) -> int:
    async with opening as source:
        with waiting_notice("waiting for readings"), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await source.wait_for_sync()
        view = source.view()
    rows = arranged(view.rows, look.by, look.sort, look.words, is_reversed=look.is_reversed)
    _show(view, look.by, rows, style)
    if not any(row.seen for row in view.rows):
        return NOTHING
    return PARTLY if view.unheard or any(row.unknown for row in view.rows) else OK


def _show(view: TopView, by: By, rows: Sequence[Row], style: str) -> None:
    if style == "json":
        _say(as_json(view, by, rows))
        return
    if style == "csv":
        click.echo(as_csv(rows), nl=False)
    elif rows:
        # A pipe is as wide as the longest line; a terminal is not.
        width = shutil.get_terminal_size((WIDTH, 24)).columns
        for line in table_lines(rows, by, width, _signs()):
            _say(_coloured(line))
    for name, why in view.unheard.items():
        _say(click.style(f"keda-gpu-scaler: not heard: {safe(name)}: {safe(why)}", fg="red"), err=True)
    for note in view.notes:
        _say(f"keda-gpu-scaler: {safe(note)}", err=True)


def _coloured(line: Line) -> str:
    if line.style is Style.HEAD:
        return click.style(line.text.rstrip(), bold=True)
    return click.style(line.text, fg="red") if line.style is Style.BAD else line.text


# ---- live ----


@contextlib.contextmanager
def _terminal(ctx: click.Context) -> Iterator["Terminal"]:
    """Take the whole screen.

    Raises:
        click.UsageError: there is none.
    """
    try:
        from keda_gpu_scaler.cli.top.curses_terminal import Terminal, TerminalError
    except ImportError as error:  # curses is an optional part of Python
        raise click.UsageError(f"no screen can be drawn ({error}): take one picture with --once", ctx) from error
    try:
        with Terminal(has_colours=not os.environ.get("NO_COLOR")) as terminal:
            yield terminal
    except TerminalError as error:
        raise click.UsageError(str(error), ctx) from error


async def _live(
    opening: AbstractAsyncContextManager[FleetSource],
    look: ViewState,
    terminal: "Terminal",
    interval_seconds: float,
    clocks: Clocks,
) -> None:
    trails, signs = Sparklines(), _signs()
    news, ending = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        ending.set()
        news.set()

    async with opening as source:
        with terminal.calling(news.set, stop):
            while not ending.is_set():
                news.clear()
                width, height = terminal.size
                for key in terminal.pressed():
                    after = pressed(look, key, screenful(height))
                    if after is None:
                        return
                    look = after
                view, now = source.view(), clocks.monotonic()
                trails.note(view.rows, now)
                lines, look = screen(view, look, trails, now, width, height, signs)
                terminal.draw(lines)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(interval_seconds):
                        await news.wait()


# ---- what a terminal is told ----


def _signs() -> Signs:
    """Return what standard output can show: in a locale of ASCII, less."""
    try:
        "".join((Signs().trail, Signs().cut, Signs().degree)).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return Signs()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the log off the screen: who is not heard, and why, stands there."""
    log = logging.getLogger("keda_gpu_scaler")
    handler = logging.NullHandler()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _say(text: str, *, err: bool = False) -> None:
    # None leaves it to click: colours on a terminal only.
    click.echo(text, err=err, color=False if os.environ.get("NO_COLOR") else None)
