# SPDX-License-Identifier: Apache-2.0
"""Lays out the content of the image once a session, with the script that the Dockerfile runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent.parent
_NO_INDEX = ("Could not find a version", "No matching distribution", "NewConnectionError", "Temporary failure")


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Dockerfile copies to /usr/local, for this Python; skipped where no package index can be reached."""
    out = tmp_path_factory.mktemp("image") / "layout"
    command = (sys.executable, HOME / "scripts" / "image.py", out)
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0 and "CI" not in os.environ and any(sign in made.stderr for sign in _NO_INDEX):
        pytest.skip("no package index can be reached")
    assert made.returncode == 0, made.stderr
    return out
