# SPDX-License-Identifier: Apache-2.0
"""Tests of kubeconfigs and service accounts, and of the errors that name file and field."""

import base64
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube import auth
from keda_gpu_scaler.kube.auth import ClientConfig, in_cluster, kubeconfig, service_account


def written(folder: Path, *, cluster: Mapping[str, Any] = {}, user: Mapping[str, Any] = {}, **more: Any) -> Path:
    path = folder / "config"
    path.write_text(
        json.dumps(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "https://api:6443/", **cluster}}],
                "users": [{"name": "u", "user": user}],
                **more,
            }
        )
    )
    return path


def read(path: Path, scratch: Path) -> ClientConfig:
    folder = scratch / "scratch"
    folder.mkdir(exist_ok=True)
    return kubeconfig(path, folder)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_the_current_context_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, cluster={"certificate-authority-data": encoded("CA")}, user={"token": "secret"})
    assert read(path, tmp_path) == ClientConfig("https://api:6443", "default", ca_data="CA", token="secret")  # noqa: S106


@pytest.fixture(autouse=True)
def no_proxy_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_the_proxy_and_the_name_in_the_certificate_are_read(tmp_path: Path) -> None:
    cluster = {"proxy-url": "socks5://localhost:1080", "tls-server-name": "api.corp.example"}
    found = read(written(tmp_path, cluster=cluster), tmp_path)
    assert (found.proxy, found.server_name) == ("socks5://localhost:1080", "api.corp.example")


def test_the_proxy_of_the_kubeconfig_comes_before_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://environment:3128")
    assert read(written(tmp_path), tmp_path).proxy == "http://environment:3128"
    assert read(written(tmp_path, cluster={"proxy-url": "http://own:1"}), tmp_path).proxy == "http://own:1"
    monkeypatch.setenv("NO_PROXY", "api")
    assert read(written(tmp_path), tmp_path).proxy == ""


def test_an_unusable_proxy_of_the_environment_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "ftp://me:secret@proxy")
    with pytest.raises(KubeError, match="https_proxy: Invalid value: must be a URL") as refused:
        read(written(tmp_path), tmp_path)
    assert "secret" not in str(refused.value)


def test_files_are_named_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("CA")
    path = written(
        tmp_path,
        cluster={"certificate-authority": "ca.crt"},
        user={"tokenFile": "token", "client-certificate": "me.crt", "client-key": "/elsewhere/me.key"},
    )
    found = read(path, tmp_path)
    assert (found.ca_data, found.token_file) == ("CA", tmp_path / "token")
    assert (found.client_certificate, found.client_key) == (tmp_path / "me.crt", Path("/elsewhere/me.key"))


def test_an_embedded_client_certificate_is_written_to_a_private_file(tmp_path: Path) -> None:
    found = read(
        written(tmp_path, user={"client-certificate-data": encoded("CERT"), "client-key-data": encoded("KEY")}),
        tmp_path,
    )
    assert found.client_key is not None
    assert found.client_key.read_text() == "KEY"
    assert found.client_key.stat().st_mode & 0o077 == 0


def test_the_token_is_read_for_every_request(tmp_path: Path) -> None:
    token = tmp_path / "token"
    config = ClientConfig("https://api", "gpu", token_file=token)
    token.write_text("one\n")
    assert config.authorization() == {"Authorization": "Bearer one"}
    token.write_text("two\n")
    assert config.authorization() == {"Authorization": "Bearer two"}
    token.unlink()
    with pytest.raises(KubeError, match=r"cannot read .*token: No such file"):
        config.authorization()


def test_a_field_without_a_value_counts_as_absent(tmp_path: Path) -> None:
    found = read(written(tmp_path, user={"token": None, "tokenFile": None, "client-key": None}), tmp_path)
    assert (found.authorization(), found.token_file, found.client_key) == ({}, None, None)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"current-context": "there"}, 'contexts: Not found: "there": it must be one of "here"'),
        (
            {"current-context": "there", "contexts": [{"name": f"context-{number}"} for number in range(10)]},
            '"context-6", "context-7" and 2 more',
        ),
        ({"contexts": [{"name": ["here"]}, "here"]}, 'contexts: Not found: "here": there is no entry'),
        ({"clusters": []}, 'clusters: Not found: "c": there is no entry'),
        ({"users": None}, 'users: Not found: "u"'),
        ({"cluster": {"server": "api:6443"}}, 'clusters.server: Invalid value: "api:6443": must be a URL'),
        ({"user": {"exec": {"command": "aws"}}}, "users.exec: Forbidden: plugins are not run"),
        ({"cluster": {"certificate-authority-data": "%"}}, "certificate-authority-data: Invalid value: must be base64"),
        ({"cluster": {"certificate-authority-data": "é"}}, "certificate-authority-data: Invalid value: must be base64"),
        ({"cluster": {"certificate-authority": "a\0b"}}, "it is not a path"),
        ({"user": {"as-groups": ["dev"]}}, "users.as: Required value: other fields of impersonation need it"),
        ({"user": {"as": "a\nb"}}, 'users.as: Invalid value: "a\\nb": must be printable ASCII'),
        ({"user": {"as": "a", "as-groups": [""]}}, 'users.as-groups: Invalid value: "": must be printable ASCII'),
        ({"cluster": {"proxy-url": "ftp://proxy"}}, "clusters.proxy-url: Invalid value: must be a URL with a host and"),
        (
            {"cluster": {"proxy-url": "http://proxy", "tls-server-name": "api"}},
            "clusters.tls-server-name: Forbidden: it cannot be used together with an HTTP proxy",
        ),
        ({"cluster": {"certificate-authority": "nowhere.crt"}}, "nowhere.crt: No such file or directory"),
    ],
)
def test_an_unusable_field_is_reported_with_file_and_field(
    tmp_path: Path, parts: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(KubeError) as caught:
        read(written(tmp_path, **parts), tmp_path)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "- a", "\t", "current-context: [", "null"),
        pytest.param("current-context: 2001-99-99", id="a date that does not exist"),
        pytest.param("current-context: !!int a", id="a value that its type cannot have"),
        pytest.param("[" * 400, id="nested too deeply"),
    ],
)
def test_a_file_that_is_not_a_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(KubeError, match="--kubeconfig: "):
        read(path, tmp_path)


def test_a_pod_uses_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert not in_cluster()
    for name, text in (("token", "secret"), ("ca.crt", "CA"), ("namespace", "gpu\n")):
        (tmp_path / name).write_text(text)
    assert in_cluster()
    assert service_account() == ClientConfig(
        "https://[fd00::1]:443", "gpu", ca_data="CA", token_file=tmp_path / "token"
    )
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    assert not in_cluster()
    with pytest.raises(KubeError, match="this process does not run in a pod"):
        service_account()


def test_reading_a_service_account_imports_no_http_client() -> None:
    script = (
        "import sys; from keda_gpu_scaler.cli import main; main.get_command(None, 'serve');"
        "import keda_gpu_scaler.agent; from keda_gpu_scaler.kube.auth import in_cluster; in_cluster();"
        "sys.exit(bool({'ssl', 'httpx', 'yaml'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_http_client_is_imported_by_preload_and_not_by_its_module() -> None:
    script = (
        "import sys; from keda_gpu_scaler.kube import client; was_imported = 'httpx' in sys.modules;"
        "client.preload(); sys.exit(was_imported or 'httpx' not in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_configuration_shows_no_token() -> None:
    assert "a-secret-token" not in repr(ClientConfig("https://api", "ai", token="a-secret-token"))  # noqa: S106
