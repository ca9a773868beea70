# SPDX-License-Identifier: Apache-2.0
"""Declares the flags of ``Config``'s settings, each with its environment variable."""

import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from typing import Any

import click

from keda_gpu_scaler.cli.completion import FILE, FOLDER, SuggestedName
from keda_gpu_scaler.config import HELP, Config

PREFIX = "KEDA_GPU_SCALER_"
BACKEND_FLAGS = ("backend", "nvml_library", "sysfs_root", "replay_speed", "node_name")

_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)
_DEFAULTS = {setting.name: setting.default for setting in fields(Config)}


class _Port(click.ParamType[int]):
    """A TCP port, 0 to 65535."""

    name = "port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return int(click.IntRange(0, 65535).convert(value, param, ctx))


class _Flag(click.Option):
    def value_from_envvar(self, ctx: click.Context) -> Any:
        """Ignore a variable that Kubernetes sets.

        With a Service named keda-gpu-scaler in its namespace, every container has KEDA_GPU_SCALER_PORT=tcp://…
        (a "service link"), which is not a setting.
        """
        value = super().value_from_envvar(ctx)
        return None if isinstance(value, str) and _SERVICE_LINK.match(value) else value


def _backend_names() -> Sequence[str]:
    from keda_gpu_scaler.devices.registry import AUTO, vendors  # with a completion only: every vendor's module

    return AUTO, *(f"{vendor.name}:" if vendor.argument else vendor.name for vendor in vendors())


_PLACEHOLDERS = {
    "host": "ADDRESS",
    "backend": "NAME",
    "nvml_library": "PATH",
    "sysfs_root": "PATH",
    "node_name": "NAME",
    "replay_speed": "FACTOR",
    "sample_interval": "SECONDS",
    "stale_after": "SECONDS",
    "pod_resources": "PATH",
    "peers": "SOURCE",
    "kubeconfig": "PATH",
    "deletion_cost": "MODE",
    "scrape_interval": "SECONDS",
    "scrape_timeout": "SECONDS",
    "demand_interval": "SECONDS",
    "allow_endpoints": "LIST",
    "endpoint_credentials": "DIRECTORY",
    "tls_cert": "PATH",
    "tls_key": "PATH",
    "tls_client_ca": "PATH",
    "tls_ca": "PATH",
    "tls_peer_name": "NAME",
    "tls_keda_names": "LIST",
    "tls_watch_names": "LIST",
    "tls_explain_names": "LIST",
    "log_level": "LEVEL",
    "log_format": "FORMAT",
}
_TYPES: dict[str, click.ParamType[Any]] = {
    **dict.fromkeys((name for name, placeholder in _PLACEHOLDERS.items() if placeholder == "PATH"), FILE),
    "backend": SuggestedName(_backend_names),
    "endpoint_credentials": FOLDER,
    "port": _Port(),
    "metrics_port": _Port(),
    "probe_port": _Port(),
    "explain_port": _Port(),
    "replay_speed": click.FLOAT,
    "sample_interval": click.FLOAT,
    "stale_after": click.FLOAT,
    "scrape_interval": click.FLOAT,
    "scrape_timeout": click.FLOAT,
    "demand_interval": click.FLOAT,
    "log_level": click.Choice(["debug", "info", "warning", "warn", "error"], case_sensitive=False),
    "log_format": click.Choice(["auto", "text", "json"]),
}


def flag(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the decorator that gives a command the flag of the setting ``name``."""
    default = _DEFAULTS[name]
    is_switch = isinstance(default, bool)
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        cls=_Flag,
        type=click.BOOL if is_switch else _TYPES.get(name, click.STRING),
        is_flag=is_switch,
        metavar=None if is_switch else _PLACEHOLDERS.get(name, "PORT"),
        default=None if default is MISSING else default,
        show_default=default not in (MISSING, None) and not is_switch,
        envvar=PREFIX + name.upper(),
        show_envvar=True,
        help=HELP[name],
    )


def flags(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the decorator that gives a command the flags of these settings, in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = flag(name)(command)
        return command

    return decorate


def config_of(settings: dict[str, Any]) -> Config:
    """Build the configuration from the flags; a setting that is None keeps its default.

    Raises:
        ConfigError: the settings contradict each other.
    """
    return Config(**{name: value for name, value in settings.items() if value is not None})
