# SPDX-License-Identifier: Apache-2.0
"""Writes the krew plugin of the wheel in dist: its archive, and the manifest with the checksum.

Law: the same wheel gives the same bytes.
"""

import gzip
import hashlib
import io
import sys
import tarfile
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
FOLDER = HOME / "deploy" / "krew"
LAUNCHER = "kubectl-gpu_scaler"
MANIFEST = "gpu-scaler.yaml"


def archive(wheel: Path) -> bytes:
    """Return the archive that krew unpacks: the launcher, the wheel and the licence."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, mode in ((FOLDER / LAUNCHER, 0o755), (wheel, 0o644), (HOME / "LICENSE", 0o644)):
            entry = tarfile.TarInfo(path.name)
            entry.mode, entry.size = mode, path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(entry, content)
    return gzip.compress(packed.getvalue(), mtime=0)


def manifest(version: str, packed: bytes) -> str:
    """Return the manifest for this version and this archive."""
    template = (FOLDER / MANIFEST).read_text()
    return template.replace("@VERSION@", version).replace("@SHA256@", hashlib.sha256(packed).hexdigest())


def write(folder: Path) -> tuple[Path, Path]:
    """Write both files for the wheel in this folder; return their paths.

    Raises:
        SystemExit: there is not exactly one wheel.
    """
    wheels = sorted(folder.glob("keda_gpu_scaler-*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{folder}: it has {len(wheels)} wheels, and the plugin needs one: run `make build` first")
    version = wheels[0].name.split("-")[1]
    packed = archive(wheels[0])
    plugin, described = folder / f"{LAUNCHER}-{version}.tar.gz", folder / MANIFEST
    plugin.write_bytes(packed)
    described.write_text(manifest(version, packed))
    return plugin, described


def main() -> None:
    """Write both files into the folder that the command line names."""
    for path in write(Path(sys.argv[1])):
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
