# SPDX-License-Identifier: Apache-2.0
"""Lays out the content of the image beside its base: ``python scripts/image.py OUT``.

Law: the image runs exactly what is locked. The script builds the wheel, installs it and requirements/run.txt by hash
for the platform of the image, removes the files that no process reads, compiles the rest, and prints the content and
its size. The Dockerfile copies OUT to /usr/local. The tests run it in OUT.
"""

import argparse
import compileall
import importlib.util
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

HOME = Path(__file__).resolve().parent.parent
COMMAND = "keda-gpu-scaler"
PREFIX = PurePosixPath("/usr/local")
"""Where the Dockerfile puts the layout: what a traceback says, and where a shell's PATH finds the command."""

MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
_GLIBCS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
"""The wheels that run on the base's glibc and that the locked packages offer; pip takes the first that there is."""

BUILD_TOOLS = ("hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers")
"""Hatchling and what it needs: all that the builder installs beside what runs."""

_FOR_BUILDERS_ONLY = ("*.pyi", "*.pyx", "*.pxd", "*.c", "*.cc", "*.h", "*.proto", "py.typed")
_STALE_OR_OF_THE_BUILDER = ("RECORD", "REQUESTED", "INSTALLER", "direct_url.json", "entry_points.txt")
# rich imports these to render Markdown and source code, which no command does. Their licences stay.
_UNUSED_PACKAGES = ("markdown_it", "mdurl", "pygments")
_EPOCH_SECONDS = 1_577_836_800  # 2020-01-01: the same input makes the same layer

_LAUNCHER = """\
#!{python} -IBSOO
# Isolated: no environment variable, user folder or site-packages adds to what can be imported; no bytecode is written.
# Optimised: docstrings stay on the disk, and no behaviour of the program is in an assert.
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "lib", "{command}"))

from keda_gpu_scaler.cli import main

main(prog_name="{command}")
"""


def locked(names: Iterable[str], text: str) -> str:
    """Cut these packages, with their versions and hashes, out of a lock file's text.

    Raises:
        SystemExit: the lock file does not have one of them.
    """
    entries = {found[1]: found[0] for found in re.finditer(r"^([a-z0-9-]+)==(?:.*\\\n)*.*\n?", text, re.MULTILINE)}
    if missing := [name for name in names if name not in entries]:
        raise SystemExit(
            f"requirements/dev.txt has no {', '.join(missing)}, which the wheel's build needs: run `make lock`"
        )
    return "".join(entries[name] for name in names)


def build_wheel(folder: Path) -> Path:
    """Build the wheel with hatchling: this Python's own, or else the locked one in a throw-away environment."""
    python = Path(sys.executable)
    if importlib.util.find_spec("hatchling") is None:
        venv.create(folder / "tools", with_pip=True)
        python = folder / "tools" / "bin" / "python"
        (folder / "tools.txt").write_text(locked(BUILD_TOOLS, (HOME / "requirements" / "dev.txt").read_text()))
        _pip(python, "--require-hashes", "--requirement", str(folder / "tools.txt"))
    command = (python, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder / "wheel")
    built = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        raise SystemExit(f"hatchling cannot build the wheel: {built.stderr.strip()}")
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


def install(library: Path, wheel: Path, platform: str | None) -> None:
    """Put the locked packages and the wheel into ``library``, for a platform such as linux/arm64, or this machine."""
    target = ["--target", str(library), "--no-deps", "--no-compile", "--upgrade", "--only-binary", ":all:"]
    if platform:
        version = f"{sys.version_info.major}{sys.version_info.minor}"
        target += ["--implementation", "cp", "--python-version", version]
        for abi in (f"cp{version}", "abi3", "none"):
            target += ["--abi", abi]
        for glibc in _GLIBCS:
            target += ["--platform", f"{glibc}_{MACHINES[platform]}"]
    python = Path(sys.executable)
    _pip(python, *target, "--require-hashes", "--requirement", str(HOME / "requirements" / "run.txt"))
    _pip(python, *target, "--no-index", str(wheel))


def _pip(python: Path, *arguments: str) -> None:
    """Install, and leave this machine's own pip configuration (index, proxies, cache) in force."""
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input", "--root-user-action", "ignore")
    subprocess.run([python, "-m", "pip", "install", *quiet, *arguments], check=True)


def strip(library: Path) -> None:
    """Remove the files that no process reads in the image. Licences and METADATA stay, for people and scanners."""
    shutil.rmtree(library / "bin", ignore_errors=True)
    for pattern in _FOR_BUILDERS_ONLY:
        for path in library.rglob(pattern):
            path.unlink()
    for name in _UNUSED_PACKAGES:
        shutil.rmtree(library / name, ignore_errors=True)
    for folder in library.glob("*.dist-info"):
        for name in _STALE_OR_OF_THE_BUILDER:
            (folder / name).unlink(missing_ok=True)
    for folder in [path for path in library.rglob("*") if path.is_dir() and path.name in {"tests", "__pycache__"}]:
        shutil.rmtree(folder, ignore_errors=True)
    _remove_empty_folders(library)


def _remove_empty_folders(folder: Path) -> None:
    for child in [path for path in folder.iterdir() if path.is_dir()]:
        _remove_empty_folders(child)
    if not any(folder.iterdir()):
        folder.rmdir()


def write_launcher(path: Path, python: str) -> None:
    """Write the command itself: the kernel starts the interpreter that its first line names, no shell is needed."""
    path.parent.mkdir(parents=True)
    path.write_text(_LAUNCHER.format(python=python, command=COMMAND))


def compile_all(out: Path) -> None:
    """Compile once and for all: bytecode that is never held against the source, so nothing is written or stat'ed later.

    Raises:
        SystemExit: a module does not compile.
    """
    done = compileall.compile_dir(
        out / "lib",
        quiet=1,
        stripdir=str(out),
        prependdir=str(PREFIX),
        optimize=2,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not done:
        raise SystemExit("a module does not compile: see above")


def settle(out: Path) -> None:
    """Give every file the rights and the date that do not depend on who builds, and when."""
    for path in (out, *out.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.parent == out / "bin" else 0o644)
        os.utime(path, (_EPOCH_SECONDS, _EPOCH_SECONDS))


def distributions(library: Path) -> Iterator[tuple[str, str]]:
    """Name and version of every distribution in the layout, by name."""
    for path in sorted(library.glob("*.dist-info/METADATA")):
        metadata = HeaderParser().parsestr(path.read_text(encoding="utf-8"))
        yield metadata["Name"], metadata["Version"]


def contents(out: Path) -> str:
    """Say what is in the layout: the distributions, and what the largest parts take, in MiB."""
    library = out / "lib" / COMMAND
    lines = [f"{name} {version}" for name, version in distributions(library)]
    sizes = {path.name: _bytes(path) for path in library.iterdir() if not path.name.endswith(".dist-info")}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:8]:
        lines.append(f"{_mib(size)} {name}")
    files = sum(path.is_file() for path in out.rglob("*"))
    return "\n".join((*lines, f"{_mib(_bytes(out))} in all, {files} files"))


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(_bytes(child) for child in path.iterdir())


def _mib(size: int) -> str:
    return f"{size / 2**20:6.1f} MiB"


def lay_out(out: Path, python: str, platform: str | None = None) -> None:
    """Make the whole layout in a folder that does not exist yet; ``python`` is what will run it.

    Raises:
        SystemExit: the folder exists, the platform is not supported, the bytecode would be of another version, or the
            wheel cannot be built.
        subprocess.CalledProcessError: pip could not install; it said why.
    """
    if out.exists():
        raise SystemExit(f"{out} exists: name a folder that does not")
    if platform and platform not in MACHINES:
        raise SystemExit(f"platform: Unsupported value: {platform!r}: supported values: {', '.join(MACHINES)}")
    named = re.search(r"(\d+\.\d+)$", python)
    if named and named[1] != (mine := f"{sys.version_info.major}.{sys.version_info.minor}"):
        raise SystemExit(f"the image runs {python}, but this is Python {mine}, whose bytecode that one does not read")
    library = out / "lib" / COMMAND
    with tempfile.TemporaryDirectory() as folder:
        install(library, build_wheel(Path(folder)), platform)
    strip(library)
    write_launcher(out / "bin" / COMMAND, python)
    compile_all(out)
    settle(out)


def main() -> None:
    """Read the command line, lay it out, say what there is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the image  [default: this one]")
    parser.add_argument("--platform", help="linux/amd64 or linux/arm64  [default: this machine's]")
    options = parser.parse_args()
    try:
        lay_out(options.out.absolute(), options.python, options.platform)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(map(str, error.cmd[:4]))} ended with {error.returncode}: see above") from None
    print(contents(options.out.absolute()))


if __name__ == "__main__":
    main()
