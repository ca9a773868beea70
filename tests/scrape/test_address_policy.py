# SPDX-License-Identifier: Apache-2.0
"""Which addresses may be asked: by whoever writes a ScaledObject, and by nobody."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keda_gpu_scaler.scrape.address_policy import AddressPolicy, AddressPolicyError

EVERYTHING = "0.0.0.0/0,::/0,*"
OWN = "this machine's own"
METADATA = "link-local or serves a cloud's metadata"
NOBODY = "no single machine's"
UNLISTED = "not among the endpoints that are allowed"


def refusal(guard: AddressPolicy, address: str, host: str | None = None) -> str | None:
    try:
        guard.check(host or address, address)
    except AddressPolicyError as error:
        return str(error)
    return None


def refusal_of_pod(guard: AddressPolicy, address: str) -> str | None:
    try:
        guard.check_pod(address)
    except AddressPolicyError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("address", "why"),
    [
        pytest.param("169.254.169.254", METADATA, id="most clouds' metadata"),
        pytest.param("169.254.0.1", METADATA, id="link-local"),
        pytest.param("fe80::1", METADATA, id="link-local in IPv6"),
        pytest.param("fe80::1%eth0", METADATA, id="link-local with its zone"),
        pytest.param("febf::1", METADATA, id="the last of the link-local ones"),
        pytest.param("fd00:ec2::254", METADATA, id="Amazon's metadata in IPv6"),
        pytest.param("fd20:ce::254", METADATA, id="Google's metadata in IPv6"),
        pytest.param("100.100.100.200", METADATA, id="Alibaba's metadata"),
        pytest.param("168.63.129.16", METADATA, id="Azure's host"),
        pytest.param("192.0.0.192", METADATA, id="Oracle's metadata"),
        pytest.param("224.0.0.1", NOBODY, id="many machines"),
        pytest.param("ff02::1", NOBODY, id="many machines in IPv6"),
        pytest.param("0.0.0.0", NOBODY, id="no address, which Linux takes for this machine"),  # noqa: S104
        pytest.param("::", NOBODY, id="no address in IPv6"),
        pytest.param("0.1.2.3", NOBODY, id="this network"),
        pytest.param("255.255.255.255", NOBODY, id="everybody"),
        pytest.param("::ffff:169.254.169.254", METADATA, id="metadata, mapped"),
        pytest.param("::169.254.169.254", METADATA, id="metadata, compatible"),
        pytest.param("64:ff9b::169.254.169.254", METADATA, id="metadata by NAT64"),
        pytest.param("64:ff9b:1::169.254.169.254", METADATA, id="metadata by a network's own NAT64"),
        pytest.param("2002:a9fe:a9fe::1", METADATA, id="metadata by 6to4"),
        pytest.param("2001:0:102:304::5601:5601", METADATA, id="metadata by Teredo"),
        pytest.param("2001:0:a9fe:a9fe::fefe:fefe", METADATA, id="metadata as a Teredo server"),
        pytest.param("::ffff:0.0.0.0", NOBODY, id="no address, mapped"),
        pytest.param("fd00::1%eth0", "bound to one of this machine's interfaces", id="a zone"),
        pytest.param("vllm.ai", "is no address", id="a name"),
        pytest.param("127.1", "is no address", id="half an address"),
        pytest.param("", "is no address", id="nothing"),
    ],
)
def test_what_nobody_may_allow(address: str, why: str) -> None:
    for allowed in (None, EVERYTHING, f"{address.partition('%')[0]},*" if why == METADATA else "*"):
        guard = AddressPolicy(allowed)
        assert why in (refusal(guard, address, "engine.ai.svc") or "")
        assert why in (refusal_of_pod(guard, address) or "")


@pytest.mark.parametrize(
    ("allowed", "address", "why"),
    [
        pytest.param(None, "127.0.0.1", OWN, id="without a list"),
        pytest.param(None, "127.8.9.10", OWN, id="another address of its own"),
        pytest.param(None, "::1", OWN, id="in IPv6"),
        pytest.param(None, "::ffff:127.0.0.1", OWN, id="mapped"),
        pytest.param(None, "2002:7f00:1::", OWN, id="by 6to4"),
        pytest.param("*", "127.0.0.1", OWN, id="by name alone"),
        pytest.param("10.0.0.0/8,localhost", "127.0.0.1", OWN, id="not in a network of the list"),
        pytest.param("::1", "127.0.0.1", OWN, id="the other family is listed"),
        pytest.param("127.0.0.0/8", "127.0.0.1", None, id="listed"),
        pytest.param("127.0.0.1", "127.0.0.1", None, id="listed alone"),
        pytest.param("127.0.0.1", "127.0.0.2", OWN, id="beside the one that is listed"),
        pytest.param("::1", "::1", None, id="listed in IPv6"),
    ],
)
def test_this_machine_is_asked_only_if_its_network_is_listed(
    allowed: str | None, address: str, why: str | None
) -> None:
    guard = AddressPolicy(allowed)
    for told in (refusal(guard, address, "localhost"), refusal_of_pod(guard, address)):
        assert told is None if why is None else why in (told or "")


@pytest.mark.parametrize(
    ("allowed", "host", "address", "passes"),
    [
        pytest.param(None, "vllm.ai", "10.1.2.3", True, id="without a list everything passes"),
        pytest.param(None, "vllm.ai", "240.1.2.3", True, id="some clusters give pods addresses that are reserved"),
        pytest.param(None, "vllm.ai", "100.64.1.2", True, id="and shared ones"),
        pytest.param(None, "vllm.ai", "fd00::1", True, id="and private ones of IPv6"),
        pytest.param(None, "vllm.ai", "2001:db8::1", True, id="and others"),
        pytest.param("10.0.0.0/8", "vllm.ai", "10.1.2.3", True, id="an address in a network"),
        pytest.param("10.0.0.0/8", "vllm.ai", "11.1.2.3", False, id="an address beside it"),
        pytest.param("10.1.2.3", "10.1.2.3", "10.1.2.3", True, id="an address alone"),
        pytest.param("fd00::/8", "vllm.ai", "fd12::1", True, id="an address of IPv6"),
        pytest.param("fd00::/8", "vllm.ai", "10.1.2.3", False, id="another family"),
        pytest.param("10.0.0.0/8", "vllm.ai", "::ffff:10.1.2.3", False, id="an address in disguise"),
        pytest.param("*.ai.svc", "vllm.ai.svc", "10.1.2.3", True, id="a name that fits"),
        pytest.param("*.ai.svc", "VLLM.AI.svc", "10.1.2.3", True, id="whatever its case"),
        pytest.param("*.ai.svc", "vllm.ai.svc.", "10.1.2.3", True, id="with the dot that ends it"),
        pytest.param("*.ai.svc.", "vllm.ai.svc", "10.1.2.3", True, id="or without"),
        pytest.param("*.ai.svc", "vllm.ai.svc.example.com", "10.1.2.3", False, id="a name that goes on"),
        pytest.param("*.ai.svc", "ai.svc", "10.1.2.3", False, id="a name that is too short"),
        pytest.param(" 192.168.0.0/16 , vllm ", "vllm", "10.1.2.3", True, id="blanks in the list"),
    ],
)
def test_only_what_is_listed_passes(allowed: str | None, host: str, address: str, passes: bool) -> None:
    told = refusal(AddressPolicy(allowed), address, host)
    assert told is None if passes else UNLISTED in (told or "")


def test_a_pod_need_not_be_listed() -> None:
    assert refusal_of_pod(AddressPolicy("*.ai.svc"), "10.1.2.3") is None


def test_refusals_are_sentences() -> None:
    assert refusal(AddressPolicy("10.0.0.0/8"), "11.1.2.3", "vllm.ai\x1b[2J") == (
        '"vllm.ai\\u001b[2J" (11.1.2.3) is not among the endpoints that are allowed: list it with --allow-endpoints '
        "(chart: engines.allowEndpoints)"
    )
    assert refusal(AddressPolicy(), "169.254.169.254") == (
        '"169.254.169.254" is link-local or serves a cloud\'s metadata, and is never asked: name another host'
    )


@pytest.mark.parametrize(
    ("allowed", "named"),
    [
        pytest.param("", '""', id="nothing"),
        pytest.param("10.0.0.0/8,", '""', id="a comma too many"),
        pytest.param("10.0.0.1/8", '"10.0.0.1/8"', id="bits beyond the length"),
        pytest.param("10.0.0.0/33", '"10.0.0.0/33"', id="a length too long"),
        pytest.param("10.0.0", '"10.0.0"', id="half an address"),
        pytest.param("2130706433", '"2130706433"', id="an address as one number"),
        pytest.param("http://vllm", '"http://vllm"', id="a URL"),
        pytest.param("vllm:8000", '"vllm:8000"', id="a port"),
        pytest.param("[fd00::1]", '"[fd00::1]"', id="brackets"),
        pytest.param("vllm ai", '"vllm ai"', id="a blank for a comma"),
        pytest.param("vllm;ai", '"vllm;ai"', id="a semicolon for a comma"),
        pytest.param(",".join(["a"] * 257), '"a"', id="too many"),
    ],
)
def test_a_list_that_is_wrong_is_told_by_name(allowed: str, named: str) -> None:
    with pytest.raises(AddressPolicyError, match=r"^--allow-endpoints: Invalid value: .* must be (a )?network") as told:
        AddressPolicy(allowed)
    assert named in str(told.value)


_HARMFUL = ("169.254.169.254", "169.254.0.1", "100.100.100.200", "127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.2")


@given(st.integers(2, 2**32 - 1) | st.sampled_from(_HARMFUL).map(lambda text: int(IPv4Address(text))))
@example(0xA9FEA9FE)
@example(0x7F000001)
def test_an_address_in_disguise_is_refused_as_it_is_without(address: int) -> None:
    guard = AddressPolicy()
    plain = refusal(guard, str(IPv4Address(address)))
    disguises = {
        "mapped": 0xFFFF << 32 | address,
        "compatible": address,
        "NAT64": 0x64FF9B << 96 | address,
        "6to4": 0x2002 << 112 | address << 80 | 1,
        "Teredo": 0x20010000 << 96 | 0x08080808 << 64 | address ^ 0xFFFFFFFF,
    }
    for disguise, at in disguises.items():
        told = refusal(guard, str(IPv6Address(at)))
        assert (told is None) == (plain is None), disguise


@given(st.ip_addresses())
@example(IPv4Address("169.254.169.254"))
@example(IPv6Address("ff02::1"))
def test_listing_an_address_allows_nothing_that_is_never_asked(address: IPv4Address | IPv6Address) -> None:
    without = refusal(AddressPolicy(), str(address))
    if without is not None and OWN not in without:
        assert refusal(AddressPolicy(f"{address},*"), str(address)) == without
