# SPDX-License-Identifier: Apache-2.0
"""Says why an address cannot be listened on, with the flag and the remedy."""

import errno

from keda_gpu_scaler.server.http import listener
from keda_gpu_scaler.wire.tls import ServerTls


def listen_error(flag: str, host: str, port: int, tls: ServerTls | None = None) -> str:
    """Return why an address cannot be listened on. gRPC does not report the reason, so it is tried once more."""
    cannot = f"cannot listen on {host} port {port}"
    try:
        listener(host, port).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            reason = (error.strerror or str(error)).lower()
            return f"--host, {flag}: {cannot}: {reason}; choose an address of this machine, and a port you may use"
    else:
        if tls is not None:
            return (
                f"--tls-cert, --tls-key: {tls.certificate.path} and {tls.key.path} cannot be used: they must be PEM, "
                "and the key the certificate's own"
            )
    return f"{flag}: {cannot}: is another server there? Stop it, or choose another port"
