# SPDX-License-Identifier: Apache-2.0
"""``make image`` and ``make docker-release`` with a docker that writes down what it is told."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import image_docker

import keda_gpu_scaler

HOME = Path(__file__).resolve().parent.parent.parent
VERSION = f"v{keda_gpu_scaler.__version__}"
BASE = "sha256:" + "b" * 64
PUSHED = "sha256:" + "c" * 64
_DOCKER = """\
#!{python}
import json, os, sys
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(arguments) + "\\n")
broken = os.environ.get("BROKEN", "")
if broken and " ".join(arguments).startswith(broken):
    print("something about it\\nthe daemon is away", file=sys.stderr)
    sys.exit(7)
if arguments[0] == "run":
    print("container-1")
if arguments[0] == "inspect":
    print(os.environ.get("ENDED", "0"))
if arguments[:3] == ["buildx", "imagetools", "inspect"]:
    print({base!r})
if "--metadata-file" in arguments:
    with open(arguments[arguments.index("--metadata-file") + 1], "w") as file:
        json.dump({{"containerimage.digest": {pushed!r}}}, file)
"""


class Checkout:
    """A clean, tagged checkout of what a release reads, and a docker on the PATH beside git."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = folder / "home"
        self.log = folder / "docker.log"
        self.docker = folder / "bin" / "docker"
        (self.home / "src" / "keda_gpu_scaler").mkdir(parents=True)
        for name in ("Dockerfile", ".gitignore", "src/keda_gpu_scaler/__init__.py"):
            shutil.copy(HOME / name, self.home / name)
        self.docker.parent.mkdir()
        self.docker.write_text(_DOCKER.format(python=sys.executable, log=str(self.log), base=BASE, pushed=PUSHED))
        self.docker.chmod(0o755)
        git = shutil.which("git")
        assert git is not None
        (self.docker.parent / "git").symlink_to(git)
        monkeypatch.setenv("PATH", str(self.docker.parent))
        for role in ("AUTHOR", "COMMITTER"):
            monkeypatch.setenv(f"GIT_{role}_NAME", "a")
            monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@example.com")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        monkeypatch.setattr(image_docker, "HOME", self.home)
        self.git("init", "--quiet")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "first")
        self.git("tag", VERSION)

    def git(self, *arguments: str) -> str:
        command = ("git", *arguments)
        done = subprocess.run(command, cwd=self.home, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    return Checkout(tmp_path, monkeypatch)


def release(version: str = VERSION) -> None:
    image_docker.release("registry.example/scaler", version, "linux/amd64,linux/arm64")


def test_a_release_is_pushed_on_pinned_bases_and_written_down(checkout: Checkout) -> None:
    release()
    build = checkout.calls()[-1]
    head = checkout.git("rev-parse", "HEAD")
    assert build[:5] == ["buildx", "build", "--platform", "linux/amd64,linux/arm64", "--push"]
    arguments = dict(build[at + 1].split("=", 1) for at, word in enumerate(build) if word == "--build-arg")
    bases = image_docker.bases()
    assert arguments == {
        "VERSION": keda_gpu_scaler.__version__,
        "REVISION": head,
        "RUNTIME_DIGEST": BASE,
        "BUILDER": f"{bases['BUILDER']}@{BASE}",
        "RUNTIME": f"{bases['RUNTIME']}@{BASE}",
    }
    assert {"--sbom", "--provenance", f"registry.example/scaler:{VERSION}"} <= set(build)
    assert json.loads((checkout.home / "dist" / "image.json").read_text()) == {
        "image": "registry.example/scaler",
        "tags": [keda_gpu_scaler.__version__, VERSION],
        "digest": PUSHED,
        "platforms": ["linux/amd64", "linux/arm64"],
        "revision": head,
        "bases": {name.lower(): f"{tag}@{BASE}" for name, tag in bases.items()},
    }
    # What a release leaves behind is ignored, so that the next one finds a clean checkout.
    assert checkout.git("status", "--porcelain") == ""


def test_every_argument_of_a_release_is_one_of_the_dockerfile(checkout: Checkout) -> None:
    release()
    build = checkout.calls()[-1]
    given = {build[at + 1].partition("=")[0] for at, word in enumerate(build) if word == "--build-arg"}
    assert given <= set(re.findall(r"^ARG (\w+)", (HOME / "Dockerfile").read_text(), re.MULTILINE))


def test_an_image_is_built_into_the_local_engine(checkout: Checkout) -> None:
    image_docker.build("scaler")
    assert checkout.calls()[-1][:5] == ["buildx", "build", "--load", "--tag", f"scaler:{keda_gpu_scaler.__version__}"]


def test_a_reference_with_a_tag_is_built_under_it_and_not_released(checkout: Checkout) -> None:
    image_docker.build("registry.example:5000/scaler:try")
    assert "registry.example:5000/scaler:try" in checkout.calls()[-1]
    image_docker.build("registry.example:5000/scaler")
    assert f"registry.example:5000/scaler:{keda_gpu_scaler.__version__}" in checkout.calls()[-1]
    with pytest.raises(SystemExit, match="a release sets the tags; leave try out"):
        image_docker.release("registry.example:5000/scaler:try", VERSION, "linux/amd64")


def test_an_image_that_answers_and_ends_is_fine_and_gone_afterwards(checkout: Checkout) -> None:
    image_docker.smoke("scaler:try")
    words = [call[0] for call in checkout.calls()]
    assert words[-5:] == ["run", "exec", "stop", "inspect", "rm"]
    run = next(call for call in checkout.calls() if call[0] == "run")
    assert {"--read-only", "no-new-privileges", "ALL", "scaler:try"} <= set(run)


SICK = [
    pytest.param({"BROKEN": "run"}, "docker cannot run scaler:try: the daemon is away", id="it does not start"),
    pytest.param({"BROKEN": "exec"}, "scaler:try: answered: False; ended with: 0", id="it does not answer"),
    pytest.param({"ENDED": "137"}, "scaler:try: answered: True; ended with: 137", id="it had to be killed"),
]


@pytest.mark.parametrize(("environment", "sentence"), SICK)
def test_an_image_that_does_not_work_is_told(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], sentence: str
) -> None:
    monkeypatch.setattr(image_docker, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(image_docker, "_TRIES", 2)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        image_docker.smoke("scaler:try")
    if "run" not in environment.values():
        assert checkout.calls()[-1][:2] == ["rm", "--force"]


VERSIONS = [
    pytest.param("", f"VERSION is missing: make docker-release VERSION={VERSION}", id="no version"),
    pytest.param("v9.9.9", f'VERSION: Invalid value: "v9.9.9": the package is {VERSION}', id="another version"),
    pytest.param(VERSION[1:], f'Invalid value: "{VERSION[1:]}"', id="a version without its v"),
]


@pytest.mark.parametrize(("version", "sentence"), VERSIONS)
def test_a_version_that_is_not_the_packages_is_refused(checkout: Checkout, version: str, sentence: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        release(version)
    assert checkout.calls() == []


def test_what_is_not_committed_is_refused(checkout: Checkout) -> None:
    (checkout.home / "new").touch()
    with pytest.raises(SystemExit, match=r"^not committed: new; a release is one commit"):
        release()
    (checkout.home / "newer").touch()
    with pytest.raises(SystemExit, match=r"^not committed: new and 1 more"):
        release()
    assert checkout.calls() == []


def test_a_tag_that_is_elsewhere_or_missing_is_refused(checkout: Checkout) -> None:
    checkout.git("commit", "--quiet", "--allow-empty", "--message", "second")
    with pytest.raises(SystemExit, match=f"the tag {VERSION} is not on this commit"):
        release()
    checkout.git("tag", "--delete", VERSION)
    with pytest.raises(SystemExit, match=f"git tag --sign {VERSION}"):
        release()
    assert checkout.calls() == []


BROKEN = [
    pytest.param("buildx version", "docker has no buildx", id="no buildx"),
    pytest.param("info", "its daemon does not: the daemon is away; start it", id="no daemon"),
    pytest.param("buildx imagetools", "no digest for python:3.13", id="a registry that does not say"),
    pytest.param("buildx build", "docker buildx build ended with 7: see above", id="a build that fails"),
]


@pytest.mark.parametrize(("broken", "sentence"), BROKEN)
def test_what_docker_lacks_is_said_in_a_sentence(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, broken: str, sentence: str
) -> None:
    monkeypatch.setenv("BROKEN", broken)
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        release()
    assert not (checkout.home / "dist" / "image.json").exists()


def test_no_docker_at_all_is_said_too(checkout: Checkout) -> None:
    checkout.docker.unlink()
    with pytest.raises(SystemExit, match="docker is not on the PATH"):
        image_docker.build("scaler")


def test_no_checkout_at_all_is_said_too(checkout: Checkout) -> None:
    shutil.rmtree(checkout.home / ".git")
    with pytest.raises(SystemExit, match="a release is made from a git checkout"):
        release()
