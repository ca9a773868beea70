# SPDX-License-Identifier: Apache-2.0
"""Compares links, commands, chart values, messages and triggers of all pages with the code.

Law: each check is a function from the text of a page to its problems, and a page with one mistake shows that the check
finds it.

The label of a fence selects its checks. ``yaml`` holds objects for a cluster, and their external triggers must parse.
``yaml values`` holds values of the chart, and ``yaml foreign`` objects of other programs. Each line of a fence
``message`` is one message of this program, with … for a part that varies.
"""

import ast
import functools
import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from keda_gpu_scaler.cli import main as cli
from keda_gpu_scaler.core.trigger.parser import PARAMETERS, TriggerError, parse_trigger

HOME = Path(__file__).resolve().parent.parent
CHART = HOME / "deploy" / "helm" / "keda-gpu-scaler"
PROGRAM = "keda-gpu-scaler"
MAX_LINES = 60
"""The limit for prose, tables and lists between two headings."""
MIN_QUOTE_LENGTH = 8
"""The number of literal characters that a quoted message needs: a shorter one would match everywhere."""

FLAGS_OF_OTHER_PROGRAMS = {
    "--allow-metrics": "Triton",
    "--cap-add": "docker",
    "--disable-log-stats": "vLLM",
    "--disable-metrics": "LMDeploy",
    "--enable-metrics": "SGLang",
    "--engine-request-limit": "Dynamo",
    "--gpu-driver": "az",
    "--gpu-instance-profile": "az",
    "--gpu-memory-utilization": "vLLM",
    "--labels": "az",
    "--max-num-seqs": "vLLM",
    "--query-gpu": "nvidia-smi",
    "--metrics": "llama.cpp",
    "--metrics-config": "Triton",
    "--metrics-endpoint-auth": "the endpoint picker",
    "--metrics-exporter-host": "Xinference",
    "--metrics-exporter-port": "Xinference",
    "--metrics-per-host": "ingress-nginx",
    "--root-dir": "the kubelet",
    "--sleep-idle-seconds": "llama.cpp",
}
FILE_ENDINGS = (".crt", ".key", ".json", ".yaml")
"""The endings of file names that look like a value of the chart."""
KEDA_METRIC_TYPES = {"Value", "AverageValue"}
"""The values of KEDA's ``metricType``, which is beside the metadata. The key within the metadata is the scaler's."""

_FENCE = re.compile(r"^( *)(```+)([^\n]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^(#{1,6}) +(.+?) *$", re.MULTILINE)
_DOTTED = re.compile(r"([a-z][A-Za-z]*(?:\.[A-Za-z][A-Za-z0-9]*)+)(?:: .*)?")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_LOGGED = re.compile(r"%[-+ #0-9.]*[sdrfga]")
_GAP = "\0"


def pages() -> list[Path]:
    """Every page of the project."""
    folders = ("docs", "deploy", "recordings", "benchmarks")
    return sorted([*HOME.glob("*.md"), *(page for folder in folders for page in (HOME / folder).rglob("*.md"))])


def title_of(page: Path) -> str:
    return str(page.relative_to(HOME))


# ---- the parts of a page ----


def fences(text: str) -> Iterator[tuple[str, str]]:
    """Yield the label and the content of each fenced block, without indentation."""
    for match in _FENCE.finditer(text):
        indent = match[1]
        yield match[3].strip(), re.sub(rf"^{indent}", "", match[4], flags=re.MULTILINE)


def prose(text: str) -> str:
    """Return the page without its fenced blocks."""
    return _FENCE.sub("", text)


def spans(text: str) -> list[str]:
    return _SPAN.findall(prose(text))


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in shell blocks, and of each span that is a command of this program."""
    scripts = [content for label, content in fences(text) if label == "sh"]
    scripts += [span for span in spans(text) if span.startswith(f"{PROGRAM} ")]
    for script in scripts:
        for line in script.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            try:
                words = list(lexer)
            except ValueError:
                continue  # a part of a shell construct, such as the lines of a here-document
            command: list[str] = []
            for word in [*words, ";"]:
                if re.fullmatch(r"[|&;<>]+", word):
                    if command:
                        yield command
                    command = []
                else:
                    command.append(word)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for _, heading in _HEADING.findall(prose(text)):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


# ---- the checks ----


def broken_links(text: str, page: Path) -> Iterator[str]:
    """Yield the links to files or headings that do not exist."""
    for target in _LINK.findall(_SPAN.sub("", prose(text))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        if not found.exists():
            yield f"{target}: there is no {name}"
        elif anchor and anchor not in anchors(text if found == page else found.read_text()):
            yield f"{target}: {found.name} has no heading of this name"


def unknown_flags(text: str, page: Path) -> Iterator[str]:
    """Yield the flags, commands and variables of this program that a page names and that do not exist."""
    for words in commands(text):
        yield from wrong_arguments(words)
    every = {flag for flags in options().values() for flag in flags} | FLAGS_OF_OTHER_PROGRAMS.keys() | {"--"}
    for span in spans(text):
        flag = re.split(r"[ =]", span)[0]
        if flag.startswith("--") and flag not in every:
            yield f"{flag}: no command of this program has it, and it is not in FLAGS_OF_OTHER_PROGRAMS"
    for variable in re.findall(r"(?<!_)KEDA_GPU_SCALER_[A-Z_]*[A-Z]", text):
        if variable not in variables():
            yield f"{variable}: no flag reads it"


def wrong_arguments(words: list[str]) -> Iterator[str]:
    """Yield the wrong commands and flags in a shell command that runs this program."""
    calls = [at for at, word in enumerate(words) if Path(word).name == PROGRAM and (at == 0 or words[at - 1] == "--")]
    for at in calls:  # behind kubectl's "--", or at the front
        if at + 1 == len(words):
            continue
        known = options().get(name := words[at + 1])
        if known is None:
            yield f"{PROGRAM} {name}: there is no such command"
            continue
        for word in words[at + 2 :]:
            flag = word.partition("=")[0]
            if flag.startswith("-") and flag != "-" and flag not in known:
                yield f"{PROGRAM} {name} {flag}: there is no such flag"


def unknown_values(text: str, page: Path) -> Iterator[str]:
    """Yield the values on a page that the chart does not have."""
    for words in commands(text):
        if words[0] != "helm" or not any(CHART.name in word for word in words):
            continue
        for flag, argument in itertools.pairwise(words):
            key, _, value = argument.partition("=")
            if flag == "--set-json":
                yield from missing_values(key.split("."), json.loads(value))
            elif flag in ("--set", "--set-string"):
                yield from missing_values(key.split("."), value)
    for label, content in fences(text):
        if label == "yaml values":
            yield from missing_values([], yaml.safe_load(content))
    for span in spans(text):
        match = _DOTTED.fullmatch(span)
        if match and not span.endswith(FILE_ENDINGS) and match[1].split(".")[0] in values():
            value = span.partition(": ")[2]
            yield from missing_values(match[1].split("."), yaml.safe_load(value) if value else None)


def unknown_messages(text: str, page: Path) -> Iterator[str]:
    """Yield the quoted messages that the code does not contain."""
    for label, content in fences(text):
        if label != "message":
            continue
        for line in filter(None, map(str.strip, content.splitlines())):
            if not is_message(line):
                yield f"{line}: the program has no such text"


def unparsed_triggers(text: str, page: Path) -> Iterator[str]:
    """Yield the triggers of this scaler on a page that are refused or get a hint."""
    for label, content in fences(text):
        if label != "yaml":
            continue
        for metadata in triggers(list(yaml.safe_load_all(content))):
            try:
                yield from parse_trigger(metadata).hints
            except (TriggerError, AttributeError, TypeError) as error:
                yield f"{metadata}: {error}"
    keys = {parameter.key for parameter in PARAMETERS}
    for span in spans(text):
        key, colon, value = span.partition(": ")
        value = value.strip("\"'")
        if not colon or key not in keys or (key == "metricType" and value in KEDA_METRIC_TYPES):
            continue
        try:
            parse_trigger({key: value})
        except TriggerError as error:
            # A placeholder in capitals is no value.
            if not _VARIABLE.fullmatch(value):
                yield f"{span}: {error}"


def long_sections(text: str, page: Path) -> Iterator[str]:
    """Yield the sections of a page that are too long."""
    if not re.search(r"^# .", prose(text), re.MULTILINE):
        yield "it has no title"
    for part in re.split(r"^#+ ", prose(text), flags=re.MULTILINE):
        lines = [line for line in part.splitlines() if line.strip()]
        if len(lines) > MAX_LINES:
            yield f"{lines[0]}: {len(lines)} lines without a heading: at most {MAX_LINES}"


CHECKS: tuple[Callable[[str, Path], Iterator[str]], ...] = (
    broken_links,
    unknown_flags,
    unknown_values,
    unknown_messages,
    unparsed_triggers,
    long_sections,
)


# ---- the code and the chart ----


@functools.cache
def options() -> dict[str, set[str]]:
    """Return the flags of every command; those of the commands of a group count as its own."""
    context = click.Context(cli)
    assert isinstance(cli, click.Group)
    found: dict[str, set[str]] = {}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        inner = command.commands.values() if isinstance(command, click.Group) else ()
        given = [one for group in (command, *inner) for one in group.params]
        found[name] = {"--help", "-h"} | {opt for one in given for opt in (*one.opts, *one.secondary_opts)}
    return found


@functools.cache
def variables() -> set[str]:
    """Return every environment variable that a flag reads."""
    context = click.Context(cli)
    assert isinstance(cli, click.Group)
    found = (cli.get_command(context, name) for name in cli.list_commands(context))
    return {str(one.envvar) for command in found if command is not None for one in command.params if one.envvar}


@functools.cache
def values() -> dict[str, Any]:
    """Return the chart's own values."""
    return dict(yaml.safe_load((CHART / "values.yaml").read_text()))


@functools.cache
def schema() -> dict[str, Any]:
    return dict(json.loads((CHART / "values.schema.json").read_text()))


def missing_values(path: list[str], given: object) -> Iterator[str]:
    """Yield the given values at a path that the chart does not have or does not allow."""
    found: Any = values()
    for at, key in enumerate(path):
        if not isinstance(found, Mapping) or (found and key not in found):
            yield f"{'.'.join(path[: at + 1])}: the chart has no such value"
            return
        if not found:
            return  # the user chooses the keys of this map
        found = found[key]
    allowed = allowed_at(path)
    if allowed and given is not None and not isinstance(given, Mapping) and given not in allowed:
        yield f"{'.'.join(path)}: {given!r} is none of {', '.join(map(str, allowed))}"
    if isinstance(given, Mapping) and isinstance(found, Mapping) and not is_free(path, found):
        for key, value in given.items():
            yield from missing_values([*path, str(key)], value)


def is_free(path: list[str], found: Mapping[str, Any]) -> bool:
    """Return whether the user chooses the keys of a map: an empty map, or labels."""
    return bool(path) and (not found or path[-1] in {"nodeSelector", "affinity", "annotations", "labels"})


def allowed_at(path: list[str]) -> list[Any]:
    node: Any = schema()
    for key in path:
        node = node.get("properties", {}).get(key, {})
    return list(node.get("enum", ()))


def triggers(documents: Iterable[Any]) -> Iterator[dict[str, str]]:
    """Yield the metadata of every trigger of an external scaler."""
    for document in documents:
        inner = document.get("spec", document) if isinstance(document, dict) else {}
        for trigger in inner.get("triggers") or ():
            if str(trigger.get("type", "")).startswith("external"):
                yield trigger["metadata"]


@functools.cache
def texts() -> frozenset[str]:
    """Return every text in the code, with gaps for its arguments."""
    found: set[str] = set()
    for path in (HOME / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):  # any other node is a gap
                found.add(_LOGGED.sub(_GAP, template(node)))
    return frozenset(text for text in found if text.strip(_GAP))


def template(node: ast.AST) -> str:
    """Return the text of a node, with a gap for each part that is no literal."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return _GAP


def is_message(line: str) -> bool:
    """Return whether a text of the program matches this message. … matches any part."""
    pattern = re.compile(".*".join(re.escape(part) for part in line.split("…")), re.DOTALL)
    # Only … matches a gap: the literal parts of a page must be in the code unchanged.
    literal_length = len(line.replace("…", "").strip())
    return literal_length >= MIN_QUOTE_LENGTH and any(pattern.fullmatch(text) for text in texts())


# ---- the tests ----


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("page", pages(), ids=title_of)
def test_a_page_agrees_with_the_code(page: Path, check: Callable[[str, Path], Iterator[str]]) -> None:
    assert list(check(page.read_text(), page)) == []


MISTAKES: dict[str, tuple[Callable[[str, Path], Iterator[str]], str]] = {
    "a link to a page that does not exist": (broken_links, "[here](guides/nowhere.md)"),
    "a link to a heading that does not exist": (broken_links, "[here](operating.md#nothing-of-the-kind)"),
    "a link to a heading of the same page that does not exist": (broken_links, "# One\n[here](#two)"),
    "a flag that a command does not have": (unknown_flags, "```sh\nkeda-gpu-scaler serve --nvml PATH\n```"),
    "a flag of another command": (unknown_flags, "`keda-gpu-scaler record --port 1`"),
    "a flag after kubectl exec": (unknown_flags, "```sh\nkubectl exec x -- keda-gpu-scaler probe --nam x\n```"),
    "a flag on a continued line": (unknown_flags, "```sh\nkeda-gpu-scaler probe \\\n  --unknown x\n```"),
    "a command that does not exist": (unknown_flags, "`keda-gpu-scaler repair`"),
    "a flag alone": (unknown_flags, "Set `--nvml PATH`."),
    "an environment variable that no flag reads": (unknown_flags, "Set KEDA_GPU_SCALER_NODE."),
    "a chart value set on a command line": (
        unknown_values,
        "```sh\nhelm install x deploy/helm/keda-gpu-scaler --set nothing.here=1\n```",
    ),
    "a chart value set as JSON": (
        unknown_values,
        "```sh\nhelm install x deploy/helm/keda-gpu-scaler --set-json 'selector={}'\n```",
    ),
    "a chart value in a block": (unknown_values, "```yaml values\nfrontend:\n  copies: 2\n```"),
    "a chart value in a sentence": (unknown_values, "Set `driver.kind`."),
    "a chart value that is not allowed": (unknown_values, "Set `driver.mode: magic`."),
    "a message that the program does not have": (unknown_messages, "```message\nno fresh samples for … of … pods\n```"),
    "a message with a number written out": (unknown_messages, "```message\nnothing came for 6 s\n```"),
    "a trigger with a wrong unit": (
        unparsed_triggers,
        '```yaml\ntriggers:\n  - type: external\n    metadata: {targetValue: "80%"}\n```',
    ),
    "a trigger with a number instead of a string": (
        unparsed_triggers,
        "```yaml\nspec:\n  triggers:\n    - type: external\n      metadata: {targetValue: 80}\n```",
    ),
    "a trigger with a key misspelt": (
        unparsed_triggers,
        '```yaml\ntriggers:\n  - type: external\n    metadata: {targetvalue: "80"}\n```',
    ),
    "a key with a wrong value in a sentence": (unparsed_triggers, "Set `scope: cluster`."),
    "a long section without a heading": (long_sections, "# One\n" + "line\n" * (MAX_LINES + 1)),
    "a page without a title": (long_sections, "## Two\nline\n"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    check, text = MISTAKES[mistake]
    assert len(list(check(text, HOME / "docs" / "page.md"))) == 1


def test_every_chart_value_in_a_message_exists() -> None:
    named = {name for text in texts() for name in re.findall(r"\(chart: ([A-Za-z.]+)\)", text)}
    assert named, "the program names no chart value: this test checks nothing"
    assert [problem for name in sorted(named) for problem in missing_values(name.split("."), None)] == []


def test_every_guide_is_listed() -> None:
    folder = HOME / "docs" / "guides"
    listed = {target.partition("#")[0] for target in _LINK.findall((folder / "README.md").read_text())}
    assert {path.name for path in folder.glob("*.md")} - {"README.md"} <= listed


def test_every_full_metric_name_on_a_page_is_exported() -> None:
    reference = (HOME / "docs" / "reference" / "metrics.md").read_text()
    exported = set(re.findall(r"`(keda_gpu_scaler_\w+)`", reference))
    assert exported
    for page in pages():
        named = set(re.findall(r"keda_gpu_scaler_(?!v1)\w+[a-z]", page.read_text()))
        assert named <= exported, f"{title_of(page)}: {named - exported}"
