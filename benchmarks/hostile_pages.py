# SPDX-License-Identifier: Apache-2.0
"""Serves pages of metrics on loopback, some of them hostile, and prints its ports."""

import asyncio
import contextlib
import itertools
import sys

_GOOD = b'vllm:num_requests_running 1\nvllm:num_requests_waiting{model_name="llama"} 3\nvllm:kv_cache_usage_perc 0.5\n'
_LINES = 70_000
_PAGES = {
    "good": _GOOD,
    "wanted": b"".join(b'vllm:num_requests_waiting{engine="%d"} 1\n' % number for number in range(_LINES)),
    "negated": b"".join(b'depth{queue="%d"} 1\n' % number for number in range(_LINES)),
    "labels": (b'vllm:lora_requests_info{running_lora_adapters="' + 100 * b"adapter," + b'"} 1\n') * 27_000 + _GOOD,
    "drip": _GOOD + b"# " + 4_000 * b"x",
    "selected": b"".join(b'depth{queue="%d"} 1\n' % number for number in range(9_999)),
    "copies": b"".join(b'sglang:num_running_reqs{tp_rank="%d",model="m"} 1\n' % number for number in range(9_999)),
}
_numbers = itertools.count()


def _page(kind: str) -> bytes:
    if kind != "changing":
        return _PAGES[kind]
    scrape = next(_numbers)
    return b"".join(b'vllm:num_requests_waiting{engine="%d-%d"} 1\n' % (scrape, number) for number in range(1_000))


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            kind = request.split(b" ")[1].decode().strip("/")
            page = _page(kind)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(page))
            if kind != "drip":
                writer.write(page)
            for at in range(len(page) if kind == "drip" else 0):
                writer.write(page[at : at + 1])
                await writer.drain()  # raises when the client has gone
                await asyncio.sleep(0)
            await writer.drain()
    writer.close()


async def _serve(port_count: int) -> None:
    servers = [await asyncio.start_server(_answer, "127.0.0.1", 0) for _ in range(port_count)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the benchmark closes it


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
