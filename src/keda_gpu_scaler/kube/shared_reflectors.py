# SPDX-License-Identifier: Apache-2.0
"""Shares one reflector among all users of the same query, and stops it with the last of them.

Law: a query without a user costs the API server nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keda_gpu_scaler.core.instance_status import Watches
from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.reflector import Reflector, ResourceQuery

MAX_KINDS = 16
"""How many resources are counted by name: a cluster may have scale targets of any number of kinds."""
OTHER = "other"


class SharedReflectors:
    """Reflectors by their query, each with its users."""

    def __init__(self, api: ApiClient, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._reflectors: dict[ResourceQuery, Reflector[Any]] = {}
        self._tasks: dict[ResourceQuery, asyncio.Task[None]] = {}
        self._users: dict[ResourceQuery, dict[object, Callable[[], None]]] = {}

    def use(
        self,
        query: ResourceQuery,
        keep: Callable[[Mapping[str, Any]], Any],
        user: object,
        on_change: Callable[[], None],
    ) -> Reflector[Any]:
        """Add a user to a query, and return its reflector, which runs while it has users."""
        users = self._users.setdefault(query, {})
        users[user] = on_change
        if query not in self._reflectors:
            reflector: Reflector[Any] = Reflector(self._api, query, keep, self._clock, lambda: self._notify(query))
            self._reflectors[query] = reflector
            self._tasks[query] = asyncio.create_task(reflector.run(), name=f"watch {query}")
        return self._reflectors[query]

    def release(self, query: ResourceQuery, user: object) -> None:
        """Remove a user from a query, and stop its reflector with the last one."""
        users = self._users.get(query)
        if users is None or users.pop(user, None) is None or users:
            return
        del self._users[query], self._reflectors[query]
        self._tasks.pop(query).cancel()

    async def close(self) -> None:
        """Stop every reflector."""
        tasks = list(self._tasks.values())
        for table in (self._users, self._reflectors, self._tasks):
            table.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def states(self) -> Watches:
        """Count the reflectors by resource and state."""
        now = self._clock()
        kinds = list(dict.fromkeys(query.kind for query in self._reflectors))[:MAX_KINDS]
        return Counter(
            (query.kind if query.kind in kinds else OTHER, reflector.state(now))
            for query, reflector in self._reflectors.items()
        )

    def trusted_items(self, resource: str, group: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the items of each unrestricted query for a resource, with its namespace, while they can be trusted."""
        now = self._clock()
        for query, reflector in self._reflectors.items():
            is_wanted = (query.resource, query.group) == (resource, group)
            if is_wanted and not query.labels and reflector.unavailable(now) is None:
                yield query.namespace, reflector.items

    def __len__(self) -> int:
        return len(self._reflectors)

    def _notify(self, query: ResourceQuery) -> None:
        for on_change in list(self._users.get(query, {}).values()):
            on_change()
