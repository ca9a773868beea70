# SPDX-License-Identifier: Apache-2.0
"""Which version is this?"""

import platform

import click

from keda_gpu_scaler import __version__


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"keda-gpu-scaler {__version__} (Python {platform.python_version()})")
