# SPDX-License-Identifier: Apache-2.0
"""Runs the commands of the README and of every page of the documentation, as a newcomer types them."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.newcomer import presumed
from tests.newcomer.pages import HOME, files, pages, script, sentence_commands
from tests.newcomer.programs import LISTED, parse
from tests.newcomer.world import Outcome, World

BROKEN_PIPES = (141, 23)
"""The statuses of a command, and of curl, whose reader has ended, as ``head`` does."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as entered:
        yield entered


def title_of(page: Path) -> str:
    return str(page.relative_to(HOME))


def problems(title: str, outcome: Outcome) -> Iterator[str]:
    """Yield the commands that ended with another status than expected, and the output that is missing."""
    expected = dict(presumed.FAILING.get(title, {}))
    for one in outcome.journal:
        command = " ".join((one["name"], *one["words"]))
        allowed = [0, *BROKEN_PIPES, *(status for end, status in expected.items() if command.endswith(end))]
        if one["status"] not in allowed and not _lacks_input(command, outcome):
            yield f"{command}: status {one['status']}"
    for failure in outcome.failures:
        if _lacks_input(failure, outcome):
            continue
        known = [end for end, status in expected.items() if failure.endswith(end) and f"status {status}:" in failure]
        if not known:
            yield failure
        for end in known:
            del expected[end]
    yield from (f"{end}: it did not fail; it is in FAILING" for end in expected)
    if not outcome.missing:
        for pattern in presumed.SHOWN.get(title, ()):
            if not re.search(pattern, outcome.output, re.MULTILINE):
                yield f"the output has no {pattern}"


def _lacks_input(command: str, outcome: Outcome) -> bool:
    """Whether a command reads a pipe, and a program that is not on this machine may be in front of the pipe."""
    return bool(outcome.missing) and command.endswith(" -")


def test_every_command_of_every_page_runs(world: World) -> None:
    found: dict[str, list[str]] = {}
    listed: set[str] = set()
    missing: set[str] = set()
    for page in pages():
        title, text = title_of(page), page.read_text()
        commands = script(text, presumed.LISTED_LINES.get(title, ()))
        if not commands.strip():
            continue
        variables = presumed.VARIABLES.get(title, {})
        with world.explain_port(title in presumed.EXPLAIN_PORT):
            outcome = world.run(commands, {**files(text), **presumed.FILES.get(title, {})}, variables)
        missing |= outcome.missing
        listed |= {one["name"] for one in outcome.journal if "listed" in one}
        if wrong := list(problems(title, outcome)):
            found[title] = [*wrong, outcome.output[-4000:]]
    assert not found, "\n".join(f"{title}: {line}" for title, lines in found.items() for line in lines)
    assert listed == LISTED.keys(), "a program is listed, and no page uses it"
    if missing:
        pytest.skip(f"some commands were not run: {'; '.join(sorted(missing))}")


@pytest.mark.parametrize("page", pages(), ids=title_of)
def test_the_commands_in_sentences_have_the_flags_and_values_of_the_program(page: Path) -> None:
    for words in sentence_commands(page.read_text()):
        try:
            parse(words)
        except click.MissingParameter:
            continue  # the sentence is about a part of the command
        except click.UsageError as error:
            raise AssertionError(f"{' '.join(words)}: {error.format_message()}") from error


MISTAKES = {
    "a flag of the program": "keda-gpu-scaler explain ai/llama --adress 127.0.0.1:6000",
    "a value of a flag": "keda-gpu-scaler top --once --by pods",
    "a command of the program": "keda-gpu-scaler explian ai/llama",
    "a ScaledObject that does not exist": "keda-gpu-scaler explain ai/lama",
    "a failure before a pipe": "keda-gpu-scaler explain ai/lama | cat",
    "a failure in a pod": "kubectl -n keda exec svc/keda-gpu-scaler -- keda-gpu-scaler probe --nam x",
    "a program that is not listed": "terraform apply",
    "a flag of kubectl": "kubectl -n ai get pods --label app=llama",
    "an object of the chart": "kubectl -n keda rollout status daemonset/keda-gpu-scaler",
    "a label of the chart": "kubectl -n keda get pods -l app=keda-gpu-scaler",
    "a port of the chart": "kubectl -n keda port-forward svc/keda-gpu-scaler 6001 &\nwait $!",
    "a flag of docker": "docker run --tty ghcr.io/keda-gpu-scaler/keda-gpu-scaler:$V explain ai/llama",
    "a target of make": "make rum",
    "a shell construct": "if true; then",
}
MISTAKES_OF_HELM = {
    "a flag of helm": "helm upgrade --instal keda-gpu-scaler deploy/helm/keda-gpu-scaler --namespace keda",
    "a value of the chart": "helm install x deploy/helm/keda-gpu-scaler --namespace keda --set driver.mode=magic",
    "a release": "helm uninstall gpu-scaler --namespace keda",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(world: World, mistake: str) -> None:
    assert list(problems("page.md", world.run(MISTAKES[mistake] + "\n")))


@pytest.mark.parametrize("mistake", MISTAKES_OF_HELM)
def test_a_mistake_of_helm_is_found(world: World, mistake: str) -> None:
    outcome = world.run(MISTAKES_OF_HELM[mistake] + "\n")
    if outcome.missing:
        pytest.skip(outcome.missing.pop())
    assert list(problems("page.md", outcome))


@pytest.mark.parametrize(("missing", "expected"), [({}, 2), ({"missing": "there is no helm"}, 0)], ids=["here", "not"])
def test_a_command_behind_a_program_that_is_not_here_may_fail(missing: dict[str, str], expected: int) -> None:
    behind = {"name": "keda-gpu-scaler", "words": ["validate", "-"], "status": 1}
    before = {"name": "helm", "words": ["template", "."], "status": 0, **missing}
    outcome = Outcome(["3: status 1: keda-gpu-scaler validate -"], "", [before, behind])
    assert len(list(problems("page.md", outcome))) == expected


def test_a_line_of_the_script_has_its_number_on_the_page() -> None:
    text = "# Page\n\n```sh\none\n```\n\n1. A list:\n\n   ```sh\n   two \\\n     --flag\n   ```\n```yaml\nkey: 1\n```\n"
    assert script(text).splitlines()[3:] == ["one", "", "", "", "", "", "two \\", "  --flag"]
    assert script(text, ("one",)).splitlines()[3] == ""
