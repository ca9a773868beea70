# SPDX-License-Identifier: Apache-2.0
"""Ports for servers that a test or a benchmark starts later.

Law: the kernel gives no such port to a connection in the meantime. A port of its own choice is one of the range from
which it also takes the local ports of connections.
"""

import contextlib
import random
import socket
from pathlib import Path

_FIRST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_random = random.SystemRandom()  # tests seed the module's own numbers, so that two processes draw the same


def free_port() -> int:
    """Return a port that was free a moment ago, below those that the kernel chooses."""
    end = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    while True:
        port = _random.randrange(_FIRST, max(end, 2 * _FIRST))
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
