# SPDX-License-Identifier: Apache-2.0
"""Tests of the events about triggers: on change only, after a minimum duration, and at a limited rate."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.instance_status import RecentAnswer
from keda_gpu_scaler.kube import events as events_module
from keda_gpu_scaler.kube.background_writes import FORBIDDEN_PAUSE_SECONDS
from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.events import (
    BURST,
    MIN_DURATION_SECONDS,
    MIN_INTERVAL_SECONDS,
    REFILL_SECONDS,
    REPEAT_SECONDS,
    EventRecorder,
)
from tests.apiserver import FakeApiServer
from tests.fakes import ManualClock
from tests.limits import WAIT_SECONDS

HEALTHY = RecentAnswer("ai", "llama", "keda_gpu_metric", "gpu_utilization", 80.0, 276.0, True, 3, 3)
MISSING = replace(HEALTHY, value=None, with_value=0, reason="no fresh sample for 3 of 3 pods")
DEMAND_KNOWN = replace(HEALTHY, demand=3.0, is_demand_known=True, demand_sentence="demand 3 is above 0")
DEMAND_UNKNOWN = replace(DEMAND_KNOWN, demand=None, is_demand_known=False, demand_sentence="demand is unknown: refused")
POLL = 15.0


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        running.scaled_object("llama")
        yield running


class Recording:
    """An event recorder at an API server, with a clock that the test sets."""

    def __init__(self, server: FakeApiServer) -> None:
        self.server = server
        self.clock = ManualClock()
        self.api = ApiClient(server.access)
        self.events = EventRecorder(self.opened, "gpu-1", clock=self.clock, wall_clock=lambda: 1_700_000_000.0)
        self.times_opened = 0

    async def opened(self) -> ApiClient:
        self.times_opened += 1
        return self.api

    async def receive(self, *answers: RecentAnswer, apart: float = POLL) -> None:
        """Pass these answers to the recorder one after another, and wait until each has been handled."""
        for answer in answers:
            self.events.note(answer)
            await self.written()
            self.clock.advance(apart)

    async def written(self) -> None:
        """Wait until every event is written."""
        while self.events._writes.running:
            await asyncio.gather(*self.events._writes.running)
            await asyncio.sleep(0)

    async def refuse(self, *problems: str, times: int = 2, apart: float = POLL) -> None:
        """Note the problems of the object's triggers several times; without a problem all of them are accepted."""
        for _ in range(times):
            self.events.note_metadata("ai", "llama", problems)
            await self.written()
            self.clock.advance(apart)

    def reasons(self) -> list[str]:
        return [event["reason"] for event in self.server.events()]


def record(server: FakeApiServer, talk: Callable[[Recording], Awaitable[None]]) -> None:
    async def run() -> None:
        recording = Recording(server)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await talk(recording)
        finally:
            await recording.events.close()
            await recording.api.close()

    asyncio.run(run())


def test_an_event_refers_to_its_object_as_kubectl_expects(server: FakeApiServer) -> None:
    async def talk(recording: Recording) -> None:
        await recording.receive(MISSING, MISSING)
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

    record(server, talk)


@pytest.mark.parametrize(
    ("answers", "reasons"),
    [
        pytest.param([HEALTHY, HEALTHY, HEALTHY], [], id="a trigger with a value is no event"),
        pytest.param([MISSING], [], id="one answer without a value is no event"),
        pytest.param([MISSING, HEALTHY, MISSING, HEALTHY], [], id="a change that does not last is no event"),
        pytest.param([MISSING] * 9, ["GPUTriggerUnanswered"], id="a change that lasts is one event"),
        pytest.param(
            [MISSING] * 9 + [HEALTHY] * 9, ["GPUTriggerUnanswered", "GPUTriggerAnswered"], id="and its end is another"
        ),
        pytest.param(
            [MISSING, MISSING, replace(MISSING, reason="another")] * 5,
            ["GPUTriggerUnanswered"],
            id="another reason is no event",
        ),
        pytest.param(
            [DEMAND_UNKNOWN] * 9 + [DEMAND_KNOWN] * 9,
            ["DemandUnknown", "DemandKnown"],
            id="unknown demand is an event, and so is its end",
        ),
        pytest.param([DEMAND_KNOWN] * 9, [], id="known demand is no event"),
        pytest.param(
            [replace(DEMAND_UNKNOWN, value=None, reason="x")] * 3,
            ["GPUTriggerUnanswered", "DemandUnknown"],
            id="value and demand have events of their own",
        ),
    ],
)
def test_changes_are_events_and_calls_are_not(
    server: FakeApiServer, answers: list[RecentAnswer], reasons: list[str]
) -> None:
    async def talk(recording: Recording) -> None:
        await recording.receive(*answers)
        assert recording.reasons() == reasons

    record(server, talk)


def test_two_triggers_of_one_object_have_events_of_their_own(server: FakeApiServer) -> None:
    async def talk(recording: Recording) -> None:
        other = replace(MISSING, metric_name="keda_gpu_llm", metric="saturation")
        await recording.receive(MISSING, other, MISSING, other)
        assert len(server.events()) == 2

    record(server, talk)


def test_a_trigger_that_flaps_has_at_most_one_event_per_minute(server: FakeApiServer) -> None:
    async def talk(recording: Recording) -> None:
        for _ in range(20):
            await recording.receive(MISSING, MISSING, HEALTHY, HEALTHY, apart=MIN_DURATION_SECONDS)
        seconds = 20 * 4 * MIN_DURATION_SECONDS
        assert 1 < len(server.events()) <= seconds / MIN_INTERVAL_SECONDS + 1

    record(server, talk)


def test_the_rate_limit_delays_the_events_of_many_triggers(server: FakeApiServer) -> None:
    for number in range(BURST + 30):
        server.scaled_object(f"llama-{number}")
    many = [replace(MISSING, name=f"llama-{number}") for number in range(BURST + 30)]

    async def talk(recording: Recording) -> None:
        await recording.receive(*many, apart=0)
        recording.clock.advance(MIN_DURATION_SECONDS)
        await recording.receive(*many, apart=0)
        assert len(server.events()) == BURST
        recording.clock.advance(10 * REFILL_SECONDS)
        await recording.receive(*many, apart=0)
        assert len(server.events()) == BURST + 10
        recording.clock.advance(1000 * REFILL_SECONDS)
        await recording.receive(*many, apart=0)
        await recording.receive(*many, apart=0)
        assert len(server.events()) == BURST + 30
        assert len({event["involvedObject"]["name"] for event in server.events()}) == BURST + 30

    record(server, talk)


def test_a_scaled_job_has_its_events_too(server: FakeApiServer) -> None:
    server.put("scaledjobs", "batch", spec={"triggers": []})

    async def talk(recording: Recording) -> None:
        await recording.receive(*[replace(MISSING, name="batch")] * 2)
        [event] = server.events()
        assert event["involvedObject"]["kind"] == "ScaledJob"

    record(server, talk)


@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        pytest.param("ai", "absent", id="no such object"),
        pytest.param("../../api/v1/namespaces/kube-system", "llama", id="a namespace that is a path"),
        pytest.param("ai", "llama,metadata.name!=x", id="a name that is a selector"),
        pytest.param("ai", "LLAMA\n", id="an invalid name"),
    ],
)
def test_no_event_is_written_for_an_object_that_does_not_exist(
    server: FakeApiServer, namespace: str, name: str
) -> None:
    async def talk(recording: Recording) -> None:
        await recording.receive(*[replace(MISSING, namespace=namespace, name=name)] * 3)
        assert server.events() == []
        assert {request.namespace for request in server.asked} <= {"ai"}

    record(server, talk)


def test_an_untrusted_sentence_is_cut_to_the_limit_of_an_event(server: FakeApiServer) -> None:
    name = "l" * 253
    server.scaled_object(name)

    async def talk(recording: Recording) -> None:
        await recording.receive(*[replace(MISSING, name=name, reason="x" * 100_000)] * 2)
        [event] = server.events()
        assert event["message"].endswith("x …")
        assert event["involvedObject"]["name"] == name

    record(server, talk)


def test_a_missing_right_is_logged_once_and_pauses_the_recorder(
    server: FakeApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.forbid("create", "events")

    async def talk(recording: Recording) -> None:
        others = [replace(MISSING, metric_name=f"m{number}") for number in range(5)]
        await recording.receive(MISSING, MISSING, *others, *others)
        assert recording.times_opened == 1
        [message] = caplog.messages
        assert message.startswith("an event cannot be written: the API server answers 403: events is forbidden")
        assert message.endswith("; grant create on events (chart: rbac.create)")
        server.allow("create", "events")
        recording.clock.advance(FORBIDDEN_PAUSE_SECONDS)
        await recording.receive(*others)
        assert len(server.events()) == 5

    record(server, talk)


def test_a_failing_server_is_logged_once_and_called_again_for_the_next_event(
    server: FakeApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.break_down("list", "scaledobjects")

    async def talk(recording: Recording) -> None:
        others = [replace(MISSING, metric_name=f"m{number}") for number in range(3)]
        await recording.receive(*others, *others)
        assert len(caplog.messages) == 1
        assert "503" in caplog.messages[0]
        server.repair("list", "scaledobjects")
        await recording.receive(MISSING, MISSING)
        assert recording.reasons() == ["GPUTriggerUnanswered"]

    record(server, talk)


def test_an_unexpected_response_does_not_end_the_recorder(
    server: FakeApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def unexpected(path: str, query: Any = None, accept: str = "") -> dict[str, Any]:
        return {"items": [7]}

    async def talk(recording: Recording) -> None:
        recording.api.get = unexpected  # type: ignore[method-assign]
        await recording.receive(MISSING, MISSING)
        assert caplog.messages == ["an event cannot be written"]

    caplog.set_level(logging.WARNING)
    record(server, talk)


def test_no_answer_waits_for_an_event_and_close_cancels_the_writes(server: FakeApiServer) -> None:
    server.hang()

    async def talk(recording: Recording) -> None:
        recording.events.note(MISSING)
        recording.clock.advance(POLL)
        recording.events.note(MISSING)
        await asyncio.sleep(0)
        assert len(recording.events._writes.running) == 1
        await recording.events.close()
        assert not recording.events._writes.running
        server.hang(False)

    record(server, talk)


def test_the_number_of_remembered_triggers_is_bounded(server: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MAX_SUBJECTS", 3)

    async def talk(recording: Recording) -> None:
        await recording.receive(*(replace(MISSING, metric_name=f"m{number}") for number in range(9)))
        assert len(recording.events._last_events) == 3

    record(server, talk)


def test_a_trigger_that_is_not_answered_any_more_is_released(server: FakeApiServer) -> None:
    async def talk(recording: Recording) -> None:
        await recording.receive(*(replace(MISSING, name=f"gone-{number}") for number in range(5)), apart=1.0)
        recording.clock.advance(REPEAT_SECONDS)
        await recording.receive(MISSING)
        assert [subject.name for subject in recording.events._last_events] == ["llama"]

    record(server, talk)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 120)), max_size=60))
def test_events_alternate_and_are_never_closer_than_a_minute(answers: list[tuple[bool, float]]) -> None:
    written: list[tuple[str, float]] = []

    async def run() -> None:
        clock = ManualClock()

        async def unused() -> ApiClient:
            raise AssertionError

        events = EventRecorder(unused, "gpu-1", clock=clock)

        async def write(condition: Any) -> bool:
            written.append((condition.reason, clock.now))
            return True

        events._write = write  # type: ignore[method-assign]
        for is_healthy, seconds in answers:
            events.note(HEALTHY if is_healthy else MISSING)
            await asyncio.gather(*events._writes.running)
            clock.advance(seconds)

    asyncio.run(run())
    reasons = [reason for reason, _ in written]
    assert reasons[:1] in ([], ["GPUTriggerUnanswered"])
    assert all(one != another for one, another in itertools.pairwise(reasons))
    assert all(later - earlier >= MIN_INTERVAL_SECONDS for (_, earlier), (_, later) in itertools.pairwise(written))


def test_a_refused_trigger_is_one_event_with_its_sentence_and_its_end_is_another(server: FakeApiServer) -> None:
    async def talk(recording: Recording) -> None:
        await recording.refuse("metadata.targetValu: Forbidden", "metadata.profile: Unsupported value", times=9)
        await recording.refuse(times=9)
        refused, accepted = server.events()
        assert (refused["type"], refused["reason"]) == ("Warning", "GPUTriggerRefused")
        assert refused["message"] == (
            "a trigger is refused, and KEDA gets no value for it: metadata.targetValu: Forbidden; "
            "metadata.profile: Unsupported value"
        )
        assert (accepted["type"], accepted["reason"]) == ("Normal", "GPUTriggerAccepted")

    record(server, talk)


def test_an_object_that_was_never_refused_is_not_accepted(server: FakeApiServer) -> None:
    async def talk(recording: Recording) -> None:
        await recording.refuse(times=9)
        assert server.events() == []

    record(server, talk)


def test_another_problem_of_a_refused_trigger_is_another_event_a_minute_later(server: FakeApiServer) -> None:
    async def talk(recording: Recording) -> None:
        await recording.refuse("one", times=2, apart=MIN_DURATION_SECONDS)
        await recording.refuse("two", times=4, apart=MIN_DURATION_SECONDS)
        assert len(server.events()) == 1
        await recording.refuse("two", times=2, apart=MIN_INTERVAL_SECONDS)
        assert [event["message"][-3:] for event in server.events()] == ["one", "two"]

    record(server, talk)


def test_two_instances_write_one_event_about_a_refused_trigger_until_it_is_edited(
    server: FakeApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(recording: Recording) -> None:
        await recording.refuse("one")
        other = Recording(server)
        await other.refuse("one")
        assert recording.reasons() == ["GPUTriggerRefused"]
        assert caplog.messages == []
        server.put("scaledobjects", "llama", spec={"triggers": []})
        third = Recording(server)
        await third.refuse("one")
        assert recording.reasons() == ["GPUTriggerRefused"] * 2
        for one in (other, third):
            await one.events.close()
            await one.api.close()

    record(server, talk)


def test_an_event_about_a_refused_trigger_is_repeated_when_kubernetes_has_removed_it(server: FakeApiServer) -> None:
    async def talk(recording: Recording) -> None:
        await recording.refuse("one")
        server.delete("events", server.events()[0]["metadata"]["name"])
        await recording.refuse("one", times=10)
        assert server.events() == []
        recording.clock.advance(REPEAT_SECONDS)
        await recording.refuse("one", times=1)
        assert recording.reasons() == ["GPUTriggerRefused"]

    record(server, talk)
