# SPDX-License-Identifier: Apache-2.0
"""Tests of pods with several ports, several addresses, annotations of sidecars, and https."""

import itertools
from collections.abc import Mapping
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.state.scrape import AUTO, MAX_ATTEMPTS, Endpoint, ScrapeResult
from keda_gpu_scaler.scrape.port_search import LOST_AFTER_SECONDS
from tests.scrape.scene import OTHER_PAGE, PAGE, POD, Scene, scenario
from tests.scrape.virtual_time import run_in_virtual_time
from tests.scrape.web import (
    ABSENT,
    CLOSES,
    NO_ANSWER,
    REFUSED,
    UNTRUSTED,
    WANTS_HTTP,
    WANTS_HTTPS,
    Answer,
    sglang,
    vllm,
)

VLLM = replace(POD, engine="vllm")
RANKS = replace(VLLM, ports=(8000, 8001))
SECOND = "10.1.2.3:8001/metrics"
ANNOTATED_HTTPS = replace(VLLM, annotated_port=8000, annotated_scheme="https")
IPV6 = replace(VLLM, address="fd00::1", other_addresses=("10.1.2.3",))


def urls(result: ScrapeResult) -> list[str]:
    return [history.url for history in result.targets]


def waiting(result: ScrapeResult) -> list[float | None]:
    return [history.newest.waiting if history.newest else None for history in result.targets]


# ---- several ports ----


@pytest.mark.parametrize(
    "endpoint",
    [
        pytest.param(RANKS, id="ports of the trigger"),
        pytest.param(replace(POD, declared_ports=(8000, 8001)), id="declared ports"),
        pytest.param(replace(POD, annotated_port=8000, declared_ports=(8000, 8001)), id="an annotated and a declared"),
    ],
)
def test_each_named_port_with_an_engine_is_a_target(endpoint: Endpoint) -> None:
    async def scenario_of_case() -> None:
        async with Scene({PAGE: vllm(waiting=0), SECOND: vllm(waiting=40)}) as scene:
            result = await scene.register_interest(endpoint)
            assert urls(result) == [f"http://{PAGE}", f"http://{SECOND}"]
            assert waiting(result) == [0, 40]
            scene.web.fetched.clear()
            await scene.pass_time(20)
            assert len(scene.web.times(PAGE)) == len(scene.web.times(SECOND)) == 10

    run_in_virtual_time(scenario_of_case())


@scenario
async def test_different_engines_of_a_pod_are_targets_in_the_order_of_the_ports() -> None:
    endpoint = replace(POD, declared_ports=(30000, 8000))
    async with Scene({PAGE: vllm(waiting=0), "10.1.2.3:30000/metrics": sglang(waiting=9)}) as scene:
        result = await scene.register_interest(endpoint)
        assert [it.newest.engine for it in result.targets if it.newest] == ["vllm", "sglang"]


@scenario
async def test_only_one_usual_port_is_a_target() -> None:
    async with Scene({PAGE: vllm(), "10.1.2.3:30000/metrics": sglang()}) as scene:
        assert urls(await scene.register_interest(POD)) == [f"http://{PAGE}"]
        await scene.pass_time(400)
        assert set(scene.web.urls) == {PAGE}


@scenario
async def test_the_result_waits_for_the_first_scrape_of_each_named_port() -> None:
    async with Scene({PAGE: vllm(waiting=1), SECOND: vllm(waiting=2)}) as scene:
        scene.web.seconds[SECOND] = 3.0
        assert waiting(await scene.register_interest(RANKS)) == [1, 2]


@scenario
async def test_a_configured_port_that_does_not_answer_is_a_failed_target() -> None:
    async with Scene({PAGE: vllm(waiting=1), SECOND: NO_ANSWER}) as scene:
        result = await scene.register_interest(RANKS)
        assert [(it.url, it.failure) for it in result.targets] == [
            (f"http://{PAGE}", None),
            (f"http://{SECOND}", "no answer within 2 s"),
        ]


@pytest.mark.parametrize(
    ("endpoint", "answer"),
    [
        pytest.param(RANKS, REFUSED, id="nothing listens on a configured port"),
        pytest.param(RANKS, OTHER_PAGE, id="a configured port has another page"),
        pytest.param(replace(VLLM, declared_ports=(8000, 8001)), NO_ANSWER, id="a declared port does not answer"),
    ],
)
def test_a_port_without_an_engine_is_no_target(endpoint: Endpoint, answer: Answer) -> None:
    async def scenario_of_case() -> None:
        async with Scene({PAGE: vllm(), SECOND: answer}) as scene:
            result = await scene.register_interest(endpoint)
            assert urls(result) == [f"http://{PAGE}"]
            assert [it.url for it in result.attempts] == [f"http://{SECOND}"]
            assert result.attempts[0].failure

    run_in_virtual_time(scenario_of_case())


@scenario
async def test_a_named_port_that_starts_later_becomes_a_target() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        await scene.register_interest(RANKS)
        scene.web.pages[SECOND] = vllm(waiting=3)
        await scene.pass_time(3)
        assert waiting(scene.result(RANKS)) == [0, 3]


@scenario
async def test_the_pause_between_searches_of_the_other_ports_grows_while_there_is_an_engine() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        await scene.register_interest(RANKS)
        await scene.pass_time(3000)
        times = scene.web.times(SECOND)
        assert [round(later - earlier) for earlier, later in itertools.pairwise(times)][:10] == [
            2, 4, 8, 16, 32, 64, 128, 256, 300, 300,
        ]  # fmt: skip


@scenario
async def test_a_lost_rank_stays_in_the_result_and_the_other_one_is_scraped() -> None:
    async with Scene({PAGE: vllm(waiting=1), SECOND: vllm(waiting=2)}) as scene:
        await scene.register_interest(RANKS)
        del scene.web.pages[SECOND]
        for _ in range(10):
            await scene.pass_time(LOST_AFTER_SECONDS)
            first, second = scene.result(RANKS).targets
            assert first.failure is None
            assert second.failure == "the connection is refused", "a rank that is lost is not a rank without load"
        scene.web.pages[SECOND] = vllm(waiting=5)
        await scene.pass_time(300)
        assert waiting(scene.result(RANKS)) == [1, 5]


# ---- annotations of sidecars ----


@pytest.mark.parametrize(
    "sidecar", [OTHER_PAGE, ABSENT, REFUSED, NO_ANSWER], ids=["another page", "HTTP 404", "refused", "no answer"]
)
@pytest.mark.parametrize("declared_ports", [(8000,), ()], ids=["a declared port", "a usual port"])
def test_the_engine_is_found_beside_the_annotation_of_a_sidecar(sidecar: Answer, declared_ports: tuple[int]) -> None:
    async def scenario_of_case() -> None:
        endpoint = replace(POD, annotated_port=15020, annotated_path="/stats/prometheus", declared_ports=declared_ports)
        pages = {f"10.1.2.3:15020{path}": sidecar for path in ("/stats/prometheus", "/metrics", "/v1/metrics")}
        async with Scene({PAGE: vllm(waiting=50), **pages}) as scene:
            scene.manager.register_interest(endpoint, window_seconds=10.0)
            await scene.pass_time(3)
            assert waiting(scene.result(endpoint)) == [50]

    run_in_virtual_time(scenario_of_case())


@scenario
async def test_an_annotated_page_that_has_the_engine_is_a_target() -> None:
    endpoint = replace(POD, annotated_port=15020, annotated_path="/stats/prometheus")
    async with Scene({"10.1.2.3:15020/stats/prometheus": vllm(waiting=7)}) as scene:
        assert waiting(await scene.register_interest(endpoint)) == [7]


# ---- several addresses ----


@pytest.mark.parametrize("first", [None, NO_ANSWER], ids=["refused", "no answer"])
def test_each_address_of_a_pod_is_tried(first: Answer | None) -> None:
    async def scenario_of_case() -> None:
        pages: dict[str, Answer] = {PAGE: vllm(waiting=4)}
        if first is not None:
            pages["fd00::1:8000/metrics"] = first
        async with Scene(pages) as scene:
            scene.manager.register_interest(IPV6, window_seconds=10.0)
            await scene.pass_time(3)
            assert urls(scene.result(IPV6)) == [f"http://{PAGE}"]
            assert waiting(scene.result(IPV6)) == [4]

    run_in_virtual_time(scenario_of_case())


@scenario
async def test_a_port_that_answers_at_one_address_is_not_tried_at_the_other() -> None:
    async with Scene({PAGE: vllm(), "fd00::1:8000/metrics": ABSENT}) as scene:
        assert (await scene.register_interest(IPV6)).is_no_engine
        assert PAGE not in scene.web.urls


@scenario
async def test_an_engine_at_both_addresses_counts_once() -> None:
    async with Scene({PAGE: vllm(waiting=4), "fd00::1:8000/metrics": vllm(waiting=4)}) as scene:
        assert urls(await scene.register_interest(IPV6)) == ["http://[fd00::1]:8000/metrics"]


# ---- https ----


@pytest.mark.parametrize("by_http", [WANTS_HTTPS, CLOSES], ids=["it says so", "it closes the connection"])
def test_a_port_that_expects_https_is_asked_by_https(by_http: Answer) -> None:
    async def scenario_of_case() -> None:
        async with Scene({PAGE: by_http, f"https://{PAGE}": vllm(waiting=6)}) as scene:
            result = await scene.register_interest(VLLM)
            assert urls(result) == [f"https://{PAGE}"]
            assert waiting(result) == [6]

    run_in_virtual_time(scenario_of_case())


@scenario
async def test_a_port_whose_annotation_wrongly_says_https_is_asked_by_http() -> None:
    async with Scene({PAGE: vllm(waiting=6), f"https://{PAGE}": WANTS_HTTP}) as scene:
        result = await scene.register_interest(ANNOTATED_HTTPS)
        assert urls(result) == [f"http://{PAGE}"]
        assert waiting(result) == [6]


@scenario
async def test_the_further_paths_of_a_port_without_https_are_asked_by_http() -> None:
    nim = "10.1.2.3:8000/v1/metrics"
    async with Scene({f"https://{PAGE}": WANTS_HTTP, PAGE: ABSENT, nim: vllm()}) as scene:
        scene.web.pages["10.1.2.3:8000/prometheus/metrics"] = ABSENT
        assert urls(await scene.register_interest(replace(ANNOTATED_HTTPS, engine=AUTO))) == [f"http://{nim}"]
        assert f"https://{nim}" not in scene.web.urls


@scenario
async def test_a_port_with_neither_http_nor_https_is_tried_once_by_each() -> None:
    async with Scene({f"https://{PAGE}": WANTS_HTTP, PAGE: CLOSES}) as scene:
        scene.manager.register_interest(ANNOTATED_HTTPS, window_seconds=10.0)
        await scene.pass_time(1.0)
        assert scene.web.urls == [f"https://{PAGE}", PAGE]
        assert not scene.result(ANNOTATED_HTTPS).is_no_engine


@scenario
async def test_the_further_paths_of_a_port_with_https_are_asked_by_https() -> None:
    nim = "10.1.2.3:8000/v1/metrics"
    endpoint = replace(POD, ports=(8000,))
    async with Scene({PAGE: WANTS_HTTPS, f"https://{PAGE}": ABSENT, f"https://{nim}": vllm()}) as scene:
        scene.web.pages["https://10.1.2.3:8000/prometheus/metrics"] = ABSENT
        assert urls(await scene.register_interest(endpoint)) == [f"https://{nim}"]
        assert nim not in scene.web.urls


@pytest.mark.parametrize(
    ("endpoint", "pages", "failure", "is_no_engine"),
    [
        pytest.param(
            replace(VLLM, scheme="http"),
            {PAGE: WANTS_HTTPS},
            "port 8000/metrics: the server expects https, and it is asked by http",
            False,
            id="the trigger says http",
        ),
        pytest.param(
            replace(VLLM, scheme="https"),
            {PAGE: vllm(), f"https://{PAGE}": WANTS_HTTP},
            "port 8000/metrics by https: the server expects http, and it is asked by https",
            False,
            id="the trigger says https",
        ),
        pytest.param(
            VLLM,
            {PAGE: WANTS_HTTPS, f"https://{PAGE}": NO_ANSWER},
            "port 8000/metrics by https: no answer within 2 s",
            False,
            id="https is needed and does not answer",
        ),
        pytest.param(
            VLLM,
            {PAGE: CLOSES, f"https://{PAGE}": NO_ANSWER},
            "port 8000/metrics: the server closes the connection without an answer",
            False,
            id="the reason of http remains where https says nothing",
        ),
        pytest.param(
            VLLM,
            {PAGE: CLOSES, f"https://{PAGE}": UNTRUSTED},
            "port 8000/metrics by https: the certificate is not trusted",
            False,
            id="a server with https whose certificate is not trusted",
        ),
        pytest.param(
            VLLM,
            {PAGE: CLOSES, f"https://{PAGE}": ABSENT},
            "port 8000/metrics by https: the server has no such page (HTTP 404)",
            True,
            id="another server by https",
        ),
    ],
)
def test_the_result_of_a_port_that_expects_https(
    endpoint: Endpoint, pages: Mapping[str, Answer], failure: str, is_no_engine: bool
) -> None:
    async def scenario_of_case() -> None:
        async with Scene(pages) as scene:
            scene.manager.register_interest(endpoint, window_seconds=10.0)
            await scene.pass_time(1.0)
            result = scene.result(endpoint)
            assert (result.failure, result.is_no_engine) == (f"no engine is found: {failure}", is_no_engine)

    run_in_virtual_time(scenario_of_case())


# ---- what is told of each place ----


@scenario
async def test_an_answer_is_told_with_its_status_and_times() -> None:
    async with Scene({PAGE: vllm(), SECOND: ABSENT}) as scene:
        scene.web.seconds[PAGE] = 0.25
        result = await scene.register_interest(RANKS)
        answer = result.targets[0].attempt
        assert answer is not None
        assert (answer.url, answer.status, answer.failure, answer.answer_seconds) == (f"http://{PAGE}", 200, None, 0.25)
        assert answer.at_seconds == scene.newest_of(0, RANKS).at_seconds
        (other,) = result.attempts
        assert (other.url, other.status) == (f"http://{SECOND}", 404)
        assert other.failure == "the server has no such page (HTTP 404)"


@scenario
async def test_a_page_of_another_engine_is_told_with_its_reason() -> None:
    async with Scene({PAGE: vllm(), SECOND: sglang()}) as scene:
        (other,) = (await scene.register_interest(RANKS)).attempts
        assert other.status == 200
        assert other.failure is not None
        assert other.failure.startswith("the page is of sglang, not of vllm")


@scenario
async def test_a_slow_target_is_told_with_the_reason_of_its_pause() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        scene.web.seconds[PAGE] = 2.6
        attempt = (await scene.register_interest(VLLM)).targets[0].attempt
        assert attempt is not None
        assert attempt.remarks == ("asked less often: it answers after 2.6 s, and its interval is 2 s",)
        scene.web.seconds[PAGE] = 0.1
        await scene.pass_time(10)
        attempt = scene.history(VLLM).attempt
        assert attempt is not None
        assert attempt.remarks == ()


@scenario
async def test_the_number_of_told_places_is_limited() -> None:
    endpoint = replace(VLLM, ports=tuple(range(8000, 8032)))
    async with Scene({PAGE: vllm()}) as scene:
        assert len((await scene.register_interest(endpoint)).attempts) == MAX_ATTEMPTS


@scenario
async def test_a_repeated_search_with_the_same_answers_is_no_news() -> None:
    async with Scene({PAGE: NO_ANSWER}) as scene:
        scene.manager.register_interest(POD, window_seconds=10.0)
        await scene.pass_time(30)
        result, news = scene.result(), len(scene.news)
        await scene.pass_time(300)
        assert scene.result() == result
        assert len(scene.news) == news
        [attempt] = scene.result().attempts[:1]
        assert attempt.at_seconds > scene.loop.time() - 60, "it shows when it was asked last"


@scenario
async def test_each_selection_of_models_is_a_target_of_its_own() -> None:
    series = "".join(
        f'vllm:num_requests_waiting{{model_name="{name}"}} {size}\n' for name, size in (("a", 3), ("b", 5))
    )
    async with Scene({PAGE: series.encode()}) as scene:
        one, other = replace(VLLM, models=("a",)), replace(VLLM, models=("b",))
        await scene.register_interest(VLLM, one, other)
        assert [waiting(scene.result(endpoint)) for endpoint in (VLLM, one, other)] == [[8], [3], [5]]
        await scene.pass_time(20)
        assert [waiting(scene.result(endpoint)) for endpoint in (VLLM, one, other)] == [[8], [3], [5]]
        url = Endpoint(engine="vllm", url="http://10.1.2.3:8000/metrics", models=("b",))
        assert waiting(await scene.register_interest(url)) == [5]
