# SPDX-License-Identifier: Apache-2.0
"""Tests ``probe`` against real gRPC servers on the loopback interface, with a fake scaler behind them."""

import json
import math
import re
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result

from keda_gpu_scaler.cli.output import DEFAULT_WIDTH
from keda_gpu_scaler.cli.pace import Timing
from keda_gpu_scaler.cli.probe.client import MetricReading, ProbeAnswer, name_from_keda, unreachable
from keda_gpu_scaler.cli.probe.command import HEADER_EVERY_ROUNDS, probe
from keda_gpu_scaler.cli.probe.lint import SMALLEST_TARGET, lint
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc

GOLDEN = Path(__file__).parents[2] / "golden" / "probe.txt"


class FakeScaler(pb_grpc.ExternalScalerServicer):
    """An external scaler with settable answers. It keeps the calls that it receives."""

    def __init__(self) -> None:
        self.specs = [pb.MetricSpec(metricName="gpu_utilization", targetSize=80, targetSizeFloat=80.0)]
        self.values = [pb.MetricValue(metricName="gpu_utilization", metricValue=92, metricValueFloat=92.0)]
        self.active = True
        self.errors: dict[str, tuple[grpc.StatusCode, str]] = {}
        self.released = {method: threading.Event() for method in ("GetMetricSpec", "GetMetrics", "IsActive")}
        self.calls: list[tuple[str, Any]] = []
        self.seconds_left: list[float] = []
        for event in self.released.values():
            event.set()

    def reports(self, value: float) -> None:
        self.values = [
            pb.MetricValue(metricName="gpu_utilization", metricValue=math.ceil(value), metricValueFloat=value)
        ]

    def _receive(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        self.calls.append((method, request))
        self.seconds_left.append(context.time_remaining())
        self.released[method].wait()
        if method in self.errors:
            context.abort(*self.errors[method])

    def GetMetricSpec(  # noqa: N802 - the protocol's name
        self, request: pb.ScaledObjectRef, context: grpc.ServicerContext
    ) -> pb.GetMetricSpecResponse:
        self._receive("GetMetricSpec", request, context)
        return pb.GetMetricSpecResponse(metricSpecs=self.specs)

    def GetMetrics(  # noqa: N802 - the protocol's name
        self, request: pb.GetMetricsRequest, context: grpc.ServicerContext
    ) -> pb.GetMetricsResponse:
        self._receive("GetMetrics", request, context)
        return pb.GetMetricsResponse(metricValues=self.values)

    def IsActive(  # noqa: N802 - the protocol's name
        self, request: pb.ScaledObjectRef, context: grpc.ServicerContext
    ) -> pb.IsActiveResponse:
        self._receive("IsActive", request, context)
        return pb.IsActiveResponse(result=self.active)


@dataclass
class ManualTime:
    """A clock that advances by a 1024th of a second at each reading, and by each sleep."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)
    interrupt_after: int | None = None

    def monotonic(self) -> float:
        self.now += 1 / 1024  # exact in binary: sums stay exact
        return self.now

    def utc(self) -> datetime:
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if len(self.slept) == self.interrupt_after:
            raise KeyboardInterrupt

    @property
    def timing(self) -> Timing:
        return Timing(self.monotonic, self.utc, self.sleep)


@pytest.fixture
def scaler() -> FakeScaler:
    return FakeScaler()


@pytest.fixture
def address(scaler: FakeScaler) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    pb_grpc.add_ExternalScalerServicer_to_server(scaler, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    for event in scaler.released.values():
        event.set()
    server.stop(None).wait()


def run(address: str, *arguments: str, clock: ManualTime | None = None, color: bool = False) -> Result:
    timing = (clock or ManualTime()).timing
    return CliRunner().invoke(probe, ["--address", address, *arguments], obj=timing, color=color)


def rounds(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def one(result: Result) -> dict[str, Any]:
    (only,) = rounds(result)
    return only


def codes(result: Result) -> list[str]:
    return [finding["code"] for finding in one(result)["findings"]]


# The calls


def test_the_calls_are_in_kedas_order(scaler: FakeScaler, address: str) -> None:
    assert run(address).exit_code == 0
    assert [method for method, _ in scaler.calls] == ["GetMetricSpec", "GetMetrics", "IsActive"]


def test_the_scaled_object_and_its_metadata_are_sent_unchanged(scaler: FakeScaler, address: str) -> None:
    run(
        address, "--name", "llama", "--namespace", "ai", "-m", "targetValue= 80 ", "--metadata", "query=a=b", "-m", "x="
    )
    expected = pb.ScaledObjectRef(
        name="llama", namespace="ai", scalerMetadata={"targetValue": " 80 ", "query": "a=b", "x": ""}
    )
    spec, metrics, active = (request for _, request in scaler.calls)
    assert spec == expected
    assert metrics.scaledObjectRef == expected
    assert active == expected


def test_the_metric_is_requested_under_the_name_that_keda_makes_of_it(scaler: FakeScaler, address: str) -> None:
    scaler.specs = [pb.MetricSpec(metricName="GPU.util/(max)", targetSize=80, targetSizeFloat=80.0)]
    run(address)
    assert scaler.calls[1][1].metricName == "gpu-util--max-"


@pytest.mark.parametrize("character", list("/.:%()"))
def test_each_character_that_keda_replaces_becomes_a_dash(character: str) -> None:
    assert name_from_keda(f"A{character}b_c-9") == "a-b_c-9"


# The page


def test_one_round_in_full(scaler: FakeScaler, address: str) -> None:
    scaler.values = [pb.MetricValue(metricName="gpu_utilization", metricValue=91, metricValueFloat=91.5)]
    scaler.specs = [pb.MetricSpec(metricName="GPU_utilization", targetSize=80, targetSizeFloat=80.0)]
    result = run(address, "--replicas", "8", "--name", "llama", "--namespace", "ai")
    assert result.exit_code == 0
    assert result.stdout.replace(address, "127.0.0.1:6000") == GOLDEN.read_text(encoding="utf-8")


def test_an_inactive_scaler_is_an_answer_like_any_other(scaler: FakeScaler, address: str) -> None:
    scaler.active = False
    result = run(address)
    assert re.search(r"^active +no$", result.stdout, re.MULTILINE)
    assert result.exit_code == 0


def test_several_values_are_added_up_as_the_hpa_does(scaler: FakeScaler, address: str) -> None:
    scaler.values = [
        pb.MetricValue(metricName="gpu_utilization", metricValue=100, metricValueFloat=100.0),
        pb.MetricValue(metricName="gpu_utilization", metricValue=60, metricValueFloat=60.0),
    ]
    result = run(address)
    assert re.search(r"^value +100 \+ 60 = 160$", result.stdout, re.MULTILINE)
    assert "ceil(160 / 80) = 2" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "replicas", "limit"),
    [
        pytest.param(["--replicas", "8"], 2, "none", id="a total of one busy device scales eight replicas to two"),
        pytest.param(
            ["--replicas", "8", "--value-type", "Value"], 10, "none", id="under Value the same reading scales up"
        ),
        pytest.param(
            ["--replicas", "8", "--value-type", "value", "--ready", "4"],
            5,
            "none",
            id="under Value the ready replicas count",
        ),
        pytest.param(["--replicas", "8", "--min-replicas", "3"], 3, "min", id="the minimum limits the size"),
        pytest.param(["--replicas", "1", "--max-replicas", "1"], 1, "max", id="the maximum limits the size"),
        pytest.param(["--replicas", "0"], 0, "disabled", id="the HPA is disabled at zero replicas"),
        pytest.param([], 2, "none", id="one replica by default"),
    ],
)
def test_the_hpa_decides_on_the_size(address: str, arguments: list[str], replicas: int, limit: str) -> None:
    hpa = one(run(address, "--json", *arguments))["hpa"]
    assert (hpa["replicas"], hpa["limit"]) == (replicas, limit)


def test_a_size_that_the_maximum_forces_takes_effect_at_once(address: str) -> None:
    assert "when all" in run(address, "--replicas", "8").stdout
    assert "when all" not in run(address, "--replicas", "8", "--max-replicas", "5").stdout


def test_json_has_the_documented_keys(address: str) -> None:
    shown = one(run(address, "--json", "--replicas", "8"))
    assert shown == {
        "at": "2026-01-02T03:04:05+00:00",
        "address": address,
        "replicas": 8,
        "connected": True,
        "calls": [
            {"method": method, "ms": 0.977, "status": "OK", "details": ""}
            for method in ("GetMetricSpec", "GetMetrics", "IsActive")
        ],
        "spec": {"name": "gpu_utilization", "target": 80.0, "integer": 80, "float": 80.0},
        "value": {"name": "gpu_utilization", "value": 92.0, "integer": 92, "float": 92.0},
        "active": True,
        "findings": [],
        "hpa": {
            "value_type": "AverageValue",
            "recommended": 2,
            "replicas": 2,
            "limit": "none",
            "arithmetic": "92 is 0.144 of 8 * 80, so ceil(92 / 80) = 2",
            "sentence": "2 replicas, as recommended",
        },
        "evaluation": None,
    }


# The numbers and the findings


def test_a_float_of_zero_falls_back_to_the_integer(scaler: FakeScaler, address: str) -> None:
    scaler.specs = [pb.MetricSpec(metricName="gpu_utilization", targetSize=40)]
    scaler.values = [pb.MetricValue(metricName="gpu_utilization", metricValue=92)]
    result = run(address, "--json")
    shown = one(result)
    assert (shown["spec"]["target"], shown["value"]["value"]) == (40.0, 92.0)
    assert shown["hpa"]["recommended"] == 3
    assert codes(result) == ["integer-only", "integer-only"]
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("floating", "expected"),
    [
        pytest.param(12.5, 12.5, id="the float where it is above zero"),
        pytest.param(0.0, 7.0, id="the integer where it is zero"),
        pytest.param(-1.5, 7.0, id="the integer where the float is below zero"),
        pytest.param(math.nan, 7.0, id="the integer where the float is NaN"),
        pytest.param(math.inf, math.inf, id="infinity is above zero"),
    ],
)
def test_a_number_is_read_as_keda_reads_it(floating: float, expected: float) -> None:
    assert MetricReading("gpu", 7, floating).as_keda_reads_it == expected


def answer(
    target: tuple[int, float] = (80, 80.0),
    value: tuple[int, float] = (92, 92.0),
    spec_name: str = "gpu",
    value_name: str = "gpu",
    specs: int = 1,
    values: int = 1,
) -> ProbeAnswer:
    return ProbeAnswer(
        True, (), (MetricReading(spec_name, *target),) * specs, (MetricReading(value_name, *value),) * values, True
    )


def case(sentence: str, shown: ProbeAnswer, *expected: tuple[str, bool]) -> Any:
    return pytest.param(shown, list(expected), id=sentence)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        case("nothing wrong", answer()),
        case("a value of 0 is a value", answer(value=(0, 0.0))),
        case("the integer is the ceiling", answer(value=(13, 12.1))),
        case("the integer is cut off", answer(value=(12, 12.1)), ("fields-disagree", False)),
        case("the integer is missing", answer(value=(0, 12.1)), ("fields-disagree", False)),
        case("the target's fields disagree", answer(target=(81, 80.0)), ("fields-disagree", False)),
        case("only the integer, as before KEDA 2.17", answer(value=(12, 0.0)), ("integer-only", False)),
        case("no spec", answer(specs=0, values=0), ("no-spec", True), ("no-value", True)),
        case("two specs", answer(specs=2), ("many-specs", False)),
        case("no value", answer(values=0), ("no-value", True)),
        case("two values", answer(values=2), ("many-values", False)),
        case("a value that is NaN", answer(value=(0, math.nan)), ("value-not-finite", True)),
        case("a value that is infinite", answer(value=(0, math.inf)), ("value-not-finite", True)),
        case("a target that is infinite", answer(target=(80, math.inf)), ("target-not-finite", True)),
        case("a negative value", answer(value=(-1, -1.0)), ("value-negative", True)),
        case("a negative integer alone", answer(value=(-1, 1.0)), ("value-negative", True)),
        case("a negative target", answer(target=(-80, -80.0)), ("target-negative", True)),
        case("a value too large for thousandths", answer(value=(2**63 - 1, 1e16)), ("value-too-large", True)),
        case("a target of 0", answer(target=(0, 0.0)), ("target-too-small", True)),
        case("a target below half a thousandth", answer(target=(1, 0.0004)), ("target-too-small", True)),
        case("a target of half a thousandth", answer(target=(1, SMALLEST_TARGET))),
        case("capitals in the name", answer(spec_name="GPU", value_name="gpu"), ("unsafe-name", False)),
        case("a slash in the name", answer(spec_name="a/b", value_name="a-b"), ("unsafe-name", False)),
        case("a space in the name", answer(spec_name="a b", value_name="a b"), ("unsafe-name", False)),
        case("no name", answer(spec_name="", value_name=""), ("unsafe-name", False)),
        case("the value has another name", answer(value_name="memory"), ("other-name", False)),
        case("the value's name differs in case only", answer(value_name="GPU")),
    ],
)
def test_a_problem_with_keda_is_found(shown: ProbeAnswer, expected: list[tuple[str, bool]]) -> None:
    assert [(finding.code, finding.is_unusable) for finding in lint(shown)] == expected


def test_an_answer_that_keda_cannot_use_leads_to_no_decision_and_exit_status_1(
    scaler: FakeScaler, address: str
) -> None:
    scaler.reports(1.0)
    scaler.values[0].metricValueFloat = math.nan
    result = run(address, "--json")
    assert one(result)["hpa"] is None
    assert one(result)["value"]["float"] == "nan"
    assert result.exit_code == 1
    assert "decision    none" in run(address).stdout


def test_an_empty_spec_ends_the_round(scaler: FakeScaler, address: str) -> None:
    scaler.specs = []
    result = run(address)
    assert [method for method, _ in scaler.calls] == ["GetMetricSpec"]
    assert "problem     the spec is empty" in result.stdout
    assert result.exit_code == 1


def test_a_warning_does_not_change_the_exit_status(scaler: FakeScaler, address: str) -> None:
    scaler.values[0].metricValue = 7
    result = run(address)
    assert "warning     value: the fields disagree (metricValue 7, metricValueFloat 92)" in result.stdout
    assert result.exit_code == 0


def test_an_untrusted_text_sends_no_escape_sequence(scaler: FakeScaler, address: str) -> None:
    scaler.specs[0].metricName = "gpu\x1b[2J"
    scaler.errors["GetMetrics"] = (grpc.StatusCode.INTERNAL, "oh\x1b[31m no")
    result = run(address)
    assert "\x1b" not in result.output
    assert "oh�[31m no" in result.stderr


# Errors


@pytest.mark.parametrize("method", ["GetMetricSpec", "GetMetrics", "IsActive"])
def test_an_error_is_named_and_ends_the_round(scaler: FakeScaler, address: str, method: str) -> None:
    scaler.errors[method] = (grpc.StatusCode.FAILED_PRECONDITION, "no fresh sample\ngpu-7 last answered 41 s ago")
    result = run(address)
    assert result.exit_code == 1
    assert result.stderr == (
        f"keda-gpu-scaler: {method}: FAILED_PRECONDITION: no fresh sample\n  gpu-7 last answered 41 s ago\n"
    )
    assert scaler.calls[-1][0] == method


def test_a_scaler_that_answers_unavailable_was_reached(scaler: FakeScaler, address: str) -> None:
    scaler.errors["GetMetrics"] = (grpc.StatusCode.UNAVAILABLE, "no fresh snapshot")
    result = run(address, "--json")
    assert one(result)["connected"] is True
    assert result.exit_code == 1


def test_an_error_of_get_metrics_keeps_the_size(scaler: FakeScaler, address: str) -> None:
    scaler.errors["GetMetrics"] = (grpc.StatusCode.UNAVAILABLE, "no fresh snapshot")
    hpa = one(run(address, "--json", "--replicas", "8"))["hpa"]
    assert (hpa["recommended"], hpa["replicas"], hpa["limit"]) == (None, 8, "no metric")


def test_an_error_of_is_active_discards_the_value(scaler: FakeScaler, address: str) -> None:
    scaler.errors["IsActive"] = (grpc.StatusCode.INTERNAL, "oh")
    result = run(address, "--json", "--replicas", "8")
    assert codes(result) == ["is-active-failed"]
    assert one(result)["value"]["value"] == 92.0
    assert one(result)["active"] is None
    assert one(result)["hpa"]["limit"] == "no metric"


@pytest.mark.parametrize("method", ["GetMetricSpec", "GetMetrics", "IsActive"])
def test_a_call_that_hangs_ends_at_the_time_limit(
    scaler: FakeScaler, address: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of this call alone is short: on a busy machine the calls before it may take longer."""
    original = pb_grpc.ExternalScalerStub

    def stub(channel: grpc.Channel) -> Any:
        made: Any = original(channel)  # type: ignore[no-untyped-call]
        call = getattr(made, method)
        setattr(
            made, method, lambda message, timeout, metadata: call(message, timeout=timeout / 1e4, metadata=metadata)
        )
        return made

    monkeypatch.setattr(pb_grpc, "ExternalScalerStub", stub)
    scaler.released[method].clear()
    result = run(address, "--timeout", "1000")
    assert f"{method}: DEADLINE_EXCEEDED: " in result.stderr
    assert result.exit_code == 1


def test_every_call_has_the_time_limit(scaler: FakeScaler, address: str) -> None:
    run(address, "--timeout", "1000")
    assert len(scaler.seconds_left) == 3
    assert all(500 < seconds < 1500 for seconds in scaler.seconds_left)  # gRPC rounds it up on the way


def test_a_refused_connection_differs_from_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(
            ("127.0.0.1", 0)
        )  # bound but not listening: connections are refused, and no other process gets the port
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run(address)
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.startswith(f"keda-gpu-scaler: cannot connect to {address}: ")
    assert "Connection refused" in result.stderr
    assert "port-forward" in result.stderr


def test_a_port_that_never_answers_is_connected_and_too_late() -> None:
    with socket.socket() as unavailable:
        unavailable.bind(("127.0.0.1", 0))
        unavailable.listen()
        result = run(f"127.0.0.1:{unavailable.getsockname()[1]}", "--timeout", "0.2", "--json")
    assert result.exit_code == 1
    assert one(result)["connected"] is True
    assert one(result)["calls"][0]["status"] == "DEADLINE_EXCEEDED"


def test_a_deadline_without_a_connection_is_no_connection(
    scaler: FakeScaler, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loopback interface has no firewall that drops packets, so the system's error is simulated."""

    def time_out(*_: object) -> socket.socket:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", time_out)
    scaler.released["GetMetricSpec"].clear()
    result = run(address, "--timeout", "0.2")
    assert result.exit_code == 3
    assert f"cannot connect to {address}: timed out\n" in result.stderr


@pytest.mark.parametrize("prefix", ["", "dns:///", "ipv4:///"])
def test_a_connection_test_finds_the_port_in_every_form_of_address(address: str, prefix: str) -> None:
    assert unreachable(prefix + address, 5.0) is None


def test_a_connection_test_understands_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    targets: list[object] = []

    def refuse(target: object, *_: object) -> socket.socket:
        targets.append(target)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert unreachable("[::1]:6000", 5.0) == "Connection refused"
    assert targets == [("::1", 6000)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["-m", "targetValue"], '"targetValue": must be KEY=VALUE', id="metadata without an equals sign"),
        pytest.param(["-m", "=80"], '"=80": must be KEY=VALUE', id="metadata without a key"),
        pytest.param(["-m", "a=1", "-m", "a=2"], '"a=2": a is given twice', id="a key twice"),
        pytest.param(["--address", "localhost"], '"localhost": must be HOST:PORT', id="no port"),
        pytest.param(["--address", ":6000"], '":6000": must be HOST:PORT', id="no host"),
        pytest.param(["--address", "a:65536"], '"a:65536": must be HOST:PORT', id="a port too high"),
        pytest.param(
            ["--min-replicas", "5", "--max-replicas", "4"], "5: must not exceed --max-replicas (4)", id="limits"
        ),
        pytest.param(["--follow"], "--follow: needs --watch", id="following a single round"),
        pytest.param(["--watch", "--follow", "--ready", "1"], "leave out --ready", id="following some pods"),
        pytest.param(["--value-type", "Utilization"], "'Utilization' is not one of", id="an unsupported type"),
        pytest.param(["--timeout", "0"], "--timeout", id="a time limit of zero"),
    ],
)
def test_wrong_usage_is_exit_status_2_and_makes_no_call(
    scaler: FakeScaler, address: str, arguments: list[str], sentence: str
) -> None:
    result = run(address, *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert scaler.calls == []


def test_help_has_examples_and_the_exit_status() -> None:
    text = CliRunner().invoke(probe, ["--help"]).output
    assert "keda-gpu-scaler probe" in text
    assert "Exit status" in text
    assert "--value-type [AverageValue|Value]" in text
    assert max(map(len, text.splitlines())) <= DEFAULT_WIDTH


# Watching


def test_watching_prints_one_line_per_round_and_stops_after_count(scaler: FakeScaler, address: str) -> None:
    clock = ManualTime()
    result = run(address, "--watch", "--count", "3", "--replicas", "3", clock=clock)
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["time", "value", "/", "target", "active", "hpa", "ms", "of", "calls"]
    assert len(lines) == 3
    for line in lines:
        assert re.fullmatch(r"\d\d:\d\d:\d\d  92 / 80 +yes +3 → 3 stabilised +1\.0/1\.0/1\.0", line)
        assert len(line) <= DEFAULT_WIDTH
    assert [method for method, _ in scaler.calls] == ["GetMetricSpec", "GetMetrics", "IsActive"] * 3
    assert result.exit_code == 0


def test_the_interval_is_from_start_to_start(address: str) -> None:
    clock = ManualTime()
    run(address, "--count", "3", "--interval", "2", clock=clock)
    assert len(clock.slept) == 2
    assert all(1.98 < seconds < 2 for seconds in clock.slept)


def test_the_header_is_repeated(address: str) -> None:
    result = run(address, "--count", str(2 * HEADER_EVERY_ROUNDS + 1))
    heads = [number for number, line in enumerate(result.stdout.splitlines()) if line.startswith("time")]
    assert heads == [0, HEADER_EVERY_ROUNDS + 1, 2 * (HEADER_EVERY_ROUNDS + 1)]


def test_watching_continues_after_errors_and_shows_each_once(scaler: FakeScaler, address: str) -> None:
    scaler.errors["GetMetrics"] = (grpc.StatusCode.UNAVAILABLE, "no fresh snapshot")
    result = run(address, "--watch", "--count", "3")
    assert len(scaler.calls) == 6
    assert result.stdout.count("GetMetrics: UNAVAILABLE: no fresh snapshot") == 1
    assert result.exit_code == 1


def test_an_error_that_returns_is_shown_again(scaler: FakeScaler, address: str) -> None:
    trouble = (grpc.StatusCode.UNAVAILABLE, "no fresh snapshot")

    class Flapping(ManualTime):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            scaler.errors = {} if scaler.errors else {"GetMetrics": trouble}

    scaler.errors["GetMetrics"] = trouble
    result = run(address, "--count", "3", clock=Flapping())
    assert result.stdout.count("no fresh snapshot") == 2
    assert result.exit_code == 1


def test_the_exit_status_of_several_rounds_is_the_highest(scaler: FakeScaler, address: str) -> None:
    class Recovering(ManualTime):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            scaler.errors.clear()

    scaler.errors["IsActive"] = (grpc.StatusCode.INTERNAL, "oh")
    result = run(address, "--count", "2", "--json", clock=Recovering())
    assert [shown["active"] for shown in rounds(result)] == [None, True]
    assert result.exit_code == 1


def test_ctrl_c_ends_watching_cleanly(scaler: FakeScaler, address: str) -> None:
    scaler.errors["GetMetrics"] = (grpc.StatusCode.UNAVAILABLE, "no fresh snapshot")
    result = run(address, "--watch", clock=ManualTime(interrupt_after=2))
    assert result.exit_code == 0
    assert result.stdout.endswith("\n\n")
    assert "Aborted" not in result.output


def test_the_hpa_remembers_earlier_rounds(address: str) -> None:
    result = run(address, "--json", "--replicas", "8", "--interval", "60", "--count", "6")
    with_value = [(shown["hpa"]["replicas"], shown["hpa"]["limit"]) for shown in rounds(result)]
    assert with_value == [(8, "stabilisation")] * 5 + [(2, "none")]  # the sixth round is just after 300 s


def test_without_follow_the_size_is_constant(scaler: FakeScaler, address: str) -> None:
    scaler.reports(800)
    result = run(address, "--json", "--interval", "15", "--count", "3")
    assert [(shown["replicas"], shown["hpa"]["replicas"]) for shown in rounds(result)] == [(1, 4)] * 3


def test_with_follow_the_size_changes_every_15_seconds(scaler: FakeScaler, address: str) -> None:
    scaler.reports(800)
    result = run(address, "--json", "--follow", "--interval", "5", "--count", "9")
    with_value = [(shown["replicas"], shown["hpa"]["replicas"]) for shown in rounds(result)]
    assert with_value == [(1, 4), (4, 8), (4, 8), (4, 8), (8, 10), (8, 10), (8, 10), (10, 10), (10, 10)]


@pytest.mark.parametrize(
    ("active", "sizes"),
    [
        pytest.param(True, [0, 3, 3], id="active: KEDA sets the minimum"),
        pytest.param(False, [0, 0, 0], id="inactive: the size stays at zero"),
    ],
)
def test_following_from_zero(scaler: FakeScaler, address: str, active: bool, sizes: list[int]) -> None:
    scaler.active = active
    result = run(address, "--json", "--follow", "--replicas", "0", "--min-replicas", "3", "--count", "3")
    assert [shown["replicas"] for shown in rounds(result)] == sizes


def test_a_scaler_that_cannot_be_reached_is_called_again() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        result = run(f"127.0.0.1:{taken.getsockname()[1]}", "--count", "2", "--json")
    assert [shown["connected"] for shown in rounds(result)] == [False, False]
    assert result.exit_code == 3


# Layout


def test_no_line_is_wider_than_a_terminal(scaler: FakeScaler, address: str) -> None:
    scaler.specs[0].metricName = "A/" + "very-long-name-" * 9
    scaler.values[0].metricValue = 1
    scaler.values[0].metricValueFloat = 1234567890123.456
    scaler.errors["IsActive"] = (grpc.StatusCode.INTERNAL, "so many words " * 20)
    once = run(address, "--replicas", "100000", "--max-replicas", "2000000")
    watched = run(address, "--count", "2", "--replicas", "1000", "--max-replicas", "9999")
    for line in [*once.stdout.splitlines(), *watched.stdout.splitlines()]:
        assert len(line) <= DEFAULT_WIDTH, line


def test_only_terminals_get_colours(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in run(address).stdout
    assert "\x1b[" in run(address, color=True).stdout  # color=True makes click assume a terminal


def test_with_no_color_there_is_no_colour(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in run(address, color=True).stdout
