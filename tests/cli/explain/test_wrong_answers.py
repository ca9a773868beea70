# SPDX-License-Identifier: Apache-2.0
"""Tests of ``explain`` with a server that answers with numbers and texts that no scaler sends."""

import json
import math
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.cli.probe.answer_check import answer_problem
from keda_gpu_scaler.wire import evaluation_pb2 as pb
from keda_gpu_scaler.wire import evaluation_pb2_grpc as pb_grpc
from tests.cli.explain.test_command import evaluation


class WrongEvaluations(pb_grpc.EvaluationsServicer):
    """Answers with ``answer``, whatever the request is."""

    answer = pb.Evaluation()

    def Explain(self, request: Any, context: Any) -> pb.Evaluation:  # noqa: N802
        return self.answer


@pytest.fixture
def server() -> Iterator[tuple[WrongEvaluations, str]]:
    service, grpc_server = WrongEvaluations(), grpc.server(futures.ThreadPoolExecutor(1))
    pb_grpc.add_EvaluationsServicer_to_server(service, grpc_server)  # type: ignore[no-untyped-call]
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    yield service, f"127.0.0.1:{port}"
    grpc_server.stop(None).wait()


def explain(address: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["explain", "-m", "scope=node", "--address", address, *arguments])


def with_device_value(value: float) -> pb.Evaluation:
    changed = evaluation()
    changed.observations[1].devices[0].value = value
    return changed


WRONG = [
    pytest.param(evaluation(math.nan), "value: Invalid value: must be a finite number; ", id="a value that is NaN"),
    pytest.param(evaluation(math.inf), "value: Invalid value: must be a finite number; ", id="an infinite value"),
    pytest.param(evaluation(1e300), "value: Invalid value: 1e+300: must be below ", id="a value above the HPA's range"),
    pytest.param(evaluation(-1.0), "value: Invalid value: -1: must be 0 or more", id="a negative value"),
    pytest.param(evaluation(target=math.nan), "target: Invalid value: must be a finite", id="a target that is NaN"),
    pytest.param(evaluation(target=0.0), "target: Invalid value: 0: must be above 0", id="a target of zero"),
    pytest.param(evaluation(target=-math.inf), "target: Invalid value: must be a finite", id="an infinite target"),
    pytest.param(
        evaluation(demand=pb.Demand(value=math.nan)),
        "demand.value: Invalid value: must be a finite number; ",
        id="a demand that is NaN",
    ),
    pytest.param(
        with_device_value(-math.inf),
        "observations.devices.value: Invalid value: must be a finite number; ",
        id="an infinite value of a device",
    ),
]


@pytest.mark.parametrize(("answer", "sentence"), WRONG)
@pytest.mark.parametrize("output", [(), ("-o", "json"), ("-o", "wide")], ids=["page", "json", "wide"])
def test_a_number_that_cannot_be_used_is_an_error_of_the_answer(
    server: tuple[WrongEvaluations, str], answer: pb.Evaluation, sentence: str, output: tuple[str, ...]
) -> None:
    service, address = server
    service.answer = answer
    outcome = explain(address, *output)
    assert isinstance(outcome.exception, SystemExit), outcome.exception
    assert outcome.exit_code == 3
    if output == ("-o", "json"):
        error = json.loads(outcome.stdout)["error"]
        assert error["status"] == "INTERNAL"
        assert error["details"].startswith(sentence)
    else:
        assert sentence.strip() in " ".join(outcome.output.split())
        assert "INTERNAL" not in outcome.output


@pytest.mark.parametrize("output", [(), ("-o", "json"), ("-o", "wide")], ids=["page", "json", "wide"])
def test_no_control_and_no_bidirectional_character_reaches_the_terminal(
    server: tuple[WrongEvaluations, str], output: tuple[str, ...]
) -> None:
    service, address = server
    hostile = "a\x1b[2J\x07\u202eb\u2066c\u200f\x9b\r\n"
    answer = evaluation(reason=hostile, steps=[hostile], instance=hostile, unit=hostile, hints=[hostile])
    answer.observations[0].sentence = answer.observations[0].pod = hostile
    answer.observations[0].devices[0].model = answer.settings[0].value = hostile
    service.answer = answer
    outcome = explain(address, *output)
    assert outcome.exit_code == 0, outcome.output
    assert all(it.isprintable() for it in outcome.output.replace("\n", ""))


def test_an_answer_of_a_scaler_has_no_problem() -> None:
    assert answer_problem(evaluation()) is None
    assert answer_problem(evaluation(None, target=0.0)) is None
