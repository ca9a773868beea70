# SPDX-License-Identifier: Apache-2.0
"""The program's command line: each command is a module that is imported only when it runs."""

import copy
import errno
import importlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from keda_gpu_scaler.core.trigger.engines import load_engines_with

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class _CommandEntry(NamedTuple):
    """The module of a command, relative to this package, and its line in ``--help``."""

    module: str
    summary: str


PROGRAM = "keda-gpu-scaler"
PLUGIN = "kubectl gpu-scaler"
"""How people type the program where it is a plugin of kubectl, which finds ``kubectl-gpu_scaler`` on the PATH."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What the system says of an output that takes no more. A closed pipe is click's own case."""
_COMMANDS = {
    "demo": _CommandEntry("demo.command", "show on this machine how a workload follows its load; needs no cluster"),
    "doctor": _CommandEntry("doctor.command", "check a node or a cluster for problems"),
    "explain": _CommandEntry("explain.command", "show why a ScaledObject has its size"),
    "help": _CommandEntry("help", "show the help of a command"),
    "probe": _CommandEntry("probe.command", "call an external scaler as KEDA does, and show what the HPA would decide"),
    "record": _CommandEntry("record.command", "record devices or engines to a file for --backend replay:PATH"),
    "serve": _CommandEntry("serve", "read the devices and answer KEDA; the command of the DaemonSet"),
    "simulate": _CommandEntry("simulate.command", "simulate ScaledObjects on a traffic: requests in time, GPU-hours"),
    "top": _CommandEntry("top.command", "show the workloads and every device of the fleet, live or once"),
    "validate": _CommandEntry("validate.command", "check the ScaledObjects in YAML files"),
    "version": _CommandEntry("version", "print the version"),
}

HELP = """KEDA external scaler for GPU workloads: it reads the devices and the engines itself.

\b
keda-gpu-scaler serve
    read the GPUs of this machine, and answer KEDA on port 6000
keda-gpu-scaler probe --metadata profile=triton-inference --replicas 3
    show the answers to KEDA, and what the HPA would decide
keda-gpu-scaler explain ai/llama
    show why this ScaledObject has its size
keda-gpu-scaler demo
    show on this machine, without a cluster, how a workload follows its load
"""

# What a pod runs keeps its name: kubectl exec POD -- keda-gpu-scaler doctor.
_TYPED_COMMAND = re.compile(rf"(?<!-- ){PROGRAM} (?={'|'.join(_COMMANDS)})")


def _load_engines() -> None:
    import keda_gpu_scaler.engines  # noqa: F401 - registers every engine


load_engines_with(_load_engines)  # with the first trigger that is parsed: most agents never parse one


class _Commands(click.Group):
    """Imports a command's module when the command is called, so that ``serve`` does not load the others."""

    def main(self, *args: Any, **given: Any) -> Any:
        """Run the command. A full disk behind the output is a sentence and the exit status 1."""
        try:
            return super().main(*args, **given)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - Python writes what is left of the old one at its end
            click.echo(f"{PROGRAM}: cannot write the output: {os.strerror(error.errno).lower()}", err=True)
            sys.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        # gRPC's core library prints lines of its own where a connection is refused, and reads this at its import. The
        # commands say the same in sentences.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        if cmd_name == "serve":
            _import_asyncio_without_openssl()
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{entry.module}"), cmd_name)
        if _is_plugin(ctx):
            command = copy.copy(command)
            command.help = _as_plugin(command.help or "")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem"]:
        """Complete the name of a command. No command is imported for it."""
        from click.shell_completion import CompletionItem  # with a completion only

        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        commands = [CompletionItem(name, help=_COMMANDS[name].summary) for name in names]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            # The commands are not imported, so click does not know them.
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=_COMMANDS, ctx=ctx) from None

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        help_of_this_call = copy.copy(self)
        help_of_this_call.help = _as_plugin(self.help or "") if _is_plugin(ctx) else self.help
        click.Group.format_help_text(help_of_this_call, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name].summary) for name in sorted(_COMMANDS)])


def _is_plugin(ctx: click.Context | None) -> bool:
    return ctx is not None and ctx.find_root().info_name == PLUGIN


def _as_plugin(text: str) -> str:
    """Return a help text whose examples can be typed where the program is a plugin of kubectl."""
    return _TYPED_COMMAND.sub(f"{PLUGIN} ", text)


def _print_version(ctx: click.Context, param: click.Parameter, is_given: bool) -> None:
    if is_given and not ctx.resilient_parsing:
        from keda_gpu_scaler.cli.version import version_line

        click.echo(version_line())
        ctx.exit()


def _import_asyncio_without_openssl() -> None:
    """Save four MiB on every node: asyncio works without OpenSSL, and gRPC has its own TLS.

    Only asyncio's import is affected; a later import of ``ssl`` works (docs/decisions/0001-dependencies.md).
    """
    if "asyncio" not in sys.modules and "ssl" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]
        importlib.import_module("asyncio")
        del sys.modules["ssl"]


# Each command's help is an argument and not a docstring, because python -OO removes docstrings.
@click.command(
    cls=_Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Print the version and exit.",
)  # fmt: skip
def main() -> None:
    """Run the command that the command line names."""


def kubectl_plugin() -> None:
    """Run the command that the command line names after ``kubectl gpu-scaler``."""
    main(prog_name=PLUGIN)
