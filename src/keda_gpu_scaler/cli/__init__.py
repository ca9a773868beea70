# SPDX-License-Identifier: Apache-2.0
"""What can be done from a shell? One command a module, imported only when it is called."""

import importlib
import sys

import click

_COMMANDS = {
    "doctor": "check a node or a cluster for what would keep it from working",
    "explain": "show why a ScaledObject has its size: pods, readings, verdict, and what the HPA makes of it",
    "probe": "ask an external scaler as KEDA does, and show what the HPA would decide",
    "record": "write what the devices do to a file that replay:PATH can play",
    "serve": "answer KEDA (the DaemonSet's command)",
    "top": "show every device of the fleet, and who holds it: live, or one picture",
    "validate": "check the ScaledObjects in YAML files, before a cluster does",
    "version": "print the version",
}


_MODULES = {name: f"{__name__}.{name}" for name in ("record", "serve", "version")}


class _Commands(click.Group):
    """Finds a command in the module of its name: serving must not pay for the screens of the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        if cmd_name == "serve":
            _import_asyncio_without_openssl()
        module = importlib.import_module(_MODULES.get(cmd_name, f"{__name__}.{cmd_name}.command"))
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


def _import_asyncio_without_openssl() -> None:
    """Spare every node four MiB: asyncio does without OpenSSL where Python has none, and gRPC brings its own TLS.

    Only asyncio is told so; whoever imports ``ssl`` later gets it (docs/decisions/0001-dependencies.md).
    """
    if "asyncio" not in sys.modules and "ssl" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]
        importlib.import_module("asyncio")
        del sys.modules["ssl"]


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Scale GPU workloads on what their GPUs do: a KEDA external scaler.

    \b
    keda-gpu-scaler serve                      read this machine's GPUs, answer KEDA on port 6000
    keda-gpu-scaler probe --metadata profile=triton-inference --replicas 3
                                               what would KEDA be told, and the HPA decide?
    keda-gpu-scaler explain ai/llama           why does this ScaledObject have the size it has?
    """
