# SPDX-License-Identifier: Apache-2.0
"""A scraped page as data: its series, and the types of its metric families."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_COUNTING_SUFFIXES = frozenset({"_total", "_bucket", "_sum", "_count"})
_SUFFIXES = ("_total", "_bucket", "_sum", "_count", "_created", "_gsum", "_gcount", "_info")


@dataclass(frozen=True, slots=True)
class SeriesSample:
    """One series and its value, which may be NaN or infinite."""

    name: str
    labels: Mapping[str, str]
    value: float


SamplesByName = Mapping[str, Sequence[SeriesSample]]
"""Samples by the name of their series, those of a name in the order of the page."""


@dataclass(frozen=True, slots=True)
class Exposition:
    """A page that was read.

    ``samples`` are the requested samples in the order of the page. ``kinds`` are the types of the metric families
    ("counter") by the family's name. ``left_out`` are requested names that were not read, with the reason.
    ``prefixes`` are the requested beginnings of names that the page has. ``omits_zeros`` says that a series may be
    missing because its value is 0, as with the client libraries of Prometheus.
    """

    samples: tuple[SeriesSample, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    prefixes: frozenset[str] = frozenset()
    omits_zeros: bool = True

    def by_name(self) -> SamplesByName:
        """Return the samples by name. A page is read from some thirty names, so that one pass over it pays."""
        found: dict[str, list[SeriesSample]] = {}
        for sample in self.samples:
            found.setdefault(sample.name, []).append(sample)
        return found

    def is_counter(self, name: str) -> bool:
        """Whether a series counts up from the start of its process: by its family's type, or else by its name."""
        if kind := self.kinds.get(name):
            return kind == "counter"
        for suffix in _SUFFIXES:
            if name.endswith(suffix) and (kind := self.kinds.get(name.removesuffix(suffix))):
                return kind in ("counter", "histogram", "summary") and suffix in _COUNTING_SUFFIXES
        return name.endswith("_total")

    def declares(self, name: str) -> bool:
        """Whether the page declares the family of this series, even if the family has no series yet."""
        return name in self.kinds or any(
            name.endswith(suffix) and name.removesuffix(suffix) in self.kinds for suffix in _SUFFIXES
        )

    def declares_counter(self, name: str) -> bool:
        """Whether the page declares this counter, even if the counter has no series yet."""
        return self.kinds.get(name) == "counter" or self.kinds.get(name.removesuffix("_total")) == "counter"


def is_known(value: float) -> bool:
    """Whether a sample's value is a finite number. NaN and the infinities count as unknown."""
    return math.isfinite(value)
