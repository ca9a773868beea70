# SPDX-License-Identifier: Apache-2.0
"""The repository's own laws: who may import whom, what is generated, what a file may say."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from scripts.reference import FOLDER, pages

import keda_gpu_scaler

HOME = Path(__file__).resolve().parent.parent
SOURCE = HOME / "src" / "keda_gpu_scaler"
CORE_MAY_IMPORT = frozenset(
    {
        "bisect",
        "collections",
        "dataclasses",
        "difflib",
        "enum",
        "fractions",
        "functools",
        "itertools",
        "json",
        "math",
        "operator",
        "weakref",
    }
    | {"ipaddress", "re", "types", "typing", "urllib"}  # of urllib the part that takes URLs apart
)
# Places of people and their tools; each built from two parts, so that this file passes its own test.
FOREIGN = re.compile(
    "|".join(("/wo" + "rk/", "py" + r"pi\.org", "python" + "hosted", r"proxy\." + "golang", "/ro" + "ot/"))
)


def tracked() -> list[Path]:
    """Every file of the project; outside a checkout (a source archive) there is nothing to ask."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=HOME, capture_output=True, text=True, check=False)  # noqa: S607
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [HOME / name for name in listing.stdout.split("\0") if name and (HOME / name).is_file()]


def broken_contracts(folder: Path) -> str:
    """Hold a tree against its import contracts; return what is broken, nothing when all is well.

    In a process of its own, because import-linter sets up logging as it pleases.
    """
    lint = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports;"
    script = f"{lint} sys.exit(lint_imports(no_cache=True))"
    outcome = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    return "" if outcome.returncode == 0 else outcome.stdout + outcome.stderr


def test_who_may_import_whom() -> None:
    assert broken_contracts(HOME) == ""


def test_a_broken_import_contract_is_found_out(tmp_path: Path) -> None:
    broken = tmp_path / "house_that_leaks"
    broken.mkdir()
    (broken / "__init__.py").touch()
    (broken / "core.py").write_text("from house_that_leaks import agent\n")
    (broken / "agent.py").touch()
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_package = "house_that_leaks"\n[[tool.importlinter.contracts]]\nname = "downwards"\n'
        'type = "layers"\nlayers = ["house_that_leaks.agent", "house_that_leaks.core"]\n'
    )
    assert "downwards BROKEN" in broken_contracts(tmp_path)


@pytest.mark.parametrize(
    "path", sorted((SOURCE / "core").rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE))
)
def test_core_imports_the_pure_part_of_the_standard_library_and_itself(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    for module in imported:
        assert module.startswith("keda_gpu_scaler.core.") or module.split(".")[0] in CORE_MAY_IMPORT


def test_importing_the_scaler_loads_no_driver_binding() -> None:
    script = (
        "import sys, keda_gpu_scaler.agent, keda_gpu_scaler.devices.nvml.backend; sys.exit('pynvml' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_serving_imports_none_of_the_other_commands() -> None:
    script = (
        "import sys; from keda_gpu_scaler.cli import serve; import keda_gpu_scaler.agent;"
        "print(*(name for name in sys.modules if name.startswith('keda_gpu_scaler.cli.')))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) == {f"keda_gpu_scaler.cli.{name}" for name in ("completion", "logs", "options", "serve")}


def test_serving_imports_no_part_of_a_simulation() -> None:
    script = (
        "import sys; from keda_gpu_scaler.cli import serve; import keda_gpu_scaler.agent;"
        "sys.exit(any(name.startswith('keda_gpu_scaler.simulate') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    "path", sorted((SOURCE / "simulate").rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE))
)
def test_a_simulation_imports_the_standard_library_core_engines_and_wire(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            house = [f"keda_gpu_scaler.{part}" for part in ("core", "engines", "wire", "simulate")]
            assert name.split(".")[0] in sys.stdlib_module_names or name.startswith(tuple(house)), name


def test_serving_loads_no_openssl_and_other_code_can_load_it() -> None:
    script = (
        "import sys; from keda_gpu_scaler.cli import main; main.get_command(None, 'serve');"
        "import keda_gpu_scaler.agent, keda_gpu_scaler.devices.nvml.backend, pynvml;"
        "assert 'asyncio' in sys.modules and not {'ssl', '_hashlib'} & set(sys.modules);"
        "import ssl; ssl.create_default_context()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_generated_stubs_are_those_of_the_protos(tmp_path: Path) -> None:
    protos = sorted((HOME / "proto").glob("*.proto"))
    generate = (
        *("-m", "grpc_tools.protoc", "-Ikeda_gpu_scaler/wire=proto"),
        *(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}"),
        *(f"keda_gpu_scaler/wire/{path.name}" for path in protos),
    )
    subprocess.run([sys.executable, *generate], cwd=HOME, check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "keda_gpu_scaler" / "wire").iterdir()}
    assert len(made) == 3 * len(protos)
    assert made == {name: (SOURCE / "wire" / name).read_text() for name in made}


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_reference_is_what_the_code_says(name: str) -> None:
    assert (FOLDER / name).read_text() == pages()[name], "stale: run `make docs`"


def test_every_source_file_states_its_licence() -> None:
    for path in tracked():
        if path.suffix in {".py", ".c", ".proto"} and "_pb2" not in path.name and path.stat().st_size:
            assert "SPDX-License-Identifier: Apache-2.0" in path.read_text()[:200], path


def test_the_project_speaks_of_itself_alone() -> None:
    for path in tracked():
        if path.suffix != ".gz" and path.name != "LICENSE":
            found = FOREIGN.search(path.read_text(errors="replace"))  # the corpus of the fuzz targets has binary files
            assert not found, f"{path}: {found}"


def test_the_lock_files_cover_what_the_project_declares_and_hash_it() -> None:
    declared = tomllib.loads((HOME / "pyproject.toml").read_text())
    for name, requirements in (
        ("run", declared["project"]["dependencies"]),
        ("dev", declared["project"]["dependencies"] + declared["dependency-groups"]["dev"]),
        ("fuzz", declared["project"]["dependencies"] + declared["dependency-groups"]["fuzz"]),
    ):
        locked = (HOME / "requirements" / f"{name}.txt").read_text()
        pinned = set(re.findall(r"^([a-z0-9-]+)==", locked, re.MULTILINE))
        assert {re.split(r"[<>=]", one)[0] for one in requirements} <= pinned
        assert "--hash=sha256:" in locked


def test_every_law_of_the_first_page_has_a_test_that_bears_its_name() -> None:
    page = (HOME / "docs" / "architecture.md").read_text().partition("## Five laws")[2].partition("\n## ")[0]
    laws = re.findall(r"^(\d)\. \*\*", page, re.MULTILINE)
    assert laws == list("12345")
    tests = "".join(path.read_text() for path in (HOME / "tests").rglob("test_*.py"))
    for law in laws:
        assert re.search(rf"def test_law_{law}_", tests), law


def test_every_decision_record_is_listed() -> None:
    folder = HOME / "docs" / "decisions"
    listed = set(re.findall(r"\]\((.*?\.md)\)", (folder / "README.md").read_text()))
    assert listed == {path.name for path in folder.glob("0*.md")}


def test_the_changelog_knows_this_version() -> None:
    assert f"## {keda_gpu_scaler.__version__}" in (HOME / "CHANGELOG.md").read_text()


def test_every_make_target_of_the_help_exists_and_says_what_it_does() -> None:
    shown = subprocess.run(["make", "help"], cwd=HOME, capture_output=True, text=True, check=True).stdout  # noqa: S607
    promised = {"help", "setup", "run", "check", "test", "fmt", "proto", "docs", "bench", "fuzz"}
    promised |= {"build", "image", "docker-release", "chart", "manifests", "deploy", "undeploy"}
    assert set(re.findall(r"make ([\w-]+)", shown)) >= promised
