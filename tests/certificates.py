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
    """A CA of the test's own, whose files are in ``folder``; ``issued_by`` another one, or by itself."""

    def __init__(self, folder: Path, name: str = "ca", issued_by: "Authority | None" = None) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl command to make certificates with")
        self._folder = folder / name
        self._folder.mkdir()
        self.certificate, self._key = self._folder / "ca.crt", self._folder / "ca.key"
        if issued_by is not None:
            issued_by.sign(name, self.certificate, self._key, "basicConstraints=critical,CA:TRUE\n")
            return
        made = ("-keyout", self._key, "-out", self.certificate, "-days", "2", "-subj", f"/CN={name}")
        self._openssl("req", "-x509", *_KEY, *made)

    def issue(self, name: str, *, days: int = 2, usage: str = "serverAuth,clientAuth", host: str = NAME) -> Pair:
        """Sign a certificate; one of less than no days has expired."""
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        self.sign(name, certificate, key, f"subjectAltName=DNS:{host}\nextendedKeyUsage={usage}\n", days=days)
        return Pair(certificate, key)

    def sign(self, name: str, certificate: Path, key: Path, extensions: str, *, days: int = 2) -> None:
        """Sign a certificate with these extensions, and write it and its key to these files."""
        request, listed = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        listed.write_text(extensions)
        self._openssl("req", *_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        signed = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", str(days))
        self._openssl("x509", "-req", "-in", request, "-out", certificate, "-extfile", listed, *signed)

    @staticmethod
    def _openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)  # noqa: S607
