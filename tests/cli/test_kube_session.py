# SPDX-License-Identifier: Apache-2.0
"""The access to a cluster: a context of the kubeconfig, and machines without a home."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.cli.kube_session import access_of, default_kubeconfigs, is_configured
from keda_gpu_scaler.core.interfaces import KubeError


def kubeconfig(folder: Path) -> Path:
    """A file with two clusters; the context "one" is the current one."""
    path = folder / "config"
    document = {
        "current-context": "one",
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": "me", "namespace": f"ns-{name}"}}
            for name in ("one", "two")
        ],
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}:6443"}} for name in ("one", "two")],
        "users": [{"name": "me", "user": {"token": "secret"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with HOME not set and a user id without an entry in the system's list of users."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("HOME", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", home)


@pytest.mark.parametrize(
    ("context", "server"), [(None, "https://one:6443"), ("one", "https://one:6443"), ("two", "https://two:6443")]
)
def test_the_context_selects_the_cluster_and_the_namespace(tmp_path: Path, context: str | None, server: str) -> None:
    found = access_of(str(kubeconfig(tmp_path)), tmp_path, context)
    assert (found.server, found.namespace) == (server, f"ns-{context or 'one'}")


def test_an_unknown_context_is_named(tmp_path: Path) -> None:
    with pytest.raises(KubeError, match='contexts: Not found: "three"'):
        access_of(str(kubeconfig(tmp_path)), tmp_path, "three")


def test_a_context_selects_the_kubeconfig_also_in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keda_gpu_scaler.cli.kube_session.in_cluster", lambda: True)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path)))
    assert access_of(None, tmp_path, "two").server == "https://two:6443"


def another_kubeconfig(folder: Path) -> Path:
    """A file of another folder, with a context of its own, a cluster "one", and the certificate of its cluster."""
    folder.mkdir()
    (folder / "ca.crt").write_text("the certificate of three")
    document = {
        "current-context": "three",
        "contexts": [{"name": "three", "context": {"cluster": "three", "user": "me"}}],
        "clusters": [
            {"name": "three", "cluster": {"server": "https://three:6443", "certificate-authority": "ca.crt"}},
            {"name": "one", "cluster": {"server": "https://wrong:6443"}},
        ],
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize(
    ("context", "server", "certificate"),
    [
        pytest.param(None, "https://one:6443", "", id="the first file names the current context"),
        pytest.param("three", "https://three:6443", "the certificate of three", id="a context of the second file"),
    ],
)
def test_several_files_are_read_as_kubectl_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: str | None, server: str, certificate: str
) -> None:
    files = (kubeconfig(tmp_path), tmp_path / "nothing", another_kubeconfig(tmp_path / "other"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", ":".join(map(str, files)))
    found = access_of(None, tmp_path, context)
    assert (found.server, found.ca_data, found.token) == (server, certificate, "secret")


def test_a_missing_context_names_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = kubeconfig(tmp_path), another_kubeconfig(tmp_path / "other")
    monkeypatch.setenv("KUBECONFIG", f"{first}:{second}")
    with pytest.raises(KubeError, match=f'{first}:{second}: contexts: Not found: "four"'):
        access_of(None, tmp_path, "four")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(("--kubeconfig", "nowhere"), "cannot read nowhere", id="a missing file"),
        pytest.param(("--context", "x", "--address", "127.0.0.1:1"), "--address: Forbidden", id="an address as well"),
    ],
)
def test_wrong_access_of_probe_is_exit_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(main, ["probe", *arguments])
    assert outcome.exit_code == 2, outcome.output
    assert sentence in " ".join(outcome.output.split())


@pytest.mark.usefixtures("no_home")
def test_without_a_home_there_is_no_default_and_a_given_file_works(tmp_path: Path) -> None:
    assert default_kubeconfigs() == ()
    assert not is_configured(None)
    assert access_of(str(kubeconfig(tmp_path)), tmp_path).server == "https://one:6443"
    with pytest.raises(KubeError, match="HOME is not set"):
        access_of(None, tmp_path)


@pytest.mark.usefixtures("no_home")
@pytest.mark.parametrize(
    "command",
    [
        ("explain", "ai/llama"),
        ("explain", "-m", "scope=node", "--address", "127.0.0.1:1"),
        ("top", "--once", "--address", "127.0.0.1:1"),
        ("top", "--once"),
        ("doctor", "--cluster"),
        ("record", "out.jsonl", "--engines", "ai/llama"),
        ("probe", "--address", "127.0.0.1:1"),
        ("version",),
    ],
    ids=" ".join,
)
def test_every_command_ends_with_a_sentence_without_a_home(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(main, command)
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit), outcome.exception
    assert "Traceback" not in outcome.output
