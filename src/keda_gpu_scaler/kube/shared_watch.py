# SPDX-License-Identifier: Apache-2.0
"""Watches one collection for several queries, and gives each the objects that it selects.

Law: an object that no query selects is read and forgotten. It is never listed.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from keda_gpu_scaler.kube import parse
from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.parse import part
from keda_gpu_scaler.kube.reflector import Reflector
from keda_gpu_scaler.kube.resource_query import ResourceQuery
from keda_gpu_scaler.kube.selection import Selection


class SharedWatch:
    """One watch, and the selections that receive its events.

    Args:
        api: the API server.
        query: the watched collection, which contains the objects of every selection.
        clock: monotonic seconds.
        on_refused: called when RBAC forbids the watch; returns whether the selections are served otherwise.
    """

    def __init__(
        self,
        api: ApiClient,
        query: ResourceQuery,
        clock: Callable[[], float],
        on_refused: Callable[[], bool],
    ) -> None:
        self.query = query
        self.reflector = Reflector(api, query, self, clock, self._availability_changed, on_refused)
        self._selections: dict[str, dict[Selection[Any], Callable[[], None]]] = {}  # by namespace
        self.task = asyncio.create_task(self.reflector.run(), name=f"watch {query}")

    def add(self, selection: Selection[Any], on_change: Callable[[], None]) -> None:
        """Serve one more selection."""
        self._selections.setdefault(selection.query.namespace, {})[selection] = on_change
        selection.attach(self.reflector)

    def remove(self, selection: Selection[Any]) -> None:
        """Serve a selection no longer."""
        selection.stop()
        members = self._selections[selection.query.namespace]
        del members[selection]
        if not members:
            del self._selections[selection.query.namespace]

    @property
    def selections(self) -> list[Selection[Any]]:
        """The selections that are served."""
        return [selection for members in self._selections.values() for selection in members]

    async def relist(self, api: ApiClient) -> tuple[str, bool]:
        """List the objects of every selection. The version of the first list is the one to watch from.

        Raises:
            ApiError: the first selection cannot be listed.
        """
        first, *others = self.selections
        for selection in (first, *others):
            selection.stop()
        version = await first.list_now()
        for selection in self.selections:  # those of now: some may have been added or removed
            if selection is not first:
                selection.start()
        return version, False

    def apply(self, item: Mapping[str, Any], *, is_deleted: bool) -> bool:
        """Give an event to the selections of its namespace; each reports its own changes."""
        namespace = part(item, "metadata").get("namespace")
        places = ("", namespace) if isinstance(namespace, str) and namespace else ("",)
        labels: Mapping[str, str] | None = None
        reduced: dict[object, Any] = {}
        for place in places:
            for selection in list(self._selections.get(place, ())):
                labels = parse.labels(item) if labels is None else labels
                selection.receive(item, labels, reduced, is_deleted=is_deleted)
        return False

    def _availability_changed(self) -> None:
        for members in list(self._selections.values()):
            for on_change in list(members.values()):
                on_change()
