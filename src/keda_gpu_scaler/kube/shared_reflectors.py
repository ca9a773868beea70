# SPDX-License-Identifier: Apache-2.0
"""Which collections are being watched, and for whom? Shared by all who need the same, closed with the last of them.

The law of this module: what nobody uses costs the API server nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from keda_gpu_scaler.core.counters import Watches
from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.reflector import Reflector, ResourceQuery

MAX_KINDS = 16
"""Of so many resources at most watches are counted apart: scale targets are of any kind that a cluster has."""
OTHER = "other"


class SharedReflectors:
    """Collections by their place, each with its users."""

    def __init__(self, api: ApiClient, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._collections: dict[ResourceQuery, Reflector[Any]] = {}
        self._tasks: dict[ResourceQuery, asyncio.Task[None]] = {}
        self._users: dict[ResourceQuery, dict[object, Callable[[], None]]] = {}

    def use(
        self,
        place: ResourceQuery,
        keep: Callable[[Mapping[str, Any]], Any],
        user: object,
        on_change: Callable[[], None],
    ) -> Reflector[Any]:
        """Return the collection of a place, watched from now on while it has users."""
        users = self._users.setdefault(place, {})
        users[user] = on_change
        if place not in self._collections:
            collection: Reflector[Any] = Reflector(self._api, place, keep, self._clock, lambda: self._tell(place))
            self._collections[place] = collection
            self._tasks[place] = asyncio.create_task(collection.run(), name=f"watch {place}")
        return self._collections[place]

    def release(self, place: ResourceQuery, user: object) -> None:
        """Need a collection no longer."""
        users = self._users.get(place)
        if users is None or users.pop(user, None) is None or users:
            return
        del self._users[place], self._collections[place]
        self._tasks.pop(place).cancel()

    async def close(self) -> None:
        """Watch nothing any more."""
        tasks = list(self._tasks.values())
        for table in (self._users, self._collections, self._tasks):
            table.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def states(self) -> Watches:
        """Count what is watched, by resource and state."""
        now = self._clock()
        kinds = list(dict.fromkeys(place.kind for place in self._collections))[:MAX_KINDS]
        return Counter(
            (place.kind if place.kind in kinds else OTHER, collection.state(now))
            for place, collection in self._collections.items()
        )

    def __len__(self) -> int:
        return len(self._collections)

    def _tell(self, place: ResourceQuery) -> None:
        for on_change in list(self._users.get(place, {}).values()):
            on_change()
