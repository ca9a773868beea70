# SPDX-License-Identifier: Apache-2.0
"""Runs the command ``demo``: the closed loop, or what KEDA receives for devices."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import click

from keda_gpu_scaler.cli.arguments import host_and_port, metadata_option, value_type_option
from keda_gpu_scaler.cli.demo import loop
from keda_gpu_scaler.cli.demo.gateway import GatewayPage
from keda_gpu_scaler.cli.demo.render import ending, introduction
from keda_gpu_scaler.cli.demo.schedule import TICKS
from keda_gpu_scaler.cli.demo.server import RECORDING, DemoError, check_address, has_gpus, serving
from keda_gpu_scaler.cli.output import say, say_error
from keda_gpu_scaler.cli.pace import Timing
from keda_gpu_scaler.cli.probe.client import ProbeRequest, ScalerClient
from keda_gpu_scaler.cli.probe.command import probe
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType

DEFAULT_METADATA = {"profile": "triton-inference", "report": "average"}
_DEVICE_FLAGS = ("metadata", "replicas", "value_type", "watch")
_CALL_SECONDS = 5.0

HELP = """Show on this machine how a workload follows its load. It needs no cluster, and no GPU.

\b
keda-gpu-scaler demo
    in a terminal: a load of two minutes climbs, settles, sleeps and wakes
keda-gpu-scaler demo --devices
    what KEDA receives for the GPUs of this machine, or for a recording
keda-gpu-scaler demo --devices --watch -m targetValue=60

It starts `serve` on the loopback interface, calls it over gRPC as KEDA does, and stops it. In the closed loop, the load
is a schedule, and the replicas are those that KEDA's rules and the HPA's choose. Both are synthetic; intervals are
shorter than in a cluster, and the first lines say which. Where the output is no terminal, --devices is the default.

\b
Exit status:
  0  no problem; also after Ctrl-C
  1  it cannot start, or an answer is an error or one that KEDA cannot use
  2  wrong usage
"""


@click.command(help=HELP)
@click.option(
    "--follow/--devices", "follows", default=None,
    help="The closed loop, or one answer for devices.  [default: the loop in a terminal, without the flags below]",
)  # fmt: skip
@click.option(
    "--address", default="127.0.0.1:6000", show_default=True, metavar="HOST:PORT", callback=host_and_port,
    help="Where the demonstration's scaler listens.",
)  # fmt: skip
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N",
    help=f"Stop after N lines.  [default: {TICKS} of the loop: two minutes; no limit with --watch]",
)  # fmt: skip
@click.option("--watch", is_flag=True, help="With --devices: repeat until Ctrl-C.")
@metadata_option(
    "With --devices: one key of the trigger's metadata; can be repeated.  [default: "
    + ", ".join(f"{key}={value}" for key, value in DEFAULT_METADATA.items())
    + "]"
)
@click.option(
    "--replicas", type=click.IntRange(min=0), metavar="N", help="With --devices: the workload's size.  [default: 3]"
)
@value_type_option("With --devices: the trigger's metricType in KEDA.  [default: Value]")
@click.pass_context
def demo(ctx: click.Context, /, **given: Any) -> None:
    """Start the scaler, show the demonstration, and stop the scaler."""
    timing = ctx.find_object(Timing) or Timing()
    has_device_flags = any(given[name] for name in _DEVICE_FLAGS) or given["replicas"] is not None
    if given["follows"] and has_device_flags:
        raise click.UsageError("--follow: has a trigger of its own; leave out the flags of --devices", ctx)
    follows = given["follows"]
    if follows is None:
        follows = sys.stdout.isatty() and not has_device_flags
    try:
        check_address(given["address"])
        with _interrupted_by_termination():
            status = _show_loop(given, timing) if follows else _show_devices(given, timing)
    except DemoError as error:
        say_error(str(error))
        status = 1
    except KeyboardInterrupt:
        say("")
        status = 0
    ctx.exit(status)


def _show_loop(given: dict[str, Any], timing: Timing) -> int:
    address = given["address"]
    say("starting the scaler of the demonstration …", err=True)
    with GatewayPage() as gateway, serving(address, loop.SERVE_FLAGS, keeps_settings=False):
        request = ProbeRequest(address, "demo", "demo", loop.trigger(gateway.url), _CALL_SECONDS)
        client = ScalerClient(request, timing)
        try:
            client.query()  # the first call starts the scrape of the gateway's page
            say(introduction(address, loop.TARGET))
            status = loop.play(client.query, gateway, timing, given["count"] or TICKS)
        finally:
            client.close()
    say(ending())
    return status


def _show_devices(given: dict[str, Any], timing: Timing) -> int:
    say("DEMONSTRATION: looking for GPUs …", err=True)
    backend, source = "auto", "this machine's GPUs; the HPA is simulated"
    if not has_gpus():
        backend = f"replay:{RECORDING}"
        source = "no GPU here, so a synthetic recording; nothing is measured"
    say(f"DEMONSTRATION: {source}")
    address = given["address"]
    words = ["--address", address, "--value-type", given["value_type"] or ValueType.VALUE.value]
    words += ["--replicas", str(3 if given["replicas"] is None else given["replicas"])]
    for key, value in (given["metadata"] or DEFAULT_METADATA).items():
        words += ["--metadata", f"{key}={value}"]
    if given["watch"]:
        words.append("--watch")
    if given["count"]:
        words += ["--count", str(given["count"])]
    with serving(address, ("--backend", backend), keeps_settings=True):
        say(f"keda-gpu-scaler probe {' '.join(words)}", err=True)
        return int(probe.main(words, prog_name="keda-gpu-scaler probe", standalone_mode=False, obj=timing) or 0)


@contextlib.contextmanager
def _interrupted_by_termination() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the demonstration as Ctrl-C does, so that its server is stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGHUP, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
