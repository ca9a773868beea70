# SPDX-License-Identifier: Apache-2.0
"""Measures how long it takes to read a page of an engine: ``python -m benchmarks.bench_pages``."""

import statistics
import time
from collections.abc import Iterator

from benchmarks.lab import Figure, run_alone
from keda_gpu_scaler.engines.scrape_parser import PageParser, ScrapeCache
from tests.engines.vllm_pages import vllm_page

TITLE = "CPU time to read a page of vLLM, in pieces of 8 KiB as they arrive"
RANKS = (1, 4)
"""The numbers of data-parallel ranks that one page has."""
_PIECE = 8192
_PAGES = 300
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def figures() -> Iterator[Figure]:
    """Yield the time of a target's first page, and of pages on which values alone changed."""
    for ranks in RANKS:
        pages = [_page(ranks, number) for number in range(_PAGES)]
        for what, cache in (("first page", None), ("following page", ScrapeCache())):
            taken = sorted(_read(page, cache) for page in pages)
            yield Figure(
                f"{ranks} {'rank' if ranks == 1 else 'ranks'}, {len(pages[0]) / 1024:.0f} KiB, {what}",
                {"median": _milliseconds(statistics.median(taken)), "p90": _milliseconds(taken[_PAGES * 9 // 10])},
            )


def _page(ranks: int, number: int) -> bytes:
    first = vllm_page(
        running=8, waiting=number % 5, kv=0.5, requests=number, tokens=100.0 * number, first_tokens=number,
        token_times=100.0 * number,
    )  # fmt: skip
    lines = first.splitlines(keepends=True)
    series = [line for line in lines if not line.startswith(b"#")]
    others = [line.replace(b'engine="0"', b'engine="%d"' % rank) for rank in range(1, ranks) for line in series]
    return b"".join([*lines, *others])


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


def _read(page: bytes, cache: ScrapeCache | None) -> float:
    before = time.process_time()
    parser = PageParser(_TYPE, cache=cache)
    for begin in range(0, len(page), _PIECE):
        piece = page[begin : begin + _PIECE]
        if not parser.follow(piece):
            parser.feed(piece)
    parser.finish(at_seconds=0.0)
    return time.process_time() - before


if __name__ == "__main__":
    run_alone(TITLE, figures())
