# SPDX-License-Identifier: Apache-2.0
"""Tests of static and DNS discovery, and of the value of --peers."""

import asyncio
import socket
from collections.abc import Mapping

import pytest

from keda_gpu_scaler.core.interfaces import Discovery, KubeError
from keda_gpu_scaler.peers.discovery import DiscoveryError, DnsDiscovery, parse_discovery
from tests.limits import WAIT_SECONDS


def first(discovery: Discovery) -> Mapping[str, str]:
    async def run() -> Mapping[str, str]:
        async with asyncio.timeout(WAIT_SECONDS):
            return await anext(discovery.addresses())

    return asyncio.run(run())


def test_a_static_list_has_each_address_once() -> None:
    assert first(parse_discovery("static:10.0.0.1:6000, gpu-8.local.:6000,[::1]:6000,10.0.0.1:6000")) == {
        "10.0.0.1:6000": "",
        "gpu-8.local.:6000": "",
        "[::1]:6000": "",
    }


def test_a_dns_name_has_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        ipv4, ipv6 = ("10.0.0.1", 6000), ("fd00::1", 6000, 0, 0)
        return [(0, 0, 0, "", ipv4), (0, 0, 0, "", ipv6), (0, 0, 0, "", ipv4)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert first(parse_discovery("dns:agents.gpu.svc:6000")) == {"10.0.0.1:6000": "", "[fd00::1]:6000": ""}


def test_a_name_that_cannot_be_resolved_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(
        KubeError, match="--peers: agents cannot be resolved: Name or service not known; is it a headless"
    ):
        first(DnsDiscovery("agents", 6000))


def test_a_name_with_an_invalid_label_is_an_error() -> None:
    with pytest.raises(KubeError, match=r"--peers: a\.\.b cannot be resolved: it is no host name: a part between"):
        first(DnsDiscovery("a..b", 6000))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gpu-8:6000", 'Unsupported value: "gpu-8:6000": must be auto, kubernetes'),
        ("static:", "Unsupported value"),
        ("static:gpu-8", 'Invalid value: "gpu-8": must be HOST:PORT'),
        ("static:gpu-8:0", "must be HOST:PORT"),
        ("static:gpu-8:65536", "must be HOST:PORT"),
        ("static:gpu-8:6000,", 'Invalid value: ""'),
        ("static:fd00::1:6000", "an IPv6 address in brackets"),
        ("dns:agents", "must be HOST:PORT"),
        ("dns:a b:1", "must be HOST:PORT"),
        ("dns:a..b:1", "must be HOST:PORT"),
        (f"dns:{'a' * 64}:1", "must be HOST:PORT"),
        (f"dns:{'a.' * 127}a:1", "must be HOST:PORT"),
    ],
)
def test_an_invalid_value_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(DiscoveryError) as caught:
        parse_discovery(text)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("--peers: ")
