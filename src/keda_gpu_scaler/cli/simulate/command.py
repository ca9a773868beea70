# SPDX-License-Identifier: Apache-2.0
"""Runs the command ``simulate``: its flags, and its exit status."""

import sys
from pathlib import Path
from typing import Any

import click

from keda_gpu_scaler.cli.completion import FILE, SuggestedName
from keda_gpu_scaler.cli.output import say, say_error
from keda_gpu_scaler.cli.simulate.fit_command import fit
from keda_gpu_scaler.cli.simulate.prepare import UNFINISHED, prepare
from keda_gpu_scaler.cli.simulate.render import Report, csv_text, json_text, table
from keda_gpu_scaler.cli.simulate.scaledobjects import QueueFlags, read_settings, read_specs
from keda_gpu_scaler.cli.simulate.workers import simulate_rows
from keda_gpu_scaler.core.trigger.parser import TriggerError
from keda_gpu_scaler.simulate.bounds import GOAL_PERCENT
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.gateway import Router
from keda_gpu_scaler.simulate.outcome import best_of
from keda_gpu_scaler.simulate.presets import DEFAULT_PRESET, PRESETS
from keda_gpu_scaler.simulate.traffic.lengths import DEFAULT_ANSWER_TOKENS, DEFAULT_PROMPT_TOKENS, DEFAULT_SPREAD
from keda_gpu_scaler.simulate.traffic.shapes import SHAPES

MOST_REQUESTS_WITH_BOUNDS = 400_000
"""With more, the two bounds take minutes, and are computed only with ``--bounds``."""

HELP = """Simulate what a ScaledObject would have done: the requests served in time, and the GPU-hours.

\b
keda-gpu-scaler simulate -f so.yaml --traffic requests.csv
    on a log of requests: arrival, prompt tokens, answer tokens
keda-gpu-scaler simulate -f so.yaml --traffic bursts --rate 20
    on a synthetic shape, with 20 requests per second on average
keda-gpu-scaler simulate -f so.yaml --traffic requests.csv \\
        --sweep --set trigger.headroom=1,1.15,1.3
    one row for each value
keda-gpu-scaler simulate -f job.yaml --traffic items.csv --service-time 90
    Jobs that take items from a queue
keda-gpu-scaler simulate -f a.yaml -f b.yaml --traffic requests.csv \\
        --out report.html
    two ScaledObjects side by side, with their timelines on one page

The triggers are evaluated as serve evaluates them, KEDA and the HPA decide as they do in a cluster, and the engines
are a model: --engine-model. Nothing is called and no cluster is needed.

Exit status: 0 simulated, 1 not possible (one sentence says why), 2 wrong usage.
"""


@click.group(help=HELP, invoke_without_command=True)
@click.option(
    "-f", "--file", "files", multiple=True, metavar="FILE", type=FILE,
    help="A YAML file with ScaledObjects or ScaledJobs; can be repeated. Each is a row.",
)  # fmt: skip
@click.option(
    "--traffic", metavar="FILE|SHAPE", type=SuggestedName(lambda: SHAPES, or_file=True),
    help="A log of requests (CSV or JSON lines, also Azure's and Mooncake's traces), requests a minute (CSV), a "
    f"recording of `record --engines`, or a shape: {', '.join(SHAPES)}.",
)  # fmt: skip
@click.option(
    "--prometheus", metavar="URL",
    help="Take the traffic from a Prometheus server: the increase of --query in the range.",
)  # fmt: skip
@click.option(
    "--query", default="sum(vllm:request_success_total)", show_default=True, metavar="PROMQL",
    help="A counter of requests of the engines or of a gateway, with --prometheus.",
)  # fmt: skip
@click.option("--from", "start", metavar="TIME", help="Begin of the range (ISO 8601, UTC where it has no zone).")
@click.option("--to", "end", metavar="TIME", help="End of the range.")
@click.option(
    "--rate", type=float, default=10.0, show_default=True, metavar="NUMBER",
    help="Mean requests per second of a shape.",
)  # fmt: skip
@click.option("--minutes", type=click.FloatRange(min=1), metavar="NUMBER", help="Length of a shape.")
@click.option(
    "--scale", type=float, default=1.0, show_default=True, metavar="FACTOR", help="Simulate so many times the requests."
)
@click.option(
    "--prompt-tokens", type=float, default=DEFAULT_PROMPT_TOKENS, show_default=True, metavar="NUMBER",
    help="Mean tokens of a prompt, where the traffic does not say it.",
)  # fmt: skip
@click.option(
    "--answer-tokens", type=float, default=DEFAULT_ANSWER_TOKENS, show_default=True, metavar="NUMBER",
    help="Mean tokens of an answer, where the traffic does not say it.",
)  # fmt: skip
@click.option(
    "--length-spread", type=float, default=DEFAULT_SPREAD, show_default=True, metavar="NUMBER",
    help="How far these tokens are spread: the standard deviation of their logarithm.",
)  # fmt: skip
@click.option(
    "--engine-model", type=SuggestedName(lambda: PRESETS, or_file=True), metavar="NAME|FILE",
    help=f"The replica: {', '.join(PRESETS)}, or a JSON file that `simulate fit` wrote.  [default: {DEFAULT_PRESET}]",
)  # fmt: skip
@click.option(
    "--service-time", type=float, metavar="SECONDS",
    help="Replicas that serve whole requests, as Triton does, or items of a queue: the time of one batch.",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
    help="Requests of one batch, with --service-time.",
)  # fmt: skip
@click.option(
    "--instances", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
    help="Batches that a replica computes at the same time, with --service-time.",
)  # fmt: skip
@click.option(
    "--queue", is_flag=True,
    help="Requests are items of one queue, from which pods take them when they have room; always with a ScaledJob.",
)  # fmt: skip
@click.option(
    "--queue-length", type=click.Choice(["waiting", UNFINISHED]),
    help="Whether a trigger on the queue counts an item until it is taken, or until it is done.  "
    "[default: as the trigger's scaler does; waiting for demandMetric]",
)  # fmt: skip
@click.option(
    "--items-per-pod", type=click.IntRange(min=0), default=1, show_default=True, metavar="N",
    help="Items that a pod of a Job takes before it ends; 0: until it finds the queue empty.",
)  # fmt: skip
@click.option(
    "--slo-item", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True, metavar="SECONDS",
    help="The time until an item of the queue is done that is accepted.",
)  # fmt: skip
@click.option("--max-seqs", type=click.IntRange(min=1), metavar="N", help="Requests that a replica runs at once.")
@click.option("--gpus", type=click.IntRange(min=1), metavar="N", help="GPUs of a replica.  [default: the model's]")
@click.option(
    "--gpu-hour-price", type=click.FloatRange(min=0), metavar="PRICE", help="Price of a GPU-hour, for the costs."
)
@click.option(
    "--slo-ttft", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True, metavar="SECONDS",
    help="The time to the first token that users accept.",
)  # fmt: skip
@click.option(
    "--slo-token-ms", type=click.FloatRange(min=0, min_open=True), default=100.0, show_default=True, metavar="NUMBER",
    help="The mean time per token, in milliseconds, that users accept.",
)  # fmt: skip
@click.option(
    "--goal", type=click.FloatRange(min=0, max=100, min_open=True), default=GOAL_PERCENT, show_default=True,
    metavar="PERCENT", help="The share of requests that must be served in time; the best row is chosen by it.",
)  # fmt: skip
@click.option(
    "--cold-start", default="60-120", show_default=True, metavar="SECONDS",
    help="The time from a pod's creation until it is ready: one number, or a range.",
)  # fmt: skip
@click.option(
    "--node-start", type=click.FloatRange(min=0), metavar="SECONDS",
    help="The time that a new node takes on top, for pods beyond the replicas of the start.  [default: nodes exist]",
)  # fmt: skip
@click.option("--initial", type=click.IntRange(min=0), metavar="N", help="Ready replicas at the start.  "
              "[default: enough for the first two minutes]")  # fmt: skip
@click.option(
    "--router", type=click.Choice([router.value for router in Router]), default=Router.LEAST_REQUESTS.value,
    show_default=True, help="How the gateway chooses a replica.",
)  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, metavar="N", help="Another seed gives other times.")
@click.option(
    "--set", "settings", multiple=True, metavar="PATH=VALUE",
    help="Change a field: trigger.KEY (of the metadata) or spec.FIELD. With --sweep it may have several values.",
)  # fmt: skip
@click.option("--sweep", is_flag=True, help="Simulate each combination of the values of --set.")
@click.option(
    "--bounds/--no-bounds", default=None,
    help="Rows of a static peak and of a clairvoyant schedule beside.  "
    f"[default: up to {MOST_REQUESTS_WITH_BOUNDS} requests]",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes.  [default: one for each core]")
@click.option("--out", metavar="FILE", type=FILE, help="Write one self-contained HTML page with the timelines.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@click.pass_context
def simulate(ctx: click.Context, /, **given: Any) -> None:
    """Simulate ScaledObjects on a traffic."""
    if ctx.invoked_subcommand is not None:
        return
    if not given["files"] or not (given["traffic"] or given["prometheus"]):
        raise click.UsageError("-f FILE and --traffic FILE|SHAPE (or --prometheus URL) are required", ctx)
    if given["prometheus"] and not (given["start"] and given["end"]):
        raise click.UsageError("--prometheus needs the range: --from TIME --to TIME", ctx)
    try:
        report = _simulated(given)
        if given["out"]:
            _write_page(report, Path(given["out"]))
    except (SimulationError, TriggerError) as error:
        say_error(str(error))
        sys.exit(1)
    say({"table": table, "json": json_text, "csv": csv_text}[given["form"]](report))


simulate.add_command(fit)


def _simulated(given: dict[str, Any]) -> Report:
    settings = read_settings(given["settings"], is_sweep=given["sweep"])
    counts_unfinished = None if given["queue_length"] is None else given["queue_length"] == UNFINISHED
    specs, remarks = read_specs(given["files"], settings, QueueFlags(given["queue"], counts_unfinished))
    prepared = prepare(given, specs)
    setup = prepared.setup
    with_bounds = given["bounds"]
    if with_bounds is None:
        with_bounds = len(setup.traffic) <= MOST_REQUESTS_WITH_BOUNDS
        if not with_bounds:
            remarks.append("no static peak and no clairvoyant row, because they take minutes here: --bounds")
    outcomes = simulate_rows(setup, specs, jobs=given["jobs"] or 0, with_bounds=with_bounds)
    return Report(
        title=prepared.title,
        outcomes=tuple(outcomes),
        best=best_of(outcomes, setup.goal),
        goal=setup.goal,
        objective=setup.circumstances.objective,
        assumptions=prepared.assumptions,
        remarks=(*prepared.remarks, *remarks),
        price=given["gpu_hour_price"],
    )


def _write_page(report: Report, path: Path) -> None:
    from keda_gpu_scaler.cli.simulate.html_report import html_page

    try:
        path.write_text(html_page(report), encoding="utf-8")
    except OSError as error:
        raise SimulationError(f"--out: cannot write {path}: {error}") from error
