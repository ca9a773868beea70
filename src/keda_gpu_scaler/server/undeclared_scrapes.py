# SPDX-License-Identifier: Apache-2.0
"""Limits what is scraped for questions that no ScaledObject declares, such as those of ``probe``.

Law: invented names, however many, cause a bounded number of scrapes.
"""

from collections.abc import Hashable, Sequence

from keda_gpu_scaler.core.evaluate.workload_view import ScrapeRequest
from keda_gpu_scaler.core.state.scrape import Endpoint
from keda_gpu_scaler.server.request_resolver import ResolvedTrigger

MAX_TRIGGERS = 32
"""The number of such triggers for which something is scraped at the same time."""
MAX_ENDPOINTS = 512
"""The number of endpoints that are scraped for all of them."""
HELD_SECONDS = 300.0
"""How long a place is held after the last question: as long as an endpoint without interest is scraped."""


class UndeclaredScrapes:
    """The places of undeclared triggers. Who came first keeps its place."""

    def __init__(self) -> None:
        self._held: dict[Hashable, tuple[float, frozenset[Endpoint]]] = {}

    def admits(self, resolved: ResolvedTrigger, scrapes: Sequence[ScrapeRequest], now: float) -> bool:
        """Take or keep a place; return whether the endpoints of a trigger may be scraped."""
        if not scrapes:
            return True
        endpoints = frozenset(scrape.endpoint for scrape in scrapes)
        key = (resolved.namespace, resolved.name, resolved.metadata)
        if key not in self._held or self._held[key][1] != endpoints:
            self._held = {it: held for it, held in self._held.items() if now - held[0] <= HELD_SECONDS}
            others = [held for it, (_, held) in self._held.items() if it != key]
            if len(others) >= MAX_TRIGGERS or len(endpoints.union(*others)) > MAX_ENDPOINTS:
                return False
        self._held[key] = (now, endpoints)
        return True
