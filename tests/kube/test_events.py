# SPDX-License-Identifier: Apache-2.0
"""Events about triggers, as an API server takes them: on change, after a while, and never too many."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.counters import RecentAnswer
from keda_gpu_scaler.kube import events as events_module
from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.events import APART_SECONDS, BURST, EVERY_SECONDS, HELD_SECONDS, SILENT_SECONDS, EventRecorder
from tests.apiserver import FakeApiServer
from tests.fakes import ManualClock

WELL = RecentAnswer("ai", "llama", "keda_gpu_metric", "gpu_utilization", 80.0, 276.0, True, 3, 3)
UNSEEN = replace(WELL, value=None, with_value=0, reason="no fresh sample for 3 of 3 pods")
DEMANDED = replace(WELL, demand=3.0, is_demand_known=True, demand_sentence="demand 3 is above 0")
UNDEMANDED = replace(DEMANDED, demand=None, is_demand_known=False, demand_sentence="demand is unknown: refused")
POLL = 15.0


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        running.scaled_object("llama")
        yield running


class Telling:
    """Events at an API server, by a clock that the test turns."""

    def __init__(self, server: FakeApiServer) -> None:
        self.server = server
        self.clock = ManualClock()
        self.api = ApiClient(server.access)
        self.events = EventRecorder(self.opened, "gpu-1", clock=self.clock, wall_clock=lambda: 1_700_000_000.0)
        self.has_opened = 0

    async def opened(self) -> ApiClient:
        self.has_opened += 1
        return self.api

    async def hear(self, *answers: RecentAnswer, apart: float = POLL) -> None:
        """Give these answers one after another, and wait until whatever follows from each is done."""
        for answer in answers:
            self.events.note(answer)
            while self.events._writing:
                await asyncio.gather(*self.events._writing)
                await asyncio.sleep(0)
            self.clock.advance(apart)

    def reasons(self) -> list[str]:
        return [event["reason"] for event in self.server.events()]


def telling(server: FakeApiServer, talk: Callable[[Telling], Awaitable[None]]) -> None:
    async def run() -> None:
        one = Telling(server)
        try:
            async with asyncio.timeout(20):
                await talk(one)
        finally:
            await one.events.close()
            await one.api.close()

    asyncio.run(run())


def test_an_event_says_what_it_is_about_as_kubectl_looks_for_it(server: FakeApiServer) -> None:
    async def talk(told: Telling) -> None:
        await told.hear(UNSEEN, UNSEEN)
        [event] = server.events()
        uid = server._objects["scaledobjects", "ai", "llama"]["metadata"]["uid"]
        assert event["involvedObject"] == {
            "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "namespace": "ai", "name": "llama", "uid": uid,
        }  # fmt: skip
        assert (event["type"], event["reason"]) == ("Warning", "GPUTriggerUnanswered")
        assert event["message"] == "keda_gpu_metric has no value: no fresh sample for 3 of 3 pods"
        assert event["source"] == {"component": "keda-gpu-scaler", "host": "gpu-1"}
        assert event["firstTimestamp"] == event["lastTimestamp"] == "2023-11-14T22:13:20Z"
        assert event["count"] == 1
        assert event["metadata"]["name"].startswith("llama.")

    telling(server, talk)


@pytest.mark.parametrize(
    ("answers", "reasons"),
    [
        pytest.param([WELL, WELL, WELL], [], id="a trigger that is well is no event"),
        pytest.param([UNSEEN], [], id="one answer may pass"),
        pytest.param([UNSEEN, WELL, UNSEEN, WELL], [], id="what passes by itself each time is no event"),
        pytest.param([UNSEEN] * 9, ["GPUTriggerUnanswered"], id="what lasts is told once"),
        pytest.param(
            [UNSEEN] * 9 + [WELL] * 9, ["GPUTriggerUnanswered", "GPUTriggerAnswered"], id="and told when it is over"
        ),
        pytest.param(
            [UNSEEN, UNSEEN, replace(UNSEEN, reason="another")] * 5, ["GPUTriggerUnanswered"], id="reasons may change"
        ),
        pytest.param(
            [UNDEMANDED] * 9 + [DEMANDED] * 9, ["DemandUnknown", "DemandKnown"], id="demand that is unknown is told"
        ),
        pytest.param([DEMANDED] * 9, [], id="demand that is known is no event"),
        pytest.param(
            [replace(UNDEMANDED, value=None, reason="x")] * 3,
            ["GPUTriggerUnanswered", "DemandUnknown"],
            id="value and demand are told apart",
        ),
    ],
)
def test_changes_are_told_and_polls_are_not(
    server: FakeApiServer, answers: list[RecentAnswer], reasons: list[str]
) -> None:
    async def talk(told: Telling) -> None:
        await told.hear(*answers)
        assert told.reasons() == reasons

    telling(server, talk)


def test_two_triggers_of_one_object_are_told_apart(server: FakeApiServer) -> None:
    async def talk(told: Telling) -> None:
        other = replace(UNSEEN, metric_name="keda_gpu_llm", metric="saturation")
        await told.hear(UNSEEN, other, UNSEEN, other)
        assert len(server.events()) == 2

    telling(server, talk)


def test_a_trigger_that_flaps_has_an_event_a_minute_at_most(server: FakeApiServer) -> None:
    async def talk(told: Telling) -> None:
        for _ in range(20):
            await told.hear(UNSEEN, UNSEEN, WELL, WELL, apart=HELD_SECONDS)
        seconds = 20 * 4 * HELD_SECONDS
        assert 1 < len(server.events()) <= seconds / APART_SECONDS + 1

    telling(server, talk)


def test_many_triggers_have_few_events_at_once_and_the_others_later(server: FakeApiServer) -> None:
    for number in range(BURST + 30):
        server.scaled_object(f"llama-{number}")
    many = [replace(UNSEEN, name=f"llama-{number}") for number in range(BURST + 30)]

    async def talk(told: Telling) -> None:
        await told.hear(*many, apart=0)
        told.clock.advance(HELD_SECONDS)
        await told.hear(*many, apart=0)
        assert len(server.events()) == BURST
        told.clock.advance(10 * EVERY_SECONDS)
        await told.hear(*many, apart=0)
        assert len(server.events()) == BURST + 10
        told.clock.advance(1000 * EVERY_SECONDS)
        await told.hear(*many, apart=0)
        await told.hear(*many, apart=0)
        assert len(server.events()) == BURST + 30
        assert len({event["involvedObject"]["name"] for event in server.events()}) == BURST + 30

    telling(server, talk)


def test_a_scaled_job_has_its_events_too(server: FakeApiServer) -> None:
    server.put("scaledjobs", "batch", spec={"triggers": []})

    async def talk(told: Telling) -> None:
        await told.hear(*[replace(UNSEEN, name="batch")] * 2)
        [event] = server.events()
        assert event["involvedObject"]["kind"] == "ScaledJob"

    telling(server, talk)


@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        pytest.param("ai", "nobody", id="no such object"),
        pytest.param("../../api/v1/namespaces/kube-system", "llama", id="a namespace that is a path"),
        pytest.param("ai", "llama,metadata.name!=x", id="a name that is a selector"),
        pytest.param("ai", "LLAMA\n", id="what is no name"),
    ],
)
def test_nothing_is_written_about_what_there_is_not(server: FakeApiServer, namespace: str, name: str) -> None:
    async def talk(told: Telling) -> None:
        await told.hear(*[replace(UNSEEN, namespace=namespace, name=name)] * 3)
        assert server.events() == []
        assert {asked.namespace for asked in server.asked} <= {"ai"}

    telling(server, talk)


def test_a_stranger_s_sentence_fits_into_an_event(server: FakeApiServer) -> None:
    name = "l" * 253
    server.scaled_object(name)

    async def talk(told: Telling) -> None:
        await told.hear(*[replace(UNSEEN, name=name, reason="x" * 100_000)] * 2)
        [event] = server.events()
        assert event["message"].endswith("x …")
        assert event["involvedObject"]["name"] == name

    telling(server, talk)


def test_a_right_that_is_missing_is_said_once_and_nothing_is_tried_for_a_while(
    server: FakeApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.forbid("create", "events")

    async def talk(told: Telling) -> None:
        others = [replace(UNSEEN, metric_name=f"m{number}") for number in range(5)]
        await told.hear(UNSEEN, UNSEEN, *others, *others)
        assert told.has_opened == 1
        [said] = caplog.messages
        assert said.startswith("an event cannot be written: the API server answers 403: events is forbidden")
        assert said.endswith("; grant create on events (chart: rbac.create)")
        server.allow("create", "events")
        told.clock.advance(SILENT_SECONDS)
        await told.hear(*others)
        assert len(server.events()) == 5

    telling(server, talk)


def test_a_server_that_fails_is_said_once_and_tried_again_with_the_next_event(
    server: FakeApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.break_down("list", "scaledobjects")

    async def talk(told: Telling) -> None:
        others = [replace(UNSEEN, metric_name=f"m{number}") for number in range(3)]
        await told.hear(*others, *others)
        assert len(caplog.messages) == 1
        assert "503" in caplog.messages[0]
        server.mend("list", "scaledobjects")
        await told.hear(UNSEEN, UNSEEN)
        assert told.reasons() == ["GPUTriggerUnanswered"]

    telling(server, talk)


def test_nonsense_from_the_server_ends_nothing(server: FakeApiServer, caplog: pytest.LogCaptureFixture) -> None:
    async def nonsense(path: str, query: Any = None, accept: str = "") -> dict[str, Any]:
        return {"items": [7]}

    async def talk(told: Telling) -> None:
        told.api.get = nonsense  # type: ignore[method-assign]
        await told.hear(UNSEEN, UNSEEN)
        assert caplog.messages == ["an event cannot be written"]

    caplog.set_level(logging.WARNING)
    telling(server, talk)


def test_no_answer_waits_for_an_event_and_closing_ends_what_is_being_written(server: FakeApiServer) -> None:
    server.hang()

    async def talk(told: Telling) -> None:
        told.events.note(UNSEEN)
        told.clock.advance(POLL)
        told.events.note(UNSEEN)
        await asyncio.sleep(0)
        assert len(told.events._writing) == 1
        await told.events.close()
        assert not told.events._writing
        server.hang(False)

    telling(server, talk)


def test_no_more_is_remembered_than_can_be_told(server: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MAX_SUBJECTS", 3)

    async def talk(told: Telling) -> None:
        await told.hear(*(replace(UNSEEN, metric_name=f"m{number}") for number in range(9)))
        assert len(told.events._told) == 3

    telling(server, talk)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 120)), max_size=60))
def test_events_alternate_and_are_never_closer_than_a_minute(polls: list[tuple[bool, float]]) -> None:
    written: list[tuple[str, float]] = []

    async def run() -> None:
        clock = ManualClock()

        async def unused() -> ApiClient:
            raise AssertionError

        events = EventRecorder(unused, "gpu-1", clock=clock)

        async def write(finding: Any) -> None:
            written.append((finding.reason, clock.now))

        events._write = write  # type: ignore[method-assign]
        for is_well, seconds in polls:
            events.note(WELL if is_well else UNSEEN)
            await asyncio.gather(*events._writing)
            clock.advance(seconds)

    asyncio.run(run())
    reasons = [reason for reason, _ in written]
    assert reasons[:1] in ([], ["GPUTriggerUnanswered"])
    assert all(one != another for one, another in itertools.pairwise(reasons))
    assert all(later - earlier >= APART_SECONDS for (_, earlier), (_, later) in itertools.pairwise(written))
