# SPDX-License-Identifier: Apache-2.0
"""Tests of what the chaos takes for a wrong size, and of the link that it breaks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from benchmarks.chaos_faults import FAULTS
from benchmarks.chaos_fleet import SizeRange, Truth
from benchmarks.faulty_link import FaultyLink, LinkMode


def truth(*loads: tuple[float, tuple[float, ...]]) -> Truth:
    found = Truth()
    for at, percent in loads:
        found.become(percent, at)
    return found


@pytest.mark.parametrize(
    ("loads", "sizes"),
    [
        pytest.param([(0.0, (80.0,) * 4)], SizeRange(4, 4), id="at the target nothing changes"),
        pytest.param([(0.0, (40.0,) * 4)], SizeRange(2, 4), id="half of the target: two, or no change yet"),
        pytest.param([(0.0, (100.0,) * 4)], SizeRange(4, 5), id="above the target: five, or no change yet"),
        pytest.param([(0.0, (0.0,) * 4)], SizeRange(0, 4), id="no load"),
        pytest.param(
            [(0.0, (100.0,) * 4), (950.0, (80.0,) * 4)], SizeRange(4, 4), id="a load that ended long ago does not count"
        ),
        pytest.param(
            [(0.0, (100.0,) * 4), (990.0, (40.0,) * 4)], SizeRange(2, 5), id="a load that has just ended counts"
        ),
    ],
)
def test_the_sizes_that_the_truth_justifies(loads: list[tuple[float, tuple[float, ...]]], sizes: SizeRange) -> None:
    assert truth(*loads).sizes(1000.0) == sizes


def test_a_size_outside_is_wrong() -> None:
    sizes = truth((0.0, (40.0,) * 4)).sizes(1000.0)
    assert [replicas for replicas in range(7) if sizes.has(replicas)] == [2, 3, 4]


def test_a_workload_that_had_no_work_in_between_may_be_inactive() -> None:
    assert truth((0.0, (50.0,) * 4)).is_active(1000.0)
    assert not truth((0.0, (50.0,) * 4), (980.0, (0.0,) * 4), (990.0, (50.0,) * 4)).is_active(1000.0)


def test_every_fault_has_a_title_of_its_own() -> None:
    assert len({(fault.part, fault.what) for fault in FAULTS}) == len(FAULTS)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.write(await reader.read(4))
        await reader.read()
    writer.transport.abort()


@contextlib.asynccontextmanager
async def sent(mode: LinkMode) -> AsyncIterator[tuple[FaultyLink, asyncio.StreamReader]]:
    """Send four bytes over a link to a server that sends them back."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    link = FaultyLink(server.sockets[0].getsockname()[1])
    await link.start()
    link.become(mode)
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    writer.write(b"ping")
    try:
        yield link, reader
    finally:
        writer.transport.abort()
        await link.stop()
        server.close()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("mode", "arrives"),
    [
        pytest.param(LinkMode.WORK, b"ping", id="a link that works"),
        pytest.param(LinkMode.SLOW, b"ping", id="a slow link"),
        pytest.param(LinkMode.CUT, b"", id="a link that is cut"),
    ],
)
def test_what_arrives_over_a_link(mode: LinkMode, arrives: bytes) -> None:
    async def run() -> bytes:
        async with sent(mode) as (_, reader):
            try:
                return await reader.read(4)
            except OSError:
                return b""

    assert asyncio.run(run()) == arrives


def test_a_divided_link_holds_back_until_it_works_again() -> None:
    async def run() -> tuple[bool, bytes]:
        async with sent(LinkMode.DROP) as (link, reader):
            answer = asyncio.create_task(reader.read(4))
            for _ in range(20):
                await asyncio.sleep(0)
            was_held = not answer.done()
            link.become(LinkMode.WORK)
            return was_held, await answer

    assert asyncio.run(run()) == (True, b"ping")
