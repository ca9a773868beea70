# SPDX-License-Identifier: Apache-2.0
"""Tests of lists of ports with ranges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.trigger.port_list import MAX_PORTS, PortsError, format_ports, parse_ports


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        pytest.param("8000", (8000,), id="one port"),
        pytest.param("8000-8003,9000", (8000, 8001, 8002, 8003, 9000), id="a range and a port"),
        pytest.param("9000,8000", (9000, 8000), id="the order of the list"),
        pytest.param(" 8000 - 8001 , 9000 ", (8000, 8001, 9000), id="blanks"),
        pytest.param("8000-8001,8001", (8000, 8001), id="a port twice"),
        pytest.param("8000-8000", (8000,), id="a range of one port"),
        pytest.param("65535", (65535,), id="the last port"),
        pytest.param("1-32", tuple(range(1, 33)), id="the largest number"),
    ],
)
def test_a_list_of_ports_is_read(text: str, ports: tuple[int, ...]) -> None:
    assert parse_ports(text) == ports


NO_PORTS = "must be a port from 1 to 65535, or a list with ranges such as 8000-8007,9000"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        *(
            pytest.param(text, NO_PORTS, id=repr(text))
            for text in (
                "",
                "http",
                "0",
                "65536",
                "8001-8000",
                "8000-",
                "-8000",
                "8000,,9000",
                "8000;9000",
                "\u0668000",
            )
        ),
        pytest.param("1-33", "has a range of 33 ports; at most 32 ports are scraped in a pod", id="a large range"),
        pytest.param("1-65535", "has a range of 65535 ports; at most 32 ports are scraped in a pod", id="every port"),
        pytest.param("1-20,41-60", "has 40 ports; at most 32 ports are scraped in a pod", id="two ranges"),
    ],
)
def test_another_text_is_no_list_of_ports(text: str, sentence: str) -> None:
    with pytest.raises(PortsError) as raised:
        parse_ports(text)
    assert str(raised.value) == sentence


@given(st.lists(st.integers(1, 65535), min_size=1, max_size=MAX_PORTS, unique=True))
def test_written_ports_are_read_again(ports: list[int]) -> None:
    assert parse_ports(format_ports(ports)) == tuple(ports)


def test_neighbouring_ports_are_written_as_a_range() -> None:
    assert format_ports((8000, 8001, 8002, 9000)) == "8000-8002,9000"
    assert format_ports(()) == ""
