# SPDX-License-Identifier: Apache-2.0
"""How is what several commands are given alike read? Metadata, an address, and what TLS takes.

The law of this module: what cannot be used is refused before anybody is asked.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.wire.tls import ClientTls, Pem, own_pair


def metadata_pairs(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """Read KEY=VALUE pairs. A value may hold "=" itself.

    Raises:
        click.BadParameter: a pair without "=", without a key, or with a key given before.
    """
    metadata: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{quoted(pair)}: must be KEY=VALUE, for example targetValue=80", ctx, param)
        if key in metadata:
            raise click.BadParameter(f"{quoted(pair)}: {key} is given twice; keep one of the two", ctx, param)
        metadata[key] = value
    return metadata


def host_and_port(ctx: click.Context, param: click.Parameter, address: str | None) -> str | None:
    """Insist on a port: gRPC would otherwise quietly take 443.

    Raises:
        click.BadParameter: there is none.
    """
    if address is None:
        return None
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise click.BadParameter(f"{quoted(address)}: must be HOST:PORT, for example 127.0.0.1:6000", ctx, param)
    return address


def client_tls(ctx: click.Context, given: Mapping[str, Any]) -> ClientTls | None:
    """Read how the scaler is to be known, and what it is shown.

    Raises:
        click.UsageError: a flag that means nothing without another.
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
