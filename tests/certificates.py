# SPDX-License-Identifier: Apache-2.0
"""Real certificates, made for a test by the ``openssl`` command: right, wrong, expired."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NAME = "keda-gpu-scaler.keda.svc.cluster.local"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    def replace(self, other: "Pair") -> None:
        """Put another pair's contents in the place of this one's, as a mounted Secret changes: both at once."""
        for mine, theirs in ((self.key, other.key), (self.certificate, other.certificate)):
            fresh = mine.with_suffix(".new")
            fresh.write_bytes(theirs.read_bytes())
            fresh.replace(mine)


class Authority:
    """A CA of the test's own, whose files are in ``folder``."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl command to make certificates with")
        self._folder = folder / name
        self._folder.mkdir()
        self.certificate, self._key = self._folder / "ca.crt", self._folder / "ca.key"
        made = ("-keyout", self._key, "-out", self.certificate, "-days", "2", "-subj", f"/CN={name}")
        self._openssl("req", "-x509", *_KEY, *made)

    def issue(self, name: str, *, days: int = 2, usage: str = "serverAuth,clientAuth", host: str = NAME) -> Pair:
        """Sign a certificate; one of less than no days has expired."""
        files = {suffix: self._folder / f"{name}.{suffix}" for suffix in ("crt", "key", "csr", "ext")}
        files["ext"].write_text(f"subjectAltName=DNS:{host}\nextendedKeyUsage={usage}\n")
        self._openssl("req", *_KEY, "-keyout", files["key"], "-out", files["csr"], "-subj", f"/CN={name}")
        signed = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", str(days))
        self._openssl("x509", "-req", "-in", files["csr"], "-out", files["crt"], "-extfile", files["ext"], *signed)
        return Pair(files["crt"], files["key"])

    @staticmethod
    def _openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)  # noqa: S607
