# SPDX-License-Identifier: Apache-2.0
"""Runs the command ``help``."""

import click

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.cli.completion import SuggestedName

HELP = """Show the help of a command; without a name, that of the program.

\b
keda-gpu-scaler help explain
"""


def _commands() -> list[str]:
    return main.list_commands(click.Context(main)) if isinstance(main, click.Group) else []


@click.command(help=HELP)
@click.argument("command", required=False, type=SuggestedName(_commands))
@click.pass_context
def help(ctx: click.Context, command: str | None) -> None:  # noqa: A001 - the name of the command
    """Print what ``COMMAND --help`` prints."""
    root = ctx.find_root()
    group = root.command
    if command is None or not isinstance(group, click.Group):
        click.echo(root.get_help())
        return
    name, found, _ = group.resolve_command(root, [command])
    if found is not None:
        with click.Context(found, info_name=name, parent=root) as shown:
            click.echo(found.get_help(shown))
