# SPDX-License-Identifier: Apache-2.0
"""The status page: one HTML document with the fleet, the workloads and the steps of their answers.

Law: untrusted text is text and never markup, and an unknown value is shown as unknown. The page loads no other file,
sends no request to another host, and is complete without its script.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from keda_gpu_scaler.core.evaluate.attribution import holders_by_device
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, History
from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.server.http import HttpPage
from keda_gpu_scaler.server.status_text import (
    UNKNOWN,
    ago,
    duration,
    known_text,
    left_out_note,
    meter,
    metered,
    safe_text,
    table_cells,
    table_start,
)
from keda_gpu_scaler.server.status_view import StatusView, framed, html_page
from keda_gpu_scaler.server.status_workloads import workloads
from keda_gpu_scaler.server.workload_page import workload_document

MAX_DEVICES = 500
MAX_ROWS = 200
"""The limits of the page: devices, and rows of any other list. The page says how many it leaves out."""
REFRESH_SECONDS = 1.0
"""The page is rendered at most this often, however many browsers show it."""

_MAX_RENDERED = 32  # pages that are kept for REFRESH_SECONDS
_GIB = 1 << 30


class StatusPage:
    """The status page and the pages of the workloads, rendered on request.

    Args:
        view: returns the data at this moment.
        clock: monotonic seconds.
    """

    def __init__(self, view: Callable[[], StatusView], clock: Callable[[], float]) -> None:
        self._make_view = view
        self._clock = clock
        self._view: StatusView | None = None
        self._viewed_at = float("-inf")
        self._rendered: dict[str | None, HttpPage] = {}

    def page(self) -> HttpPage:
        """Return the status page. It is at most ``REFRESH_SECONDS`` old."""
        return self._page(None, lambda view: html_page(document(view)))

    def workload_page(self, query: str) -> HttpPage:
        """Return the page of the workload that a query string names. It is at most ``REFRESH_SECONDS`` old."""

        def render(view: StatusView) -> HttpPage:
            text, status = workload_document(view, query)
            return html_page(text, status=status)

        return self._page(query, render)

    def _page(self, key: str | None, render: Callable[[StatusView], HttpPage]) -> HttpPage:
        now = self._clock()
        if self._view is None or now - self._viewed_at >= REFRESH_SECONDS:
            self._view, self._viewed_at = self._make_view(), now
            self._rendered.clear()
        page = self._rendered.get(key)
        if page is None:
            page = render(self._view)
            if len(self._rendered) < _MAX_RENDERED:
                self._rendered[key] = page
        return page


def document(view: StatusView) -> str:
    """Return the page as HTML."""
    return framed(view, f"keda-gpu-scaler on {view.node}", _main(view))


def _main(view: StatusView) -> Iterator[str]:
    yield from workloads(view)
    yield from _devices(view)
    yield from _unavailable(view)
    yield from _engines(view)
    yield from _watches(view)


# ---- devices ----


def _devices(view: StatusView) -> Iterator[str]:
    nodes = view.fleet.nodes()
    yield "<section aria-labelledby=fleet>"
    yield "<h2 id=fleet>Fleet</h2>"
    yield f"<p>{_peers(view)}</p>"
    left, left_out = MAX_DEVICES, 0
    if nodes:
        heads = ("Device", "Model", "Utilisation", "Memory", "Temperature", "Power", "Assigned to")
        yield from table_start("fleet", "Newest readings of every device, by node", heads)
        for name, history in nodes:
            samples = history.newest.samples
            if left > 0:
                yield from _node(name, history, samples[:left], view)
            left_out += max(0, len(samples) - max(left, 0))
            left -= len(samples)
        yield "</table></div>"
        yield left_out_note(left_out, "devices")
    yield "</section>"


def _peers(view: StatusView) -> str:
    if view.peers.followed:
        staleness = view.peers.max_staleness_seconds
        unavailable = f"; one of them has sent no snapshot for {duration(staleness)}" if staleness else ""
        return f"This instance follows {view.peers.followed} instances{unavailable}."
    return "This instance follows no other instance: discovery lists none, or KEDA did not call this one recently."


def _node(name: str, history: History, samples: Sequence[Sample], view: StatusView) -> Iterator[str]:
    is_fresh = view.fleet.is_history_fresh(history, view.now)
    if is_fresh:
        state = f"{safe_text(history.newest.source)}, {duration(history.age_seconds(view.now))} old"
    else:
        state = f"<span class=bad>unknown</span>: {safe_text(view.fleet.missing_reason(name, view.now))}"
    yield "<tbody>"
    yield f"<tr><th scope=rowgroup colspan=7>{safe_text(name)} <span class=faint>{state}</span></th></tr>"
    pods_by_device = _pods_by_device(history) if is_fresh else None
    for sample in samples:
        yield _device(sample if is_fresh else Sample(sample.device), pods_by_device)
    if not samples:
        yield "<tr><td colspan=7>no device</td></tr>"
    yield "</tbody>"


def _pods_by_device(history: History) -> Mapping[str, str] | None:
    """Return the pods of each assigned device, by UUID. None: the assignments are unknown."""
    holders = holders_by_device(history.newest)
    return None if holders is None else {uuid: ", ".join(pods) for uuid, pods in holders.items()}


def _device(sample: Sample, pods_by_device: Mapping[str, str] | None) -> str:
    device = sample.device
    cells = (
        safe_text(device.model),
        metered(sample.gpu_utilization_ratio, "utilisation"),
        _memory(sample),
        known_text(sample.temperature_celsius, "°C"),
        known_text(sample.power_watts, "W"),
        UNKNOWN if pods_by_device is None else safe_text(pods_by_device.get(device.uuid, "no pod")),
    )
    head = f"{device.index} <span class=faint>{safe_text(device.uuid)}</span>"
    return f"<tr><th scope=row>{head}</th>{table_cells(cells)}</tr>"


def _memory(sample: Sample) -> str:
    used, total = sample.memory_used_bytes, sample.memory_total_bytes
    if used is None:
        return UNKNOWN
    if not total:
        return f"{used / _GIB:.1f} GiB"
    return f"{meter(used / total, 'memory in use')} {used / _GIB:.1f} of {total / _GIB:.1f} GiB"


# ---- unavailable instances, engines and watches ----


def _unavailable(view: StatusView) -> Iterator[str]:
    reasons = dict(view.fleet.nodes_without_snapshot())
    if PEERS_UNKNOWN in view.fleet.unavailable:
        reasons["discovery"] = view.fleet.unavailable[PEERS_UNKNOWN]
    if reasons:
        yield "<section aria-labelledby=unavailable>"
        yield "<h2 id=unavailable>Unavailable instances</h2>"
        yield "<dl>"
        for name, reason in list(reasons.items())[:MAX_ROWS]:
            yield f"<dt>{safe_text(name)}</dt><dd>{safe_text(reason)}</dd>"
        yield "</dl>"
        yield left_out_note(len(reasons) - MAX_ROWS, "instances")
        yield "</section>"


def _engines(view: StatusView) -> Iterator[str]:
    rows = [
        (str(endpoint), target, result.failure)
        for endpoint, result in view.fleet.scrape_results.items()
        for target in result.targets or (None,)
    ]
    if not rows:
        return
    rows.sort(key=lambda row: (row[0], row[1].url if row[1] else ""))
    yield "<section aria-labelledby=engines>"
    yield "<h2 id=engines>Engines and demand</h2>"
    heads = ("Endpoint", "Target", "Engine", "Running", "Waiting", "KV cache", "Last sample")
    yield from table_start("engines", "Last sample of every target of the endpoints that triggers use", heads)
    yield "<tbody>"
    for title, target, failure in rows[:MAX_ROWS]:
        yield f"<tr><th scope=row>{safe_text(title)}</th>{table_cells(_target(target, failure, view))}</tr>"
    yield "</tbody></table></div>"
    yield left_out_note(len(rows) - MAX_ROWS, "targets")
    yield "</section>"


def _target(target: TargetHistory | None, failure: str | None, view: StatusView) -> tuple[str, ...]:
    if target is None:
        state = f"<span class=bad>{safe_text(failure or 'not scraped yet')}</span>"
        return ("—", "—", UNKNOWN, UNKNOWN, UNKNOWN, state)
    newest = target.newest if target.is_fresh(view.now, view.fleet.stale_after_seconds) else None
    state = ago(view.now - target.samples[-1].at_seconds) if target.samples else "never"
    if target.failure is not None:
        state += f"; <span class=bad>{safe_text(target.failure)}</span>"
    if newest is None:
        return (safe_text(target.url), UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, state)
    return (
        safe_text(target.url),
        safe_text(newest.engine or "none recognised"),
        known_text(newest.running),
        known_text(newest.waiting),
        metered(newest.kv_cache_ratio, "KV cache"),
        state,
    )


def _watches(view: StatusView) -> Iterator[str]:
    if not view.watches:
        return
    yield "<section aria-labelledby=watches>"
    yield "<h2 id=watches>API server</h2>"
    yield from table_start(
        "watches", "Watches on the API server, by resource and state", ("Resource", "State", "Watches")
    )
    yield "<tbody>"
    for resource, state, count in sorted((kind, state.value, count) for (kind, state), count in view.watches.items()):
        shown = f"<span class={'good' if state == 'watching' else 'bad'}>{state}</span>"
        yield f"<tr><th scope=row>{safe_text(resource)}</th>{table_cells((shown, str(count)))}</tr>"
    yield "</tbody></table></div>"
    yield "</section>"
