# SPDX-License-Identifier: Apache-2.0
"""Names a collection of objects on the API server."""

from dataclasses import dataclass, field


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

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of a request that select the objects."""
        return {"labelSelector": self.labels} if self.labels else {}

    def __str__(self) -> str:
        return f'{self.kind} in namespace "{self.namespace}"' if self.namespace else self.kind
