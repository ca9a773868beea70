# SPDX-License-Identifier: Apache-2.0
"""Decides whether a token is sent to the port of an instance that is for people, and reads it.

Law: a token is sent to a pod in the namespace that the person names, or to an address of this machine that the person
names, and nowhere else. The address in a ScaledObject is not enough: its author could name a pod of their own, which
would then have the token. No error and no log has a token.
"""

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.caller_reviews import AUDIENCE
from keda_gpu_scaler.kube.scaler_discovery import ScalerPod

_MAX_FILE_BYTES = 1 << 20


class TokenError(Exception):
    """A token cannot be used. The text is a sentence without the token."""


@dataclass(frozen=True, slots=True)
class PersonalToken:
    """The token of a person, and where it may be sent.

    ``namespace`` is the one whose pods may have it, empty where the person names none; ``flag`` is how a person names
    it. ``given`` is the token of ``--token-file``; where it is empty, ``of_kubeconfig`` returns that of the access,
    empty for an access without one.
    """

    namespace: str
    flag: str
    given: str = field(repr=False)
    of_kubeconfig: Callable[[], str] = field(repr=False)


def given_token(path: str | None, addresses: Iterable[str], *, uses_tls: bool) -> str:
    """Return the token of ``--token-file``, empty where the flag is not given.

    Args:
        path: the file.
        addresses: those of ``--address``.
        uses_tls: whether ``--tls-ca`` is given.

    Raises:
        TokenError: the file cannot be read, or a token is not sent to such an address.
    """
    if path is None:
        return ""
    for address in addresses:
        _check_address(address)
    if uses_tls:
        raise TokenError("--token-file: Forbidden: with --tls-ca the certificate decides; leave one of the two out")
    return _read_token(path)


def token_for(pod: ScalerPod, token: PersonalToken) -> str:
    """Return the token that is sent to the port for people of a pod.

    Raises:
        KubeError: the person does not name the namespace of the pod, or has no token.
    """
    if token.namespace != pod.namespace:
        raise KubeError(
            f"{pod} explains to people with a Kubernetes token. Your token is sent to it if you name its namespace, "
            f"because the pods there can read it: {token.flag} {pod.namespace}"
        )
    text = token.given or token.of_kubeconfig()
    if not text:
        raise KubeError(
            f"{pod} explains to people with a Kubernetes token, and the kubeconfig has none (a client certificate "
            f"cannot be checked there): kubectl create token SERVICEACCOUNT --audience {AUDIENCE} > FILE, then "
            "--token-file FILE"
        )
    if not _is_token(text):
        raise KubeError("the token of the kubeconfig has characters that no header can carry: make a new one")
    return text


def _read_token(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_FILE_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise TokenError(f"--token-file: cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if not _is_token(text):
        raise TokenError(f"--token-file: {path} must hold one token, in one line: see kubectl create token")
    return text


def _check_address(address: str) -> None:
    """Check that an address is of this machine: a token is sent to it over plain text."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        is_local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if not is_local:
        raise TokenError(
            "--token-file: Invalid value: with --address a token is sent to this machine only, to a port that kubectl "
            "port-forward opens: --address 127.0.0.1:6001"
        )


def _is_token(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
