# SPDX-License-Identifier: Apache-2.0
"""Tests of the roles by certificate, with real certificates and the services of an instance."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.config import Config
from keda_gpu_scaler.remote.own_tls import client_roles
from keda_gpu_scaler.server.certificate_roles import is_named, role_guard
from keda_gpu_scaler.server.lazy_service import LazyService, Registrar
from keda_gpu_scaler.server.undecodable_log import UndecodableLog
from keda_gpu_scaler.wire.tls import ClientTls, Pem, ServerTls
from tests.certificates import NAME, Authority, Pair
from tests.limits import WAIT_SECONDS

KEDA, WATCH, EXPLAIN = "keda", "watch", "explain"
CLIENTS = {"keda": "keda-operator.keda", "instance": NAME, "operator": "alice.example"}
"""The clients of the tests: the common name of each certificate, and its DNS name."""


class Served:
    """A server with one unary and one streaming method for each role, as ``agent`` guards its services."""

    def __init__(self, folder: Path, *, client_ca: bool = True, **settings: Any) -> None:
        self.ca = Authority(folder)
        self.pairs = {client: self.ca.issue(client, host=host) for client, host in CLIENTS.items()}
        pair, ca = self.ca.issue("server"), str(self.ca.certificate)
        own: dict[str, Any] = {"tls_cert": str(pair.certificate), "tls_key": str(pair.key)}
        self.config = Config(node_name="gpu-7", **own, tls_client_ca=ca if client_ca else None, **settings)
        self.tls = ServerTls(
            Pem("--tls-cert", pair.certificate),
            Pem("--tls-key", pair.key, is_key=True),
            Pem("--tls-client-ca", self.ca.certificate) if client_ca else None,
        )
        self.calls: list[str] = []

    def services(self) -> list[LazyService]:
        roles = client_roles(self.config)
        return [
            LazyService(name, self._adding(name), role_guard(role, UndecodableLog(lambda: 0.0)))
            for name, role in ((KEDA, roles.keda), (WATCH, roles.watch), (EXPLAIN, roles.explain))
        ]

    def _adding(self, name: str) -> Any:
        async def answer(request: bytes, context: Any) -> bytes:
            self.calls.append(name)
            return request

        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            self.calls.append(name)
            yield request

        def add(registrar: Registrar) -> None:
            methods = {
                "One": grpc.unary_unary_rpc_method_handler(answer),
                "Many": grpc.unary_stream_rpc_method_handler(stream),
            }
            registrar.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, methods)])

        return add

    def outcomes(self, pair: Pair | None) -> Mapping[str, str]:
        """Call both methods of each role; return the details of each refusal, empty for an answer."""
        return asyncio.run(self._outcomes(pair))

    async def _outcomes(self, pair: Pair | None) -> Mapping[str, str]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(tuple(self.services()))
        port = server.add_secure_port("127.0.0.1:0", self.tls.credentials())
        await server.start()
        certificate = Pem("", pair.certificate) if pair else None
        key = Pem("", pair.key, is_key=True) if pair else None
        tls = ClientTls(Pem("--tls-ca", self.ca.certificate), certificate, key, NAME)
        options = (("grpc.use_local_subchannel_pool", 1), *tls.options())
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", tls.credentials(), options=options) as channel:
            found = {role: await self._call(channel, role) for role in (KEDA, WATCH, EXPLAIN)}
        await server.stop(None)
        return found

    async def _call(self, channel: grpc.aio.Channel, role: str) -> str:
        results, codes = [], []
        calls: tuple[Callable[[], Any], ...] = (
            lambda: channel.unary_unary(f"/{role}/One")(b"x", timeout=WAIT_SECONDS),
            lambda: channel.unary_stream(f"/{role}/Many")(b"x", timeout=WAIT_SECONDS).read(),
        )
        for call in calls:
            before = len(self.calls)
            try:
                assert await call() == b"x"
            except grpc.aio.AioRpcError as error:
                codes.append(error.code())
                results.append(error.details() or "")
                assert len(self.calls) == before, "the method of a refused call has run"
            else:
                results.append("")
        assert bool(results[0]) == bool(results[1])
        assert set(codes) <= {grpc.StatusCode.PERMISSION_DENIED}
        return results[0]


def admitted(outcomes: Mapping[str, str]) -> set[str]:
    return {role for role, refusal in outcomes.items() if not refusal}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param(
            {"tls_peer_name": NAME},
            {"keda": {KEDA}, "instance": {KEDA, WATCH}, "operator": {KEDA}},
            id="by default instances watch by their common name, KEDA has any certificate, and nobody explains",
        ),
        pytest.param(
            {},
            {"keda": {KEDA, WATCH}, "instance": {KEDA, WATCH}, "operator": {KEDA, WATCH}},
            id="without a name of the instances every certificate may watch",
        ),
        pytest.param(
            {"tls_peer_name": NAME, "tls_keda_names": "keda"},
            {"keda": {KEDA}, "instance": {WATCH}, "operator": set()},
            id="KEDA by its common name",
        ),
        pytest.param(
            {"tls_peer_name": NAME, "tls_keda_names": f"KEDA-operator.keda, {NAME}"},
            {"keda": {KEDA}, "instance": {KEDA, WATCH}, "operator": set()},
            id="KEDA by its DNS name, in another case, and the instances for the test of the chart",
        ),
        pytest.param(
            {"tls_peer_name": NAME, "tls_watch_names": f"{NAME},operator", "tls_explain_names": "alice.example"},
            {"keda": {KEDA}, "instance": {KEDA, WATCH}, "operator": {KEDA, WATCH, EXPLAIN}},
            id="an operator who runs top and explain with a certificate",
        ),
        pytest.param(
            {"tls_peer_name": NAME, "tls_watch_names": "*", "tls_explain_names": "*"},
            {client: {KEDA, WATCH, EXPLAIN} for client in CLIENTS},
            id="every certificate, as before there were roles",
        ),
        pytest.param(
            {"tls_peer_name": NAME, "explain_port": 6001},
            {"keda": {KEDA}, "instance": {KEDA, WATCH}, "operator": {KEDA}},
            id="with an explain port",
        ),
    ],
)
def test_who_may_call_what_where_clients_have_certificates(
    settings: dict[str, Any], expected: dict[str, set[str]], tmp_path: Path
) -> None:
    served = Served(tmp_path, **settings)
    assert {client: admitted(served.outcomes(pair)) for client, pair in served.pairs.items()} == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({}, {KEDA, WATCH, EXPLAIN}, id="everyone may call everything"),
        pytest.param({"explain_port": 6001}, {KEDA, WATCH}, id="people have a port of their own"),
    ],
)
def test_without_certificates_of_clients_there_are_no_roles(
    settings: dict[str, Any], expected: set[str], tmp_path: Path
) -> None:
    assert admitted(Served(tmp_path, client_ca=False, tls_peer_name=NAME, **settings).outcomes(None)) == expected


def test_a_refusal_names_the_certificate_the_flag_and_the_way_of_people(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(tmp_path, tls_peer_name=NAME, tls_keda_names="keda")
    with caplog.at_level(logging.WARNING):
        found = served.outcomes(served.pairs["operator"])
    assert any("/keda/One from ipv4:127.0.0.1" in line and found[KEDA] in line for line in caplog.messages)
    denied = 'One: permission denied to a certificate with the name "operator", "alice.example": '
    assert found[KEDA] == f"{denied}add its name to --tls-keda-names"
    assert found[WATCH] == f"{denied}add its name to --tls-watch-names"
    assert found[EXPLAIN].startswith(f"{denied}people use the port of --explain-port (in the chart: explain.enabled)")
    assert found[EXPLAIN].endswith("or add the name to --tls-explain-names")


@pytest.mark.parametrize(
    ("listed", "certificate", "expected"),
    [
        pytest.param("keda", ["keda"], True, id="the same name"),
        pytest.param("Keda.Example", ["keda.EXAMPLE"], True, id="another case"),
        pytest.param("keda", ["other", "keda"], True, id="one of several names"),
        pytest.param(NAME, ["*.keda.svc.cluster.local"], True, id="a certificate with a wildcard"),
        pytest.param("a.b.example", ["*.example"], False, id="a wildcard stands for one label"),
        pytest.param("example", ["*.example"], False, id="a wildcard stands for a label that is there"),
        pytest.param("keda", ["*."], False, id="a wildcard without a domain"),
        pytest.param("*.example", ["keda.example"], False, id="a listed pattern is a plain name"),
        pytest.param("keda", ["keda2", "akeda", "ked"], False, id="a part of a name"),
        pytest.param("keda", [], False, id="a certificate without names"),
        pytest.param("*", [], True, id="every certificate"),
    ],
)
def test_a_listed_name_is_compared_as_a_whole(listed: str, certificate: list[str], expected: bool) -> None:
    assert is_named(listed, certificate) is expected
