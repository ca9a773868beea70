# SPDX-License-Identifier: Apache-2.0
"""What is scraped, and what did it tell lately? Pages of metrics: a pod's engine, or whatever a URL names.

The law of this module: a page is what it told and when; that it could not be read is told beside it, never instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from keda_gpu_scaler.core.types import EngineSample, PodRef

AUTO = "auto"
"""The engine is recognised from what the page exports."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is to be scraped: the engine of a pod (``pod`` and ``address`` are given), or a ``url`` as it stands.

    Of a pod's engine ``engine`` is a name in ``core.catalog.ENGINES`` or ``AUTO``. ``port``, ``path`` and ``scheme``
    are None where they were not said: then the engine's own are tried, for ``AUTO`` those of each engine in turn, at
    first where the pod declares such a port (``declared_ports``). With ``every_address`` each address that the URL's
    name resolves to is a page of its own; else only one of them is asked.
    """

    pod: PodRef | None = None
    address: str = ""
    engine: str = AUTO
    port: int | None = None
    path: str | None = None
    scheme: str | None = None
    declared_ports: tuple[int, ...] = ()
    url: str = ""
    every_address: bool = False

    def __str__(self) -> str:
        return f"pod {self.pod.namespace}/{self.pod.name}" if self.pod else self.url


@dataclass(frozen=True, slots=True)
class TargetHistory:
    """One page's recent readings, oldest first, none when it was never read; immutable.

    ``url`` is the address that was asked, for people ("http://10.1.2.3:8000/metrics"). ``failure`` is the sentence
    that says why the last scrape gave nothing, None when it gave something.
    """

    url: str
    samples: tuple[EngineSample, ...] = ()
    failure: str | None = None

    @property
    def newest(self) -> EngineSample | None:
        """What it told last, however long ago."""
        return self.samples[-1] if self.samples else None

    def is_fresh(self, now: float, stale_after_seconds: float) -> bool:
        """Whether what it told last is young enough to be believed."""
        return bool(self.samples) and now - self.samples[-1].at_seconds <= stale_after_seconds

    def within(self, window_seconds: float) -> Iterator[EngineSample]:
        """Yield the newest readings, and before them all that came less than ``window_seconds`` earlier.

        The window ends at the newest readings and not at the time of asking: asking twice gives the same answer.
        """
        newest = self.newest
        if newest is None:
            return
        yield newest
        for sample in reversed(self.samples[:-1]):
            if newest.at_seconds - sample.at_seconds >= window_seconds:
                return
            yield sample


@dataclass(frozen=True, slots=True)
class ScrapeResult:
    """What came of an endpoint: its pages, one for each address that is asked, none while none is known.

    ``failure`` says why there is no page (its name does not resolve, its address is refused, nothing was asked yet).
    ``is_no_engine`` says that this is not for want of an answer: whatever was asked answered, or refused the
    connection, and none of it ever was an engine's page.
    """

    targets: tuple[TargetHistory, ...] = ()
    failure: str | None = None
    is_no_engine: bool = False
