# SPDX-License-Identifier: Apache-2.0
"""What does a person see in a browser? The fleet, the workloads, and how their answers came about, on one page.

The law of this module: a stranger's word is text and never markup, and what is unknown says so. The page needs
nothing but itself: no file beside it, no request to anybody else, and no script to be read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from keda_gpu_scaler import __version__
from keda_gpu_scaler.core.counters import PeerCounts, RecentAnswer, Watches
from keda_gpu_scaler.core.evaluate.attribution import attribute
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, Fleet, History
from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS, METRICS
from keda_gpu_scaler.core.types import Sample

MAX_DEVICES = 500
MAX_WORKLOADS = 100
MAX_PAGES = 200
"""So much is shown; of more the number."""
AGAIN_SECONDS = 1.0
"""However many look, the page is made anew no more often."""

_GIB = 1 << 30
_LONGEST_TEXT = 2000
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #57606a; --line: #d0d7de;
  --good: #116329; --bad: #a40e26; --link: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #9198a1; --line: #3d444d;
  --good: #56d364; --bad: #ff8182; --link: #79c0ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 88rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; } a { color: var(--link); } .faint { color: var(--faint); }
.skip { position: absolute; left: -100vw; } .skip:focus { position: static; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
button { font: inherit; color: inherit; background: none; border: 1px solid var(--faint); border-radius: .3rem;
  padding: .1rem .7rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); padding-bottom: .3rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-top: 1px solid var(--line); }
thead th { border-top: 0; white-space: nowrap; } tbody th { font-weight: 600; }
th .faint, th .faint .bad, p.bad { font-weight: 400; }
.why td { border-top: 0; padding-top: 0; }
meter { width: 5rem; vertical-align: middle; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
ol { margin: .3rem 0; } li, dd { overflow-wrap: anywhere; }
#live { color: var(--bad); min-height: 1.45rem; } .old { opacity: .6; }
"""
_SCRIPT = """
'use strict';
const live = document.getElementById('live'), button = document.getElementById('pause');
let paused = false;
button.hidden = false;
button.addEventListener('click', () => {
  paused = !paused;
  button.textContent = paused ? 'Go on updating' : 'Stop updating';
  look();
});
function keyed(root, key) { return [...root.querySelectorAll('details')].find(one => one.dataset.key === key); }
async function look() {
  const main = document.querySelector('main');
  const chosen = document.getSelection();
  if (paused || document.hidden || (!chosen.isCollapsed && main.contains(chosen.anchorNode))) return;
  try {
    const answer = await fetch(location.pathname, { cache: 'no-store', signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error();
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const next = page.querySelector('main'), focused = document.activeElement;
    for (const one of main.querySelectorAll('details[open]')) {
      const again = keyed(next, one.dataset.key);
      if (again) again.open = true;
    }
    const details = main.contains(focused) ? focused.closest('details') : null;
    const region = main.contains(focused) && focused.id;
    const scrolled = new Map([...main.querySelectorAll('.scroll')].map(one => [one.id, one.scrollLeft]));
    main.replaceChildren(...next.childNodes);
    document.getElementById('now').replaceWith(page.getElementById('now'));
    for (const [id, left] of scrolled) { const one = document.getElementById(id); if (one) one.scrollLeft = left; }
    const back = details ? keyed(main, details.dataset.key)?.querySelector('summary')
      : region ? document.getElementById(region) : null;
    if (back) back.focus({ preventScroll: true });
    main.classList.remove('old');
    if (live.textContent) live.textContent = '';
  } catch {
    main.classList.add('old');
    if (!live.textContent) live.textContent = 'No answer any more: what is shown is old.';
  }
}
setInterval(look, 2000);
"""
# Written down, because hashing would load OpenSSL on every node; the tests compare.
_STYLE_HASH = "sha256-++iVXoWTEgL9stEtBzzkhUNZk5YBh9Xa1wJYvjkfL6o="
_SCRIPT_HASH = "sha256-qKc5f//vArg/+CxLsSZYSpjGot7lJDWguz/ZbK9YY38="
POLICY = (
    f"default-src 'none'; style-src '{_STYLE_HASH}'; script-src '{_SCRIPT_HASH}'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser lets the page do (Content-Security-Policy)."""


@dataclass(frozen=True, slots=True)
class StatusView:
    """Everything that is shown, at one instant: ``now`` is monotonic, ``unix_seconds`` is for people."""

    fleet: Fleet
    now: float
    unix_seconds: float
    node: str
    source: str
    answers: Sequence[RecentAnswer] = ()
    peers: PeerCounts = field(default_factory=PeerCounts)
    watches: Watches = field(default_factory=dict)


class StatusPage:
    """The page, made when somebody looks.

    Args:
        view: returns what is known now.
        clock: monotonic seconds.
    """

    def __init__(self, view: Callable[[], StatusView], clock: Callable[[], float]) -> None:
        self._view = view
        self._clock = clock
        self._made_at = float("-inf")
        self._text = ""

    def text(self) -> str:
        """Return the document, of this moment or a second ago."""
        now = self._clock()
        if now - self._made_at >= AGAIN_SECONDS:
            self._text, self._made_at = document(self._view()), now
        return self._text


def document(view: StatusView) -> str:
    """Return the page as HTML."""
    parts = (_HEAD, _header(view), "<main id=main tabindex=-1>", *_main(view), "</main>", _FOOT)
    return "\n".join(part for part in parts if part)


_HEAD = f"""<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<noscript><meta http-equiv=refresh content=10></noscript>
<link rel=icon href="data:,">
<title>keda-gpu-scaler</title>
<style>{_STYLE}</style>
</head>
<body>
<a class=skip href="#main">To the content</a>"""
_FOOT = f"""<footer class=faint>
<p>This page only reads. Numbers for Prometheus are at <a href="/metrics">/metrics</a>.</p>
</footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _header(view: StatusView) -> str:
    why = view.fleet.not_ready_reason(view.now)
    state = "<span class=good>ready</span>" if why is None else f"<span class=bad>not ready</span>: {_text(why)}"
    at = datetime.fromtimestamp(view.unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"""<header>
<h1>keda-gpu-scaler on {_text(view.node)}</h1>
<div id=now>
<p>{state}</p>
<p class=faint>version {_text(__version__)}, reading {_text(view.source)}; as of <time>{at}</time></p>
</div>
<p><button id=pause type=button hidden>Stop updating</button></p>
<p id=live role=status></p>
</header>"""


def _main(view: StatusView) -> Iterator[str]:
    yield from _workloads(view)
    yield from _devices(view)
    yield from _unheard(view)
    yield from _engines(view)
    yield from _watches(view)


# ---- what KEDA was told ----


def _workloads(view: StatusView) -> Iterator[str]:
    yield "<section aria-labelledby=workloads>"
    yield "<h2 id=workloads>Workloads</h2>"
    if not view.answers:
        yield "<p>KEDA has asked this instance about nothing in the last ten minutes. Another one may be asked.</p>"
    else:
        # Of too many those first that lack something; then in an order that does not change by itself.
        shown = sorted(view.answers, key=lambda one: one.value is not None and one.is_demand_known is not False)
        shown = sorted(shown[:MAX_WORKLOADS], key=_title)
        heads = ("Workload", "Metric", "Told KEDA", "Target", "Active", "Seen", "Demand", "Answered")
        yield from _opened("workloads", "What KEDA was told last, by trigger, and how that came about", heads)
        for answer in shown:
            yield from _workload(answer, view.now)
        yield "</table></div>"
        yield _left_out(len(view.answers) - len(shown), "triggers")
    yield "</section>"


def _workload(answer: RecentAnswer, now: float) -> Iterator[str]:
    metric = METRICS.get(answer.metric) or ENGINE_METRICS.get(answer.metric)
    unit = f" {metric.unit}" if metric is not None and metric.unit else ""
    told = "<span class=bad>no value</span>" if answer.value is None else f"{_number(answer.value)}{_text(unit)}"
    cells = (
        f"{_text(answer.metric_name)}<br><span class=faint>{_text(answer.metric)}</span>",
        told,
        f"{_number(answer.target)}{_text(unit)}",
        "<span class=good>active</span>" if answer.active else "inactive",
        f"{answer.with_value} of {answer.expected}" if answer.expected else "—",
        _demand(answer),
        _ago(now - answer.at_seconds),
    )
    yield "<tbody>"
    yield f"<tr><th scope=rowgroup>{_text(f'{answer.namespace}/{answer.name}')}</th>{_cells(cells)}</tr>"
    key = _text("/".join(_title(answer)))
    steps = "".join(f"<li>{_text(step)}</li>" for step in answer.steps)
    why = f"<p class=bad>{_text(answer.reason)}</p>" if answer.reason else ""
    summary = f"How it came about ({len(answer.steps)})"
    yield (
        f'<tr class=why><td colspan=8>{why}<details data-key="{key}"><summary>{summary}</summary>'
        f"<ol>{steps}</ol></details></td></tr>"
    )
    yield "</tbody>"


def _demand(answer: RecentAnswer) -> str:
    if answer.is_demand_known is None:
        return "—"
    if not answer.is_demand_known or answer.demand is None:
        return "<span class=bad>unknown</span>"
    return _number(answer.demand)


def _title(answer: RecentAnswer) -> tuple[str, str, str, str]:
    return answer.namespace, answer.name, answer.metric_name, answer.metric


# ---- what is seen of the devices ----


def _devices(view: StatusView) -> Iterator[str]:
    nodes = view.fleet.nodes()
    yield "<section aria-labelledby=fleet>"
    yield "<h2 id=fleet>Fleet</h2>"
    yield f"<p>{_scope(view)}</p>"
    left, left_out = MAX_DEVICES, 0
    if nodes:
        heads = ("Device", "Model", "Utilisation", "Memory", "Temperature", "Power", "Held by")
        yield from _opened("fleet", "The newest readings of every device that is seen here, by node", heads)
        for name, history in nodes:
            samples = history.newest.samples
            if left > 0:
                yield from _node(name, history, samples[:left], view)
            left_out += max(0, len(samples) - max(left, 0))
            left -= len(samples)
        yield "</table></div>"
        yield _left_out(left_out, "devices")
    yield "</section>"


def _scope(view: StatusView) -> str:
    if view.peers.followed:
        silence = view.peers.longest_silence_seconds
        unavailable = f"; the longest silent has told nothing for {_duration(silence)}" if silence else ""
        return f"{view.peers.followed} instances are followed{unavailable}."
    return "Other instances are not followed: there are none, or nobody has asked here about the fleet lately."


def _node(name: str, history: History, samples: Sequence[Sample], view: StatusView) -> Iterator[str]:
    is_seen = view.fleet.is_history_fresh(history, view.now)
    if is_seen:
        state = f"{_text(history.newest.source)}, {_duration(history.age_seconds(view.now))} old"
    else:
        state = f"<span class=bad>unknown</span>: {_text(view.fleet.missing_reason(name, view.now))}"
    yield "<tbody>"
    yield f"<tr><th scope=rowgroup colspan=7>{_text(name)} <span class=faint>{state}</span></th></tr>"
    held = _held(history) if is_seen else None
    for sample in samples:
        yield _device(sample if is_seen else Sample(sample.device), held)
    if not samples:
        yield "<tr><td colspan=7>no device</td></tr>"
    yield "</tbody>"


def _held(history: History) -> Mapping[str, str] | None:
    """Return who holds each device that is held, by UUID; None where nobody can tell."""
    found = attribute(history.newest)
    if found is None:
        return None
    held: dict[str, list[str]] = {}
    for pod, holding in found.items():
        for share in holding.shares:
            held.setdefault(share.device.uuid, []).append(f"{pod.namespace}/{pod.name}")
    return {uuid: ", ".join(sorted(pods)) for uuid, pods in held.items()}


def _device(sample: Sample, held: Mapping[str, str] | None) -> str:
    device = sample.device
    cells = (
        _text(device.model),
        _metered(sample.gpu_utilization_ratio, "utilisation"),
        _memory(sample),
        _known(sample.temperature_celsius, "°C"),
        _known(sample.power_watts, "W"),
        _UNKNOWN if held is None else _text(held.get(device.uuid, "nobody")),
    )
    return f"<tr><th scope=row>{device.index} <span class=faint>{_text(device.uuid)}</span></th>{_cells(cells)}</tr>"


def _memory(sample: Sample) -> str:
    used, total = sample.memory_used_bytes, sample.memory_total_bytes
    if used is None:
        return _UNKNOWN
    if not total:
        return f"{used / _GIB:.1f} GiB"
    return f"{_meter(used / total, 'memory in use')} {used / _GIB:.1f} of {total / _GIB:.1f} GiB"


# ---- who is not heard, and what else is asked ----


def _unheard(view: StatusView) -> Iterator[str]:
    why = dict(view.fleet.nodes_without_snapshot())
    if PEERS_UNKNOWN in view.fleet.unavailable:
        why["discovery"] = view.fleet.unavailable[PEERS_UNKNOWN]
    if why:
        yield "<section aria-labelledby=unheard>"
        yield "<h2 id=unheard>Not heard</h2>"
        yield "<dl>"
        for name, reason in list(why.items())[:MAX_PAGES]:
            yield f"<dt>{_text(name)}</dt><dd>{_text(reason)}</dd>"
        yield "</dl>"
        yield _left_out(len(why) - MAX_PAGES, "instances")
        yield "</section>"


def _engines(view: StatusView) -> Iterator[str]:
    rows = [
        (str(endpoint), page, scraped.failure)
        for endpoint, scraped in view.fleet.scrape_results.items()
        for page in scraped.pages or (None,)
    ]
    if not rows:
        return
    rows.sort(key=lambda row: (row[0], row[1].where if row[1] else ""))
    yield "<section aria-labelledby=engines>"
    yield "<h2 id=engines>Engines and demand</h2>"
    heads = ("Asked", "Address", "Engine", "Running", "Waiting", "KV cache", "Told")
    yield from _opened("engines", "What the pages of metrics told last that triggers ask about", heads)
    yield "<tbody>"
    for title, page, failure in rows[:MAX_PAGES]:
        yield f"<tr><th scope=row>{_text(title)}</th>{_cells(_page(page, failure, view))}</tr>"
    yield "</tbody></table></div>"
    yield _left_out(len(rows) - MAX_PAGES, "pages")
    yield "</section>"


def _page(page: TargetHistory | None, failure: str | None, view: StatusView) -> tuple[str, ...]:
    if page is None:
        return ("—", "—", _UNKNOWN, _UNKNOWN, _UNKNOWN, f"<span class=bad>{_text(failure or 'not asked yet')}</span>")
    newest = page.newest if page.is_fresh(view.now, view.fleet.stale_after_seconds) else None
    told = _ago(view.now - page.readings[-1].at_seconds) if page.readings else "never"
    if page.failure is not None:
        told += f"; <span class=bad>{_text(page.failure)}</span>"
    if newest is None:
        return (_text(page.where), _UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN, told)
    return (
        _text(page.where),
        _text(newest.engine or "none recognised"),
        _known(newest.running),
        _known(newest.waiting),
        _metered(newest.kv_cache_ratio, "KV cache"),
        told,
    )


def _watches(view: StatusView) -> Iterator[str]:
    if not view.watches:
        return
    yield "<section aria-labelledby=watches>"
    yield "<h2 id=watches>API server</h2>"
    yield from _opened("watches", "What is watched for those who ask", ("Resource", "State", "Watches"))
    yield "<tbody>"
    for resource, state, count in sorted((kind, state.value, count) for (kind, state), count in view.watches.items()):
        shown = f"<span class={'good' if state == 'watching' else 'bad'}>{state}</span>"
        yield f"<tr><th scope=row>{_text(resource)}</th>{_cells((shown, str(count)))}</tr>"
    yield "</tbody></table></div>"
    yield "</section>"


# ---- words and numbers ----

_UNKNOWN = "<span class=faint>unknown</span>"
_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


def _text(words: str) -> str:
    """Make anybody's words fit to stand between tags, or in a quoted attribute."""
    kept = words if len(words) <= _LONGEST_TEXT else f"{words[:_LONGEST_TEXT]}…"
    return "".join(letter if letter.isprintable() else "�" for letter in kept).translate(_MARKUP)


def _opened(section: str, caption: str, heads: Iterable[str]) -> Iterator[str]:
    """Open a table that scrolls by itself where it is too wide, with the keyboard too."""
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
    """Tell a time as people do: 0.4 s, 12 s, 3 min."""
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
