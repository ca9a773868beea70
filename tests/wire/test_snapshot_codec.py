# SPDX-License-Identifier: Apache-2.0
"""Tests of the snapshot codec: round trips, changes, and that untrusted bytes only cause a CodecError."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.core.pod_use import PodUse
from keda_gpu_scaler.core.types import Allocation, Device, PerformanceReadings, ReadingFailure, Sample, Snapshot
from keda_gpu_scaler.wire.pod_uses import MAX_USES
from keda_gpu_scaler.wire.snapshot_codec import (
    MAX_FAILURES,
    MAX_LENGTH,
    MAX_SAMPLES,
    MAX_WHOLE,
    CodecError,
    apply_change,
    decode,
    encode,
    encode_change,
)
from tests.examples_drawn import examples

_printable = st.characters(codec="utf-8", exclude_categories=("C", "Z"), include_characters=" ")
_names = st.text(_printable, min_size=1, max_size=40)
_maybe_empty = st.just("") | _names
_ratios = st.none() | st.floats(0, 1)
_memory = (
    st.tuples(st.integers(0, MAX_WHOLE), st.integers(1, MAX_WHOLE))
    .map(sorted)
    .flatmap(lambda pair: st.tuples(st.none() | st.just(pair[0]), st.none() | st.just(max(1, pair[1]))))
)
_clocks = st.floats(0, 1e12)
_devices = st.builds(
    Device,
    _names,
    st.integers(0, 65535),
    _maybe_empty,
    pci_address=_maybe_empty,
    parent=st.none() | _names,
    minor=st.none() | st.integers(0, 255),
    gpu_instance=st.none() | st.integers(0, 20),
    compute_instance=st.none() | st.integers(0, 7),
    names=st.lists(_names, max_size=4).map(tuple),
)
_allocations = st.none() | st.lists(
    st.builds(Allocation, *[_names] * 5, st.just(1) | st.integers(1, 20_000)), max_size=4
).map(lambda some: tuple(sorted(some)))
_celsius = st.none() | st.floats(-300, 1e4)
_watts = st.none() | st.floats(0, 1e6)
_failures = st.lists(
    st.builds(ReadingFailure, _maybe_empty, _names, st.none() | st.floats(-1e12, 1e12)), max_size=MAX_FAILURES
).map(tuple)
_lags = st.just(0.0) | st.floats(0, 1e6)
_uses = st.none() | st.lists(
    st.builds(PodUse, _maybe_empty, st.floats(0, 100), st.floats(0, 100), st.none() | st.integers(0, MAX_WHOLE)),
    max_size=4,
    unique_by=lambda use: use.pod_uid,
).map(lambda some: tuple(sorted(some, key=lambda use: use.pod_uid)))
_amounts = st.none() | st.floats(0, 1e12)
_performance = st.none() | st.builds(PerformanceReadings, _clocks, _lags, *[_ratios] * 3, *[_amounts] * 5)
_samples = st.tuples(_devices, _ratios, _ratios, _memory, _celsius, _watts, _lags, _failures, _performance, _uses).map(
    lambda drawn: Sample(*drawn[:3], *drawn[3], *drawn[4:])
)
snapshots = st.builds(
    Snapshot,
    node=_maybe_empty,
    sequence=st.integers(0, MAX_WHOLE),
    at_seconds=_clocks,
    unix_seconds=_clocks,
    source=_maybe_empty,
    samples=st.lists(_samples, max_size=5, unique_by=lambda sample: sample.device.uuid).map(tuple),
    allocations=_allocations,
)

EXAMPLE = Snapshot(
    node="gpu-7",
    sequence=12,
    at_seconds=41.5,
    unix_seconds=1.7e9,
    source="nvml",
    samples=(
        Sample(
            Device("GPU-a", 0, "NVIDIA H100 80GB HBM3", "0000:19:00.0"),
            gpu_utilization_ratio=0.57,
            memory_used_bytes=0,
            temperature_celsius=41.0,
        ),
        Sample(Device("MIG-b", 0, "NVIDIA H100 80GB HBM3 MIG 1g.10gb", parent="GPU-a")),
    ),
)


def plain(**changes: object) -> dict[str, Any]:
    return {**json.loads(encode(EXAMPLE)), **changes}


def with_sample(**changes: object) -> dict[str, Any]:
    return plain(samples=[{"uuid": "GPU-a", "index": 0, "model": "M", **changes}])


@given(snapshots)
def test_decode_returns_the_encoded_snapshot(snapshot: Snapshot) -> None:
    text = encode(snapshot)
    assert decode(text) == snapshot
    assert decode(text.encode()) == snapshot


@given(snapshots)
def test_a_snapshot_is_one_line_of_ascii(snapshot: Snapshot) -> None:
    text = encode(snapshot)
    assert text.isascii()
    assert len(text.splitlines()) == 1


def test_an_unknown_reading_is_left_out_and_a_zero_is_not() -> None:
    first, second = plain()["samples"]
    assert first == {
        "uuid": "GPU-a",
        "index": 0,
        "model": "NVIDIA H100 80GB HBM3",
        "pci_address": "0000:19:00.0",
        "gpu_utilization_ratio": 0.57,
        "memory_used_bytes": 0,
        "temperature_celsius": 41.0,
    }
    assert second == {
        "uuid": "MIG-b",
        "index": 0,
        "model": "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "parent": "GPU-a",
    }


@pytest.mark.parametrize("reading", [math.nan, math.inf, -math.inf])
def test_a_reading_that_is_not_finite_is_left_out(reading: float) -> None:
    snapshot = Snapshot("n", 0, 0.0, 0.0, "s", (Sample(Device("GPU-a", 0, "M"), power_watts=reading),))
    assert decode(encode(snapshot)).samples[0].power_watts is None


def test_an_unknown_key_is_ignored_so_that_a_newer_version_can_add_some() -> None:
    samples = [{**item, "fan_ratio": 0.3} for item in plain()["samples"]]
    assert decode(json.dumps(plain(version=1.4, weather="fair", samples=samples))) == EXAMPLE


def test_null_is_unknown_too() -> None:
    assert not decode(json.dumps(with_sample(power_watts=None, parent=None))).samples[0].has_reading


def test_a_whole_number_is_accepted_where_a_fraction_is_possible() -> None:
    sample = decode(json.dumps(with_sample(temperature_celsius=41, gpu_utilization_ratio=1))).samples[0]
    assert (sample.temperature_celsius, sample.gpu_utilization_ratio) == (41.0, 1.0)
    assert type(sample.temperature_celsius) is float


REFUSED = {
    "not JSON": (b"{", "is not JSON: Expecting property name"),
    "not an object": (b"[1, 2]", "is a list of 2: must be a JSON object"),
    "not UTF-8": (b'{"node": "\xff"}', "byte 10 is not UTF-8: must be JSON"),
    "nested a hundred thousand deep": (b"[" * 100_000, "is nested too deeply: must be one JSON object"),
    "an integer of ten thousand digits": (b'{"version": ' + b"1" * 10_000 + b"}", "is not JSON: Exceeds the limit"),
    "longer than the limit": (b" " * (MAX_LENGTH + 1), f"is {MAX_LENGTH + 1} long: must be at most {MAX_LENGTH}"),
    "NaN": (b'{"version": NaN}', "contains NaN, which is no number: an unknown reading must be left out"),
    "Infinity in an unknown key": (b'{"x": -Infinity}', "contains -Infinity, which is no number"),
    "no version": (b"{}", "version: Required value: must be a number from 1 to"),
    "a later version": (
        plain(version=2),
        "version: Invalid value: 2: is a later version than 1: must be read by a newer keda-gpu-scaler",
    ),
    "version zero": (plain(version=0), "version: Invalid value: 0: must be a number from 1 to"),
    "a version that is true": (plain(version=True), "version: Invalid value: true: must be a number"),
    "a node that is a number": (plain(node=7), "node: Invalid value: 7: must be text"),
    "a node with a control character": (
        plain(node="a\x1b[2J"),
        r'node: Invalid value: "a\u001b[2J": must be 1 to 256 printable characters',
    ),
    "a node with half a surrogate pair": (plain(node="\ud800"), r'node: Invalid value: "\ud800": must be'),
    "a node that is too long": (plain(node="n" * 257), 'node: Invalid value: "' + "n" * 39 + '\\u2026": must be'),
    "a sequence that is true": (plain(sequence=True), "sequence: Invalid value: true: must be a whole number"),
    "a sequence with a fraction": (plain(sequence=1.0), "sequence: Invalid value: 1.0: must be a whole number"),
    "a sequence below zero": (plain(sequence=-1), "sequence: Invalid value: -1: must be a whole number from 0"),
    "a clock above the limit": (
        json.dumps(plain()).replace("41.5", "1e999"),
        "at_seconds: Invalid value: Infinity: must be a number from 0 to 1e+12",
    ),
    "a clock before zero": (plain(unix_seconds=-1), "unix_seconds: Invalid value: -1: must be a number from 0"),
    "no samples": ({key: value for key, value in plain().items() if key != "samples"}, "samples: Required value"),
    "samples in an object": (plain(samples={}), "samples: Invalid value: an object: must be a list of at most 4096"),
    "a sample that is a number": (plain(samples=[7]), "samples[0]: Invalid value: 7: must be a JSON object"),
    "one sample too many": (
        plain(samples=[{}] * (MAX_SAMPLES + 1)),
        "samples: Invalid value: a list of 4097: must be a list of at most 4096 objects",
    ),
    "a device without a name": (with_sample(uuid=""), 'samples[0].uuid: Invalid value: "": must be 1 to 256'),
    "a duplicate device": (
        plain(samples=plain()["samples"] + plain()["samples"]),
        'samples: Duplicate value: "GPU-a": a device must be listed once',
    ),
    "a ratio above one": (
        with_sample(gpu_utilization_ratio=1.5),
        "samples[0].gpu_utilization_ratio: Invalid value: 1.5: must be a number from 0 to 1",
    ),
    "a ratio below zero": (with_sample(memory_utilization_ratio=-0.1), "must be a number from 0 to 1"),
    "a ratio that is true": (with_sample(gpu_utilization_ratio=True), "Invalid value: true: must be a number"),
    "a reading that is text": (with_sample(power_watts="70 W"), 'power_watts: Invalid value: "70 W": must be a number'),
    "memory with a fraction": (with_sample(memory_used_bytes=1.5), "memory_used_bytes: Invalid value: 1.5: must be"),
    "memory above the exact whole numbers": (with_sample(memory_total_bytes=2**53), "must be a whole number from 1 to"),
    "more memory used than the total": (
        with_sample(memory_used_bytes=9000, memory_total_bytes=100),
        "samples[0].memory_used_bytes: Invalid value: 9000: must be a whole number from 0 to 100",
    ),
    "a memory total of zero": (
        with_sample(memory_total_bytes=0),
        "samples[0].memory_total_bytes: Invalid value: 0: must be a whole number from 1 to",
    ),
    "a lag below zero": (with_sample(lag_seconds=-1), "samples[0].lag_seconds: Invalid value: -1: must be a number"),
    "failures that are text": (
        with_sample(failures="lost"),
        'samples[0].failures: Invalid value: "lost": must be a list',
    ),
    "one failure too many": (
        with_sample(failures=[["power", "lost", None]] * (MAX_FAILURES + 1)),
        f"samples[0].failures: Invalid value: a list of {MAX_FAILURES + 1}: must be a list of at most {MAX_FAILURES}",
    ),
    "a failure without a reason": (
        with_sample(failures=[["power", "", None]]),
        "failures: Invalid value: a list of 3: must be a list of a reading, a printable reason and a time",
    ),
    "a reason with a control character": (with_sample(failures=[["power", "\x1b[2J", 1]]), "failures: Invalid value"),
    "a reason that is too long": (with_sample(failures=[["power", "x" * 257, 1]]), "failures: Invalid value"),
    "a failure at no time": (with_sample(failures=[["power", "lost", "now"]]), "failures: Invalid value"),
    "a failure of two fields": (with_sample(failures=[["power", "lost"]]), "failures: Invalid value: a list of 2"),
    "uses that are text": (with_sample(uses="all"), 'samples[0].uses: Invalid value: "all": must be a list of at most'),
    "one pod too many": (with_sample(uses=[["a", 0, 0, 0]] * (MAX_USES + 1)), f"must be a list of at most {MAX_USES}"),
    "a pod twice": (with_sample(uses=[["a", 0, 0, 0], ["a", 1, 0, 0]]), "uses: Invalid value: a list of 2: a pod must"),
    "a use of three fields": (with_sample(uses=[["a", 0, 0]]), "uses: Invalid value: a list of 3: must be a list of"),
    "a use below zero": (with_sample(uses=[["a", -0.1, 0, 0]]), "uses: Invalid value: a list of 4: must be a list of"),
    "a use that is unknown": (with_sample(uses=[["a", None, 0, 0]]), "uses: Invalid value: a list of 4"),
    "a use that is true": (with_sample(uses=[["a", 0, True, 0]]), "uses: Invalid value: a list of 4"),
    "half a byte in use": (with_sample(uses=[["a", 0, 0, 0.5]]), "uses: Invalid value: a list of 4"),
    "a UID with a control character": (with_sample(uses=[["\x1b", 0, 0, 0]]), "uses: Invalid value: a list of 4"),
    "names that are text": (with_sample(names="card0"), 'samples[0].names: Invalid value: "card0": must be a list of'),
    "a name that is a number": (with_sample(names=[0]), "samples[0].names: Invalid value: a list of 1: must be a list"),
    "a name that is empty": (with_sample(names=["card0", ""]), "must be a list of at most 16 texts of 1 to 256"),
    "a name with a control character": (with_sample(names=["a\n"]), "samples[0].names: Invalid value"),
    "too many names": (
        with_sample(names=["a"] * 17),
        "names: Invalid value: a list of 17: must be a list of at most 16",
    ),
    "a parent that is empty": (with_sample(parent=""), 'samples[0].parent: Invalid value: "": must be'),
}


@pytest.mark.parametrize(("text", "sentence"), REFUSED.values(), ids=REFUSED)
def test_invalid_text_is_refused_with_a_sentence(text: bytes | str | dict[str, Any], sentence: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode(json.dumps(text) if isinstance(text, dict) else text)
    assert sentence in str(caught.value)


@settings(max_examples=examples(300))
@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_text_is_a_snapshot_or_a_codec_error(text: bytes | str) -> None:
    message = None
    try:
        decode(text)
    except CodecError as error:
        message = str(error)
    assert message != ""


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(plain())), st.sampled_from(sorted(plain()["samples"][0])), _json)
def test_any_value_in_any_field_is_read_exactly_or_refused(key: str, reading: str, value: object) -> None:
    for field, changed in ((key, plain(**{key: value})), (reading, with_sample(**{reading: value}))):
        try:
            snapshot = decode(json.dumps(changed))
        except CodecError as error:
            message = str(error)
        else:
            assert decode(encode(snapshot)) == snapshot
            continue
        assert field in message or "no number" in message


@pytest.mark.parametrize(
    "snapshot",
    [
        Snapshot("n", 0, math.nan, 0.0, "s", ()),
        Snapshot("n", 0, 0.0, math.inf, "s", ()),
        Snapshot("n", 0, 0.0, 0.0, "s", (Sample(Device("", 0, "M")),)),
        Snapshot("n", 0, 0.0, 0.0, "s", (Sample(Device("a", 0, "M"), gpu_utilization_ratio=57.0),)),
        Snapshot("n", 0, 0.0, 0.0, "s", (Sample(Device("a", 0, "M"), memory_used_bytes=2, memory_total_bytes=1),)),
        Snapshot("n", 0, 0.0, 0.0, "s", (Sample(Device("a", 0, "M")), Sample(Device("a", 1, "M")))),
    ],
    ids=[
        "a time that is NaN",
        "an infinite time",
        "a device without a name",
        "a percentage instead of a ratio",
        "more memory used than the total",
        "a duplicate device",
    ],
)
def test_a_snapshot_that_decode_refuses_is_not_encoded(snapshot: Snapshot) -> None:
    with pytest.raises(CodecError):
        encode(snapshot)


# ---- changes ----


@st.composite
def successions(draw: st.DrawFn) -> tuple[Snapshot, Snapshot]:
    """A snapshot and a later one of the same devices."""
    before = draw(snapshots)
    samples = tuple(
        draw(st.just(sample) | st.builds(replace, _samples, device=st.just(sample.device))) for sample in before.samples
    )
    after = replace(
        before,
        sequence=draw(st.integers(0, MAX_WHOLE)),
        at_seconds=draw(_clocks),
        samples=samples,
        allocations=draw(st.just(before.allocations) | _allocations),
    )
    return before, after


@given(successions())
def test_a_change_gives_the_next_snapshot_and_keeps_unchanged_objects(
    pair: tuple[Snapshot, Snapshot],
) -> None:
    before, after = pair
    change = encode_change(before, after)
    assert change is not None
    applied = apply_change(before, change)
    assert applied == after
    for old, new in zip(before.samples, applied.samples, strict=True):
        assert (old is new) is (old == new)
    if before.allocations == after.allocations:
        assert applied.allocations is before.allocations


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(replace(EXAMPLE, samples=EXAMPLE.samples[:1]), id="one device fewer"),
        pytest.param(replace(EXAMPLE, samples=EXAMPLE.samples[::-1]), id="another order of devices"),
        pytest.param(replace(EXAMPLE, source="replay"), id="another source"),
        pytest.param(replace(EXAMPLE, node="gpu-8"), id="another node"),
    ],
)
def test_other_devices_cannot_be_encoded_as_a_change(after: Snapshot) -> None:
    assert encode_change(EXAMPLE, after) is None


LOST = replace(EXAMPLE.samples[0], failures=(ReadingFailure("", "GPU is lost (15)", 40.0),), lag_seconds=3.0)


def test_the_reason_of_an_unknown_reading_is_sent_once_and_ends_with_it() -> None:
    failed = replace(EXAMPLE, sequence=13, samples=(LOST, EXAMPLE.samples[1]))
    change = encode_change(EXAMPLE, failed)
    assert change is not None
    assert json.loads(change)["details"] == {"0": [3.0, [["", "GPU is lost (15)", 40.0]]]}
    still = replace(failed, sequence=14, samples=(replace(LOST, temperature_celsius=42.0), EXAMPLE.samples[1]))
    change = encode_change(failed, still)
    assert change is not None
    assert "details" not in change
    assert apply_change(failed, change) == still
    change = encode_change(still, replace(EXAMPLE, sequence=15))
    assert change is not None
    assert apply_change(still, change) == replace(EXAMPLE, sequence=15)


def test_an_older_version_that_ignores_the_reasons_reads_the_same_readings() -> None:
    change = encode_change(EXAMPLE, replace(EXAMPLE, sequence=13, samples=(LOST, EXAMPLE.samples[1])))
    assert change is not None
    known = json.loads(change)
    del known["details"]
    assert apply_change(EXAMPLE, json.dumps(known)).samples[0] == replace(LOST, failures=(), lag_seconds=0.0)


def test_uses_are_sent_where_they_changed_and_end_with_null() -> None:
    first, *others = EXAMPLE.samples
    used = replace(EXAMPLE, sequence=13, samples=(replace(first, uses=(PodUse("a", 0.5, 0.0, 7),)), *others))
    change = encode_change(EXAMPLE, used)
    assert change is not None
    assert json.loads(change)["uses"] == {"0": [[["a", 0.5, 0.0, 7]]]}
    still = replace(used, sequence=14, samples=(replace(used.samples[0], temperature_celsius=42.0), *others))
    change = encode_change(used, still)
    assert change is not None
    assert "uses" not in change
    assert apply_change(used, change) == still
    for uses in ((), None):
        after = replace(still, sequence=15, samples=(replace(still.samples[0], uses=uses), *others))
        change = encode_change(still, after)
        assert change is not None
        assert apply_change(still, change) == after


MEASURED = replace(EXAMPLE.samples[0], performance=PerformanceReadings(40.0, 5.0, 0.5, nvlink_tx_bytes_per_second=1e9))


def test_the_performance_readings_are_sent_once_and_end_when_they_are_not_taken_any_more() -> None:
    taken = replace(EXAMPLE, sequence=13, samples=(MEASURED, EXAMPLE.samples[1]))
    change = encode_change(EXAMPLE, taken)
    assert change is not None
    assert json.loads(change)["performance"] == {
        "0": {"at_seconds": 40.0, "seconds": 5.0, "sm_active_ratio": 0.5, "nvlink_tx_bytes_per_second": 1e9}
    }
    served = replace(taken, sequence=14, samples=(replace(MEASURED, temperature_celsius=42.0), EXAMPLE.samples[1]))
    change = encode_change(taken, served)
    assert change is not None
    assert "performance" not in change
    applied = apply_change(taken, change)
    assert applied == served
    assert applied.samples[0].performance is MEASURED.performance
    change = encode_change(served, replace(EXAMPLE, sequence=15))
    assert change is not None
    assert apply_change(served, change) == replace(EXAMPLE, sequence=15)


def test_an_older_version_reads_the_same_readings_without_performance() -> None:
    change = encode_change(EXAMPLE, replace(EXAMPLE, sequence=13, samples=(MEASURED, EXAMPLE.samples[1])))
    assert change is not None
    known = json.loads(change)
    del known["performance"]
    assert apply_change(EXAMPLE, json.dumps(known)).samples[0] == EXAMPLE.samples[0]


def test_a_change_without_differences_is_short() -> None:
    change = encode_change(EXAMPLE, replace(EXAMPLE, sequence=13, at_seconds=42.5))
    assert change is not None
    assert len(change) < 100


READINGS = [0.5, None, 1, 2, 41.0, None]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param(
            {"after": 11}, "after: Invalid value: 11: must be a whole number from 12 to 12", id="of another snapshot"
        ),
        pytest.param({"version": 2}, "is a later version than 1", id="a later version"),
        pytest.param({"samples": []}, "samples: Invalid value: a list of 0: must be an object", id="no positions"),
        pytest.param(
            {"samples": {"2": READINGS}},
            'samples: Invalid value: "2": must be a position below 2',
            id="a position above the last",
        ),
        pytest.param({"samples": {"-1": READINGS}}, "must be a position below 2", id="a position below the first"),
        pytest.param({"samples": {"0": 5}}, "samples.0: Invalid value: 5: must be a list", id="no list"),
        pytest.param({"samples": {"0": READINGS[:5]}}, "must be 6 readings in range", id="too few readings"),
        pytest.param({"samples": {"0": [1.5, *READINGS[1:]]}}, "must be 6 readings in range", id="a ratio above 1"),
        pytest.param(
            {"samples": {"0": [True, *READINGS[1:]]}}, "must be 6 readings in range", id="true instead of a number"
        ),
        pytest.param(
            {"samples": {"0": [0, 0, 3, 2, 0, 0]}}, "must be 6 readings in range", id="more memory used than the total"
        ),
        pytest.param({"samples": {"0": [0, 0, 1.0, 2, 0, 0]}}, "must be 6 readings in range", id="half a byte"),
        pytest.param(
            {"samples": {"0": [0, 0, 0, 0, 0, 0]}}, "must be 6 readings in range", id="a memory total of zero"
        ),
        pytest.param({"samples": {"0": [0, 0, 0, 1, 0, -1]}}, "must be 6 readings in range", id="negative power"),
        pytest.param({"performance": []}, "performance: Invalid value: a list of 0: must be an object", id="no list"),
        pytest.param(
            {"performance": {"0": 5}}, "performance.0: Invalid value: 5: must be an object or null", id="a number"
        ),
        pytest.param(
            {"performance": {"0": {"at_seconds": 1, "seconds": 1, "sm_active_ratio": 2}}},
            "performance.0.sm_active_ratio: Invalid value: 2: must be a number from 0 to 1",
            id="an activity above 1",
        ),
        pytest.param(
            {"performance": {"0": {"seconds": 1}}},
            "performance.0.at_seconds: Required value",
            id="readings without time",
        ),
        pytest.param({"details": []}, "details: Invalid value: a list of 0: must be an object", id="no details"),
        pytest.param(
            {"details": {"2": [0, []]}}, 'details: Invalid value: "2": must be a position', id="details of none"
        ),
        pytest.param({"details": {"0": [0]}}, "details.0: Invalid value: a list of 1: must be a lag", id="no failures"),
        pytest.param({"details": {"0": [None, []]}}, "details.0: Invalid value", id="no lag"),
        pytest.param({"details": {"0": [-1, []]}}, "details.0: Invalid value", id="a lag below zero"),
        pytest.param({"details": {"0": [0, {}]}}, "details.0: Invalid value", id="failures in an object"),
        pytest.param({"details": {"0": [0, [["", "x", None]] * 9]}}, "at most 8 failures", id="too many failures"),
        pytest.param(
            {"details": {"0": [0, [["", "\x1b", None]]]}}, "failures: Invalid value", id="a control character"
        ),
        pytest.param({"uses": {"0": [[], []]}}, "uses.0: Invalid value: a list of 2: must be empty", id="two lists"),
        pytest.param({"uses": {"0": [7]}}, "uses.0: Invalid value: a list of 1: must be empty", id="no list of uses"),
        pytest.param({"uses": {"0": [[["a"]]]}}, "uses: Invalid value: a list of 1: must be a list", id="half a use"),
        pytest.param({"uses": {"9": []}}, 'uses: Invalid value: "9": must be a position', id="uses of no device"),
        pytest.param({"allocations": [["a"]]}, "must be a list of namespace, pod, container", id="half an allocation"),
        pytest.param({"allocations": [["a", "b", "c", "d", "e", 0]]}, "number of ids above 0", id="a quantity of 0"),
        pytest.param(
            {"allocations": [["a", "b", "c", "d", "e", "2"]]}, "number of ids above 0", id="a quantity in text"
        ),
        pytest.param({"allocations": [["a", "b", "c", "d", "e", 2, 3]]}, "number of ids above 0", id="a seventh field"),
        pytest.param({"allocations": {}}, "allocations: Invalid value: an object", id="no list of allocations"),
    ],
)
def test_an_invalid_change_is_refused_with_a_sentence(changes: dict[str, object], sentence: str) -> None:
    change = json.loads(encode_change(EXAMPLE, replace(EXAMPLE, sequence=13)) or "")
    with pytest.raises(CodecError) as caught:
        apply_change(EXAMPLE, json.dumps({**change, **changes}))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"at_seconds": math.nan}, id="a time that is NaN"),
        pytest.param({"unix_seconds": math.inf}, id="an infinite time"),
        pytest.param({"sequence": -1}, id="a negative sequence"),
        pytest.param(
            {"samples": (replace(EXAMPLE.samples[0], gpu_utilization_ratio=57.0), EXAMPLE.samples[1])},
            id="a percentage instead of a ratio",
        ),
        pytest.param({"allocations": (Allocation("ai", "", "c", "r", "d"),)}, id="a pod without a name"),
    ],
)
def test_a_change_that_apply_change_refuses_is_not_encoded(changes: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        encode_change(EXAMPLE, replace(EXAMPLE, **changes))


@given(st.binary(max_size=200) | st.text(max_size=200) | _json.map(json.dumps))
def test_random_text_is_no_change_but_a_codec_error(text: str | bytes) -> None:
    with pytest.raises(CodecError):
        apply_change(EXAMPLE, text)
