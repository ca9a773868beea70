# SPDX-License-Identifier: Apache-2.0
"""A stand-in of helm without a cluster; the real helm renders what an installation would create."""

import os
import subprocess
from pathlib import Path

import yaml
from scripts import tools

from keda_gpu_scaler import __version__

HOME = Path(__file__).resolve().parents[2]
CHART = HOME / "deploy" / "helm" / "keda-gpu-scaler"
RELEASE, NAMESPACE = "keda-gpu-scaler", "keda"
"""The installation that the pages are about."""
_OCI = f"oci://ghcr.io/keda-gpu-scaler/charts/{CHART.name}"


class UsageError(Exception):
    """The command has a flag or an argument that its program does not have, or that is not here."""


class MissingError(Exception):
    """A tool is not on this machine, so the command is not run."""


def run(words: list[str]) -> int | list[str]:
    """Run a command; return its exit status, or the arguments of the program that the pod of a test runs."""
    if not tools.is_installed():
        raise MissingError("helm is not in .tools at the pinned version: `make chart` builds it")
    namespaced, words = _without_namespace(words)
    verb, *rest = words
    if verb in ("install", "upgrade"):
        if not namespaced:
            raise UsageError(f"{verb} names no namespace")
        return _real("template", *(word for word in rest if word != "--install"), "--namespace", NAMESPACE)
    if verb in ("package", "template"):
        return _real(verb, *rest, is_shown=verb == "template")
    if [verb, *rest] == ["pull", _OCI, "--version", __version__]:
        return _real("package", str(CHART))
    if not namespaced or RELEASE not in rest:
        raise UsageError(f"{verb}: release {RELEASE} in namespace {NAMESPACE} is not named")
    return _of_a_release([verb, *(word for word in rest if word != RELEASE)])


def _of_a_release(words: list[str]) -> int | list[str]:
    """Run a command about the release that is installed already."""
    if words == ["test", "--logs"]:
        return _test()
    if words == ["get", "values", "-o", "yaml"]:
        print("null")
    elif words != ["uninstall"]:
        raise UsageError(f"{' '.join(words)}: the stand-in does not know it")
    return 0


def _without_namespace(words: list[str]) -> tuple[bool, list[str]]:
    for at, word in enumerate(words):
        if word in ("-n", "--namespace"):
            if words[at + 1] != NAMESPACE:
                raise UsageError(f"{word} {words[at + 1]}: the pages install into {NAMESPACE}")
            return True, [*words[:at], *words[at + 2 :]]
    return False, words


def _real(*words: str, is_shown: bool = False) -> int:
    """Run helm itself; its output is shown where the page has it."""
    stdout = None if is_shown else subprocess.DEVNULL
    return subprocess.run(
        (str(tools.BIN / "helm"), *words), env={**os.environ, **tools.SHORT_RUN}, stdout=stdout, check=False
    ).returncode


def _test() -> list[str]:
    """Return the arguments of the pod of the chart's test."""
    command = (str(tools.BIN / "helm"), "template", RELEASE, str(CHART), "--namespace", NAMESPACE)
    only = ("--show-only", "templates/tests/probe.yaml")
    shown = subprocess.run(
        (*command, *only), env={**os.environ, **tools.SHORT_RUN}, capture_output=True, text=True, check=True
    ).stdout
    [container] = yaml.safe_load(shown)["spec"]["containers"]
    return list(container["args"])
