# SPDX-License-Identifier: Apache-2.0
"""The TLS files of this instance and the roles of its clients, by the settings of ``serve``."""

from pathlib import Path

from keda_gpu_scaler.config import Config, listed_names
from keda_gpu_scaler.server.certificate_roles import CertificateRoles, certificate_roles
from keda_gpu_scaler.wire.tls import Pem, ServerTls, own_pair


def server_tls(config: Config) -> ServerTls | None:
    """Return the certificate of the gRPC port and the CA of its clients; None without TLS."""
    pair = own_pair(config.tls_cert, config.tls_key)
    if pair is None:
        return None
    return ServerTls(*pair, Pem("--tls-client-ca", Path(config.tls_client_ca)) if config.tls_client_ca else None)


def certificate_files(config: Config) -> list[Pem]:
    """Return the files of certificates, whose dates are watched."""
    files = (("--tls-cert", config.tls_cert), ("--tls-client-ca", config.tls_client_ca), ("--tls-ca", config.tls_ca))
    return [Pem(flag, Path(path)) for flag, path in files if path is not None]


def tls_description(config: Config) -> str:
    """Return the part of the first log line that says who may connect."""
    if config.tls_cert is None:
        return ""
    return " with TLS for clients with a certificate" if config.tls_client_ca else " with TLS"


def client_roles(config: Config) -> CertificateRoles:
    """Return which clients of the gRPC port may call which methods."""
    return certificate_roles(
        has_client_ca=config.tls_client_ca is not None,
        keda=listed_names(config.tls_keda_names),
        watch=listed_names(config.tls_watch_names),
        explain=listed_names(config.tls_explain_names),
        peer_name=config.tls_peer_name,
        has_explain_port=bool(config.explain_port),
    )
