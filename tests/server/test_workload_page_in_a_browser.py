# SPDX-License-Identifier: Apache-2.0
"""Tests of the page of a workload in a browser: widths, colours, keyboard, names, updates, no scripts."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.browser import Browser
from tests.server.last_hour import last_hour
from tests.server.test_status_page import NOW, REFUSED, TYPO, answer, hostile
from tests.server.test_status_page_in_a_browser import Site, pixels, text
from tests.server.test_workload_page import QUERY, hour

ADDRESS = f"workload?{QUERY}"
VALUES = "ai/llama: measured per replica and target, the last hour"
SIZES = "ai/llama: replicas now, ready and wanted, the last hour"


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as serving:
        serving.view = hour(refused=REFUSED)
        yield serving


def press_tab(browser: Browser) -> str:
    """Press the key Tab, and return the text of the element that has the focus then."""
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    return str(browser.run("document.activeElement.innerText.split('\\n')[0]"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("address", ["", ADDRESS])
def test_the_charts_fit_the_page(
    browser: Browser, site: Site, tmp_path: Path, address: str, width: int, scheme: str
) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(site.url + address)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth") is True
    charts = "[...document.querySelectorAll('svg.chart:not(.spark)')].map(chart => chart.getBoundingClientRect())"
    assert browser.run(f"{charts}.every(box => box.left >= 0 && box.right <= innerWidth && box.height > 99)")
    # The lines have the colour of the links, so the policy permits the style of the charts.
    line = browser.run("getComputedStyle(document.querySelector('path.measured')).stroke")
    assert line == {"light": "rgb(5, 80, 174)", "dark": "rgb(121, 192, 255)"}[scheme]
    browser.screenshot(tmp_path / "page.png")
    assert len(set(pixels(tmp_path / "page.png"))) > 10, "the picture is blank"
    assert browser.errors == []


@pytest.mark.parametrize("width", [400, 720, 1280])
def test_the_numbers_of_a_workload_are_seen_without_scrolling(browser: Browser, site: Site, width: int) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.open(site.url)
    for head in ("Workload", "Last hour", "Measured per replica", "Target", "Reported to the HPA", "Replicas"):
        cell = f"[...document.querySelectorAll('#workloads-table thead th')].find(it => it.textContent === '{head}')"
        right = browser.run(f"{cell}.getBoundingClientRect().right")
        assert 0 < right <= browser.run("document.documentElement.clientWidth"), head


def test_the_sentence_of_a_refused_trigger_is_complete_on_a_narrow_screen(browser: Browser, site: Site) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=400, height=900, deviceScaleFactor=1, mobile=False)
    browser.open(site.url)
    boxes = "[...document.querySelectorAll('.refused li, .steps p')].map(it => it.getBoundingClientRect())"
    assert browser.run(f"{boxes}.length") >= 3
    assert browser.run(f"{boxes}.every(box => box.left >= 0 && box.right <= innerWidth)") is True


def test_a_screen_reader_finds_the_charts_the_table_and_the_pods(browser: Browser, site: Site) -> None:
    browser.open(site.url + ADDRESS)
    browser.run("document.querySelector('details').open = true")
    tree = browser.tree()
    assert [name for role, name in tree if role == "image"] == [VALUES, SIZES]
    assert [name for role, name in tree if role == "heading"] == [
        "ai/llama", "keda_gpu_metric gpu_utilization", "The last hour", "Pods", "Steps of the last answer (3)",
    ]  # fmt: skip
    assert {name for role, name in tree if role == "table"} == {
        "The last hour, in steps of five minutes, the newest first",
        "Pods of the last evaluation, those without a value first",
    }
    assert {name for role, name in tree if role == "rowheader"} >= {"0 to 5", "55 to 60", "llama-3"}
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    images = [node for node in nodes if node["role"]["value"] == "image"]
    assert images[0]["description"]["value"].startswith("Measured: 37.6 to 105 %; last: 90.1 %.")


def test_the_list_names_its_small_chart_and_links_the_page_of_each_workload(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    tree = browser.tree()
    assert ("image", "measured in the last hour: 37.6 to 105 %") in tree
    links = {name for role, name in tree if role == "link" and name.startswith("ai/")}
    assert links == {"ai/typo", "ai/chat", "ai/code", "ai/llama", "ai/standby"}
    browser.open(browser.run("[...document.querySelectorAll('main a')].find(it => it.textContent === 'ai/llama').href"))
    assert text(browser, "h1") == "ai/llama"
    assert browser.run("document.title") == "ai/llama"


def test_every_control_is_reached_with_the_key_tab(browser: Browser, site: Site) -> None:
    browser.open(site.url + ADDRESS)
    reached = [press_tab(browser) for _ in range(8)]
    assert reached == [
        "Skip to the content", "All workloads", "Pause updates", "The last hour as a table",
        "Pods of the last evaluation, those without a value first", "/metrics", "How to read this page",
        "what to do when something is wrong",
    ]  # fmt: skip


def test_an_update_keeps_the_open_table_its_focus_and_the_workload(browser: Browser, site: Site) -> None:
    browser.open(site.url + ADDRESS)
    browser.run("document.querySelector('details').open = true; document.getElementById('t0-hour-table').focus()")
    site.view = replace(hour(answers=(answer(value=123.0),)), histories=last_hour(NOW))
    browser.run("refresh()")
    assert "123 %" in text(browser, "main")
    assert browser.run("document.querySelector('details').open") is True
    assert browser.run("document.activeElement.id") == "t0-hour-table"
    assert text(browser, "h1") == "ai/llama"


def test_an_update_keeps_the_focus_of_a_link(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    browser.run("[...document.querySelectorAll('main a')].find(link => link.textContent === 'ai/llama').focus()")
    site.view = hour(answers=(answer("another"), answer("llama")))
    browser.run("refresh()")
    assert "ai/another" in text(browser, "main")
    assert browser.run("document.activeElement.textContent") == "ai/llama"


def test_an_update_of_a_workload_that_is_gone_says_so(browser: Browser, site: Site) -> None:
    browser.open(site.url + ADDRESS)
    site.view = hour(answers=())
    browser.run("refresh()")
    assert "This instance got no request from KEDA about ai/llama" in text(browser, "main")
    assert text(browser, "#live") == ""


def test_without_scripts_the_charts_and_the_table_are_complete(browser: Browser, site: Site) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(site.url + ADDRESS)
    tree = browser.tree()
    assert [name for role, name in tree if role == "image"] == [VALUES, SIZES]
    assert "DisclosureTriangle" in [role for role, _ in tree]
    assert ("link", "All workloads") in tree
    assert "Pause updates" not in [name for _, name in tree]


def test_a_refused_trigger_has_a_page(browser: Browser, site: Site) -> None:
    browser.open(f"{site.url}workload?namespace=ai&name=typo")
    assert TYPO in text(browser, "main")
    assert browser.errors == []


def test_hostile_names_do_nothing_on_the_page_of_a_workload(browser: Browser, site: Site) -> None:
    site.view = hostile()
    browser.open(site.url)
    browser.open(browser.run("document.querySelector('main a').href"))
    assert text(browser, "h1").startswith("<script>")
    browser.run("refresh()")
    assert browser.run("typeof window.hacked") == "undefined"
    assert browser.run("document.scripts.length") == 1
    assert browser.errors == []
