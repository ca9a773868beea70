# SPDX-License-Identifier: Apache-2.0
"""Tests refused triggers with a real process: row, series and Event, and a wrong edit undone."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.apiserver import FakeApiServer
from tests.end_to_end.test_status_page import Pair
from tests.limits import WAIT_SECONDS
from tests.polling import pause

ADDRESS = "keda-gpu-scaler.keda.svc.cluster.local:6000"
RIGHT = {"scalerAddress": ADDRESS, "profile": "triton-inference"}
WRONG = {"scalerAddress": ADDRESS, "profile": "tritn-inference"}
MISSPELT = {"scalerAddress": "keda-gpu-scaler.keda:6000", "targetValu": "60"}
REASON = 'metadata.profile: Unsupported value: "tritn-inference": did you mean "triton-inference"?'
AVAILABLE = "keda_gpu_scaler_workload_value_available"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(FakeApiServer())
        yield Pair(tmp_path, server, stack)


def declare(pair: Pair, metadata: dict[str, str], name: str = "llama") -> None:
    pair.server.put(
        "scaledobjects", name,
        spec={"scaleTargetRef": {"name": "llama"}, "triggers": [{"type": "external", "metadata": metadata}]},
    )  # fmt: skip


def ask(pair: Pair, metadata: dict[str, str], name: str = "llama") -> str:
    """Ask as KEDA does, first for the target and then for the value; return the code of the first error."""
    ref = pb.ScaledObjectRef(name=name, namespace="ai", scalerMetadata=metadata)
    try:
        pair.asked.stub.GetMetricSpec(ref, timeout=WAIT_SECONDS)
        pair.asked.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref), timeout=WAIT_SECONDS)
    except grpc.RpcError as error:
        assert pair.asked.process.poll() is None, "the server has ended"
        return str(error.code().name)
    return "OK"


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        pause()
    return found


def series(pair: Pair, name: str = "llama") -> dict[str, float]:
    """The value of each series about a workload, by its name and its label reason."""
    found = {}
    for line in pair.get("/metrics").splitlines():
        matched = re.match(r"keda_gpu_scaler_(workload_\w+)\{(.*)\} (\S+)$", line)
        if matched and f'namespace="ai",name="{name}",' in matched[2]:
            reason = re.search(r'reason="(\w+)"', matched[2])
            found[f"{matched[1]} {reason[1]}" if reason else matched[1]] = float(matched[3])
    return found


def row(pair: Pair) -> str:
    """The text of the first rows of the workloads on the page."""
    found = re.search(r"<tbody.*?</tbody>", pair.get("/"), re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split()).replace("&quot;", '"') if found else ""


def reasons(pair: Pair) -> list[str]:
    return [event["reason"] for event in pair.server.events()]


def test_a_misspelt_trigger_has_a_row_an_event_and_a_series(pair: Pair) -> None:
    declare(pair, MISSPELT)
    assert ask(pair, MISSPELT) == "INVALID_ARGUMENT"
    until(lambda: series(pair) == {"workload_value_available refused": 0}, "no series")
    until(lambda: row(pair).startswith("ai/llama refused for "), "no row")
    problem = 'metadata.targetValu: Forbidden: it is not a key of this scaler, but almost "targetValue"'
    assert problem in row(pair)
    [event] = until(pair.server.events, "no event")
    assert (event["type"], event["reason"]) == ("Warning", "GPUTriggerRefused")
    assert problem in event["message"]
    assert event["involvedObject"]["name"] == "llama"


def test_a_trigger_edited_from_right_to_wrong_loses_its_value_and_recovers(pair: Pair) -> None:
    declare(pair, RIGHT)
    until(lambda: ask(pair, RIGHT) == "OK", "no value")
    assert series(pair)["workload_value"] == 92

    declare(pair, WRONG)  # KEDA has not asked again
    until(lambda: series(pair) == {"workload_value_available refused": 0}, "the old value stays")
    assert REASON in row(pair)
    assert ask(pair, WRONG) == "INVALID_ARGUMENT"
    assert series(pair) == {"workload_value_available refused": 0}
    until(lambda: reasons(pair) == ["GPUTriggerRefused"], "no event")

    declare(pair, RIGHT)
    until(lambda: series(pair) == {}, "the trigger is still refused, or its old value has come back")
    until(lambda: ask(pair, RIGHT) == "OK", "no value")
    assert series(pair)["workload_value"] == 92
    assert "refused" not in row(pair)


def test_a_refused_trigger_is_found_before_keda_asks_about_its_object(pair: Pair) -> None:
    declare(pair, RIGHT)
    until(lambda: ask(pair, RIGHT) == "OK", "no value")
    declare(pair, WRONG, "other")
    declare(pair, {"scalerAddress": "another-scaler.keda:6000", "profile": "theirs"}, "foreign")
    until(lambda: series(pair, "other") == {"workload_value_available refused": 0}, "the trigger is not refused")
    assert row(pair).startswith("ai/other refused for ")
    assert series(pair, "foreign") == {}
    until(lambda: reasons(pair) == ["GPUTriggerRefused"], "no event")
    assert pair.server.events()[0]["involvedObject"]["name"] == "other"


def test_a_question_that_no_object_declares_is_not_reported(pair: Pair) -> None:
    declare(pair, RIGHT)
    until(lambda: ask(pair, RIGHT) == "OK", "no value")
    assert ask(pair, WRONG) == "INVALID_ARGUMENT"
    assert ask(pair, WRONG, "invented") == "INVALID_ARGUMENT"
    until(lambda: ask(pair, RIGHT) == "OK", "no value")
    assert series(pair)["workload_value"] == 92
    assert series(pair, "invented") == {}
