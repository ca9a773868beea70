# SPDX-License-Identifier: Apache-2.0
"""Tests of the reviews of callers against the fake API server."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from keda_gpu_scaler.core.interfaces import Caller, KubeError
from keda_gpu_scaler.kube import caller_reviews
from keda_gpu_scaler.kube.caller_reviews import (
    ADMITTED_SECONDS,
    AUDIENCE,
    MAX_REVIEWS,
    MAX_TOKEN_LENGTH,
    REFUSED_SECONDS,
    ApiCallerReviews,
    ReviewCache,
)
from keda_gpu_scaler.kube.client import ApiClient
from tests.apiserver import FakeApiServer

ALICE = Caller("alice", "uid of alice", ("system:authenticated", "gpu-users"))
LLAMA = ("get", "scaledobjects", "ai", "llama")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as server:
        server.caller_reviews.person("token-of-alice", "alice", "gpu-users")
        yield server


def run(server: FakeApiServer, scenario: Callable[[ApiCallerReviews, Clock], Awaitable[None]]) -> None:
    async def main() -> None:
        client, clock = ApiClient(server.access), Clock()

        async def connected() -> ApiClient:
            return client

        try:
            await scenario(ApiCallerReviews(connected, clock), clock)
        finally:
            await client.close()

    asyncio.run(main())


def test_a_token_of_the_api_server_names_its_user_and_groups(server: FakeApiServer) -> None:
    async def scenario(reviews: ApiCallerReviews, clock: Clock) -> None:
        assert await reviews.caller("token-of-alice") == ALICE

    run(server, scenario)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("another", id="a token that the API server does not know"),
        pytest.param("", id="no token"),
        pytest.param("x" * (MAX_TOKEN_LENGTH + 1), id="a token that is too long"),
    ],
)
def test_a_token_without_a_user_is_refused(server: FakeApiServer, token: str) -> None:
    async def scenario(reviews: ApiCallerReviews, clock: Clock) -> None:
        assert await reviews.caller(token) is None

    run(server, scenario)
    assert len(server.caller_reviews.asked) <= 2
    assert all(len(one["spec"]["token"]) <= MAX_TOKEN_LENGTH for one in server.caller_reviews.asked)


def test_a_token_for_the_audience_of_the_scaler_is_accepted_and_one_for_another_audience_is_not(
    server: FakeApiServer,
) -> None:
    server.caller_reviews.person("for-us", "alice", "gpu-users", audience=AUDIENCE)
    server.caller_reviews.person("for-vault", "alice", audience="vault")

    async def scenario(reviews: ApiCallerReviews, clock: Clock) -> None:
        assert await reviews.caller("for-us") == ALICE
        assert await reviews.caller("for-vault") is None

    run(server, scenario)


def test_an_authenticator_that_ignores_audiences_admits_no_token_by_its_audience(server: FakeApiServer) -> None:
    """Without audiences in its answer it has compared none."""
    server.caller_reviews.knows_audiences = False

    async def scenario(reviews: ApiCallerReviews, clock: Clock) -> None:
        status = {"authenticated": True, "user": {"username": "eve"}}
        server.caller_reviews.reviewed = lambda review: (  # type: ignore[method-assign]
            {**review, "status": status if review["spec"].get("audiences") else {}}
        )
        assert await reviews.caller("for-vault") is None

    run(server, scenario)


def test_a_right_is_that_of_the_user_of_its_groups_and_of_this_object_alone(server: FakeApiServer) -> None:
    server.caller_reviews.grant("gpu-users", *LLAMA)
    server.caller_reviews.grant("bob", "get", "scaledobjects", "ai", "mistral")

    async def scenario(reviews: ApiCallerReviews, clock: Clock) -> None:
        assert await reviews.may(ALICE, *LLAMA)
        for verb, resource, namespace, name in (
            ("update", "scaledobjects", "ai", "llama"),
            ("get", "scaledjobs", "ai", "llama"),
            ("get", "scaledobjects", "other", "llama"),
            ("get", "scaledobjects", "ai", "mistral"),
        ):
            assert not await reviews.may(ALICE, verb, resource, namespace, name)
        assert not await reviews.may(Caller("bob"), *LLAMA)

    run(server, scenario)
    [spec] = [one["spec"] for one in server.caller_reviews.asked][:1]
    assert spec == {
        "user": "alice",
        "uid": "uid of alice",
        "groups": ["system:authenticated", "gpu-users"],
        "extra": {},
        "resourceAttributes": {
            "verb": "get", "group": "keda.sh", "resource": "scaledobjects", "namespace": "ai", "name": "llama"
        },
    }  # fmt: skip


def test_a_denial_outweighs_a_permission(server: FakeApiServer) -> None:
    async def scenario(reviews: ApiCallerReviews, clock: Clock) -> None:
        status = {"allowed": True, "denied": True}
        server.caller_reviews.reviewed = lambda review: {**review, "status": status}  # type: ignore[method-assign]
        assert not await reviews.may(ALICE, *LLAMA)

    run(server, scenario)


def test_an_admission_is_kept_for_half_a_minute_and_then_a_withdrawn_right_counts(server: FakeApiServer) -> None:
    server.caller_reviews.grant("alice", *LLAMA)

    async def scenario(reviews: ApiCallerReviews, clock: Clock) -> None:
        assert await reviews.may(ALICE, *LLAMA)
        server.caller_reviews.rights.clear()
        clock.now += ADMITTED_SECONDS - 0.1
        assert await reviews.may(ALICE, *LLAMA)
        clock.now += 0.1
        assert not await reviews.may(ALICE, *LLAMA)

    run(server, scenario)
    assert server.requests["create subjectaccessreviews"] == 2


def test_a_refusal_is_kept_for_seconds_and_then_a_new_right_and_a_new_token_count(server: FakeApiServer) -> None:
    async def scenario(reviews: ApiCallerReviews, clock: Clock) -> None:
        assert not await reviews.may(ALICE, *LLAMA)
        assert await reviews.caller("token-of-bob") is None
        server.caller_reviews.grant("alice", *LLAMA)
        server.caller_reviews.person("token-of-bob", "bob")
        assert not await reviews.may(ALICE, *LLAMA)
        assert await reviews.caller("token-of-bob") is None
        clock.now += REFUSED_SECONDS
        assert await reviews.may(ALICE, *LLAMA)
        assert await reviews.caller("token-of-bob") is not None

    run(server, scenario)


def test_the_cache_is_bounded_and_holds_no_token() -> None:
    async def scenario() -> None:
        cache: ReviewCache[str] = ReviewCache(lambda: 0.0)

        async def review() -> str:
            return "alice"

        for number in range(MAX_REVIEWS + 10):
            await cache.get(number, review)
        assert len(cache) == MAX_REVIEWS

    asyncio.run(scenario())


def test_no_log_line_no_error_and_no_cache_has_a_token(server: FakeApiServer, caplog: pytest.LogCaptureFixture) -> None:
    server.caller_reviews.grant("alice", *LLAMA)

    async def scenario(reviews: ApiCallerReviews, clock: Clock) -> None:
        caller = await reviews.caller("token-of-alice")
        assert caller is not None
        await reviews.may(caller, *LLAMA)
        assert await reviews.caller("token-of-eve") is None
        server.forbid("create", "tokenreviews")
        with pytest.raises(KubeError) as refused:
            await reviews.caller("token-of-carol")
        assert "token-of" not in f"{refused.value!r} {refused.value.__cause__!r}"
        assert "token-of" not in str(_everything(reviews._callers)) + str(_everything(reviews._rights))

    with caplog.at_level(logging.DEBUG):
        run(server, scenario)
    assert "token-of" not in caplog.text
    assert '"alice" may get scaledobjects "ai"/"llama"' in caplog.text


def _everything(cache: ReviewCache[Any]) -> object:
    return cache._results


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        pytest.param(
            lambda server: server.forbid("create", "subjectaccessreviews"),
            "the scaler may not create subjectaccessreviews.authorization.k8s.io; grant it (in the chart: "
            "explain.enabled)",
            id="the scaler has no right to create reviews",
        ),
        pytest.param(
            lambda server: server.break_down("create", "subjectaccessreviews"),
            "the API server makes no review: status 503",
            id="the API server answers with an error",
        ),
        pytest.param(
            lambda server: server.hang(),
            "the API server does not answer the review in time; try again",
            id="the API server hangs",
        ),
    ],
)
def test_a_review_that_cannot_be_made_admits_no_caller_and_is_not_kept(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch, fault: Callable[[FakeApiServer], None], sentence: str
) -> None:
    monkeypatch.setattr(caller_reviews, "REVIEW_SECONDS", 0.05 if "in time" in sentence else 4.0)
    server.caller_reviews.grant("alice", *LLAMA)

    async def scenario(reviews: ApiCallerReviews, clock: Clock) -> None:
        fault(server)
        with pytest.raises(KubeError) as refused:
            await reviews.may(ALICE, *LLAMA)
        assert str(refused.value) == sentence
        server.hang(False)
        server.allow("create", "subjectaccessreviews")
        server.repair("create", "subjectaccessreviews")
        monkeypatch.setattr(caller_reviews, "REVIEW_SECONDS", 4.0)
        assert await reviews.may(ALICE, *LLAMA)

    run(server, scenario)


def test_invented_tokens_cost_the_api_server_a_bounded_number_of_reviews(server: FakeApiServer) -> None:
    async def scenario(reviews: ApiCallerReviews, clock: Clock) -> None:
        for number in range(20):  # a token that is not accepted takes two reviews
            assert await reviews.caller(f"invented-{number}") is None
        for number in range(20, 1000):
            with pytest.raises(KubeError, match="the limit of reviews of callers is reached"):
                await reviews.caller(f"invented-{number}")

    run(server, scenario)
    assert server.requests["create tokenreviews"] == 40
