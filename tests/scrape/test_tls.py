# SPDX-License-Identifier: Apache-2.0
"""Tests of fetches over TLS."""

import asyncio
import contextlib
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.credentials import Credentials
from keda_gpu_scaler.scrape.types import FailureKind, FetchError, Target
from tests.certificates import Authority, Pair
from tests.limits import WAIT_SECONDS
from tests.scrape.clients import CollectedPage, connections, error_of, http_client, run, target
from tests.scrape.servers import (
    Handler,
    Server,
    page,
    requires_token,
    responds,
    responds_and_aborts,
    responds_and_closes,
    until_closed,
)
from tests.scrape.test_credentials import mount

NAME = "vllm.ai.svc"
MOUNT_ITS_CA = "mount its CA with --endpoint-credentials"


def server_context(pair: Pair, clients: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if clients is not None:
        context.load_verify_locations(clients.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def fetch_over_tls(
    mounts: Path | None, context: ssl.SSLContext | None, handler: Handler, make_target: Callable[[int], Target]
) -> tuple[CollectedPage | FetchError, Server]:
    """Return the result of one fetch with these mounted credentials, and the server."""

    async def once() -> tuple[CollectedPage | FetchError, Server]:
        async with Server(handler, tls=context) as server:
            for mounted in mounts.iterdir() if mounts else ():
                mount(mounted.parent, mounted.name, {"ports": str(server.port), "namespaces": "*"})
            with contextlib.closing(http_client(credentials=Credentials(str(mounts) if mounts else None))) as client:
                try:
                    return await client.collect(make_target(server.port)), server
                except FetchError as error:
                    return error, server

    return asyncio.run(once())


def by_host(port: int) -> Target:
    return target(port, scheme="https", host=NAME)


def test_a_token_is_sent_over_tls(tmp_path: Path, authority: Authority) -> None:
    mount(tmp_path / "mounts", "one", {"hosts": NAME, "ca.crt": authority.certificate.read_text(), "token": "word"})
    context = server_context(authority.issue("server", host=NAME))
    body, _ = fetch_over_tls(tmp_path / "mounts", context, requires_token("word"), by_host)
    assert isinstance(body, CollectedPage), body


def test_a_page_of_many_tls_records_is_read(tmp_path: Path, authority: Authority) -> None:
    mount(tmp_path / "mounts", "one", {"hosts": NAME, "ca.crt": authority.certificate.read_text()})
    context = server_context(authority.issue("server", host=NAME))
    body, _ = fetch_over_tls(tmp_path / "mounts", context, responds(page(b"x" * 300_000)), by_host)
    assert isinstance(body, CollectedPage), body
    assert len(body.content) == 300_000


def test_a_tls_connection_is_reused(tmp_path: Path, authority: Authority) -> None:
    mount(tmp_path / "mounts", "one", {"hosts": NAME, "ca.crt": authority.certificate.read_text()})
    context = server_context(authority.issue("server", host=NAME))

    async def test() -> None:
        async with Server(responds(page()), tls=context) as server:
            with contextlib.closing(http_client(credentials=Credentials(str(tmp_path / "mounts")))) as client:
                for _ in range(3):
                    await client.collect(by_host(server.port))
                assert connections(server) == [1, 1, 1]

    run(test())


def test_a_final_dot_in_the_host_is_ignored_for_the_certificate(tmp_path: Path, authority: Authority) -> None:
    mount(tmp_path / "mounts", "one", {"hosts": NAME, "ca.crt": authority.certificate.read_text()})
    context = server_context(authority.issue("server", host=NAME))
    body, _ = fetch_over_tls(
        tmp_path / "mounts", context, responds(page()), lambda port: target(port, scheme="https", host=f"{NAME}.")
    )
    assert isinstance(body, CollectedPage), body


def test_a_pod_is_verified_by_the_mounted_server_name(tmp_path: Path, authority: Authority) -> None:
    files = {"hosts": "pods:ai", "ca.crt": authority.certificate.read_text(), "server-name": NAME}
    mount(tmp_path / "mounts", "one", files)
    context = server_context(authority.issue("server", host=NAME))

    def pod(port: int) -> Target:
        return Target(Url("https", "127.0.0.1", port, "/metrics"), "127.0.0.1", "ai")

    body, _ = fetch_over_tls(tmp_path / "mounts", context, responds(page()), pod)
    assert isinstance(body, CollectedPage), body


@pytest.mark.parametrize(
    ("host", "days", "mounted", "reason"),
    [
        pytest.param(
            NAME, 2, "other", "unable to get local issuer certificate", id="issued by an authority that is not mounted"
        ),
        pytest.param(
            NAME,
            2,
            None,
            "unable to get local issuer certificate",
            id="issued by an authority that the system does not trust",
        ),
        pytest.param("vllm.web.svc", 2, "ca", "hostname mismatch", id="issued for another host"),
        pytest.param(NAME, -1, "ca", "certificate has expired", id="expired"),
    ],
)
def test_an_invalid_certificate_is_refused(
    tmp_path: Path, authority: Authority, host: str, days: int, mounted: str | None, reason: str
) -> None:
    trusted = {"ca": authority, "other": Authority(tmp_path, "other")}
    if mounted:
        files = {"hosts": NAME, "ca.crt": trusted[mounted].certificate.read_text(), "token": "word"}
        mount(tmp_path / "mounts", "one", files)
    context = server_context(authority.issue("server", host=host, days=days))
    error, server = fetch_over_tls(tmp_path / "mounts" if mounted else None, context, responds(page()), by_host)
    assert isinstance(error, FetchError)
    assert error.kind is FailureKind.UNTRUSTED
    assert str(error).startswith("the certificate is not trusted: ")
    assert reason in str(error)
    assert str(error).endswith(MOUNT_ITS_CA)
    assert server.requests == []


def test_the_mounted_client_certificate_is_sent(tmp_path: Path, authority: Authority) -> None:
    context = server_context(authority.issue("server", host=NAME), clients=authority)
    client = authority.issue("client")
    files = {"hosts": NAME, "ca.crt": authority.certificate.read_text()}
    mount(tmp_path / "mounts", "one", files)
    failure, _ = fetch_over_tls(tmp_path / "mounts", context, responds(page()), by_host)
    assert isinstance(failure, FetchError), failure
    mount(tmp_path / "mounts", "one", {"tls.crt": client.certificate.read_text(), "tls.key": client.key.read_text()})
    body, _ = fetch_over_tls(tmp_path / "mounts", context, responds(page()), by_host)
    assert isinstance(body, CollectedPage), body


def test_a_server_without_tls_is_an_error() -> None:
    disconnected = asyncio.Event()

    async def answer_in_plain_text(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(page(b"", status="400 Bad Request"))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        disconnected.set()

    async def test() -> None:
        async with await asyncio.start_server(answer_in_plain_text, "127.0.0.1", 0) as server:
            error = await error_of(http_client().collect(by_host(server.sockets[0].getsockname()[1])))
            await disconnected.wait()
        assert (error.kind, str(error)) == (
            FailureKind.PLAIN,
            "the server expects http, and it is asked by https",
        )

    run(test())


def test_an_invalid_ca_is_reported_with_its_file(tmp_path: Path) -> None:
    mounted = mount(tmp_path, "one", {"hosts": NAME, "ca.crt": "no PEM"})
    error, server = fetch_over_tls(tmp_path, None, responds(page()), by_host)
    assert isinstance(error, FetchError)
    assert f"{mounted / 'ca.crt'}: cannot be used: " in str(error)
    assert server.requests == []


@pytest.mark.parametrize(
    ("handler", "is_complete"),
    [
        pytest.param(
            responds_and_closes(until_closed(b"up 1\n")), True, id="a page that ends with a TLS close is complete"
        ),
        pytest.param(
            responds_and_aborts(until_closed(b"up 1\n")),
            False,
            id="a page that ends without a TLS close may have been cut",
        ),
        pytest.param(responds_and_aborts(page(b"up 1\n")), True, id="a page of known length is complete"),
    ],
)
def test_the_end_of_a_tls_connection(tmp_path: Path, authority: Authority, handler: Handler, is_complete: bool) -> None:
    mount(tmp_path / "mounts", "one", {"hosts": NAME, "ca.crt": authority.certificate.read_text()})
    context = server_context(authority.issue("server", host=NAME))
    got, _ = fetch_over_tls(tmp_path / "mounts", context, handler, by_host)
    assert (got.content if isinstance(got, CollectedPage) else str(got)) == (
        b"up 1\n" if is_complete else "the response is incomplete"
    )


def test_a_server_that_closes_during_the_handshake_is_an_error() -> None:
    async def close_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.close()

    async def test() -> None:
        async with await asyncio.start_server(close_connection, "127.0.0.1", 0) as server:
            error = await error_of(http_client().collect(by_host(server.sockets[0].getsockname()[1])))
        assert (error.kind, str(error)) == (
            FailureKind.UNREADABLE,
            "the TLS handshake does not succeed: the connection is closed",
        )

    run(test())


FETCH_AS_SERVE = """
import sys
from keda_gpu_scaler.cli import main
main.get_command(None, "serve")
import asyncio
from types import SimpleNamespace
from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.credentials import Credentials
from keda_gpu_scaler.scrape.http_client import HttpClient
from keda_gpu_scaler.scrape.types import Target
from keda_gpu_scaler.scrape.address_policy import AddressPolicy

async def run():
    scheme, host, port, mounts = sys.argv[1:]
    client = HttpClient(AddressPolicy("127.0.0.1"), Credentials(mounts))
    pieces = []
    reader = SimpleNamespace(follow=lambda piece: False, feed=pieces.append, end=lambda: iter(()))
    await client.fetch(Target(Url(scheme, host, int(port), "/metrics"), "127.0.0.1"), lambda content_type: reader)
    client.close()
    print(b"".join(pieces).decode().strip(), "ssl" in sys.modules)

asyncio.run(run())
"""


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_serve_loads_openssl_only_for_https(tmp_path: Path, authority: Authority, scheme: str) -> None:
    """``serve`` loads an asyncio without OpenSSL."""
    mount(tmp_path / "mounts", "one", {"hosts": NAME, "ca.crt": authority.certificate.read_text()})
    context = server_context(authority.issue("server", host=NAME)) if scheme == "https" else None

    async def test() -> None:
        async with Server(responds(page()), tls=context) as server:
            completed = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", FETCH_AS_SERVE, scheme, NAME, str(server.port), str(tmp_path / "mounts")],
                capture_output=True,
                text=True,
                timeout=WAIT_SECONDS,
                check=False,
            )
        assert (completed.stdout, completed.stderr) == (f"up 1 {scheme == 'https'}\n", "")

    run(test())


def test_a_tls_server_that_is_asked_by_http_closes_the_connection_or_says_so(
    tmp_path: Path, authority: Authority
) -> None:
    context = server_context(authority.issue("server", host=NAME))
    error, _ = fetch_over_tls(None, context, responds(page()), lambda port: target(port, host=NAME))
    assert isinstance(error, FetchError), error
    assert error.kind in (FailureKind.TLS, FailureKind.CLOSED)
