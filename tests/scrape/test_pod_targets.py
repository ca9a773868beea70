# SPDX-License-Identifier: Apache-2.0
"""Tests of the search for the engine of a pod."""

import itertools
import re
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.scrape.port_search import LOST_AFTER_SECONDS
from tests.scrape.scene import (
    DEPTH,
    OTHER_PAGE,
    PAGE,
    POD,
    Scene,
    scenario,
)
from tests.scrape.virtual_time import run_in_virtual_time
from tests.scrape.web import ABSENT, DENIED, NO_ANSWER, REFUSED, Answer, sglang, vllm


@scenario
async def test_only_the_found_engine_is_scraped_after_the_search() -> None:
    async with Scene({"10.1.2.3:8002/metrics": ABSENT, "10.1.2.3:30000/metrics": sglang(waiting=7)}) as scene:
        result = await scene.register_interest(POD)
        assert result.failure is None
        assert not result.is_no_engine
        assert scene.history().url == "http://10.1.2.3:30000/metrics"
        assert scene.newest().waiting == 7
        assert scene.web.urls == ["10.1.2.3:8000/metrics", "10.1.2.3:30000/metrics"]
        await scene.pass_time(60)
        assert set(scene.web.urls[2:]) == {"10.1.2.3:30000/metrics"}


OTHER_JSON = b'{"status": "ok"}'


@pytest.mark.parametrize(
    ("pages", "is_no_engine", "failure"),
    [
        pytest.param(
            {},
            True,
            "no engine is found: port 8000/metrics: the connection is refused; "
            "port 30000/metrics: the connection is refused; and 10 more",
            id="each port refuses the connection",
        ),
        pytest.param(
            {PAGE: ABSENT}, True, "port 8000/metrics: the server has no such page", id="another server answers"
        ),
        pytest.param(
            {PAGE: OTHER_PAGE},
            True,
            "the page has no series of a known engine",
            id="a page without series of an engine",
        ),
        pytest.param({PAGE: OTHER_JSON}, True, "it is JSON of an unknown kind", id="other JSON"),
        pytest.param(
            {PAGE: b"<html>hello</html>"}, True, "the page has no series of a known engine", id="an HTML page"
        ),
        pytest.param(
            {PAGE: NO_ANSWER}, False, "port 8000/metrics: no answer within 2 s", id="one candidate does not answer"
        ),
        pytest.param(
            {"10.1.2.3:8080/metrics": NO_ANSWER},
            False,
            "port 8080/metrics: no answer within 2 s",
            id="a missing answer is listed before the answers",
        ),
        pytest.param({PAGE: DENIED}, False, "10.1.2.3 is refused", id="the address is not allowed"),
        pytest.param(
            {PAGE: b"vllm:num_requests_running {\n"},
            False,
            "its metrics cannot be read",
            id="a page of an engine that cannot be parsed",
        ),
        pytest.param(
            {PAGE: ValueError("oops")}, False, "unexpected ValueError: see the log", id="a defect of the scaler"
        ),
    ],
)
def test_the_result_of_a_pod_without_a_found_engine(pages: dict[str, Answer], is_no_engine: bool, failure: str) -> None:
    async def scenario_of_case() -> None:
        async with Scene(pages) as scene:
            scene.manager.register_interest(POD, window_seconds=10.0)
            await scene.pass_time(1.0)
            result = scene.result()
            assert result.is_no_engine is is_no_engine
            assert result.failure is not None
            assert failure in result.failure
            assert result.targets == ()

    run_in_virtual_time(scenario_of_case())


@pytest.mark.parametrize("page", [sglang(), vllm()], ids=["sglang's page", "vllm's page"])
def test_a_pod_with_another_engine_is_not_a_pod_without_an_engine(page: bytes) -> None:
    async def scenario_of_case() -> None:
        async with Scene({"10.1.2.3:3000/metrics": page}) as scene:
            result = await scene.register_interest(replace(POD, engine="tgi"))
            assert result.failure is not None
            assert "not of tgi: correct `engine`, or set the engine's port" in result.failure
            assert not result.is_no_engine

    run_in_virtual_time(scenario_of_case())


@pytest.mark.parametrize(
    ("engine", "pages"),
    [
        pytest.param("tgi", {"10.1.2.3:80/metrics": b"tgi_queue_size 7\n"}, id="the port of TGI's image"),
        pytest.param("tei", {"10.1.2.3:9000/metrics": b"te_queue_size 7\n"}, id="the port of TEI's image for gRPC"),
        pytest.param(
            "nim",
            {"10.1.2.3:8000/v1/metrics": ABSENT, "10.1.2.3:8000/metrics": b"num_requests_waiting 7\n"},
            id="the path of a NIM for vision",
        ),
        pytest.param("nim", {"10.1.2.3:8000/v1/metrics": vllm(waiting=7)}, id="the page of vLLM in NIM 2.x"),
    ],
)
def test_a_named_engine_is_found_at_the_port_or_path_of_its_variants(engine: str, pages: dict[str, Answer]) -> None:
    async def scenario_of_case() -> None:
        async with Scene(pages) as scene:
            await scene.register_interest(replace(POD, engine=engine))
            assert scene.newest(replace(POD, engine=engine)).waiting == 7

    run_in_virtual_time(scenario_of_case())


@pytest.mark.parametrize(
    ("engine", "failure"),
    [
        pytest.param("tei", "no series of tei; TEI exports its queue from its first request on", id="TEI"),
        pytest.param("vllm", "no series of vllm", id="an engine that exports its queue from the start"),
    ],
)
def test_an_empty_page_of_a_named_engine_says_that_it_may_need_a_request(engine: str, failure: str) -> None:
    async def scenario_of_case() -> None:
        port = ENGINES[engine].port
        async with Scene({f"10.1.2.3:{port}/metrics": b""}) as scene:
            result = await scene.register_interest(replace(POD, engine=engine))
            assert result.failure is not None
            assert re.search(re.escape(failure) + "(; port|$)", result.failure), result.failure

    run_in_virtual_time(scenario_of_case())


@scenario
async def test_a_missing_answer_is_a_result_before_the_search_ends() -> None:
    async with Scene({PAGE: NO_ANSWER, "10.1.2.3:11434/api/ps": sglang()}) as scene:
        scene.web.seconds = {f"10.1.2.3:{it.port}{it.path}": 2.0 for it in ENGINES.values()}
        began = scene.loop.time()
        result = await scene.register_interest(POD)
        assert scene.loop.time() - began < 3
        assert result.failure is not None
        assert not result.is_no_engine
        await scene.pass_time(20)
        assert scene.history().url == "http://10.1.2.3:11434/api/ps"


@scenario
async def test_the_pause_between_searches_grows_to_its_limit() -> None:
    async with Scene() as scene:
        await scene.register_interest(POD)
        await scene.pass_time(200)
        times = scene.web.times(PAGE)
        pauses = [round(later - earlier) for earlier, later in itertools.pairwise(times)]
        assert pauses[:7] == [2, 4, 8, 16, 30, 30, 30]


@scenario
async def test_a_new_engine_is_found_by_the_next_search() -> None:
    async with Scene() as scene:
        assert (await scene.register_interest(POD)).is_no_engine
        scene.web.pages[PAGE] = vllm()
        await scene.pass_time(3)
        assert scene.history().failure is None
        assert not scene.result().is_no_engine


@scenario
async def test_the_samples_remain_while_the_engine_does_not_answer() -> None:
    async with Scene({PAGE: vllm(waiting=3)}) as scene:
        await scene.register_interest(POD)
        scene.web.pages[PAGE] = NO_ANSWER
        await scene.pass_time(10 * LOST_AFTER_SECONDS)
        assert scene.history().failure == "no answer within 2 s"
        assert scene.newest().waiting == 3
        assert set(scene.web.urls) == {PAGE}, "an engine that does not answer may recover"


@scenario
async def test_a_lost_engine_is_searched_for_at_other_ports() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        await scene.register_interest(POD)
        scene.web.pages = {"10.1.2.3:30000/metrics": sglang()}
        await scene.pass_time(LOST_AFTER_SECONDS - 3)
        assert set(scene.web.urls) == {PAGE}
        assert scene.history().failure == "the connection is refused"
        await scene.pass_time(10)
        assert scene.history().url == "http://10.1.2.3:30000/metrics"
        assert len(scene.history().samples) >= 1


@scenario
async def test_a_pod_with_a_lost_engine_is_not_a_pod_without_an_engine() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        await scene.register_interest(POD)
        scene.web.pages = {}
        for _ in range(200):
            await scene.pass_time(1)
            assert not scene.result().is_no_engine
            assert scene.history().failure == "the connection is refused"
        scene.web.pages = {PAGE: vllm(waiting=5)}
        await scene.pass_time(31)
        assert scene.history().failure is None


@scenario
async def test_a_short_refusal_begins_no_new_search() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        await scene.register_interest(POD)
        for _ in range(4):
            scene.web.pages[PAGE] = REFUSED
            await scene.pass_time(LOST_AFTER_SECONDS - 5)
            scene.web.pages[PAGE] = vllm()
            await scene.pass_time(5)
        assert set(scene.web.urls) == {PAGE}


@scenario
async def test_a_page_that_loses_the_series_of_its_engine_is_a_failure() -> None:
    async with Scene({PAGE: vllm(waiting=3)}) as scene:
        await scene.register_interest(POD)
        scene.web.pages[PAGE] = OTHER_PAGE
        await scene.pass_time(3)
        assert scene.history().failure == "the page has no series of a known engine"
        assert scene.history().samples == ()


@scenario
async def test_a_pods_page_with_the_requested_series_is_accepted_without_an_engine() -> None:
    async with Scene({PAGE: OTHER_PAGE, "10.1.2.3:8080/metrics": b'depth{queue="llama"} 4\n'}) as scene:
        await scene.register_interest(replace(POD, declared_ports=(8080,)), series=DEPTH.text)
        assert scene.newest(replace(POD, declared_ports=(8080,))).selected[DEPTH.text] is not None


@scenario
async def test_a_pod_with_another_address_is_another_endpoint() -> None:
    moved = replace(POD, address="10.9.9.9")
    async with Scene({PAGE: vllm(waiting=1), "10.9.9.9:8000/metrics": vllm(waiting=2)}) as scene:
        await scene.register_interest(POD, moved)
        assert [it.waiting for it in scene.history().samples] == [1]
        assert [it.waiting for it in scene.history(moved).samples] == [2]
