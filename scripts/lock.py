# SPDX-License-Identifier: Apache-2.0
"""Writes the files of requirements/: exact versions with hashes, for every platform.

uv resolves for all of them at once; it is fetched into a throw-away environment, as nothing else needs it.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

COMPILE = ("pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--upgrade", "--generate-hashes")
PROJECT = "pyproject.toml"
PLAIN = ("--no-emit-index-url", "--no-header", "--no-annotate")


def main() -> None:
    """Resolve what the image needs first, then the tools, which must agree with it, then those of single jobs."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        tools = Path(folder) / "bin"
        subprocess.run([tools / "pip", "install", "--quiet", "uv"], check=True)
        for target, options in (
            ("requirements/run.txt", (PROJECT,)),
            ("requirements/dev.txt", (PROJECT, "--group", "dev", "--constraints", "requirements/run.txt")),
            ("requirements/fuzz.txt", (PROJECT, "--group", "fuzz", "--constraints", "requirements/run.txt")),
            ("requirements/judge.txt", ("--group", "judge")),
            ("requirements/audit.txt", ("--group", "audit")),
        ):
            arguments = (*COMPILE, *PLAIN, *options, "--output-file", target)
            subprocess.run([tools / "uv", *arguments], check=True)
            print(f"wrote {target}", file=sys.stderr)


if __name__ == "__main__":
    main()
