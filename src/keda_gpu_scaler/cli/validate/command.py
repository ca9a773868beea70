# SPDX-License-Identifier: Apache-2.0
"""Will these ScaledObjects do what their author means? Reads files, before a cluster does."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from keda_gpu_scaler.cli.validate.rules import Checked, Severity, ValidationFinding, check, workloads

MAX_BYTES = 16 << 20
_STDIN = "-"
_SUFFIXES = (".yaml", ".yml")


HELP = """Check the ScaledObjects and ScaledJobs in YAML files: our triggers, and what stands around them.

A FILE may be a directory (every .yaml and .yml below it) or - for standard input. Triggers of other scalers
are passed over. Of the workloads in the files their images and commands are read, too: an engine that takes its
memory when it starts is no good for a target of memory.

\b
keda-gpu-scaler validate scaledobject.yaml
keda-gpu-scaler validate --format github deploy/
helm template . | keda-gpu-scaler validate -

Exit status: 0 nothing wrong (warnings aside, unless --strict), 1 something wrong, 2 wrong usage, or a file
that cannot be read.
"""


@click.command(help=HELP)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--format", "style", type=click.Choice(["text", "github", "json"]), default="text", show_default=True,
    metavar="[text|github|json]", help="For people, as GitHub's annotations, or one JSON object a line.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Let warnings fail too.")
@click.pass_context
def validate(ctx: click.Context, files: tuple[str, ...], style: str, strict: bool) -> None:
    """Run the command."""
    triggers, worst = 0, 0
    texts = list(_texts(ctx, files))
    known = [workload for _, text in texts for workload in workloads(text)]
    for name, text in texts:
        checked = check(text, known)
        triggers += checked.triggers
        worst = max(worst, _status(checked, strict))
        for finding in checked.findings:
            click.echo(_shown(name, finding, style))
    if style == "text":
        click.echo(f"{triggers} triggers of keda-gpu-scaler checked", err=True)
    ctx.exit(worst)


def _status(checked: Checked, strict: bool) -> int:
    return int(any(strict or finding.severity is Severity.ERROR for finding in checked.findings))


def _texts(ctx: click.Context, files: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield every file's name and text.

    Raises:
        click.UsageError: one cannot be read.
    """
    for file in files:
        if file == _STDIN:
            yield "<stdin>", sys.stdin.read(MAX_BYTES)
            continue
        path = Path(file)
        found = sorted(one for one in path.rglob("*") if one.suffix in _SUFFIXES) if path.is_dir() else [path]
        for one in found:
            try:
                with one.open("rb") as opened:
                    yield str(one), opened.read(MAX_BYTES).decode()
            except OSError as error:
                raise click.UsageError(f"{one}: {(error.strerror or str(error)).lower()}", ctx) from error
            except UnicodeDecodeError as error:
                raise click.UsageError(f"{one}: not UTF-8 text: is it a YAML file?", ctx) from error


def _shown(name: str, finding: ValidationFinding, style: str) -> str:
    if style == "json":
        return json.dumps({"file": name, **asdict(finding)})
    text = f"{finding.subject}: {finding.message}" if finding.subject else finding.message
    if style == "github":
        # The workflow command's own escapes.
        text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        return f"::{finding.severity} file={name},line={finding.line},col={finding.column}::{text}"
    return f"{name}:{finding.line}:{finding.column}: {finding.severity}: {text}"
