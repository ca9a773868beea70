# SPDX-License-Identifier: Apache-2.0
"""Checks the decoders of scraped pages and of their HTTP responses."""

from keda_gpu_scaler.core.selectors import parse_series
from keda_gpu_scaler.engines.prometheus_text import MAX_SAMPLES, parse_exposition
from keda_gpu_scaler.engines.scrape_parser import PageParser, ScrapeCache, ScrapeParseError, parse_page
from keda_gpu_scaler.engines.series_text import ExpositionError
from keda_gpu_scaler.scrape.plain_response import parse_plain_head
from tests.fuzz.target import PARTS, check_message
from tests.scrape.responses import read_by_h11, read_plainly

_SELECTORS = (parse_series("up"), parse_series('vllm:num_requests_waiting{model_name="a"}'))
_MAX_PAGES = 4


def check_exposition(data: bytes) -> None:
    """Check that a page is read exactly or refused, and that unwanted series make no difference."""
    for is_openmetrics in (False, True):
        try:
            page = parse_exposition(data, is_openmetrics=is_openmetrics)
        except ExpositionError as error:
            check_message(error)
            continue
        wanted = frozenset(sorted({sample.name for sample in page.samples})[::2])
        some = parse_exposition(data, wanted=wanted, is_openmetrics=is_openmetrics)
        if not some.left_out:
            assert repr(some.samples) == repr(tuple(one for one in page.samples if one.name in wanted))
        assert len(some.samples) <= MAX_SAMPLES


def check_page(data: bytes) -> None:
    """Check that a page is read in the same way as a whole and in pieces, with and without a layout."""
    cache = ScrapeCache()
    pages = data.split(PARTS)[:_MAX_PAGES]
    for page in (*pages, *pages):
        assert _read_in_pieces(page, cache) == _read(page)


def check_json_page(data: bytes) -> None:
    """Check that a page of JSON is read or refused."""
    try:
        parse_page(data, "application/json", at_seconds=1.0, selectors=_SELECTORS)
    except ScrapeParseError as error:
        check_message(error)


def check_response(data: bytes) -> None:
    """Check that what is read of a response is what h11 reads of it. A response that is refused here is not read."""
    pieces = data.split(PARTS)
    if parse_plain_head(pieces[0]) is not None:
        read = read_plainly(pieces)
        assert read is None or read == read_by_h11(pieces)


def _read(page: bytes) -> str:
    try:
        return repr(parse_page(page, "", at_seconds=1.0, selectors=_SELECTORS))
    except ScrapeParseError as error:
        check_message(error)
        return type(error).__name__


def _read_in_pieces(page: bytes, cache: ScrapeCache) -> str:
    parser = PageParser("", selectors=_SELECTORS, cache=cache)
    size = 1 + len(page) * 7 % 61
    is_followed = True
    try:
        for start in range(0, len(page), size):
            piece = page[start : start + size]
            is_followed = is_followed and parser.follow(piece)
            if not is_followed:
                parser.feed(piece)
        return repr(parser.finish(at_seconds=1.0))
    except ScrapeParseError as error:
        return type(error).__name__
