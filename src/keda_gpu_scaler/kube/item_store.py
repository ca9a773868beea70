# SPDX-License-Identifier: Apache-2.0
"""Keeps the objects of one collection, each reduced to the fields that are kept."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.pager import read_pages
from keda_gpu_scaler.kube.parse import part
from keda_gpu_scaler.kube.resource_query import ResourceQuery

Kept = TypeVar("Kept")


class ItemStore(Generic[Kept]):
    """The objects of one collection, by name, and by "namespace/name" where the query is for all namespaces.

    An object of which nothing is kept (None) is left out. An unchanged item stays the same object, so that callers can
    compare by identity.

    Args:
        query: the collection.
        keep: reduces an object to what is kept of it.
    """

    def __init__(self, query: ResourceQuery, keep: Callable[[Mapping[str, Any]], Kept]) -> None:
        self._query = query
        self._keep = keep
        self.items: dict[str, Kept] = {}

    async def relist(self, api: ApiClient) -> tuple[str, bool]:
        """Read the collection; return its version, and whether an item has changed.

        Raises:
            ApiError: it cannot be listed; the items stay.
        """
        found: dict[str, Kept] = {}

        def receive(item: Mapping[str, Any]) -> None:
            key, kept = key_of(self._query, part(item, "metadata")), self._keep(item)
            if key and kept is not None:
                found[key] = kept

        version = await read_pages(api, self._query, found, receive)
        before = self.items
        self.items = {key: before[key] if before.get(key) == kept else kept for key, kept in found.items()}
        return version, self.items != before

    def apply(self, item: Mapping[str, Any], *, is_deleted: bool) -> bool:
        """Apply an event of a watch; return whether an item has changed."""
        key = key_of(self._query, part(item, "metadata"))
        return bool(key) and self._put(key, None if is_deleted else self._keep(item))

    def _put(self, key: str, kept: Kept | None) -> bool:
        before = self.items.get(key)
        if kept == before:
            return False
        if kept is None:
            del self.items[key]
        else:
            self.items[key] = kept
        return True


def key_of(query: ResourceQuery, metadata: Mapping[str, Any]) -> str:
    """Return the key of an object among those of a query, empty where it has no name."""
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if not isinstance(name, str) or not name:
        return ""
    is_named_alone = query.namespace or not isinstance(namespace, str) or not namespace
    return name if is_named_alone else f"{namespace}/{name}"
