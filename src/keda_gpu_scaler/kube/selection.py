# SPDX-License-Identifier: Apache-2.0
"""Keeps the objects of one query up to date, out of a watch that several queries share.

Law: the list is younger than the beginning of the watch, so no change is lost between them. What the watch sends during
the list is applied after it, unless the list has it already.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from keda_gpu_scaler.core.types import Unavailable
from keda_gpu_scaler.kube.backoff import Backoff, longest
from keda_gpu_scaler.kube.client import ApiClient, ApiError
from keda_gpu_scaler.kube.item_store import ItemStore, Kept, key_of
from keda_gpu_scaler.kube.label_selector import Matches
from keda_gpu_scaler.kube.parse import part
from keda_gpu_scaler.kube.reflector import TRUSTED_SECONDS, Reflector, sentence, unexpected
from keda_gpu_scaler.kube.resource_query import ResourceQuery

_log = logging.getLogger(__name__)


class Selection(ItemStore[Kept]):
    """The objects of one query: those that it selects, and nothing of any other object.

    Args:
        api: the API server.
        query: the objects.
        keep: reduces an object to what is kept of it.
        matches: the query's selector.
        clock: monotonic seconds.
        on_change: called in the event loop whenever an item or the availability of the whole has changed.
    """

    def __init__(
        self,
        api: ApiClient,
        query: ResourceQuery,
        keep: Callable[[Mapping[str, Any]], Kept],
        matches: Matches,
        clock: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        super().__init__(query, keep)
        self._api = api
        self._matches = matches
        self._clock = clock
        self._on_change = on_change
        self._watch: Reflector | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: ApiError | None = None
        self._is_listed = False
        self._incomplete_since: float | None = None
        self._version = ""
        self._received: dict[str, tuple[str, Kept | None]] | None = None  # during a list

    @property
    def query(self) -> ResourceQuery:
        """The objects."""
        return self._query

    @property
    def is_pending(self) -> bool:
        """Whether the first list has neither succeeded nor failed yet."""
        if self._failure is not None or self._watch is None:
            return False
        return self._watch.is_pending or (not self._is_listed and self._watch.unavailable(self._clock()) is None)

    def unavailable(self, now: float) -> Unavailable | None:
        """Return why the items cannot be trusted, None where they can."""
        if self._watch is not None and (unavailable := self._watch.unavailable(now)):
            return unavailable
        if not self._is_listed:
            if self._failure is None:
                return Unavailable(f"{self._query}: not read from the API server yet", is_permanent=False)
            return Unavailable(sentence(self._query, self._failure), self._failure.is_permanent)
        if self._incomplete_since is None or (age := now - self._incomplete_since) <= TRUSTED_SECONDS:
            return None
        cause = f": {self._failure}" if self._failure else ""
        return Unavailable(
            f"{self._query}: not listed again for {age:.0f} s after a gap (limit {TRUSTED_SECONDS:g} s){cause}",
            is_permanent=self._failure is not None and self._failure.is_permanent,
        )

    def attach(self, watch: Reflector) -> None:
        """Take the events of this watch from now on; the items stay until they are listed again."""
        self.stop()
        self._watch = watch
        if watch.version:
            self.start()

    def start(self) -> None:
        """List the objects in a task of its own, until it succeeds."""
        self.stop()
        if self._is_listed and self._incomplete_since is None:
            self._incomplete_since = self._clock()
        self._task = asyncio.create_task(self._list_until_done(), name=f"list {self._query}")

    def stop(self) -> None:
        """End the task that lists."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def list_now(self) -> str:
        """List the objects, and return the version of the list.

        Raises:
            ApiError: they cannot be listed.
        """
        received = self._received = {}
        try:
            self._version, is_change = await self.relist(self._api)
        finally:
            self._received = None
        for key, (version, kept) in received.items():
            if not _is_older(version, self._version):
                is_change |= self._put(key, kept)
        is_change |= not self._is_listed or self._failure is not None
        self._is_listed, self._failure, self._incomplete_since = True, None, None
        if is_change and self.unavailable(self._clock()) is None:  # otherwise the watch reports that it begins
            self._on_change()
        return self._version

    def receive(
        self, item: Mapping[str, Any], labels: Mapping[str, str], reduced: dict[object, Any], *, is_deleted: bool
    ) -> None:
        """Apply an event of the watch.

        Args:
            item: the object.
            labels: its labels.
            reduced: what other selections have kept of it, by their function.
            is_deleted: whether it does not exist any more.
        """
        metadata = part(item, "metadata")
        key = key_of(self._query, metadata)
        if not key:
            return
        kept: Kept | None = None
        if not is_deleted and self._matches(labels):
            if self._keep not in reduced:
                reduced[self._keep] = self._keep(item)
            kept = reduced[self._keep]
        version = str(metadata.get("resourceVersion") or "")
        if self._received is not None:
            self._received[key] = version, kept
        elif not _is_older(version, self._version) and self._put(key, kept):
            self._on_change()

    async def _list_until_done(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self.list_now()
                return
            except ApiError as error:
                self._record_failure(error)
                min_wait = error.retry_after_seconds
            except Exception as error:  # an unexpected object must not end the task
                _log.exception("%s: cannot be read", self._query)
                self._record_failure(unexpected(error))
                min_wait = longest()
            await backoff.pause(min_wait)

    def _record_failure(self, error: ApiError) -> None:
        if self._failure is None or str(self._failure) != str(error):
            _log.warning("%s", sentence(self._query, error))
            self._failure = error
            self._on_change()


def _is_older(version: str, other: str) -> bool:
    """Whether a state is not younger than another one. Versions of one resource are numbers that grow (KEP 5504)."""
    return version.isdecimal() and other.isdecimal() and int(version) <= int(other)
