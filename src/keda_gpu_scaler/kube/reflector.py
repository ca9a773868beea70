# SPDX-License-Identifier: Apache-2.0
"""Keeps a local copy of one collection of objects: lists it once, and then watches it.

Law: the copy is the server's last state, in the server's order; after a possible gap the reflector lists again. While
the API server cannot be reached the copy is trusted for a minute, and afterwards the objects are unavailable.

It works as client-go's reflector does: it lists in pages, watches from the list's resource version, goes on from the
last version received (a bookmark's, too) when a watch ends, and lists again when the server has dropped that version.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from keda_gpu_scaler.core.instance_status import WatchState
from keda_gpu_scaler.core.types import Unavailable
from keda_gpu_scaler.kube.client import METADATA_LIST_ONLY, METADATA_ONLY, ApiClient, ApiError, WatchTimeoutError
from keda_gpu_scaler.kube.parse import part

TRUSTED_SECONDS = 60.0
"""How long the last state is trusted while the API server cannot be reached."""
PAGE_SIZE = 500
_WATCH_SECONDS = 240
_MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.5, 30.0
_SHORT_WATCH_SECONDS = 1.0
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _GONE, _TOO_MANY, _SERVER_ERROR = 401, 403, 404, 410, 429, 500

Kept = TypeVar("Kept")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResourceQuery:
    """A collection: resource "pods" of group "" in namespace "ai", and a label selector.

    ``namespace`` is empty for the whole cluster. ``metadata_only`` requests the objects' metadata alone.
    """

    resource: str
    group: str = ""
    version: str = "v1"
    namespace: str = ""
    labels: str = ""
    metadata_only: bool = field(default=False, kw_only=True)

    @property
    def kind(self) -> str:
        """The resource with its group ("deployments.apps")."""
        return f"{self.resource}.{self.group}" if self.group else self.resource

    @property
    def path(self) -> str:
        """The collection's path on the API server."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{self.namespace}/{self.resource}" if self.namespace else f"{root}/{self.resource}"

    def __str__(self) -> str:
        return f'{self.kind} in namespace "{self.namespace}"' if self.namespace else self.kind


class Reflector(Generic[Kept]):
    """The objects of one collection, each reduced to the fields that are kept.

    ``items`` holds them by name, and by "namespace/name" where the query is for the objects of all namespaces. An
    object of which nothing is kept (None) is left out. ``run`` updates it until cancelled, and calls ``on_change``
    whenever an item or the availability of the whole has changed.

    Args:
        api: the API server.
        query: the collection.
        keep: reduces an object to what is kept of it.
        clock: monotonic seconds.
        on_change: called in the event loop.
    """

    def __init__(
        self,
        api: ApiClient,
        query: ResourceQuery,
        keep: Callable[[Mapping[str, Any]], Kept],
        clock: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        self._api = api
        self._query = query
        self._keep = keep
        self._clock = clock
        self._on_change = on_change
        self._failure: ApiError | None = None
        self._is_synced = False
        self._is_watching = False
        self._was_useful = False
        self._last_contact = clock()
        self._version = ""
        self.items: dict[str, Kept] = {}

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
        return Unavailable(self._sentence(self._failure), self._failure.is_permanent)

    async def run(self) -> None:
        """List and watch in a loop, until cancelled."""
        backoff = _MIN_BACKOFF_SECONDS
        while True:
            self._was_useful = False
            is_normal, min_wait = await self._list_and_watch()
            if self._was_useful:
                backoff = _MIN_BACKOFF_SECONDS
                if is_normal:
                    continue
            # A watch that ends as soon as it begins must not be opened again without a pause.
            await asyncio.sleep(max(_jittered(backoff), min_wait))
            backoff = min(2 * backoff, _MAX_BACKOFF_SECONDS)

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
            if not is_normal:
                self._record_failure(error)
            return is_normal, error.retry_after_seconds
        except Exception as error:  # an unexpected object must not end the watch for good
            _log.exception("%s: cannot be read", self._query)
            self._version = ""
            self._record_failure(ApiError(f"unexpected {type(error).__name__}: {str(error)[:200]}"))
            return False, _MAX_BACKOFF_SECONDS
        return True, 0.0

    async def _list(self) -> None:
        """Read every page, and the resource version to watch from."""
        found: dict[str, Kept] = {}
        parameters = {"limit": str(PAGE_SIZE), **self._selector()}
        accept = METADATA_LIST_ONLY if self._query.metadata_only else ""
        while True:
            try:
                page = await self._api.get(self._query.path, parameters, accept)
            except ApiError as error:
                if error.status != _GONE or "continue" not in parameters:
                    raise
                # The server dropped the next page. A list without pages cannot be dropped while it is read.
                found, parameters = {}, self._selector()
                continue
            for item in page.get("items") or ():  # a list of another type is a failure, and not an empty list
                self._store(found, item)
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                break
            parameters["continue"] = str(metadata["continue"])
        before = self.items
        # An unchanged item stays the same object, so that callers can compare by identity.
        self.items = {
            name: before[name] if name in before and before[name] == kept else kept for name, kept in found.items()
        }
        if self._is_synced and self.items != before:
            self._on_change()
        self._version = str(metadata.get("resourceVersion") or "")

    async def _watch(self) -> None:
        """Apply events from the current version on, until the server ends the watch."""
        parameters = {
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(_WATCH_SECONDS + os.urandom(1)[0]),  # spreads the renewal of many watches
            **self._selector(),
        }
        accept = METADATA_ONLY if self._query.metadata_only else ""
        started, timed_out = self._clock(), False
        try:
            async with self._api.watch(self._query.path, parameters, accept) as events:
                self._mark_synced()
                async for event in events:
                    self._last_contact = self._clock()
                    self._version = self._apply(event) or self._version
                    self._was_useful = True
        except WatchTimeoutError:
            timed_out = True
            raise
        finally:
            if self._is_watching:
                self._is_watching = False
                self._was_useful |= self._clock() - started >= _SHORT_WATCH_SECONDS
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
        metadata = part(item, "metadata")
        name = self._key(metadata)
        if kind == "DELETED":
            if name in self.items:
                del self.items[name]
                self._on_change()
        elif kind in ("ADDED", "MODIFIED"):
            before = self.items.get(name)
            self._store(self.items, item)
            if self.items.get(name) != before:
                self._on_change()
            elif before is not None:
                self.items[name] = before
        return str(metadata.get("resourceVersion") or "")

    def _store(self, items: dict[str, Kept], item: Mapping[str, Any]) -> None:
        if name := self._key(part(item, "metadata")):
            if (kept := self._keep(item)) is None:
                items.pop(name, None)
            else:
                items[name] = kept

    def _key(self, metadata: Mapping[str, Any]) -> str:
        """Return the key of an object, empty where it has no name."""
        name, namespace = metadata.get("name"), metadata.get("namespace")
        if not isinstance(name, str) or not name:
            return ""
        is_named_alone = self._query.namespace or not isinstance(namespace, str) or not namespace
        return name if is_named_alone else f"{namespace}/{name}"

    def _selector(self) -> dict[str, str]:
        return {"labelSelector": self._query.labels} if self._query.labels else {}

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
            _log.warning("%s", self._sentence(error))
            self._failure = error
            self._on_change()

    def _sentence(self, error: ApiError) -> str:
        query, kind = self._query, self._query.kind
        if error.status == _FORBIDDEN:
            rule = f"grant list and watch on {kind}"
            return f"the API server forbids to list and watch {query}: {rule} (chart: rbac.create)"
        if error.status == _UNAUTHORIZED:
            return f"the API server does not accept the credentials for {query}: is the service account's token valid?"
        if error.status == _NOT_FOUND:
            return (
                f"the API server has no {kind} of version {query.version}: is its CustomResourceDefinition installed?"
            )
        return f"{query}: {error}"


def _jittered(seconds: float) -> float:
    return seconds * (0.5 + os.urandom(1)[0] / 255)
