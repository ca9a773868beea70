# SPDX-License-Identifier: Apache-2.0
"""Fetches pages as another client does, and reports what each place of a pod answered.

Law: a report never changes what the caller gets.
"""

from collections.abc import Callable, Collection, Iterator

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.engines.page_writer import LabelMask, PageWriter
from keda_gpu_scaler.engines.scrape_parser import UnknownPageError
from keda_gpu_scaler.scrape.manager import ScrapeClient
from keda_gpu_scaler.scrape.types import (
    FailureKind,
    FetchedPage,
    FetchError,
    OpenReader,
    PageReader,
    RedirectError,
    ResolvedHost,
    Target,
)
from keda_gpu_scaler.wire.engine_recording import Place, RecordedPage

_OK = 200
_MASKED_PAGE = "its page cannot be read"
_MASKED_REDIRECT = "the server redirects, which is not followed"


class RecordingClient:
    """Fetches pages with another client and reports the answers of pods. Pages of URLs are not reported.

    Args:
        client: fetches the pages.
        report: called with each answer.
        selectors: the series that the trigger requests.
        mask: replaces the values of labels; None to keep them.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: ScrapeClient,
        report: Callable[[RecordedPage], None],
        selectors: Collection[SeriesSelector],
        mask: LabelMask | None,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._report = report
        self._selectors = tuple(selectors)
        self._mask = mask
        self._clock = clock

    async def resolve(self, url: Url, namespace: str | None) -> ResolvedHost:
        """Return the addresses of a URL's host; raises FetchError."""
        return await self._client.resolve(url, namespace)

    async def fetch(self, target: Target, open_reader: OpenReader) -> FetchedPage:
        """Fetch the page of a target for its reader; raises FetchError, and what the reader raises."""
        if target.pod is None or target.namespace is None:
            return await self._client.fetch(target, open_reader)
        url = target.url
        place = Place(target.namespace, target.pod, url.scheme, url.port, url.path)
        copy: _Copy | None = None

        def open_copy(content_type: str) -> PageReader:
            nonlocal copy
            copy = _Copy(open_reader(content_type), PageWriter(content_type, self._selectors, self._mask))
            return copy

        began_at_seconds = self._clock()
        try:
            page = await self._client.fetch(target, open_copy)
        except FetchError as error:
            sentence = _MASKED_REDIRECT if self._mask and isinstance(error, RedirectError) else str(error)
            self._report_failure(place, error.answer_seconds, error.status, sentence, error.kind)
            raise
        except ValueError as error:  # the reader refuses the page
            self._report_unreadable(place, self._clock() - began_at_seconds, error)
            raise
        if copy is not None:
            self._report_page(place, page, copy)
        return page

    def expire_idle(self) -> None:
        """Close connections that were not used recently."""
        self._client.expire_idle()

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def _report_page(self, place: Place, page: FetchedPage, copy: "_Copy") -> None:
        try:
            content_type, text = copy.finish()
        except ValueError as error:
            self._report_unreadable(place, page.answer_seconds, error)
            return
        self._report(RecordedPage(self._clock(), place, page.answer_seconds, _OK, content_type, text))

    def _report_unreadable(self, place: Place, answer_seconds: float, error: ValueError) -> None:
        kind = FailureKind.ABSENT if isinstance(error, UnknownPageError) else FailureKind.UNREADABLE
        self._report_failure(place, answer_seconds, _OK, _MASKED_PAGE if self._mask else str(error), kind)

    def _report_failure(
        self, place: Place, answer_seconds: float, status: int | None, sentence: str, kind: FailureKind
    ) -> None:
        failure = sentence or kind.value
        self._report(RecordedPage(self._clock(), place, answer_seconds, status, failure=failure, kind=kind.value))


class _Copy:
    """Gives each piece to the reader, and to the writer of the copy. A page that cannot be written has no copy."""

    def __init__(self, reader: PageReader, writer: PageWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._error: ValueError | None = None

    def feed(self, piece: bytes) -> None:
        if self._error is None:
            try:
                self._writer.feed(piece)
            except ValueError as error:
                self._error = error
        self._reader.feed(piece)

    def follow(self, piece: bytes) -> bool:
        """Read no piece by the layout of the last page: the writer needs every line."""
        return False

    def end(self) -> Iterator[None]:
        """End the page of the reader, in steps of bounded time."""
        yield from self._reader.end()

    def finish(self) -> tuple[str, str]:
        if self._error is not None:
            raise self._error
        return self._writer.finish()
