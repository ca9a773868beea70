# SPDX-License-Identifier: Apache-2.0
"""Writes the bill of materials of the Python packages in the image, in the format CycloneDX 1.6.

The law of this script: the list is requirements/run.txt, which the image is installed from, with its hashes. The
packages of the base image are in the SBOM that buildx attaches to the image.
"""

import hashlib
import json
import re
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent.parent
LOCK = HOME / "requirements" / "run.txt"

_REQUIREMENT = re.compile(
    r"^([a-z0-9-]+)==([^ ;\\]+)(?: *; *([^\\]*?))?((?: *\\\n +--hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE
)
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_NAME = "keda-gpu-scaler"


def components(lock: str) -> Iterator[dict[str, Any]]:
    """Yield a component for each requirement of a lock file; a hash is that of one of its distributions."""
    for name, version, marker, hashes in _REQUIREMENT.findall(lock):
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "hashes": [{"alg": "SHA-256", "content": content} for content in _HASH.findall(hashes)],
        }
        if marker:
            component["properties"] = [{"name": f"{_NAME}:marker", "value": marker.strip()}]
        yield component


def bill(lock: str, version: str) -> dict[str, Any]:
    """Return the bill of materials of a version; the same lock file gives the same bill."""
    found = list(components(lock))
    digest = hashlib.sha256(f"{version}\n{lock}".encode()).digest()
    this = f"pkg:pypi/{_NAME}@{version}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": this,
                "name": _NAME,
                "version": version,
                "purl": this,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": found,
        "dependencies": [{"ref": this, "dependsOn": [one["bom-ref"] for one in found]}],
    }


def version_of(source: Path = HOME / "src" / "keda_gpu_scaler" / "__init__.py") -> str:
    """Return the version in the source, without importing it.

    Raises:
        ValueError: there is none.
    """
    found = re.search(r'^__version__ = "([^"]+)"$', source.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{source} has no __version__")
    return found[1]


def main(target: str) -> None:
    """Write the bill of materials of this source."""
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bill(LOCK.read_text(), version_of()), indent=2) + "\n")
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
