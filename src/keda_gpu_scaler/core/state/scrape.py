# SPDX-License-Identifier: Apache-2.0
"""The scraped endpoints and the recent samples of each target.

Law: a failure is stored next to the samples and never replaces them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from keda_gpu_scaler.core.types import EngineSample, PodRef

AUTO = "auto"
"""The engine is recognised from the series that the target exports."""
MAX_SAMPLES = 1300
"""The number of samples that are kept for one target: ten minutes at the interval of demand."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One thing to scrape: the engine of a pod (``pod`` and ``address`` are set), or a ``url``.

    ``engine`` is a name in ``core.trigger.engines.ENGINES``, or ``AUTO``. ``port``, ``path`` and ``scheme`` are None
    where the trigger does not set them. Then the defaults of the engine are tried. For ``AUTO`` the defaults of each
    engine are tried in turn, and ports that the pod declares (``declared_ports``) come first. With ``every_address``
    each address of the URL's host is a target of its own; without it one address is scraped.
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
    """The recent samples of one target, oldest first; immutable.

    ``url`` is the scraped address for display ("http://10.1.2.3:8000/metrics"). ``samples`` is empty until the first
    successful scrape. ``failure`` is a sentence that says why the last scrape returned no sample, None if it did.
    """

    url: str
    samples: tuple[EngineSample, ...] = ()
    failure: str | None = None

    @property
    def newest(self) -> EngineSample | None:
        """The newest sample of any age, None before the first one."""
        return self.samples[-1] if self.samples else None

    def is_fresh(self, now: float, stale_after_seconds: float) -> bool:
        """Whether the newest sample is at most ``stale_after_seconds`` old."""
        return bool(self.samples) and now - self.samples[-1].at_seconds <= stale_after_seconds

    def within(self, window_seconds: float) -> Iterator[EngineSample]:
        """Yield the newest sample, then each earlier one that is less than ``window_seconds`` older than the newest.

        The window ends at the newest sample and not at the current time, so that two calls return the same samples.
        """
        newest = self.newest
        if newest is None:
            return
        yield newest
        for sample in reversed(self.samples[:-1]):
            if newest.at_seconds - sample.at_seconds >= window_seconds:
                return
            yield sample


def retained(
    samples: tuple[EngineSample, ...], sample: EngineSample, *, window_seconds: float
) -> tuple[EngineSample, ...]:
    """Return the samples that are kept after a scrape, with the new one at the end.

    Samples of another engine are dropped, because its counters are not comparable. One sample before the window is
    kept, for the increase of counters at the beginning of the window. At most ``MAX_SAMPLES`` are kept.

    Args:
        samples: the kept samples, oldest first.
        sample: the new sample.
        window_seconds: the longest history that is needed; it ends at the new sample.
    """
    if samples and samples[-1].engine != sample.engine:
        samples = ()
    begin = sample.at_seconds - window_seconds
    first = next((number for number, it in enumerate(samples) if it.at_seconds > begin), len(samples))
    return (*samples[max(first - 1, len(samples) - MAX_SAMPLES + 1, 0) :], sample)


@dataclass(frozen=True, slots=True)
class ScrapeResult:
    """The result of scraping an endpoint: one history for each target.

    ``targets`` is empty while no target is known. Then ``failure`` says why: the name does not resolve, the address is
    not allowed, or no scrape has ended yet. ``is_no_engine`` is true if the endpoint is known to have no engine: each
    candidate answered with something else or refused the connection, in every search so far.
    """

    targets: tuple[TargetHistory, ...] = ()
    failure: str | None = None
    is_no_engine: bool = False
