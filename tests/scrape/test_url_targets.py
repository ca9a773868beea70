# SPDX-License-Identifier: Apache-2.0
"""Tests of the addresses of a URL."""

from dataclasses import replace

import pytest

from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.scrape.targets import MAX_ADDRESSES
from tests.scrape.scene import (
    ANY_ADDRESS,
    DEPTH,
    EVERY_ADDRESS,
    OTHER_PAGE,
    Scene,
    addresses,
    addresses_of,
    depths,
    scenario,
)
from tests.scrape.virtual_time import run_in_virtual_time
from tests.scrape.web import DENIED, NO_ANSWER, vllm


@scenario
async def test_each_address_of_a_name_is_a_target() -> None:
    async with Scene(depths(_1=1, _2=2)) as scene:
        scene.web.names["router.ai.svc"] = addresses(2, 1)
        result = await scene.register_interest(EVERY_ADDRESS, series=DEPTH.text, demand=True)
        assert addresses_of(result) == ["10.0.0.1", "10.0.0.2"]
        values = [page.newest.selected[DEPTH.text] for page in result.targets if page.newest]
        assert [value.value for value in values if value] == [1, 2]
        assert result.targets[0].url == "http://router.ai.svc/metrics at 10.0.0.1"


@scenario
async def test_a_dual_stack_name_is_scraped_in_one_ip_family() -> None:
    async with Scene({**depths(_1=1, _2=2), "fd00::1:80/metrics": b"", "fd00::2:80/metrics": b""}) as scene:
        scene.web.names["router.ai.svc"] = ("fd00::2", "10.0.0.2", "fd00::1", "10.0.0.1")
        assert addresses_of(await scene.register_interest(EVERY_ADDRESS, series=DEPTH.text, demand=True)) == [
            "10.0.0.1",
            "10.0.0.2",
        ]
        scene.web.names["router.ai.svc"] = ("fd00::2", "10.0.0.2", "fd00::1")
        await scene.pass_time(6)
        assert addresses_of(scene.result(EVERY_ADDRESS)) == ["fd00::1", "fd00::2"]


@scenario
async def test_the_targets_follow_the_addresses_of_the_name() -> None:
    async with Scene(depths(_1=1, _2=2, _3=3)) as scene:
        scene.web.names["router.ai.svc"] = addresses(1, 2)
        await scene.register_interest(EVERY_ADDRESS, series=DEPTH.text, demand=True)
        kept = scene.result(EVERY_ADDRESS).targets[1].samples[0]
        scene.web.names["router.ai.svc"] = addresses(3, 2)
        await scene.pass_time(6)
        assert addresses_of(scene.result(EVERY_ADDRESS)) == ["10.0.0.2", "10.0.0.3"]
        assert scene.result(EVERY_ADDRESS).targets[0].samples[0] is kept
        fetch_count = len(scene.web.times("10.0.0.1:80/metrics"))
        await scene.pass_time(60)
        assert len(scene.web.times("10.0.0.1:80/metrics")) == fetch_count, (
            "an address that the name no longer has is not scraped"
        )


@scenario
async def test_a_name_is_resolved_every_five_seconds_and_an_ip_address_once() -> None:
    async with Scene({**depths(_1=1)}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(
            EVERY_ADDRESS, Endpoint(url="http://10.0.0.1/metrics"), series=DEPTH.text, demand=True
        )
        with_credentials = Endpoint(url="http://10.0.0.2/metrics", credentials_namespace="ai")
        await scene.register_interest(with_credentials, series=DEPTH.text, demand=True)
        await scene.pass_time(61)
        hosts = [host for _, host in scene.web.resolved]
        assert hosts.count("router.ai.svc") == 13
        assert hosts.count("10.0.0.1") == 1
        assert hosts.count("10.0.0.2") > 10  # the mounted credentials may change


@scenario
async def test_the_addresses_remain_while_the_name_cannot_be_resolved() -> None:
    async with Scene(depths(_1=1)) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(EVERY_ADDRESS, series=DEPTH.text, demand=True)
        scene.web.names["router.ai.svc"] = NO_ANSWER
        await scene.pass_time(60)
        (page,) = scene.result(EVERY_ADDRESS).targets
        assert page.failure is None
        assert page.newest is not None
        assert scene.loop.time() - page.newest.at_seconds < 2


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (NO_ANSWER, "no answer within 2 s"),
        (DENIED, "10.1.2.3 is refused"),
        (OSError("oops"), "unexpected OSError: oops"),
    ],
    ids=["the name is not resolved", "the address is not allowed", "a defect of the scaler"],
)
def test_a_name_without_an_address_is_a_failure_until_it_has_one(error: Exception, sentence: str) -> None:
    async def scenario_of_case() -> None:
        async with Scene(depths(_1=1)) as scene:
            scene.web.names["router.ai.svc"] = error
            result = await scene.register_interest(EVERY_ADDRESS, series=DEPTH.text, demand=True)
            assert result == ScrapeResult(failure=sentence)
            scene.web.names["router.ai.svc"] = addresses(1)
            await scene.pass_time(6)
            assert scene.history(EVERY_ADDRESS).failure is None

    run_in_virtual_time(scenario_of_case())


@scenario
async def test_an_address_that_becomes_refused_is_not_scraped_any_more() -> None:
    async with Scene(depths(_1=1)) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(EVERY_ADDRESS, series=DEPTH.text, demand=True)
        scene.web.names["router.ai.svc"] = DENIED
        await scene.pass_time(6)
        assert scene.result(EVERY_ADDRESS) == ScrapeResult(failure="10.1.2.3 is refused")
        fetch_count = len(scene.web.fetched)
        await scene.pass_time(60)
        assert len(scene.web.fetched) == fetch_count


@scenario
async def test_an_invalid_url_is_a_failure_and_is_not_resolved() -> None:
    async with Scene() as scene:
        result = await scene.register_interest(Endpoint(url="gopher://router"))
        assert result.failure == "URL: must begin with http:// or https://"
        assert scene.web.resolved == []


@scenario
async def test_addresses_above_the_limit_are_reported() -> None:
    async with Scene() as scene:
        scene.web.names["router.ai.svc"] = tuple(f"10.0.{it // 256}.{it % 256}" for it in range(MAX_ADDRESSES + 1))
        result = await scene.register_interest(EVERY_ADDRESS, series=DEPTH.text, demand=True)
        assert len(result.targets) == MAX_ADDRESSES + 1
        assert result.targets[-1].failure == "the name has 257 addresses; at most 256 are scraped"


@scenario
async def test_a_new_address_is_part_of_the_result_after_its_first_scrape() -> None:
    async with Scene(depths(_1=1, _2=2)) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(EVERY_ADDRESS, series=DEPTH.text, demand=True)
        scene.web.names["router.ai.svc"] = addresses(1, 2)
        scene.web.seconds["10.0.0.2:80/metrics"] = 2.0
        await scene.pass_time(6)
        assert addresses_of(scene.result(EVERY_ADDRESS)) == ["10.0.0.1"]
        await scene.pass_time(2)
        assert addresses_of(scene.result(EVERY_ADDRESS)) == ["10.0.0.1", "10.0.0.2"]


@scenario
async def test_if_one_address_is_enough_the_first_that_answers_is_kept() -> None:
    async with Scene({"10.0.0.2:80/metrics": vllm(), "10.0.0.3:80/metrics": vllm()}) as scene:
        scene.web.names["router.ai.svc"] = addresses(3, 1, 2)
        result = await scene.register_interest(ANY_ADDRESS)
        assert addresses_of(result) == ["10.0.0.2"]
        assert scene.web.urls == ["10.0.0.1:80/metrics", "10.0.0.2:80/metrics"]
        scene.web.pages["10.0.0.1:80/metrics"] = vllm()
        scene.web.names["router.ai.svc"] = addresses(1, 3, 2)
        await scene.pass_time(60)
        assert addresses_of(scene.result(ANY_ADDRESS)) == ["10.0.0.2"]
        assert scene.web.times("10.0.0.3:80/metrics") == []


@scenario
async def test_the_chosen_address_is_replaced_only_after_several_failures() -> None:
    async with Scene({"10.0.0.1:80/metrics": vllm(), "10.0.0.2:80/metrics": vllm()}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1, 2)
        await scene.register_interest(ANY_ADDRESS)
        for _ in range(10):
            scene.web.pages["10.0.0.1:80/metrics"] = NO_ANSWER
            await scene.pass_time(4)
            scene.web.pages["10.0.0.1:80/metrics"] = vllm()
            await scene.pass_time(2)
        assert scene.web.times("10.0.0.2:80/metrics") == []
        scene.web.pages["10.0.0.1:80/metrics"] = NO_ANSWER
        await scene.pass_time(7)
        assert addresses_of(scene.result(ANY_ADDRESS)) == ["10.0.0.2"]


@scenario
async def test_a_chosen_address_that_the_name_loses_is_replaced_at_once() -> None:
    async with Scene({"10.0.0.1:80/metrics": vllm(), "10.0.0.2:80/metrics": vllm()}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(ANY_ADDRESS)
        scene.web.names["router.ai.svc"] = addresses(2)
        await scene.pass_time(5.5)
        assert addresses_of(scene.result(ANY_ADDRESS)) == ["10.0.0.2"]


@scenario
async def test_if_each_address_fails_they_are_scraped_at_the_regular_interval() -> None:
    async with Scene() as scene:
        scene.web.names["router.ai.svc"] = addresses(1, 2, 3)
        result = await scene.register_interest(ANY_ADDRESS)
        assert result.targets[0].failure == "the connection is refused"
        fetch_count = len(scene.web.fetched)
        assert fetch_count <= 3
        await scene.pass_time(60)
        assert 20 <= len(scene.web.fetched) - fetch_count <= 31
        assert set(scene.web.urls) == {f"10.0.0.{number}:80/metrics" for number in (1, 2, 3)}


@scenario
async def test_a_url_without_an_engine_and_without_requested_series_is_a_failure() -> None:
    async with Scene({"10.0.0.1:80/metrics": OTHER_PAGE}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(ANY_ADDRESS)
        assert scene.history(ANY_ADDRESS).failure == "the page has no series of a known engine"
        result = await scene.register_interest(ANY_ADDRESS, series="python_gc_objects_collected_total")
        assert result.targets[0].failure is None


@scenario
async def test_a_url_is_accepted_before_its_requested_series_appear() -> None:
    async with Scene({"10.0.0.1:80/metrics": OTHER_PAGE}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        result = await scene.register_interest(EVERY_ADDRESS, series=DEPTH.text, demand=True)
        assert result.targets[0].failure is None
        assert scene.newest(EVERY_ADDRESS).selected == {DEPTH.text: None}


@scenario
async def test_a_url_of_another_engine_is_a_failure() -> None:
    endpoint = replace(ANY_ADDRESS, engine="tgi")
    async with Scene({"10.0.0.1:80/metrics": vllm()}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(endpoint)
        assert "the page is of vllm, not of tgi" in str(scene.history(endpoint).failure)


@scenario
async def test_a_nim_endpoint_accepts_the_page_of_its_inner_engine() -> None:
    endpoint = replace(ANY_ADDRESS, engine="nim")
    async with Scene({"10.0.0.1:80/metrics": vllm()}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(endpoint)
        assert scene.history(endpoint).failure is None
