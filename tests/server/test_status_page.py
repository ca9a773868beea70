# SPDX-License-Identifier: Apache-2.0
"""Tests of the status page: its golden file, untrusted text, unknown values and limits."""

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler import __version__
from keda_gpu_scaler.core.comparison import Comparison, ReplicaLimit
from keda_gpu_scaler.core.instance_status import PeerCounts, RecentAnswer, RefusedTrigger, WatchState
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.types import EngineSample, PodRef, Sample
from keda_gpu_scaler.server import status_assets
from keda_gpu_scaler.server.status_page import (
    MAX_DEVICES,
    MAX_ROWS,
    REFRESH_SECONDS,
    StatusPage,
    document,
)
from keda_gpu_scaler.server.status_view import StatusView
from keda_gpu_scaler.server.status_workloads import MAX_REFUSED, MAX_WORKLOADS
from tests.fakes import ManualClock, device, node_history, sample, sample_without_readings
from tests.server.last_hour import last_hour

GOLDEN = Path(__file__).parents[1] / "golden" / "status.html"
NOW = 1000.0
TYPO = 'metadata.targetValu: Forbidden: it is not a key of this scaler, but almost "targetValue"'
STEPS = ("scope workload: Deployment llama", "pod llama-0: 92 % on gpu-1", "active: 92 is above 5")
VOID = {"meta", "link", "br"}
HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'&\u202e\x00"
REFUSED = (RefusedTrigger("ai", "typo", (TYPO,), NOW - 75),)


COMPARED = Comparison(92.04, 276.1, 276.0, "total", "", 3, 4, activity="92 is above activationThreshold 10")
ADJUSTED = Comparison(4.17, 8.34, 12.5, "average", "<1> pod is starting", 2, 1, ReplicaLimit.MIN, "no request")


def answer(name: str = "llama", value: float | None = 276.0, **changes: object) -> RecentAnswer:
    base = RecentAnswer("ai", name, "keda_gpu_metric", "gpu_utilization", 80.0, value, True, 3, 4, steps=STEPS)
    return replace(base, at_seconds=NOW - 3, **changes)  # type: ignore[arg-type]


def view(**changes: object) -> StatusView:
    """An instance with four workloads that follows other instances, some of them unavailable."""
    partial = sample(2, 0.125, device=device(2, model="H<100>"), power_watts=None, memory_used_bytes=None)
    fleet = Fleet(
        node_history("gpu-1", sample(0, 0.92), sample_without_readings(1), partial, held={"GPU-0000": "llama-0"}),
        stale_after_seconds=10.0,
        own_node="gpu-1",
        peers={
            "gpu-3": node_history("gpu-3", sample(0, 0.5), at=NOW - 4.5),
            "gpu-4": node_history("gpu-4", sample(0, 0.77), at=NOW - 45),
        },
        unavailable={"gpu-4": "nothing came for 6 s", "gpu-7": 'UNAVAILABLE: "refused"'},
        scrape_results={
            Endpoint(pod=PodRef("ai", "llama-0")): ScrapeResult(
                (
                    TargetHistory(
                        "http://10.1.2.3:8000/metrics",
                        (EngineSample(NOW - 1, "vllm", 12.0, 30.0, kv_cache_ratio=0.61),),
                    ),
                )
            ),
            Endpoint(pod=PodRef("ai", "llama-1")): ScrapeResult(
                (
                    TargetHistory(
                        "http://10.1.2.4:8000/metrics", (EngineSample(NOW - 60, "vllm", 99.0),), "connection refused"
                    ),
                )
            ),
            Endpoint(url="http://router/metrics"): ScrapeResult((), "its name does not resolve"),
        },
    )
    base = StatusView(
        fleet=fleet,
        now=NOW,
        unix_seconds=1.7e9,
        node="gpu-1",
        source="fake",
        answers=(
            answer(comparison=COMPARED),
            answer("chat", 0.0, demand=12.0, is_demand_known=True),
            answer("code", 12.5, demand=None, is_demand_known=False, active=False, comparison=ADJUSTED),
            answer("standby", None, with_value=0, expected=0, reason="no fresh sample for 2 of 2 pods", steps=()),
        ),
        peers=PeerCounts(3, 45.0),
        watches={("pods", WatchState.WATCHING): 2, ("scaledobjects.keda.sh", WatchState.UNKNOWN): 1},
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class Outline(HTMLParser):
    """A strict HTML parser: every element must be closed in order. Keeps all attributes and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def row(text: str, head: str) -> str:
    """Return the text of the table row whose first cell begins with ``head``."""
    found = re.search(rf"<tr><th [^>]*>(<a [^>]*>)?{re.escape(head)}.*?</tr>", text)
    assert found is not None, f"no row {head}"
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split())


def test_the_page_equals_the_golden_file() -> None:
    assert (
        document(view(refused=REFUSED, histories=last_hour(NOW))).replace(__version__, "VERSION") == GOLDEN.read_text()
    )


@pytest.mark.parametrize(
    ("kind", "text", "hashed"),
    [
        pytest.param("style", status_assets.STYLE, status_assets.STYLE_HASH, id="the style sheet"),
        pytest.param("script", status_assets.SCRIPT, status_assets.SCRIPT_HASH, id="the script"),
    ],
)
def test_the_policy_permits_only_the_style_and_the_script_of_the_page(kind: str, text: str, hashed: str) -> None:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert hashed == f"sha256-{digest}"
    assert f"{kind}-src '{hashed}'" in status_assets.POLICY
    assert document(view()).count(f"<{kind}>{text}</{kind}>") == 1
    assert "unsafe" not in status_assets.POLICY


def test_the_page_loads_nothing_else() -> None:
    elements = Outline(document(view())).elements
    links = {str(attributes[name]) for _, attributes in elements for name in ("href", "src") if name in attributes}
    local = {link for link in links if link.startswith("/workload?namespace=ai&name=")}
    pages = ("guides/watching.md#the-status-page", "operating.md", "guides/simulating.md")
    guides = {f"{status_assets.DOCUMENTS}/{page}" for page in pages}
    assert links - local - guides == {"data:,", "#main", "/metrics"}
    assert guides <= links
    assert len(local) == 4
    assert not [attributes for _, attributes in elements if any(name.startswith("on") for name in attributes)]
    assert not [attributes for _, attributes in elements if "style" in attributes]


# ---- untrusted text ----


def hostile() -> StatusView:
    """A view in which every text from outside is an attack."""
    own = node_history(HOSTILE, sample(device=device(uuid=HOSTILE, model=HOSTILE)), held={HOSTILE: HOSTILE})
    other = node_history(HOSTILE + "2", sample(), at=NOW - 99)
    fleet = Fleet(
        own, 10.0, failure=HOSTILE, peers={HOSTILE + "2": other},
        unavailable={HOSTILE + "2": HOSTILE, HOSTILE + "3": HOSTILE, PEERS_UNKNOWN: HOSTILE},
        scrape_results={
            Endpoint(url=HOSTILE): ScrapeResult((TargetHistory(HOSTILE, (EngineSample(NOW, HOSTILE),), HOSTILE),)),
            Endpoint(url=HOSTILE + "2"): ScrapeResult((), HOSTILE),
        },
    )  # fmt: skip
    hostile_answer = RecentAnswer(
        HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1.0, None, False, 0, 1, None, False, HOSTILE, HOSTILE, (HOSTILE,)
    )  # fmt: skip
    return StatusView(
        fleet, NOW, 0.0, HOSTILE, HOSTILE, (hostile_answer,), PeerCounts(1, 1.0), {(HOSTILE, WatchState.PENDING): 1}
    )


def test_hostile_text_stays_text_in_every_place() -> None:
    text = document(hostile())
    outline = Outline(text)
    allowed = {tag for tag, _ in Outline(document(view())).elements}
    assert {tag for tag, _ in outline.elements} <= allowed
    assert sum(tag == "script" for tag, _ in outline.elements) == 1
    assert "\u202e" not in text
    assert "\x00" not in text
    assert outline.text.count("<script>window.hacked=1</script>") >= 15


@given(st.text())
def test_any_text_is_shown_unchanged_except_for_unprintable_characters(untrusted: str) -> None:
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in untrusted)
    text = document(view(answers=(answer(reason=untrusted + "."),)))
    assert f"{shown}." in "".join(Outline(text).texts)


def test_a_very_long_text_is_cut() -> None:
    assert len(document(view(answers=(answer(reason="x" * 1_000_000),)))) < 50_000


# ---- known and unknown values ----


@pytest.mark.parametrize(
    ("head", "words"),
    [
        pytest.param(
            "0 <span class=faint>GPU-0000", "92 % 40.0 of 80.0 GiB 55 °C 350 W ai/llama-0", id="all readings known"
        ),
        pytest.param(
            "1 <span class=faint>GPU-0001", "unknown unknown unknown unknown no pod", id="a device without readings"
        ),
        pytest.param("2 <span class=faint>GPU-0002", "12.5 % unknown 55 °C unknown no pod", id="some readings known"),
        pytest.param("gpu-3 <span class=faint>", "gpu-3 fake, 4.5 s old", id="another node"),
        pytest.param(
            "gpu-4 <span class=faint>", "last answered 45 s ago (limit 10 s): nothing", id="an unavailable node"
        ),
        pytest.param("ai/llama", "gpu_utilization 92 % 80 % 276 % total 3 → 4 active 3 of 4 — 3.0 s ago", id="a value"),
        pytest.param("ai/standby", "80 % no value unknown active — — 3.0 s ago", id="no value"),
        pytest.param("ai/code", "limit: min inactive 3 of 4 unknown", id="unknown demand"),
        pytest.param("ai/chat", "unknown 80 % 0 % unknown active 3 of 4 12 3.0 s ago", id="known demand"),
        pytest.param("pod ai/llama-0", "http://10.1.2.3:8000/metrics vllm 30 12 61 % 1.0 s ago", id="an engine"),
        pytest.param(
            "pod ai/llama-1", "unknown unknown unknown unknown 60 s ago; connection refused", id="a stale target"
        ),
        pytest.param("http://router/metrics", "its name does not resolve", id="an endpoint without targets"),
        pytest.param("pods", "watching 2", id="a watch"),
    ],
)
def test_a_table_row_shows(head: str, words: str) -> None:
    assert words in row(document(view()), head)


def test_law_1_a_stale_reading_is_not_shown() -> None:
    text = document(view())
    assert "77 %" not in text
    assert "50 %" in text
    assert ">99<" not in text


def test_law_1_without_allocations_the_pods_of_a_device_are_unknown() -> None:
    fleet = Fleet(node_history("gpu-1", sample(0, 0.92)), 10.0)
    assert row(document(view(fleet=fleet)), "0 <span class=faint>GPU-0000").endswith("350 W unknown")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"answers": ()}, "This instance got no request from KEDA in the last ten minutes.", id="no request"
        ),
        pytest.param({"peers": PeerCounts()}, "This instance follows no other instance", id="no peer followed"),
        pytest.param({"peers": PeerCounts(3)}, "This instance follows 3 instances. ", id="every peer available"),
        pytest.param(
            {},
            "This instance follows 3 instances; one of them has sent no snapshot for 45 s.",
            id="one peer unavailable",
        ),
        pytest.param({}, 'gpu-7 UNAVAILABLE: "refused"', id="a peer without any snapshot"),
        pytest.param(
            {"fleet": Fleet(None, 10.0, failure="no driver")}, "not ready : no sample yet: no", id="no driver"
        ),
        pytest.param({"fleet": Fleet(node_history("gpu-1"), 10.0)}, "no device", id="a node without devices"),
        pytest.param({}, "no fresh sample for 2 of 2 pods", id="the reason for no value"),
        pytest.param({}, "Steps (3) scope workload: Deployment llama", id="the steps"),
        pytest.param(
            {"fleet": Fleet(None, 10.0, deviceless=True, unavailable={PEERS_UNKNOWN: "forbidden"})},
            "discovery forbidden",
            id="discovery fails",
        ),
        pytest.param({"now": NOW + 600}, "10 min ago", id="minutes"),
    ],
)
def test_the_page_shows(changes: dict[str, object], words: str) -> None:
    assert words in Outline(document(view(**changes))).text


def test_an_instance_without_data_has_a_page() -> None:
    text = Outline(document(StatusView(Fleet(None, 10.0, deviceless=True), NOW, 0.0, "front", "none"))).text
    assert "ready" in text
    assert "Engines" not in text
    assert "API server" not in text


# ---- limits and rendering ----


def test_above_the_limits_a_part_is_shown_and_the_rest_is_counted() -> None:
    many = {f"n{number:04}": node_history(f"n{number:04}", *(sample(one) for one in range(8))) for number in range(99)}
    results = {Endpoint(url=f"http://{one}/"): ScrapeResult() for one in range(MAX_ROWS + 7)}
    fleet = Fleet(
        None,
        10.0,
        peers=many,
        scrape_results=results,
        unavailable={f"x{one}": "unavailable" for one in range(MAX_ROWS + 3)},
    )
    answers = tuple(answer(f"w{number:04}") for number in range(MAX_WORKLOADS + 5))
    without_value = answer("zzz", None)
    text = document(view(fleet=fleet, answers=(*answers, without_value)))
    assert f"{99 * 8 - MAX_DEVICES} more devices are not shown." in text
    assert "6 more triggers are not shown." in text
    assert "7 more targets are not shown." in text
    assert "3 more instances are not shown." in text
    assert text.count("GPU-000") == MAX_DEVICES
    assert row(text, "ai/zzz")  # an answer without a value comes before the others


def test_the_order_of_the_workloads_does_not_depend_on_the_order_of_the_answers() -> None:
    known = view()
    assert document(known) == document(replace(known, answers=tuple(reversed(known.answers))))


def test_the_page_is_rendered_at_most_once_a_second() -> None:
    clock, rendered = ManualClock(), list[float]()

    def now() -> StatusView:
        rendered.append(clock.now)
        return view()

    page = StatusPage(now, clock)
    for _ in range(10):
        page.page()
    assert len(rendered) == 1
    clock.advance(REFRESH_SECONDS)
    page.page()
    assert len(rendered) == 2


@given(st.floats(0, 1), st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_a_meter_stays_within_its_bounds(utilization: float, used: int, total: int) -> None:
    one = Sample(device(), utilization, memory_used_bytes=used, memory_total_bytes=total)
    for value in re.findall(
        r"<meter min=0 max=1 value=([\d.]+)", document(view(fleet=Fleet(node_history("g", one), 9)))
    ):
        assert 0 <= float(value) <= 1


# ---- accessibility ----


def colours(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", status_assets.STYLE, re.DOTALL)
    return dict(re.findall(r"--(\w+): (#\w{6})", light if scheme == "light" else dark))


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "ground"),
    [
        *((ink, "paper") for ink in ("ink", "faint", "good", "bad", "link")),
        *((line, band) for line in ("ink", "faint", "link") for band in ("band", "idle")),
    ],
)
def test_every_text_colour_and_every_line_has_enough_contrast(scheme: str, ink: str, ground: str) -> None:
    shades = colours(scheme)
    darker, lighter = sorted((luminance(shades[ink]), luminance(shades[ground])))
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5  # WCAG 2.2, 1.4.3


def test_every_table_has_a_caption_and_headers_and_every_section_a_name() -> None:
    elements = Outline(document(view())).elements
    tags = [tag for tag, _ in elements]
    assert tags.count("table") == tags.count("caption") == tags.count("thead") == 4
    assert all("scope" in attributes for tag, attributes in elements if tag == "th")
    ids = [str(attributes["id"]) for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(attributes["aria-labelledby"]) for tag, attributes in elements if tag == "section"} <= set(ids)
    assert all("aria-label" in attributes for tag, attributes in elements if tag == "meter")


def test_without_scripts_the_page_reloads_automatically() -> None:
    assert "<noscript><meta http-equiv=refresh content=10></noscript>" in document(view())


def documents() -> Iterator[str]:
    yield from (document(view()), document(hostile()), document(StatusView(Fleet(None, 1.0), NOW, 0.0, "n", "s")))


def test_every_document_is_well_formed() -> None:
    for text in documents():
        Outline(text)


def test_a_refused_trigger_is_the_first_row_with_its_sentence() -> None:
    text = document(view(refused=REFUSED))
    first = text[text.index("<tbody") : text.index("</tbody>") + len("</tbody>")]
    assert first.startswith("<tbody class=refused>")
    assert Outline(first).text == f"ai/typo refused for 75 s KEDA gets no value and no target: {TYPO}"
    assert "class=refused" not in document(view())


def test_workloads_with_unknown_data_come_before_the_others() -> None:
    answers = (answer("a"), answer("z", None), answer("y", demand=None, is_demand_known=False), answer("b"))
    names = re.findall(r"<th scope=rowgroup><a [^>]*>ai/(\w+)</a>", document(view(answers=answers)))
    assert names == ["y", "z", "a", "b"]


def test_refused_triggers_are_shown_without_an_answer_and_their_text_is_no_markup() -> None:
    refused = tuple(RefusedTrigger("ai", f"t{number}", ("<b>&",)) for number in range(MAX_REFUSED + 3))
    text = document(view(answers=(), refused=refused))
    assert text.count("<tbody class=refused>") == MAX_REFUSED
    assert "3 more triggers are not shown" in text
    assert "&lt;b&gt;&amp;" in text


def test_measured_and_reported_are_two_columns_with_the_sizes_and_the_reasons() -> None:
    text = document(view())
    assert row(text, "ai/llama") == (
        "ai/llama — keda_gpu_metric gpu_utilization 92 % 80 % 276 % total 3 → 4 active 3 of 4 — 3.0 s ago"
    )
    assert row(text, "ai/code") == (
        "ai/code — keda_gpu_metric gpu_utilization 4.17 % 80 % 12.5 % average adjusted, instead of 8.34 2 → 1 "
        "limit: min inactive 3 of 4 unknown 3.0 s ago"
    )
    assert "<p>adjusted: &lt;1&gt; pod is starting</p><p class=faint>inactive: no request</p>" in text
    assert "<p class=faint>active: 92 is above activationThreshold 10</p>" in text
