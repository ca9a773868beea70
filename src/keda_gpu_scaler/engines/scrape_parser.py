# SPDX-License-Identifier: Apache-2.0
"""Reads a scraped page, text or JSON, as an ``EngineSample``.

Law: an engine is recognised by the series names that it alone exports. A page that cannot be read is refused as a
whole.
"""

import functools
import json
from collections.abc import Collection, Mapping
from dataclasses import replace

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.trigger.demand_presets import siblings_of
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.types import EngineSample
from keda_gpu_scaler.engines import JSON_READERS, METRIC_MAPS
from keda_gpu_scaler.engines.exposition import Exposition, SamplesByName, SeriesSample
from keda_gpu_scaler.engines.interceptor import pending_requests
from keda_gpu_scaler.engines.models import of_models, summed_models
from keda_gpu_scaler.engines.prometheus_text import ExpositionError, ExpositionParser
from keda_gpu_scaler.engines.series_selection import select_series

MAX_JSON_BYTES = 1 << 20
"""A page of JSON is read as a whole and is at most this large."""


class ScrapeParseError(ValueError):
    """A page that cannot be read; the message is a sentence."""


class UnknownPageError(ScrapeParseError):
    """A page of a kind that no known engine serves, so no engine is there."""


def parse_page(
    body: bytes,
    content_type: str,
    *,
    at_seconds: float,
    selectors: Collection[SeriesSelector] = (),
    models: Collection[str] = (),
) -> EngineSample:
    """Read a page of metrics that is here as a whole.

    Args:
        body: the page.
        content_type: the header of that name, empty where the response has none.
        at_seconds: when the page arrived, on the scraper's clock.
        selectors: series that are requested in addition to those of the engine.
        models: the models whose series are read; empty where every model counts.

    Raises:
        UnknownPageError: the page is JSON of an unknown kind.
        ScrapeParseError: the page is not an exposition.
    """
    parser = PageParser(content_type, selectors=selectors, models=models)
    parser.feed(body)
    return parser.finish(at_seconds=at_seconds)


class PageParser:
    """Reads a page of metrics in pieces as they arrive. Of text, only the requested series are kept.

    ``feed`` takes a time that is proportional to its piece, so that the caller can do other work between two pieces.
    The result does not depend on where the page is cut.

    Args:
        content_type: the header of that name, empty where the response has none.
        selectors: series that are requested in addition to those of the engine.
        models: the models whose series are read; empty where every model counts.
    """

    def __init__(
        self, content_type: str, *, selectors: Collection[SeriesSelector] = (), models: Collection[str] = ()
    ) -> None:
        self._models = models
        self._content_type = content_type
        self._selectors = selectors
        self._text: ExpositionParser | None = None
        self._begin = bytearray()  # of a page whose format is not known yet, or the whole page if it is JSON
        self._is_json = "json" in content_type

    def feed(self, piece: bytes) -> None:
        """Read the next piece of the page.

        Raises:
            ScrapeParseError: the page is not an exposition, or it is JSON and too large.
        """
        if self._text is None and not self._is_json:
            first = piece.lstrip()[:1]
            self._is_json = first in (b"{", b"[") and first != b""
            if first and not self._is_json:
                self._text = self._exposition_parser()
                piece = bytes(self._begin) + piece if self._begin else piece
        if self._text is None:
            self._begin += piece
            if len(self._begin) > MAX_JSON_BYTES:
                raise ScrapeParseError(f"it has more than {MAX_JSON_BYTES} bytes and is not the text of an exposition")
            return
        try:
            self._text.feed(piece)
        except ExpositionError as error:
            raise _unreadable(error) from None

    def finish(self, *, at_seconds: float) -> EngineSample:
        """Return the readings of the page; ``at_seconds`` is when it arrived, on the scraper's clock.

        Raises:
            UnknownPageError: the page is JSON of an unknown kind.
            ScrapeParseError: the page is not an exposition.
        """
        if self._is_json:
            page, engine = _parse_json(bytes(self._begin))
            samples = page.by_name()
            readings = EngineSample(at_seconds, engine, has_model=not self._models)
        else:
            page = self._finish_text()
            samples = page.by_name()
            readings = _read_text(page, samples, at_seconds, self._models)
        if not self._selectors:
            return readings
        selected, unread = select_series(self._selectors, page, samples)
        return replace(readings, selected=selected, unread=unread)

    def _finish_text(self) -> Exposition:
        parser = self._text
        try:
            if parser is None:
                parser = self._exposition_parser()
                parser.feed(bytes(self._begin))
            return parser.finish()
        except ExpositionError as error:
            raise _unreadable(error) from None

    def _exposition_parser(self) -> ExpositionParser:
        names = frozenset(selector.name for selector in self._selectors)
        return ExpositionParser(
            _engine_names(),
            extra=names,
            prefixes={prefix for name in names for prefix in siblings_of(name)},
            is_openmetrics="application/openmetrics-text" in self._content_type,
        )


def _unreadable(error: ExpositionError) -> ScrapeParseError:
    return ScrapeParseError(f"its metrics cannot be read: {error}")


def _read_text(page: Exposition, samples: SamplesByName, at_seconds: float, models: Collection[str]) -> EngineSample:
    engine = _engine_of(page, samples)
    if engine is None:
        return EngineSample(at_seconds)
    metric_map, facts = METRIC_MAPS[engine], ENGINES[engine]
    if models:
        own = of_models(samples, facts.model_labels, models)
        return replace(metric_map.read(own, engine, at_seconds), has_model=bool(own))
    readings = metric_map.read(samples, engine, at_seconds)
    count = summed_models(metric_map, facts, samples)
    return replace(readings, summed_models=count) if count else readings


def _engine_of(page: Exposition, samples: SamplesByName) -> str | None:
    for engine, metric_map in METRIC_MAPS.items():
        if any(name in samples for name in metric_map.identifying_series):
            return engine
    for engine, metric_map in METRIC_MAPS.items():
        families = (*metric_map.identifying_series, *metric_map.families) if metric_map.families else ()
        if any(name in samples or name in page.kinds for name in families):
            return engine
    return None


@functools.cache
def _engine_names() -> frozenset[str]:
    return frozenset().union(*(metric_map.names() for metric_map in METRIC_MAPS.values()))


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
    return Exposition(samples, {sample.name: "gauge" for sample in samples}, omits_zeros=False)
