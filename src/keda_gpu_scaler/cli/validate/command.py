# SPDX-License-Identifier: Apache-2.0
"""Runs the command ``validate``: it reads files, prints the findings and sets the exit status."""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from keda_gpu_scaler.cli.completion import FILE
from keda_gpu_scaler.cli.output import json_line, printable, say
from keda_gpu_scaler.cli.validate.files import MAX_BYTES, ManifestFile, files_below, template_finding
from keda_gpu_scaler.cli.validate.findings import Severity, ValidationFinding, ValidationReport
from keda_gpu_scaler.cli.validate.rules import validate_text, workloads_in

_STDIN = "-"
_NOTHING_CHECKED = ValidationFinding(
    1, 1, Severity.ERROR, "",
    "no trigger of this scaler: check the path; if the Service of the scaler has another name, add --address HOST",
)  # fmt: skip

HELP = """Check the ScaledObjects and ScaledJobs in YAML files: the triggers of this scaler, and the fields around them.

FILE is a file, a directory (with every .yaml and .yml file in it), or - for standard input. Triggers of other scalers
are not checked. A trigger is of this scaler if its scalerAddress has the name keda-gpu-scaler, or the host of
--address. The command also reads the images and commands of the workloads in the files. An engine that allocates its
memory when it starts does not work with a target of memory.

In the directory of a Helm chart, templates are not checked: let Helm render them first, as below.

\b
helm template . | keda-gpu-scaler validate -
keda-gpu-scaler validate scaledobject.yaml
keda-gpu-scaler validate --format github deploy/

\b
Exit status:
  0  no error; with --strict also no warning, and a trigger of this scaler
  1  an error
  2  wrong usage, or a file that cannot be read
"""


@click.command(help=HELP)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=FILE)
@click.option(
    "--format", "style", type=click.Choice(["text", "github", "json"]), default="text", show_default=True,
    metavar="[text|github|json]", help="Text, annotations of GitHub, or one JSON object on each line.",
)  # fmt: skip
@click.option(
    "--strict", "is_strict", is_flag=True, help="Exit with 1 on warnings too, and if there is no trigger to check."
)
@click.option(
    "--address", "hosts", multiple=True, metavar="HOST",
    help="Another host of the scaler, if its Service has another name; may be repeated.",
)  # fmt: skip
@click.pass_context
def validate(
    ctx: click.Context, files: tuple[str, ...], style: str, is_strict: bool, hosts: tuple[str, ...]
) -> None:  # fmt: skip
    """Run the command."""
    trigger_count, exit_status = 0, 0
    texts = list(_texts(ctx, files))
    manifests = [one for one in texts if one.chart is None]
    workloads = [workload for one in manifests for workload in workloads_in(one.text)]
    for chart, count in Counter(one.chart for one in texts if one.chart is not None).items():
        say(_formatted(str(chart), template_finding(chart, count), style))
    for one in manifests:
        report = validate_text(one.text, workloads, hosts)
        trigger_count += report.trigger_count
        exit_status = max(exit_status, _exit_status(report, is_strict))
        for finding in report.findings:
            say(_formatted(one.name, finding, style))
    if is_strict and not trigger_count:
        say(_formatted(_shown(files[0]), _NOTHING_CHECKED, style))
        exit_status = 1
    if style == "text":
        noun = "trigger" if trigger_count == 1 else "triggers"
        say(f"{trigger_count} {noun} of keda-gpu-scaler checked", err=True)
    ctx.exit(exit_status)


def _shown(file: str) -> str:
    return "<stdin>" if file == _STDIN else file


def _exit_status(report: ValidationReport, is_strict: bool) -> int:
    failing = (Severity.ERROR, Severity.WARNING) if is_strict else (Severity.ERROR,)
    return int(any(finding.severity in failing for finding in report.findings))


def _texts(ctx: click.Context, files: tuple[str, ...]) -> Iterator[ManifestFile]:
    """Yield the name and the text of every file.

    Raises:
        click.UsageError: a file cannot be read.
    """
    for file in files:
        if file == _STDIN:
            yield ManifestFile(_shown(file), sys.stdin.read(MAX_BYTES))
            continue
        try:
            yield from files_below(Path(file))
        except OSError as error:
            name = error.filename or file
            raise click.UsageError(f"{name}: {(error.strerror or str(error)).lower()}", ctx) from error
        except UnicodeDecodeError as error:
            raise click.UsageError(error.reason, ctx) from error


def _formatted(name: str, finding: ValidationFinding, style: str) -> str:
    if style == "json":
        return json_line({"file": name, **asdict(finding)})
    text = printable(f"{finding.subject}: {finding.message}" if finding.subject else finding.message)
    if style == "github":
        text = text.replace("%", "%25")  # the escape of GitHub's workflow commands
        command = "notice" if finding.severity is Severity.INFO else finding.severity
        return f"::{command} file={name},line={finding.line},col={finding.column}::{text}"
    return f"{printable(name)}:{finding.line}:{finding.column}: {finding.severity}: {text}"
