# SPDX-License-Identifier: Apache-2.0
"""Declares and reads the arguments that several commands share: metadata, addresses, TLS and timing.

Law: an argument that cannot be used is refused before any server is called.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from keda_gpu_scaler.cli.completion import FILE
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.wire.tls import ClientTls, Pem, own_pair

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

# ---- reading ----


def metadata_pairs(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """Read KEY=VALUE pairs. A value may hold "=".

    Raises:
        click.BadParameter: a pair has no "=" or no key, or its key is given twice.
    """
    metadata: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{quoted(pair)}: must be KEY=VALUE, for example targetValue=80", ctx, param)
        if key in metadata:
            raise click.BadParameter(f"{quoted(pair)}: {key} is given twice; remove one of the two", ctx, param)
        metadata[key] = value
    return metadata


def host_and_port(ctx: click.Context, param: click.Parameter, address: str | None) -> str | None:
    """Return an address that has a port. Without a port, gRPC would use 443 and not say so.

    Raises:
        click.BadParameter: the address has no host or no port.
    """
    if address is None:
        return None
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise click.BadParameter(f"{quoted(address)}: must be HOST:PORT, for example 127.0.0.1:6000", ctx, param)
    return address


def client_tls(ctx: click.Context, given: Mapping[str, Any]) -> ClientTls | None:
    """Read the values of ``tls_options``; None without ``--tls-ca``.

    Raises:
        click.UsageError: a flag is given without the flag that it needs.
    """
    ca, certificate, key, name = (given[flag] for flag in ("tls_ca", "tls_cert", "tls_key", "tls_server_name"))
    if (certificate is None) != (key is None):
        raise click.UsageError("--tls-cert, --tls-key: belong together; give both or neither", ctx)
    if ca is None:
        if certificate is not None or name is not None:
            raise click.UsageError("--tls-ca: Required value: without it there is no TLS", ctx)
        return None
    own, own_key = own_pair(certificate, key) or (None, None)
    return ClientTls(Pem("--tls-ca", Path(ca)), own, own_key, name)


# ---- declaring ----


def tls_options(default_name: str = "the host of --address") -> Decorator:
    """Return the decorator that gives a command the four TLS flags of a client.

    Args:
        default_name: the host that a server's certificate must name where ``--tls-server-name`` is not given.
    """
    return _all_of(
        click.option(
            "--tls-ca",
            metavar="PATH",
            type=FILE,
            help="The CA certificate (PEM) that signed the server's certificate. This flag turns TLS on. It is caCert "
            "in a TriggerAuthentication.",
        ),
        click.option(
            "--tls-cert",
            metavar="PATH",
            type=FILE,
            help="The certificate (PEM) of this client, if the server requires one: tlsClientCert in a "
            "TriggerAuthentication.",
        ),
        click.option(
            "--tls-key", metavar="PATH", type=FILE, help="The private key (PEM) of --tls-cert: tlsClientKey in a "
            "TriggerAuthentication.",
        ),
        click.option(
            "--tls-server-name",
            metavar="NAME",
            help=f"The name that the server's certificate must contain.  [default: {default_name}]",
        ),
    )  # fmt: skip


def timeout_option(limits: str = "Time limit of each call.", *, default_seconds: float = 5.0) -> Decorator:
    """Return the decorator that gives a command ``--timeout``, in seconds."""
    return click.option(
        "--timeout", type=click.FloatRange(min=0, min_open=True), default=default_seconds, show_default=True,
        metavar="SECONDS", help=limits,
    )  # fmt: skip


def interval_option(
    meaning: str, *, default_seconds: float = 2.0, least: float | None = None, most: float | None = None
) -> Decorator:
    """Return the decorator that gives a command ``--interval``, in seconds; above 0 where ``least`` is None."""
    bounds = click.FloatRange(min=0 if least is None else least, max=most, min_open=least is None)
    return click.option(
        "--interval", type=bounds, default=default_seconds, show_default=True, metavar="SECONDS", help=meaning
    )


def watch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the three flags by which it repeats its work: ``--watch``, ``--interval``, ``--count``."""
    return _all_of(
        click.option("--watch", is_flag=True, help="Repeat until Ctrl-C."),
        interval_option("Time from the start of one round to the start of the next, with --watch or --count."),
        click.option("--count", type=click.IntRange(min=1), metavar="N", help="Repeat N times, then stop."),
    )(command)


def kubeconfig_option(meaning: str, name: str = "kubeconfig") -> Decorator:
    """Return the decorator that gives a command ``--kubeconfig``, as its parameter of this name."""
    return click.option("--kubeconfig", name, metavar="PATH", type=FILE, help=meaning)


def context_option() -> Decorator:
    """Return the decorator that gives a command ``--context``, the context of the kubeconfig."""
    return click.option(
        "--context", "kube_context", metavar="NAME",
        help="The context of the kubeconfig.  [default: its current one]",
    )  # fmt: skip


def token_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--token-file``, for the port of an instance that is for people."""
    return click.option(
        "--token-file", metavar="PATH", type=FILE,
        help="A file with the Kubernetes token for the explain port.  [default: the token of the kubeconfig]",
    )(command)  # fmt: skip


def metadata_option(meaning: str) -> Decorator:
    """Return the decorator that gives a command ``--metadata``, which can be repeated."""
    return click.option(
        "-m", "--metadata", multiple=True, metavar="KEY=VALUE", callback=metadata_pairs, help=meaning
    )  # fmt: skip


def value_type_option(meaning: str, default: ValueType | None = None) -> Decorator:
    """Return the decorator that gives a command ``--value-type``: KEDA's ``metricType`` of a trigger."""
    return click.option(
        "--value-type", type=click.Choice([kind.value for kind in ValueType], case_sensitive=False),
        default=default.value if default else None, show_default=default is not None,
        metavar="[AverageValue|Value]", help=meaning,
    )  # fmt: skip


def _all_of(*options: Decorator) -> Decorator:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
