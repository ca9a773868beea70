# SPDX-License-Identifier: Apache-2.0
"""What do probes, Prometheus and people see? ``/livez``, ``/readyz``, ``/healthz``, ``/metrics`` and ``/`` over HTTP.

The law of this module: an unknown reading has no series. A gauge that fell to 0 because a driver went
away would page somebody, or scale somebody down.
"""

import asyncio
import errno
import itertools
import math
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

import h11

from keda_gpu_scaler import __version__
from keda_gpu_scaler.core.counters import (
    COLLECTION_BUCKETS_SECONDS,
    REQUEST_BUCKETS_SECONDS,
    CollectionCounts,
    PeerCounts,
    RecentAnswer,
    RequestCounts,
    ScrapeCounts,
    Watches,
)
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.metrics import METRICS
from keda_gpu_scaler.core.types import Sample

_GaugeValue = TypeVar("_GaugeValue")
PREFIX = "keda_gpu_scaler_"
_PLAIN = "text/plain; charset=utf-8"
_HTML = "text/html; charset=utf-8"
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_TIMEOUT_SECONDS = 5.0
_MAX_REQUEST_BYTES = 16_384
_MAX_CONNECTIONS = 128


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family of the exposition; ``labels`` are the names its series carry."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Gauge(Generic[_GaugeValue]):
    family: Family
    read: Callable[[_GaugeValue], float | None]


_DEVICE_LABELS = ("gpu_index", "gpu_uuid", "gpu_name")
_DEVICE_GAUGES: tuple[_Gauge[Sample], ...] = (
    _Gauge(
        Family("gpu_utilization_percent", "gauge", "Share of time in which a kernel ran.", _DEVICE_LABELS),
        METRICS["gpu_utilization"].read,
    ),
    _Gauge(
        Family("gpu_memory_used_bytes", "gauge", "Memory in use.", _DEVICE_LABELS),
        lambda sample: sample.memory_used_bytes,
    ),
    _Gauge(
        Family("gpu_memory_total_bytes", "gauge", "The device's memory.", _DEVICE_LABELS),
        lambda sample: sample.memory_total_bytes,
    ),
    _Gauge(
        Family("gpu_temperature_celsius", "gauge", "Temperature of the GPU die.", _DEVICE_LABELS),
        lambda sample: sample.temperature_celsius,
    ),
    _Gauge(
        Family("gpu_power_draw_watts", "gauge", "Power drawn by the board.", _DEVICE_LABELS),
        METRICS["power_draw"].read,
    ),
)
_DEVICE_COUNT = Family("gpu_device_count", "gauge", "Devices this instance sees on its node.")
_COLLECTIONS = Family("collections_total", "counter", "Times the devices were read.")
_COLLECTION_ERRORS = Family("collection_errors_total", "counter", "Times the devices could not be read.")
_COLLECTION_DURATION = Family("collection_duration_seconds", "histogram", "Time that reading every device took.")
_REQUESTS = Family("scaler_requests_total", "counter", "Calls from KEDA.", ("method",))
_REQUEST_ERRORS = Family("scaler_request_errors_total", "counter", "Calls answered with an error.", ("method",))
_REQUEST_DURATION = Family(
    "scaler_request_duration_seconds", "histogram", "Time until a call was answered; streams do not end.", ("method",)
)
_WORKLOAD_LABELS = ("namespace", "name", "metric_name", "metric")
_ANSWER_GAUGES: tuple[_Gauge[RecentAnswer], ...] = (
    _Gauge(
        Family(
            "workload_value", "gauge", "What KEDA was told last; no series while that is an error.", _WORKLOAD_LABELS
        ),
        lambda answer: answer.value,
    ),
    _Gauge(
        Family("workload_target", "gauge", "What the value of one replica should be.", _WORKLOAD_LABELS),
        lambda answer: answer.target,
    ),
    _Gauge(
        Family(
            "workload_active", "gauge", "1 while the workload should run, as judged with the value.", _WORKLOAD_LABELS
        ),
        lambda answer: answer.active,
    ),
    _Gauge(
        Family("workload_value_available", "gauge", "1 if KEDA was told a value, 0 if an error.", _WORKLOAD_LABELS),
        lambda answer: answer.value is not None,
    ),
    _Gauge(
        Family(
            "workload_pods_with_value", "gauge", "Ready pods (or devices) in scope that gave a value.", _WORKLOAD_LABELS
        ),
        lambda answer: answer.with_value,
    ),
    _Gauge(
        Family("workload_pods", "gauge", "Ready pods (or devices) in scope.", _WORKLOAD_LABELS),
        lambda answer: answer.expected,
    ),
)
_DEMAND_GAUGES: tuple[_Gauge[RecentAnswer], ...] = (
    _Gauge(
        Family("workload_demand", "gauge", "What the demand endpoint told; no series while unknown.", _WORKLOAD_LABELS),
        lambda answer: answer.demand,
    ),
    _Gauge(
        Family(
            "workload_demand_known",
            "gauge",
            "1 if it is known whether there is demand, 0 if not; no series without a demand endpoint.",
            _WORKLOAD_LABELS,
        ),
        lambda answer: answer.is_demand_known,
    ),
)
_SCRAPES = Family(
    "scrapes_total", "counter", "Pages of engines and demand that were asked for, by what was recognised.", ("engine",)
)
_SCRAPE_FAILURES = Family("scrape_failures_total", "counter", "Pages that could not be read.", ("engine",))
_SNAPSHOT_AGE = Family(
    "snapshot_age_seconds", "gauge", "Age of the newest snapshot of each node that is known here.", ("node",)
)
_PEERS_SILENT = Family("peers_unavailable", "gauge", "Other instances that ought to be heard of and are not.")
_PEERS_FOLLOWED = Family(
    "peers_followed", "gauge", "Instances that discovery finds and that are followed; 0 while nobody asks here."
)
_PEERS_SILENCE = Family(
    "peer_max_staleness_seconds", "gauge", "For how long the longest silent of them has told nothing; 0 if none is."
)
_API_WATCHES = Family(
    "api_watches",
    "gauge",
    "Collections watched on the API server: watching, pending (not read yet), interrupted (still believed) or unknown.",
    ("resource", "state"),
)
_BUILD_INFO = Family("build_info", "gauge", "Always 1; the version is the label.", ("version",))

FAMILIES = (
    *(gauge.family for gauge in _DEVICE_GAUGES),
    _DEVICE_COUNT,
    _COLLECTIONS,
    _COLLECTION_ERRORS,
    _COLLECTION_DURATION,
    _REQUESTS,
    _REQUEST_ERRORS,
    _REQUEST_DURATION,
    *(gauge.family for gauge in _ANSWER_GAUGES),
    *(gauge.family for gauge in _DEMAND_GAUGES),
    _SCRAPES,
    _SCRAPE_FAILURES,
    _SNAPSHOT_AGE,
    _PEERS_SILENT,
    _PEERS_FOLLOWED,
    _PEERS_SILENCE,
    _API_WATCHES,
    _BUILD_INFO,
)
"""Every family of ``/metrics``, names without the prefix, in order of appearance."""


def render(
    fleet: Fleet,
    now: float,
    collections: CollectionCounts,
    requests: Mapping[str, RequestCounts],
    answers: Sequence[RecentAnswer] = (),
    scrapes: Mapping[str, ScrapeCounts] = MappingProxyType({}),
    peers: PeerCounts | None = None,
    watches: Watches = MappingProxyType({}),
) -> str:
    """Return the exposition text (Prometheus text format 0.0.4).

    Devices appear while their newest snapshot is fresh, each with the readings it gave; the newest
    sample as it is, without a trigger's window. Only this node's: every instance tells of its own.
    """
    samples: tuple[Sample, ...] | None = None
    if fleet.history is not None and fleet.is_fresh(now):
        samples = fleet.history.newest.samples
    lines = (
        *_node_lines(samples, collections, requests),
        *_fleet_lines(fleet, now, answers, scrapes),
        *_beyond_lines(fleet, peers or PeerCounts(), watches),
    )
    return "".join(f"{line}\n" for line in lines)


def _node_lines(
    samples: tuple[Sample, ...] | None, collections: CollectionCounts, requests: Mapping[str, RequestCounts]
) -> Iterator[str]:
    for gauge in _DEVICE_GAUGES:
        yield from _family(gauge.family, _series(gauge, samples or (), _of_device))
    yield from _family(_DEVICE_COUNT, [] if samples is None else [("", (), len(samples))])
    yield from _family(_COLLECTIONS, [("", (), collections.collections)])
    yield from _family(_COLLECTION_ERRORS, [("", (), collections.errors)])
    yield from _family(
        _COLLECTION_DURATION,
        _histogram(COLLECTION_BUCKETS_SECONDS, collections.duration_buckets, collections.duration_seconds_sum),
    )
    yield from _family(_REQUESTS, [("", (method,), counts.requests) for method, counts in requests.items()])
    yield from _family(_REQUEST_ERRORS, [("", (method,), counts.errors) for method, counts in requests.items()])
    yield from _family(
        _REQUEST_DURATION,
        itertools.chain.from_iterable(
            _histogram(REQUEST_BUCKETS_SECONDS, counts.duration_buckets, counts.duration_seconds_sum, (method,))
            for method, counts in requests.items()
            if counts.duration_buckets
        ),
    )


def _fleet_lines(
    fleet: Fleet, now: float, answers: Sequence[RecentAnswer], scrapes: Mapping[str, ScrapeCounts]
) -> Iterator[str]:
    for gauge in (*_ANSWER_GAUGES, *_DEMAND_GAUGES):
        yield from _family(gauge.family, _series(gauge, answers, _of_workload))
    yield from _family(
        _SCRAPES, [("", (engine or "unknown",), counts.scrapes) for engine, counts in sorted(scrapes.items())]
    )
    yield from _family(
        _SCRAPE_FAILURES, [("", (engine or "unknown",), counts.failures) for engine, counts in sorted(scrapes.items())]
    )
    yield from _family(_SNAPSHOT_AGE, [("", (node,), history.age_seconds(now)) for node, history in fleet.nodes()])


def _beyond_lines(fleet: Fleet, peers: PeerCounts, watches: Watches) -> Iterator[str]:
    yield from _family(_PEERS_SILENT, [("", (), len(fleet.unavailable))])
    yield from _family(_PEERS_FOLLOWED, [("", (), peers.followed)])
    yield from _family(_PEERS_SILENCE, [("", (), peers.longest_silence_seconds)])
    yield from _family(
        _API_WATCHES,
        sorted(("", (resource, state.value), count) for (resource, state), count in watches.items()),
    )
    yield from _family(_BUILD_INFO, [("", (__version__,), 1)])


_Series = tuple[str, tuple[str, ...], float]  # suffix of the name, label values, value


def _series(
    gauge: _Gauge[_GaugeValue], told: Iterable[_GaugeValue], labels: Callable[[_GaugeValue], tuple[str, ...]]
) -> Iterator[_Series]:
    """Give each a series, except where its value is unknown."""
    for one in told:
        value = gauge.read(one)
        if value is not None:
            yield "", labels(one), value


def _of_device(sample: Sample) -> tuple[str, ...]:
    return str(sample.device.index), sample.device.uuid, sample.device.model


def _of_workload(answer: RecentAnswer) -> tuple[str, ...]:
    return answer.namespace, answer.name, answer.metric_name, answer.metric


def _histogram(
    bounds: Sequence[float], buckets: Sequence[int], seconds_sum: float, labels: tuple[str, ...] = ()
) -> Iterator[_Series]:
    cumulated = 0
    for bound, count in zip((*bounds, math.inf), buckets, strict=True):
        cumulated += count
        yield "_bucket", (*labels, "+Inf" if math.isinf(bound) else f"{bound:g}"), cumulated
    yield "_sum", labels, seconds_sum
    yield "_count", labels, cumulated


def _family(family: Family, series: Iterable[_Series]) -> Iterator[str]:
    yield f"# HELP {PREFIX}{family.name} {family.help}"
    yield f"# TYPE {PREFIX}{family.name} {family.kind}"
    for suffix, values, value in series:
        names = (*family.labels, "le") if suffix == "_bucket" else family.labels
        labels = ",".join(f'{name}="{_escaped(text)}"' for name, text in zip(names, values, strict=bool(values)))
        yield f"{PREFIX}{family.name}{suffix}{'{' + labels + '}' if values else ''} {_number(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


@dataclass(frozen=True, slots=True)
class HttpPage:
    """One answer of the HTTP server; ``headers`` are further ones."""

    body: str
    status: int = 200
    content_type: str = _PLAIN
    headers: tuple[tuple[str, str], ...] = ()


HttpPages = Mapping[str, Callable[[], HttpPage]]
"""Path to the function that makes its page."""


def probe_pages(unready: Callable[[], str | None]) -> HttpPages:
    """Return the probes' pages.

    Alive means that the event loop answers: a driver that hangs is not mended by a restart of this pod.
    Ready means that there is something to answer with; ``unready`` says why not.
    """

    def alive() -> HttpPage:
        return HttpPage("ok\n")

    def ready() -> HttpPage:
        why = unready()
        return HttpPage("ok\n") if why is None else HttpPage(f"not ready: {why}\n", status=503)

    return {"/livez": alive, "/healthz": alive, "/readyz": ready}


def metrics_pages(text: Callable[[], str]) -> HttpPages:
    """Return the page that Prometheus scrapes."""
    return {"/metrics": lambda: HttpPage(text(), content_type=_EXPOSITION)}


def status_pages(text: Callable[[], str], policy: str) -> HttpPages:
    """Return the page for people, an HTML document that may do in a browser what its content security policy says."""
    headers = (
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    )
    return {"/": lambda: HttpPage(text(), content_type=_HTML, headers=headers)}


class HttpServer:
    """Serves pages to GET and HEAD on one port, until it is closed.

    A client that is slow, wrong or one too many costs a bounded time and a bounded amount of memory.
    """

    def __init__(self, pages: HttpPages) -> None:
        self._pages = pages
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], None] = {}  # oldest first

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port (chosen by the system where ``port`` is 0).

        Raises:
            OSError: the address cannot be listened on.
        """
        socket_ = listener(host, port)
        bound: int = socket_.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=socket_, limit=_MAX_REQUEST_BYTES)
        return bound

    async def close(self) -> None:
        """Stop listening and drop what is open."""
        if self._server is None:
            return
        self._server.close()
        connections = tuple(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  asyncio runs this in a task of its own
        if len(self._connections) >= _MAX_CONNECTIONS:
            # The oldest is the likeliest never to finish; refusing the newest would let a few idle peers
            # keep the kubelet out.
            next(iter(self._connections)).cancel()
        self._connections[task] = None
        try:
            await self._converse(reader, writer)
            writer.close()
        except (TimeoutError, ConnectionError, asyncio.CancelledError):
            # Whoever left, or does not read: not worth a word, nor a buffer that waits to be fetched.
            writer.transport.abort()
        finally:
            del self._connections[task]

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close: scrapes and probes come seconds apart."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_REQUEST_BYTES)
        async with asyncio.timeout(_REQUEST_TIMEOUT_SECONDS):
            try:
                request = await _receive(connection, reader)
            except h11.RemoteProtocolError as error:
                request, page = (
                    None,
                    HttpPage("not a request that can be served here\n", status=error.error_status_hint),
                )
            else:
                if request is None:
                    return
                page = self._page(request)
            writer.write(_answer(connection, page, headers_only=request is not None and request.method == b"HEAD"))
            await writer.drain()

    def _page(self, request: h11.Request) -> HttpPage:
        path = request.target.split(b"?", 1)[0].decode("ascii", "replace")
        if request.method not in (b"GET", b"HEAD"):
            return HttpPage("only GET and HEAD are served here\n", status=405)
        if path not in self._pages:
            return HttpPage(f"nothing is served at {path!a}; try {', '.join(sorted(self._pages))}\n", status=404)
        return self._pages[path]()


def listener(host: str, port: int) -> socket.socket:
    """Return a listening socket; "::" means every interface, by IPv4 too.

    Raises:
        OSError: the address cannot be listened on.
    """
    # asyncio would make "::" an IPv6-only socket, which a kubelet on an IPv4 node cannot probe.
    if host == "::":
        if socket.has_dualstack_ipv6():
            try:
                return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
        host = "0.0.0.0"  # noqa: S104  every interface is what was asked for
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


async def _receive(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Read one request's head; None when the peer leaves before it is whole."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await reader.read(_MAX_REQUEST_BYTES))


def _answer(connection: h11.Connection, page: HttpPage, *, headers_only: bool) -> bytes:
    body = page.body.encode(errors="backslashreplace")
    headers = [
        ("Content-Type", page.content_type),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
        *page.headers,
    ]
    parts = [connection.send(h11.Response(status_code=page.status, headers=headers))]
    if not headers_only:
        parts.append(connection.send(h11.Data(data=body)))
    parts.append(connection.send(h11.EndOfMessage()))
    return b"".join(part for part in parts if part)
