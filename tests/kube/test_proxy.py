# SPDX-License-Identifier: Apache-2.0
"""Tests the way to an API server behind a proxy, or with another name in its certificate."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from keda_gpu_scaler.kube.auth import ClientConfig
from keda_gpu_scaler.kube.client import ApiClient, ApiError
from keda_gpu_scaler.kube.port_forward import PortForwarder
from keda_gpu_scaler.kube.proxy import ProxyError, checked_proxy, proxy_of_environment, without_credentials
from tests.apiserver import FakeApiServer
from tests.certificates import Authority
from tests.free_ports import free_port
from tests.kube.proxies import HttpProxy, Proxy, Socks5Proxy
from tests.limits import WAIT_SECONDS

PROXY = "http://proxy:3128"
API = "https://api.corp.example:6443"


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def working() -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await work()

    asyncio.run(working())


@pytest.mark.parametrize(
    ("server", "environment", "expected"),
    [
        pytest.param(API, {"HTTPS_PROXY": PROXY}, PROXY, id="the variable of the scheme"),
        pytest.param(API, {"https_proxy": PROXY}, PROXY, id="in lower case"),
        pytest.param(API, {"HTTPS_PROXY": "", "https_proxy": PROXY}, PROXY, id="an empty variable is none"),
        pytest.param(API, {"HTTP_PROXY": PROXY}, "", id="the variable of another scheme"),
        pytest.param("http://api:8080", {"http_proxy": PROXY}, PROXY, id="a server without TLS"),
        pytest.param(API, {}, "", id="no variable"),
        pytest.param("https://127.0.0.1:6443", {"HTTPS_PROXY": PROXY}, "", id="this machine"),
        pytest.param("https://[::1]:6443", {"HTTPS_PROXY": PROXY}, "", id="this machine over IPv6"),
        pytest.param("https://localhost:6443", {"HTTPS_PROXY": PROXY}, "", id="this machine by name"),
        pytest.param("https://[::1:6443", {"HTTPS_PROXY": PROXY}, "", id="no URL"),
        pytest.param("https://api:port", {"HTTPS_PROXY": PROXY}, "", id="no port"),
    ],
)
def test_the_environment_names_the_proxy(server: str, environment: Mapping[str, str], expected: str) -> None:
    assert proxy_of_environment(server, environment)[1] == expected


@pytest.mark.parametrize(
    ("server", "no_proxy", "is_direct"),
    [
        pytest.param(API, "*", True, id="every host"),
        pytest.param(API, "api.corp.example", True, id="the host"),
        pytest.param(API, "other, corp.example ", True, id="its domain"),
        pytest.param(API, "CORP.example", True, id="its domain in capitals"),
        pytest.param(API, ".corp.example", True, id="the hosts of its domain"),
        pytest.param(API, "*.corp.example", True, id="the hosts of its domain, with a star"),
        pytest.param("https://corp.example", ".corp.example", False, id="the domain is no host of itself"),
        pytest.param(API, "orp.example", False, id="the end of a label"),
        pytest.param(API, "api.corp.example:6443", True, id="the host and its port"),
        pytest.param(API, "api.corp.example:443", False, id="the host and another port"),
        pytest.param("https://api.corp.example", "corp.example:443", True, id="the port of the scheme"),
        pytest.param("https://api.corp.example.:6443", "corp.example", True, id="a final dot"),
        pytest.param("https://10.1.2.3:6443", "10.0.0.0/8", True, id="a network"),
        pytest.param("https://11.1.2.3:6443", "10.0.0.0/8", False, id="another network"),
        pytest.param("https://10.1.2.3:6443", "10.0.0.0/99", False, id="no network"),
        pytest.param("https://10.1.2.3:6443", "10.1.2.3", True, id="an address"),
        pytest.param("https://10.1.2.3:6443", "10.1.2.3:443", False, id="an address and another port"),
        pytest.param("https://10.1.2.3:6443", "2.3", False, id="the end of an address"),
        pytest.param("https://[fd00::1]:6443", "fd00::1", True, id="an address of IPv6"),
        pytest.param("https://[fd00::1]:6443", "[fd00::1]:6443", True, id="an address of IPv6 and its port"),
        pytest.param("https://[fd00::1]:6443", "fd00::/16", True, id="a network of IPv6"),
        pytest.param(API, "", False, id="nothing"),
        pytest.param(API, ",", False, id="empty entries"),
        pytest.param(API, ".", False, id="a dot"),
    ],
)
def test_no_proxy_excepts_hosts_as_go_does(server: str, no_proxy: str, is_direct: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        found = proxy_of_environment(server, {"HTTPS_PROXY": PROXY, name: no_proxy})
        assert found == (("", "") if is_direct else ("HTTPS_PROXY", PROXY))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("proxy:3128", "http://proxy:3128"),
        ("https://proxy", "https://proxy"),
        ("socks5://localhost:1080", "socks5://localhost:1080"),
        ("http://me:secret@proxy:3128", "http://me:secret@proxy:3128"),
    ],
)
def test_the_url_of_a_proxy(url: str, expected: str) -> None:
    assert checked_proxy(url) == expected


@pytest.mark.parametrize("url", ["ftp://secret", "http://", "http://:3128", "http://secret:port", "http://[secret"])
def test_an_invalid_proxy_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ProxyError, match="must be a URL with a host and one of the schemes http, https, socks5") as it:
        checked_proxy(url)
    assert "secret" not in str(it.value)


def test_messages_have_no_password_of_a_proxy() -> None:
    assert without_credentials("http://me:p@ss@proxy:3128/path") == "http://proxy:3128"


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as server:
        yield server


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextlib.asynccontextmanager
async def tls_server(authority: Authority) -> AsyncIterator[int]:
    """Serve one document under a certificate for "api.corp.example"; yield the port."""
    pair = authority.issue("server", host="api.corp.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{"up": 1}')
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


async def asked(config: ClientConfig) -> object:
    """Return what a server answers, or why it does not."""
    api = ApiClient(config)
    try:
        return await api.get("/version")
    except ApiError as error:
        return str(error)
    finally:
        await api.close()


@pytest.mark.parametrize(
    ("name", "is_answered"),
    [
        pytest.param("", False, id="the host of the URL"),
        pytest.param("api.corp.example", True, id="the name of the certificate"),
        pytest.param("other.example", False, id="another name"),
    ],
)
def test_the_certificate_may_have_another_name_than_the_url(authority: Authority, name: str, is_answered: bool) -> None:
    ca = authority.certificate.read_text()

    async def work() -> None:
        async with tls_server(authority) as port:
            found = await asked(ClientConfig(f"https://127.0.0.1:{port}", "default", ca, server_name=name))
            assert found == {"up": 1} if is_answered else "certificate verify failed" in str(found)

    run(work)


@pytest.mark.parametrize(("make", "scheme"), [(HttpProxy, "http"), (Socks5Proxy, "socks5")], ids=["HTTP", "SOCKS5"])
def test_an_api_server_is_reached_through_a_proxy_that_knows_its_name(
    authority: Authority, make: Callable[[int], Proxy], scheme: str
) -> None:
    ca = authority.certificate.read_text()

    async def work() -> None:
        async with tls_server(authority) as port, make(port).running() as proxy:
            config = ClientConfig(API, "default", ca, proxy=f"{scheme}://127.0.0.1:{proxy.port}")
            assert await asked(config) == {"up": 1}
            assert proxy.asked == ["api.corp.example:6443"]

    run(work)


def test_a_proxy_gets_the_user_name_and_the_password(authority: Authority) -> None:
    async def work() -> None:
        async with tls_server(authority) as port, HttpProxy(port).running() as proxy:
            config = ClientConfig(API, "default", authority.certificate.read_text())
            found = await asked(replace(config, proxy=f"http://me:secret@127.0.0.1:{proxy.port}"))
            assert (found, proxy.authorizations) == ({"up": 1}, ["Basic bWU6c2VjcmV0"])

    run(work)


def test_a_proxy_that_does_not_answer_is_named_without_its_password() -> None:
    proxy = f"127.0.0.1:{free_port()}"
    config = ClientConfig(API, "default", proxy=f"http://me:secret@{proxy}")

    async def work() -> None:
        found = str(await asked(config))
        assert found.startswith(f"the API server {API} does not answer: ")
        assert found.endswith(f", through the proxy http://{proxy}")
        assert "secret" not in found + repr(config)

    run(work)


def test_ports_are_forwarded_through_a_proxy(server: FakeApiServer) -> None:
    server.pod("scaler-0", "a", namespace="keda")

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async def work() -> None:
        listener = await asyncio.start_server(echo, "127.0.0.1", 0)
        server.forwards["keda", "scaler-0", 6000] = listener.sockets[0].getsockname()[1]
        upstream = int(server.url.rpartition(":")[2])
        async with listener, Socks5Proxy(upstream).running() as proxy:
            access = replace(server.access, proxy=f"socks5://127.0.0.1:{proxy.port}")
            api = PortForwarder(access)
            async with api.forward("keda", "scaler-0", 6000) as port:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"hello\n")
                assert await reader.readline() == b"hello\n"
                writer.close()
            await api.close()
            assert proxy.asked

    run(work)
