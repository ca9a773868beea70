# SPDX-License-Identifier: Apache-2.0
"""Puts helm, kubeconform and the schemas of Kubernetes into .tools: ``python scripts/tools.py``.

With ``--promtool`` it also builds promtool, which tests the alerts. That takes minutes, so only `make chart` does it.

The law of this script: everything is pinned here and comes through a registry's ordinary client, and what is there
already at these versions is not fetched again. Go checks its modules against its checksum database; the schemas'
archive is checked against the hash below.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

HOME = Path(__file__).resolve().parent.parent
TOOLS = HOME / ".tools"
BIN = TOOLS / "bin"
SCHEMAS = TOOLS / "schemas"

GO_TOOLS = {
    "helm": "helm.sh/helm/v3/cmd/helm@v3.19.0",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0",
}
PROMTOOL = "github.com/prometheus/prometheus/cmd/promtool@v0.305.0"  # of Prometheus 3.5
KUBERNETES_SCHEMAS = (
    "kubernetes-validate",
    "1.37.0",
    "85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9",
)
KUBERNETES_VERSIONS = ("1.25.0", "1.34.0", "1.37.0")
"""The oldest that the chart takes, the newest there is a schema of, and one between."""
DEFINITIONS = {
    "github.com/cert-manager/cert-manager@v1.21.2": ("deploy/crds/cert-manager.io_certificates.yaml",),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
}
# As in helm's own releases: without it a helm that has no cluster takes itself to be on Kubernetes 1.20.
_LINKED = " ".join(f"-X helm.sh/helm/v3/pkg/chartutil.k8sVersion{part}" for part in ("Major=1", "Minor=34"))
_PINS = json.dumps([GO_TOOLS, KUBERNETES_SCHEMAS, KUBERNETES_VERSIONS, DEFINITIONS, _LINKED])
_STAMP = TOOLS / "installed.json"
_PROMTOOL_STAMP = TOOLS / "promtool.txt"


SHORT_RUN = {"GOGC": "off", "GOMEMLIMIT": "1GiB"}
"""Environment variables of helm and kubeconform: without Go's garbage collector they take a third less time."""


def is_installed() -> bool:
    """Whether everything is there, at these versions."""
    return _STAMP.is_file() and _STAMP.read_text() == _PINS and all((BIN / name).is_file() for name in GO_TOOLS)


def install() -> None:
    """Fetch whatever is missing.

    Raises:
        SystemExit: a sentence says what is needed, or what went wrong.
    """
    if shutil.which("go") is None:
        raise SystemExit(
            "the chart's checks need Go (1.24 or later), which builds helm and kubeconform into .tools/bin: install it "
            "from your distribution or from go.dev; without it `make test` runs everything else"
        )
    print("installing helm, kubeconform and the schemas of Kubernetes into .tools (once, some minutes)", flush=True)
    _STAMP.unlink(missing_ok=True)
    BIN.mkdir(parents=True, exist_ok=True)
    for package in GO_TOOLS.values():
        _run(["go", "install", "-ldflags", _LINKED, package], env={**os.environ, "GOBIN": str(BIN)})
    shutil.rmtree(SCHEMAS, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        _kubernetes(Path(scratch))
    for module, paths in DEFINITIONS.items():
        folder = Path(json.loads(_run(["go", "mod", "download", "-json", module]))["Dir"])
        for path in paths:
            _definition(yaml.safe_load((folder / path).read_text()))
    _STAMP.write_text(_PINS)


def install_promtool() -> None:
    """Build promtool where it is missing. Its module has replacements, so `go install` refuses it.

    Raises:
        SystemExit: a sentence says what went wrong.
    """
    if (BIN / "promtool").is_file() and _PROMTOOL_STAMP.is_file() and _PROMTOOL_STAMP.read_text() == PROMTOOL:
        return
    print("building promtool into .tools (once, some minutes)", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        _run(["go", "mod", "init", "promtool"], folder=Path(scratch))
        _run(["go", "get", PROMTOOL], folder=Path(scratch))
        _run(["go", "build", "-o", str(BIN / "promtool"), PROMTOOL.partition("@")[0]], folder=Path(scratch))
    _PROMTOOL_STAMP.write_text(PROMTOOL)


def strict(node: Any) -> Any:
    """Return a schema that refuses fields it does not know, as the API server does on request."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {key: strict(value) for key, value in node.items()}
    properties = node.get("properties")
    # A property may itself be called "properties": a schema's are schemas.
    is_open = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
    if isinstance(properties, dict) and all(isinstance(one, dict) for one in properties.values()) and not is_open:
        closed["additionalProperties"] = False
    return closed


def _kubernetes(scratch: Path) -> None:
    name, version, digest = KUBERNETES_SCHEMAS
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    _run([*pip, "--only-binary=:all:", "--dest", str(scratch), f"{name}=={version}"])
    [archive] = scratch.glob("*.whl")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != digest:
        raise SystemExit(f"{archive.name}: sha256 {found}, but {digest} is pinned in scripts/tools.py")
    with zipfile.ZipFile(archive) as content:
        for kubernetes in KUBERNETES_VERSIONS:
            prefix = f"kubernetes_validate/kubernetes-json-schema/v{kubernetes}-local/"
            folder = SCHEMAS / f"v{kubernetes}"
            folder.mkdir(parents=True)
            for entry in content.namelist():
                if entry.startswith(prefix) and entry.endswith(".json"):
                    text = content.read(entry).decode().replace("/api/_definitions.json", "_definitions.json")
                    schema = strict(json.loads(text))
                    schema.pop("$id", None)  # it lies where it lies
                    (folder / entry.removeprefix(prefix)).write_text(json.dumps(schema))


def _definition(crd: dict[str, Any]) -> None:
    """Write down what a CustomResourceDefinition says of each of its versions, as kubeconform names files."""
    group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"].lower()
    for version in crd["spec"]["versions"]:
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        (SCHEMAS / f"{kind}-{group.partition('.')[0]}-{version['name']}.json").write_text(json.dumps(schema))


def _run(command: list[str], env: dict[str, str] | None = None, folder: Path = HOME) -> str:
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"`{' '.join(command)}` failed: see above; is the registry reachable?")
    return done.stdout


if __name__ == "__main__":
    if not is_installed():
        install()
    if "--promtool" in sys.argv[1:]:
        install_promtool()
