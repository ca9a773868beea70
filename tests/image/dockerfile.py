# SPDX-License-Identifier: Apache-2.0
"""Checks a Dockerfile without an engine: each problem is a sentence.

hadolint knows more of shells and package managers, and runs beside this where it is installed; what it does not know is
the build's context, and what this image promises: a base that is pinned, no root, no shell, no health check.
"""

import fnmatch
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_INSTRUCTION = re.compile(r"^([A-Z]+)\s+(.*)$", re.DOTALL)
_FROM = re.compile(r"^(?:--platform=(?P<platform>\S+) )?(?P<base>\S+)(?: AS (?P<name>\S+))?$")
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its line continuations joined, with the stage it stands in (0: before the first FROM)."""

    word: str
    rest: str
    stage: int


def instructions(text: str) -> list[Instruction]:
    """Read a Dockerfile; comments go, continued lines become one."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    stage = 0
    found = []
    for line in re.sub(r"\\\n\s*", "", kept).splitlines():
        if match := _INSTRUCTION.match(line.strip()):
            stage += match[1] == "FROM"
            found.append(Instruction(match[1], match[2].strip(), stage))
        elif line.strip():
            found.append(Instruction("?", line.strip(), stage))
    return found


def problems(text: str, context: Path) -> list[str]:
    """Everything that is wrong with a Dockerfile whose context is this folder."""
    read = instructions(text)
    last = max(one.stage for one in read)
    final = [one for one in read if one.stage == last]
    return [
        *(f"not an instruction: {one.rest}" for one in read if one.word == "?"),
        *_bases(read),
        *_copies(read, context),
        *_shells(read),
        *_secrets(read),
        *_ending(final),
    ]


def _bases(read: list[Instruction]) -> Iterator[str]:
    arguments = {
        name: value
        for one in read
        if one.word == "ARG" and one.stage == 0
        for name, _, value in [one.rest.partition("=")]
    }
    stages: set[str] = set()
    for one in read:
        if one.word != "FROM":
            continue
        match = _FROM.match(one.rest)
        if match is None:
            yield f"FROM {one.rest}: cannot be read"
            continue
        base = re.sub(r"\$\{(\w+)\}", lambda found: arguments.get(found[1], ""), match["base"])
        if base not in stages | {"scratch"}:
            yield from _pin(base)
        stages.add(match["name"] or "")


def _pin(base: str) -> Iterator[str]:
    tag = base.rpartition("/")[2].partition(":")[2]
    if not base:
        yield "FROM: the argument has no default"
    elif "@sha256:" not in base and not tag:
        yield f"FROM {base}: neither tag nor digest"
    elif tag in {"latest", "debug"} or tag.endswith("-debug"):
        yield f"FROM {base}: a tag that says nothing, or brings a shell"


def _copies(read: list[Instruction], context: Path) -> Iterator[str]:
    for one in read:
        if one.word == "ADD":
            yield f"ADD {one.rest}: COPY says what it does"
        if one.word != "COPY":
            continue
        parts = one.rest.split()
        flags = [part for part in parts if part.startswith("--")]
        if any(flag.startswith("--from=") for flag in flags):
            if "--link" not in flags:
                yield f"COPY {one.rest}: without --link the layer depends on the base below it"
            continue
        for source in [part for part in parts if not part.startswith("--")][:-1]:
            yield from _source(source, context)


def _source(source: str, context: Path) -> Iterator[str]:
    path = context / source
    if not path.exists():
        yield f"COPY {source}: there is no such file"
    elif source.rstrip("/") in {".", "*"}:
        yield f"COPY {source}: copies whatever lies there"
    elif path.is_file():
        if ignored(source, context):
            yield f"COPY {source}: left out by .dockerignore"
    elif all(ignored(str(file.relative_to(context)), context) for file in path.rglob("*") if file.is_file()):
        yield f"COPY {source}: all of it is left out by .dockerignore"


def ignored(name: str, context: Path) -> bool:
    """Whether .dockerignore leaves a file out: the last pattern that matches it, or a folder above it, decides."""
    out = False
    for line in (context / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        back = pattern.startswith("!")
        parts = name.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        if any(_matches(one, pattern.removeprefix("!").strip("/")) for one in above):
            out = not back
    return out


def _matches(name: str, pattern: str) -> bool:
    """Match as Docker does: * stays within a folder, ** spans any number of them."""
    if pattern.startswith("**/"):
        return any(_matches("/".join(name.split("/")[cut:]), pattern[3:]) for cut in range(name.count("/") + 1))
    names, patterns = name.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))


def _shells(read: list[Instruction]) -> Iterator[str]:
    for one in read:
        if one.word != "RUN":
            continue
        if re.search(r"\b(curl|wget)\b", one.rest):
            yield f"RUN {one.rest}: fetches what no hash vouches for"
        if re.search(r"apt(-get)? .*install", one.rest) and "--no-install-recommends" not in one.rest:
            yield f"RUN {one.rest}: apt without --no-install-recommends"
        if re.search(r"\bpip3? install", one.rest) and "--require-hashes" not in one.rest:
            yield f"RUN {one.rest}: pip without --require-hashes"
        if re.search(r"\bsudo\b", one.rest):
            yield f"RUN {one.rest}: sudo"


def _secrets(read: list[Instruction]) -> Iterator[str]:
    for one in read:
        if one.word in {"ARG", "ENV"} and _SECRET.search(one.rest):
            yield f"{one.word} {one.rest}: a secret stays in the image's history"


def _ending(final: list[Instruction]) -> Iterator[str]:
    by_word = {one.word: one.rest for one in final}
    if "RUN" in by_word:
        yield f"RUN {by_word['RUN']}: the final stage has no shell, and another platform would be emulated"
    if "HEALTHCHECK" in by_word:
        yield "HEALTHCHECK: the kubelet has its own probes and ignores it"
    user = by_word.get("USER", "0").partition(":")[0]
    if not user.isdigit() or int(user) == 0:
        yield f"USER {user}: must be a number other than 0, or runAsNonRoot cannot be checked"
    for word in ("ENTRYPOINT", "CMD"):
        if not _is_exec_form(by_word.get(word, "")):
            yield f"{word}: must be a JSON list, or a shell stands between the signals and the program"
    if by_word.get("STOPSIGNAL", "SIGTERM") != "SIGTERM":
        yield f"STOPSIGNAL {by_word['STOPSIGNAL']}: the program ends cleanly on SIGTERM"


def _is_exec_form(rest: str) -> bool:
    try:
        parts = json.loads(rest)
    except json.JSONDecodeError:
        return False
    return isinstance(parts, list) and bool(parts) and all(isinstance(part, str) for part in parts)
