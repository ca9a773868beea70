# SPDX-License-Identifier: Apache-2.0
"""Runs ``simulate fit``: fits the model of a replica to a recording of engines."""

import sys
from pathlib import Path

import click

from keda_gpu_scaler.cli.completion import FILE
from keda_gpu_scaler.cli.output import printable, say, say_error
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.fit import Fit, fit_engine_model
from keda_gpu_scaler.simulate.presets import model_json
from keda_gpu_scaler.simulate.traffic.engine_history import read_engine_history

HELP = """Fit the model of a replica to recordings of `record --engines`.

\b
keda-gpu-scaler simulate fit llama.jsonl.gz --out llama-model.json
keda-gpu-scaler simulate -f so.yaml --traffic llama.jsonl.gz \\
        --engine-model llama-model.json
keda-gpu-scaler simulate fit 16.jsonl.gz 64.jsonl.gz 256.jsonl.gz
    several loads of one load test

The recordings must show changing load of one model on one kind of GPU. The command prints how well the model explains
it, or says why it cannot be fitted.

Exit status: 0 fitted, 1 not possible (one sentence says why), 2 wrong usage.
"""


@click.command(help=HELP)
@click.argument("recordings", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RECORDING...")
@click.option(
    "--out", metavar="FILE", type=FILE, help="The JSON file to write, for --engine-model.  [default: standard output]"
)
@click.option("--kv-tokens", type=click.IntRange(min=1), metavar="N", help="The size of the KV cache in tokens, which "
              "vLLM prints when it starts.  [default: found by its usage]")  # fmt: skip
@click.option("--max-seqs", type=click.IntRange(min=1), metavar="N", help="Requests that an engine runs at once.")
@click.option(
    "--gpus", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="GPUs of a replica."
)
def fit(recordings: tuple[Path, ...], out: str | None, kv_tokens: int | None, max_seqs: int | None, gpus: int) -> None:
    """Fit the model of a replica."""
    try:
        histories = [read_engine_history(recording) for recording in recordings]
        name = recordings[0].name.split(".")[0]
        found = fit_engine_model(name, histories, kv_tokens=kv_tokens, max_seqs=max_seqs, gpus=gpus)
        if out:
            Path(out).write_text(model_json(found.model), encoding="utf-8")
    except (SimulationError, OSError) as error:
        say_error(str(error))
        sys.exit(1)
    say(_text(found), err=out is None)
    if out is None:
        say(model_json(found.model), nl=False)


def _text(found: Fit) -> str:
    lines = [
        f"{found.model.name}: {found.model.describe()}",
        f"{found.spans} spans, {100 * found.explained:.0f} % of the variance of the time of an iteration explained",
        *(
            f"{check.name}: measured {1000 * check.measured:.3g} ms, predicted {1000 * check.predicted:.3g} ms"
            for check in found.checks
        ),
        *found.sentences,
    ]
    return "\n".join(printable(line) for line in lines)
