# SPDX-License-Identifier: Apache-2.0
"""Endpoints that appear, vanish, hang and talk nonsense, over hours that take no time."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.counters import ScrapeCounts
from keda_gpu_scaler.core.selectors import parse_series
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.metrics import ENGINES
from keda_gpu_scaler.core.types import EngineSample, PodRef
from keda_gpu_scaler.scrape import manager as scraping_module
from keda_gpu_scaler.scrape.address_policy import AddressPolicy
from keda_gpu_scaler.scrape.credentials import Credentials
from keda_gpu_scaler.scrape.http_client import HttpClient
from keda_gpu_scaler.scrape.loop import MAX_READINGS
from keda_gpu_scaler.scrape.manager import IDLE_TIMEOUT_SECONDS, MAX_NEEDS, ScrapeManager
from keda_gpu_scaler.scrape.pacing import Pacer
from keda_gpu_scaler.scrape.targets import LOST_SECONDS, MAX_ADDRESSES, MAX_CANDIDATES, candidates
from tests.scrape.virtual_time import play
from tests.scrape.web import ABSENT, DENIED, REFUSED, SILENT, TEXT, Answer, Web, sglang, vllm

POD = Endpoint(PodRef("ai", "llama-0"), "10.1.2.3")
AT = "10.1.2.3:8000/metrics"
ROUTER = Endpoint(url="http://router.ai.svc/metrics", every_address=True)
ONE = Endpoint(url="http://router.ai.svc/metrics")
DEPTH = parse_series('depth{queue="llama"}')


class Scene:
    """A scraper over a web, in a loop whose time a test lets pass."""

    def __init__(self, pages: Mapping[str, Answer] | None = None, **settings: float) -> None:
        self.web = Web()
        self.web.pages.update(pages or {})
        self.loop = asyncio.get_running_loop()
        self.news: list[float] = []
        self.scraping = ScrapeManager(
            self.web,
            clock=self.loop.time,
            on_news=lambda: self.news.append(self.loop.time()),
            **settings,
        )
        self._asking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Scene":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.scraping.close()

    async def register_interest(
        self, *endpoints: Endpoint, window: float = 10.0, series: str = "", demand: bool = False
    ) -> ScrapeResult:
        """Ask, wait until it is settled, and return what came of the first."""
        selectors = (parse_series(series),) if series else ()
        for endpoint in endpoints:
            self.scraping.register_interest(endpoint, window_seconds=window, selectors=selectors, demand=demand)
        await self.scraping.wait_for_sync(endpoints)
        return self.told(endpoints[0])

    def told(self, endpoint: Endpoint = POD) -> ScrapeResult:
        return self.scraping.scrape_results()[endpoint]

    def page(self, endpoint: Endpoint = POD) -> TargetHistory:
        (page,) = self.told(endpoint).pages
        return page

    def newest(self, endpoint: Endpoint = POD) -> EngineSample:
        newest = self.page(endpoint).newest
        assert newest is not None
        return newest

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def tidy_for(self, seconds: float, *still_asked: Endpoint) -> None:
        """Let time pass, tidying as an agent does, while somebody goes on asking for these."""
        for _ in range(int(seconds / 5)):
            for endpoint in still_asked:
                self.scraping.register_interest(endpoint, window_seconds=10.0)
            await self.pass_time(5.0)
            self.scraping.expire_idle()


Scenario = Callable[[], Awaitable[None]]


def scenario(function: Scenario) -> Callable[[], None]:
    """Play it in a loop whose time is its own."""

    def test() -> None:
        play(function())  # type: ignore[arg-type]

    test.__name__ = function.__name__
    return test


# ---- pods: where is the engine? ----


def ports_and_paths(endpoint: Endpoint) -> list[str]:
    return [f"{target.url.scheme}:{target.url.port}{target.url.path}" for target in candidates(endpoint)]


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        pytest.param(
            replace(POD, engine="vllm", port=9000, path="/m", scheme="https"), ["https:9000/m"], id="what was said"
        ),
        pytest.param(replace(POD, engine="nim"), ["http:8000/v1/metrics"], id="an engine's own port and path"),
        pytest.param(
            replace(POD, engine="nim", port=9000), ["http:9000/v1/metrics"], id="a port, and the engine's path"
        ),
        pytest.param(
            replace(POD, engine="vllm", declared_ports=(8080, 8000)),
            ["http:8000/metrics", "http:8080/metrics"],
            id="an engine's own port before those that are declared",
        ),
        pytest.param(
            replace(POD, port=9000),
            ["http:9000/metrics", "http:9000/prometheus/metrics", "http:9000/v1/metrics", "http:9000/api/ps"],
            id="at a port that was said each engine's path",
        ),
        pytest.param(replace(POD, port=9000, path="/m"), ["http:9000/m"], id="nothing is left to be found"),
    ],
)
def test_an_engine_is_looked_for(endpoint: Endpoint, expected: list[str]) -> None:
    assert ports_and_paths(endpoint) == expected


def test_without_a_hint_every_engine_has_its_turn_in_the_order_of_the_catalog() -> None:
    assert ports_and_paths(POD) == [f"http:{engine.port}{engine.path}" for engine in ENGINES.values()]


def test_ports_that_the_pod_declares_come_first_and_push_no_engine_out() -> None:
    found = ports_and_paths(replace(POD, declared_ports=(9100, 30000, *range(7001, 7040))))
    assert found[:3] == ["http:30000/metrics", "http:9100/metrics", "http:7001/metrics"]
    assert set(ports_and_paths(POD)) <= set(found)
    assert len(found) <= MAX_CANDIDATES


@pytest.mark.parametrize("engine", [None, *ENGINES], ids=lambda engine: engine or "any")
def test_no_place_is_tried_twice(engine: str | None) -> None:
    endpoint = replace(POD, engine=engine or "auto", declared_ports=(8000, 8000, 8002, 8080))
    found = ports_and_paths(endpoint)
    assert len(found) == len(set(found))


@scenario
async def test_an_engine_is_found_where_it_answers_and_asked_there_alone_from_then_on() -> None:
    async with Scene({"10.1.2.3:8002/metrics": ABSENT, "10.1.2.3:30000/metrics": sglang(waiting=7)}) as scene:
        told = await scene.register_interest(POD)
        assert told.failure is None
        assert not told.is_no_engine
        assert scene.page().where == "http://10.1.2.3:30000/metrics"
        assert scene.newest().waiting == 7
        assert scene.web.places == ["10.1.2.3:8000/metrics", "10.1.2.3:30000/metrics"]
        await scene.pass_time(60)
        assert set(scene.web.places[2:]) == {"10.1.2.3:30000/metrics"}


NO = b"python_gc_objects_collected_total 5\n"
SOMETHING = b'{"status": "ok"}'


@pytest.mark.parametrize(
    ("pages", "is_no_engine", "failure"),
    [
        pytest.param(
            {}, True,
            "no engine is found: port 8000/metrics: the connection is refused; "
            "port 30000/metrics: the connection is refused; and 7 more",
            id="nothing listens anywhere",
        ),
        pytest.param({AT: ABSENT}, True, "port 8000/metrics: it has no such page", id="another server answers"),
        pytest.param({AT: NO}, True, "it exports nothing of an engine that is known", id="a page that is no engine's"),
        pytest.param({AT: SOMETHING}, True, "it is JSON of no kind that is known", id="JSON of another kind"),
        pytest.param({AT: b"<html>hello</html>"}, True, "it exports nothing of an engine", id="a page for people"),
        pytest.param({AT: SILENT}, False, "port 8000/metrics: no answer within 2 s", id="one place keeps silent"),
        pytest.param(
            {"10.1.2.3:8080/metrics": SILENT}, False, "port 8080/metrics: no answer within 2 s",
            id="silence is told before what answered",
        ),
        pytest.param({AT: DENIED}, False, "10.1.2.3 is refused", id="the address may not be asked"),
        pytest.param(
            {AT: b"vllm:num_requests_running {\n"},
            False,
            "its metrics cannot be read",
            id="an engine's page is garbled",
        ),
        pytest.param({AT: ValueError("oops")}, False, "unexpected ValueError: oops", id="a defect of ours"),
    ],
)  # fmt: skip
def test_a_pod_without_an_engine(pages: dict[str, Answer], is_no_engine: bool, failure: str) -> None:
    async def tell() -> None:
        async with Scene(pages) as scene:
            scene.scraping.register_interest(POD, window_seconds=10.0)
            await scene.pass_time(1.0)
            told = scene.told()
            assert told.is_no_engine is is_no_engine
            assert told.failure is not None
            assert failure in told.failure
            assert told.pages == ()

    play(tell())


@pytest.mark.parametrize("page", [sglang(), vllm()], ids=["sglang's page", "vllm's page"])
def test_an_engine_of_another_name_is_told_and_is_not_a_pod_without_any(page: bytes) -> None:
    async def tell() -> None:
        async with Scene({"10.1.2.3:3000/metrics": page}) as scene:
            told = await scene.register_interest(replace(POD, engine="tgi"))
            assert told.failure is not None
            assert "and not of tgi: correct `engine`, or name its port" in told.failure
            assert not told.is_no_engine

    play(tell())


@scenario
async def test_silence_is_told_while_the_search_goes_on() -> None:
    async with Scene({AT: SILENT, "10.1.2.3:11434/api/ps": sglang()}) as scene:
        scene.web.seconds = {f"10.1.2.3:{it.port}{it.path}": 2.0 for it in ENGINES.values()}
        began = scene.loop.time()
        told = await scene.register_interest(POD)
        assert scene.loop.time() - began < 3
        assert told.failure is not None
        assert not told.is_no_engine
        await scene.pass_time(18)
        assert scene.page().where == "http://10.1.2.3:11434/api/ps"


@scenario
async def test_where_no_engine_is_found_it_is_looked_for_less_and_less_often() -> None:
    async with Scene() as scene:
        await scene.register_interest(POD)
        await scene.pass_time(200)
        times = scene.web.times(AT)
        pauses = [round(later - earlier) for earlier, later in itertools.pairwise(times)]
        assert pauses[:7] == [2, 4, 8, 16, 30, 30, 30]


@scenario
async def test_an_engine_that_appears_is_found_in_the_next_round() -> None:
    async with Scene() as scene:
        assert (await scene.register_interest(POD)).is_no_engine
        scene.web.pages[AT] = vllm()
        await scene.pass_time(3)
        assert scene.page().failure is None
        assert not scene.told().is_no_engine


@scenario
async def test_what_it_told_stands_while_it_does_not_answer() -> None:
    async with Scene({AT: vllm(waiting=3)}) as scene:
        await scene.register_interest(POD)
        scene.web.pages[AT] = SILENT
        await scene.pass_time(10 * LOST_SECONDS)
        assert scene.page().failure == "no answer within 2 s"
        assert scene.newest().waiting == 3
        assert set(scene.web.places) == {AT}, "whatever keeps silent may come back"


@scenario
async def test_an_engine_that_is_gone_for_long_is_looked_for_elsewhere() -> None:
    async with Scene({AT: vllm()}) as scene:
        await scene.register_interest(POD)
        scene.web.pages = {"10.1.2.3:30000/metrics": sglang()}
        await scene.pass_time(LOST_SECONDS - 3)
        assert set(scene.web.places) == {AT}
        assert scene.page().failure == "the connection is refused"
        await scene.pass_time(10)
        assert scene.page().where == "http://10.1.2.3:30000/metrics"
        assert len(scene.page().readings) >= 1


@scenario
async def test_while_a_lost_engine_is_looked_for_its_pod_is_not_one_without_any() -> None:
    async with Scene({AT: vllm()}) as scene:
        await scene.register_interest(POD)
        scene.web.pages = {}
        for _ in range(200):
            await scene.pass_time(1)
            assert not scene.told().is_no_engine
            assert scene.page().failure == "the connection is refused"
        scene.web.pages = {AT: vllm(waiting=5)}
        await scene.pass_time(31)
        assert scene.page().failure is None


@scenario
async def test_a_short_refusal_is_no_reason_to_look_elsewhere() -> None:
    async with Scene({AT: vllm()}) as scene:
        await scene.register_interest(POD)
        for _ in range(4):
            scene.web.pages[AT] = REFUSED
            await scene.pass_time(LOST_SECONDS - 5)
            scene.web.pages[AT] = vllm()
            await scene.pass_time(5)
        assert set(scene.web.places) == {AT}


@scenario
async def test_a_page_that_stops_being_the_engines_is_told_so() -> None:
    async with Scene({AT: vllm(waiting=3)}) as scene:
        await scene.register_interest(POD)
        scene.web.pages[AT] = NO
        await scene.pass_time(3)
        assert scene.page().failure == "it exports nothing of an engine that is known"
        assert scene.page().readings == ()


@scenario
async def test_a_pods_page_is_meant_for_its_series_whatever_its_engine() -> None:
    async with Scene({AT: NO, "10.1.2.3:8080/metrics": b'depth{queue="llama"} 4\n'}) as scene:
        await scene.register_interest(replace(POD, declared_ports=(8080,)), series=DEPTH.text)
        assert scene.newest(replace(POD, declared_ports=(8080,))).selected[DEPTH.text] is not None


@scenario
async def test_a_pod_that_has_another_address_is_another_endpoint() -> None:
    moved = replace(POD, address="10.9.9.9")
    async with Scene({AT: vllm(waiting=1), "10.9.9.9:8000/metrics": vllm(waiting=2)}) as scene:
        await scene.register_interest(POD, moved)
        assert [it.waiting for it in scene.page().readings] == [1]
        assert [it.waiting for it in scene.page(moved).readings] == [2]


# ---- URLs: which addresses? ----


def addresses(*numbers: int) -> tuple[str, ...]:
    return tuple(f"10.0.0.{number}" for number in numbers)


def depths(**values: float) -> dict[str, Answer]:
    return {f"10.0.0.{name[1:]}:80/metrics": f'depth{{queue="llama"}} {it}\n'.encode() for name, it in values.items()}


def seen_at(scraped: ScrapeResult) -> list[str]:
    return [page.where.rpartition(" at ")[2] for page in scraped.pages]


@scenario
async def test_each_address_of_a_name_has_a_page() -> None:
    async with Scene(depths(_1=1, _2=2)) as scene:
        scene.web.names["router.ai.svc"] = addresses(2, 1)
        told = await scene.register_interest(ROUTER, series=DEPTH.text, demand=True)
        assert seen_at(told) == ["10.0.0.1", "10.0.0.2"]
        values = [page.newest.selected[DEPTH.text] for page in told.pages if page.newest]
        assert [value.value for value in values if value] == [1, 2]
        assert told.pages[0].where == "http://router.ai.svc/metrics at 10.0.0.1"


@scenario
async def test_what_has_an_address_of_each_family_counts_once() -> None:
    async with Scene({**depths(_1=1, _2=2), "fd00::1:80/metrics": b"", "fd00::2:80/metrics": b""}) as scene:
        scene.web.names["router.ai.svc"] = ("fd00::2", "10.0.0.2", "fd00::1", "10.0.0.1")
        assert seen_at(await scene.register_interest(ROUTER, series=DEPTH.text, demand=True)) == [
            "10.0.0.1",
            "10.0.0.2",
        ]
        scene.web.names["router.ai.svc"] = ("fd00::2", "10.0.0.2", "fd00::1")
        await scene.pass_time(6)
        assert seen_at(scene.told(ROUTER)) == ["fd00::1", "fd00::2"]


@scenario
async def test_addresses_come_and_go_as_the_name_is_resolved_anew() -> None:
    async with Scene(depths(_1=1, _2=2, _3=3)) as scene:
        scene.web.names["router.ai.svc"] = addresses(1, 2)
        await scene.register_interest(ROUTER, series=DEPTH.text, demand=True)
        kept = scene.told(ROUTER).pages[1].readings[0]
        scene.web.names["router.ai.svc"] = addresses(3, 2)
        await scene.pass_time(6)
        assert seen_at(scene.told(ROUTER)) == ["10.0.0.2", "10.0.0.3"]
        assert scene.told(ROUTER).pages[0].readings[0] is kept
        asked = len(scene.web.times("10.0.0.1:80/metrics"))
        await scene.pass_time(60)
        assert len(scene.web.times("10.0.0.1:80/metrics")) == asked, "nobody asks what the name has no more"


@scenario
async def test_a_name_is_resolved_every_five_seconds_and_an_address_once() -> None:
    async with Scene({**depths(_1=1)}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(ROUTER, Endpoint(url="http://10.0.0.1/metrics"), series=DEPTH.text, demand=True)
        await scene.pass_time(61)
        hosts = [host for _, host in scene.web.resolved]
        assert hosts.count("router.ai.svc") == 13
        assert hosts.count("10.0.0.1") == 1


@scenario
async def test_while_a_name_cannot_be_resolved_its_last_addresses_stand() -> None:
    async with Scene(depths(_1=1)) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(ROUTER, series=DEPTH.text, demand=True)
        scene.web.names["router.ai.svc"] = SILENT
        await scene.pass_time(60)
        (page,) = scene.told(ROUTER).pages
        assert page.failure is None
        assert page.newest is not None
        assert scene.loop.time() - page.newest.at_seconds < 2


@pytest.mark.parametrize(
    ("error", "sentence"),
    [(SILENT, "no answer within 2 s"), (DENIED, "10.1.2.3 is refused"), (OSError("oops"), "unexpected OSError: oops")],
    ids=["it is not resolved", "it may not be asked", "a defect of ours"],
)
def test_a_name_without_an_address_is_told_so_until_it_has_one(error: Exception, sentence: str) -> None:
    async def tell() -> None:
        async with Scene(depths(_1=1)) as scene:
            scene.web.names["router.ai.svc"] = error
            told = await scene.register_interest(ROUTER, series=DEPTH.text, demand=True)
            assert told == ScrapeResult(failure=sentence)
            scene.web.names["router.ai.svc"] = addresses(1)
            await scene.pass_time(6)
            assert scene.page(ROUTER).failure is None

    play(tell())


@scenario
async def test_an_address_that_may_not_be_asked_any_more_is_not() -> None:
    async with Scene(depths(_1=1)) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(ROUTER, series=DEPTH.text, demand=True)
        scene.web.names["router.ai.svc"] = DENIED
        await scene.pass_time(6)
        assert scene.told(ROUTER) == ScrapeResult(failure="10.1.2.3 is refused")
        asked = len(scene.web.asked)
        await scene.pass_time(60)
        assert len(scene.web.asked) == asked


@scenario
async def test_a_url_that_cannot_be_read_is_told_so_and_not_resolved() -> None:
    async with Scene() as scene:
        told = await scene.register_interest(Endpoint(url="gopher://router"))
        assert told.failure == "URL: must begin with http:// or https://"
        assert scene.web.resolved == []


@scenario
async def test_more_addresses_than_are_asked_are_not_passed_over_in_silence() -> None:
    async with Scene() as scene:
        scene.web.names["router.ai.svc"] = tuple(f"10.0.{it // 256}.{it % 256}" for it in range(MAX_ADDRESSES + 1))
        told = await scene.register_interest(ROUTER, series=DEPTH.text, demand=True)
        assert len(told.pages) == MAX_ADDRESSES + 1
        assert told.pages[-1].failure == "the name has 257 addresses, and 256 are the most that are asked"


@scenario
async def test_an_address_that_was_not_scraped_yet_is_not_spoken_of_while_others_are() -> None:
    async with Scene(depths(_1=1, _2=2)) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(ROUTER, series=DEPTH.text, demand=True)
        scene.web.names["router.ai.svc"] = addresses(1, 2)
        scene.web.seconds["10.0.0.2:80/metrics"] = 2.0
        await scene.pass_time(6)
        assert seen_at(scene.told(ROUTER)) == ["10.0.0.1"]
        await scene.pass_time(2)
        assert seen_at(scene.told(ROUTER)) == ["10.0.0.1", "10.0.0.2"]


@scenario
async def test_where_one_address_is_enough_the_first_that_answers_is_kept() -> None:
    async with Scene({"10.0.0.2:80/metrics": vllm(), "10.0.0.3:80/metrics": vllm()}) as scene:
        scene.web.names["router.ai.svc"] = addresses(3, 1, 2)
        told = await scene.register_interest(ONE)
        assert seen_at(told) == ["10.0.0.2"]
        assert scene.web.places == ["10.0.0.1:80/metrics", "10.0.0.2:80/metrics"]
        scene.web.pages["10.0.0.1:80/metrics"] = vllm()
        scene.web.names["router.ai.svc"] = addresses(1, 3, 2)
        await scene.pass_time(60)
        assert seen_at(scene.told(ONE)) == ["10.0.0.2"]
        assert scene.web.times("10.0.0.3:80/metrics") == []


@scenario
async def test_one_that_answered_is_not_left_for_one_failure() -> None:
    async with Scene({"10.0.0.1:80/metrics": vllm(), "10.0.0.2:80/metrics": vllm()}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1, 2)
        await scene.register_interest(ONE)
        for _ in range(10):
            scene.web.pages["10.0.0.1:80/metrics"] = SILENT
            await scene.pass_time(4)
            scene.web.pages["10.0.0.1:80/metrics"] = vllm()
            await scene.pass_time(2)
        assert scene.web.times("10.0.0.2:80/metrics") == []
        scene.web.pages["10.0.0.1:80/metrics"] = SILENT
        await scene.pass_time(7)
        assert seen_at(scene.told(ONE)) == ["10.0.0.2"]


@scenario
async def test_one_that_the_name_has_no_more_is_left_at_once() -> None:
    async with Scene({"10.0.0.1:80/metrics": vllm(), "10.0.0.2:80/metrics": vllm()}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(ONE)
        scene.web.names["router.ai.svc"] = addresses(2)
        await scene.pass_time(5.5)
        assert seen_at(scene.told(ONE)) == ["10.0.0.2"]


@scenario
async def test_where_every_address_fails_they_are_asked_at_the_usual_pace() -> None:
    async with Scene() as scene:
        scene.web.names["router.ai.svc"] = addresses(1, 2, 3)
        told = await scene.register_interest(ONE)
        assert told.pages[0].failure == "the connection is refused"
        asked = len(scene.web.asked)
        assert asked <= 3
        await scene.pass_time(60)
        assert 20 <= len(scene.web.asked) - asked <= 31
        assert set(scene.web.places) == {f"10.0.0.{number}:80/metrics" for number in (1, 2, 3)}


@scenario
async def test_a_url_that_is_no_engines_and_asked_for_no_series_is_told_so() -> None:
    async with Scene({"10.0.0.1:80/metrics": NO}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(ONE)
        assert scene.page(ONE).failure == "it exports nothing of an engine that is known"
        told = await scene.register_interest(ONE, series="python_gc_objects_collected_total")
        assert told.pages[0].failure is None


@scenario
async def test_a_url_is_meant_for_its_series_before_they_are_there() -> None:
    async with Scene({"10.0.0.1:80/metrics": NO}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        told = await scene.register_interest(ROUTER, series=DEPTH.text, demand=True)
        assert told.pages[0].failure is None
        assert scene.newest(ROUTER).selected == {DEPTH.text: None}


@scenario
async def test_a_url_of_another_engine_than_was_said_is_told_so() -> None:
    endpoint = replace(ONE, engine="triton")
    async with Scene({"10.0.0.1:80/metrics": vllm()}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(endpoint)
        assert "it is a page of vllm, and not of triton" in str(scene.page(endpoint).failure)


# ---- pace ----


@scenario
async def test_a_page_keeps_its_own_beat() -> None:
    async with Scene({AT: vllm()}) as scene:
        await scene.register_interest(POD)
        await scene.pass_time(20)
        first, second, *others = scene.web.times(AT)
        assert second - first >= 0.5, "a counter's two readings that all but coincide make a rate of chance"
        assert len(others) in (8, 9)
        assert {round(later - earlier, 6) for earlier, later in itertools.pairwise([second, *others])} == {2.0}


@scenario
async def test_a_fleets_pages_are_not_asked_for_at_the_same_instant() -> None:
    pods = [replace(POD, address=f"10.1.2.{number}", engine="vllm") for number in range(200)]
    async with Scene({f"{pod.address}:8000/metrics": vllm() for pod in pods}) as scene:
        await scene.register_interest(*pods)
        await scene.pass_time(10)
        began = scene.loop.time()
        await scene.pass_time(2)
        tenths = [int((at - began) * 10) for at, _ in scene.web.asked if at >= began]
        assert len(tenths) == 200
        assert max(tenths.count(tenth) for tenth in range(20)) < 25


@scenario
async def test_demand_is_looked_at_more_often_than_engines() -> None:
    async with Scene({AT: vllm(), **depths(_1=1)}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(POD)
        await scene.register_interest(ROUTER, series=DEPTH.text, demand=True)
        scene.web.asked.clear()
        await scene.pass_time(20)
        assert len(scene.web.times(AT)) == 10
        assert len(scene.web.times("10.0.0.1:80/metrics")) == 40


@scenario
async def test_a_slow_page_is_asked_once_at_a_time_and_delays_nobody() -> None:
    other = replace(POD, address="10.1.2.4")
    async with Scene({AT: vllm(), "10.1.2.4:8000/metrics": vllm()}) as scene:
        await scene.register_interest(POD, other)
        scene.web.seconds[AT] = 5.0
        scene.web.asked.clear()
        await scene.pass_time(60)
        assert scene.web.most_at_once == 1
        assert 8 <= len(scene.web.times(AT)) <= 10, "what it missed is not made up for"
        assert len(scene.web.times("10.1.2.4:8000/metrics")) == 30


@scenario
async def test_a_page_is_scraped_once_for_everybody_who_needs_it() -> None:
    named = replace(POD, engine="vllm")
    with_port = replace(POD, engine="vllm", port=8000)
    more = 'depth{queue="llama"} 4\n'
    async with Scene({AT: vllm(more=more)}) as scene:
        await scene.register_interest(POD)
        await scene.register_interest(named, with_port, series=DEPTH.text)
        scene.web.asked.clear()
        await scene.pass_time(20)
        assert 9 <= len(scene.web.asked) <= 10
        assert scene.page() == scene.page(named) == scene.page(with_port)
        assert DEPTH.text in scene.newest().selected


@scenario
async def test_a_pods_page_and_the_same_url_of_a_trigger_are_judged_each_on_its_own() -> None:
    async with Scene({AT: vllm()}) as scene:
        await scene.register_interest(POD, Endpoint(url="http://10.1.2.3:8000/metrics"))
        assert scene.web.places == [AT, AT], "what a pod may be asked, a URL may not"


@scenario
async def test_a_pod_that_got_another_pods_address_has_not_told_what_that_one_told() -> None:
    async with Scene({AT: vllm(waiting=40)}) as scene:
        await scene.register_interest(POD, window=300.0)
        await scene.pass_time(20)
        scene.web.pages[AT] = vllm(waiting=0)
        heir = replace(POD, pod=PodRef("ai", "llama-9"))
        told = await scene.register_interest(heir, window=300.0)
        assert [it.waiting for it in told.pages[0].readings] == [0]


@scenario
async def test_no_flood_of_series_makes_a_page_dear_and_those_that_were_asked_for_before_stay() -> None:
    async with Scene({AT: vllm(more='depth{queue="llama"} 4\n')}) as scene:
        await scene.register_interest(POD, series=DEPTH.text)
        for number in range(MAX_NEEDS + 10):
            scene.scraping.register_interest(
                POD, window_seconds=10.0 + number, selectors=(parse_series(f"depth_{number}"),)
            )
        await scene.pass_time(10)
        assert len(scene.newest().selected) == MAX_NEEDS
        assert DEPTH.text in scene.newest().selected
        await scene.register_interest(POD, series=DEPTH.text)


@scenario
async def test_a_series_that_nobody_asked_for_before_is_read_soon() -> None:
    async with Scene({AT: vllm(more='depth{queue="llama"} 4\n')}, interval_seconds=60.0) as scene:
        await scene.register_interest(POD)
        began = scene.loop.time()
        told = await scene.register_interest(POD, series=DEPTH.text)
        assert scene.loop.time() - began <= 15.1
        assert told.pages[0].newest is not None
        assert told.pages[0].newest.selected[DEPTH.text] is not None


@scenario
async def test_a_page_that_was_read_before_a_series_was_asked_for_is_not_judged_by_it() -> None:
    other = replace(POD, engine="tgi", port=8000)
    async with Scene({AT: vllm(more='depth{queue="llama"} 4\n')}, interval_seconds=60.0) as scene:
        await scene.register_interest(POD)
        began = scene.loop.time()
        assert (await scene.register_interest(other, series=DEPTH.text)).failure is None
        assert scene.loop.time() - began <= 15.1


# ---- what is kept ----


@scenario
async def test_history_reaches_as_far_as_the_longest_window_and_one_reading_further() -> None:
    async with Scene({AT: vllm()}) as scene:
        await scene.register_interest(POD, window=10)
        await scene.register_interest(POD, window=30)
        await scene.pass_time(120)
        readings = scene.page().readings
        newest = readings[-1].at_seconds
        assert [newest - it.at_seconds >= 30 for it in readings] == [True] + [False] * (len(readings) - 1)
        assert len(readings) == 16


@scenario
async def test_a_window_that_nobody_asks_for_any_more_is_forgotten() -> None:
    async with Scene({AT: vllm()}) as scene:
        await scene.register_interest(POD, window=600, series=DEPTH.text)
        await scene.tidy_for(600, POD)
        assert len(scene.page().readings) == 6
        assert scene.newest().selected == {}


@scenario
async def test_history_is_bounded_whatever_is_asked() -> None:
    async with Scene({AT: vllm()}, interval_seconds=0.5) as scene:
        await scene.register_interest(POD, window=1e9)
        await scene.pass_time(MAX_READINGS)
        assert len(scene.page().readings) == MAX_READINGS


@scenario
async def test_another_engines_counters_are_not_compared() -> None:
    endpoint = replace(POD, port=8000, path="/metrics")
    async with Scene({AT: vllm()}) as scene:
        await scene.register_interest(endpoint, window=60)
        await scene.pass_time(10)
        scene.web.pages[AT] = sglang()
        await scene.pass_time(5)
        assert {it.engine for it in scene.page(endpoint).readings} == {"sglang"}


@scenario
async def test_readings_are_told_at_the_time_when_they_came() -> None:
    async with Scene({AT: vllm()}) as scene:
        scene.web.seconds[AT] = 1.5
        await scene.register_interest(POD)
        assert scene.newest().at_seconds == scene.web.asked[0][0] + 1.5


@scenario
async def test_law_asking_changes_nothing_that_is_told() -> None:
    async with Scene({AT: vllm()}) as scene:
        before = await scene.register_interest(POD)
        for window in (1, 10, 600):
            scene.scraping.register_interest(POD, window_seconds=window)
            assert scene.told() is before


@scenario
async def test_the_same_knowledge_is_the_same_object() -> None:
    async with Scene({AT: vllm()}) as scene:
        await scene.register_interest(POD)
        scene.web.pages[AT] = SILENT
        await scene.pass_time(3)
        failed = scene.told()
        told = len(scene.news)
        await scene.pass_time(20)
        assert scene.told() is failed
        assert len(scene.news) == told


@scenario
async def test_news_of_one_instant_is_told_once() -> None:
    pods = [replace(POD, address=f"10.1.2.{number}") for number in range(50)]
    async with Scene({f"{pod.address}:8000/metrics": vllm() for pod in pods}) as scene:
        await scene.register_interest(*pods)
        await scene.pass_time(0)
        assert 1 <= len(scene.news) <= 3


# ---- how long ----


@scenario
async def test_what_nobody_asks_for_is_let_go() -> None:
    other = replace(POD, address="10.1.2.4")
    async with Scene({AT: vllm(), "10.1.2.4:8000/metrics": vllm()}) as scene:
        await scene.register_interest(POD, other)
        await scene.tidy_for(IDLE_TIMEOUT_SECONDS - 5, other)
        assert POD in scene.scraping.scrape_results()
        await scene.tidy_for(20, other)
        assert set(scene.scraping.scrape_results()) == {other}
        scene.web.asked.clear()
        await scene.pass_time(20)
        assert set(scene.web.places) == {"10.1.2.4:8000/metrics"}
        assert scene.web.tidied > 0


@scenario
async def test_an_endpoint_is_let_go_whatever_it_is_about() -> None:
    slow = replace(POD, address="10.1.2.4")
    async with Scene({"10.1.2.4:8000/metrics": vllm()}) as scene:
        scene.web.seconds["10.1.2.4:8000/metrics"] = 400.0
        scene.web.names["router.ai.svc"] = SILENT
        for endpoint in (POD, slow, ROUTER):
            scene.scraping.register_interest(endpoint, window_seconds=10)
        waiting = asyncio.create_task(scene.scraping.wait_for_sync([slow]))
        await scene.tidy_for(IDLE_TIMEOUT_SECONDS + 10)
        await waiting
        assert dict(scene.scraping.scrape_results()) == {}
        await scene.pass_time(200)
        asked = len(scene.web.asked)
        resolved = len(scene.web.resolved)
        await scene.pass_time(600)
        assert (len(scene.web.asked), len(scene.web.resolved)) == (asked, resolved)
        assert scene.scraping._scrapers == {}


@scenario
async def test_what_is_asked_for_again_while_its_last_fetch_still_runs_is_fetched_once_at_a_time() -> None:
    async with Scene({AT: vllm()}) as scene:
        scene.web.seconds[AT] = 400.0
        scene.scraping.register_interest(POD, window_seconds=10)
        await scene.tidy_for(IDLE_TIMEOUT_SECONDS + 10)
        await scene.register_interest(POD)
        assert scene.web.most_at_once == 1


@scenario
async def test_above_the_most_endpoints_there_may_be_one_is_told_so_and_has_its_turn_later() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scraping_module, "MAX_ENDPOINTS", 1)
        other = replace(POD, address="10.1.2.4")
        async with Scene({AT: vllm(), "10.1.2.4:8000/metrics": vllm()}) as scene:
            await scene.register_interest(POD)
            told = await scene.register_interest(other)
            assert told == ScrapeResult(failure="1 endpoints are scraped, the most there may be")
            await scene.tidy_for(IDLE_TIMEOUT_SECONDS + 10)
            assert (await scene.register_interest(other)).failure is None


@scenario
async def test_once_closed_nothing_is_asked_any_more_and_nobody_waits() -> None:
    async with Scene({AT: vllm()}) as scene:
        scene.web.seconds[AT] = 100.0
        scene.scraping.register_interest(POD, window_seconds=10)
        waiting = asyncio.create_task(scene.scraping.wait_for_sync([POD]))
        await scene.pass_time(1)
        await scene.scraping.close()
        await waiting
        assert scene.web.is_closed
        scene.scraping.register_interest(replace(POD, address="10.1.2.4"), window_seconds=10)
        await scene.pass_time(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert scene.web.places == [AT]


@scenario
async def test_what_was_closed_before_anybody_asked_stays_closed() -> None:
    async with Scene({AT: vllm()}) as scene:
        await scene.scraping.close()
        scene.scraping.register_interest(POD, window_seconds=10)
        await scene.pass_time(1)
        assert scene.web.asked == []


class Chore:
    """Something that is due, and breaks."""

    is_needed = True

    def __init__(self) -> None:
        self.done = 0

    async def do(self) -> None:
        self.done += 1
        raise RuntimeError("oops")


def test_what_breaks_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def break_down() -> None:
        loop = asyncio.get_running_loop()
        schedule, first, second = Pacer(loop.time), Chore(), Chore()
        schedule.do_at(loop.time(), first)
        schedule.do_at(loop.time() + 1, second)
        schedule.do_at(loop.time() + 2, second)
        await asyncio.sleep(1.5)
        assert (first.done, second.done) == (1, 0), "another time takes the place of the one before"
        await asyncio.sleep(1)
        assert second.done == 1
        await schedule.close()

    play(break_down())
    assert [record.name for record in caplog.records if record.exc_info] == ["keda_gpu_scaler.scrape.pacing"] * 2


# ---- what is said of it ----


@scenario
async def test_scrapes_are_counted_by_what_was_recognised() -> None:
    async with Scene({AT: vllm(), **depths(_1=1)}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1, 2)
        await scene.register_interest(POD)
        await scene.register_interest(ROUTER, series=DEPTH.text, demand=True)
        assert scene.scraping.counts() == {"vllm": ScrapeCounts(1, 0), "demand": ScrapeCounts(2, 1)}
        scene.web.pages[AT] = SILENT
        await scene.pass_time(20)
        counts = scene.scraping.counts()
        assert counts["vllm"].scrapes - counts["vllm"].failures == 1
        await scene.register_interest(replace(POD, address="10.1.2.4", engine="vllm"))
        assert scene.scraping.counts()[""] == ScrapeCounts(1, 1)


def test_it_is_logged_when_an_endpoint_begins_to_fail_and_when_that_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        async with Scene({AT: SILENT}) as scene:
            endpoint = replace(POD, engine="vllm", port=8000)
            await scene.register_interest(endpoint)
            await scene.pass_time(60)
            scene.web.pages[AT] = vllm()
            await scene.pass_time(60)
            scene.web.pages[AT] = SILENT
            await scene.pass_time(60)

    with caplog.at_level(logging.INFO):
        play(fail())
    silence = "http://10.1.2.3:8000/metrics: no answer within 2 s"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "pod ai/llama-0: no engine is found: port 8000/metrics: no answer within 2 s"),
        ("INFO", "pod ai/llama-0: it answers again"),
        ("WARNING", f"pod ai/llama-0: {silence}"),
    ]


def test_a_pod_without_an_engine_is_no_cause_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def look() -> None:
        async with Scene() as scene:
            await scene.register_interest(POD)
            await scene.pass_time(300)

    with caplog.at_level(logging.INFO):
        play(look())
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_defect_is_logged_once_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> bytes:
        raise RuntimeError("oops")

    async def break_down() -> None:
        async with Scene({AT: broken}) as scene:
            await scene.register_interest(replace(POD, port=8000, path="/metrics"))
            await scene.pass_time(2 * LOST_SECONDS)
            scene.web.pages[AT] = vllm()
            await scene.pass_time(LOST_SECONDS)
            assert scene.page(replace(POD, port=8000, path="/metrics")).failure is None

    play(break_down())
    assert [record.message for record in caplog.records if record.exc_info] == ["http://10.1.2.3:8000/metrics"]


# ---- with everything that is real ----


class Served:
    """One engine on loopback, over real connections."""

    def __init__(self) -> None:
        self.page = vllm(waiting=3)
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with_end = b"\r\n\r\n"
        try:
            while (await reader.readuntil(with_end)).startswith(b"GET /metrics "):
                head = f"HTTP/1.1 200 OK\r\nContent-Type: {TEXT}\r\nContent-Length: {len(self.page)}\r\n\r\n"
                writer.write(head.encode() + self.page)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def __aenter__(self) -> "Served":
        self._server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()


def test_an_engine_on_loopback_is_scraped_through_a_real_fetcher() -> None:
    async def scrape() -> None:
        async with Served() as served:
            news = asyncio.Event()
            scraping = ScrapeManager(
                HttpClient(AddressPolicy("127.0.0.0/8"), Credentials()), interval_seconds=0.02, on_news=news.set
            )
            pod = Endpoint(PodRef("ai", "llama-0"), "127.0.0.1", port=served.port)
            url = Endpoint(url=f"http://127.0.0.1:{served.port}/metrics")
            for endpoint in (pod, url):
                scraping.register_interest(endpoint, window_seconds=10.0)
            async with asyncio.timeout(30):
                await scraping.wait_for_sync([pod, url])
                served.page = vllm(waiting=4)
                waiting: list[float | None] = []
                while waiting != [4, 4]:
                    await news.wait()
                    news.clear()
                    told = [scraping.scrape_results()[endpoint] for endpoint in (pod, url)]
                    waiting = [page.newest.waiting for it in told for page in it.pages if page.newest]
            await scraping.close()

    asyncio.run(scrape())


@scenario
async def test_an_engine_that_runs_behind_a_nim_may_tell_for_it() -> None:
    endpoint = replace(ONE, engine="nim")
    async with Scene({"10.0.0.1:80/metrics": vllm()}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(endpoint)
        assert scene.page(endpoint).failure is None
