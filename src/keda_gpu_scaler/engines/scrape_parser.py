# SPDX-License-Identifier: Apache-2.0
"""Whose page is this, and what does it tell? Text or JSON in, ``EngineSample`` out.

The law of this module: an engine is known by the names that it alone exports, and a page that cannot be read is
refused whole.
"""

import functools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.types import EngineSample, Series
from keda_gpu_scaler.engines.interceptor import pending_requests
from keda_gpu_scaler.engines.llamacpp import LLAMA_CPP
from keda_gpu_scaler.engines.lmdeploy import LMDEPLOY
from keda_gpu_scaler.engines.metric_map import MetricMap, added_up
from keda_gpu_scaler.engines.nim import NIM
from keda_gpu_scaler.engines.ollama import loaded_models
from keda_gpu_scaler.engines.prometheus_text import Exposition, ExpositionError, SeriesSample, parse_exposition
from keda_gpu_scaler.engines.sglang import SGLANG
from keda_gpu_scaler.engines.tgi import TGI
from keda_gpu_scaler.engines.triton import TRITON
from keda_gpu_scaler.engines.trtllm import TRTLLM_SERVE
from keda_gpu_scaler.engines.vllm import VLLM

METRIC_MAPS: tuple[MetricMap, ...] = (VLLM, SGLANG, TGI, TRITON, TRTLLM_SERVE, NIM, LMDEPLOY, LLAMA_CPP)
"""Every engine that exports series, in the order in which a page is held against them."""
OLLAMA = "ollama"


class ScrapeParseError(ValueError):
    """A page that cannot be read; the message is a sentence."""


class UnknownPageError(ScrapeParseError):
    """A page of a kind that no engine has, so that there is none."""


def parse_page(
    body: bytes, content_type: str, *, at_seconds: float, selectors: Collection[SeriesSelector] = ()
) -> EngineSample:
    """Read a page of metrics.

    Args:
        body: the page.
        content_type: the header of that name, empty where there was none.
        at_seconds: when it came, on the scraper's clock.
        selectors: series that are asked for besides.

    Raises:
        ForeignPageError: it is JSON of no kind that is known.
        PageError: it is no exposition.
    """
    if "json" in content_type or body.lstrip()[:1] in (b"{", b"["):
        page, engine = _json(body)
        readings = EngineSample(at_seconds, engine)
    else:
        try:
            page = parse_exposition(
                body,
                wanted=_wanted(frozenset(it.name for it in selectors)),
                is_openmetrics="application/openmetrics-text" in content_type,
            )
        except ExpositionError as error:
            raise ScrapeParseError(f"its metrics cannot be read: {error}") from None
        names = {sample.name for sample in page.samples}
        exported = next((it for it in METRIC_MAPS if not names.isdisjoint(it.signs)), None)
        readings = exported.read(page, at_seconds) if exported else EngineSample(at_seconds)
    found = _FoundSeries(page.samples)
    return replace(readings, selected={it.text: _selected(it, page, found) for it in selectors})


@functools.lru_cache(maxsize=256)
def _wanted(names: frozenset[str]) -> frozenset[str]:
    return names.union(*(exported.names() for exported in METRIC_MAPS))


class _FoundSeries:
    """Samples by their name and labels: of one interceptor hundreds of workloads may each want a series."""

    def __init__(self, samples: Sequence[SeriesSample]) -> None:
        self._by_name: dict[str, list[SeriesSample]] = {}
        for it in samples:
            self._by_name.setdefault(it.name, []).append(it)
        self._by_label: dict[tuple[str, str], dict[str, list[SeriesSample]]] = {}

    def named(self, name: str) -> Sequence[SeriesSample]:
        """Return those of a name."""
        return self._by_name.get(name, ())

    def meant_by(self, selector: SeriesSelector) -> Iterator[SeriesSample]:
        """Yield those that a selector means."""
        said = next((it for it in selector.requirements if it.value and not it.negated), None)
        likely = self.named(selector.name)
        if said is not None and said.value is not None:
            likely = self._labelled(selector.name, said.key).get(said.value, ())
        return (it for it in likely if selector.matches(it.name, it.labels))

    def _labelled(self, name: str, label: str) -> Mapping[str, Sequence[SeriesSample]]:
        if (name, label) not in self._by_label:
            found = self._by_label[name, label] = {}
            for it in self.named(name):
                found.setdefault(it.labels.get(label, ""), []).append(it)
        return self._by_label[name, label]


def _selected(selector: SeriesSelector, page: Exposition, found: _FoundSeries) -> Series | None:
    values = [it.value for it in found.meant_by(selector)]
    if (total := added_up(values)) is not None:
        return _series(total, is_counter=page.is_counter(selector.name))
    if not values and not found.named(selector.name) and page.declares_counter(selector.name):
        return _series(0.0, is_counter=True)  # declared, and nothing was ever counted
    return None


@functools.lru_cache(maxsize=4096)  # what tells 0 all day is kept once
def _series(value: float, *, is_counter: bool) -> Series:
    return Series(value, is_counter)


def _json(body: bytes) -> tuple[Exposition, str]:
    try:
        page = json.loads(body)
    except (ValueError, RecursionError):
        page = None
    if isinstance(page, Mapping):
        if (models := loaded_models(page)) is not None:
            return _gauges(models), OLLAMA
        if (pending := pending_requests(page)) is not None:
            return _gauges(pending), ""
    raise UnknownPageError("it is JSON of no kind that is known: neither Ollama's /api/ps nor the HTTP add-on's /queue")


def _gauges(samples: tuple[SeriesSample, ...]) -> Exposition:
    return Exposition(samples, {sample.name: "gauge" for sample in samples})
