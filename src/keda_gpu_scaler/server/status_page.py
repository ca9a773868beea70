# SPDX-License-Identifier: Apache-2.0
"""The status page: one HTML document with the fleet, the workloads and the steps of their answers.

Law: untrusted text is text and never markup, and an unknown value is shown as unknown. The page loads no other file,
sends no request to another host, and is complete without its script.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from keda_gpu_scaler import __version__
from keda_gpu_scaler.core.evaluate.attribution import holders_by_device
from keda_gpu_scaler.core.instance_status import PeerCounts, RecentAnswer, RefusedTrigger, Watches
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, Fleet, History
from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS, METRICS
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.server.http import HttpPage
from keda_gpu_scaler.server.status_assets import FOOT, HEAD, POLICY

MAX_DEVICES = 500
MAX_WORKLOADS = 100
MAX_REFUSED = 100
MAX_ROWS = 200
"""The limits of the page: devices, triggers (those with an answer, and refused ones), and rows of any other list.

The page says how many it leaves out.
"""
REFRESH_SECONDS = 1.0
"""The page is rendered at most this often, however many browsers show it."""

_HTML = "text/html; charset=utf-8"
_GIB = 1 << 30
_MAX_TEXT_LENGTH = 2000


@dataclass(frozen=True, slots=True)
class StatusView:
    """The data of the page at one instant. ``now`` is monotonic; ``unix_seconds`` is the time that the page shows."""

    fleet: Fleet
    now: float
    unix_seconds: float
    node: str
    source: str
    answers: Sequence[RecentAnswer] = ()
    peers: PeerCounts = field(default_factory=PeerCounts)
    watches: Watches = field(default_factory=dict)
    refused: Sequence[RefusedTrigger] = ()


class StatusPage:
    """The page, rendered on request.

    Args:
        view: returns the data at this moment.
        clock: monotonic seconds.
    """

    def __init__(self, view: Callable[[], StatusView], clock: Callable[[], float]) -> None:
        self._view = view
        self._clock = clock
        self._rendered_at = float("-inf")
        self._text = ""

    def page(self) -> HttpPage:
        """Return the page. It is at most ``REFRESH_SECONDS`` old."""
        now = self._clock()
        if now - self._rendered_at >= REFRESH_SECONDS:
            self._text, self._rendered_at = document(self._view()), now
        return status_page(self._text)


def status_page(text: str, policy: str = POLICY) -> HttpPage:
    """Return the page with an HTML document and its content security policy."""
    headers = (
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    )
    return HttpPage(text, content_type=_HTML, headers=headers)


def document(view: StatusView) -> str:
    """Return the page as HTML."""
    parts = (HEAD, _header(view), "<main id=main tabindex=-1>", *_main(view), "</main>", FOOT)
    return "\n".join(part for part in parts if part)


def _header(view: StatusView) -> str:
    reason = view.fleet.not_ready_reason(view.now)
    state = "<span class=good>ready</span>" if reason is None else f"<span class=bad>not ready</span>: {_text(reason)}"
    at = datetime.fromtimestamp(view.unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"""<header>
<h1>keda-gpu-scaler on {_text(view.node)}</h1>
<div id=now>
<p>{state}</p>
<p class=faint>version {_text(__version__)}, devices from {_text(view.source)}, at <time>{at}</time></p>
</div>
<p><button id=pause type=button hidden>Pause updates</button></p>
<p id=live role=status></p>
</header>"""


def _main(view: StatusView) -> Iterator[str]:
    yield from _workloads(view)
    yield from _devices(view)
    yield from _unavailable(view)
    yield from _engines(view)
    yield from _watches(view)


# ---- workloads ----


def _workloads(view: StatusView) -> Iterator[str]:
    yield "<section aria-labelledby=workloads>"
    yield "<h2 id=workloads>Workloads</h2>"
    if not view.answers and not view.refused:
        yield "<p>This instance got no request from KEDA in the last ten minutes. KEDA may call another instance.</p>"
    else:
        # Answers with unknown data come first, so that the limit does not hide them. The shown order is stable.
        shown = sorted(
            view.answers, key=lambda answer: answer.value is not None and answer.is_demand_known is not False
        )
        shown = sorted(shown[:MAX_WORKLOADS], key=_key)
        heads = ("Workload", "Metric", "Reported value", "Target", "Active", "With value", "Demand", "Last answer")
        yield from _table_start("workloads", "Last value reported to KEDA for each trigger, and its steps", heads)
        for trigger in view.refused[:MAX_REFUSED]:
            yield from _refused(trigger, view.now)
        for answer in shown:
            yield from _workload(answer, view.now)
        yield "</table></div>"
        left_out = max(0, len(view.refused) - MAX_REFUSED) + len(view.answers) - len(shown)
        yield _left_out(left_out, "triggers")
    yield "</section>"


def _refused(trigger: RefusedTrigger, now: float) -> Iterator[str]:
    """Yield the rows of a refused trigger: its object, and what to change."""
    state = (
        f"<span class=bad>refused</span> for {_duration(now - trigger.since_seconds)}: KEDA gets no value and no target"
    )
    title = _text(f"{trigger.namespace}/{trigger.name}")
    problems = "".join(f"<li>{_text(problem)}</li>" for problem in trigger.problems)
    yield "<tbody class=refused>"
    yield f"<tr><th scope=rowgroup>{title}</th><td colspan=7>{state}</td></tr>"
    yield f"<tr class=steps><td colspan=8><ul class=bad>{problems}</ul></td></tr>"
    yield "</tbody>"


def _workload(answer: RecentAnswer, now: float) -> Iterator[str]:
    metric = METRICS.get(answer.metric) or ENGINE_METRICS.get(answer.metric)
    unit = f" {metric.unit}" if metric is not None and metric.unit else ""
    value = "<span class=bad>no value</span>" if answer.value is None else f"{_number(answer.value)}{_text(unit)}"
    cells = (
        f"{_text(answer.metric_name)}<br><span class=faint>{_text(answer.metric)}</span>",
        value,
        f"{_number(answer.target)}{_text(unit)}",
        "<span class=good>active</span>" if answer.active else "inactive",
        f"{answer.with_value} of {answer.expected}" if answer.expected else "—",
        _demand(answer),
        _ago(now - answer.at_seconds),
    )
    yield "<tbody>"
    yield f"<tr><th scope=rowgroup>{_text(f'{answer.namespace}/{answer.name}')}</th>{_cells(cells)}</tr>"
    key = _text("/".join(_key(answer)))
    steps = "".join(f"<li>{_text(step)}</li>" for step in answer.steps)
    reason = f"<p class=bad>{_text(answer.reason)}</p>" if answer.reason else ""
    summary = f"Steps ({len(answer.steps)})"
    yield (
        f'<tr class=steps><td colspan=8>{reason}<details data-key="{key}"><summary>{summary}</summary>'
        f"<ol>{steps}</ol></details></td></tr>"
    )
    yield "</tbody>"


def _demand(answer: RecentAnswer) -> str:
    if answer.is_demand_known is None:
        return "—"
    if not answer.is_demand_known or answer.demand is None:
        return "<span class=bad>unknown</span>"
    return _number(answer.demand)


def _key(answer: RecentAnswer) -> tuple[str, str, str, str]:
    return answer.namespace, answer.name, answer.metric_name, answer.metric


# ---- devices ----


def _devices(view: StatusView) -> Iterator[str]:
    nodes = view.fleet.nodes()
    yield "<section aria-labelledby=fleet>"
    yield "<h2 id=fleet>Fleet</h2>"
    yield f"<p>{_peers(view)}</p>"
    left, left_out = MAX_DEVICES, 0
    if nodes:
        heads = ("Device", "Model", "Utilisation", "Memory", "Temperature", "Power", "Assigned to")
        yield from _table_start("fleet", "Newest readings of every device, by node", heads)
        for name, history in nodes:
            samples = history.newest.samples
            if left > 0:
                yield from _node(name, history, samples[:left], view)
            left_out += max(0, len(samples) - max(left, 0))
            left -= len(samples)
        yield "</table></div>"
        yield _left_out(left_out, "devices")
    yield "</section>"


def _peers(view: StatusView) -> str:
    if view.peers.followed:
        staleness = view.peers.max_staleness_seconds
        unavailable = f"; one of them has sent no snapshot for {_duration(staleness)}" if staleness else ""
        return f"This instance follows {view.peers.followed} instances{unavailable}."
    return "This instance follows no other instance: discovery lists none, or KEDA did not call this one recently."


def _node(name: str, history: History, samples: Sequence[Sample], view: StatusView) -> Iterator[str]:
    is_fresh = view.fleet.is_history_fresh(history, view.now)
    if is_fresh:
        state = f"{_text(history.newest.source)}, {_duration(history.age_seconds(view.now))} old"
    else:
        state = f"<span class=bad>unknown</span>: {_text(view.fleet.missing_reason(name, view.now))}"
    yield "<tbody>"
    yield f"<tr><th scope=rowgroup colspan=7>{_text(name)} <span class=faint>{state}</span></th></tr>"
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
        _text(device.model),
        _metered(sample.gpu_utilization_ratio, "utilisation"),
        _memory(sample),
        _known(sample.temperature_celsius, "°C"),
        _known(sample.power_watts, "W"),
        _UNKNOWN if pods_by_device is None else _text(pods_by_device.get(device.uuid, "no pod")),
    )
    return f"<tr><th scope=row>{device.index} <span class=faint>{_text(device.uuid)}</span></th>{_cells(cells)}</tr>"


def _memory(sample: Sample) -> str:
    used, total = sample.memory_used_bytes, sample.memory_total_bytes
    if used is None:
        return _UNKNOWN
    if not total:
        return f"{used / _GIB:.1f} GiB"
    return f"{_meter(used / total, 'memory in use')} {used / _GIB:.1f} of {total / _GIB:.1f} GiB"


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
            yield f"<dt>{_text(name)}</dt><dd>{_text(reason)}</dd>"
        yield "</dl>"
        yield _left_out(len(reasons) - MAX_ROWS, "instances")
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
    yield from _table_start("engines", "Last sample of every target of the endpoints that triggers use", heads)
    yield "<tbody>"
    for title, target, failure in rows[:MAX_ROWS]:
        yield f"<tr><th scope=row>{_text(title)}</th>{_cells(_target(target, failure, view))}</tr>"
    yield "</tbody></table></div>"
    yield _left_out(len(rows) - MAX_ROWS, "targets")
    yield "</section>"


def _target(target: TargetHistory | None, failure: str | None, view: StatusView) -> tuple[str, ...]:
    if target is None:
        state = f"<span class=bad>{_text(failure or 'not scraped yet')}</span>"
        return ("—", "—", _UNKNOWN, _UNKNOWN, _UNKNOWN, state)
    newest = target.newest if target.is_fresh(view.now, view.fleet.stale_after_seconds) else None
    state = _ago(view.now - target.samples[-1].at_seconds) if target.samples else "never"
    if target.failure is not None:
        state += f"; <span class=bad>{_text(target.failure)}</span>"
    if newest is None:
        return (_text(target.url), _UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN, state)
    return (
        _text(target.url),
        _text(newest.engine or "none recognised"),
        _known(newest.running),
        _known(newest.waiting),
        _metered(newest.kv_cache_ratio, "KV cache"),
        state,
    )


def _watches(view: StatusView) -> Iterator[str]:
    if not view.watches:
        return
    yield "<section aria-labelledby=watches>"
    yield "<h2 id=watches>API server</h2>"
    yield from _table_start(
        "watches", "Watches on the API server, by resource and state", ("Resource", "State", "Watches")
    )
    yield "<tbody>"
    for resource, state, count in sorted((kind, state.value, count) for (kind, state), count in view.watches.items()):
        shown = f"<span class={'good' if state == 'watching' else 'bad'}>{state}</span>"
        yield f"<tr><th scope=row>{_text(resource)}</th>{_cells((shown, str(count)))}</tr>"
    yield "</tbody></table></div>"
    yield "</section>"


# ---- text and numbers ----

_UNKNOWN = "<span class=faint>unknown</span>"
_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


def _text(untrusted: str) -> str:
    """Return untrusted text in a form that is safe between tags and in a quoted attribute."""
    kept = untrusted if len(untrusted) <= _MAX_TEXT_LENGTH else f"{untrusted[:_MAX_TEXT_LENGTH]}…"
    return "".join(letter if letter.isprintable() else "�" for letter in kept).translate(_MARKUP)


def _table_start(section: str, caption: str, heads: Iterable[str]) -> Iterator[str]:
    """Yield the start of a table. Too wide a table scrolls in its own region, also with the keyboard."""
    yield f'<div class=scroll id={section}-table role=region aria-label="{caption}" tabindex=0><table>'
    yield f"<caption>{caption}</caption>"
    yield f"<thead><tr>{''.join(f'<th scope=col>{head}</th>' for head in heads)}</tr></thead>"


def _cells(cells: Iterable[str]) -> str:
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _left_out(count: int, what: str) -> str:
    return f"<p>{count} more {what} are not shown.</p>" if count > 0 else ""


def _metered(ratio: float | None, label: str) -> str:
    return _UNKNOWN if ratio is None else f"{_meter(ratio, label)} {_number(round(100 * ratio, 1))} %"


def _meter(ratio: float, label: str) -> str:
    return f'<meter min=0 max=1 value={min(max(ratio, 0.0), 1.0):.3f} aria-label="{label}"></meter>'


def _known(value: float | None, unit: str = "") -> str:
    return _UNKNOWN if value is None else f"{_number(value)} {unit}".rstrip()


def _number(value: float) -> str:
    return f"{value:,.3f}".rstrip("0").rstrip(".")


def _ago(seconds: float) -> str:
    return f"{_duration(seconds)} ago"


def _duration(seconds: float) -> str:
    """Return a readable duration: 0.4 s, 12 s, 3 min."""
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
