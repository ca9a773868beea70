# SPDX-License-Identifier: Apache-2.0
"""The status page as a browser shows it: alive, in the dark, by keyboard, without scripts, and under attack."""

import asyncio
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from keda_gpu_scaler.server.http import HttpServer, metrics_pages, status_pages
from keda_gpu_scaler.server.status_page import POLICY, StatusView, document
from tests.browser import Browser
from tests.server.test_status_page import answer, hostile, view


class Site:
    """Serves the page of a view that the test sets."""

    def __init__(self) -> None:
        self.view: StatusView = view()
        self._server = HttpServer({**status_pages(lambda: document(self.view), POLICY), **metrics_pages(lambda: "")})
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


def test_it_is_shown_and_nothing_on_it_is_objected_to(browser: Browser, site: Site, tmp_path: Path) -> None:
    browser.open(site.url)
    browser.run("look()")
    assert "keda-gpu-scaler on gpu-1" in text(browser, "h1")
    assert browser.complaints == []
    # The colours are those of its style, so the policy let the style through.
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.screenshot(tmp_path / "status.png")
    assert len(set(pixels(tmp_path / "status.png"))) > 10, "it is blank"


def pixels(path: Path) -> Iterator[bytes]:
    """Some of a picture's bytes, enough to tell it from an empty one."""
    content, at, data = path.read_bytes(), 8, b""
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        if content[at + 4 : at + 8] == b"IDAT":
            data += content[at + 8 : at + 8 + length]
        at += length + 12
    raw = zlib.decompress(data)
    yield from (raw[start : start + 4] for start in range(0, len(raw), 97))


def test_those_who_do_not_see_it_find_their_way(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    tree = browser.tree()
    assert [name for role, name in tree if role == "heading"] == [
        "keda-gpu-scaler on gpu-1", "Workloads", "Fleet", "Not heard", "Engines and demand", "API server",
    ]  # fmt: skip
    roles = [role for role, _ in tree]
    assert {"banner", "main", "contentinfo", "status"} <= set(roles)
    assert [name for role, name in tree if role == "table"] == [
        "What KEDA was told last, by trigger, and how that came about",
        "The newest readings of every device that is seen here, by node",
        "What the pages of metrics told last that triggers ask about",
        "What is watched for those who ask",
    ]
    assert {name for role, name in tree if role == "rowheader"} >= {"ai/llama", "0 GPU-0000", "pods"}
    assert {name for role, name in tree if role == "columnheader"} >= {"Told KEDA", "Utilisation", "Held by"}
    assert ("meter", "utilisation") in tree
    assert ("button", "Stop updating") in tree
    assert all(name for role, name in tree if role in ("link", "button", "table", "region", "meter", "heading"))


def test_it_updates_by_itself_and_leaves_alone_what_somebody_looks_at(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    browser.run("document.querySelector('[data-key=\"ai/llama/keda_gpu_metric/gpu_utilization\"]').open = true")
    browser.run("document.querySelector('details[open] summary').focus()")
    site.view = view(answers=(answer("another"), answer("llama", 123.0)))
    browser.run("look()")
    assert "123 %" in text(browser, "main")
    assert "ai/another" in text(browser, "main")
    assert browser.run("[...document.querySelectorAll('details[open]')].map(one => one.dataset.key)") == [
        "ai/llama/keda_gpu_metric/gpu_utilization"
    ]
    assert browser.run("document.activeElement.tagName + document.activeElement.parentElement.open") == "SUMMARYtrue"
    assert "scope workload: Deployment llama" in text(browser, "details[open]")


def test_a_table_that_scrolls_keeps_its_place_and_its_focus(browser: Browser, site: Site) -> None:
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=1, mobile=False
    )  # as a telephone's
    browser.open(site.url)
    browser.run("const one = document.getElementById('fleet-table'); one.focus(); one.scrollLeft = 40")
    browser.run("look()")
    assert browser.run("document.activeElement.id + document.activeElement.scrollLeft") == "fleet-table40"
    assert browser.run("document.documentElement.scrollWidth <= innerWidth") is True


def test_what_is_marked_for_copying_stays(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    browser.run("getSelection().selectAllChildren(document.querySelector('main td'))")
    site.view = view(answers=())
    browser.run("look()")
    assert "ai/llama" in text(browser, "main")


def test_updating_can_be_stopped_and_gone_on_with(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    browser.run("document.getElementById('pause').click()")
    site.view = view(answers=(answer(value=123.0),))
    browser.run("look()")
    assert "123 %" not in text(browser, "main")
    assert text(browser, "#pause") == "Go on updating"
    browser.run("document.getElementById('pause').click(); look()")
    assert "123 %" in text(browser, "main")


def test_an_instance_that_is_gone_is_said_to_be_gone(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    site.stop()
    browser.run("look()")
    assert text(browser, "#live") == "No answer any more: what is shown is old."
    assert browser.run("document.querySelector('main').className") == "old"
    assert "ai/llama" in text(browser, "main")


def test_in_the_dark_it_is_dark(browser: Browser, site: Site) -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.open(site.url)
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    assert browser.run("getComputedStyle(document.body).color") == "rgb(230, 237, 243)"


def test_without_scripts_everything_is_there_and_it_comes_anew(browser: Browser, site: Site) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(site.url)
    names = [name for _, name in browser.tree()]
    assert "ai/llama" in names
    assert "Stop updating" not in names
    assert browser.call("DOM.getDocument", depth=-1)["root"] is not None
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    found = browser.call("DOM.querySelector", nodeId=root, selector="noscript > meta[http-equiv=refresh]")
    assert found["nodeId"] != 0
    # Steps can be opened all the same: that is the browser's own doing.
    assert "DisclosureTriangle" in [role for role, _ in browser.tree()]


def test_a_hostile_word_does_nothing_at_first_nor_when_it_comes_with_an_update(browser: Browser, site: Site) -> None:
    calm = site.view
    site.view = hostile()
    browser.open(site.url)
    browser.run("look()")
    assert browser.run("typeof window.hacked") == "undefined"
    assert browser.run("document.images.length") == 0
    assert browser.run("document.scripts.length") == 1
    site.view = replace(calm, answers=hostile().answers)
    browser.run("look()")
    assert browser.run("typeof window.hacked") == "undefined"
    assert browser.complaints == []


def test_where_a_word_came_through_the_policy_would_still_stop_it(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')")
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.hacked=1'; document.body.append(s)"
    )
    browser.run("fetch('/metrics').then(answer => answer.status)")
    assert browser.run("typeof window.hacked") == "undefined"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)
