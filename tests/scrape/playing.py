# SPDX-License-Identifier: Apache-2.0
"""A vLLM endpoint that replays a recording, second by second."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from tests.engines.vllm_pages import vllm_page

SWEEP = Path(__file__).resolve().parents[3] / "shared" / "telemetry" / "vllm-load-sweep"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Second:
    """The readings of one second of a recording; ``kv`` is a ratio."""

    at_seconds: float
    running: float
    waiting: float
    kv: float
    requests: float
    tokens: float
    preemptions: float

    @property
    def page(self) -> bytes:
        """The page that vLLM served in this second."""
        return vllm_page(
            running=self.running,
            waiting=self.waiting,
            kv=self.kv,
            requests=self.requests,
            tokens=self.tokens,
            preemptions=self.preemptions,
        )


def recorded(run: str) -> list[Second]:
    """Read one run of the recorded load sweep."""
    with (SWEEP / run / "metrics_server_metrics.csv").open(newline="") as file:
        return [
            Second(
                at_seconds=float(row["relative_time_sec"]),
                running=float(row["num_requests_running"]),
                waiting=float(row["num_requests_waiting"]),
                kv=float(row["kv_cache_usage_pct"]) / 100,
                requests=float(row["request_success_total"]),
                tokens=float(row["generation_tokens_total"]),
                preemptions=float(row["num_preemptions_total"]),
            )
            for row in csv.DictReader(file)
        ]


class ReplayedVllm:
    """Serves on loopback the page of the second that the clock returns.

    Args:
        seconds: the recording.
        clock: seconds since the beginning of the recording.
    """

    def __init__(self, seconds: list[Second], clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def __aenter__(self) -> "ReplayedVllm":
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        now = self._clock()
        second = next((it for it in reversed(self._seconds) if it.at_seconds <= now), self._seconds[0])
        return web.Response(body=second.page, headers={"Content-Type": CONTENT_TYPE})
