# SPDX-License-Identifier: Apache-2.0
"""Tests the completion of the names of ScaledObjects, with a cluster and without one."""

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.cli.completion import kubectl_completion
from keda_gpu_scaler.cli.scaled_names import completed_names, print_names
from tests.apiserver import FakeApiServer
from tests.limits import WAIT_SECONDS

LISTS = "scaledobjects", "scaledjobs"


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as server:
        for name, namespace in (("llama", "ai"), ("triton", "ai"), ("llama", "gpu"), ("whisper", "speech")):
            server.scaled_object(name, namespace=namespace)
        server.put("scaledjobs", "lessons", "gpu", spec={})
        yield server


@pytest.fixture
def kubeconfig(server: FakeApiServer, tmp_path: Path) -> str:
    return str(server.kubeconfig(tmp_path / "config"))


@pytest.mark.parametrize(
    ("incomplete", "names"),
    [
        pytest.param("ai/", ["ai/llama", "ai/triton"], id="the names in a namespace"),
        pytest.param("ai/t", ["ai/triton"], id="the names in a namespace that begin so"),
        pytest.param("l", ["lessons", "llama"], id="names in the namespace of the access, also of ScaledJobs"),
        pytest.param("s", ["speech/whisper"], id="names in a namespace that begins so"),
        pytest.param(
            "", ["ai/llama", "ai/triton", "gpu/lessons", "gpu/llama", "lessons", "llama", "speech/whisper"],
            id="nothing",
        ),
        pytest.param("nowhere/", [], id="a namespace without one"),
        pytest.param("a/b/", [], id="no name of a namespace"),
        pytest.param("../", [], id="a text that must not become part of a path"),
    ],
)  # fmt: skip
def test_a_word_is_completed_with_names_in_the_cluster(
    incomplete: str, names: list[str], kubeconfig: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(print_names(incomplete, kubeconfig, "", str(tmp_path)))
    assert capsys.readouterr().out.splitlines() == names


def test_without_the_right_to_list_everywhere_the_own_namespace_and_the_namespaces_are_shown(
    server: FakeApiServer, kubeconfig: str
) -> None:
    for resource in LISTS:
        server.forbid_everywhere("list", resource)
    assert completed_names("", kubeconfig, None, WAIT_SECONDS) == ["gpu/lessons", "gpu/llama", "lessons", "llama"]
    for namespace in ("ai", "gpu"):
        server.put("namespaces", namespace, "")
    assert completed_names("", kubeconfig, None, WAIT_SECONDS) == [
        "ai/", "gpu/", "gpu/lessons", "gpu/llama", "lessons", "llama"
    ]  # fmt: skip
    assert completed_names("ai/", kubeconfig, None, WAIT_SECONDS) == ["ai/llama", "ai/triton"]


def test_one_of_the_two_kinds_is_enough(server: FakeApiServer, kubeconfig: str) -> None:
    server.forbid("list", "scaledjobs")
    assert completed_names("gpu/", kubeconfig, None, WAIT_SECONDS) == ["gpu/llama"]
    server.forbid("list", "scaledobjects")
    assert completed_names("gpu/", kubeconfig, None, WAIT_SECONDS) == []


def test_a_shell_and_kubectl_complete_the_argument_of_explain(
    server: FakeApiServer, kubeconfig: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("keda_gpu_scaler.cli.scaled_names.LIMIT_SECONDS", WAIT_SECONDS)
    words = ["explain", "--kubeconfig", kubeconfig]
    found = ShellComplete(main, {}, "keda-gpu-scaler", "").get_completions(words, "ai/t")
    assert [item.value for item in found] == ["ai/triton"]
    for resource in LISTS:
        server.forbid_everywhere("list", resource)
    server.put("namespaces", "ai", "")
    for word, lines in (("ai/t", ["ai/triton", ":4"]), ("a", ["ai/", ":6"])):
        monkeypatch.setattr("sys.argv", ["kubectl_complete-gpu_scaler", *words, word])
        kubectl_completion()
        assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize("words", [("explain", "--kubeconfig"), ("record", "--kubeconfig")], ids=["explain", "record"])
def test_a_folder_with_modules_of_the_same_names_changes_nothing(
    words: tuple[str, ...], kubeconfig: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keda_gpu_scaler.py").write_text("raise SystemExit('the wrong module')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keda_gpu_scaler.cli.scaled_names.LIMIT_SECONDS", WAIT_SECONDS)
    line = [*words, kubeconfig, *(["--engines"] if "record" in words else [])]
    found = ShellComplete(main, {}, "keda-gpu-scaler", "").get_completions(line, "ai/t")
    assert [item.value for item in found] == ["ai/triton"]


def test_a_server_that_does_not_answer_ends_the_completion_with_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        path = tmp_path / "config"
        path.write_text(_config(f"http://127.0.0.1:{silent.getsockname()[1]}", {"token": "t"}))
        assert completed_names("", str(path), None, 0.5) == []
    assert capfd.readouterr() == ("", "")


def test_a_login_plugin_that_hangs_is_ended_and_what_it_prints_is_not_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin, started = tmp_path / "plugin", tmp_path / "started"
    plugin.write_text(f"#!/bin/sh\necho visit this page >&2\necho $$ > {started}\nexec sleep 600\n")
    plugin.chmod(0o755)
    path = tmp_path / "config"
    path.write_text(_config("http://127.0.0.1:1", {"exec": {"command": str(plugin)}}))
    assert completed_names("", str(path), None, 3.0) == []
    assert capfd.readouterr() == ("", "")
    if started.exists():  # on a very slow machine it did not begin
        assert not Path(f"/proc/{started.read_text().strip()}/cmdline").exists() or _is_zombie(started)


@pytest.mark.parametrize("text", ["", "{", "apiVersion: v1"], ids=["empty", "no YAML", "without a cluster"])
def test_a_kubeconfig_that_cannot_be_used_completes_nothing(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    assert completed_names("", str(path), None, WAIT_SECONDS) == []
    assert completed_names("", str(tmp_path / "none"), None, WAIT_SECONDS) == []
    assert capfd.readouterr() == ("", "")


def _is_zombie(started: Path) -> bool:
    return " Z " in Path(f"/proc/{started.read_text().strip()}/stat").read_text()


def _config(url: str, user: dict[str, object]) -> str:
    return json.dumps(
        {
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": user}],
        }
    )
