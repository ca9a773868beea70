# SPDX-License-Identifier: Apache-2.0
"""Runs the command ``version``."""

import platform

import click

from keda_gpu_scaler import __version__


def version_line() -> str:
    """Return the version of the program and of Python."""
    return f"keda-gpu-scaler {__version__} (Python {platform.python_version()})"


@click.command(help="Print the version.")
def version() -> None:
    """Print the version of the program and of Python."""
    click.echo(version_line())
