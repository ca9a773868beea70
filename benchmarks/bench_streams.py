# SPDX-License-Identifier: Apache-2.0
"""Measures the cost of a thousand streams and the delay of their messages.

Run it with ``python -m benchmarks.bench_streams``. The client is a Python process on the same machine. It needs tens of
milliseconds to read a thousand messages, so the real delay of the last stream is shorter than the figure.
"""

import asyncio
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from benchmarks.lab import Figure, Serve, in_milliseconds, node, ref, run_alone
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from tests.fake_nvml import FakeNvml

TITLE = "1,000 StreamIsActive streams over one channel, 8 devices; medians of the rounds (lowest to highest)"
STREAMS = 1000
ROUNDS = 9
_WAIT_SECONDS = 60.0
_IDLE_SECONDS = 20.0
_BUSY, _AT_REST = (90, 20), (10, 20)


@dataclass
class _Messages:
    """The arrival times of the messages of all streams."""

    times: list[float] = field(default_factory=list)
    all_received: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self) -> None:
        self.times.append(time.monotonic())
        if len(self.times) == STREAMS:
            self.all_received.set()

    async def wait(self) -> list[float]:
        async with asyncio.timeout(_WAIT_SECONDS):
            await self.all_received.wait()
        times, self.times = self.times, []
        self.all_received.clear()
        return times


def figures() -> Iterator[Figure]:
    """Yield the figures for equal triggers and for different triggers."""
    for alike in (True, False):
        which = "all alike" if alike else "no two alike"
        with node() as fake:
            yield from asyncio.run(_measure_changes(fake, alike, f"triggers {which}"))
        with node() as fake:
            yield asyncio.run(_measure_idle(fake, alike, f"triggers {which}"))


async def _measure_changes(fake: FakeNvml, alike: bool, which: str) -> list[Figure]:
    _set_all(fake, _AT_REST)
    with Serve(fake, "--sample-interval", "0.1") as serve:
        serve.wait_until_it_answers()
        before = serve.memory()
        async with grpc.aio.insecure_channel(serve.address) as channel:
            messages = _Messages()
            streams = _open(channel, messages, alike, windowSeconds="0")
            await messages.wait()
            during = serve.memory()
            firsts, lasts = [], []
            for number in range(ROUNDS):
                # The phase differs from that of the sampler: the wait for the next sample is between 0 and 100 ms.
                await asyncio.sleep(1 + 0.037 * number)
                changed = time.monotonic()
                _set_all(fake, _AT_REST if number % 2 else _BUSY)
                times = await messages.wait()
                firsts.append(min(times) - changed)
                lasts.append(max(times) - changed)
            await _close(streams)
    return [
        Figure(
            f"RSS with {STREAMS:,} streams; {which}",
            {
                "before": f"{before.rss:.1f} MiB",
                "with the streams": f"{during.rss:.1f} MiB",
                "a stream": f"{1024 * (during.rss - before.rss) / STREAMS:.1f} KiB",
            },
        ),
        Figure(
            f"from the change to the message, sampled every 100 ms; {which}",
            {
                "first message": in_milliseconds(firsts),
                "last message": in_milliseconds(lasts),
                "last minus first": in_milliseconds(b - a for a, b in zip(firsts, lasts, strict=True)),
            },
        ),
    ]


async def _measure_idle(fake: FakeNvml, alike: bool, which: str) -> Figure:
    with Serve(fake) as serve:
        serve.wait_until_it_answers()
        async with grpc.aio.insecure_channel(serve.address) as channel:
            messages = _Messages()
            streams = _open(channel, messages, alike)
            await messages.wait()
            # The default window of ten seconds is full before the clock starts.
            await asyncio.sleep(10)
            shares = [await asyncio.to_thread(serve.cpu_share, _IDLE_SECONDS / 4) for _ in range(4)]
            await _close(streams)
    share = f"{100 * statistics.median(shares):.1f} %"
    return Figure(f"CPU, streams idle, sampled every second; {which}", {"of one core": share})


def _open(channel: Any, messages: _Messages, alike: bool, **metadata: str) -> list[asyncio.Task[None]]:
    stub: Any = pb_grpc.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]

    async def follow(number: int) -> None:
        async for _ in stub.StreamIsActive(ref(80 if alike else number, **metadata)):
            messages.add()

    return [asyncio.create_task(follow(1 + number)) for number in range(STREAMS)]


async def _close(streams: list[asyncio.Task[None]]) -> None:
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)


def _set_all(fake: FakeNvml, utilisation: tuple[int, int]) -> None:
    for device in fake.devices:
        device.utilisation = utilisation


if __name__ == "__main__":
    run_alone(TITLE, figures())
