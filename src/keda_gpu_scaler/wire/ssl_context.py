# SPDX-License-Identifier: Apache-2.0
"""TLS contexts of Python's ``ssl`` for clients that verify a server.

Law: a server that KEDA and kubectl trust is trusted here, with every version of Python.

Since version 3.13 Python sets ``VERIFY_X509_STRICT`` by default. It refuses a CA without a key usage, and a certificate
without an authority key identifier: those of EKS's and MicroK8s' API servers, for example (kubernetes-client/python
issue 2394, canonical/microk8s pull request 5537). Go's crypto/x509, with which KEDA and kubectl verify, takes both.
It also takes an intermediate CA as the one to trust, which Python before 3.13 does not.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl


def client_context(*, ca_file: Path | None = None, ca_data: str | bytes | None = None) -> "ssl.SSLContext":
    """Return a context that verifies the chain and the name of a server. Without a CA, those of the system count.

    Args:
        ca_file: a file of CAs in PEM form.
        ca_data: the CAs, as PEM text or DER bytes.

    Raises:
        OSError: the CAs cannot be read; ``ssl.SSLError`` is one.
        ValueError: the CAs are no text that can be read.
    """
    import ssl  # imported late: OpenSSL takes 4 MiB of memory, which instances without https save

    context = ssl.create_default_context(cafile=ca_file, cadata=ca_data or None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
