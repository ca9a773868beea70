# SPDX-License-Identifier: Apache-2.0
"""Tests the kubectl plugin: its archive, its manifest for krew, and its launcher."""

import hashlib
import os
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts import krew

from keda_gpu_scaler.cli import PLUGIN

HOME = Path(__file__).resolve().parent.parent.parent
COMPLETION = krew.LAUNCHER.replace("kubectl-", "kubectl_complete-")
"""The executable by which kubectl completes the plugin's words (kubectl: pkg/cmd/plugin/plugin_completion.go)."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "keda_gpu_scaler-1.2.3-py3-none-any.whl").write_bytes(b"a wheel")
    return tmp_path


def installed(folder: Path, name: str = krew.LAUNCHER) -> Path:
    """Unpack the archive as krew does; return the link that kubectl runs, with this name."""
    plugin, _ = krew.write(folder)
    store, binaries = folder / "store" / "gpu-scaler" / "v1.2.3", folder / "bin"
    with tarfile.open(plugin) as tar:
        tar.extractall(store, filter="data")
    binaries.mkdir()
    (binaries / name).symlink_to(Path("..") / store.relative_to(folder) / krew.LAUNCHER)
    return binaries / name


def run(link: Path, *tools: str) -> subprocess.CompletedProcess[str]:
    """Run the plugin with these tools on the PATH; each prints its own arguments."""
    path = link.parent / "tools"
    path.mkdir()
    for tool in ("dirname", "readlink"):
        (path / tool).symlink_to(
            next(Path(place) / tool for place in ("/usr/bin", "/bin") if Path(place, tool).exists())
        )
    for tool in tools:
        (path / tool).write_text('#!/bin/sh\nfor word in "${0##*/}" "$@"; do echo "$word"; done\n')
        (path / tool).chmod(0o755)
    environment = {**os.environ, "PATH": str(path)}
    return subprocess.run(
        (link, "explain", "ai/llama", "two words"), env=environment, capture_output=True, text=True, check=False
    )


def test_the_manifest_names_the_archive_and_its_checksum(folder: Path) -> None:
    plugin, described = krew.write(folder)
    manifest: dict[str, Any] = yaml.safe_load(described.read_text())
    [platform] = manifest["spec"]["platforms"]
    assert manifest["spec"]["version"] == "v1.2.3"
    assert platform["sha256"] == hashlib.sha256(plugin.read_bytes()).hexdigest()
    assert platform["uri"].endswith(f"/releases/download/v1.2.3/{plugin.name}")
    assert "@" not in described.read_text()
    with tarfile.open(plugin) as tar:
        assert {entry.name: oct(entry.mode) for entry in tar} == {
            platform["bin"]: "0o755",
            "keda_gpu_scaler-1.2.3-py3-none-any.whl": "0o644",
            "LICENSE": "0o644",
        }


def test_the_same_wheel_gives_the_same_bytes(folder: Path) -> None:
    first = [path.read_bytes() for path in krew.write(folder)]
    (folder / "keda_gpu_scaler-1.2.3-py3-none-any.whl").touch()
    assert [path.read_bytes() for path in krew.write(folder)] == first


def test_without_a_wheel_the_command_to_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run `make build` first"):
        krew.write(tmp_path)


def test_kubectl_finds_the_plugin_and_pip_installs_it_under_the_same_name() -> None:
    manifest = yaml.safe_load((krew.FOLDER / krew.MANIFEST).read_text())
    assert f"kubectl {manifest['metadata']['name']}" == PLUGIN
    # kubectl reads a dash in a command as an underscore in the file's name.
    assert f"kubectl-{manifest['metadata']['name'].replace('-', '_')}" == krew.LAUNCHER
    declared = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["scripts"]
    assert declared[krew.LAUNCHER] == "keda_gpu_scaler.cli:kubectl_plugin"
    assert declared[COMPLETION] == "keda_gpu_scaler.cli.completion:kubectl_completion"


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        pytest.param(("uvx", "pipx"), ["uvx", "--quiet", "--from"], id="uv is the first choice"),
        pytest.param(("pipx",), ["pipx", "run", "--spec"], id="pipx without uv"),
    ],
)
def test_the_launcher_runs_the_wheel_beside_it(folder: Path, tools: tuple[str, ...], words: list[str]) -> None:
    shown = run(installed(folder), *tools)
    assert shown.returncode == 0, shown.stderr
    *before, wheel, program, first, second, third = shown.stdout.splitlines()
    assert before == words
    assert Path(wheel).name == "keda_gpu_scaler-1.2.3-py3-none-any.whl"
    assert Path(wheel).exists()
    assert (program, first, second, third) == (krew.LAUNCHER, "explain", "ai/llama", "two words")


def test_a_link_of_another_name_completes_the_words(folder: Path) -> None:
    shown = run(installed(folder, COMPLETION), "uvx")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-4:] == [COMPLETION, "explain", "ai/llama", "two words"]


def test_without_uv_and_pipx_the_launcher_names_both(folder: Path) -> None:
    shown = run(installed(folder))
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == ("kubectl gpu-scaler: it needs uv or pipx, and Python 3.11 or later; install one of them\n")
