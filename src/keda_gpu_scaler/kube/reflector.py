# SPDX-License-Identifier: Apache-2.0
"""What objects are there, of one kind, in one place? Listed once, and then watched.

The law of this module: what it holds is what the API server said last, in order; where it may have missed something
it lists again. A server that cannot be reached is believed for a minute, and then nothing is known.

As client-go's reflector does it: list in pages, watch from the list's resource version, go on from the last version
seen (a bookmark's, too) when a watch ends, and list again when that version is gone.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from keda_gpu_scaler.core.counters import WatchState
from keda_gpu_scaler.core.types import Unavailable
from keda_gpu_scaler.kube.client import METADATA_LIST_ONLY, METADATA_ONLY, ApiClient, ApiError, WatchSilentError

BELIEVED_SECONDS = 60.0
"""How long the last known state holds while the API server cannot be reached."""
PAGE = 500
_WATCH_SECONDS = 240
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_SHORT_SECONDS = 1.0
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _GONE, _TOO_MANY, _SERVER_ERROR = 401, 403, 404, 410, 429, 500

Kept = TypeVar("Kept")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResourceQuery:
    """Which objects: "pods" of group "" in namespace "ai", by labels; ``namespace`` is empty for the whole cluster."""

    resource: str
    group: str = ""
    version: str = "v1"
    namespace: str = ""
    labels: str = ""
    metadata_only: bool = field(default=False, kw_only=True)

    @property
    def kind(self) -> str:
        """What the objects are, wherever they are ("deployments.apps")."""
        return f"{self.resource}.{self.group}" if self.group else self.resource

    @property
    def path(self) -> str:
        """The collection's path on the API server."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{self.namespace}/{self.resource}" if self.namespace else f"{root}/{self.resource}"

    def __str__(self) -> str:
        return f'{self.kind} in namespace "{self.namespace}"' if self.namespace else self.kind


class Reflector(Generic[Kept]):
    """The objects of one place, each reduced to what is kept of it.

    ``items`` holds them by name. ``run`` keeps it true until cancelled, and calls ``on_change`` whenever an item or
    what can be said about the whole has changed.

    Args:
        api: the API server.
        place: which objects.
        keep: makes of an object what is kept.
        clock: monotonic seconds.
        on_change: called in the event loop.
    """

    def __init__(
        self,
        api: ApiClient,
        place: ResourceQuery,
        keep: Callable[[Mapping[str, Any]], Kept],
        clock: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        self._api = api
        self._place = place
        self._keep = keep
        self._clock = clock
        self._on_change = on_change
        self._failure: ApiError | None = None
        self._is_synced = False
        self._is_watching = False
        self._was_of_use = False
        self._heard_at = clock()
        self._version = ""
        self.items: dict[str, Kept] = {}

    @property
    def is_pending(self) -> bool:
        """Whether nothing is known yet, neither good nor bad."""
        return not self._is_synced and self._failure is None

    def state(self, now: float) -> WatchState:
        """Tell what can be said of the watch."""
        if self._is_watching:
            return WatchState.WATCHING
        if self.is_pending:
            return WatchState.PENDING
        return WatchState.INTERRUPTED if self.unavailable(now) is None else WatchState.UNKNOWN

    def unavailable(self, now: float) -> Unavailable | None:
        """Say why the items cannot be relied on; None where they can."""
        if self._is_synced:
            silence = now - self._heard_at
            if self._is_watching or silence <= BELIEVED_SECONDS:
                return None
            cause = f": {self._failure}" if self._failure else ""
            limit = f"(limit {BELIEVED_SECONDS:g} s)"
            return Unavailable(
                f"{self._place}: the API server last answered {silence:.0f} s ago {limit}{cause}",
                is_permanent=self._failure is not None and self._failure.is_permanent,
            )
        if self._failure is None:
            return Unavailable(f"{self._place}: not read from the API server yet", is_permanent=False)
        return Unavailable(self._say(self._failure), self._failure.is_permanent)

    async def run(self) -> None:
        """List and watch, again and again, until cancelled."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            self._was_of_use, wait = False, 0.0
            is_normal = True
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except ApiError as error:
                # A version that is gone is as normal an end as any, once it was listed.
                is_normal = error.status == _GONE and bool(self._version)
                if error.status and error.status != _TOO_MANY and error.status < _SERVER_ERROR:
                    self._version = ""  # gone, or refused: there is nothing to go on from
                if not is_normal:
                    self._note(error)
                wait = error.retry_after_seconds
            except Exception as error:  # an object that nobody has thought of must not end the watch for good
                _log.exception("%s: cannot be read", self._place)
                self._version = ""
                self._note(ApiError(f"unexpected {type(error).__name__}: {str(error)[:200]}"))
                is_normal, wait = False, _LONGEST_PAUSE_SECONDS
            if self._was_of_use:
                pause = _FIRST_PAUSE_SECONDS
                if is_normal:
                    continue
            # Nor may it become a habit that a watch ends as soon as it began.
            await asyncio.sleep(max(_jittered(pause), wait))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _list(self) -> None:
        """Read everything, page by page, up to the version to watch from."""
        found: dict[str, Kept] = {}
        query = {"limit": str(PAGE), **self._selector()}
        accept = METADATA_LIST_ONLY if self._place.metadata_only else ""
        while True:
            try:
                page = await self._api.get(self._place.path, query, accept)
            except ApiError as error:
                if error.status != _GONE or "continue" not in query:
                    raise
                # The next page is gone: everything at once cannot go while it is read.
                found, query = {}, self._selector()
                continue
            for item in page.get("items") or ():
                self._put(found, item)
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                break
            query["continue"] = str(metadata["continue"])
        before = self.items
        # What did not change stays the same object, for whoever compares.
        self.items = {name: before[name] if before.get(name) == kept else kept for name, kept in found.items()}
        if self._is_synced and self.items != before:
            self._on_change()
        self._version = str(metadata.get("resourceVersion") or "")

    async def _watch(self) -> None:
        """Follow what happens from our version on, until the server ends it."""
        query = {
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(_WATCH_SECONDS + os.urandom(1)[0]),  # so that not all are renewed at once
            **self._selector(),
        }
        accept = METADATA_ONLY if self._place.metadata_only else ""
        began, is_silent = self._clock(), False
        try:
            async with self._api.watch(self._place.path, query, accept) as events:
                self._hear()
                async for event in events:
                    self._heard_at = self._clock()
                    self._version = self._take(event) or self._version
                    self._was_of_use = True
        except WatchSilentError:
            is_silent = True
            raise
        finally:
            if self._is_watching:
                self._is_watching = False
                self._was_of_use |= self._clock() - began >= _SHORT_SECONDS
                if not is_silent:
                    # While a watch is open silence means that nothing happens; from now on, that nobody is there.
                    self._heard_at = self._clock()

    def _take(self, event: Mapping[str, Any]) -> str:
        """Apply one event; return the version it leads to, empty where it has none.

        Raises:
            ApiError: the server reports an error: that it cannot go on from our version, above all.
        """
        kind, item = event.get("type"), event["object"]
        if kind == "ERROR":
            code = item.get("code")
            message = f"the API server ends the watch: {str(item.get('message'))[:200]!a}"
            raise ApiError(message, code if isinstance(code, int) else 0)
        metadata = item.get("metadata") or {}
        name = str(metadata.get("name") or "")
        if kind == "DELETED":
            if name in self.items:
                del self.items[name]
                self._on_change()
        elif kind in ("ADDED", "MODIFIED"):
            before = self.items.get(name)
            self._put(self.items, item)
            if self.items.get(name) != before:
                self._on_change()
            elif before is not None:
                self.items[name] = before
        return str(metadata.get("resourceVersion") or "")

    def _put(self, items: dict[str, Kept], item: Mapping[str, Any]) -> None:
        name = (item.get("metadata") or {}).get("name")
        if isinstance(name, str) and name:
            items[name] = self._keep(item)

    def _selector(self) -> dict[str, str]:
        return {"labelSelector": self._place.labels} if self._place.labels else {}

    def _hear(self) -> None:
        """Begin to rely on the items: a list alone would be old in a moment, and may be all that is allowed."""
        is_news = self._failure is not None or self.unavailable(self._clock()) is not None
        if self._failure is not None:
            _log.info("%s: the API server answers again", self._place)
        self._heard_at = self._clock()
        self._is_watching, self._is_synced, self._failure = True, True, None
        if is_news:
            self._on_change()

    def _note(self, error: ApiError) -> None:
        if self._failure is None or str(self._failure) != str(error):
            _log.warning("%s", self._say(error))
            self._failure = error
            self._on_change()

    def _say(self, error: ApiError) -> str:
        place = self._place
        name = place.kind
        if error.status == _FORBIDDEN:
            rule = f"grant list and watch on {name}"
            return f"the API server forbids to list and watch {place}: {rule} (chart: rbac.create)"
        if error.status == _UNAUTHORIZED:
            return f"the API server does not know who asks for {place}: is the service account's token valid?"
        if error.status == _NOT_FOUND:
            return (
                f"the API server has no {name} of version {place.version}: is its CustomResourceDefinition installed?"
            )
        return f"{place}: {error}"


def _jittered(seconds: float) -> float:
    return seconds * (0.5 + os.urandom(1)[0] / 255)
