# SPDX-License-Identifier: Apache-2.0
"""Who are we, by what a kubeconfig's plugin says? Run once, for a person at a shell.

The law of this module: it runs what the person's own kubeconfig names, as kubectl would, and nothing else; no server of
ours ever does.

Facts are from client-go (plugin/pkg/client/auth/exec) and its API client.authentication.k8s.io.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keda_gpu_scaler.core.interfaces import KubeError

PLUGIN_SECONDS = 60.0
"""A person may have to log in on the way."""

_LONGEST_SENTENCE = 300


@dataclass(frozen=True, slots=True)
class ExecCredential:
    """What a plugin told: a token, or a certificate and its key in PEM; empty where it told none."""

    token: str = ""
    certificate: str = ""
    key: str = ""


def log_in(said: Mapping[str, Any], folder: Path) -> ExecCredential:
    """Run a plugin and return what it tells.

    Args:
        said: ``users.user.exec`` of a kubeconfig.
        folder: the kubeconfig's, relative to which a command with a slash is found.

    Raises:
        KubeError: it cannot be run, or tells nothing of use.
    """
    command = str(said.get("command") or "")
    found = str(folder / command) if "/" in command else shutil.which(command)
    if not command or found is None:
        hint = str(said.get("installHint") or "install it, or use a kubeconfig with a token")[:_LONGEST_SENTENCE]
        raise KubeError(f"--kubeconfig: users.exec.command: Not found: {command or 'no command'}: {hint}")
    request = {
        "apiVersion": said.get("apiVersion") or "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }
    extra = {str(one.get("name")): str(one.get("value")) for one in said.get("env") or () if isinstance(one, Mapping)}
    try:
        outcome = subprocess.run(  # noqa: S603 - the person's own kubeconfig names it
            [found, *map(str, said.get("args") or ())],
            env={**os.environ, **extra, "KUBERNETES_EXEC_INFO": json.dumps(request)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=True,
            timeout=PLUGIN_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise KubeError(f"--kubeconfig: {command} took longer than {PLUGIN_SECONDS:g} s: log in, then ask again") from (
            error
        )
    except subprocess.CalledProcessError as error:
        raise KubeError(f"--kubeconfig: {command} ended with status {error.returncode}: see what it says") from error
    except OSError as error:
        raise KubeError(f"--kubeconfig: {command} cannot be run: {error.strerror or error}") from error
    return _told(command, outcome.stdout)


def _told(command: str, text: bytes) -> ExecCredential:
    try:
        status = json.loads(text)["status"]
        credential = ExecCredential(
            str(status.get("token") or ""),
            str(status.get("clientCertificateData") or ""),
            str(status.get("clientKeyData") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KubeError(f"--kubeconfig: {command} tells no ExecCredential with a status: is it a plugin?") from error
    if not (credential.token or (credential.certificate and credential.key)):
        raise KubeError(f"--kubeconfig: {command} tells neither a token nor a certificate with its key")
    return credential
