# SPDX-License-Identifier: Apache-2.0
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
from keda_gpu_scaler.core.counters import PeerCounts, RecentAnswer, WatchState
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.types import EngineSample, PodRef, Sample
from keda_gpu_scaler.server import status_page as status
from keda_gpu_scaler.server.status_page import (
    AGAIN_SECONDS,
    MAX_DEVICES,
    MAX_PAGES,
    MAX_WORKLOADS,
    StatusPage,
    StatusView,
    document,
)
from tests.fakes import ManualClock, blind, device, node_history, sample

GOLDEN = Path(__file__).parents[1] / "golden" / "status.html"
NOW = 1000.0
STEPS = ("scope workload: Deployment llama", "pod llama-0: 92 % on gpu-1", "active: 92 is above 5")
VOID = {"meta", "link", "br"}
HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'&\u202e\x00"


def answer(name: str = "llama", value: float | None = 276.0, **changes: object) -> RecentAnswer:
    base = RecentAnswer("ai", name, "keda_gpu_metric", "gpu_utilization", 80.0, value, True, 3, 4, steps=STEPS)
    return replace(base, at_seconds=NOW - 3, **changes)  # type: ignore[arg-type]


def view(**changes: object) -> StatusView:
    """An instance that is asked about three workloads, and follows others of which some are silent."""
    odd = sample(2, 0.125, device=device(2, model="H<100>"), power_watts=None, memory_used_bytes=None)
    fleet = Fleet(
        node_history("gpu-1", sample(0, 0.92), blind(1), odd, held={"GPU-0000": "llama-0"}),
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
                (TargetHistory("http://10.1.2.4:8000/metrics", (EngineSample(NOW - 60, "vllm", 99.0),), "it refuses"),)
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
            answer(),
            answer("chat", 0.0, demand=12.0, is_demand_known=True),
            answer("code", 12.5, demand=None, is_demand_known=False, active=False),
            answer("asleep", None, with_value=0, expected=0, reason="no fresh sample for 2 of 2 pods", steps=()),
        ),
        peers=PeerCounts(3, 45.0),
        watches={("pods", WatchState.WATCHING): 2, ("scaledobjects.keda.sh", WatchState.UNKNOWN): 1},
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class Outline(HTMLParser):
    """Reads a document strictly: every element closed in order, every attribute and every word kept."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
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
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def row(text: str, head: str) -> str:
    """The words of the table row that begins with this head."""
    found = re.search(rf"<tr><th [^>]*>{re.escape(head)}.*?</tr>", text)
    assert found is not None, f"no row {head}"
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split())


def test_the_page_is_as_it_was_agreed() -> None:
    assert document(view()).replace(__version__, "VERSION") == GOLDEN.read_text()


@pytest.mark.parametrize(
    ("kind", "text", "hashed"),
    [
        pytest.param("style", status._STYLE, status._STYLE_HASH, id="its style"),
        pytest.param("script", status._SCRIPT, status._SCRIPT_HASH, id="its script"),
    ],
)
def test_the_policy_allows_what_is_on_the_page_and_nothing_else(kind: str, text: str, hashed: str) -> None:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert hashed == f"sha256-{digest}"
    assert f"{kind}-src '{hashed}'" in status.POLICY
    assert document(view()).count(f"<{kind}>{text}</{kind}>") == 1
    assert "unsafe" not in status.POLICY


def test_nothing_is_loaded_from_anywhere() -> None:
    elements = Outline(document(view())).elements
    links = {str(attributes[name]) for _, attributes in elements for name in ("href", "src") if name in attributes}
    assert links == {"data:,", "#main", "/metrics"}
    assert not [attributes for _, attributes in elements if any(name.startswith("on") for name in attributes)]
    assert not [attributes for _, attributes in elements if "style" in attributes]


# ---- strangers' words ----


def hostile() -> StatusView:
    """Whatever comes from outside is an attack."""
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
    told = RecentAnswer(
        HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1.0, None, False, 0, 1, None, False, HOSTILE, HOSTILE, (HOSTILE,)
    )  # fmt: skip
    return StatusView(
        fleet, NOW, 0.0, HOSTILE, HOSTILE, (told,), PeerCounts(1, 1.0), {(HOSTILE, WatchState.PENDING): 1}
    )


def test_a_hostile_word_stays_a_word_wherever_it_comes_from() -> None:
    text = document(hostile())
    outline = Outline(text)
    allowed = {tag for tag, _ in Outline(document(view())).elements}
    assert {tag for tag, _ in outline.elements} <= allowed
    assert sum(tag == "script" for tag, _ in outline.elements) == 1
    assert "\u202e" not in text
    assert "\x00" not in text
    assert outline.text.count("<script>window.hacked=1</script>") >= 15


@given(st.text())
def test_any_word_is_read_back_as_it_was_apart_from_what_cannot_be_shown(word: str) -> None:
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in word)
    text = document(view(answers=(answer(reason=word + "."),)))
    assert f"{shown}." in "".join(Outline(text).words)


def test_a_very_long_word_is_cut() -> None:
    assert len(document(view(answers=(answer(reason="x" * 1_000_000),)))) < 50_000


# ---- the known and the unknown ----


@pytest.mark.parametrize(
    ("head", "words"),
    [
        pytest.param("0 <span class=faint>GPU-0000", "92 % 40.0 of 80.0 GiB 55 °C 350 W ai/llama-0", id="all is known"),
        pytest.param("1 <span class=faint>GPU-0001", "unknown unknown unknown unknown nobody", id="a lost card"),
        pytest.param("2 <span class=faint>GPU-0002", "12.5 % unknown 55 °C unknown nobody", id="some readings only"),
        pytest.param("gpu-3 <span class=faint>", "gpu-3 fake, 4.5 s old", id="another node"),
        pytest.param("gpu-4 <span class=faint>", "last answered 45 s ago (limit 10 s): nothing", id="a silent node"),
        pytest.param("ai/llama", "keda_gpu_metric gpu_utilization 276 % 80 % active 3 of 4 — 3.0 s ago", id="a value"),
        pytest.param("ai/asleep", "no value 80 % active — — 3.0 s ago", id="no value"),
        pytest.param("ai/code", "12.5 % 80 % inactive 3 of 4 unknown", id="unknown demand"),
        pytest.param("ai/chat", "0 % 80 % active 3 of 4 12 3.0 s ago", id="known demand"),
        pytest.param("pod ai/llama-0", "http://10.1.2.3:8000/metrics vllm 30 12 61 % 1.0 s ago", id="an engine"),
        pytest.param("pod ai/llama-1", "unknown unknown unknown unknown 60 s ago; it refuses", id="an old page"),
        pytest.param("http://router/metrics", "its name does not resolve", id="no page at all"),
        pytest.param("pods", "watching 2", id="a watch"),
    ],
)
def test_a_row_says(head: str, words: str) -> None:
    assert words in row(document(view()), head)


def test_law_1_a_stale_reading_is_not_shown() -> None:
    text = document(view())
    assert "77 %" not in text
    assert "50 %" in text
    assert ">99<" not in text


def test_law_1_who_holds_a_device_is_unknown_while_nobody_can_tell() -> None:
    fleet = Fleet(node_history("gpu-1", sample(0, 0.92)), 10.0)
    assert row(document(view(fleet=fleet)), "0 <span class=faint>GPU-0000").endswith("350 W unknown")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"answers": ()}, "KEDA has asked this instance about nothing in the last ten", id="nobody asked"),
        pytest.param({"peers": PeerCounts()}, "Other instances are not followed", id="nobody is followed"),
        pytest.param({"peers": PeerCounts(3)}, "3 instances are followed. ", id="all are heard"),
        pytest.param({}, "3 instances are followed; the longest silent has told nothing for 45 s.", id="one is silent"),
        pytest.param({}, 'gpu-7 UNAVAILABLE: "refused"', id="one never told anything"),
        pytest.param(
            {"fleet": Fleet(None, 10.0, failure="no driver")}, "not ready : no sample yet: no", id="no driver"
        ),
        pytest.param({"fleet": Fleet(node_history("gpu-1"), 10.0)}, "no device", id="a node without devices"),
        pytest.param({}, "no fresh sample for 2 of 2 pods", id="why there is no value"),
        pytest.param({}, "How it came about (3) scope workload: Deployment llama", id="the steps"),
        pytest.param(
            {"fleet": Fleet(None, 10.0, deviceless=True, unavailable={PEERS_UNKNOWN: "forbidden"})},
            "discovery forbidden",
            id="nobody knows who is there",
        ),
        pytest.param({"now": NOW + 600}, "10 min ago", id="minutes"),
    ],
)
def test_it_says(changes: dict[str, object], words: str) -> None:
    assert words in Outline(document(view(**changes))).text


def test_an_empty_instance_has_a_page_too() -> None:
    text = Outline(document(StatusView(Fleet(None, 10.0, deviceless=True), NOW, 0.0, "front", "none"))).text
    assert "ready" in text
    assert "Engines" not in text
    assert "API server" not in text


# ---- how much, how often ----


def test_of_very_much_a_part_is_shown_and_the_rest_is_counted() -> None:
    many = {f"n{number:04}": node_history(f"n{number:04}", *(sample(one) for one in range(8))) for number in range(99)}
    pages = {Endpoint(url=f"http://{one}/"): ScrapeResult() for one in range(MAX_PAGES + 7)}
    fleet = Fleet(
        None, 10.0, peers=many, scrape_results=pages, unavailable={f"x{one}": "mute" for one in range(MAX_PAGES + 3)}
    )
    answers = tuple(answer(f"w{number:04}") for number in range(MAX_WORKLOADS + 5))
    lacking = answer("zzz", None)
    text = document(view(fleet=fleet, answers=(*answers, lacking)))
    assert f"{99 * 8 - MAX_DEVICES} more devices are not shown." in text
    assert "6 more triggers are not shown." in text
    assert "7 more pages are not shown." in text
    assert "3 more instances are not shown." in text
    assert text.count("GPU-000") == MAX_DEVICES
    assert row(text, "ai/zzz")  # what lacks something is among those that are shown


def test_workloads_stay_where_they_are_whoever_is_asked_about_last() -> None:
    known = view()
    assert document(known) == document(replace(known, answers=tuple(reversed(known.answers))))


def test_the_page_is_made_once_a_second_however_many_look() -> None:
    clock, made = ManualClock(), list[float]()

    def now() -> StatusView:
        made.append(clock.now)
        return view()

    page = StatusPage(now, clock)
    for _ in range(10):
        page.text()
    assert len(made) == 1
    clock.advance(AGAIN_SECONDS)
    page.text()
    assert len(made) == 2


@given(st.floats(0, 1), st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_a_meter_stays_within_its_bounds(utilization: float, used: int, total: int) -> None:
    one = Sample(device(), utilization, memory_used_bytes=used, memory_total_bytes=total)
    for value in re.findall(
        r"<meter min=0 max=1 value=([\d.]+)", document(view(fleet=Fleet(node_history("g", one), 9)))
    ):
        assert 0 <= float(value) <= 1


# ---- for everybody ----


def colours(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", status._STYLE, re.DOTALL)
    return dict(re.findall(r"--(\w+): (#\w{6})", light if scheme == "light" else dark))


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ink", ["ink", "faint", "good", "bad", "link"])
def test_every_ink_can_be_read_on_the_paper(scheme: str, ink: str) -> None:
    shades = colours(scheme)
    darker, lighter = sorted((luminance(shades[ink]), luminance(shades["paper"])))
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5  # WCAG 2.2, 1.4.3


def test_every_table_has_a_caption_and_heads_and_every_section_a_name() -> None:
    elements = Outline(document(view())).elements
    tags = [tag for tag, _ in elements]
    assert tags.count("table") == tags.count("caption") == tags.count("thead") == 4
    assert all("scope" in attributes for tag, attributes in elements if tag == "th")
    ids = [str(attributes["id"]) for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(it["aria-labelledby"]) for tag, it in elements if tag == "section"} <= set(ids)
    assert all("aria-label" in attributes for tag, attributes in elements if tag == "meter")


def test_without_a_script_it_comes_anew_by_itself() -> None:
    assert "<noscript><meta http-equiv=refresh content=10></noscript>" in document(view())


def texts() -> Iterator[str]:
    yield from (document(view()), document(hostile()), document(StatusView(Fleet(None, 1.0), NOW, 0.0, "n", "s")))


def test_every_document_is_well_formed() -> None:
    for text in texts():
        Outline(text)
