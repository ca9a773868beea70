# SPDX-License-Identifier: Apache-2.0
"""Simulates engines, the queues of endpoint pickers and the API server in one process.

All engines listen on one port, each at its own address (127.1.x.y), and serve pages of the size of vLLM's. Their
counters grow. Some engines are hostile: they accept a request and never finish the response. The pickers are at
127.2.0.x. With "https" they all speak TLS, with a certificate of their own CA. ``bench_engines`` starts this process,
reads one line of JSON from it, and writes "queue PICKER SIZE" to set the number of requests that wait at a picker.
"""

import asyncio
import json
import ssl
import sys
import time
from pathlib import Path
from typing import cast

from tests.apiserver import FakeApiServer
from tests.certificates import Authority
from tests.engines.vllm_pages import vllm_page

PODS_A_WORKLOAD = 10
PICKERS = 100
SCALER_ADDRESS = "keda-gpu-scaler:6000"
"""As in ``lab.workload_request``: a ScaledObject declares the trigger with every key that KEDA sends."""
TLS_NAME = "engines.ai.svc"
QUEUE = "inference_extension_flow_control_queue_size"
_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\r\n"


class PageServer(asyncio.Protocol):
    """Answers every request on a connection with the page of its local address."""

    def __init__(self, engines: "SimulatedEngines") -> None:
        self._engines = engines
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the local address of the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._address = transport.get_extra_info("sockname")[0]

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        self._received += data
        while b"\r\n\r\n" in self._received:
            _, self._received = self._received.split(b"\r\n\r\n", 1)
            if self._address in self._engines.hostile:
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n# HELP")
            else:
                self._transport.write(self._engines.answer(self._address))


class SimulatedEngines:
    """The page of each address."""

    def __init__(self, addresses: list[str], hostile: int) -> None:
        self.hostile = frozenset(addresses[:: len(addresses) // hostile] if hostile else ())
        self._picker_pages = {picker_address(number): _picker_page(0) for number in range(PICKERS)}
        self._second = -1
        self._engine_page = self._page()

    def set_queue(self, picker: int, size: float) -> None:
        """Set the number of requests that wait at a picker."""
        self._picker_pages[picker_address(picker)] = _picker_page(size)

    def answer(self, address: str) -> bytes:
        """Return the page of an address."""
        return self._picker_pages.get(address) or self._page()

    def _page(self) -> bytes:
        """Return the page of the engines, whose counters grow once a second."""
        if self._second != int(time.monotonic()):
            self._second = int(time.monotonic())
            requests = 1e4 + self._second
            self._engine_page = _response(
                vllm_page(
                    running=40,
                    waiting=3,
                    kv=0.55,
                    requests=requests,
                    tokens=100 * requests,
                    first_tokens=requests,
                    token_times=99 * requests,
                    token_time=0.03,
                )
            )
        return self._engine_page


def picker_address(number: int) -> str:
    """Return the address of a picker."""
    return f"127.2.0.{number + 1}"


def _picker_page(size: float) -> bytes:
    return _response(f'# TYPE {QUEUE} gauge\n{QUEUE}{{inference_pool="llama"}} {size}\n'.encode())


def _response(page: bytes) -> bytes:
    return _HEAD.format(len(page)).encode() + page


def engine_metadata(port: int, scheme: str) -> dict[str, str]:
    """Return the trigger of a workload of engines, as its ScaledObject declares it."""
    return {"profile": "llm", "enginePort": str(port), "engineScheme": scheme}


def picker_metadata(port: int, scheme: str, picker: int) -> dict[str, str]:
    """Return the trigger of a workload that is scaled to zero."""
    url = f"http://{picker_address(picker)}:{port}/metrics"
    return {**engine_metadata(port, scheme), "demandEndpoint": url, "demand": "epp", "demandHoldSeconds": "0"}


def populate(server: FakeApiServer, addresses: list[str], port: int, scheme: str) -> None:
    """Create workloads of ten ready pods each, and those that are scaled to zero, one for each picker."""
    for number, address in enumerate(addresses):
        server.pod(f"engine-{number}", "gpu-1", app=f"llama-{number // PODS_A_WORKLOAD + 1}", address=address)
    for workload in range(1, -(-len(addresses) // PODS_A_WORKLOAD) + 1):
        server.scale(f"llama-{workload}", PODS_A_WORKLOAD)
        metadata = {"scalerAddress": SCALER_ADDRESS, **engine_metadata(port, scheme)}
        server.scaled_object(f"llama-{workload}", **metadata)  # type: ignore[arg-type]
    for number in range(PICKERS):
        server.scale(f"llama-at-zero-{number}", 0)
        server.scaled_object(f"llama-at-zero-{number}", **picker_metadata(port, scheme, number))  # type: ignore[arg-type]


def tls_of(folder: Path) -> ssl.SSLContext:
    """Return the context of the engines, and mount their CA for the pods of the namespace."""
    authority = Authority(folder, "authority")
    pair = authority.issue("engines", host=TLS_NAME)
    mount = folder / "credentials" / "engines"
    mount.mkdir(parents=True)
    files = {"hosts": "pods:ai", "server-name": TLS_NAME, "ca.crt": authority.certificate.read_text()}
    for name, content in files.items():
        (mount / name).write_text(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


async def _serve(
    addresses: list[str], hostile: int, server: FakeApiServer, kubeconfig: Path, tls: ssl.SSLContext | None
) -> None:
    engines = SimulatedEngines(addresses, hostile)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: PageServer(engines), "0.0.0.0", 0, backlog=1024, ssl=tls)  # noqa: S104 - 127.x.y.z
    port = listener.sockets[0].getsockname()[1]
    populate(server, addresses, port, "https" if tls else "http")
    print(json.dumps({"port": port, "kubeconfig": str(kubeconfig)}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        _, picker, size = line.split()
        engines.set_queue(int(picker), float(size))
    listener.close()


def main(pods: int, hostile: int, folder: Path, scheme: str) -> None:
    """Serve until standard input ends."""
    addresses = [f"127.1.{number // 250 + 1}.{number % 250 + 1}" for number in range(pods)]
    with FakeApiServer() as server:
        tls = tls_of(folder) if scheme == "https" else None
        asyncio.run(_serve(addresses, hostile, server, server.kubeconfig(folder / "kubeconfig"), tls))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
