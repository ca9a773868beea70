# SPDX-License-Identifier: Apache-2.0
"""The bill of materials names exactly the packages that the image is installed from."""

import json
import re
import subprocess
import sys
from pathlib import Path

from scripts import sbom

import keda_gpu_scaler

LOCK = sbom.LOCK.read_text()


def test_it_has_every_locked_package_with_its_version_and_its_hashes() -> None:
    found = {one["name"]: one for one in sbom.components(LOCK)}
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", LOCK, re.MULTILINE))
    assert {name: one["version"] for name, one in found.items()} == pinned
    hashes = [one["content"] for component in found.values() for one in component["hashes"]]
    assert sorted(hashes) == sorted(re.findall(r"sha256:([0-9a-f]{64})", LOCK))
    assert all(one["purl"] == f"pkg:pypi/{name}@{pinned[name]}" for name, one in found.items())


def test_a_package_of_some_platforms_says_of_which() -> None:
    lock = (
        f"a==1 ; python_full_version < '3.12' \\\n    --hash=sha256:{64 * 'a'}\nb==2 \\\n    --hash=sha256:{64 * 'b'}\n"
    )
    first, second = sbom.components(lock)
    assert first["properties"] == [{"name": "keda-gpu-scaler:marker", "value": "python_full_version < '3.12'"}]
    assert "properties" not in second


def test_the_bill_names_this_version_and_depends_on_the_lock_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "dist" / "sbom.cdx.json"
    subprocess.run([sys.executable, str(Path(sbom.__file__)), str(target)], check=True, capture_output=True)
    bill = json.loads(target.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["version"] == keda_gpu_scaler.__version__ == sbom.version_of()
    [edges] = bill["dependencies"]
    assert edges["dependsOn"] == [one["bom-ref"] for one in bill["components"]]
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    assert bill == sbom.bill(LOCK, keda_gpu_scaler.__version__)
    assert bill["serialNumber"] != sbom.bill(LOCK + "\n", keda_gpu_scaler.__version__)["serialNumber"]
