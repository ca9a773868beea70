# SPDX-License-Identifier: Apache-2.0
"""Tests of exec credential plugins: commands run them, servers refuse them, errors name the remedy."""

import json
from pathlib import Path
from typing import Any

import pytest

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube import exec_auth
from keda_gpu_scaler.kube.auth import kubeconfig
from keda_gpu_scaler.kube.exec_auth import ExecCredential, log_in


def plugin(folder: Path, script: str) -> dict[str, Any]:
    """Write a plugin into the kubeconfig's folder, to which a command with a slash is relative."""
    path = folder / "plugin"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return {"command": "./plugin", "args": ["get-token"], "env": [{"name": "WHO", "value": "me"}]}


def returning(**status: str) -> str:
    return f"echo '{json.dumps({'kind': 'ExecCredential', 'status': status})}'"


def test_a_plugin_is_given_its_arguments_its_environment_and_the_request(tmp_path: Path) -> None:
    script = (
        'case "$KUBERNETES_EXEC_INFO" in *ExecCredential*) ;; *) exit 9;; esac\n'
        'printf \'{"status": {"token": "%s-%s"}}\' "$1" "$WHO"'
    )
    assert log_in(plugin(tmp_path, script), tmp_path) == ExecCredential(token="get-token-me")  # noqa: S106


def test_a_kubeconfig_with_a_plugin_is_used_by_commands_and_refused_by_servers(tmp_path: Path) -> None:
    path = tmp_path / "config"
    exec_config = plugin(tmp_path, returning(clientCertificateData="CERT", clientKeyData="KEY", token="secret"))  # noqa: S106
    path.write_text(
        json.dumps(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "https://api:6443"}}],
                "users": [{"name": "u", "user": {"exec": exec_config}}],
            }
        )
    )
    found = kubeconfig(path, tmp_path, runs_plugins=True)
    assert found.authorization() == {"Authorization": "Bearer secret"}
    assert found.client_key is not None
    assert found.client_key.read_text() == "KEY"
    with pytest.raises(KubeError, match=r"users\.exec: Forbidden: plugins are not run"):
        kubeconfig(path, tmp_path)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("exit 3", "./plugin ended with status 3"),
        ("echo hello", "returns no ExecCredential"),
        ("echo '[]'", "returns no ExecCredential"),
        ("echo '{\"status\": 3}'", "returns no ExecCredential"),
        (returning(), "returns neither a token nor a certificate with its key"),
        (returning(clientCertificateData="CERT"), "returns neither a token nor a certificate with its key"),
    ],
)
def test_an_output_without_a_usable_credential_is_an_error(tmp_path: Path, script: str, sentence: str) -> None:
    with pytest.raises(KubeError) as caught:
        log_in(plugin(tmp_path, script), tmp_path)
    assert sentence in str(caught.value)


def test_a_plugin_that_is_not_installed_is_reported_with_its_hint(tmp_path: Path) -> None:
    with pytest.raises(KubeError, match="Not found: no-such-plugin: brew install it"):
        log_in({"command": "no-such-plugin", "installHint": "brew install it"}, tmp_path)
    with pytest.raises(KubeError, match=r"\./nowhere cannot be run"):
        log_in({"command": "./nowhere"}, tmp_path)


def test_a_plugin_that_hangs_is_stopped_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_auth, "PLUGIN_TIMEOUT_SECONDS", 0.05)
    with pytest.raises(KubeError, match=r"took longer than 0\.05 s: log in, then try again"):
        log_in(plugin(tmp_path, "exec sleep 60"), tmp_path)
