# SPDX-License-Identifier: Apache-2.0
"""Runs the command ``validate``: it reads files, prints the findings and sets the exit status."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from keda_gpu_scaler.cli.output import json_line, printable, say
from keda_gpu_scaler.cli.validate.findings import Severity, ValidationFinding, ValidationReport
from keda_gpu_scaler.cli.validate.rules import validate_text, workloads_in

MAX_BYTES = 16 << 20
_STDIN = "-"
_SUFFIXES = (".yaml", ".yml")

HELP = """Check the ScaledObjects and ScaledJobs in YAML files: the triggers of this scaler, and the fields around them.

FILE is a file, a directory (with every .yaml and .yml file in it), or - for standard input. Triggers of other scalers
are not checked. The command also reads the images and commands of the workloads in the files. An engine that allocates
its memory when it starts does not work with a target of memory.

\b
keda-gpu-scaler validate scaledobject.yaml
keda-gpu-scaler validate --format github deploy/
helm template . | keda-gpu-scaler validate -

\b
Exit status:
  0  no error; with --strict also no warning
  1  an error
  2  wrong usage, or a file that cannot be read
"""


@click.command(help=HELP)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--format", "style", type=click.Choice(["text", "github", "json"]), default="text", show_default=True,
    metavar="[text|github|json]", help="Text, annotations of GitHub, or one JSON object on each line.",
)  # fmt: skip
@click.option("--strict", "is_strict", is_flag=True, help="Exit with 1 on warnings too.")
@click.pass_context
def validate(ctx: click.Context, files: tuple[str, ...], style: str, is_strict: bool) -> None:
    """Run the command."""
    trigger_count, exit_status = 0, 0
    texts = list(_texts(ctx, files))
    workloads = [workload for _, text in texts for workload in workloads_in(text)]
    for name, text in texts:
        report = validate_text(text, workloads)
        trigger_count += report.trigger_count
        exit_status = max(exit_status, _exit_status(report, is_strict))
        for finding in report.findings:
            say(_formatted(name, finding, style))
    if style == "text":
        say(f"{trigger_count} triggers of keda-gpu-scaler checked", err=True)
    ctx.exit(exit_status)


def _exit_status(report: ValidationReport, is_strict: bool) -> int:
    failing = (Severity.ERROR, Severity.WARNING) if is_strict else (Severity.ERROR,)
    return int(any(finding.severity in failing for finding in report.findings))


def _texts(ctx: click.Context, files: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every file.

    Raises:
        click.UsageError: a file cannot be read.
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


def _formatted(name: str, finding: ValidationFinding, style: str) -> str:
    if style == "json":
        return json_line({"file": name, **asdict(finding)})
    text = printable(f"{finding.subject}: {finding.message}" if finding.subject else finding.message)
    if style == "github":
        text = text.replace("%", "%25")  # the escape of GitHub's workflow commands
        command = "notice" if finding.severity is Severity.INFO else finding.severity
        return f"::{command} file={name},line={finding.line},col={finding.column}::{text}"
    return f"{printable(name)}:{finding.line}:{finding.column}: {finding.severity}: {text}"
