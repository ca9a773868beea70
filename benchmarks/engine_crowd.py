# SPDX-License-Identifier: Apache-2.0
"""One process that stands for what an instance scrapes: engines of many pods, a picker's queue, and the API server.

All engines listen on one port of addresses of their own (127.1.x.y) and serve pages as large as vLLM's. Some are
hostile: they take the question and never end their answer. Started by ``bench_engines``, which reads one line of JSON
from it, and writes "queue SIZE" to let so many requests wait at the picker.
"""

import asyncio
import json
import sys
from pathlib import Path

from tests.apiserver import FakeApiServer
from tests.engines.vllm_pages import vllm_page

PODS_A_WORKLOAD = 10
QUEUE = "inference_extension_flow_control_queue_size"
_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\r\n"


class Pages(asyncio.Protocol):
    """Answers every request on a connection with the page of the address that was asked."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find out who is asked."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of TCP
        self._transport = transport
        self._address = transport.get_extra_info("sockname")[0]

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self._received += data
        while b"\r\n\r\n" in self._received:
            _, self._received = self._received.split(b"\r\n\r\n", 1)
            if self._address in self._crowd.hostile:
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n# HELP")
            else:
                self._transport.write(self._crowd.answer(self._address))


class Crowd:
    """What each address serves."""

    def __init__(self, addresses: list[str], hostile: int) -> None:
        self.hostile = frozenset(addresses[:: len(addresses) // hostile] if hostile else ())
        self._engine = _whole(vllm_page(running=40, waiting=3, kv=0.55, requests=1e4, tokens=1e6, first_tokens=1e4))
        self.size = len(self._engine)
        self.let_wait(0)

    def let_wait(self, size: float) -> None:
        """Let so many requests wait at the picker."""
        self._picker = _whole(f'# TYPE {QUEUE} gauge\n{QUEUE}{{inference_pool="llama"}} {size}\n'.encode())

    def answer(self, address: str) -> bytes:
        """Return the page of an address: the picker's is 127.0.0.1."""
        return self._picker if address == "127.0.0.1" else self._engine


def _whole(page: bytes) -> bytes:
    return _HEAD.format(len(page)).encode() + page


def populate(server: FakeApiServer, addresses: list[str]) -> None:
    """Make workloads of ten ready pods each, and one that sleeps."""
    for number, address in enumerate(addresses):
        server.pod(f"engine-{number}", "gpu-1", app=f"llama-{number // PODS_A_WORKLOAD + 1}", address=address)
    for workload in range(1, -(-len(addresses) // PODS_A_WORKLOAD) + 1):
        server.scale(f"llama-{workload}", PODS_A_WORKLOAD)
        server.scaled_object(f"llama-{workload}")
    server.scale("llama-asleep", 0)
    server.scaled_object("llama-asleep")


async def _serve(crowd: Crowd, kubeconfig: Path) -> None:
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Pages(crowd), "0.0.0.0", 0, backlog=1024)  # noqa: S104 - 127.x.y.z
    port = listener.sockets[0].getsockname()[1]
    print(json.dumps({"port": port, "kubeconfig": str(kubeconfig), "page_bytes": crowd.size}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        crowd.let_wait(float(line.split()[1]))
    listener.close()


def main(pods: int, hostile: int, folder: str) -> None:
    """Serve until standard input ends."""
    addresses = [f"127.1.{number // 250 + 1}.{number % 250 + 1}" for number in range(pods)]
    with FakeApiServer() as server:
        populate(server, addresses)
        asyncio.run(_serve(Crowd(addresses, hostile), server.kubeconfig(Path(folder) / "kubeconfig")))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
