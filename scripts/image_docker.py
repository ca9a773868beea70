# SPDX-License-Identifier: Apache-2.0
"""Builds, tests and publishes the image: ``image_docker.py build``, ``smoke``, ``release v0.1.0``.

The law of this script: a release is one commit, and names all that it was made of. It refuses what is not committed,
not tagged, or called otherwise than the package, looks up the digests that the tags of both bases mean now, builds on
those, and writes what came out of it to dist/image.json.
"""

import argparse
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
IMAGE = "ghcr.io/keda-gpu-scaler/keda-gpu-scaler"
PLATFORMS = "linux/amd64,linux/arm64"
_TRIES = 30  # with the pause half a minute at least, for a machine that is busy
_PAUSE_SECONDS = 1.0
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def package_version() -> str:
    """The version that the package states, without importing it."""
    text = (HOME / "src" / "keda_gpu_scaler" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit("src/keda_gpu_scaler/__init__.py states no __version__")
    return found[1]


def bases() -> dict[str, str]:
    """The Dockerfile's bases by their build argument."""
    return dict(re.findall(r"^ARG (BUILDER|RUNTIME)=(\S+)$", (HOME / "Dockerfile").read_text(), re.MULTILINE))


def check_docker() -> None:
    """See that everything needed is there.

    Raises:
        SystemExit: docker, its buildx plugin or its daemon is missing; says which, and what to do.
    """
    if shutil.which("docker") is None:
        raise SystemExit("docker is not on the PATH: install Docker 23 or later, or another engine under that name")
    if _run("docker", "buildx", "version").returncode != 0:
        raise SystemExit("docker has no buildx, which the Dockerfile needs: install the plugin (docker-buildx-plugin)")
    if (answer := _run("docker", "info", "--format", "{{.ServerVersion}}")).returncode != 0:
        raise SystemExit(f"docker answers, but its daemon does not: {_last_line(answer.stderr)}; start it")


def check_version(version: str) -> None:
    """See that the version is the package's.

    Raises:
        SystemExit: it is missing or another one.
    """
    wanted = f"v{package_version()}"
    if not version:
        raise SystemExit(f"VERSION is missing: make docker-release VERSION={wanted}")
    if version != wanted:
        raise SystemExit(
            f'VERSION: Invalid value: "{version}": the package is {wanted}; change __version__ in '
            "src/keda_gpu_scaler/__init__.py, or release that"
        )


def check_commit(version: str) -> str:
    """See that what is built is the commit that bears the version; return the commit.

    Raises:
        SystemExit: not a checkout, something is not committed, or the tag is elsewhere or missing.
    """
    status = _run("git", "status", "--porcelain")
    if status.returncode != 0:
        raise SystemExit(f"a release is made from a git checkout: {_last_line(status.stderr)}")
    if changes := status.stdout.splitlines():
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        raise SystemExit(f"not committed: {changes[0][3:]}{more}; a release is one commit: commit or remove it first")
    head = _run("git", "rev-parse", "HEAD").stdout.strip()
    if _run("git", "rev-list", "-n1", f"refs/tags/{version}", "--").stdout.strip() != head:
        raise SystemExit(f"the tag {version} is not on this commit ({head[:12]}): git tag --sign {version}")
    return head


def digest_of(reference: str) -> str:
    """Ask the registry which digest a tag means now.

    Raises:
        SystemExit: it does not say.
    """
    answer = _run("docker", "buildx", "imagetools", "inspect", reference, "--format", "{{.Manifest.Digest}}")
    found = _DIGEST.fullmatch(answer.stdout.strip())
    if answer.returncode != 0 or found is None:
        raise SystemExit(f"no digest for {reference}: {_last_line(answer.stderr or answer.stdout)}")
    return found[0]


def build(image: str) -> None:
    """Build the image of this working tree for this machine, into the local engine."""
    check_docker()
    version = package_version()
    revision = _run("git", "rev-parse", "HEAD").stdout.strip()
    arguments = ("--build-arg", f"VERSION={version}", "--build-arg", f"REVISION={revision}")
    reference = image if _has_tag(image) else f"{image}:{version}"
    _docker("buildx", "build", "--load", "--tag", reference, *arguments, ".")
    print(f"built {reference}")


def smoke(reference: str) -> None:
    """Run an image as a cluster would at its strictest, ask it as KEDA does, and end it as the kubelet does.

    Raises:
        SystemExit: it does not answer, or does not end by itself with 0; its log is shown.
    """
    check_docker()
    strict = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none")
    started = _run("docker", "run", "--detach", *strict, reference, "serve", "--backend", "synthetic")
    if started.returncode != 0:
        raise SystemExit(f"docker cannot run {reference}: {_last_line(started.stderr)}")
    container = started.stdout.strip()
    try:
        probe = ("docker", "exec", container, "keda-gpu-scaler", "probe", "--metadata", "scope=fleet")
        answered = False
        for _ in range(_TRIES):
            if answered := _run(*probe, "--metadata", "report=average").returncode == 0:
                break
            time.sleep(_PAUSE_SECONDS)
        _run("docker", "stop", "-t", "10", container)
        status = _run("docker", "inspect", "--format", "{{.State.ExitCode}}", container).stdout.strip()
        if not answered or status != "0":
            log = _run("docker", "logs", container).stderr
            raise SystemExit(f"{log}{reference}: answered: {answered}; ended with: {status}")
    finally:
        _run("docker", "rm", "--force", container)
    print(f"{reference} answers and ends")


def release(image: str, version: str, platforms: str) -> None:
    """Build for all platforms on bases pinned by digest, push, and write down what was pushed."""
    if _has_tag(image):
        raise SystemExit(
            f"IMAGE: Invalid value: {image!r}: a release sets the tags; leave {image.rpartition(':')[2]} out"
        )
    check_version(version)
    commit = check_commit(version)
    check_docker()
    pinned = {name: (tag, digest_of(tag)) for name, tag in bases().items()}
    arguments = [f"VERSION={version[1:]}", f"REVISION={commit}", f"RUNTIME_DIGEST={pinned['RUNTIME'][1]}"]
    arguments += [f"{name}={tag}@{digest}" for name, (tag, digest) in pinned.items()]
    metadata = HOME / "dist" / "buildx.json"
    metadata.parent.mkdir(exist_ok=True)
    _docker(
        *("buildx", "build", "--platform", platforms, "--push"),
        *("--provenance", "mode=max", "--sbom", "true", "--metadata-file", str(metadata)),
        *("--tag", f"{image}:{version[1:]}", "--tag", f"{image}:{version}"),
        *(part for argument in arguments for part in ("--build-arg", argument)),
        ".",
    )
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    metadata.unlink()
    record = {
        "image": image,
        "tags": [version[1:], version],
        "digest": digest,
        "platforms": platforms.split(","),
        "revision": commit,
        "bases": {name.lower(): f"{tag}@{base}" for name, (tag, base) in pinned.items()},
    }
    (HOME / "dist" / "image.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"pushed {image}:{version}@{digest}; dist/image.json names its bases")


def _has_tag(image: str) -> bool:
    return ":" in image.rpartition("/")[2]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)


def _docker(*arguments: str) -> None:
    command = ("docker", *arguments)
    if (status := subprocess.run(command, cwd=HOME, check=False).returncode) != 0:
        raise SystemExit(f"docker {' '.join(arguments[:2])} ended with {status}: see above")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "it said nothing"


def main() -> None:
    """Read the command line, do it."""
    parser = argparse.ArgumentParser(description="Build the image, try it, or release it.")
    parser.add_argument("what", choices=("build", "smoke", "release"))
    parser.add_argument("version", nargs="?", default="", help="for release: v and the package's version")
    parser.add_argument("--image", default=IMAGE, help="the repository to tag and push to  [default: %(default)s]")
    parser.add_argument("--platforms", default=PLATFORMS, help="for release  [default: %(default)s]")
    options = parser.parse_args()
    if options.what == "build":
        build(options.image)
    elif options.what == "smoke":
        smoke(
            options.image if _has_tag(options.image) or "@" in options.image else f"{options.image}:{package_version()}"
        )
    else:
        release(options.image, options.version, options.platforms)


if __name__ == "__main__":
    main()
