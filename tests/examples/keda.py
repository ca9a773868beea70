# SPDX-License-Identifier: Apache-2.0
"""Reads KEDA's own definitions and sources from its Go module.

Nothing of them is kept in this project. Without the go command, or without the module, the tests that need it are
skipped; on a CI server (environment variable CI) they fail instead.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

MODULE = "github.com/kedacore/keda/v2@v2.20.0"
_TAG = re.compile(r'keda:"name=([^,"]+)([^"]*)"')


def _missing(why: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{why}: KEDA's own definitions are needed here")
    pytest.skip(f"{why}: not checked against KEDA's own definitions")


@functools.cache
def _downloaded() -> dict[str, str]:
    go = shutil.which("go")
    if go is None:
        return {"Error": "there is no go command"}
    # In a folder of its own: what is asked for must not depend on a go.mod that lies about.
    with tempfile.TemporaryDirectory() as folder:
        command = (go, "mod", "download", "-json", MODULE)
        outcome = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    try:
        answer: dict[str, str] = json.loads(outcome.stdout)
    except ValueError:
        return {"Error": outcome.stderr.strip() or "go mod download says nothing"}
    return answer


def module() -> Path:
    """Return the folder of KEDA's sources, or skip the test."""
    answer = _downloaded()
    if "Dir" not in answer:
        _missing(f"{MODULE}: {answer.get('Error')}")
    return Path(answer["Dir"])


@functools.cache
def _definition(path: Path) -> dict[str, Any]:
    definition: dict[str, Any] = yaml.safe_load(path.read_text())
    return definition


def schema(kind: str, version: str) -> dict[str, Any]:
    """Return the schema by which the API server judges objects of this kind of ``keda.sh``."""
    path = module() / "config" / "crd" / "bases" / f"keda.sh_{kind.lower()}s.yaml"
    for one in _definition(path)["spec"]["versions"]:
        if one["name"] == version and one["served"]:
            found: dict[str, Any] = one["schema"]["openAPIV3Schema"]
            return found
    raise AssertionError(f"{kind} is not served in version {version}")


def parameters(trigger_type: str, source: str) -> set[str]:
    """Return the names that a scaler reads from "triggerMetadata" or "authParams", by the tags in its source."""
    file = trigger_type.replace("-", "_").removesuffix("_push") + "_scaler.go"
    text = (module() / "pkg" / "scalers" / file).read_text()
    return {name for names, rest in _TAG.findall(text) if source in rest for name in names.split(";")}
