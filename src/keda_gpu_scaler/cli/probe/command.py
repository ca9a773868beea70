# SPDX-License-Identifier: Apache-2.0
"""What would KEDA be told, and what would the HPA make of it? Asks any external scaler, as KEDA does.

The law of this module: a round is asked, judged, rehearsed and shown, each by the module that knows how; here
is when, how often, and with which exit status it ends.
"""

import os
import sys
from typing import Any

import click

from keda_gpu_scaler.cli.arguments import client_tls, host_and_port, metadata_pairs
from keda_gpu_scaler.cli.probe.client import ProbeRequest, ScalerClient, Timing
from keda_gpu_scaler.cli.probe.render import as_json, block, error_text, header, notes, row
from keda_gpu_scaler.cli.probe.simulation import OK, Round, Scenario, Simulation
from keda_gpu_scaler.core.hpa.controller import DEFAULT_MAX_REPLICAS, DEFAULT_MIN_REPLICAS, ControllerState
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType
from keda_gpu_scaler.wire.tls import TlsError

HEADER_EVERY_ROUNDS = 20


@click.command()
@click.option(
    "--address", default="127.0.0.1:6000", show_default=True, metavar="HOST:PORT", callback=host_and_port,
    help="The external scaler; without TLS unless --tls-ca is given.",
)  # fmt: skip
@click.option(
    "--tls-ca", metavar="PATH",
    help="The CA (PEM) that signed the scaler's certificate, as caCert in a TriggerAuthentication; TLS is on with it.",
)  # fmt: skip
@click.option("--tls-cert", metavar="PATH", help="The client certificate to show (PEM), as tlsClientCert there.")
@click.option("--tls-key", metavar="PATH", help="Its private key (PEM), as tlsClientKey there.")
@click.option(
    "--tls-server-name", metavar="NAME",
    help="The name that the scaler's certificate must bear, for example behind a port-forward.  [default: the host]",
)  # fmt: skip
@click.option(
    "-m", "--metadata", multiple=True, metavar="KEY=VALUE", callback=metadata_pairs,
    help="One key of the trigger's metadata; repeat it for more. Sent as it stands.",
)  # fmt: skip
@click.option("--name", default="probe", show_default=True, help="The ScaledObject's name.")
@click.option("--namespace", default="default", show_default=True, help="Its namespace.")
@click.option(
    "--replicas", type=click.IntRange(min=0), default=1, show_default=True, metavar="N",
    help="The workload's size, for the HPA's arithmetic.",
)  # fmt: skip
@click.option(
    "--ready", type=click.IntRange(min=0), metavar="N", help="How many of them are ready.  [default: all of them]"
)
@click.option(
    "--value-type", type=click.Choice([kind.value for kind in ValueType], case_sensitive=False),
    default=ValueType.AVERAGE_VALUE.value, show_default=True,
    metavar="[AverageValue|Value]", help="The trigger's KEDA metricType: AverageValue or Value.",
)  # fmt: skip
@click.option(
    "--min-replicas", type=click.IntRange(min=1), default=DEFAULT_MIN_REPLICAS, show_default=True, metavar="N",
    help="The HPA's lower limit.",
)  # fmt: skip
@click.option(
    "--max-replicas", type=click.IntRange(min=1), default=DEFAULT_MAX_REPLICAS, show_default=True, metavar="N",
    help="The HPA's upper limit.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True, metavar="SECONDS",
    help="For each call; the first includes connecting. KEDA sets none.",
)  # fmt: skip
@click.option("--watch", is_flag=True, help="Ask again and again, one line a round, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True, metavar="SECONDS",
    help="How far apart the rounds of --watch begin.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Watch this many rounds, then stop.")
@click.option(
    "--follow", is_flag=True,
    help="With --watch: the workload takes the size the HPA decides on, every 15 s.",
)  # fmt: skip
@click.option("--json", "json_lines", is_flag=True, help="One JSON object a round.")
@click.pass_context
def probe(ctx: click.Context, /, **given: Any) -> None:
    """Ask an external scaler what KEDA asks, and show what the HPA would decide.

    Any external scaler will do, of this project or another: GetMetricSpec, GetMetrics and IsActive are called
    in KEDA's order, the numbers read as KEDA 2.17 and later read them, and whatever would hurt in a cluster
    is pointed out. A keda-gpu-scaler also says how it came to its answer: which scope, how much of it was
    seen, and what each pod or device gave.

    \b
    keda-gpu-scaler probe -m profile=triton-inference -m report=average
    keda-gpu-scaler probe --namespace ai --name llama --replicas 3
    keda-gpu-scaler probe --address scaler.gpu.svc:6000 --value-type Value
    keda-gpu-scaler probe --tls-ca ca.crt --tls-server-name scaler.gpu.svc
    keda-gpu-scaler probe --watch --follow --replicas 2 --max-replicas 12
    keda-gpu-scaler probe --json --count 60 > rounds.jsonl

    Metadata is sent as it stands; add -m scalerAddress=... if the scaler looks at it.

    A single round shows what the HPA recommends and how far one step takes it. A watched HPA starts with no
    past but the present size, so it shrinks after 300 s at the earliest, like a real one. The HPA is the one
    KEDA makes when the ScaledObject has no behavior of its own.

    \b
    Exit status (with --count, the highest of all rounds):
      0  all fine; also after Ctrl-C while watching
      1  the scaler answered with an error, too late, or with what KEDA cannot use
      2  wrong usage
      3  cannot connect
    """
    if given["min_replicas"] > given["max_replicas"]:
        raise click.BadParameter(
            f"{given['min_replicas']}: must not exceed --max-replicas ({given['max_replicas']})",
            ctx,
            param_hint="--min-replicas",
        )
    watching = given["watch"] or given["count"] is not None
    if given["follow"] and not watching:
        raise click.UsageError("--follow: needs --watch or --count", ctx)
    if given["follow"] and given["ready"] is not None:
        raise click.UsageError("--follow: takes every pod for ready at once; leave out --ready", ctx)
    question = ProbeRequest(
        given["address"], given["name"], given["namespace"], given["metadata"], given["timeout"], client_tls(ctx, given)
    )
    scenario = Scenario(
        ValueType(given["value_type"]),
        given["replicas"],
        given["ready"],
        given["min_replicas"],
        given["max_replicas"],
        given["follow"],
    )
    pace = ctx.find_object(Timing) or Timing()
    try:
        link = ScalerClient(question, pace)
    except TlsError as error:
        raise click.UsageError(str(error), ctx) from error
    try:
        if watching:
            code = _watch(link, pace, question, scenario, given["interval"], given["count"], given["json_lines"])
        else:
            code = _once(link, pace, question, scenario, given["json_lines"])
    finally:
        link.close()
    ctx.exit(code)


def _once(link: ScalerClient, pace: Timing, question: ProbeRequest, scenario: Scenario, json_lines: bool) -> int:
    # An HPA that has seen the workload before, and remembers nothing larger: so the recommendation shows.
    simulation = Simulation(scenario, ControllerState(started=True))
    answer = link.ask()
    shown = simulation.round(pace.utc(), pace.monotonic(), question.address, answer)
    evaluation = link.explain() if answer.specs else None
    if json_lines:
        _say(as_json(shown, evaluation))
        return shown.exit_code
    if answer.specs is not None:
        _say(block(shown, question, evaluation))
    if answer.error is not None:
        sys.stdout.flush()
        _say(click.style(f"keda-gpu-scaler: {error_text(shown)}", fg="red"), err=True)
    return shown.exit_code


def _watch(
    link: ScalerClient,
    pace: Timing,
    question: ProbeRequest,
    scenario: Scenario,
    interval_seconds: float,
    count: int | None,
    json_lines: bool,
) -> int:
    simulation = Simulation(scenario)
    worst, done, said = OK, 0, ""
    try:
        while True:
            began = pace.monotonic()
            answer = link.ask()
            shown = simulation.round(pace.utc(), pace.monotonic(), question.address, answer)
            if json_lines:
                _say(as_json(shown))
            else:
                said = _say_row(shown, done, said)
            worst, done = max(worst, shown.exit_code), done + 1
            if done == count:
                return worst
            pace.sleep(max(0.0, began + interval_seconds - pace.monotonic()))
    except KeyboardInterrupt:
        _say("")
        return OK


def _say_row(shown: Round, done: int, said: str) -> str:
    """Print a round's line, and what is to be said about it unless the line before was followed by the same."""
    if done % HEADER_EVERY_ROUNDS == 0:
        _say(header())
    _say(row(shown))
    text = notes(shown)
    if text and text != said:
        _say(text)
    return text


def _say(text: str, *, err: bool = False) -> None:
    # None leaves it to click: colours on a terminal only.
    click.echo(text, err=err, color=False if os.environ.get("NO_COLOR") else None)
