# SPDX-License-Identifier: Apache-2.0
"""Tests the script of the image's root: what it skips, and what it shares with the Dockerfile."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import image_test

HOME = Path(__file__).resolve().parent.parent.parent


def test_it_is_about_the_base_the_python_and_the_user_of_the_dockerfile() -> None:
    dockerfile = (HOME / "Dockerfile").read_text()
    assert re.search(r"^ARG RUNTIME=\S*/python3-debian13:nonroot$", dockerfile, re.MULTILINE)
    assert image_test.SUITE == "trixie"  # the name of Debian 13
    assert f"--python {image_test.PYTHON}\n" in dockerfile
    assert f"USER {image_test.UID}:{image_test.UID}" in dockerfile


def test_a_machine_without_the_programs_skips_it_with_one_line(tmp_path: Path) -> None:
    command = (sys.executable, HOME / "scripts" / "image_test.py")
    shown = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == "skipped: apt-get is not installed\n"


def test_a_machine_without_a_python_of_the_image_skips_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_PYTHON", str(tmp_path / "python3.13"))
    with pytest.raises(image_test.SkippedError, match="which makes the layout; name one: IMAGE_PYTHON=PATH"):
        image_test.lay_out(tmp_path, tmp_path)
