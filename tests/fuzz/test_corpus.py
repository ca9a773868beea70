# SPDX-License-Identifier: Apache-2.0
"""Runs every fuzz target on its corpus and on changed copies of it; ``make fuzz`` searches for hours."""

import json
import logging
import re
from collections.abc import Iterator

import pytest

from tests.examples_drawn import examples
from tests.fuzz.mutations import mutations
from tests.fuzz.target import CORPUS, FuzzTarget
from tests.fuzz.targets import TARGETS

MUTATIONS = examples(300)
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*(?:\.(?:pem|der))?")


@pytest.fixture(autouse=True)
def _without_log() -> Iterator[None]:
    """Each input may be logged, which takes longer than to decode it."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def check(target: FuzzTarget, title: str, data: bytes) -> None:
    try:
        target.check(data)
    except Exception as error:
        error.add_note(f"{target.name}, {title}: {data[:2000]!r}")
        raise


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_decoder_keeps_its_contract_on_the_corpus(target: FuzzTarget) -> None:
    for title, data in target.seeds().items():
        check(target, title, data)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_decoder_keeps_its_contract_on_changed_copies(target: FuzzTarget) -> None:
    for number, data in enumerate(mutations(list(target.seeds().values()), MUTATIONS)):
        check(target, f"mutation {number}", data)


def test_the_mutations_find_a_decoder_that_raises_an_error_which_it_does_not_document() -> None:
    target = FuzzTarget("snapshot", json.loads)

    def check_all() -> None:
        for data in mutations(list(target.seeds().values()), MUTATIONS):
            target.check(data)

    with pytest.raises(json.JSONDecodeError):
        check_all()


def test_every_target_has_seeds_and_every_folder_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)
    assert [name for name, target in TARGETS.items() if not target.seeds()] == []


def test_the_name_of_a_file_is_its_reason() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert [path.name for path in files if not _NAME.fullmatch(path.name)] == []
