# SPDX-License-Identifier: Apache-2.0
"""Reads a scraped page, text or JSON, as an ``EngineSample``.

Law: an engine is recognised by the series names that it alone exports. A page that cannot be read is refused as a
whole.
"""

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.trigger.demand_presets import siblings_of
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.types import EngineSample, Series
from keda_gpu_scaler.engines import JSON_READERS, METRIC_MAPS
from keda_gpu_scaler.engines.bound_readings import BoundMetricMap, NumberedSeries, SeriesByName
from keda_gpu_scaler.engines.exposition import Exposition, name_of
from keda_gpu_scaler.engines.interceptor import pending_requests
from keda_gpu_scaler.engines.layout_store import KnownPage, LayoutStore
from keda_gpu_scaler.engines.models import bind_models
from keda_gpu_scaler.engines.page_layout import PageLayout
from keda_gpu_scaler.engines.prometheus_text import ExpositionParser
from keda_gpu_scaler.engines.series_selection import select_series
from keda_gpu_scaler.engines.series_text import ExpositionError
from keda_gpu_scaler.engines.steps import Steps, run_steps

MAX_JSON_BYTES = 1 << 20
"""A page of JSON is read as a whole and is at most this large."""
_NO_LINES = b" \t\r\n\v\f{["
_MAX_CHANGES = 6


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


class ScrapeCache:
    """What is known of a target's next page from its last one: the layout, and the series of each reading.

    A page that does not follow the layout is read in the ordinary way. Its own layout is recorded, but the more rarely
    the more often the pages change, because a record takes as long as the reading. A layout for which the store has no
    room is tried again as rarely.

    Args:
        store: keeps the layouts of all targets.
    """

    def __init__(self, store: LayoutStore | None = None) -> None:
        self._store = store if store is not None else LayoutStore()
        self.known: KnownPage | None = None
        self._changes = self._unrecorded = 0

    @property
    def layout(self) -> PageLayout | None:
        """The layout that the next page may follow."""
        return self.known.layout if self.known is not None else None

    @property
    def is_recording(self) -> bool:
        """Whether the layout of the next page is to be recorded."""
        return self.known is None and not self._unrecorded

    def record_followed(self) -> None:
        """Note that a page followed the layout."""
        self._changes = 0

    def record(self, layout: PageLayout | None, readings: BoundMetricMap, models: frozenset[str]) -> None:
        """Replace the layout after a page that was read in the ordinary way, None if it has none."""
        known = self._store.keep(KnownPage(layout, models, readings)) if layout is not None else None
        if self.known is not None or (self.is_recording and known is None):
            self._changes = min(self._changes + 1, _MAX_CHANGES)
            self._unrecorded = (1 << self._changes) - 2
        elif self._unrecorded:
            self._unrecorded -= 1
        self.known = known


class PageParser:
    """Reads a page of metrics in pieces as they arrive. Of text, only the requested series are kept.

    ``feed`` takes a time that is proportional to its piece, so that the caller can do other work between two pieces.
    The result does not depend on where the page is cut, nor on the cache.

    Args:
        content_type: the header of that name, empty where the response has none.
        selectors: series that are requested in addition to those of the engine.
        models: the models whose series are read; empty where every model counts.
        cache: what is known from the last page of the same target.
    """

    def __init__(
        self,
        content_type: str,
        *,
        selectors: Collection[SeriesSelector] = (),
        models: Collection[str] = (),
        cache: ScrapeCache | None = None,
    ) -> None:
        self._models = frozenset(models)
        self._content_type = content_type
        self._selectors = selectors
        self._cache = cache or ScrapeCache()
        self._is_cached = cache is not None
        known = self._cache.known
        self._known = known if known is not None and known.models == self._models else None
        self._readings = BoundMetricMap("", {}, {}, {})
        self._values: Sequence[float] = ()
        self._selected: tuple[dict[str, Series | None], dict[str, str]] | None = None
        self._text: ExpositionParser | None = None
        self._begin = bytearray()  # of a page whose format is not known yet, or the whole page if it is JSON
        self._is_json = "json" in content_type
        self._is_ended = False

    def follow(self, piece: bytes) -> bool:
        """Read a piece at once if it is as expected from the last page, which is cheap; return whether it was read."""
        if self._text is None:
            if self._known is None or self._is_json or self._begin or piece[:1] in _NO_LINES:
                return False
            self._text = self._exposition_parser()
        return self._text.follow(piece)

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
        run_steps(self.end())
        readings = self._readings.read(self._values, at_seconds)
        if self._selected is None:
            return readings
        selected, unread = self._selected
        return replace(readings, selected=selected, unread=unread)

    def end(self) -> Steps[None]:
        """Read what needs the whole page, in steps of bounded time, if this is not done yet.

        Raises:
            UnknownPageError: the page is JSON of an unknown kind.
            ScrapeParseError: the page is not an exposition.
        """
        if self._is_ended:
            return
        self._is_ended = True
        if self._is_json:
            page, engine = _parse_json(bytes(self._begin))
            self._readings = BoundMetricMap(engine, {}, {}, {}, has_model=not self._models)
        else:
            is_followed = self._end_text()
            if is_followed and not self._selectors:
                return
            page = self._finish_text()
            yield
            if not is_followed:
                yield from self._bind(page)
        if self._selectors:
            samples = yield from page.by_name({selector.name for selector in self._selectors})
            self._selected = yield from select_series(self._selectors, page, samples)

    def _end_text(self) -> bool:
        """Read the end of the text; return whether the page followed the layout of the last one."""
        if self._text is None:
            self._text = self._exposition_parser()
            self.feed(bytes(self._begin))
        follower = self._text.end_following()
        if follower is None or self._known is None:
            return False
        self._readings, self._values = self._known.readings, follower.values
        self._cache.record_followed()
        return True

    def _finish_text(self) -> Exposition:
        try:
            return self._text.finish() if self._text is not None else Exposition({})
        except ExpositionError as error:
            raise _unreadable(error) from None

    def _bind(self, page: Exposition) -> Steps[None]:
        """Find the readings of a page that was read in the ordinary way, and keep what the next page may have too."""
        series: dict[str, list[NumberedSeries]] = {}
        for position, identity in enumerate(page.values):
            series.setdefault(name_of(identity), []).append((position, identity))
        yield
        if engine := _engine_of(series, page):
            self._readings = yield from bind_models(METRIC_MAPS[engine], ENGINES[engine], series, self._models)
        self._values = list(page.values.values())
        if self._is_cached and self._text is not None:
            self._cache.record(self._text.recorded, self._readings, self._models)

    def _exposition_parser(self) -> ExpositionParser:
        names = frozenset(selector.name for selector in self._selectors)
        return ExpositionParser(
            _engine_names(),
            extra=names,
            prefixes=_prefixes(names),
            is_openmetrics="application/openmetrics-text" in self._content_type,
            layout=self._known.layout if self._known is not None else None,
            is_recorded=self._is_cached and self._cache.is_recording,
        )


def _unreadable(error: ExpositionError) -> ScrapeParseError:
    return ScrapeParseError(f"its metrics cannot be read: {error}")


def _engine_of(series: SeriesByName, page: Exposition) -> str:
    """Return the engine whose page this is, empty where it is none's."""
    for engine, metric_map in METRIC_MAPS.items():
        if any(name in series for name in metric_map.identifying_series):
            return engine
    for engine, metric_map in METRIC_MAPS.items():
        families = (*metric_map.identifying_series, *metric_map.families) if metric_map.families else ()
        if any(name in series or name in page.kinds for name in families):
            return engine
    return ""


@functools.lru_cache(maxsize=256)
def _prefixes(names: frozenset[str]) -> frozenset[str]:
    return frozenset(prefix for name in names for prefix in siblings_of(name))


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
                return Exposition.of_gauges(samples), engine
        if (samples := pending_requests(page)) is not None:
            return Exposition.of_gauges(samples), ""
    known = [f"{ENGINES[engine].title}'s {ENGINES[engine].path}" for engine in JSON_READERS]
    known.append("the HTTP add-on's /queue")
    raise UnknownPageError(f"it is JSON of an unknown kind: neither {' nor '.join(known)}")
