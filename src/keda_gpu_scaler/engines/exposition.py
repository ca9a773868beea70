# SPDX-License-Identifier: Apache-2.0
"""A scraped page as data: its series, and the types of its metric families."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from keda_gpu_scaler.engines.series_text import SeriesText, series_labels
from keda_gpu_scaler.engines.steps import Steps

LARGEST_VALUE = 1e100
"""No reading is larger. The sum of the values of all pages and samples, and a square, are in the range of a float."""
_SERIES_PER_STEP = 2_000
_LABELS_COST = 9  # the labels of a series take so many times longer to read than its name
_COUNTING_SUFFIXES = frozenset({"_total", "_bucket", "_sum", "_count"})
SUFFIXES = ("_total", "_bucket", "_sum", "_count", "_created", "_gsum", "_gcount", "_info")
"""What the name of a series may have in addition to the name of its family."""


class SeriesSample(NamedTuple):  # of which a selector needs thousands: a dataclass takes twice the time to make
    """One series and its value, which may be NaN or infinite."""

    name: str
    labels: Mapping[str, str]
    value: float


SamplesByName = Mapping[str, Sequence[SeriesSample]]
"""Samples by the name of their series, those of a name in the order of the page."""


@dataclass(frozen=True, slots=True)
class Exposition:
    """A page that was read.

    ``values`` has the values of the requested series in the order of the page, by their ``SeriesText.identity``: a page
    may have ten thousand of them, of which few are looked at. ``kinds`` are the types of the metric families
    ("counter") by the family's name. ``left_out`` are requested names that were not read, with the reason.
    ``prefixes`` are the requested beginnings of names that the page has. ``omits_zeros`` says that a series may be
    missing because its value is 0, as with the client libraries of Prometheus.
    """

    values: Mapping[bytes, float]
    kinds: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    prefixes: frozenset[str] = frozenset()
    omits_zeros: bool = True

    @classmethod
    def of_gauges(cls, samples: Iterable[SeriesSample]) -> "Exposition":
        """Return a page that is not text and has these gauges; a series that is missing on it is unknown."""
        samples = tuple(samples)
        values = {SeriesText.of(sample.name, sample.labels).identity: sample.value for sample in samples}
        return cls(values, {sample.name: "gauge" for sample in samples}, omits_zeros=False)

    @property
    def samples(self) -> tuple[SeriesSample, ...]:
        """All samples in the order of the page, with their labels."""
        return tuple(SeriesSample(name_of(it), series_labels(it), value) for it, value in self.values.items())

    def by_name(self, names: Collection[str]) -> Steps[SamplesByName]:
        """Return the samples of these names with their labels, in steps of bounded time."""
        wanted = {name.encode(): name for name in names}
        found: dict[str, list[SeriesSample]] = {}
        done = 0
        for identity, value in self.values.items():
            done += 1
            if (name := wanted.get(identity.partition(b"{")[0])) is not None:
                found.setdefault(name, []).append(SeriesSample(name, series_labels(identity), value))
                done += _LABELS_COST
            if done >= _SERIES_PER_STEP:
                done = 0
                yield
        return found

    def is_counter(self, name: str) -> bool:
        """Whether a series counts up from the start of its process: by its family's type, or else by its name."""
        if kind := self.kinds.get(name):
            return kind == "counter"
        for suffix in SUFFIXES:
            if name.endswith(suffix) and (kind := self.kinds.get(name.removesuffix(suffix))):
                return kind in ("counter", "histogram", "summary") and suffix in _COUNTING_SUFFIXES
        return name.endswith("_total")

    def declares(self, name: str) -> bool:
        """Whether the page declares the family of this series, even if the family has no series yet."""
        return name in self.kinds or any(
            name.endswith(suffix) and name.removesuffix(suffix) in self.kinds for suffix in SUFFIXES
        )

    def declares_counter(self, name: str) -> bool:
        """Whether the page declares this counter, even if the counter has no series yet."""
        return self.kinds.get(name) == "counter" or self.kinds.get(name.removesuffix("_total")) == "counter"


def name_of(identity: bytes) -> str:
    """Return the name of a series."""
    return identity.partition(b"{")[0].decode()


def is_known(value: float) -> bool:
    """Whether a sample's value is a number that can be computed with. NaN, the infinities and absurd numbers cannot."""
    return -LARGEST_VALUE <= value <= LARGEST_VALUE
