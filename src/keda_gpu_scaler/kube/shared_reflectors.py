# SPDX-License-Identifier: Apache-2.0
"""Shares watches among queries, and the objects of one query among its users.

Law: a query without a user costs the API server nothing, and the number of watches does not grow with the number of
queries.

A kind is watched in each namespace, in a few namespaces. In further ones it is watched by one watch of all namespaces,
or where RBAC forbids that, in each.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from keda_gpu_scaler.core.instance_status import Watches
from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.label_selector import parse_selector
from keda_gpu_scaler.kube.resource_query import ResourceQuery
from keda_gpu_scaler.kube.selection import Selection
from keda_gpu_scaler.kube.shared_watch import SharedWatch

MAX_KINDS = 16
"""How many resources are counted by name: a cluster may have scale targets of any number of kinds."""
OTHER = "other"
MAX_NAMESPACE_WATCHES = 8
"""In how many namespaces a kind is watched on its own, before one watch of all namespaces serves the others.

A watch of all namespaces also receives the objects of other namespaces, which are dropped; a watch of one namespace
needs a connection and a file descriptor.
"""
_REFUSED_SECONDS = 600.0


class SharedReflectors:
    """The objects of queries, each with its users."""

    def __init__(self, api: ApiClient, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._selections: dict[ResourceQuery, Selection[Any]] = {}
        self._users: dict[ResourceQuery, dict[object, Callable[[], None]]] = {}
        self._watches: dict[ResourceQuery, SharedWatch] = {}
        self._serving: dict[ResourceQuery, SharedWatch] = {}  # by the query of a selection
        self._refused_at: dict[ResourceQuery, float] = {}

    def use(
        self,
        query: ResourceQuery,
        keep: Callable[[Mapping[str, Any]], Any],
        user: object,
        on_change: Callable[[], None],
    ) -> Selection[Any]:
        """Add a user to a query, and return its objects, which are up to date while it has users."""
        self._users.setdefault(query, {})[user] = on_change
        if query not in self._selections:
            matches = parse_selector(query.labels) or (lambda labels: True)
            selection: Selection[Any] = Selection(
                self._api, query, keep, matches, self._clock, lambda: self._notify(query)
            )
            self._selections[query] = selection
            self._serve(selection, self._scope(query))
        return self._selections[query]

    def release(self, query: ResourceQuery, user: object) -> None:
        """Remove a user from a query, and stop its watch with the last one."""
        users = self._users.get(query)
        if users is None or users.pop(user, None) is None or users:
            return
        del self._users[query]
        self._withdraw(self._selections.pop(query))

    async def close(self) -> None:
        """Stop everything."""
        selections, watches = list(self._selections.values()), list(self._watches.values())
        for table in (self._users, self._selections, self._watches, self._serving):
            table.clear()
        for selection in selections:
            selection.stop()
        for watch in watches:
            watch.task.cancel()
        await asyncio.gather(*(watch.task for watch in watches), return_exceptions=True)

    def states(self) -> Watches:
        """Count the watches by resource and state."""
        now = self._clock()
        kinds = list(dict.fromkeys(query.kind for query in self._watches))[:MAX_KINDS]
        return Counter(
            (query.kind if query.kind in kinds else OTHER, watch.reflector.state(now))
            for query, watch in self._watches.items()
        )

    def trusted_items(self, resource: str, group: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the items of each unrestricted query for a resource, with its namespace, while they can be trusted."""
        now = self._clock()
        for query, selection in self._selections.items():
            is_wanted = (query.resource, query.group) == (resource, group)
            if is_wanted and not query.labels and selection.unavailable(now) is None:
                yield query.namespace, selection.items

    def __len__(self) -> int:
        return len(self._watches)

    def _scope(self, query: ResourceQuery) -> ResourceQuery:
        """Return the collection whose watch serves a query."""
        if parse_selector(query.labels) is None:
            return query  # the server alone can apply the selector
        own, everywhere = replace(query, labels=""), replace(query, labels="", namespace="")
        if own in self._watches or self._is_refused(everywhere):
            return own
        if everywhere in self._watches:
            return everywhere
        others = sum(1 for one in self._watches if replace(one, namespace="") == everywhere)
        return own if others < MAX_NAMESPACE_WATCHES else everywhere

    def _is_refused(self, everywhere: ResourceQuery) -> bool:
        refused_at = self._refused_at.get(everywhere)
        return refused_at is not None and self._clock() - refused_at < _REFUSED_SECONDS

    def _serve(self, selection: Selection[Any], scope: ResourceQuery) -> None:
        if scope not in self._watches:
            self._watches[scope] = SharedWatch(self._api, scope, self._clock, lambda: self._refused(scope))
        query = selection.query
        self._serving[query] = self._watches[scope]
        self._watches[scope].add(selection, lambda: self._notify(query))

    def _withdraw(self, selection: Selection[Any]) -> None:
        watch = self._serving.pop(selection.query)
        watch.remove(selection)
        if not watch.selections:
            del self._watches[watch.query]
            watch.task.cancel()

    def _refused(self, scope: ResourceQuery) -> bool:
        """Serve the selections of a watch of all namespaces by watches of their own; whether none is left."""
        if scope not in self._watches or scope.namespace:
            return False
        self._refused_at[scope] = self._clock()
        for selection in self._watches[scope].selections:
            if selection.query.namespace:
                self._withdraw(selection)
                self._serve(selection, replace(scope, namespace=selection.query.namespace))
        return scope not in self._watches

    def _notify(self, query: ResourceQuery) -> None:
        for on_change in list(self._users.get(query, {}).values()):
            on_change()
