# SPDX-License-Identifier: Apache-2.0
"""Tests of TLS with real certificates and a real server: access, and changes of the files."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.wire.tls import ClientTls, Pem, ServerTls, TlsError
from tests.certificates import NAME, Authority, Pair
from tests.limits import WAIT_SECONDS


def server_tls(pair: Pair, client_ca: Path | None = None) -> ServerTls:
    ca = Pem("--tls-client-ca", client_ca) if client_ca else None
    return ServerTls(Pem("--tls-cert", pair.certificate), Pem("--tls-key", pair.key, is_key=True), ca)


def client_tls(ca: Path, pair: Pair | None = None, name: str = NAME) -> ClientTls:
    if pair is None:
        return ClientTls(Pem("--tls-ca", ca), server_name=name)
    own = Pem("--tls-cert", pair.certificate), Pem("--tls-key", pair.key, is_key=True)
    return ClientTls(Pem("--tls-ca", ca), *own, name)


async def _echo(request: bytes, context: Any) -> bytes:
    return request


async def _repeat(request: bytes, context: Any) -> AsyncIterator[bytes]:
    while True:
        yield request
        await asyncio.sleep(0)


class _Server:
    def __init__(self, port: int) -> None:
        self._port = port

    def channel(self, tls: ClientTls | None) -> grpc.aio.Channel:
        address = f"127.0.0.1:{self._port}"
        # A new connection each time, as from another client.
        options = (("grpc.use_local_subchannel_pool", 1), *(tls.options() if tls else ()))
        if tls is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, tls.credentials(), options=options)

    async def answers(self, tls: ClientTls | None) -> bool:
        async with self.channel(tls) as channel:
            try:
                return bool(await channel.unary_unary("/test/Echo")(b"well", timeout=WAIT_SECONDS) == b"well")
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return False


@contextlib.asynccontextmanager
async def served(tls: ServerTls) -> AsyncIterator[_Server]:
    server = grpc.aio.server()
    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(_echo),
        "Repeat": grpc.unary_stream_rpc_method_handler(_repeat),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    port = server.add_secure_port("127.0.0.1:0", tls.credentials())
    await server.start()
    try:
        yield _Server(port)
    finally:
        await server.stop(None)


def run_with(tls: ServerTls, scenario: Callable[[_Server], Awaitable[None]]) -> None:
    async def run() -> None:
        async with served(tls) as server, asyncio.timeout(WAIT_SECONDS):
            await scenario(server)

    asyncio.run(run())


def tls_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log messages about certificates, without those of gRPC about a cancelled stream."""
    return [record.getMessage() for record in caplog.records if record.name == "keda_gpu_scaler.wire.tls"]


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_without_a_client_ca_every_client_that_trusts_the_ca_gets_an_answer(ca: Authority, tmp_path: Path) -> None:
    other_ca = Authority(tmp_path, "other")

    async def scenario(server: _Server) -> None:
        assert await server.answers(client_tls(ca.certificate))
        assert not await server.answers(client_tls(other_ca.certificate))
        assert not await server.answers(client_tls(ca.certificate, name="other.example"))
        assert not await server.answers(None)

    run_with(server_tls(ca.issue("server")), scenario)


def test_with_a_client_ca_only_its_clients_get_an_answer(ca: Authority, tmp_path: Path) -> None:
    other_ca = Authority(tmp_path, "other")

    async def scenario(server: _Server) -> None:
        assert await server.answers(client_tls(ca.certificate, ca.issue("keda")))
        for sentence, tls in (
            ("no certificate", client_tls(ca.certificate)),
            ("a certificate of another CA", client_tls(ca.certificate, other_ca.issue("wrong"))),
            ("an expired one", client_tls(ca.certificate, ca.issue("late", days=-1))),
            ("one for servers only", client_tls(ca.certificate, ca.issue("server-only", usage="serverAuth"))),
            ("no TLS", None),
        ):
            assert not await server.answers(tls), sentence

    run_with(server_tls(ca.issue("server"), ca.certificate), scenario)


def test_a_client_refuses_an_expired_server_certificate(ca: Authority) -> None:
    async def scenario(server: _Server) -> None:
        assert not await server.answers(client_tls(ca.certificate))

    run_with(server_tls(ca.issue("server", days=-1)), scenario)


def test_a_changed_certificate_is_used_for_the_next_connection_and_ends_no_stream(
    ca: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    next_ca = Authority(tmp_path, "next")
    pair = ca.issue("server")

    async def scenario(server: _Server) -> None:
        async with server.channel(client_tls(ca.certificate)) as channel:
            stream = channel.unary_stream("/test/Repeat")(b"still here")
            assert await stream.read() == b"still here"
            pair.replace(next_ca.issue("server"))
            assert await server.answers(client_tls(next_ca.certificate))
            assert not await server.answers(client_tls(ca.certificate))
            for _ in range(100):
                assert await stream.read() == b"still here"

    run_with(server_tls(pair), scenario)
    [message] = tls_messages(caplog)
    assert message.startswith("the TLS files have changed, and are used from now on")
    assert message.endswith(str(pair.certificate))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(lambda pair: pair.key.unlink(), "--tls-key: cannot read", id="the key is gone"),
        pytest.param(lambda pair: pair.certificate.write_text("?"), "holds no certificate", id="no certificate"),
        pytest.param(
            lambda pair: pair.key.write_text("-----BEGIN PUBLIC KEY-----"), "holds no private key", id="no key"
        ),
    ],
)
def test_invalid_files_replace_nothing_and_are_logged_once(
    damage: Callable[[Pair], object], expected: str, ca: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    pair = ca.issue("server")

    async def scenario(server: _Server) -> None:
        damage(pair)
        assert await server.answers(client_tls(ca.certificate))
        assert await server.answers(client_tls(ca.certificate))
        [message] = tls_messages(caplog)
        assert expected in message
        assert message.endswith("; the files that were read before stay in use")

    run_with(server_tls(pair), scenario)


def test_a_key_that_does_not_match_the_certificate_replaces_nothing(ca: Authority) -> None:
    pair, other = ca.issue("server"), ca.issue("other")

    async def scenario(server: _Server) -> None:
        pair.key.write_bytes(other.key.read_bytes())
        assert await server.answers(client_tls(ca.certificate))
        pair.replace(other)
        assert await server.answers(client_tls(ca.certificate))

    run_with(server_tls(pair), scenario)


def test_a_client_reads_its_files_for_each_connection(ca: Authority, tmp_path: Path) -> None:
    mine = ca.issue("mine")

    async def scenario(server: _Server) -> None:
        tls = client_tls(ca.certificate, mine)
        assert await server.answers(tls)
        mine.replace(Authority(tmp_path, "other").issue("mine"))
        assert not await server.answers(tls)

    run_with(server_tls(ca.issue("server"), ca.certificate), scenario)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param("gone", None, "--tls-ca: cannot read {}: no such file or directory; is the Secret mounted there?",
                     id="no such file"),
        pytest.param("empty", "", "--tls-ca: {} holds no certificate in PEM form: name a file that does", id="empty"),
    ],
)  # fmt: skip
def test_the_error_for_an_invalid_file_names_the_flag_and_the_path(
    name: str, text: str | None, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(TlsError) as caught:
        client_tls(path).credentials()
    assert str(caught.value) == expected.format(path)
