# SPDX-License-Identifier: Apache-2.0
"""Tests of what credentials are bound to: hosts, ports, paths and namespaces."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.credential_binding import segments
from keda_gpu_scaler.scrape.credentials import Credentials, CredentialsError
from keda_gpu_scaler.scrape.types import FetchError, Target
from tests.scrape.clients import CollectedPage, http_client, run, target
from tests.scrape.servers import Request, Server, page, responds
from tests.scrape.test_credentials import mount

TOKEN = {"hosts": "vllm.ai.svc", "ports": "8000\n8443", "token": "word", "insecure-token": ""}
SHARED = {**TOKEN, "hosts": "gateway.example.com\n10.0.0.0/8", "namespaces": "ai\nweb"}


def asked(url: Url, trigger_namespace: str | None = "ai") -> Target:
    return Target(url, "10.0.0.1", trigger_namespace=trigger_namespace)


def url(host: str = "vllm.ai.svc", port: int = 8000, path: str = "/metrics") -> Url:
    return Url("http", host, port, path)


def pod(trigger_namespace: str | None, pod_namespace: str = "ai", port: int = 8000, path: str = "/metrics") -> Target:
    return Target(
        Url("http", "10.0.0.1", port, path), "10.0.0.1", pod_namespace, "llama-0", trigger_namespace=trigger_namespace
    )


@pytest.mark.parametrize(
    ("files", "asked_for", "is_sent"),
    [
        pytest.param(TOKEN, asked(url()), True, id="what is listed"),
        pytest.param(TOKEN, asked(url(port=8443)), True, id="the second port"),
        pytest.param(TOKEN, asked(url(port=9000)), False, id="another port"),
        pytest.param(TOKEN, asked(url(path="/admin/drain")), False, id="another path"),
        pytest.param(TOKEN, asked(url(path="/metrics/")), True, id="a final slash"),
        pytest.param(TOKEN, asked(url(path="/metrics/vllm")), True, id="a path below the listed one"),
        pytest.param(TOKEN, asked(url(path="/metrics?format=text")), True, id="a query"),
        pytest.param(TOKEN, asked(url(path="/metricsx")), False, id="a longer segment"),
        pytest.param(TOKEN, asked(url(path="/Metrics")), False, id="another case"),
        pytest.param(TOKEN, asked(url(path="/metrics/../admin")), False, id="dots"),
        pytest.param(TOKEN, asked(url(path="/metrics/%2e%2e/admin")), False, id="escaped dots"),
        pytest.param(TOKEN, asked(url(path="/metrics/%252e%252e/admin")), False, id="dots that are escaped twice"),
        pytest.param(TOKEN, asked(url(path="/metrics/..%2fadmin")), False, id="an escaped slash"),
        pytest.param(TOKEN, asked(url(path="/metrics/..;/admin")), False, id="dots with a parameter"),
        pytest.param(TOKEN, asked(url(path="//metrics")), False, id="two slashes"),
        pytest.param(TOKEN, asked(url(path="/metrics//x")), False, id="an empty segment"),
        pytest.param(TOKEN, asked(url(path="/metrics\\..\\admin")), False, id="a backslash"),
        pytest.param(TOKEN, asked(url(path="/x?/metrics")), False, id="the listed path in the query"),
        pytest.param({**TOKEN, "paths": "/api\n/queue"}, asked(url(path="/api/ps")), True, id="the listed paths"),
        pytest.param({**TOKEN, "paths": "/api\n/queue"}, asked(url()), False, id="listed paths replace the usual one"),
        pytest.param({**TOKEN, "paths": "/"}, asked(url(path="/any/path")), True, id="every path"),
        pytest.param({**TOKEN, "paths": "/"}, asked(url(path="/any/../path")), False, id="every path, with dots"),
        pytest.param(TOKEN, asked(url(), "web"), False, id="a trigger of another namespace"),
        pytest.param(TOKEN, asked(url(), ""), False, id="a trigger whose namespace is not known"),
        pytest.param(TOKEN, asked(url(), None), False, id="a trigger that no ScaledObject declares"),
        pytest.param({**TOKEN, "hosts": "*.web.svc.cluster.local"}, asked(url("a.web.svc.cluster.local"), "ai"), False,
            id="a Service of another namespace"),
        pytest.param({**TOKEN, "hosts": "*.web.svc.cluster.local"}, asked(url("a.web.svc.cluster.local"), "web"), True,
            id="a Service of the trigger's namespace"),
        pytest.param({**TOKEN, "namespaces": "web"}, asked(url(), "web"), True, id="a listed namespace"),
        pytest.param({**TOKEN, "namespaces": "web"}, asked(url(), "ai"), False, id="the list replaces the host's own"),
        pytest.param(SHARED, asked(url("gateway.example.com"), "web"), True, id="a host outside of the cluster"),
        pytest.param(SHARED, asked(url("10.1.2.3"), "ai"), True, id="an address in a network"),
        pytest.param(SHARED, asked(url("10.1.2.3"), "evil"), False, id="an address, from another namespace"),
        pytest.param({**SHARED, "namespaces": "*"}, asked(url("10.1.2.3"), "evil"), True, id="every namespace"),
        pytest.param({**SHARED, "namespaces": "*"}, asked(url("10.1.2.3"), ""), True, id="every namespace, none known"),
        pytest.param({**SHARED, "namespaces": "*"}, asked(url("10.1.2.3"), None), False,
            id="every namespace, and a trigger that no ScaledObject declares"),
        pytest.param({**TOKEN, "hosts": "pods:ai"}, pod("ai"), True, id="a pod"),
        pytest.param({**TOKEN, "hosts": "pods:ai"}, pod("ai", port=9000), False, id="another port of a pod"),
        pytest.param({**TOKEN, "hosts": "pods:ai"}, pod("ai", path="/admin/drain"), False, id="another path of a pod"),
        pytest.param({**TOKEN, "hosts": "pods:ai"}, pod(None), False, id="a pod, without a ScaledObject"),
        pytest.param({**TOKEN, "hosts": "pods:ai"}, pod("web"), False, id="a pod, from another namespace"),
        pytest.param({**TOKEN, "hosts": "pods:ai"}, pod("web", "web"), False, id="a pod of another namespace"),
        pytest.param({"hosts": "*"}, asked(url("any.host", 1, "/any"), None), True, id="a CA is no secret"),
        pytest.param({"hosts": "*", "ports": "8000"}, asked(url(port=1), None), False, id="a CA for listed ports"),
        pytest.param({"hosts": "*", "ports": "8000"}, asked(url(), None), True, id="a CA for a listed port"),
    ],
)  # fmt: skip
def test_credentials_are_sent_only_where_everything_is_listed(
    tmp_path: Path, files: Mapping[str, str], asked_for: Target, is_sent: bool
) -> None:
    mount(tmp_path, "one", files)
    credentials = Credentials(str(tmp_path))
    assert (credentials.find(asked_for) is not None) == is_sent
    assert (
        is_sent
        or credentials.misfit(asked_for) is not None
        or not credentials._secrets[0].binding.is_for_place(asked_for)
    )


@pytest.mark.parametrize(
    ("files", "named", "why"),
    [
        pytest.param({"hosts": "pods:ai", "token": "word"}, "ports", "Required value: list the ports", id="no ports"),
        pytest.param({**TOKEN, "ports": " \n"}, "ports", "Required value: list the ports", id="an empty file of ports"),
        pytest.param(
            {**SHARED, "namespaces": ""}, "namespaces",
            'Required value: "gateway.example.com" in the file hosts is not in one namespace: list the namespaces',
            id="no namespaces",
        ),
        pytest.param(
            {**TOKEN, "hosts": "*"}, "namespaces", 'Required value: "\\*" in the file hosts', id="every host"
        ),
        pytest.param(
            {**TOKEN, "hosts": "*.svc"}, "namespaces", 'Required value: "\\*.svc" in the file hosts',
            id="Services of every namespace",
        ),
        pytest.param({**TOKEN, "ports": "http"}, "ports", '"http": must be a port from 1 to 65535', id="no number"),
        pytest.param({**TOKEN, "ports": "0"}, "ports", '"0": must be a port', id="port 0"),
        pytest.param({**TOKEN, "ports": "65536"}, "ports", '"65536": must be a port', id="a port above the limit"),
        pytest.param({**TOKEN, "paths": "metrics"}, "paths", '"metrics": must be a path', id="a path without a slash"),
        pytest.param({**TOKEN, "paths": "/a/../b"}, "paths", '"/a/../b": must be a path', id="a path with dots"),
        pytest.param({**TOKEN, "paths": "/a?b"}, "paths", '"/a\\?b": must be a path', id="a path with a query"),
        pytest.param({**TOKEN, "namespaces": "A b"}, "namespaces", '"A b": must be the name', id="no namespace's name"),
        pytest.param(
            {"hosts": "*", "tls.crt": "x", "tls.key": "x"}, "ports", "Required value: list the ports",
            id="the certificate of a client is a secret",
        ),
    ],
)  # fmt: skip
def test_a_missing_or_invalid_binding_names_its_file(
    tmp_path: Path, files: Mapping[str, str], named: str, why: str
) -> None:
    mounted = mount(tmp_path, "one", files)
    with pytest.raises(CredentialsError, match=why) as raised:
        Credentials(str(tmp_path))
    assert f"--endpoint-credentials: {mounted / named}: " in str(raised.value)


@given(st.text("/.%;\\ab2ef?", max_size=12))
def test_a_path_with_two_readings_has_no_segments(path: str) -> None:
    """Every segment of an accepted path is one that no server decodes, merges or climbs over."""
    found = segments(f"/{path}")
    if found is not None:
        assert "/" + "/".join(found) == f"/{path}".partition("?")[0].removesuffix("/") or found == ()
        assert not any(part in ("", ".", "..") or set(part) & set("%;\\") for part in found)


# ---- over HTTP ----


async def sent_to(files: Mapping[str, str], folder: Path, requests: list[dict[str, str]]) -> list[str | None]:
    """Return the Authorization header of each of these requests to one server, as the server received it."""
    async with Server(responds(page(b"up 1\n"))) as server:
        mount(folder, "one", {**files, "hosts": "127.0.0.1", "ports": str(server.port)})
        with contextlib.closing(http_client(credentials=Credentials(str(folder)))) as client:
            for request in requests:
                await client.collect(target(server.port, **request))
        return [request.headers.get("authorization") for request in server.requests]


def test_a_token_reaches_no_other_path_and_no_trigger_of_another_namespace(tmp_path: Path) -> None:
    async def test() -> None:
        requests = [{}, {"path": "/admin/drain"}, {"trigger_namespace": "evil"}, {"path": "/metrics/../admin"}]
        found = await sent_to({**TOKEN, "namespaces": "ai"}, tmp_path, requests)
        assert found == ["Bearer word", None, None, None]

    run(test())


def test_a_token_does_not_reach_another_port_of_its_host(tmp_path: Path) -> None:
    async def test() -> None:
        async with Server(responds(page())) as listed, Server(responds(page())) as other:
            mount(tmp_path, "one", {**TOKEN, "hosts": "127.0.0.1", "ports": str(listed.port), "namespaces": "ai"})
            with contextlib.closing(http_client(credentials=Credentials(str(tmp_path)))) as client:
                for server in (listed, other):
                    await client.collect(target(server.port))
            sent = [request.headers.get("authorization") for server in (listed, other) for request in server.requests]
        assert sent == ["Bearer word", None]

    run(test())


@pytest.mark.parametrize(
    ("location", "paths"),
    [
        pytest.param("/metrics/vllm", ["/metrics", "/metrics/vllm"], id="below the listed path"),
        pytest.param("/admin/drain", ["/metrics"], id="another path, which is not requested"),
        pytest.param("/metrics/%2e%2e/admin", ["/metrics"], id="a path with escaped dots"),
    ],
)
def test_a_redirect_takes_credentials_nowhere_else(tmp_path: Path, location: str, paths: list[str]) -> None:
    async def redirect(request: Request, writer: asyncio.StreamWriter) -> None:
        moved = page(b"", status="307 Temporary Redirect", Location=location)
        writer.write(moved if request.path == "/metrics" else page(b"up 1\n"))

    async def test() -> None:
        async with Server(redirect) as server:
            mount(tmp_path, "one", {**TOKEN, "hosts": "127.0.0.1", "ports": str(server.port), "namespaces": "ai"})
            with contextlib.closing(http_client(credentials=Credentials(str(tmp_path)))) as client:
                try:
                    result: CollectedPage | FetchError = await client.collect(target(server.port))
                except FetchError as error:
                    result = error
            assert [request.path for request in server.requests] == paths
        assert isinstance(result, CollectedPage) == (len(paths) == 2)

    run(test())


@pytest.mark.parametrize(
    ("files", "request_", "why"),
    [
        pytest.param({"ports": "1"}, {}, "port {port}: list it in their file ports", id="the port"),
        pytest.param({"paths": "/other"}, {}, "this path: list it in their file paths", id="the path"),
        pytest.param({}, {"trigger_namespace": "web"}, 'the namespace "web": list it in their file namespaces',
            id="the namespace"),
        pytest.param({}, {"trigger_namespace": None}, "a trigger that no ScaledObject declares", id="no ScaledObject"),
    ],
)  # fmt: skip
def test_a_refusal_says_why_the_mounted_credentials_were_not_sent(
    tmp_path: Path, files: Mapping[str, str], request_: dict[str, str], why: str
) -> None:
    async def test() -> None:
        async with Server(responds(page(b"", status="401 Unauthorized"))) as server:
            bound = {**TOKEN, "hosts": "127.0.0.1", "ports": str(server.port), "namespaces": "ai"}
            mount(tmp_path, "one", {**bound, **files})
            client = http_client(credentials=Credentials(str(tmp_path)))
            with contextlib.closing(client), pytest.raises(FetchError) as raised:
                await client.collect(target(server.port, **request_))
        assert str(raised.value) == (
            "the server requires credentials (HTTP 401), and those of --endpoint-credentials for this host are not for "
            + why.format(port=server.port)
        )
        assert raised.value.status == 401

    run(test())


def test_a_forwarded_port_receives_the_token_of_the_port_of_the_pod(tmp_path: Path) -> None:
    async def test() -> None:
        async with Server(responds(page(b"up 1\n"))) as server:
            mount(tmp_path, "one", {**TOKEN, "hosts": "pods:ai"})
            with contextlib.closing(http_client(credentials=Credentials(str(tmp_path)))) as client:
                for port in (8000, 9000):
                    forwarded = replace(pod("ai", port=port), address="127.0.0.1", forwarded_port=server.port)
                    await client.collect(forwarded)
            assert [request.headers.get("authorization") for request in server.requests] == ["Bearer word", None]

    run(test())
