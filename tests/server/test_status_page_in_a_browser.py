# SPDX-License-Identifier: Apache-2.0
"""Tests of the status page in a browser: updates, dark mode, keyboard, no scripts, hostile text."""

import asyncio
import itertools
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from keda_gpu_scaler.server.http import HttpServer
from keda_gpu_scaler.server.metrics import metrics_page
from keda_gpu_scaler.server.status_page import StatusPage
from keda_gpu_scaler.server.status_view import StatusView
from tests.browser import Browser
from tests.server.test_status_page import answer, hostile, view


class Site:
    """Serves the page of the view that a test sets."""

    def __init__(self) -> None:
        self.view: StatusView = view()
        status = StatusPage(lambda: self.view, itertools.count().__next__)  # a second passes before every request
        pages = {"/": status.page, "/metrics": lambda: metrics_page("")}
        self._server = HttpServer(pages, {"/workload": status.workload_page})
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._server.start("127.0.0.1", 0), self._loop).result(20)
        self.url = f"http://127.0.0.1:{port}/"
        return self

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result(20)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as serving:
        yield serving


def text(browser: Browser, selector: str = "body") -> str:
    return " ".join(str(browser.run(f"document.querySelector({selector!r}).innerText")).split())


def test_the_browser_shows_the_page_without_errors(browser: Browser, site: Site, tmp_path: Path) -> None:
    browser.open(site.url)
    browser.run("refresh()")
    assert "keda-gpu-scaler on gpu-1" in text(browser, "h1")
    assert browser.errors == []
    # The colours come from the style sheet, so the policy permits it.
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.screenshot(tmp_path / "status.png")
    assert len(set(pixels(tmp_path / "status.png"))) > 10, "the picture is blank"


def pixels(path: Path) -> Iterator[bytes]:
    """Return some bytes of a picture, enough to distinguish it from an empty one."""
    content, at, data = path.read_bytes(), 8, b""
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        if content[at + 4 : at + 8] == b"IDAT":
            data += content[at + 8 : at + 8 + length]
        at += length + 12
    raw = zlib.decompress(data)
    yield from (raw[start : start + 4] for start in range(0, len(raw), 97))


def test_a_screen_reader_finds_headings_tables_and_names(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    tree = browser.tree()
    assert [name for role, name in tree if role == "heading"] == [
        "keda-gpu-scaler on gpu-1", "Workloads", "Fleet", "Unavailable instances", "Engines and demand", "API server",
    ]  # fmt: skip
    roles = [role for role, _ in tree]
    assert {"banner", "main", "contentinfo", "status"} <= set(roles)
    assert [name for role, name in tree if role == "table"] == [
        "Last answer to KEDA for each trigger: what was measured, what is reported, and its steps",
        "Newest readings of every device, by node",
        "Last sample of every target of the endpoints that triggers use",
        "Watches on the API server, by resource and state",
    ]
    assert {name for role, name in tree if role == "rowheader"} >= {"ai/llama", "0 GPU-0000", "pods"}
    assert {name for role, name in tree if role == "columnheader"} >= {
        "Measured per replica",
        "Utilisation",
        "Assigned to",
    }
    assert ("meter", "utilisation") in tree
    assert ("button", "Pause updates") in tree
    assert all(name for role, name in tree if role in ("link", "button", "table", "region", "meter", "heading"))


def test_an_update_keeps_open_steps_and_the_focus(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    browser.run("document.querySelector('[data-key=\"ai/llama/keda_gpu_metric/gpu_utilization\"]').open = true")
    browser.run("document.querySelector('details[open] summary').focus()")
    site.view = view(answers=(answer("another"), answer("llama", 123.0)))
    browser.run("refresh()")
    assert "123 %" in text(browser, "main")
    assert "ai/another" in text(browser, "main")
    assert browser.run("[...document.querySelectorAll('details[open]')].map(details => details.dataset.key)") == [
        "ai/llama/keda_gpu_metric/gpu_utilization"
    ]
    assert browser.run("document.activeElement.tagName + document.activeElement.parentElement.open") == "SUMMARYtrue"
    assert "scope workload: Deployment llama" in text(browser, "details[open]")


def test_an_update_keeps_the_scroll_position_and_the_focus_of_a_table(browser: Browser, site: Site) -> None:
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=1, mobile=False
    )  # the size of a telephone
    browser.open(site.url)
    browser.run("const table = document.getElementById('engines-table'); table.focus(); table.scrollLeft = 40")
    browser.run("refresh()")
    assert browser.run("document.activeElement.id + document.activeElement.scrollLeft") == "engines-table40"
    assert browser.run("document.documentElement.scrollWidth <= innerWidth") is True


def test_an_update_waits_while_text_is_selected(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    browser.run("getSelection().selectAllChildren(document.querySelector('main td'))")
    site.view = view(answers=())
    browser.run("refresh()")
    assert "ai/llama" in text(browser, "main")


def test_updates_can_be_paused_and_resumed(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    browser.run("document.getElementById('pause').click()")
    site.view = view(answers=(answer(value=123.0),))
    browser.run("refresh()")
    assert "123 %" not in text(browser, "main")
    assert text(browser, "#pause") == "Resume updates"
    browser.run("document.getElementById('pause').click(); refresh()")
    assert "123 %" in text(browser, "main")


def test_the_page_says_that_the_instance_does_not_answer(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    site.stop()
    browser.run("refresh()")
    assert text(browser, "#live") == "This instance does not answer. The data on this page is out of date."
    assert browser.run("document.querySelector('main').className") == "stale"
    assert "ai/llama" in text(browser, "main")


def test_the_dark_colour_scheme_is_used(browser: Browser, site: Site) -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.open(site.url)
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    assert browser.run("getComputedStyle(document.body).color") == "rgb(230, 237, 243)"


def test_without_scripts_the_page_is_complete_and_reloads(browser: Browser, site: Site) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(site.url)
    names = [name for _, name in browser.tree()]
    assert "ai/llama" in names
    assert "Pause updates" not in names
    assert browser.call("DOM.getDocument", depth=-1)["root"] is not None
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    found = browser.call("DOM.querySelector", nodeId=root, selector="noscript > meta[http-equiv=refresh]")
    assert found["nodeId"] != 0
    # The browser itself opens the steps.
    assert "DisclosureTriangle" in [role for role, _ in browser.tree()]


def test_hostile_text_does_nothing_in_the_first_page_or_in_an_update(browser: Browser, site: Site) -> None:
    harmless = site.view
    site.view = hostile()
    browser.open(site.url)
    browser.run("refresh()")
    assert browser.run("typeof window.hacked") == "undefined"
    assert browser.run("document.images.length") == 0
    assert browser.run("document.scripts.length") == 1
    site.view = replace(harmless, answers=hostile().answers)
    browser.run("refresh()")
    assert browser.run("typeof window.hacked") == "undefined"
    assert browser.errors == []


def test_the_policy_blocks_markup_that_gets_into_the_page(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')")
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.hacked=1'; document.body.append(s)"
    )
    browser.run("fetch('/metrics').then(answer => answer.status)")
    assert browser.run("typeof window.hacked") == "undefined"
    assert any("Content Security Policy" in error for error in browser.errors)
