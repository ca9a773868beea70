# SPDX-License-Identifier: Apache-2.0
"""Lists the objects of one collection, page by page, once.

``Reflector`` does the same for a collection that is watched afterwards.
"""

from collections.abc import Mapping
from typing import Any

from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.parse import mappings, part
from keda_gpu_scaler.kube.reflector import PAGE_SIZE, ResourceQuery

_MAX_PAGES = 200


async def list_objects(api: ApiClient, query: ResourceQuery) -> list[Mapping[str, Any]]:
    """Return every object that a query selects, complete.

    Raises:
        ApiError: the objects cannot be listed.
    """
    parameters = {"limit": str(PAGE_SIZE), **({"labelSelector": query.labels} if query.labels else {})}
    objects: list[Mapping[str, Any]] = []
    for _ in range(_MAX_PAGES):
        page = await api.get(query.path, parameters)
        objects += mappings(page.get("items"))
        token = part(page, "metadata").get("continue")
        if not token:
            break
        parameters["continue"] = str(token)
    return objects
