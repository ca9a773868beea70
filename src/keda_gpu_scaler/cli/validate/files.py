# SPDX-License-Identifier: Apache-2.0
"""Finds the YAML files in a directory, and the templates of charts among them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keda_gpu_scaler.cli.validate.findings import Severity, ValidationFinding

MAX_BYTES = 16 << 20

_SUFFIXES = (".yaml", ".yml")
_CHART, _TEMPLATES, _ACTION = "Chart.yaml", "templates", "{{"


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A file's name and text, and the chart whose template it is, None where it is no template."""

    name: str
    text: str
    chart: Path | None = None


def files_below(path: Path) -> Iterator[ManifestFile]:
    """Yield a file, or every YAML file of a directory in the order of their names.

    Raises:
        OSError: a file cannot be read.
        UnicodeDecodeError: a file is not UTF-8; its ``reason`` names the file.
    """
    is_directory = path.is_dir()
    for one in sorted(it for it in path.rglob("*") if it.suffix in _SUFFIXES) if is_directory else [path]:
        with one.open("rb") as opened:
            content = opened.read(MAX_BYTES)
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            error.reason = f"{one}: not UTF-8 text: is it a YAML file?"
            raise
        yield ManifestFile(str(one), text, _chart_of(one) if _ACTION in text else None)


def template_finding(chart: Path, count: int) -> ValidationFinding:
    """Return the information that a chart's templates are not checked, with the command that checks them."""
    files = f"{count} template{'s' if count > 1 else ''}"
    message = f"{files} of a chart not checked: helm template {chart} | keda-gpu-scaler validate -"
    return ValidationFinding(1, 1, Severity.INFO, "", message)


def _chart_of(path: Path) -> Path | None:
    """Return the folder of the chart whose template a file is."""
    return next(
        (one.parent for one in path.parents if one.name == _TEMPLATES and (one.parent / _CHART).is_file()), None
    )
