# SPDX-License-Identifier: Apache-2.0
"""Reads and writes a list of ports with ranges, as in "8000-8007,9000"."""

import itertools
import re
from collections.abc import Iterable, Iterator

from keda_gpu_scaler.core.urls import MAX_PORT

MAX_PORTS = 32
"""The number of ports of a pod that a trigger may name."""
_RANGE = re.compile(r"\s*(?P<first>[0-9]{1,5})\s*(?:-\s*(?P<last>[0-9]{1,5})\s*)?", re.ASCII)


class PortsError(ValueError):
    """The text is no list of ports. The message says what it must be."""


def parse_ports(text: str) -> tuple[int, ...]:
    """Return the ports of a list, each once, in the order of the list.

    Raises:
        PortsError: a part is no port or range, or the list has more than ``MAX_PORTS`` ports.
    """
    ports: dict[int, None] = {}
    for item in text.split(","):
        match = _RANGE.fullmatch(item)
        first = int(match["first"]) if match else 0
        last = int(match["last"] or first) if match else 0
        if not 1 <= first <= last <= MAX_PORT:
            raise PortsError(f"must be a port from 1 to {MAX_PORT}, or a list with ranges such as 8000-8007,9000")
        if last - first >= MAX_PORTS:
            raise PortsError(f"has a range of {last - first + 1} ports; at most {MAX_PORTS} ports are scraped in a pod")
        ports |= dict.fromkeys(range(first, last + 1))
    if len(ports) > MAX_PORTS:
        raise PortsError(f"has {len(ports)} ports; at most {MAX_PORTS} ports are scraped in a pod")
    return tuple(ports)


def format_ports(ports: Iterable[int]) -> str:
    """Return the ports as a list with ranges."""
    return ",".join(f"{first}-{last}" if first != last else f"{first}" for first, last in _ranges(ports))


def _ranges(ports: Iterable[int]) -> Iterator[tuple[int, int]]:
    for _, group in itertools.groupby(enumerate(ports), lambda entry: entry[1] - entry[0]):
        members = [port for _, port in group]
        yield members[0], members[-1]
