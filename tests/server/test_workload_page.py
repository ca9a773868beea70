# SPDX-License-Identifier: Apache-2.0
"""Tests of the page of a workload, and of the charts in the list of workloads."""

import re
from dataclasses import replace
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.evaluate.observation import DeviceObservation, ObservationState, PodObservation
from keda_gpu_scaler.core.instance_status import RecentAnswer, RefusedTrigger
from keda_gpu_scaler.core.trigger.parser import Scope
from keda_gpu_scaler.server.status_assets import DOCUMENTS, POLICY
from keda_gpu_scaler.server.status_page import REFRESH_SECONDS, StatusPage, document
from keda_gpu_scaler.server.status_view import StatusView, workload_address
from keda_gpu_scaler.server.workload_history import STEP_SECONDS, WorkloadHistories
from keda_gpu_scaler.server.workload_page import MAX_OBSERVATIONS, MAX_TRIGGERS, workload_document
from tests.fakes import ManualClock, device, pod
from tests.server.last_hour import last_evaluation, last_hour, point
from tests.server.test_status_page import COMPARED, HOSTILE, NOW, REFUSED, STEPS, TYPO, Outline, answer, hostile, view

QUERY = "namespace=ai&name=llama&metric=keda_gpu_metric"


def hour(**changes: object) -> StatusView:
    """Return the view of the status page with the last hour of ai/llama and its pods."""
    return replace(view(), histories=last_hour(NOW), evaluation_of=last_evaluation, **changes)  # type: ignore[arg-type]


def page(query: str = QUERY, shown: StatusView | None = None) -> str:
    text, status = workload_document(shown or hour(), query)
    assert status == 200
    return text


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("Measured per replica 92 % Target 80 % Reported to the HPA 276 % total", id="the numbers"),
        pytest.param("Replicas 3 → 4", id="the sizes"),
        pytest.param("active: 92 is above activationThreshold 10", id="why it is active"),
        pytest.param("ai/llama: measured per replica and target, the last hour", id="the name of the chart"),
        pytest.param("Limits: 0 to 6. Inactive in 40 of 216 answers.", id="the description of the chart of replicas"),
        pytest.param("0 to 5 90.1 to 104 % 80 % 0 of 19 answers 5 5 5 to 6 0 to 6 active", id="a row of the table"),
        pytest.param("keda-gpu-scaler explain ai/llama", id="the command that shows what the HPA decides"),
        pytest.param("llama-0 gpu-1 90 % with value H100 0", id="a pod with a value"),
        pytest.param(
            "llama-3 gpu-7 unknown no value node gpu-7 last answered 41 s ago (limit 10 s)", id="a pod without one"
        ),
        pytest.param("llama-4 not scheduled — not ready not ready", id="a pod that is not ready"),
        pytest.param(f"Steps of the last answer (3) {' '.join(STEPS)}", id="the steps"),
    ],
)
def test_the_page_of_a_workload_shows(words: str) -> None:
    assert words in Outline(page()).text


def test_the_pods_without_a_value_come_first() -> None:
    pods = re.findall(r"<th scope=row>(llama-\d)</th>", page())
    assert pods == ["llama-3", "llama-0", "llama-1", "llama-2", "llama-4"]


def test_without_a_history_and_without_an_evaluation_the_page_says_so() -> None:
    text = Outline(page("namespace=ai&name=chat", hour())).text
    assert "No answer of the last hour is kept." in text
    assert "Pods" not in text


def test_devices_are_shown_where_the_trigger_selects_devices() -> None:
    observed = (
        DeviceObservation("gpu-1", device(0), 91.25, "utilisation 91.25 %"),
        DeviceObservation("gpu-2", None, None, "no snapshot"),
    )

    def evaluation_of(one: RecentAnswer) -> Evaluation:
        return Evaluation(Scope.FLEET, one.value, one.active, one.steps, observations=observed)

    text = Outline(page(shown=replace(hour(), evaluation_of=evaluation_of))).text
    assert "Devices and endpoints of the last evaluation" in text
    assert "not known gpu-2 unknown no value no snapshot GPU-0000 gpu-1 91.2 % with value" in text


# ---- which workload ----


@pytest.mark.parametrize(
    ("query", "words"),
    [
        pytest.param("", "The address of this page has no namespace or no name", id="no query"),
        pytest.param("namespace=ai", "The address of this page has no namespace or no name", id="no name"),
        pytest.param("&".join("a=1" for _ in range(20)), "has no namespace or no name", id="too many fields"),
        pytest.param(
            "namespace=ai&name=nope", "no request from KEDA about ai/nope in the last ten minutes", id="unknown name"
        ),
        pytest.param("namespace=other&name=llama", "about other/llama in", id="unknown namespace"),
        pytest.param("namespace=ai&name=llama&metric=x", "about ai/llama and its metric x in", id="unknown metric"),
        pytest.param("namespace=ai&name=%00%FF", "about ai/\ufffd\ufffd in", id="bytes that are no text"),
        pytest.param(urlencode({"namespace": "ai", "name": HOSTILE}), "<script>window.hacked=1</script>", id="markup"),
    ],
)
def test_an_unknown_workload_is_not_found_with_a_sentence(query: str, words: str) -> None:
    text, status = workload_document(hour(), query)
    outline = Outline(text)
    assert status == 404
    assert words in outline.text
    assert sum(tag == "script" for tag, _ in outline.elements) == 1
    assert ("a", {"href": "/"}) in outline.elements


def test_without_a_metric_the_page_has_every_trigger_of_the_object() -> None:
    shown = hour(answers=(answer(), answer(metric_name="other"), answer("code")))
    assert re.findall(r"<h2 id=(t\d)>(\w+) ", page("namespace=ai&name=llama", shown)) == [
        ("t0", "keda_gpu_metric"),
        ("t1", "other"),
    ]


def test_two_triggers_with_the_same_metric_name_have_histories_of_their_own() -> None:
    memory = answer(metric="gpu_memory_utilization")
    text = page(shown=hour(answers=(answer(comparison=COMPARED), memory)))
    assert text.count("<figure>") == 2
    assert text.count("No answer of the last hour is kept.") == 1


def test_a_refused_trigger_has_a_page_with_its_sentence() -> None:
    text = page("namespace=ai&name=typo", hour(refused=REFUSED))
    assert f"refused for 75 s KEDA gets no value and no target: {TYPO}" in Outline(text).text
    assert f'<a href="{DOCUMENTS}/operating.md#a-trigger-is-refused">' in text


def test_every_link_of_the_list_opens_a_page() -> None:
    shown = hour(refused=REFUSED)
    links = [
        str(attributes["href"])
        for tag, attributes in Outline(document(shown)).elements
        if tag == "a" and str(attributes["href"]).startswith("/workload")
    ]
    assert len(links) == 5
    assert {workload_document(shown, link.partition("?")[2])[1] for link in links} == {200}


@given(*[st.text(min_size=1, max_size=50)] * 3)
def test_the_address_of_a_trigger_names_it_whatever_its_names_are(namespace: str, name: str, metric: str) -> None:
    one = replace(answer(), namespace=namespace, name=name, metric_name=metric)
    [(_, link)] = Outline(f'<a href="{workload_address(namespace, name, metric)}"></a>').elements
    query = str(link["href"]).partition("?")[2]
    assert workload_document(view(answers=(one,)), query)[1] == 200


# ---- untrusted text and limits ----


def test_hostile_text_stays_text_on_the_page_of_a_workload() -> None:
    observed = (
        PodObservation(pod(HOSTILE, HOSTILE), ObservationState.MISSING, None, HOSTILE),
        PodObservation(pod(HOSTILE, HOSTILE), ObservationState.OBSERVED, 1.0, HOSTILE),
    )
    histories = WorkloadHistories()
    for ago in (30, 20, 10):
        histories.record((HOSTILE,) * 4, point(3000), NOW - ago)
    shown = replace(
        hostile(),
        histories=histories,
        refused=(RefusedTrigger(HOSTILE, HOSTILE, (HOSTILE,)),),
        evaluation_of=lambda one: Evaluation(Scope.WORKLOAD, None, False, (), observations=observed),
    )
    text = page(urlencode({"namespace": HOSTILE, "name": HOSTILE, "metric": HOSTILE}), shown)
    outline = Outline(text)
    assert {tag for tag, _ in outline.elements} <= {tag for tag, _ in Outline(page()).elements} | {"ul", "li"}
    assert sum(tag == "script" for tag, _ in outline.elements) == 1
    assert "\u202e" not in text
    assert "\x00" not in text
    assert outline.text.count("<script>window.hacked=1</script>") >= 12


def test_the_page_is_bounded() -> None:
    observed = tuple(
        PodObservation(pod(f"p{number:05}"), ObservationState.MISSING, None, "x" * 9999) for number in range(3000)
    )

    def evaluation_of(one: RecentAnswer) -> Evaluation:
        return Evaluation(Scope.WORKLOAD, None, True, (), observations=observed)

    answers = tuple(answer(metric=f"m{number}") for number in range(MAX_TRIGGERS + 3))
    text = page(shown=replace(hour(answers=answers[:1]), evaluation_of=evaluation_of))
    assert text.count("<th scope=row>p") == MAX_OBSERVATIONS
    assert f"{3000 - MAX_OBSERVATIONS} more pods are not shown." in text
    assert len(text) < 600_000
    assert "3 more triggers are not shown." in page(shown=hour(answers=answers))


def test_the_pages_of_workloads_are_rendered_at_most_once_a_second() -> None:
    clock, viewed = ManualClock(), list[float]()

    def now() -> StatusView:
        viewed.append(clock.now)
        return hour()

    pages = StatusPage(now, clock)
    first = pages.workload_page(QUERY)
    assert pages.workload_page(QUERY) is first
    assert pages.page() is pages.page()
    for number in range(100):
        assert pages.workload_page(f"namespace=ai&name={number}").status == 404
    assert len(viewed) == 1
    clock.advance(REFRESH_SECONDS)
    assert pages.workload_page(QUERY) is not first
    assert len(viewed) == 2


@pytest.mark.parametrize("query", [pytest.param(QUERY, id="a workload"), pytest.param("", id="no workload")])
def test_the_page_has_the_headers_of_the_status_page(query: str) -> None:
    pages = StatusPage(hour, ManualClock())
    served = pages.workload_page(query)
    assert served.headers == pages.page().headers
    assert ("Content-Security-Policy", POLICY) in served.headers
    assert served.content_type == "text/html; charset=utf-8"


# ---- the list of workloads ----


def test_the_list_has_a_small_chart_of_each_workload_with_a_history() -> None:
    text = document(hour())
    assert text.count("<svg ") == 1
    assert "<title>measured in the last hour: 37.6 to 105 %</title>" in text
    assert '<a href="/workload?namespace=ai&amp;name=llama&amp;metric=keda_gpu_metric">ai/llama</a>' in text


def test_reading_the_measured_values_gives_those_of_the_points() -> None:
    history = last_hour(NOW).of(("ai", "llama", "keda_gpu_metric", "gpu_utilization"))
    assert history is not None
    for later in (0.0, STEP_SECONDS, 1800.0, 3600.0):
        expected = [(ago, one.measured) for ago, one in history.points(NOW + later)]
        assert list(history.measured(NOW + later)) == expected


# ---- accessibility ----


def test_every_id_is_unique_and_every_reference_has_one() -> None:
    shown = hour(answers=(answer(), answer(metric_name="other")), refused=(RefusedTrigger("ai", "llama", ("no",)),))
    elements = Outline(page("namespace=ai&name=llama", shown)).elements
    ids = [str(attributes["id"]) for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = ("aria-labelledby", "aria-describedby")
    references = {str(attributes[key]) for _, attributes in elements for key in named if key in attributes}
    assert references <= set(ids)
    assert not [attributes for _, attributes in elements if "style" in attributes]


def test_every_chart_has_the_role_of_an_image_and_a_name() -> None:
    for text in (page(), document(hour())):
        charts = re.findall(r"<svg ([^>]*)>(<title[ >])?", text)
        assert charts
        assert all("role=img" in attributes and title for attributes, title in charts)
