# SPDX-License-Identifier: Apache-2.0
"""Tests of the address policy: addresses that are always refused, and those that the operator lists."""

import contextlib
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keda_gpu_scaler.scrape.address_policy import AddressPolicy, AddressPolicyError

EVERYTHING = "0.0.0.0/0,::/0,*"
OWN = "an address of this machine"
METADATA = "a link-local or cloud metadata address"
NOT_SINGLE = "not the address of a single machine"
UNLISTED = "not among the allowed endpoints"


def refusal(policy: AddressPolicy, address: str, host: str | None = None) -> str | None:
    try:
        policy.check(host or address, address, 8000, None)
    except AddressPolicyError as error:
        return str(error)
    return None


def refusal_of_pod(policy: AddressPolicy, address: str) -> str | None:
    try:
        policy.check_pod(address, 8000)
    except AddressPolicyError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("address", "why"),
    [
        pytest.param("169.254.169.254", METADATA, id="metadata of most clouds"),
        pytest.param("169.254.0.1", METADATA, id="link-local"),
        pytest.param("fe80::1", METADATA, id="link-local in IPv6"),
        pytest.param("fe80::1%eth0", METADATA, id="link-local with a zone"),
        pytest.param("febf::1", METADATA, id="the end of the link-local range"),
        pytest.param("fd00:ec2::254", METADATA, id="Amazon's metadata in IPv6"),
        pytest.param("fd00:ec2::23", METADATA, id="Amazon's credentials of pods in IPv6"),
        pytest.param("fd20:ce::254", METADATA, id="Google's metadata in IPv6"),
        pytest.param("fd00:42::42", METADATA, id="Scaleway's metadata in IPv6"),
        pytest.param("fd00:c1::a9fe:a9fe", METADATA, id="Oracle's metadata in IPv6"),
        pytest.param("fd00:a9fe:a9fe::1", METADATA, id="Akamai's metadata in IPv6"),
        pytest.param("100.100.100.200", METADATA, id="Alibaba's metadata"),
        pytest.param("fd00:100::100:200", METADATA, id="Alibaba's metadata in IPv6"),
        pytest.param("100.96.0.96", METADATA, id="Volcano Engine's metadata"),
        pytest.param("168.63.129.16", METADATA, id="Azure's host"),
        pytest.param("192.0.0.192", METADATA, id="Oracle's metadata"),
        pytest.param("224.0.0.1", NOT_SINGLE, id="multicast"),
        pytest.param("ff02::1", NOT_SINGLE, id="multicast in IPv6"),
        pytest.param("0.0.0.0", NOT_SINGLE, id="unspecified, which Linux connects to this machine"),  # noqa: S104
        pytest.param("::", NOT_SINGLE, id="unspecified in IPv6"),
        pytest.param("0.1.2.3", NOT_SINGLE, id="this network"),
        pytest.param("255.255.255.255", NOT_SINGLE, id="broadcast"),
        pytest.param("::ffff:169.254.169.254", METADATA, id="metadata as an IPv4-mapped address"),
        pytest.param("::169.254.169.254", METADATA, id="metadata as an IPv4-compatible address"),
        pytest.param("64:ff9b::169.254.169.254", METADATA, id="metadata through NAT64"),
        pytest.param("64:ff9b:1::169.254.169.254", METADATA, id="metadata through a local NAT64 prefix"),
        pytest.param("64:ff9b:1:a9fe:a9:fe00::", METADATA, id="metadata through a local NAT64 prefix of 48 bits"),
        pytest.param("::ffff:0:a9fe:a9fe", METADATA, id="metadata as an IPv4-translated address"),
        pytest.param("fd00::5efe:a9fe:a9fe", METADATA, id="metadata through ISATAP"),
        pytest.param("64:ff9b::a83f:8110", METADATA, id="Azure's host through NAT64"),
        pytest.param("2002:a9fe:a9fe::1", METADATA, id="metadata through 6to4"),
        pytest.param("2001:0:102:304::5601:5601", METADATA, id="metadata through Teredo"),
        pytest.param("2001:0:a9fe:a9fe::fefe:fefe", METADATA, id="metadata as a Teredo server"),
        pytest.param("::ffff:0.0.0.0", NOT_SINGLE, id="unspecified as an IPv4-mapped address"),
        pytest.param("fd00::1%eth0", "bound to a network interface of this machine", id="a zone"),
        pytest.param("vllm.ai", "is not an IP address", id="a name"),
        pytest.param("127.1", "is not an IP address", id="an incomplete address"),
        pytest.param("", "is not an IP address", id="an empty text"),
    ],
)
def test_these_addresses_are_refused_even_if_they_are_listed(address: str, why: str) -> None:
    for allowed in (None, EVERYTHING, f"{address.partition('%')[0]},*" if why == METADATA else "*"):
        policy = AddressPolicy(allowed)
        assert why in (refusal(policy, address, "engine.ai.svc") or "")
        assert why in (refusal_of_pod(policy, address) or "")


@pytest.mark.parametrize(
    ("allowed", "address", "why"),
    [
        pytest.param(None, "127.0.0.1", OWN, id="without a list"),
        pytest.param(None, "127.8.9.10", OWN, id="another loopback address"),
        pytest.param(None, "::1", OWN, id="in IPv6"),
        pytest.param(None, "::ffff:127.0.0.1", OWN, id="IPv4-mapped"),
        pytest.param(None, "2002:7f00:1::", OWN, id="through 6to4"),
        pytest.param("*", "127.0.0.1", OWN, id="only a name is listed"),
        pytest.param("10.0.0.0/8,localhost", "127.0.0.1", OWN, id="another network is listed"),
        pytest.param("::1", "127.0.0.1", OWN, id="the other family is listed"),
        pytest.param("127.0.0.0/8", "127.0.0.1", None, id="listed"),
        pytest.param("127.0.0.1", "127.0.0.1", None, id="listed as one address"),
        pytest.param("127.0.0.1", "127.0.0.2", OWN, id="another address is listed"),
        pytest.param("::1", "::1", None, id="listed in IPv6"),
    ],
)
def test_loopback_is_allowed_only_if_its_network_is_listed(allowed: str | None, address: str, why: str | None) -> None:
    policy = AddressPolicy(allowed)
    for reason in (refusal(policy, address, "localhost"), refusal_of_pod(policy, address)):
        assert reason is None if why is None else why in (reason or "")


@pytest.mark.parametrize(
    ("allowed", "host", "address", "is_allowed"),
    [
        pytest.param(None, "vllm.ai", "10.1.2.3", True, id="without a list each address is allowed"),
        pytest.param(None, "vllm.ai", "240.1.2.3", True, id="a reserved address, which some clusters assign to pods"),
        pytest.param(None, "vllm.ai", "100.64.1.2", True, id="an address of the shared range"),
        pytest.param(None, "vllm.ai", "fd00::1", True, id="a private IPv6 address"),
        pytest.param(None, "vllm.ai", "2001:db8::1", True, id="another IPv6 address"),
        pytest.param("10.0.0.0/8", "vllm.ai", "10.1.2.3", True, id="an address in a network"),
        pytest.param("10.0.0.0/8", "vllm.ai", "11.1.2.3", False, id="an address outside the network"),
        pytest.param("10.1.2.3", "10.1.2.3", "10.1.2.3", True, id="one address"),
        pytest.param("fd00::/8", "vllm.ai", "fd12::1", True, id="an IPv6 address"),
        pytest.param("fd00::/8", "vllm.ai", "10.1.2.3", False, id="an address of the other family"),
        pytest.param("10.0.0.0/8", "vllm.ai", "::ffff:10.1.2.3", False, id="an IPv4-mapped address"),
        pytest.param("*.ai.svc", "vllm.ai.svc", "10.1.2.3", True, id="a matching name"),
        pytest.param("*.ai.svc", "VLLM.AI.svc", "10.1.2.3", True, id="a matching name in upper case"),
        pytest.param("*.ai.svc", "vllm.ai.svc.", "10.1.2.3", True, id="a name with a final dot"),
        pytest.param("*.ai.svc.", "vllm.ai.svc", "10.1.2.3", True, id="a pattern with a final dot"),
        pytest.param("*.ai.svc", "vllm.ai.svc.example.com", "10.1.2.3", False, id="a name with a longer suffix"),
        pytest.param("*.ai.svc", "ai.svc", "10.1.2.3", False, id="a name without the prefix"),
        pytest.param(" 192.168.0.0/16 , vllm ", "vllm", "10.1.2.3", True, id="blanks in the list"),
    ],
)
def test_only_listed_endpoints_are_allowed(allowed: str | None, host: str, address: str, is_allowed: bool) -> None:
    reason = refusal(AddressPolicy(allowed), address, host)
    assert reason is None if is_allowed else UNLISTED in (reason or "")


def test_the_list_does_not_apply_to_pods() -> None:
    assert refusal_of_pod(AddressPolicy("*.ai.svc"), "10.1.2.3") is None


@pytest.mark.parametrize(
    ("port", "is_refused"),
    [
        pytest.param(10250, True, id="the kubelet"),
        pytest.param(10255, True, id="the kubelet, read only"),
        pytest.param(10248, True, id="the kubelet's health"),
        pytest.param(10249, True, id="kube-proxy"),
        pytest.param(10256, True, id="kube-proxy's health"),
        pytest.param(10257, True, id="the controller manager"),
        pytest.param(10259, True, id="the scheduler"),
        pytest.param(6443, True, id="the API server"),
        pytest.param(2379, True, id="etcd"),
        pytest.param(10254, False, id="ingress-nginx"),
        pytest.param(10247, False, id="the port before"),
        pytest.param(10260, False, id="the port after"),
        pytest.param(443, False, id="https at another address than the API server's"),
    ],
)
def test_ports_of_the_components_of_kubernetes_are_refused_even_if_they_are_listed(port: int, is_refused: bool) -> None:
    policy = AddressPolicy(EVERYTHING)
    checks: list[Callable[[], None]] = [
        lambda: policy.check("gateway.web.svc", "10.1.2.3", port, "ai"),
        lambda: policy.check("gateway.web.svc", "10.1.2.3", port, None),
        lambda: policy.check_own("llama.ai.svc", "10.1.2.3", port),
        lambda: policy.check_pod("10.1.2.3", port),
    ]
    for check in checks:
        with contextlib.nullcontext() if not is_refused else pytest.raises(AddressPolicyError, match="never scraped"):
            check()


@pytest.mark.parametrize(
    ("host", "address", "port", "is_refused"),
    [
        pytest.param("10.96.0.1", "10.96.0.1", 443, True, id="by its address"),
        pytest.param("api.ai.svc", "10.96.0.1", 443, True, id="by an alias"),
        pytest.param("api.ai.svc", "::ffff:10.96.0.1", 443, True, id="by its address in IPv6"),
        pytest.param("kubernetes.default.svc", "10.0.0.7", 8443, True, id="by its name at another address"),
        pytest.param("kubernetes.default", "10.0.0.7", 8443, True, id="by a short name"),
        pytest.param("kubernetes.default.svc.cluster.local.", "10.0.0.7", 8443, True, id="by its full name"),
        pytest.param("10.96.0.1", "10.96.0.1", 8000, False, id="another port of the address"),
        pytest.param("kubernetes.ai.svc", "10.0.0.7", 8443, False, id="a Service of the same name elsewhere"),
    ],
)
def test_the_api_server_is_refused_even_if_it_is_listed(host: str, address: str, port: int, is_refused: bool) -> None:
    policy = AddressPolicy(EVERYTHING, api_servers=[("10.96.0.1", 443)])
    checks: list[Callable[[], None]] = [
        lambda: policy.check(host, address, port, "ai"),
        lambda: policy.check_own(host, address, port),
    ]
    for check in checks:
        with contextlib.nullcontext() if not is_refused else pytest.raises(AddressPolicyError, match="never scraped"):
            check()


def test_a_refusal_names_the_address_the_reason_and_the_remedy() -> None:
    assert refusal(AddressPolicy("10.0.0.0/8"), "11.1.2.3", "vllm.ai\x1b[2J") == (
        '"vllm.ai\\u001b[2J" (11.1.2.3) is not among the allowed endpoints: list it with --allow-endpoints '
        "(chart: engines.allowEndpoints)"
    )
    assert refusal(AddressPolicy(), "169.254.169.254") == (
        '"169.254.169.254" is a link-local or cloud metadata address, which is never scraped: name another host'
    )


@pytest.mark.parametrize(
    ("allowed", "named"),
    [
        pytest.param("", '""', id="an empty list"),
        pytest.param("10.0.0.0/8,", '""', id="a comma at the end"),
        pytest.param("10.0.0.1/8", '"10.0.0.1/8"', id="a network with host bits"),
        pytest.param("10.0.0.0/33", '"10.0.0.0/33"', id="a prefix length above the limit"),
        pytest.param("10.0.0", '"10.0.0"', id="an incomplete address"),
        pytest.param("2130706433", '"2130706433"', id="an address as one number"),
        pytest.param("http://vllm", '"http://vllm"', id="a URL"),
        pytest.param("vllm:8000", '"vllm:8000"', id="a port"),
        pytest.param("[fd00::1]", '"[fd00::1]"', id="brackets"),
        pytest.param("vllm ai", '"vllm ai"', id="a blank instead of a comma"),
        pytest.param("vllm;ai", '"vllm;ai"', id="a semicolon instead of a comma"),
        pytest.param(",".join(["a"] * 257), '"a"', id="too many entries"),
    ],
)
def test_an_invalid_list_is_reported_with_the_entry(allowed: str, named: str) -> None:
    with pytest.raises(
        AddressPolicyError, match=r"^--allow-endpoints: Invalid value: .* must be (a )?network"
    ) as raised:
        AddressPolicy(allowed)
    assert named in str(raised.value)


_REFUSED = ("169.254.169.254", "169.254.0.1", "100.100.100.200", "127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.2")


@given(st.integers(2, 2**32 - 1) | st.sampled_from(_REFUSED).map(lambda text: int(IPv4Address(text))))
@example(0xA9FEA9FE)
@example(0x7F000001)
def test_an_embedded_ipv4_address_is_refused_like_the_address_itself(address: int) -> None:
    policy = AddressPolicy()
    plain = refusal(policy, str(IPv4Address(address)))
    embeddings = {
        "mapped": 0xFFFF << 32 | address,
        "compatible": address,
        "NAT64": 0x64FF9B << 96 | address,
        "6to4": 0x2002 << 112 | address << 80 | 1,
        "Teredo": 0x20010000 << 96 | 0x08080808 << 64 | address ^ 0xFFFFFFFF,
    }
    for embedding, number in embeddings.items():
        reason = refusal(policy, str(IPv6Address(number)))
        assert (reason is None) == (plain is None), embedding


@given(st.ip_addresses())
@example(IPv4Address("169.254.169.254"))
@example(IPv6Address("ff02::1"))
def test_a_listed_address_is_refused_if_a_rule_refuses_it(address: IPv4Address | IPv6Address) -> None:
    without = refusal(AddressPolicy(), str(address))
    if without is not None and OWN not in without:
        assert refusal(AddressPolicy(f"{address},*"), str(address)) == without
