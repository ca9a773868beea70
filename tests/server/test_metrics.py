# SPDX-License-Identifier: Apache-2.0
"""Tests of the metrics: the golden exposition, and that unknown values have no series."""

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keda_gpu_scaler.core.comparison import Comparison, ReplicaLimit
from keda_gpu_scaler.core.instance_status import (
    COLLECTION_BUCKETS_SECONDS,
    REQUEST_BUCKETS_SECONDS,
    CollectionCounts,
    PeerCounts,
    RecentAnswer,
    RefusedTrigger,
    RequestCounts,
    ScrapeCounts,
    WatchState,
)
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.types import Allocation, PerformanceReadings
from keda_gpu_scaler.server.metric_family import PREFIX
from keda_gpu_scaler.server.metrics import FAMILIES, metrics_page, render
from tests.fakes import allocation, device, fleet_of, node_history, sample, sample_without_readings

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.txt"
COUNTS = CollectionCounts(7, 2, 1.25, (3, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1))
REQUESTS = {
    "GetMetrics": RequestCounts(5, 1, 1.0625, (3, 0, 1, 0, 0, 0, 1, 0, 0)),
    "IsActive": RequestCounts(4, 0, 0.002, (4, 0, 0, 0, 0, 0, 0, 0, 0)),
    "StreamIsActive": RequestCounts(2, 0),
}
PEERS = PeerCounts(3, 12.5)
WATCHES = {
    ("scaledobjects.keda.sh", WatchState.WATCHING): 2,
    ("pods", WatchState.UNKNOWN): 1,
    ("pods", WatchState.WATCHING): 4,
}
ANSWERS = (
    RecentAnswer(
        "ai", "llama", "keda_gpu_metric", "gpu_utilization", 80.0, 276.0, active=True, with_value=3, expected=4
    ),
    RecentAnswer("ai", "chat", "keda_gpu_llm", "load", 100.0, 0.0, True, 1, 1, demand=12.0, is_demand_known=True),
    RecentAnswer("ai", "code", "keda_gpu_llm", "load", 100.0, 0.0, False, 0, 0, demand=None, is_demand_known=False),
    RecentAnswer(
        "ai",
        "docs",
        "keda_gpu_llm",
        "saturation",
        100.0,
        80.0,
        active=True,
        with_value=2,
        expected=2,
        has_queue_contradiction=True,
        cold_start_seconds=94.5,
        comparison=Comparison(40.0, 70.5, 80.0, "total", "a pod is starting", 2, 8, ReplicaLimit.MAX),
    ),
    RecentAnswer(
        "ai",
        "standby",
        "keda_gpu_metric",
        "gpu_utilization",
        75.5,
        None,
        active=True,
        with_value=0,
        expected=2,
        no_value_reason="unavailable",
        comparison=Comparison(current_replicas=2),
    ),
)
SCRAPES = {"vllm": ScrapeCounts(120, 2), "": ScrapeCounts(8, 8), "demand": ScrapeCounts(40)}
CERTIFICATES = {"--tls-client-ca": 2_100_000_000.0, "--tls-cert": 1_800_000_000.0}
REFUSED = (
    RefusedTrigger("ai", "typo", ("metadata.targetValu: Forbidden: …",), 990.0),
    RefusedTrigger("ai", "typo", ("metadata.profile: Unsupported value: …",), 991.0),
)
NOW = 1000.0


def vendor_of(uuid: str) -> str:
    return {"GPU": "nvidia", "amd": "amd"}[uuid.partition("-")[0]]


def text(fleet: Fleet, now: float = NOW) -> str:
    return render(fleet, now, COUNTS, REQUESTS, ANSWERS, SCRAPES, PEERS, WATCHES, vendor_of, CERTIFICATES, REFUSED)


def held(fleet: Fleet, *allocations: Allocation) -> Fleet:
    """The fleet, with these allocations in the snapshots of its own node."""
    assert fleet.history is not None
    taken = tuple(replace(one, allocations=tuple(sorted(allocations))) for one in fleet.history.snapshots)
    return replace(fleet, history=replace(fleet.history, snapshots=taken))


def series(fleet: Fleet, now: float = NOW) -> dict[str, float]:
    return {
        f"{one.name}{sorted(one.labels.items())}": one.value
        for family in text_string_to_metric_families(text(fleet, now))
        for one in family.samples
    }


def test_the_exposition_equals_the_golden_file() -> None:
    partial = sample(
        2, 0.125, device=device(2, model='quoted "name"\\with\nline'), power_watts=None, memory_used_bytes=None
    )
    performance = PerformanceReadings(NOW - 3, 5.0, 0.57, None, 0.2, 1.5e9, 2e9, 3e9, 4e9, 12345.678)
    shared = sample(3, 0.5, device=device(3, uuid="amd-3", model="AMD Instinct MI300X"))
    fleet = held(
        fleet_of([sample(0, 0.92, performance=performance), sample_without_readings(1), partial, shared]),
        allocation("llama-0", "GPU-0000"),
        allocation("chat-0", "amd-3::1"),
        allocation("chat-1", "amd-3::0", container="main"),
        allocation("chat-1", "amd-3::0", container="sidecar"),
    )
    fleet = replace(
        fleet, unavailable={"gpu-7": "nothing came for 6 s"}, peers={"gpu-3": node_history("gpu-3", at=NOW - 4.5)}
    )
    assert text(fleet) == GOLDEN.read_text()


def test_a_prometheus_parser_reads_the_exposition() -> None:
    name = 'quoted "name"\\with\nline'
    found = series(fleet_of([sample(0, 0.125, device=device(0, model=name))]))
    labels = [
        *(("container", ""), ("gpu_index", "0"), ("gpu_name", name), ("gpu_uuid", "GPU-0000")),
        *(("namespace", ""), ("pod", ""), ("vendor", "nvidia")),
    ]
    assert found[f"keda_gpu_scaler_gpu_utilization_percent{labels}"] == 12.5
    assert found[f"keda_gpu_scaler_gpu_memory_used_bytes{labels}"] == 40 << 30
    assert found["keda_gpu_scaler_collections_total[]"] == 7
    assert found["keda_gpu_scaler_collection_duration_seconds_count[]"] == sum(COUNTS.duration_buckets)
    assert found["keda_gpu_scaler_collection_duration_seconds_bucket[('le', '+Inf')]"] == 7
    assert found["keda_gpu_scaler_scaler_request_errors_total[('method', 'GetMetrics')]"] == 1


def test_every_family_is_exported_with_its_type() -> None:
    families = {family.name: family.type for family in text_string_to_metric_families(text(fleet_of([sample()])))}
    expected = {
        PREFIX + (family.name.removesuffix("_total") if family.kind == "counter" else family.name): family.kind
        for family in FAMILIES
    }
    assert families == expected


@pytest.mark.parametrize(
    ("fleet", "now"),
    [
        pytest.param(fleet_of([sample_without_readings()]), NOW, id="a device without readings"),
        pytest.param(fleet_of([sample()]), NOW + 11, id="a stale snapshot"),
        pytest.param(Fleet(None, 10.0), NOW, id="no snapshot yet"),
    ],
)
def test_law_1_an_unknown_reading_has_no_series(fleet: Fleet, now: float) -> None:
    assert not [name for name in series(fleet, now) if "gpu_uuid" in name]


def device_series(fleet: Fleet, family: str) -> list[tuple[dict[str, str], float]]:
    return [
        (one.labels, one.value)
        for found in text_string_to_metric_families(text(fleet))
        for one in found.samples
        if one.name == PREFIX + family
    ]


HOLDERS = ("namespace", "pod", "container")


@pytest.mark.parametrize(
    ("allocations", "holder"),
    [
        pytest.param([], ("", "", ""), id="of a free device are empty"),
        pytest.param([allocation("a", "GPU-0000")], ("ai", "a", "server"), id="name the pod that holds it alone"),
        pytest.param(
            [allocation("a", "GPU-0000"), allocation("a", "GPU-0000", container="second")],
            ("ai", "a", ""),
            id="name no container of two",
        ),
        pytest.param(
            [allocation("a", "GPU-0000::0"), allocation("b", "GPU-0000::1")],
            ("", "", ""),
            id="name no pod of a device that two pods share",
        ),
        pytest.param([allocation("a", "GPU-9999")], ("", "", ""), id="name no pod of another device"),
    ],
)
def test_the_labels_of_the_holder(allocations: list[Allocation], holder: tuple[str, str, str]) -> None:
    [(labels, value)] = device_series(held(fleet_of([sample(0, 0.5)]), *allocations), "gpu_utilization_percent")
    assert tuple(labels[name] for name in HOLDERS) == holder
    assert value == 50


@pytest.mark.parametrize("pods", range(5))
def test_law_4_a_shared_device_has_one_series_and_its_shares_add_up_to_it(pods: int) -> None:
    fleet = held(
        fleet_of([sample(0, 0.5), sample(1, 0.25)]), *(allocation(f"p{at}", f"GPU-0000::{at}") for at in range(pods))
    )
    assert sum(value for _, value in device_series(fleet, "gpu_utilization_percent")) == 75
    shares = device_series(fleet, "gpu_pod_share_ratio")
    assert [labels["pod"] for labels, _ in shares] == [f"p{at}" for at in range(pods)]
    assert sum(value for _, value in shares) == pytest.approx(1 if pods else 0)


def test_law_1_unknown_allocations_have_no_share_and_are_no_free_device() -> None:
    unknown = fleet_of([sample()])
    assert device_series(unknown, "gpu_pod_share_ratio") == []
    assert device_series(unknown, "gpu_allocations_known") == [({}, 0)]
    assert device_series(held(unknown), "gpu_allocations_known") == [({}, 1)]
    assert device_series(Fleet(None, 10.0), "gpu_allocations_known") == []


def test_law_1_a_workload_whose_answer_is_an_error_has_no_value_series() -> None:
    found = series(fleet_of([sample()]))
    labels = [
        ("metric", "gpu_utilization"),
        ("metric_name", "keda_gpu_metric"),
        ("name", "standby"),
        ("namespace", "ai"),
    ]
    assert f"keda_gpu_scaler_workload_value{labels}" not in found
    with_reason = sorted([*labels, ("reason", "unavailable")])
    assert found[f"keda_gpu_scaler_workload_value_available{with_reason}"] == 0
    assert found[f"keda_gpu_scaler_workload_active{labels}"] == 1


def test_an_object_with_refused_triggers_has_one_series_without_a_value() -> None:
    found = {name: value for name, value in series(fleet_of([sample()])).items() if "('name', 'typo')" in name}
    labels = [("metric", ""), ("metric_name", ""), ("name", "typo"), ("namespace", "ai"), ("reason", "refused")]
    assert found == {f"keda_gpu_scaler_workload_value_available{labels}": 0}


def test_a_contradiction_and_a_cold_start_have_series_where_they_are_known() -> None:
    found = series(fleet_of([sample()]))

    def labels(name: str, metric: str) -> list[tuple[str, str]]:
        return [("metric", metric), ("metric_name", "keda_gpu_llm"), ("name", name), ("namespace", "ai")]

    contradiction, cold_start = (
        f"keda_gpu_scaler_workload_{name}" for name in ("queue_contradiction", "cold_start_seconds")
    )
    assert found[f"{contradiction}{labels('docs', 'saturation')}"] == 1
    assert found[f"{contradiction}{labels('chat', 'load')}"] == 0
    assert found[f"{cold_start}{labels('docs', 'saturation')}"] == 94.5
    assert f"{cold_start}{labels('chat', 'load')}" not in found


def test_the_device_count_of_an_empty_node_is_0_and_of_a_stale_node_is_absent() -> None:
    assert series(fleet_of([]))["keda_gpu_scaler_gpu_device_count[]"] == 0
    assert "keda_gpu_scaler_gpu_device_count[]" not in series(fleet_of([sample()]), NOW + 11)


def test_the_collection_histogram_has_the_buckets_of_the_sampler() -> None:
    bounds = [name for name in series(fleet_of([])) if "collection_duration_seconds_bucket" in name]
    assert len(bounds) == len(COLLECTION_BUCKETS_SECONDS) + 1 == len(COUNTS.duration_buckets)


def test_an_rpc_has_a_duration_by_method_and_a_stream_has_none() -> None:
    found = series(fleet_of([]))
    name = "keda_gpu_scaler_scaler_request_duration_seconds"
    buckets = [one for one in found if one.startswith(f"{name}_bucket") and "('method', 'GetMetrics')" in one]
    assert len(buckets) == len(REQUEST_BUCKETS_SECONDS) + 1
    assert found[f"{name}_bucket[('le', '0.025'), ('method', 'GetMetrics')]"] == 4
    assert found[f"{name}_count[('method', 'GetMetrics')]"] == 5
    assert found[f"{name}_sum[('method', 'GetMetrics')]"] == 1.0625
    assert not [one for one in found if one.startswith(name) and "StreamIsActive" in one]


def test_without_a_cluster_or_peers_no_watch_is_exported_and_no_instance_is_followed() -> None:
    found = render(fleet_of([]), NOW, COUNTS, {})
    assert "keda_gpu_scaler_peers_followed 0\n" in found
    assert "keda_gpu_scaler_peer_max_staleness_seconds 0\n" in found
    assert "keda_gpu_scaler_api_watches{" not in found


def test_the_metrics_page_is_prometheus_text() -> None:
    page = metrics_page("metric 1\n")
    assert (page.status, page.body) == (200, "metric 1\n")
    assert page.content_type == "text/plain; version=0.0.4; charset=utf-8"
