# SPDX-License-Identifier: Apache-2.0
"""Checks the words of the repository: class names, first lines, asserts and the old vocabulary."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent
SOURCE = HOME / "src" / "keda_gpu_scaler"
LONGEST_FIRST_LINE = 100

# Words that readers stumbled over. docs/architecture.md lists the terms in use.
OLD_VOCABULARY = (
    *("told", "tells?", "telling", "handed", "verdicts?", "sights?", "unseen", "heard", "unheard", "hears?", "heirs?"),
    *("lacks?", "lets? go", "nobody", "somebody", "anybody", "whoever", "outlook", "prospect", "strangers?", "asleep"),
    *("silent", "silence", "believed", "for want of", "all the same", "by itself it", "trails", "garbage"),
)
# A word may stand in an identifier: "_told" and "told_at" count, "retold" does not.
_OLD = re.compile(rf"(?<![a-zA-Z])({'|'.join(OLD_VOCABULARY)})(?![a-zA-Z])", re.IGNORECASE)


LISTS_OLD_NAMES = ("docs/guides/migrating-from-keda-gpu-scaler.md", "docs/decisions/0022-names-of-the-field.md")
"""Pages that list renamed names: there an old word may stand in backticks."""


def python_files(*folders: str) -> list[Path]:
    """Return the hand-written Python files below these folders."""
    return sorted(path for name in folders for path in (HOME / name).rglob("*.py") if "_pb2" not in path.name)


def pages() -> list[Path]:
    """Return every text that readers of the repository see, except the licence."""
    found = [*(HOME / "docs").rglob("*.md"), *HOME.glob("*.md"), *(HOME / "proto").glob("*.proto")]
    for pattern in ("*.md", "*.yaml", "*.tpl", "*.txt"):
        found += (HOME / "deploy").rglob(pattern)
    return sorted(found)


def titles(path: Path) -> str:
    return str(path.relative_to(HOME))


def old_words(text: str) -> list[str]:
    """Return each line that holds a word of the old vocabulary."""
    return [f"{number}: {line.strip()}" for number, line in enumerate(text.splitlines(), 1) if _OLD.search(line)]


def first_line_problem(text: str) -> str | None:
    """Return what is wrong with the first line of a module's docstring."""
    line = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    if not line:
        return "it has no docstring"
    if len(line) > LONGEST_FIRST_LINE:
        return f"{len(line)} characters: {line}"
    if not line.endswith(".") or "?" in line:
        return f"not a sentence: {line}"
    return None


# One test for all files, and not one for each: there are hundreds, and each test costs more than the check of a file.


def test_a_class_name_occurs_once_in_the_package_and_no_behaviour_is_in_an_assert() -> None:
    modules, asserts = defaultdict(list), []
    for path in python_files("src"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                modules[node.name].append(titles(path))
            elif isinstance(node, ast.Assert):
                asserts.append(f"{titles(path)}:{node.lineno}")
    assert {name: found for name, found in modules.items() if len(found) > 1} == {}
    assert asserts == []


def test_the_first_line_of_every_module_is_a_plain_sentence() -> None:
    texts = {path: path.read_text() for path in python_files("src", "tests", "scripts", "benchmarks")}
    problems = {titles(path): first_line_problem(text) for path, text in texts.items() if text}
    assert {title: problem for title, problem in problems.items() if problem} == {}


def test_no_word_of_the_old_vocabulary_is_left() -> None:
    found = {}
    for path in [*python_files("src"), *pages()]:
        text = path.read_text()
        if titles(path) in LISTS_OLD_NAMES:
            text = re.sub(r"`[^`\n]+`", "", text)
        found[titles(path)] = old_words(text)
    assert {title: lines for title, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("the value that KEDA was told", id="in a sentence"),
        pytest.param("self._told = value", id="in a private name"),
        pytest.param("told_at_seconds = 1.0", id="at the beginning of a name"),
        pytest.param("Nobody knows", id="with a capital"),
        pytest.param("the watch lets go", id="of two words"),
    ],
)
def test_an_old_word_is_found(line: str) -> None:
    assert old_words(line) == [f"1: {line}"]


def test_a_word_that_contains_an_old_one_is_none() -> None:
    assert old_words("a retold story of insights, blacklists and a hearing") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param('"""Reads devices."""', None, id="a sentence"),
        pytest.param("x = 1", "it has no docstring", id="no docstring"),
        pytest.param('"""What does it read?"""', "not a sentence: What does it read?", id="a question"),
        pytest.param(f'"""{"a" * 100}."""', f"101 characters: {'a' * 100}.", id="too long"),
    ],
)
def test_a_first_line_is_checked(text: str, problem: str | None) -> None:
    assert first_line_problem(text) == problem
