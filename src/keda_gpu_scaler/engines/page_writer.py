# SPDX-License-Identifier: Apache-2.0
"""Writes a page again with its requested series alone, and with masked labels on request.

Law: the written page is read as the same ``EngineSample`` as the page. A label is masked without exception, unless its
value decides how a series is read.
"""

import functools
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.trigger.demand_presets import siblings_of
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.engines import JSON_READERS, JSON_WRITERS, METRIC_MAPS
from keda_gpu_scaler.engines.exposition import SUFFIXES, Exposition, SeriesSample
from keda_gpu_scaler.engines.metric_map import MetricMap, SeriesSource
from keda_gpu_scaler.engines.prometheus_text import ExpositionParser
from keda_gpu_scaler.engines.scrape_parser import MAX_JSON_BYTES, ScrapeParseError, UnknownPageError
from keda_gpu_scaler.engines.series_text import ESCAPES

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
JSON_TYPE = "application/json"
MAX_MASKED_VALUES = 100_000
"""Further values of labels share one pseudonym."""
_ALWAYS_KEPT = frozenset({"le", "quantile"})
_REST = "masked"


class LabelMask:
    """Replaces the values of labels by pseudonyms: equal values of a label by equal ones, on every page.

    The labels by which engines distinguish their series keep their values (``le``, ``reason``), and so do the labels
    that the trigger's own selectors name, and the names of the models that it selects.

    Args:
        selectors: the series that the trigger requests.
        models: the models that the trigger selects.
    """

    def __init__(self, selectors: Collection[SeriesSelector] = (), models: Collection[str] = ()) -> None:
        self._models = frozenset(models)
        self._kept: dict[str, set[str]] = {}
        for selector in (*_engine_selectors(), *selectors):
            for requirement in selector.requirements:
                self._kept.setdefault(selector.name, set()).add(requirement.key)
        self._pseudonyms: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}

    def labels(self, sample: SeriesSample) -> Mapping[str, str]:
        """Return the labels of a sample with their values masked."""
        kept = self._kept.get(sample.name, ())
        return {
            key: value if key in kept or key in _ALWAYS_KEPT else self._pseudonym(key, value)
            for key, value in sample.labels.items()
        }

    def _pseudonym(self, key: str, value: str) -> str:
        if not value or (value in self._models and key in _model_labels()):
            return value
        known = self._pseudonyms.get((key, value))
        if known is not None:
            return known
        if len(self._pseudonyms) >= MAX_MASKED_VALUES:
            return _REST
        number = self._counts[key] = self._counts.get(key, 0) + 1
        return self._pseudonyms.setdefault((key, value), f"{_REST}-{number}")


class PageWriter:
    """Reads a page in pieces and writes its requested series.

    Args:
        content_type: the header of that name, empty where the response has none.
        selectors: series that are requested in addition to those of engines.
        mask: replaces the values of labels; None to keep them.
    """

    def __init__(self, content_type: str, selectors: Collection[SeriesSelector], mask: LabelMask | None) -> None:
        self._mask = mask
        self._begin = bytearray()
        self._is_json = "json" in content_type
        self._text: ExpositionParser | None = None
        self._is_openmetrics = "application/openmetrics-text" in content_type
        self._names = frozenset(selector.name for selector in selectors)

    def feed(self, piece: bytes) -> None:
        """Read the next piece of the page.

        Raises:
            ValueError: the page cannot be read, or is too large.
        """
        if self._text is None and not self._is_json:
            self._begin += piece
            first = bytes(self._begin.lstrip()[:1])
            if not first:
                return
            self._is_json = first in (b"{", b"[")
            if self._is_json:
                return
            self._text, piece = self._exposition_parser(), bytes(self._begin)
            self._begin.clear()
        if self._text is not None:
            self._text.feed(piece)
            return
        self._begin += piece
        if len(self._begin) > MAX_JSON_BYTES:
            raise ScrapeParseError(f"it has more than {MAX_JSON_BYTES} bytes")

    def finish(self) -> tuple[str, str]:
        """Return the content type and the text of the written page.

        Raises:
            UnknownPageError: it is JSON of an unknown kind.
            ValueError: the page cannot be read.
        """
        if self._is_json:
            return JSON_TYPE, self._json_text()
        parser = self._text
        if parser is None:
            parser = self._exposition_parser()
            parser.feed(bytes(self._begin))
        return TEXT_TYPE, "".join(self._lines(parser.finish()))

    def _exposition_parser(self) -> ExpositionParser:
        return ExpositionParser(
            _engine_names(),
            extra=self._names,
            prefixes=frozenset(prefix for name in self._names for prefix in siblings_of(name)),
            is_openmetrics=self._is_openmetrics,
        )

    def _lines(self, page: Exposition) -> Iterator[str]:
        # A family without series says that its value is 0, so types are written too, except of what was not read.
        families = _families(_engine_names() | self._names) - _families(page.left_out)
        kinds = {name: kind for name, kind in page.kinds.items() if name in families}
        yield from (f"# TYPE {prefix} untyped\n" for prefix in sorted(page.prefixes - kinds.keys()))
        yield from (f"# TYPE {name} {kind}\n" for name, kind in kinds.items())
        yield from (self._line(sample) for sample in page.samples)

    def _line(self, sample: SeriesSample) -> str:
        labels = sample.labels if self._mask is None else self._mask.labels(sample)
        inside = ",".join(f'{key}="{value.translate(ESCAPES)}"' for key, value in labels.items())
        return f"{sample.name}{f'{{{inside}}}' if inside else ''} {_number(sample.value)}\n"

    def _json_text(self) -> str:
        try:
            page = json.loads(bytes(self._begin))
        except (ValueError, RecursionError):
            page = None
        for engine, read_json in JSON_READERS.items():
            samples = read_json(page) if isinstance(page, Mapping) else None
            if samples is not None:
                return json.dumps(JSON_WRITERS[engine](tuple(map(self._masked, samples))), separators=(",", ":"))
        raise UnknownPageError("it is JSON of an unknown kind")

    def _masked(self, sample: SeriesSample) -> SeriesSample:
        return sample if self._mask is None else sample._replace(labels=self._mask.labels(sample))


def _families(names: Iterable[str]) -> set[str]:
    """Return the names that the families of these series may have."""
    return {name.removesuffix(suffix) for name in names for suffix in ("", *SUFFIXES)}


@functools.cache
def _engine_names() -> frozenset[str]:
    return frozenset().union(*(metric_map.names() for metric_map in METRIC_MAPS.values()))


@functools.cache
def _model_labels() -> frozenset[str]:
    return frozenset().union(*(engine.model_labels for engine in ENGINES.values()))


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(value)


def _engine_selectors() -> Iterator[SeriesSelector]:
    for metric_map in METRIC_MAPS.values():
        for source in _sources(metric_map):
            parts = (source, *source.plus, *((source.of,) if source.of else ()))
            yield from (part.selector for part in parts)


def _sources(metric_map: MetricMap) -> Iterator[SeriesSource]:
    for one in fields(metric_map):
        value: object = getattr(metric_map, one.name)
        if isinstance(value, Iterable):
            yield from (item for item in value if isinstance(item, SeriesSource))
