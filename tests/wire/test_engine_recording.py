# SPDX-License-Identifier: Apache-2.0
"""Tests the records of engines: every record is read as it was written, and any other text is refused."""

import json
import math
from dataclasses import MISSING, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.comparison import ReplicaLimits
from keda_gpu_scaler.core.scaling_rules import Formula, JobRules, JobStrategy, Tolerances
from keda_gpu_scaler.core.types import DeclaredTrigger, Pod, PodRef, Workload
from keda_gpu_scaler.scrape.types import FailureKind
from keda_gpu_scaler.wire import engine_recording
from keda_gpu_scaler.wire.engine_recording import (
    FAILURE_KINDS,
    EngineRecordingBuilder,
    Place,
    RecordedPage,
    RecordedWorkload,
    decode_record,
    encode_record,
    is_record,
)
from keda_gpu_scaler.wire.json_fields import CodecError
from keda_gpu_scaler.wire.workload_codec import UNKNOWN_ADDRESS

PLACE = Place("ai", "llama-0", "http", 8000, "/metrics")
PAGE = RecordedPage(10.0, PLACE, 0.003, 200, "text/plain", 'vllm:num_requests_running{a="é\n"} 3.0\n')
REFUSED = RecordedPage(11.0, PLACE, 0.0, None, failure="the connection is refused", kind="refused")
FULL_POD = Pod(
    PodRef("ai", "llama-0"), "gpu-7", "Running", is_ready=True, is_deleting=True, created_at_seconds=-5.5,
    address=UNKNOWN_ADDRESS, ports=(8000, 9000), metrics_port=8000, metrics_path="/m", metrics_scheme="https",
    ready_at_seconds=12.25, restarts=3, group="job-1", conditions=("Ready",), group_size=4, is_worker=True,
    labels=(("empty", ""), ("set", "llama-a")),
    deletion_cost=-5, written_deletion_cost=-7, uid="8f1c2e66",
)  # fmt: skip
PENDING_POD = Pod(PodRef("ai", "llama-1"), None, "Pending", is_ready=False, is_deleting=False, created_at_seconds=9.0)
PLAIN = Workload("ai", "llama", "ScaledObject", "Deployment llama", 2, 1, (FULL_POD, PENDING_POD))
FULL = replace(
    PLAIN,
    triggers=(DeclaredTrigger({"profile": "llm", "engineMetric": 'a{b="c"}'}, "AverageValue"),),
    removed_at_seconds=3.5,
    cooldown_seconds=60.0,
    idle_replicas=1,
    counts_pods=False,
    selected_ready_pods=5,
    remarks=("the selector of Deployment llama also matches 1 pod of Deployment other: it does not count",),
    formula=Formula("a + b\n", "5", "1", "Value"),
    tolerances=Tolerances(0.05, 0.2),
    limits=ReplicaLimits(2, 9, 1),
    jobs=JobRules(1, 8, JobStrategy.CUSTOM, -2, 0.5, ("Ready",), 2, "sum", 3),
)


@pytest.mark.parametrize(
    "record",
    [PAGE, REFUSED, RecordedWorkload(9.5, PLAIN), RecordedWorkload(9.5, FULL)],
    ids=["a page", "a refused connection", "a workload", "a workload with every field"],
)
def test_a_record_is_read_as_it_was_written(record: RecordedPage | RecordedWorkload) -> None:
    line = encode_record(record)
    assert line.isascii()
    assert is_record(line)
    assert decode_record(line) == record


NOT_RECORDED = {"other_addresses", "assignments", "requests", "has_claims", "assigned", "owner"}


@pytest.mark.parametrize(
    "full", [FULL, FULL_POD, FULL.jobs, FULL.formula, FULL.tolerances, FULL.limits], ids=lambda it: type(it).__name__
)
def test_every_field_is_recorded(full: Any) -> None:
    """A field with its default value in the tests above could be left out without a failing test."""
    for field in fields(full):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        assert field.name in NOT_RECORDED or getattr(full, field.name) != default, field.name


def test_the_address_of_a_pod_is_not_recorded() -> None:
    pod = replace(FULL_POD, address="10.1.2.3", other_addresses=("fd00::3",))
    line = encode_record(RecordedWorkload(1.0, replace(PLAIN, pods=(pod,))))
    assert "10.1.2.3" not in line
    assert "fd00" not in line
    decoded = decode_record(line)
    assert isinstance(decoded, RecordedWorkload)
    assert decoded.workload.pods[0].address == UNKNOWN_ADDRESS


def test_every_kind_of_failure_can_be_recorded() -> None:
    assert set(FAILURE_KINDS) == {kind.value for kind in FailureKind}


def test_a_failure_is_written_as_printable_text_of_bounded_length() -> None:
    decoded = decode_record(encode_record(replace(REFUSED, failure="a\x1b[2J" + "b" * 1000)))
    assert isinstance(decoded, RecordedPage)
    assert decoded.failure.startswith("a?[2Jb")
    assert len(decoded.failure) == 400


def changed(record: RecordedPage | RecordedWorkload, **changes: Any) -> str:
    [(key, plain)] = json.loads(encode_record(record)).items()
    return json.dumps({key: {**plain, **changes}})


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        pytest.param(changed(PAGE, port=0), "page.port: Invalid value: 0: must be a whole number from 1", id="a port"),
        pytest.param(changed(PAGE, scheme="ftp"), "page.scheme: Unsupported value: 'ftp'", id="a scheme"),
        pytest.param(changed(PAGE, path="metrics"), "page.path: Invalid value: 'metrics'", id="a path"),
        pytest.param(changed(PAGE, text=7), "page.text: Invalid value: 7: must be text", id="a page that is a number"),
        pytest.param(changed(PAGE, at_seconds=None), "page.at_seconds: Invalid value: ", id="no time"),
        pytest.param(changed(PAGE, pod=""), "page.pod: Invalid value: ", id="no pod"),
        pytest.param(changed(REFUSED, kind="odd"), "page.kind: Unsupported value: 'odd'", id="a kind of failure"),
        pytest.param('{"page":5}', "page: Invalid value: 5: must be a JSON object", id="a page that is no object"),
        pytest.param('{"page":', "is not JSON", id="a line that is cut off"),
        pytest.param(
            changed(RecordedWorkload(1.0, PLAIN), kind="Job"), "kind: Unsupported value: 'Job'", id="a kind of workload"
        ),
        pytest.param(
            changed(RecordedWorkload(1.0, PLAIN), pods=[{}]), "workload.pods[0].name: Required value", id="an empty pod"
        ),
        pytest.param(
            changed(RecordedWorkload(1.0, PLAIN), triggers=[{"metadata": {"a": 1}, "metric_type": "Value"}]),
            "workload.triggers[0].metadata: Invalid value",
            id="metadata that is a number",
        ),
    ],
)
def test_any_other_line_is_refused_with_the_field(line: str, sentence: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode_record(line)
    assert sentence in str(caught.value)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda it: st.lists(it) | st.dictionaries(
    st.sampled_from([*json.loads(encode_record(PAGE))["page"], "workload", "kind", "pods"]), it
)))  # fmt: skip
def test_any_text_is_a_record_or_an_error(value: Any) -> None:
    for key in ("page", "workload"):
        try:
            decode_record(json.dumps({key: value}))
        except CodecError:
            continue


def test_a_page_that_is_too_large_is_refused_when_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_recording, "MAX_RECORD_LENGTH", 100)
    with pytest.raises(CodecError, match="must have at most 100"):
        encode_record(PAGE)


def built(*records: RecordedPage | RecordedWorkload, interval: float = 2.0) -> EngineRecordingBuilder:
    builder = EngineRecordingBuilder()
    builder.begin(interval)
    for record in records:
        builder.add(record)
    return builder


def test_a_recording_has_its_records_in_the_order_of_time() -> None:
    later = replace(PAGE, at_seconds=12.0, text="")
    recording = built(RecordedWorkload(9.5, PLAIN), later, REFUSED, PAGE).build()
    assert recording is not None
    assert (recording.begins_at_seconds, recording.duration_seconds) == (9.5, 4.5)
    pages = recording.pages[PLACE]
    assert [(page.at_seconds, page.failure) for page in pages] == [(10.0, ""), (11.0, REFUSED.failure), (12.0, "")]
    assert [page.text for page in pages] == [PAGE.text.encode(), b"", b""]
    assert recording.pods == (("ai", "llama-0"), ("ai", "llama-1"))


def test_without_a_workload_there_are_no_engines_to_play() -> None:
    assert built(PAGE).build() is None
    assert EngineRecordingBuilder().build() is None


@pytest.mark.parametrize(
    ("limit", "value", "sentence"),
    [
        ("MAX_RECORDS", 1, "more than 1 records"),
        ("MAX_PODS", 1, "more than 1 pods"),
        ("MAX_TEXT_BYTES", -1, "of pages"),
    ],
)
def test_the_size_of_a_recording_is_limited(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int, sentence: str
) -> None:
    monkeypatch.setattr(engine_recording, limit, value)
    with pytest.raises(CodecError, match=sentence):
        built(PAGE, RecordedWorkload(9.5, PLAIN))


def test_records_of_another_clock_are_refused() -> None:
    builder = built(PAGE)
    with pytest.raises(CodecError, match="two recordings of engines are joined"):
        builder.begin(2.0)
    with pytest.raises(CodecError, match="the header has no engines"):
        EngineRecordingBuilder().add(PAGE)


def test_a_number_that_is_no_number_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_record(replace(PAGE, answer_seconds=math.nan))
