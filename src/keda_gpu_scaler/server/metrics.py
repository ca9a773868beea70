# SPDX-License-Identifier: Apache-2.0
"""The metric families of this program, and their rendering as Prometheus text.

Law: an unknown reading has no series. A gauge that falls to 0 because a driver is gone would raise an alert, or
scale a workload down.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from keda_gpu_scaler import __version__
from keda_gpu_scaler.core.instance_status import (
    COLLECTION_BUCKETS_SECONDS,
    REQUEST_BUCKETS_SECONDS,
    CollectionCounts,
    DropReason,
    PeerCounts,
    RecentAnswer,
    RefusedTrigger,
    RequestCounts,
    ScrapeCounts,
    Watches,
)
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.metrics import METRICS
from keda_gpu_scaler.core.types import PerformanceReadings, Sample
from keda_gpu_scaler.server.device_labels import DEVICE_LABELS, DeviceLabels, VendorOf
from keda_gpu_scaler.server.http import HttpPage
from keda_gpu_scaler.server.metric_family import Family, Gauge, MetricSeries, family_lines, gauge_series
from keda_gpu_scaler.server.workload_metrics import FAMILIES as WORKLOAD_FAMILIES
from keda_gpu_scaler.server.workload_metrics import workload_lines

_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"

_DEVICE_GAUGES: tuple[Gauge[Sample], ...] = (
    Gauge(
        Family("gpu_utilization_percent", "gauge", "Share of the time during which a kernel ran.", DEVICE_LABELS),
        METRICS["gpu_utilization"].read,
    ),
    Gauge(
        Family("gpu_memory_used_bytes", "gauge", "Memory in use on the device.", DEVICE_LABELS),
        lambda sample: sample.memory_used_bytes,
    ),
    Gauge(
        Family("gpu_memory_total_bytes", "gauge", "Total memory of the device.", DEVICE_LABELS),
        lambda sample: sample.memory_total_bytes,
    ),
    Gauge(
        Family("gpu_temperature_celsius", "gauge", "Temperature of the GPU die.", DEVICE_LABELS),
        lambda sample: sample.temperature_celsius,
    ),
    Gauge(
        Family("gpu_power_draw_watts", "gauge", "Power draw of the board.", DEVICE_LABELS),
        METRICS["power_draw"].read,
    ),
)


def _performance(
    name: str, kind: str, meaning: str, read: Callable[[PerformanceReadings], float | None]
) -> Gauge[Sample]:
    return Gauge(
        Family(name, kind, meaning, DEVICE_LABELS),
        lambda sample: None if sample.performance is None else read(sample.performance),
    )


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else round(100 * ratio, 6)


PERFORMANCE_GAUGES = (
    _performance(
        "gpu_sm_active_percent", "gauge", "Share of the streaming multiprocessors that were busy.",
        lambda it: _percent(it.sm_active_ratio),
    ),
    _performance(
        "gpu_tensor_active_percent", "gauge", "Share of the time in which tensor cores were busy.",
        lambda it: _percent(it.tensor_active_ratio),
    ),
    _performance(
        "gpu_dram_active_percent", "gauge", "Share of the memory's bandwidth that was used.",
        lambda it: _percent(it.dram_active_ratio),
    ),
    _performance(
        "gpu_pcie_rx_bytes_per_second", "gauge", "Traffic over PCIe to the device.",
        lambda it: it.pcie_rx_bytes_per_second,
    ),
    _performance(
        "gpu_pcie_tx_bytes_per_second", "gauge", "Traffic over PCIe from the device.",
        lambda it: it.pcie_tx_bytes_per_second,
    ),
    _performance(
        "gpu_nvlink_rx_bytes_per_second", "gauge", "Traffic over the links between GPUs (NVLink, XGMI) to the device.",
        lambda it: it.nvlink_rx_bytes_per_second,
    ),
    _performance(
        "gpu_nvlink_tx_bytes_per_second", "gauge",
        "Traffic over the links between GPUs (NVLink, XGMI) from the device.",
        lambda it: it.nvlink_tx_bytes_per_second,
    ),
    _performance(
        "gpu_energy_joules_total", "counter", "Energy that the board has used since its driver was loaded.",
        lambda it: it.energy_joules,
    ),
)  # fmt: skip
_DEVICE_COUNT = Family("gpu_device_count", "gauge", "Devices that this instance reads on its node.")
_POD_SHARE = Family(
    "gpu_pod_share_ratio", "gauge", "Share of the device that a pod holds: equal parts that add up to 1.", DEVICE_LABELS
)
_ALLOCATIONS_KNOWN = Family(
    "gpu_allocations_known", "gauge", "1 if the kubelet reports the pods that hold the devices, 0 if not."
)
_COLLECTIONS = Family("collections_total", "counter", "Attempts to read the devices.")
_COLLECTION_ERRORS = Family(
    "collection_errors_total", "counter", "Attempts to read the devices that ended with an error."
)
_COLLECTION_DURATION = Family("collection_duration_seconds", "histogram", "Duration of one reading of all devices.")
_REQUESTS = Family("scaler_requests_total", "counter", "RPCs from KEDA.", ("method",))
_REQUEST_ERRORS = Family(
    "scaler_request_errors_total", "counter", "RPCs from KEDA that were answered with an error.", ("method",)
)
_REQUEST_DURATION = Family(
    "scaler_request_duration_seconds", "histogram", "Duration of one RPC. Streams have no duration.", ("method",)
)
_SCRAPES = Family(
    "scrapes_total", "counter", "Scrapes of engines and demand endpoints, by recognised engine.", ("engine",)
)
_SCRAPE_FAILURES = Family(
    "scrape_failures_total", "counter", "Scrapes that ended with an error, by recognised engine.", ("engine",)
)
_SNAPSHOT_AGE = Family(
    "snapshot_age_seconds", "gauge", "Age of the newest snapshot of each node that this instance knows.", ("node",)
)
_PEERS_UNAVAILABLE = Family("peers_unavailable", "gauge", "Instances that discovery lists and that are unavailable.")
_PEERS_FOLLOWED = Family(
    "peers_followed", "gauge", "Instances that this instance follows. 0 while KEDA does not call this instance."
)
_PEERS_MAX_STALENESS = Family(
    "peer_max_staleness_seconds",
    "gauge",
    "Longest time without a snapshot from an unavailable instance. 0 if there is none.",
)
_PEER_SNAPSHOTS_DROPPED = Family(
    "peer_snapshots_dropped_total",
    "counter",
    "Snapshots of peers that were not used: of a node that is not the peer's own (node), or above a limit (limit).",
    ("reason",),
)
_API_WATCHES = Family(
    "api_watches",
    "gauge",
    "Watches on the API server: watching, pending (no list yet), interrupted (last list in use) or unknown.",
    ("resource", "state"),
)
_CERTIFICATE_EXPIRY = Family(
    "certificate_expiry_timestamp_seconds",
    "gauge",
    "End of the certificate in the file of a TLS flag, as a Unix time: of a chain the first end, of authorities the "
    "last one. No series while the file cannot be read.",
    ("flag",),
)
_BUILD_INFO = Family("build_info", "gauge", "Always 1. The version is a label.", ("version",))

FAMILIES = (
    *(gauge.family for gauge in (*_DEVICE_GAUGES, *PERFORMANCE_GAUGES)),
    _DEVICE_COUNT,
    _POD_SHARE,
    _ALLOCATIONS_KNOWN,
    _COLLECTIONS,
    _COLLECTION_ERRORS,
    _COLLECTION_DURATION,
    _REQUESTS,
    _REQUEST_ERRORS,
    _REQUEST_DURATION,
    *WORKLOAD_FAMILIES,
    _SCRAPES,
    _SCRAPE_FAILURES,
    _SNAPSHOT_AGE,
    _PEERS_UNAVAILABLE,
    _PEERS_FOLLOWED,
    _PEERS_MAX_STALENESS,
    _PEER_SNAPSHOTS_DROPPED,
    _API_WATCHES,
    _CERTIFICATE_EXPIRY,
    _BUILD_INFO,
)
"""Every family of ``/metrics`` in order of appearance. The names have no prefix here."""


def render(
    fleet: Fleet,
    now: float,
    collections: CollectionCounts,
    requests: Mapping[str, RequestCounts],
    answers: Sequence[RecentAnswer] = (),
    scrapes: Mapping[str, ScrapeCounts] = MappingProxyType({}),
    peers: PeerCounts | None = None,
    watches: Watches = MappingProxyType({}),
    vendor_of: VendorOf = lambda uuid: "",
    certificates: Mapping[str, float] = MappingProxyType({}),
    refused: Sequence[RefusedTrigger] = (),
) -> str:
    """Return the exposition text (Prometheus text format 0.0.4).

    Devices appear while the newest snapshot of this node is fresh. Their values are the newest readings, without the
    window of a trigger. The devices of other nodes are left out, because their own instances export them.
    """
    newest = fleet.history.newest if fleet.history is not None and fleet.is_fresh(now) else None
    lines = (
        *_device_lines(None if newest is None else newest.samples, DeviceLabels(newest, vendor_of)),
        *_instance_lines(collections, requests),
        *workload_lines(answers, refused),
        *_fleet_lines(fleet, now, scrapes),
        *_connection_lines(fleet, peers or PeerCounts(), watches),
        *family_lines(_CERTIFICATE_EXPIRY, [("", (flag,), ends) for flag, ends in sorted(certificates.items())]),
        *family_lines(_BUILD_INFO, [("", (__version__,), 1)]),
    )
    return "".join(f"{line}\n" for line in lines)


def _device_lines(samples: tuple[Sample, ...] | None, labels: DeviceLabels) -> Iterator[str]:
    for gauge in (*_DEVICE_GAUGES, *PERFORMANCE_GAUGES):
        yield from family_lines(gauge.family, gauge_series(gauge, samples or (), labels.of))
    yield from family_lines(_DEVICE_COUNT, [] if samples is None else [("", (), len(samples))])
    yield from family_lines(_POD_SHARE, (("", values, share) for values, share in labels.shares()))
    known = labels.are_allocations_known
    yield from family_lines(_ALLOCATIONS_KNOWN, [] if known is None else [("", (), known)])


def _instance_lines(collections: CollectionCounts, requests: Mapping[str, RequestCounts]) -> Iterator[str]:
    yield from family_lines(_COLLECTIONS, [("", (), collections.collections)])
    yield from family_lines(_COLLECTION_ERRORS, [("", (), collections.errors)])
    yield from family_lines(
        _COLLECTION_DURATION,
        _histogram(COLLECTION_BUCKETS_SECONDS, collections.duration_buckets, collections.duration_seconds_sum),
    )
    yield from family_lines(_REQUESTS, [("", (method,), counts.requests) for method, counts in requests.items()])
    yield from family_lines(_REQUEST_ERRORS, [("", (method,), counts.errors) for method, counts in requests.items()])
    yield from family_lines(
        _REQUEST_DURATION,
        itertools.chain.from_iterable(
            _histogram(REQUEST_BUCKETS_SECONDS, counts.duration_buckets, counts.duration_seconds_sum, (method,))
            for method, counts in requests.items()
            if counts.duration_buckets
        ),
    )


def _fleet_lines(fleet: Fleet, now: float, scrapes: Mapping[str, ScrapeCounts]) -> Iterator[str]:
    yield from family_lines(
        _SCRAPES, [("", (engine or "unknown",), counts.scrapes) for engine, counts in sorted(scrapes.items())]
    )
    yield from family_lines(
        _SCRAPE_FAILURES, [("", (engine or "unknown",), counts.failures) for engine, counts in sorted(scrapes.items())]
    )
    yield from family_lines(_SNAPSHOT_AGE, [("", (node,), history.age_seconds(now)) for node, history in fleet.nodes()])


def _connection_lines(fleet: Fleet, peers: PeerCounts, watches: Watches) -> Iterator[str]:
    yield from family_lines(_PEERS_UNAVAILABLE, [("", (), len(fleet.unavailable))])
    yield from family_lines(_PEERS_FOLLOWED, [("", (), peers.followed)])
    yield from family_lines(_PEERS_MAX_STALENESS, [("", (), peers.max_staleness_seconds)])
    yield from family_lines(
        _PEER_SNAPSHOTS_DROPPED, [("", (reason.value,), peers.dropped.get(reason, 0)) for reason in DropReason]
    )
    yield from family_lines(
        _API_WATCHES,
        sorted(("", (resource, state.value), count) for (resource, state), count in watches.items()),
    )


def _histogram(
    bounds: Sequence[float], buckets: Sequence[int], seconds_sum: float, labels: tuple[str, ...] = ()
) -> Iterator[MetricSeries]:
    cumulative = 0
    for bound, count in zip((*bounds, math.inf), buckets, strict=True):
        cumulative += count
        yield "_bucket", (*labels, "+Inf" if math.isinf(bound) else f"{bound:g}"), cumulative
    yield "_sum", labels, seconds_sum
    yield "_count", labels, cumulative


def metrics_page(text: str) -> HttpPage:
    """Return the page that Prometheus scrapes."""
    return HttpPage(text, content_type=_EXPOSITION)
