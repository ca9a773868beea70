# SPDX-License-Identifier: Apache-2.0
"""Tests which refused triggers are reported: those that an object declares, while it does."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.instance_status import RefusedTrigger
from keda_gpu_scaler.core.trigger.declared_objects import DeclaredObjects, declared_problems
from keda_gpu_scaler.core.trigger.parser import TriggerError, parse_trigger
from keda_gpu_scaler.core.types import DeclaredTrigger, Unavailable, Workload
from keda_gpu_scaler.server.refused_triggers import (
    ACCEPTED_SECONDS,
    ASKED_SECONDS,
    SETTLE_SECONDS,
    UNCONFIRMED_SECONDS,
    RefusedTriggers,
)
from tests.fakes import FakeCluster, pod, workload

ADDRESS = {"scalerAddress": "keda-gpu-scaler.keda.svc.cluster.local:6000"}
RIGHT = {**ADDRESS, "profile": "triton-inference"}
WRONG = {**ADDRESS, "profile": "tritn-inference"}
WORSE = {**ADDRESS, "targetValu": "5"}
BY_ENVIRONMENT = {**ADDRESS, "targetValueFromEnv": "TARGET"}
NOT_A_NUMBER = {**ADDRESS, "targetValueFromEnv": "eighty"}
FOREIGN = {"scalerAddress": "another-scaler.keda:6000", "profile": "theirs"}
LLAMA = ("ai", "llama")
PENDING = Unavailable("not read yet", is_permanent=False)
FORBIDDEN = Unavailable("forbidden", is_permanent=True)
ABSENT = Unavailable("there is no ScaledObject of this name", is_permanent=True, triggers=())


def problems_of(metadata: Mapping[str, str]) -> tuple[str, ...]:
    try:
        parse_trigger(metadata)
    except TriggerError as error:
        return error.problems
    return ()


def declaring(*metadata: Mapping[str, str]) -> Workload:
    return workload(pod("llama-0"), triggers=tuple(DeclaredTrigger(one, "AverageValue") for one in metadata))


class Watching:
    """The refused triggers of one instance, with a cluster and a time that the test sets."""

    def __init__(self, known: Workload | Unavailable | None = PENDING) -> None:
        self.cluster = None if known is None else FakeCluster(llama=known)
        self.refused = RefusedTriggers(self.cluster)
        self.now = 1000.0
        self.is_readable = True

    def ask(self, metadata: Mapping[str, str], name: str = "llama") -> bool:
        """Ask as KEDA does; return whether an older answer may be about the same trigger."""
        if problems := problems_of(metadata):
            return self.refused.note_refused("ai", name, metadata, problems, self.now)
        self.refused.note_valid("ai", metadata, self.now)
        return False

    def edit(self, *metadata: Mapping[str, str], name: str = "llama") -> None:
        assert self.cluster is not None
        self.cluster.report(replace(declaring(*metadata), name=name), name=name)

    def look(self, after_seconds: float = 0.0) -> list[RefusedTrigger]:
        self.now += after_seconds
        declarations = self.cluster.declarations() if self.cluster is not None and self.is_readable else {}
        self.refused.look(declarations, self.now)
        return self.refused.triggers()

    def names(self, after_seconds: float = 0.0) -> list[str]:
        return [trigger.name for trigger in self.look(after_seconds)]


def test_a_refused_question_is_reported_once_its_object_is_known_to_declare_it() -> None:
    watching = Watching()
    watching.ask(WRONG)
    assert watching.names() == []
    watching.edit(WRONG)
    [trigger] = watching.look(1)
    assert (trigger.namespace, trigger.name, trigger.since_seconds) == ("ai", "llama", 1001.0)
    assert trigger.reason == 'metadata.profile: Unsupported value: "tritn-inference": did you mean "triton-inference"?'


@pytest.mark.parametrize(
    ("known", "asked", "expected"),
    [
        pytest.param(declaring(WRONG), WRONG, ["llama"], id="a declared trigger"),
        pytest.param(declaring(RIGHT), WRONG, [], id="another trigger is declared"),
        pytest.param(ABSENT, WRONG, [], id="no such object"),
        pytest.param(PENDING, WRONG, [], id="an object that was not read yet"),
        pytest.param(FORBIDDEN, WRONG, ["llama"], id="objects may not be read"),
        pytest.param(None, WRONG, ["llama"], id="no access to the API server"),
        pytest.param(declaring(BY_ENVIRONMENT), NOT_A_NUMBER, ["llama"], id="a wrong value from the environment"),
        pytest.param(declaring(RIGHT, WRONG), WRONG, ["llama"], id="one of two triggers"),
    ],
)
def test_only_a_declared_trigger_is_reported(
    known: Workload | Unavailable | None, asked: Mapping[str, str], expected: list[str]
) -> None:
    watching = Watching(known)
    watching.ask(asked)
    assert watching.names() == expected


def test_an_edit_is_found_without_a_question_and_so_is_its_end() -> None:
    watching = Watching(declaring(RIGHT))
    watching.ask(RIGHT)
    assert watching.names() == []
    watching.edit(WRONG)
    assert watching.names(1) == ["llama"]
    watching.edit(WORSE)
    assert [trigger.problems for trigger in watching.look(1)] == [problems_of(WORSE)]
    assert watching.refused.accepted() == []
    watching.edit(RIGHT)
    assert watching.names(1) == []
    assert watching.refused.accepted() == [LLAMA]
    watching.look(ACCEPTED_SECONDS + 1)
    assert watching.refused.accepted() == []


def test_an_object_without_a_question_is_found_by_the_address_of_another_of_its_namespace() -> None:
    watching = Watching(declaring(RIGHT))
    watching.edit({**WRONG, "scalerAddress": "keda-gpu-scaler.keda:6000"}, name="other")
    watching.edit(FOREIGN, name="foreign")
    watching.edit(BY_ENVIRONMENT, name="environment")
    assert watching.names() == []
    watching.ask(RIGHT)
    assert watching.names() == ["other"]


def test_every_refused_trigger_of_an_object_is_reported() -> None:
    watching = Watching(declaring(WRONG, RIGHT, WORSE, WRONG))
    watching.ask(WRONG)
    assert [trigger.problems for trigger in watching.look()] == [problems_of(WRONG), problems_of(WORSE)]


def test_a_deleted_object_is_neither_refused_nor_accepted() -> None:
    watching = Watching(declaring(WRONG))
    watching.ask(WRONG)
    assert watching.names() == ["llama"]
    assert watching.cluster is not None
    watching.cluster.report(ABSENT)
    assert watching.names(1) == []
    assert watching.refused.accepted() == []


def test_a_refused_trigger_stays_while_the_api_server_does_not_answer_and_not_forever() -> None:
    watching = Watching(declaring(RIGHT))
    watching.ask(RIGHT)
    watching.edit(WRONG)
    assert watching.names(1) == ["llama"]
    watching.is_readable = False
    assert watching.names(UNCONFIRMED_SECONDS - 1) == ["llama"]
    assert watching.names(2) == []
    assert watching.refused.accepted() == []


def test_a_refused_question_keeps_its_object_watched_longer_than_keda_waits() -> None:
    watching = Watching(declaring(WRONG))
    watching.ask(WRONG)
    assert watching.cluster is not None
    for _ in range(3):
        watching.cluster.asked.clear()
        assert watching.names(ASKED_SECONDS / 3 - 1) == ["llama"]
        assert LLAMA in watching.cluster.asked
    watching.cluster.asked.clear()
    watching.look(ASKED_SECONDS)
    assert LLAMA not in watching.cluster.asked


def test_a_question_that_no_object_declares_is_forgotten_and_its_name_is_no_longer_watched() -> None:
    watching = Watching(declaring(RIGHT))
    watching.ask(WRONG)
    watching.look(SETTLE_SECONDS + 1)
    assert watching.cluster is not None
    watching.cluster.asked.clear()
    assert watching.names(1) == []
    assert watching.cluster.asked == []


def test_an_edit_that_keda_reads_first_is_reported_when_the_watch_has_it() -> None:
    watching = Watching(declaring(BY_ENVIRONMENT))
    watching.ask(NOT_A_NUMBER | {"gpuIndex": "-7"})
    assert watching.names() == []
    watching.edit(BY_ENVIRONMENT | {"gpuIndex": "-7"})
    assert watching.names(SETTLE_SECONDS - 1) == ["llama"]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        pytest.param(None, [True, False], id="no access to the API server"),
        pytest.param(FORBIDDEN, [True, False], id="objects may not be read"),
        pytest.param(declaring(WRONG), [False, False], id="a declared trigger"),
        pytest.param(PENDING, [False, False], id="not read yet"),
    ],
)
def test_an_older_answer_may_be_about_the_trigger_where_declarations_cannot_be_read(
    known: Workload | Unavailable | None, expected: list[bool]
) -> None:
    watching = Watching(known)
    assert [watching.ask(WRONG), watching.ask(WRONG)] == expected


def test_names_that_are_not_printable_are_escaped() -> None:
    watching = Watching(None)
    watching.ask(WRONG, name="llama\n\x1b[31m")
    assert watching.names() == ["llama\\n\\x1b[31m"]


@pytest.mark.parametrize(
    ("metadata", "is_refused"),
    [
        pytest.param(RIGHT, False, id="valid"),
        pytest.param(WRONG, True, id="an invalid value"),
        pytest.param(BY_ENVIRONMENT, False, id="a value from the environment"),
        pytest.param({**WRONG, "targetValueFromEnv": "X"}, False, id="what KEDA alone can read is not judged"),
        pytest.param({**WRONG, "tokenFromEnv": "X"}, True, id="a foreign value from the environment"),
        pytest.param({"targetValuFromEnv": "X"}, True, id="a misspelt key with a value from the environment"),
    ],
)
def test_a_declaration_is_judged_by_what_it_says(metadata: Mapping[str, str], is_refused: bool) -> None:
    assert bool(declared_problems(metadata)) == is_refused


def test_a_name_is_unknown_while_not_every_kind_of_object_is_known() -> None:
    objects = {"llama": declaring(RIGHT).triggers}
    assert DeclaredObjects(objects, is_complete=False).declares("llama", RIGHT) is True
    assert DeclaredObjects(objects, is_complete=False).declares("llama", WRONG) is False
    assert DeclaredObjects(objects, is_complete=False).declares("batch", RIGHT) is None
    assert DeclaredObjects(objects, is_complete=True).declares("batch", RIGHT) is False
