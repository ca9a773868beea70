# SPDX-License-Identifier: Apache-2.0
"""Reads a scraped page, text or JSON, as an ``EngineSample``.

Law: an engine is recognised by the series names that it alone exports. A page that cannot be read is refused as a
whole.
"""

import functools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.types import EngineSample, Series
from keda_gpu_scaler.engines import JSON_READERS, METRIC_MAPS
from keda_gpu_scaler.engines.exposition import Exposition, SamplesByName, SeriesSample
from keda_gpu_scaler.engines.interceptor import pending_requests
from keda_gpu_scaler.engines.metric_map import added_up
from keda_gpu_scaler.engines.prometheus_text import ExpositionError, parse_exposition


class ScrapeParseError(ValueError):
    """A page that cannot be read; the message is a sentence."""


class UnknownPageError(ScrapeParseError):
    """A page of a kind that no known engine serves, so no engine is there."""


def parse_page(
    body: bytes, content_type: str, *, at_seconds: float, selectors: Collection[SeriesSelector] = ()
) -> EngineSample:
    """Read a page of metrics.

    Args:
        body: the page.
        content_type: the header of that name, empty where the response has none.
        at_seconds: when the page arrived, on the scraper's clock.
        selectors: series that are requested in addition to those of the engine.

    Raises:
        UnknownPageError: the page is JSON of an unknown kind.
        ScrapeParseError: the page is not an exposition.
    """
    if "json" in content_type or body.lstrip()[:1] in (b"{", b"["):
        page, engine = _parse_json(body)
        samples = page.by_name()
        readings = EngineSample(at_seconds, engine)
    else:
        page = _parse_text(body, content_type, selectors)
        samples = page.by_name()
        readings = _read_text(samples, at_seconds)
    if not selectors:
        return readings
    series = _SeriesIndex(samples)
    return replace(readings, selected={selector.text: _select(selector, page, series) for selector in selectors})


def _parse_text(body: bytes, content_type: str, selectors: Collection[SeriesSelector]) -> Exposition:
    try:
        return parse_exposition(
            body,
            wanted=_wanted(frozenset(selector.name for selector in selectors)),
            is_openmetrics="application/openmetrics-text" in content_type,
        )
    except ExpositionError as error:
        raise ScrapeParseError(f"its metrics cannot be read: {error}") from None


def _read_text(samples: SamplesByName, at_seconds: float) -> EngineSample:
    for engine, metric_map in METRIC_MAPS.items():
        if any(name in samples for name in metric_map.identifying_series):
            return metric_map.read(samples, engine, at_seconds)
    return EngineSample(at_seconds)


@functools.lru_cache(maxsize=256)
def _wanted(names: frozenset[str]) -> frozenset[str]:
    return names.union(*(metric_map.names() for metric_map in METRIC_MAPS.values()))


class _SeriesIndex:
    """Samples by name and by label. Hundreds of workloads may each select a series of one interceptor's page."""

    def __init__(self, samples: SamplesByName) -> None:
        self._by_name = samples
        self._by_label: dict[tuple[str, str], dict[str, list[SeriesSample]]] = {}

    def named(self, name: str) -> Sequence[SeriesSample]:
        """Return the samples of a name."""
        return self._by_name.get(name, ())

    def selected_by(self, selector: SeriesSelector) -> Iterator[SeriesSample]:
        """Yield the samples that a selector selects."""
        equality = next((one for one in selector.requirements if one.value and not one.negated), None)
        candidates = self.named(selector.name)
        if equality is not None and equality.value is not None:
            candidates = self._labelled(selector.name, equality.key).get(equality.value, ())
        return (sample for sample in candidates if selector.matches(sample.name, sample.labels))

    def _labelled(self, name: str, label: str) -> Mapping[str, Sequence[SeriesSample]]:
        if (name, label) not in self._by_label:
            by_value = self._by_label[name, label] = {}
            for sample in self.named(name):
                by_value.setdefault(sample.labels.get(label, ""), []).append(sample)
        return self._by_label[name, label]


def _select(selector: SeriesSelector, page: Exposition, series: _SeriesIndex) -> Series | None:
    values = [sample.value for sample in series.selected_by(selector)]
    if (total := added_up(values)) is not None:
        return _series(total, is_counter=page.is_counter(selector.name))
    if not values and not series.named(selector.name) and page.declares_counter(selector.name):
        return _series(0.0, is_counter=True)  # the counter is declared and has not counted anything yet
    return None


@functools.lru_cache(maxsize=4096)  # a value that is the same on many pages is kept once
def _series(value: float, *, is_counter: bool) -> Series:
    return Series(value, is_counter)


def _parse_json(body: bytes) -> tuple[Exposition, str]:
    try:
        page = json.loads(body)
    except (ValueError, RecursionError):
        page = None
    if isinstance(page, Mapping):
        for engine, read_json in JSON_READERS.items():
            if (samples := read_json(page)) is not None:
                return _gauges(samples), engine
        if (samples := pending_requests(page)) is not None:
            return _gauges(samples), ""
    known = [f"{ENGINES[engine].title}'s {ENGINES[engine].path}" for engine in JSON_READERS]
    known.append("the HTTP add-on's /queue")
    raise UnknownPageError(f"it is JSON of an unknown kind: neither {' nor '.join(known)}")


def _gauges(samples: tuple[SeriesSample, ...]) -> Exposition:
    return Exposition(samples, {sample.name: "gauge" for sample in samples})
