# SPDX-License-Identifier: Apache-2.0
"""Decides whether a person's token is sent with a call of Explain, and reads it.

Law: a token is sent to a pod in the namespace that the person names, or to an address of this machine that the person
names, and nowhere else. The address in a ScaledObject is not enough: its author could name a pod of their own, which
would then have the token. No error and no log has a token.
"""

import ipaddress
from pathlib import Path

from keda_gpu_scaler.cli.kube_session import KubeSession
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.caller_reviews import AUDIENCE
from keda_gpu_scaler.kube.scaler_discovery import ScalerPod

_MAX_FILE_BYTES = 1 << 20


class TokenError(Exception):
    """A token cannot be used. The text is a sentence without the token."""


def read_token(path: str) -> str:
    """Return the token in a file.

    Raises:
        TokenError: the file cannot be read, or does not hold one token.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_FILE_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise TokenError(f"--token-file: cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if not _is_token(text):
        raise TokenError(f"--token-file: {path} must hold one token, in one line: see kubectl create token")
    return text


def check_address(address: str) -> None:
    """Check that a token may be sent to an address, over plain text.

    Raises:
        TokenError: it is not an address of this machine.
    """
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


def token_for(cluster: KubeSession, pod: ScalerPod, trusted_namespace: str, given: str) -> str:
    """Return the token that is sent to a pod.

    Args:
        cluster: the access of the person.
        pod: the pod that will be called.
        trusted_namespace: the namespace that the person names; empty for none.
        given: the token of ``--token-file``; empty for that of the access.

    Raises:
        KubeError: the person does not name the namespace of the pod, or has no token.
    """
    if trusted_namespace != pod.namespace:
        raise KubeError(
            f"{pod} explains to people with a Kubernetes token. Your token is sent to it if you name its namespace, "
            f"because the pods there can read it: --namespace-of-scaler {pod.namespace}"
        )
    token = given or cluster.bearer_token()
    if not token:
        raise KubeError(
            f"{pod} explains to people with a Kubernetes token, and the kubeconfig has none (a client certificate "
            f"cannot be checked there): kubectl create token SERVICEACCOUNT --audience {AUDIENCE} > FILE, then "
            "--token-file FILE"
        )
    if not _is_token(token):
        raise KubeError("the token of the kubeconfig has characters that no header can carry: make a new one")
    return token


def _is_token(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
