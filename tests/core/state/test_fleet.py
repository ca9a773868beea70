# SPDX-License-Identifier: Apache-2.0
"""Tests of the fleet: histories, freshness and the reasons for missing snapshots."""

from dataclasses import replace

import pytest

from keda_gpu_scaler.core.state.data_run import DataRun
from keda_gpu_scaler.core.state.fleet import NOT_ANSWERED_YET, PEERS_UNKNOWN, Fleet, History, next_history
from tests.fakes import fleet_of, node_history, sample, sample_without_readings, snapshots


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        pytest.param(0, [4], id="0 is the newest alone"),
        pytest.param(1, [4], id="a window as long as the interval has one"),
        pytest.param(2.5, [4, 3, 2], id="a window has the snapshots less than its length before the newest"),
        pytest.param(300, [4, 3, 2, 1, 0], id="a window longer than the history has all of it"),
    ],
)
def test_a_window_ends_at_the_newest_snapshot(window: float, expected: list[int]) -> None:
    history = History(snapshots(*[[sample()]] * 5), 1000.0)
    assert [snapshot.sequence for snapshot in history.within(window)] == expected


def test_age_is_measured_by_the_receiver_and_is_never_negative() -> None:
    history = History(snapshots([sample()], last_at=77.0), received_at_seconds=1000.0)
    assert history.age_seconds(1003.5) == 3.5
    assert history.age_seconds(999.0) == 0.0


@pytest.mark.parametrize(
    ("fleet", "now", "why"),
    [
        pytest.param(fleet_of([sample()]), 1010.0, None, id="ten seconds old is still fresh at a limit of ten"),
        pytest.param(
            fleet_of([sample()]),
            1010.6,
            "no fresh sample: node gpu-7 last answered 11 s ago (limit 10 s)",
            id="older is stale",
        ),
        pytest.param(Fleet(None, 10.0), 0.0, "no sample yet", id="no snapshot yet"),
        pytest.param(
            Fleet(None, 10.0, failure="no driver"), 0.0, "no sample yet: no driver", id="no snapshot, and the reason"
        ),
        pytest.param(Fleet(None, 10.0, deviceless=True), 0.0, None, id="no device by design"),
        pytest.param(
            fleet_of([sample_without_readings(0), sample_without_readings(1)]),
            1000.0,
            "node gpu-7: no device has a reading",
            id="fresh, but no device has a reading",
        ),
        pytest.param(
            fleet_of([sample_without_readings(0), sample(1)]), 1000.0, None, id="one device with a reading is enough"
        ),
    ],
)
def test_ready_means_fresh_readings_or_no_device_by_design(fleet: Fleet, now: float, why: str | None) -> None:
    assert fleet.not_ready_reason(now) == why


def test_a_history_knows_since_when_data_comes_without_a_long_gap_and_when_allocations_last_came() -> None:
    known = replace(snapshots([sample()])[0], allocations=())
    unknown = replace(known, allocations=None)
    first = next_history(None, (unknown,), 100.0)
    assert (first.run, first.allocated_at_seconds) == (DataRun(100.0), None)
    second = next_history(first, (unknown, known), 110.0)
    assert (second.run, second.allocated_at_seconds) == (DataRun(100.0), 110.0)
    third = next_history(second, (known, unknown), 150.0)
    assert (third.run, third.allocated_at_seconds) == (DataRun(150.0, 110.0), 110.0)


NOW = 1000.0
CERTIFICATE = "its certificate is not signed by the expected CA: use the CA that signed it"
REFUSED = "nothing listens there (connection refused): is it running, and is the port right?"


@pytest.mark.parametrize(
    ("unavailable", "sentence"),
    [
        pytest.param({"gpu-8": CERTIFICATE}, f": {CERTIFICATE}", id="the reason of the node"),
        pytest.param(
            {"10.0.0.8:6000": CERTIFICATE},
            f": 10.0.0.8:6000, whose node is not known: {CERTIFICATE}",
            id="an address whose node is not known",
        ),
        pytest.param(
            {"10.0.0.7:6000": NOT_ANSWERED_YET, "10.0.0.9:6000": REFUSED, "10.0.0.8:6000": CERTIFICATE},
            f": 10.0.0.8:6000 and 2 more, whose nodes are not known: {CERTIFICATE}",
            id="of several addresses the first that has answered with an error",
        ),
        pytest.param(
            {"gpu-7.example:6000": REFUSED, "gpu-8.example:6000": CERTIFICATE},
            f": gpu-8.example:6000, whose node is not known: {CERTIFICATE}",
            id="the address whose host is the name of the node",
        ),
        pytest.param(
            {"gpu-9": REFUSED, PEERS_UNKNOWN: "they are being looked up"},
            ": is an instance running there, and does discovery find it?",
            id="the reason of another node is not that of this one",
        ),
    ],
)
def test_a_node_that_was_never_read_has_the_reason_of_its_instance(unavailable: dict[str, str], sentence: str) -> None:
    fleet = Fleet(None, 10.0, deviceless=True, unavailable=unavailable)
    assert fleet.missing_reason("gpu-8", NOW) == f"node gpu-8 has no snapshot{sentence}"


@pytest.mark.parametrize(
    ("unavailable", "is_first"),
    [
        pytest.param({"gpu-8": NOT_ANSWERED_YET}, True, id="the node itself"),
        pytest.param({"10.0.0.8:6000": NOT_ANSWERED_YET}, True, id="an address that may be of the node"),
        pytest.param({"gpu-8": REFUSED, "10.0.0.9:6000": NOT_ANSWERED_YET}, False, id="another address"),
        pytest.param({"gpu-9": NOT_ANSWERED_YET}, False, id="another node"),
        pytest.param({}, False, id="no instance"),
    ],
)
def test_a_first_call_may_be_to_an_address_whose_node_is_not_known(unavailable: dict[str, str], is_first: bool) -> None:
    assert Fleet(None, 10.0, deviceless=True, unavailable=unavailable).is_first_call("gpu-8") is is_first


def test_a_node_that_was_read_before_has_no_reason_of_an_address() -> None:
    history = node_history("gpu-8", sample(0, 0.5))
    fleet = Fleet(None, 10.0, deviceless=True, peers={"gpu-8": history}, unavailable={"10.0.0.9:6000": CERTIFICATE})
    assert CERTIFICATE not in fleet.missing_reason("gpu-8", NOW + 60)
