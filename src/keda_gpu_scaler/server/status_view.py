# SPDX-License-Identifier: Apache-2.0
"""The data of the status page and of the pages of workloads, and the frame that they share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode

from keda_gpu_scaler import __version__
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.instance_status import PeerCounts, RecentAnswer, RefusedTrigger, Watches
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.server.http import HttpPage
from keda_gpu_scaler.server.status_assets import FOOT, POLICY, head
from keda_gpu_scaler.server.status_text import safe_text
from keda_gpu_scaler.server.workload_history import WorkloadHistories, WorkloadHistory, history_key

_HTML = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class StatusView:
    """The data of the page at one instant. ``now`` is monotonic; ``unix_seconds`` is the time that the page shows.

    ``histories`` has the last hour of each trigger, and ``evaluation_of`` returns the last evaluation of the trigger of
    an answer, None where it is not kept.
    """

    fleet: Fleet
    now: float
    unix_seconds: float
    node: str
    source: str
    answers: Sequence[RecentAnswer] = ()
    peers: PeerCounts = field(default_factory=PeerCounts)
    watches: Watches = field(default_factory=dict)
    refused: Sequence[RefusedTrigger] = ()
    histories: WorkloadHistories = field(default_factory=WorkloadHistories)
    evaluation_of: Callable[[RecentAnswer], Evaluation | None] = lambda answer: None

    def history(self, answer: RecentAnswer) -> WorkloadHistory | None:
        """Return the last hour of the trigger of an answer; None where there is none."""
        return self.histories.of(history_key(answer))


def framed(view: StatusView, title: str, main: Iterable[str], back: str = "") -> str:
    """Return a document.

    Args:
        view: the instance.
        title: its heading, as plain text.
        main: the lines of its content.
        back: the markup of a link to another page; empty for none.
    """
    parts = (head(title), _header(view, title, back), "<main id=main tabindex=-1>", *main, "</main>", FOOT)
    return "\n".join(part for part in parts if part)


def html_page(text: str, policy: str = POLICY, status: int = 200) -> HttpPage:
    """Return the page with an HTML document and its content security policy."""
    headers = (
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    )
    return HttpPage(text, status, _HTML, headers)


def workload_address(namespace: str, name: str, metric_name: str | None = None) -> str:
    """Return the address of the page of a trigger, or of all triggers of an object, safe in a quoted attribute."""
    names = {"namespace": namespace, "name": name} | ({} if metric_name is None else {"metric": metric_name})
    return safe_text(f"/workload?{urlencode(names, errors='replace')}")


def _header(view: StatusView, title: str, back: str) -> str:
    reason = view.fleet.not_ready_reason(view.now)
    state = "<span class=good>ready</span>"
    if reason is not None:
        state = f"<span class=bad>not ready</span>: {safe_text(reason)}"
    at = datetime.fromtimestamp(view.unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    on = f", on {safe_text(view.node)}" if back else ""
    return f"""<header>
{f"<nav>{back}</nav>" if back else ""}
<h1>{safe_text(title)}</h1>
<div id=now>
<p>{state}</p>
<p class=faint>version {safe_text(__version__)}{on}, devices from {safe_text(view.source)}, at <time>{at}</time></p>
</div>
<p><button id=pause type=button hidden>Pause updates</button></p>
<p id=live role=status></p>
</header>"""
