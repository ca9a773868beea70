# SPDX-License-Identifier: Apache-2.0
"""Lists the objects of one collection, page by page.

Law: a list ends. A server that repeats a page, or has always one page more, is an error, and its pages are requested
with pauses.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from keda_gpu_scaler.kube.client import METADATA_LIST_ONLY, ApiClient, ApiError
from keda_gpu_scaler.kube.resource_query import ResourceQuery

PAGE_SIZE = 500
MAX_PAGES = 400
"""200,000 objects. Kubernetes supports 150,000 pods in a cluster."""
_PAUSE_SECONDS = 0.05
_GONE = 410


class _Clearable(Protocol):
    def clear(self) -> None: ...


async def read_pages(
    api: ApiClient, query: ResourceQuery, found: _Clearable, receive: Callable[[Mapping[str, Any]], object]
) -> str:
    """Read every page of a list, and return the version of the list.

    Args:
        api: the API server.
        query: the collection.
        found: what ``receive`` fills; it is cleared when the list begins again.
        receive: called with each object.

    Raises:
        ApiError: the objects cannot be listed. ``found`` has a part of them.
    """
    parameters = {"limit": str(PAGE_SIZE), **query.parameters}
    accept = METADATA_LIST_ONLY if query.metadata_only else ""
    for number in range(MAX_PAGES):
        if number:
            await _pause()
        try:
            metadata = await api.read_list(query.path, parameters, accept, receive)
        except ApiError as error:
            if error.status != _GONE or "continue" not in parameters:
                raise
            # The server dropped the next page. A list without pages cannot be dropped while it is read.
            found.clear()
            parameters = query.parameters
            continue
        token = str(metadata.get("continue") or "")
        if not token:
            return str(metadata.get("resourceVersion") or "")
        if token == parameters.get("continue"):
            raise ApiError("the API server repeats a page of the list: its continue token stays the same")
        parameters["continue"] = token
    raise ApiError(f"the API server's list does not end after {MAX_PAGES} pages")


async def list_objects(api: ApiClient, query: ResourceQuery) -> list[Mapping[str, Any]]:
    """Return every object that a query selects, complete.

    Raises:
        ApiError: the objects cannot be listed.
    """
    objects: list[Mapping[str, Any]] = []
    await read_pages(api, query, objects, objects.append)
    return objects


async def _pause() -> None:
    await asyncio.sleep(_PAUSE_SECONDS)
