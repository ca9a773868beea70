# SPDX-License-Identifier: Apache-2.0
"""Selects the series of a page that triggers request.

Law: the work for a page is bounded, and a selector that is too expensive is unknown for its own trigger alone.
"""

import functools
from collections.abc import Collection, Mapping, Sequence

from keda_gpu_scaler.core.selectors import Requirement, SeriesSelector
from keda_gpu_scaler.core.trigger.demand_presets import siblings_of
from keda_gpu_scaler.core.types import Series
from keda_gpu_scaler.engines.bound_readings import added_up
from keda_gpu_scaler.engines.exposition import Exposition, SamplesByName, SeriesSample, is_known
from keda_gpu_scaler.engines.steps import Steps

MAX_COMPARISONS = 100_000
"""The number of comparisons of a series with a selector for one page, about a tenth of a second."""
_COMPARISONS_PER_STEP = 500


def select_series(
    selectors: Collection[SeriesSelector], page: Exposition, samples: SamplesByName
) -> Steps[tuple[dict[str, Series | None], dict[str, str]]]:
    """Apply selectors to a page, the cheapest first, in steps of bounded time.

    Returns:
        The selected series by the selector's text, None where the page has none. Then, by the same text, the reasons
        why selectors were not applied.
    """
    index = _SeriesIndex(samples)
    selected: dict[str, Series | None] = {}
    unread: dict[str, str] = {}
    budget = MAX_COMPARISONS
    for selector in sorted(selectors, key=index.order):
        selected[selector.text] = None
        if (reason := page.left_out.get(selector.name)) is not None:
            unread[selector.text] = reason
            continue
        yield
        budget -= index.cost(selector)
        if budget < 0:
            unread[selector.text] = f"the selectors of this page need more than {MAX_COMPARISONS} comparisons"
            continue
        matching = yield from index.selected_by(selector)
        series = _select(selector, page, index, [sample.value for sample in matching])
        if series is not None and series.is_absent and (label := index.missing_label(selector)):
            series, unread[selector.text] = None, f"no series {selector.name} has the label {label}"
        selected[selector.text] = series
    return selected, unread


class _SeriesIndex:
    """Samples by name and by label. Hundreds of workloads may each select a series of one interceptor's page."""

    def __init__(self, samples: SamplesByName) -> None:
        self._by_name = samples
        self._by_label: dict[tuple[str, str], dict[str, list[SeriesSample]]] = {}
        self._labels: dict[str, frozenset[str]] = {}

    def named(self, name: str) -> Sequence[SeriesSample]:
        """Return the samples of a name."""
        return self._by_name.get(name, ())

    def order(self, selector: SeriesSelector) -> tuple[int, str]:
        """Return a key by which selectors are ordered, those with few candidates first."""
        return (0 if _equality(selector) else len(self.named(selector.name)), selector.text)

    def cost(self, selector: SeriesSelector) -> int:
        """Return the number of samples that are looked at for a selector."""
        equality = _equality(selector)
        if equality is None:
            return len(self.named(selector.name))
        is_indexed = (selector.name, equality.key) in self._by_label
        return len(self._candidates(selector)) + (0 if is_indexed else len(self.named(selector.name)))

    def selected_by(self, selector: SeriesSelector) -> Steps[list[SeriesSample]]:
        """Return the samples that a selector selects."""
        candidates = self._candidates(selector)
        matching: list[SeriesSample] = []
        for start in range(0, len(candidates), _COMPARISONS_PER_STEP):
            if start:
                yield
            part = candidates[start : start + _COMPARISONS_PER_STEP]
            matching += [it for it in part if selector.matches(it.name, it.labels)]
        return matching

    def missing_label(self, selector: SeriesSelector) -> str:
        """Return a label that the selector requires and no series of its name has; empty where there is none.

        Such a selector never selects anything, which does not mean that there is nothing.
        """
        if not self.named(selector.name):
            return ""
        if selector.name not in self._labels:
            self._labels[selector.name] = frozenset().union(*(it.labels for it in self.named(selector.name)))
        required = (one.key for one in selector.requirements if one.value and not one.negated)
        return next((key for key in required if key not in self._labels[selector.name]), "")

    def _candidates(self, selector: SeriesSelector) -> Sequence[SeriesSample]:
        equality = _equality(selector)
        if equality is None or equality.value is None:
            return self.named(selector.name)
        return self._labelled(selector.name, equality.key).get(equality.value, ())

    def _labelled(self, name: str, label: str) -> Mapping[str, Sequence[SeriesSample]]:
        if (name, label) not in self._by_label:
            by_value = self._by_label[name, label] = {}
            for sample in self.named(name):
                by_value.setdefault(sample.labels.get(label, ""), []).append(sample)
        return self._by_label[name, label]


def _equality(selector: SeriesSelector) -> Requirement | None:
    return next((one for one in selector.requirements if one.value and not one.negated), None)


def _select(selector: SeriesSelector, page: Exposition, index: _SeriesIndex, values: Sequence[float]) -> Series | None:
    name, is_counter = selector.name, page.is_counter(selector.name)
    if values:
        total = added_up(values)
        if total is None:
            known = added_up([max(0.0, value) for value in values if is_known(value)])
            return _series(known or 0.0, is_counter=is_counter, is_partial=True)
        above_zero = added_up([max(0.0, value) for value in values]) if min(values) < 0 and not is_counter else None
        return _series(total, is_counter=is_counter, above_zero=above_zero)
    if not index.named(name) and page.declares_counter(name):
        return _series(0.0, is_counter=True)  # the counter is declared and has not counted anything yet
    has_source = index.named(name) or page.declares(name) or page.prefixes.intersection(siblings_of(name))
    if page.omits_zeros and has_source:
        return _series(0.0, is_counter=is_counter, is_absent=True)
    return None


@functools.lru_cache(maxsize=4096)  # a value that is the same on many pages is kept once
def _series(
    value: float,
    *,
    is_counter: bool,
    above_zero: float | None = None,
    is_absent: bool = False,
    is_partial: bool = False,
) -> Series:
    return Series(value, is_counter, above_zero, is_absent, is_partial)
