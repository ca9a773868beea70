# SPDX-License-Identifier: Apache-2.0
import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keda_gpu_scaler.core.counters import (
    COLLECTION_BUCKETS_SECONDS,
    REQUEST_BUCKETS_SECONDS,
    CollectionCounts,
    PeerCounts,
    RecentAnswer,
    RequestCounts,
    ScrapeCounts,
    WatchState,
)
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.server import http as exporter
from keda_gpu_scaler.server.http import FAMILIES, HttpPage, HttpServer, metrics_pages, probe_pages, render, status_pages
from tests.fakes import blind, device, fleet_of, node_history, sample

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
    RecentAnswer("ai", "chat", "keda_gpu_llm", "saturation", 100.0, 0.0, True, 1, 1, demand=12.0, is_demand_known=True),
    RecentAnswer(
        "ai", "code", "keda_gpu_llm", "saturation", 100.0, 0.0, False, 0, 0, demand=None, is_demand_known=False
    ),
    RecentAnswer(
        "ai", "sleeper", "keda_gpu_metric", "gpu_utilization", 75.5, None, active=True, with_value=0, expected=2
    ),
)
SCRAPES = {"vllm": ScrapeCounts(120, 2), "": ScrapeCounts(8, 8), "demand": ScrapeCounts(40)}
NOW = 1000.0


def text(fleet: Fleet, now: float = NOW) -> str:
    return render(fleet, now, COUNTS, REQUESTS, ANSWERS, SCRAPES, PEERS, WATCHES)


def series(fleet: Fleet, now: float = NOW) -> dict[str, float]:
    return {
        f"{one.name}{sorted(one.labels.items())}": one.value
        for family in text_string_to_metric_families(text(fleet, now))
        for one in family.samples
    }


def test_the_exposition_is_as_it_was_agreed() -> None:
    odd = sample(
        2, 0.125, device=device(2, model='quoted "name"\\with\nline'), power_watts=None, memory_used_bytes=None
    )
    fleet = fleet_of([sample(0, 0.92), blind(1), odd])
    fleet = replace(
        fleet, unavailable={"gpu-7": "nothing came for 6 s"}, peers={"gpu-3": node_history("gpu-3", at=NOW - 4.5)}
    )
    assert text(fleet) == GOLDEN.read_text()


def test_a_prometheus_parser_reads_back_what_was_written() -> None:
    name = 'quoted "name"\\with\nline'
    found = series(fleet_of([sample(0, 0.125, device=device(0, model=name))]))
    labels = [("gpu_index", "0"), ("gpu_name", name), ("gpu_uuid", "GPU-0000")]
    assert found[f"keda_gpu_scaler_gpu_utilization_percent{labels}"] == 12.5
    assert found[f"keda_gpu_scaler_gpu_memory_used_bytes{labels}"] == 40 << 30
    assert found["keda_gpu_scaler_collections_total[]"] == 7
    assert found["keda_gpu_scaler_collection_duration_seconds_count[]"] == sum(COUNTS.duration_buckets)
    assert found["keda_gpu_scaler_collection_duration_seconds_bucket[('le', '+Inf')]"] == 7
    assert found["keda_gpu_scaler_scaler_request_errors_total[('method', 'GetMetrics')]"] == 1


def test_every_family_is_there_with_its_type() -> None:
    families = {family.name: family.type for family in text_string_to_metric_families(text(fleet_of([sample()])))}
    expected = {
        exporter.PREFIX + (family.name.removesuffix("_total") if family.kind == "counter" else family.name): family.kind
        for family in FAMILIES
    }
    assert families == expected


@pytest.mark.parametrize(
    ("fleet", "now"),
    [
        pytest.param(fleet_of([blind()]), NOW, id="a lost card"),
        pytest.param(fleet_of([sample()]), NOW + 11, id="a stale snapshot"),
        pytest.param(Fleet(None, 10.0), NOW, id="no snapshot yet"),
    ],
)
def test_law_1_an_unknown_reading_has_no_series(fleet: Fleet, now: float) -> None:
    assert not [name for name in series(fleet, now) if "gpu_uuid" in name]


def test_law_1_a_workload_without_an_answer_has_no_value_and_says_so() -> None:
    found = series(fleet_of([sample()]))
    labels = [
        ("metric", "gpu_utilization"),
        ("metric_name", "keda_gpu_metric"),
        ("name", "sleeper"),
        ("namespace", "ai"),
    ]
    assert f"keda_gpu_scaler_workload_value{labels}" not in found
    assert found[f"keda_gpu_scaler_workload_value_available{labels}"] == 0
    assert found[f"keda_gpu_scaler_workload_active{labels}"] == 1


def test_a_node_without_devices_counts_none_and_a_stale_one_does_not_count() -> None:
    assert series(fleet_of([]))["keda_gpu_scaler_gpu_device_count[]"] == 0
    assert "keda_gpu_scaler_gpu_device_count[]" not in series(fleet_of([sample()]), NOW + 11)


def test_the_histogram_has_the_bounds_that_the_sampler_counts_by() -> None:
    bounds = [name for name in series(fleet_of([])) if "collection_duration_seconds_bucket" in name]
    assert len(bounds) == len(COLLECTION_BUCKETS_SECONDS) + 1 == len(COUNTS.duration_buckets)


def test_a_call_has_a_duration_by_its_method_and_a_stream_has_none() -> None:
    found = series(fleet_of([]))
    name = "keda_gpu_scaler_scaler_request_duration_seconds"
    of = [one for one in found if one.startswith(f"{name}_bucket") and "('method', 'GetMetrics')" in one]
    assert len(of) == len(REQUEST_BUCKETS_SECONDS) + 1
    assert found[f"{name}_bucket[('le', '0.025'), ('method', 'GetMetrics')]"] == 4
    assert found[f"{name}_count[('method', 'GetMetrics')]"] == 5
    assert found[f"{name}_sum[('method', 'GetMetrics')]"] == 1.0625
    assert not [one for one in found if one.startswith(name) and "StreamIsActive" in one]


def test_without_a_cluster_or_peers_there_are_no_watches_and_nobody_is_followed() -> None:
    found = render(fleet_of([]), NOW, COUNTS, {})
    assert "keda_gpu_scaler_peers_followed 0\n" in found
    assert "keda_gpu_scaler_peer_max_staleness_seconds 0\n" in found
    assert "keda_gpu_scaler_api_watches{" not in found


PAGES = {
    **probe_pages(lambda: None),
    **metrics_pages(lambda: "metric 1\n"),
    **status_pages(lambda: "<p>fine</p>", "default-src 'none'"),
    "/broken": lambda: HttpPage("out of order\n", status=503),
}


def with_server(talk: Callable[[int], Awaitable[None]], host: str = "127.0.0.1") -> None:
    async def run() -> None:
        server = HttpServer(PAGES)
        port = await server.start(host, 0)
        try:
            async with asyncio.timeout(20):
                await talk(port)
        finally:
            await server.close()

    asyncio.run(run())


async def exchange(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        pytest.param(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"ok\n", id="alive"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"ok\n", id="alive, by its older name"),
        pytest.param(b"GET /readyz?verbose HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"ok\n", id="query string"),
        pytest.param(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"", id="head without a body"),
        pytest.param(b"GET /metrics HTTP/1.0\r\n\r\n", b"200", b"metric 1\n", id="HTTP/1.0"),
        pytest.param(b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n", b"503", b"out of order\n", id="a page with a status"),
        pytest.param(
            b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
            b"404",
            b"nothing is served at '/nothing'; try /, /broken, /healthz, /livez, /metrics, /readyz\n",
            id="no such page",
        ),
        pytest.param(
            b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            b"405",
            b"only GET and HEAD are served here\n",
            id="a method that is not served",
        ),
        pytest.param(
            b"\x16\x03\x01 nonsense\r\n\r\n", b"400", b"not a request that can be served here\n", id="not HTTP at all"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000,
            b"431",
            b"not a request that can be served here\n",
            id="endless headers",
        ),
    ],
)
def test_http_requests_get_the_page_or_a_sentence(request_: bytes, status: bytes, body: bytes) -> None:
    async def talk(port: int) -> None:
        head, _, found = (await exchange(port, request_)).partition(b"\r\n\r\n")
        assert head.split()[1] == status
        assert found == body

    with_server(talk)


def test_readiness_says_why_not() -> None:
    assert probe_pages(lambda: "no sample yet")["/readyz"]() == HttpPage("not ready: no sample yet\n", status=503)


def test_liveness_does_not_depend_on_the_driver() -> None:
    assert probe_pages(lambda: "no sample yet")["/livez"]().status == 200


def test_metrics_are_served_as_prometheus_text() -> None:
    async def talk(port: int) -> None:
        head, _, _ = (await exchange(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
        assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head

    with_server(talk)


def test_the_page_for_people_says_what_a_browser_may_do_with_it() -> None:
    async def talk(port: int) -> None:
        head, _, body = (await exchange(port, b"GET /?x HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0].split()[1] == b"200"
        assert body == b"<p>fine</p>"
        for expected in (
            b"Content-Type: text/html; charset=utf-8",
            b"Content-Security-Policy: default-src 'none'",
            b"X-Content-Type-Options: nosniff",
            b"Referrer-Policy: no-referrer",
            b"Cross-Origin-Resource-Policy: same-origin",
            b"Cache-Control: no-store",
        ):
            assert expected in lines

    with_server(talk)


def test_a_client_that_says_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_REQUEST_TIMEOUT_SECONDS", 0.001)

    async def talk(port: int) -> None:
        with contextlib.suppress(ConnectionResetError):
            assert await exchange(port, b"GET /livez") == b""

    with_server(talk)


def test_one_connection_too_many_costs_the_oldest_and_the_newest_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_MAX_CONNECTIONS", 1)

    async def talk(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HTTP/1.1\r\n")
        await writer.drain()
        assert b"200" in await exchange(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()

    with_server(talk)


def test_every_interface_means_ipv4_too() -> None:
    async def talk(port: int) -> None:
        assert b"200" in await exchange(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")

    with_server(talk, host="::")


def test_a_host_without_ipv6_is_served_over_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)

    async def talk(port: int) -> None:
        assert b"200" in await exchange(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")

    with_server(talk, host="::")


def test_closing_drops_open_connections() -> None:
    async def run() -> None:
        server = HttpServer(PAGES)
        port = await server.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET")
        await writer.drain()
        while not server._connections:
            await asyncio.sleep(0)
        await server.close()
        with contextlib.suppress(ConnectionResetError):  # as much a drop as an end of file
            assert await reader.read() == b""
        assert not server._connections
        writer.close()

    asyncio.run(run())
