# SPDX-License-Identifier: Apache-2.0
"""The scraped endpoints and the recent samples of each target.

Law: a failure is stored next to the samples and never replaces them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from typing import Any

from keda_gpu_scaler.core.aggregation import mean_of_known
from keda_gpu_scaler.core.state.data_run import DataRun
from keda_gpu_scaler.core.types import EngineSample, PodRef

AUTO = "auto"
"""The engine is recognised from the series that the target exports."""
HISTORY_STEP_SECONDS = 10.0
"""The history before the window has one sample for each step of this length."""
MAX_SAMPLES = 1300
"""The number of samples that are kept for one target: ten minutes at the interval of demand."""
_AT_SECONDS = attrgetter("at_seconds")
MAX_ATTEMPTS = 16
"""The number of places without an engine that the result of a pod lists."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One thing to scrape: the engine of a pod (``pod`` and ``address`` are set), or a ``url``.

    ``engine`` is a name in ``core.trigger.engines.ENGINES``, or ``AUTO``. ``ports``, ``path`` and ``scheme`` come from
    the trigger and are empty or None where it does not set them. ``annotated_port``, ``annotated_path`` and
    ``annotated_scheme`` come from the pod's annotations, ``declared_ports`` from its containers. Without ``ports`` the
    annotated and the declared ports are tried, and then the default ports of the engines. Each of ``ports`` and of the
    annotated and declared ports that has an engine is a target of its own. ``other_addresses`` are tried where nothing
    answers at ``address``. With ``every_address`` each address of the URL's host is a target of its own; without it
    one address is scraped. With ``models`` the series of these models alone are read. ``namespace`` is that of the
    trigger that names the URL, which may lead to what the namespace owns; None where it is not known.
    ``credentials_namespace`` is the namespace for whose triggers credentials are sent: that of a trigger that its
    ScaledObject declares, empty where no namespace is known, None where no credentials are sent.
    """

    pod: PodRef | None = None
    address: str = ""
    engine: str = AUTO
    ports: tuple[int, ...] = ()
    path: str | None = None
    scheme: str | None = None
    declared_ports: tuple[int, ...] = ()
    url: str = ""
    every_address: bool = False
    other_addresses: tuple[str, ...] = ()
    annotated_port: int | None = None
    annotated_path: str | None = None
    annotated_scheme: str | None = None
    models: tuple[str, ...] = ()
    namespace: str | None = None
    credentials_namespace: str | None = None
    _hash: int = field(default=0, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # An endpoint is looked up several times in each scrape and in each evaluation. So its hash is computed once, of
        # the parts in which endpoints usually differ.
        parts = (self.pod, self.address, self.engine, self.ports, self.url, self.models, self.credentials_namespace)
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return f"pod {self.pod.namespace}/{self.pod.name}" if self.pod else self.url


@dataclass(frozen=True, slots=True)
class ScrapeAttempt:
    """What was asked in one scrape, and what was answered, for display.

    ``url`` is the scraped address. ``status`` is the status of the HTTP response, None where there was none.
    ``failure`` is a sentence that says why the scrape returned no sample that counts, None if it did. ``remarks`` say
    why the target is asked less often than its consumers need. ``at_seconds`` is when the scrape ended, on the
    scraper's monotonic clock, and ``answer_seconds`` how long the answer took. Both are left out of comparisons: the
    same failure again is published, and is no news.
    """

    url: str
    status: int | None = None
    failure: str | None = None
    remarks: tuple[str, ...] = ()
    at_seconds: float = field(default=0.0, compare=False)
    answer_seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class ScrapeAttempts:
    """What was asked of a pod or a URL, for display.

    ``engines`` are the last scrapes of its engines. ``rejected`` are those of places without an engine, or whose page
    does not count; each has a ``failure``.
    """

    engines: tuple[ScrapeAttempt, ...] = ()
    rejected: tuple[ScrapeAttempt, ...] = ()


NO_ATTEMPTS = ScrapeAttempts()


@dataclass(frozen=True, slots=True)
class TargetHistory:
    """The recent samples of one target, oldest first; immutable.

    ``url`` is the scraped address for display ("http://10.1.2.3:8000/metrics"). ``samples`` is empty until the first
    successful scrape. ``failure`` is a sentence that says why the last scrape returned no sample, None if it did.
    ``attempt`` is the last scrape, None before it. ``run`` is the time without a long gap to which the newest sample
    belongs, None before it. ``cache`` holds results that were computed from these samples. It
    is dropped with them. ``between_samples`` holds results that were computed from neighbouring samples; they are still
    right when newer samples are added.
    """

    url: str
    samples: tuple[EngineSample, ...] = ()
    failure: str | None = None
    attempt: ScrapeAttempt | None = None
    run: DataRun | None = None
    cache: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)
    between_samples: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def newest(self) -> EngineSample | None:
        """The newest sample of any age, None before the first one."""
        return self.samples[-1] if self.samples else None

    def followed_by(
        self, samples: tuple[EngineSample, ...], failure: str | None, attempt: ScrapeAttempt | None = None
    ) -> "TargetHistory":
        """Return the history of the same target after another scrape."""
        run, newest = self.run, samples[-1] if samples else None
        if newest is not None and newest is not self.newest:
            at, last = newest.at_seconds, self.newest
            run = DataRun(at) if run is None or last is None else run.continued(last.at_seconds, at)
        return TargetHistory(self.url, samples, failure, attempt, run, between_samples=self.between_samples)

    def is_fresh(self, now: float, stale_after_seconds: float) -> bool:
        """Whether the newest sample is at most ``stale_after_seconds`` old."""
        return bool(self.samples) and now - self.samples[-1].at_seconds <= stale_after_seconds

    def window(self, window_seconds: float) -> tuple[EngineSample, ...]:
        """Return the samples that ``within`` yields and the one before them, the oldest first."""
        newest = self.newest
        if newest is None:
            return ()
        now = newest.at_seconds
        begin = bisect_right(
            self.samples, -window_seconds, hi=len(self.samples) - 1, key=lambda it: it.at_seconds - now
        )
        return self.samples[max(0, begin - 1) :]

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


@dataclass(frozen=True, slots=True, weakref_slot=True)
class ScrapeResult:
    """The result of scraping an endpoint: one history for each target.

    ``targets`` is empty while no target is known. Then ``failure`` says why: the name does not resolve, the address is
    not allowed, or no scrape has ended yet. ``is_no_engine`` is true if the endpoint is known to have no engine: each
    candidate answered with something else or refused the connection, in every search so far. ``attempts`` are the
    scrapes of places of a pod that have no engine, at most ``MAX_ATTEMPTS``.
    """

    targets: tuple[TargetHistory, ...] = ()
    failure: str | None = None
    is_no_engine: bool = False
    attempts: tuple[ScrapeAttempt, ...] = ()

    @property
    def shown_attempts(self) -> ScrapeAttempts:
        """What was asked, with each place once. A page that does not count has the reason as its failure."""
        engines = tuple([_shown(history, history.attempt) for history in self.targets if history.attempt is not None])
        if not self.attempts:
            return ScrapeAttempts(engines)
        urls = {attempt.url for attempt in engines}
        return ScrapeAttempts(engines, tuple([attempt for attempt in self.attempts if attempt.url not in urls]))


def _shown(history: TargetHistory, attempt: ScrapeAttempt) -> ScrapeAttempt:
    return attempt if attempt.failure == history.failure else replace(attempt, failure=history.failure)


def retained(
    samples: Sequence[EngineSample], sample: EngineSample, *, window_seconds: float, history_seconds: float
) -> tuple[EngineSample, ...]:
    """Return the samples to keep when a new sample came, the oldest first.

    Every sample of the window is kept, and one before it, for the increase of counters at the beginning of the window.
    Of the older history one sample stands for each step of ``HISTORY_STEP_SECONDS``: see ``thinned``. Steps are
    thinned and dropped as a whole, and the ages of samples are counted from the begin of their step, so that most
    scrapes only add a sample.

    Args:
        samples: the samples that were kept so far.
        sample: the new sample.
        window_seconds: the longest window of a consumer.
        history_seconds: how far back the history goes.
    """
    if samples and samples[-1].engine != sample.engine:
        return (sample,)  # another engine answers now, and its counters are not comparable
    samples, sample = _in_one_unit(samples, sample)
    now = sample.at_seconds
    begin = max(bisect_right(samples, now - window_seconds, key=_AT_SECONDS) - 1, 0)
    first = begin
    if samples and history_seconds > window_seconds:
        first = bisect_left(samples, step_begin(now - history_seconds), 0, begin, key=_AT_SECONDS)
        begin = bisect_left(samples, step_begin(samples[begin].at_seconds), first, begin, key=_AT_SECONDS)
    steps = groupby(samples[first:begin], key=lambda it: step_begin(it.at_seconds))
    older = [thinned(tuple(step)) for _, step in steps]
    kept = (*older, *samples[begin:], sample)
    return kept[-MAX_SAMPLES:]


def step_begin(at_seconds: float) -> float:
    """Return the time at which the step of the history begins to which this time belongs."""
    return at_seconds // HISTORY_STEP_SECONDS * HISTORY_STEP_SECONDS


def _in_one_unit(samples: Sequence[EngineSample], sample: EngineSample) -> tuple[Sequence[EngineSample], EngineSample]:
    """Return the samples with the KV cache usage in the same unit.

    An engine that reports it in per cent once always does, also where the number is small enough for a ratio.
    """
    if not samples or samples[-1].is_kv_percent == sample.is_kv_percent:
        return samples, sample
    if sample.is_kv_percent:
        return [_from_percent(it) for it in samples], sample
    return samples, _from_percent(sample)


def _from_percent(sample: EngineSample) -> EngineSample:
    if sample.is_kv_percent:
        return sample
    ratio, known = sample.kv_cache_ratio, sample.known_parts
    if part := known.get("kv_cache_ratio"):
        known = {**known, "kv_cache_ratio": part / 100}
    return replace(sample, kv_cache_ratio=None if ratio is None else ratio / 100, is_kv_percent=True, known_parts=known)


def thinned(step: Sequence[EngineSample]) -> EngineSample:
    """Return what the older history keeps of the samples of one step.

    It is the first one without its histograms. Its running requests and its KV cache usage are the means of the step,
    because the time per token of the older history is computed from them. Its queue stays that of one moment: whether
    requests always waited cannot be seen in a mean. A step that was thinned before stays the same object.
    """
    first = step[0]
    if len(step) == 1 and first.token_time is None and first.first_token is None:
        return first
    return replace(
        first,
        running=mean_of_known([it.running for it in step]),
        kv_cache_ratio=mean_of_known([it.kv_cache_ratio for it in step]),
        token_time=None,
        first_token=None,
    )
