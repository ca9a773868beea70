# SPDX-License-Identifier: Apache-2.0
"""The program's command line: each command is a module that is imported only when it runs."""

import importlib
import sys
from typing import NamedTuple

import click

from keda_gpu_scaler.core.trigger.engines import load_engines_with


class _CommandEntry(NamedTuple):
    """The module of a command, relative to this package, and its line in ``--help``."""

    module: str
    summary: str


_COMMANDS = {
    "doctor": _CommandEntry("doctor.command", "check a node or a cluster for problems"),
    "explain": _CommandEntry("explain.command", "show why a ScaledObject has its size"),
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
"""


def _load_engines() -> None:
    import keda_gpu_scaler.engines  # noqa: F401 - registers every engine


load_engines_with(_load_engines)  # with the first trigger that is parsed: most agents never parse one


class _Commands(click.Group):
    """Imports a command's module when the command is called, so that ``serve`` does not load the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        if cmd_name == "serve":
            _import_asyncio_without_openssl()
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{entry.module}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name].summary) for name in sorted(_COMMANDS)])


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
def main() -> None:
    """Run the command that the command line names."""
