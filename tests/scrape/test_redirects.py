# SPDX-License-Identifier: Apache-2.0
"""Tests of redirects: one is followed if it stays on the same scheme, host and port."""

import asyncio
import contextlib

import pytest

from keda_gpu_scaler.scrape.types import FailureKind, FetchError
from tests.scrape.clients import CollectedPage, http_client, run, target
from tests.scrape.servers import Request, Server, page


class Redirecting:
    """Redirects "/metrics" to a location, and answers any other path with a page.

    The location may have the server's port as {port}.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self.port = 0

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.path == "/metrics":
            location = self.location.replace("{port}", str(self.port))
            writer.write(page(b"moved", status="307 Temporary Redirect", Location=location))
        else:
            writer.write(page(b"up 1\n"))


async def fetch(location: str) -> tuple[CollectedPage | FetchError, list[str]]:
    """Return the result of a fetch of "/metrics" and the paths that were requested."""
    handler = Redirecting(location)
    async with Server(handler) as server:
        handler.port = server.port
        with contextlib.closing(http_client()) as client:
            try:
                result: CollectedPage | FetchError = await client.collect(target(server.port))
            except FetchError as error:
                result = error
        return result, [request.path for request in server.requests]


@pytest.mark.parametrize(
    ("location", "path"),
    [
        pytest.param("/metrics/", "/metrics/", id="a path"),
        pytest.param("http://127.0.0.1:{port}/metrics/", "/metrics/", id="a URL with the same host and port"),
        pytest.param("stats?format=text", "/stats?format=text", id="a relative path with a query"),
    ],
)
def test_a_redirect_on_the_same_server_is_followed(location: str, path: str) -> None:
    async def test() -> None:
        result, paths = await fetch(location)
        assert isinstance(result, CollectedPage), result
        assert (result.content, paths) == (b"up 1\n", ["/metrics", path])

    run(test())


@pytest.mark.parametrize(
    "location",
    [
        pytest.param("http://169.254.169.254/", id="another host"),
        pytest.param("//169.254.169.254/metrics/", id="another host without a scheme"),
        pytest.param("http://localhost:{port}/metrics/", id="another name of the host"),
        pytest.param("http://127.0.0.1:1/metrics/", id="another port"),
        pytest.param("https://127.0.0.1:{port}/metrics/", id="another scheme"),
        pytest.param("http://user@127.0.0.1:{port}/metrics/", id="a user name"),
        pytest.param("/\\169.254.169.254/", id="a backslash"),
        pytest.param("http://[", id="no URL"),
        pytest.param("/metrics", id="the same page"),
        pytest.param("", id="no location"),
    ],
)
def test_another_redirect_is_not_followed(location: str) -> None:
    async def test() -> None:
        result, paths = await fetch(location)
        assert isinstance(result, FetchError), result
        assert (result.kind, result.status) == (FailureKind.ABSENT, 307)
        assert str(result).startswith("the server redirects to another location (HTTP 307, ")
        assert str(result).endswith(" characters), which is not followed")
        assert "169.254" not in str(result)  # nothing of the location is quoted
        assert paths == ["/metrics"]

    run(test())


def test_only_one_redirect_is_followed() -> None:
    async def again(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(page(b"", status="307 Temporary Redirect", Location=f"{request.path}/"))

    async def test() -> None:
        async with Server(again) as server:
            with contextlib.closing(http_client()) as client, pytest.raises(FetchError, match="which is not followed"):
                await client.collect(target(server.port))
            assert [request.path for request in server.requests] == ["/metrics", "/metrics/"]

    run(test())
