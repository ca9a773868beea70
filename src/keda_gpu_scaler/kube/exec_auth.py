# SPDX-License-Identifier: Apache-2.0
"""Runs a kubeconfig's exec credential plugin, once, for a command at a shell.

Law: it runs only the program that the user's own kubeconfig names, as kubectl does. A server never runs a plugin.

The protocol is client-go's (plugin/pkg/client/auth/exec), with its API client.authentication.k8s.io.
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
from keda_gpu_scaler.kube.parse import mappings

PLUGIN_TIMEOUT_SECONDS = 60.0
"""Long enough for a user to log in while the plugin runs."""

_MAX_HINT_LENGTH = 300


@dataclass(frozen=True, slots=True)
class ExecCredential:
    """The credential that a plugin returns: a token, or a certificate with its key in PEM; the others are empty."""

    token: str = ""
    certificate: str = ""
    key: str = ""


def log_in(config: Mapping[str, Any], folder: Path) -> ExecCredential:
    """Run a plugin, and return its credential.

    Args:
        config: ``users.user.exec`` of a kubeconfig.
        folder: the kubeconfig's folder, to which a command with a slash is relative.

    Raises:
        KubeError: the plugin cannot be run, or returns no usable credential.
    """
    command = str(config.get("command") or "")
    program = str(folder / command) if "/" in command else shutil.which(command)
    if not command or program is None:
        hint = str(config.get("installHint") or "install it, or use a kubeconfig with a token")[:_MAX_HINT_LENGTH]
        raise KubeError(f"--kubeconfig: users.exec.command: Not found: {command or 'no command'}: {hint}")
    arguments = config.get("args")
    return _credential(
        command, _output(command, [program, *map(str, arguments if arguments else ())], _environment(config))
    )


def _environment(config: Mapping[str, Any]) -> dict[str, str]:
    request = {
        "apiVersion": config.get("apiVersion") or "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }
    extra = {str(entry.get("name")): str(entry.get("value")) for entry in mappings(config.get("env"))}
    return {**os.environ, **extra, "KUBERNETES_EXEC_INFO": json.dumps(request)}


def _output(command: str, arguments: list[str], environment: Mapping[str, str]) -> bytes:
    try:
        outcome = subprocess.run(  # noqa: S603 - the user's own kubeconfig names the program
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=True,
            timeout=PLUGIN_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        limit = f"{PLUGIN_TIMEOUT_SECONDS:g} s"
        raise KubeError(f"--kubeconfig: {command} took longer than {limit}: log in, then try again") from error
    except subprocess.CalledProcessError as error:
        raise KubeError(f"--kubeconfig: {command} ended with status {error.returncode}: see its output") from error
    except OSError as error:
        raise KubeError(f"--kubeconfig: {command} cannot be run: {error.strerror or error}") from error
    return outcome.stdout


def _credential(command: str, output: bytes) -> ExecCredential:
    try:
        status = json.loads(output)["status"]
        credential = ExecCredential(
            str(status.get("token") or ""),
            str(status.get("clientCertificateData") or ""),
            str(status.get("clientKeyData") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = "returns no ExecCredential with a status: is it an exec credential plugin?"
        raise KubeError(f"--kubeconfig: {command} {problem}") from error
    if not (credential.token or (credential.certificate and credential.key)):
        raise KubeError(f"--kubeconfig: {command} returns neither a token nor a certificate with its key")
    return credential
