# SPDX-License-Identifier: Apache-2.0
"""Keeps a copy of one collection of objects: lists it once, and then watches it.

Law: the copy is the server's last state, in the server's order; after a possible gap the reflector lists again. While
the API server cannot be reached the copy is trusted for a minute, and afterwards the objects are unavailable.

It works as client-go's reflector does: it lists in pages, watches from the list's resource version, goes on from the
last version received (a bookmark's, too) when a watch ends, and lists again when the server has dropped that version.

A kind in which nothing changes sends nothing: a bookmark follows the progress of etcd, which is reported every ten
minutes by default (etcd's --experimental-watch-progress-notify-interval). Therefore each watch is short. The server
ends it in time if it lives, and nothing is unavailable in between. Only a server that does not end it, or does not
open the next one, is a failure.
"""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from keda_gpu_scaler.core.instance_status import WatchState
from keda_gpu_scaler.core.types import Unavailable
from keda_gpu_scaler.kube.backoff import Backoff, longest
from keda_gpu_scaler.kube.client import METADATA_ONLY, ApiClient, ApiError, WatchTimeoutError
from keda_gpu_scaler.kube.parse import part
from keda_gpu_scaler.kube.resource_query import ResourceQuery

TRUSTED_SECONDS = 60.0
"""How long the last state is trusted while the API server cannot be reached."""
WATCH_SECONDS, _WATCH_SPREAD_SECONDS = 30, 16
"""When the server ends a watch, plus a spread. With the client's grace it is less than ``TRUSTED_SECONDS``."""
_SETTLED_SECONDS = 10.0
"""A watch that lived as long as this is opened again at once, and ends the back-off."""
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _GONE, _TOO_MANY, _SERVER_ERROR = 401, 403, 404, 410, 429, 500

_log = logging.getLogger(__name__)


class Store(Protocol):
    """Where a reflector puts the state of a collection."""

    async def relist(self, api: ApiClient, /) -> tuple[str, bool]:
        """Read the collection; return the version to watch from, and whether anything has changed.

        Raises:
            ApiError: it cannot be listed.
        """

    def apply(self, item: Mapping[str, Any], /, *, is_deleted: bool) -> bool:
        """Apply an event of the watch; return whether anything has changed."""


class Reflector:
    """Keeps a store up to date with one collection.

    ``run`` updates it until cancelled, and calls ``on_change`` whenever the store or its availability has changed.

    Args:
        api: the API server.
        query: the collection that is watched.
        store: receives the objects.
        clock: monotonic seconds.
        on_change: called in the event loop.
        on_refused: called when RBAC forbids the collection; returns whether the objects are provided otherwise.
    """

    def __init__(
        self,
        api: ApiClient,
        query: ResourceQuery,
        store: Store,
        clock: Callable[[], float],
        on_change: Callable[[], None],
        on_refused: Callable[[], bool] = lambda: False,
    ) -> None:
        self._api = api
        self._query = query
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._on_refused = on_refused
        self._failure: ApiError | None = None
        self._is_synced = False
        self._is_watching = False
        self._lived_seconds = 0.0
        self._last_contact = clock()
        self._version = ""

    @property
    def version(self) -> str:
        """The version up to which the store is complete; empty before the first list and when it has to be repeated."""
        return self._version

    @property
    def failure(self) -> ApiError | None:
        """Why the collection cannot be watched at the moment."""
        return self._failure

    @property
    def is_pending(self) -> bool:
        """Whether the first list has neither succeeded nor failed yet."""
        return not self._is_synced and self._failure is None

    def state(self, now: float) -> WatchState:
        """Return the state of the watch."""
        if self._is_watching:
            return WatchState.WATCHING
        if self.is_pending:
            return WatchState.PENDING
        return WatchState.INTERRUPTED if self.unavailable(now) is None else WatchState.UNKNOWN

    def unavailable(self, now: float) -> Unavailable | None:
        """Return why the items cannot be trusted, None where they can."""
        if self._is_synced:
            age = now - self._last_contact
            if self._is_watching or age <= TRUSTED_SECONDS:
                return None
            cause = f": {self._failure}" if self._failure else ""
            limit = f"(limit {TRUSTED_SECONDS:g} s)"
            return Unavailable(
                f"{self._query}: the API server last answered {age:.0f} s ago {limit}{cause}",
                is_permanent=self._failure is not None and self._failure.is_permanent,
            )
        if self._failure is None:
            return Unavailable(f"{self._query}: not read from the API server yet", is_permanent=False)
        return Unavailable(sentence(self._query, self._failure), self._failure.is_permanent)

    async def run(self) -> None:
        """List and watch in a loop, until cancelled."""
        backoff = Backoff()
        while True:
            self._lived_seconds = 0.0
            is_normal, min_wait = await self._list_and_watch()
            if self._lived_seconds >= _SETTLED_SECONDS:
                backoff.reset()
                if is_normal:
                    continue
            # A watch that ends soon, for whatever reason and with whatever events, is not opened again without a pause.
            await backoff.pause(min_wait)

    async def _list_and_watch(self) -> tuple[bool, float]:
        """List if necessary, and watch once; return whether the end is normal, and how long to wait at least."""
        try:
            if not self._version:
                await self._list()
            await self._watch()
        except ApiError as error:
            # After a list, a dropped version is as normal an end as any other.
            is_normal = error.status == _GONE and bool(self._version)
            if error.status and error.status != _TOO_MANY and error.status < _SERVER_ERROR:
                self._version = ""  # dropped or refused: there is no version to go on from
            is_replaced = error.status == _FORBIDDEN and self._on_refused()
            if not is_normal and not is_replaced:
                self._record_failure(error)
            return is_normal, error.retry_after_seconds
        except Exception as error:  # an unexpected object must not end the watch for good
            _log.exception("%s: cannot be read", self._query)
            self._version = ""
            self._record_failure(unexpected(error))
            return False, longest()
        return True, 0.0

    async def _list(self) -> None:
        """Have the store read the collection, and get the resource version to watch from."""
        version, is_change = await self._store.relist(self._api)
        if self._is_synced and is_change:
            self._on_change()
        self._version = version

    async def _watch(self) -> None:
        """Apply events from the current version on, until the server ends the watch."""
        parameters = {
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            **self._query.parameters,
        }
        accept = METADATA_ONLY if self._query.metadata_only else ""
        seconds = WATCH_SECONDS + os.urandom(1)[0] % _WATCH_SPREAD_SECONDS
        opened, timed_out = self._clock(), False
        try:
            async with self._api.watch(self._query.path, parameters, accept, seconds=seconds) as events:
                opened = self._clock()
                self._mark_synced()
                async for event in events:
                    self._last_contact = self._clock()
                    self._version = self._apply(event) or self._version
        except WatchTimeoutError:
            timed_out = True
            raise
        finally:
            if self._is_watching:
                self._is_watching = False
                self._lived_seconds = self._clock() - opened
                if not timed_out:
                    # The connection worked until now. After a timeout it is not known when it stopped working.
                    self._last_contact = self._clock()

    def _apply(self, event: Mapping[str, Any]) -> str:
        """Apply one event; return its resource version, empty where it has none.

        Raises:
            ApiError: the event is an error, for example that the server has dropped the version.
        """
        kind, item = event.get("type"), event["object"]
        if kind == "ERROR":
            code = item.get("code")
            message = f"the API server ends the watch: {str(item.get('message'))[:200]!a}"
            raise ApiError(message, code if isinstance(code, int) else 0)
        if kind in ("ADDED", "MODIFIED", "DELETED") and self._store.apply(item, is_deleted=kind == "DELETED"):
            self._on_change()
        return str(part(item, "metadata").get("resourceVersion") or "")

    def _mark_synced(self) -> None:
        """Trust the items from now on.

        A list without a watch is not enough: it becomes stale at once, and it may be all that RBAC allows.
        """
        is_change = self._failure is not None or self.unavailable(self._clock()) is not None
        if self._failure is not None:
            _log.info("%s: the API server answers again", self._query)
        self._last_contact = self._clock()
        self._is_watching, self._is_synced, self._failure = True, True, None
        if is_change:
            self._on_change()

    def _record_failure(self, error: ApiError) -> None:
        """Keep a failure, and log it if it is another one than before."""
        if self._failure is None or str(self._failure) != str(error):
            _log.warning("%s", sentence(self._query, error))
            self._failure = error
            self._on_change()


def sentence(query: ResourceQuery, error: ApiError) -> str:
    """Say why a collection cannot be read, and the remedy where it is known."""
    if error.status == _FORBIDDEN:
        rule = f"grant list and watch on {query.kind}"
        return f"the API server forbids to list and watch {query}: {rule} (chart: rbac.create)"
    if error.status == _UNAUTHORIZED:
        return f"the API server does not accept the credentials for {query}: is the service account's token valid?"
    if error.status == _NOT_FOUND:
        return (
            f"the API server has no {query.kind} of version {query.version}: is its CustomResourceDefinition installed?"
        )
    return f"{query}: {error}"


def unexpected(error: Exception) -> ApiError:
    """Return the error of a defect of this program, or of an object of an unexpected form."""
    return ApiError(f"unexpected {type(error).__name__}: {str(error)[:200]}")
