# SPDX-License-Identifier: Apache-2.0
"""Reviews access rights on the API server, and reads its version and clock.

Law: nothing here watches or changes an object. The server evaluates a review and does not store it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.pager import list_objects
from keda_gpu_scaler.kube.parse import part
from keda_gpu_scaler.kube.resource_query import ResourceQuery

_REVIEWS = "/apis/authorization.k8s.io/v1"
_OK, _CREATED = 200, 201
_DATE_RESOLUTION_SECONDS = 1.0  # HTTP's Date has whole seconds, and is rounded down


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    """A verb on a resource ("deployments/scale"), in one namespace, or in the whole cluster where it is empty."""

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""

    @property
    def kind(self) -> str:
        """The resource as kubectl spells it ("deployments.apps/scale")."""
        name, slash, subresource = self.resource.partition("/")
        return f"{name}.{self.group}{slash}{subresource}" if self.group else self.resource

    def __str__(self) -> str:
        scope = f"in namespace {self.namespace}" if self.namespace else "in the whole cluster"
        return f"{self.verb} {self.kind} {scope}"


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """An API server's version and clock.

    ``ahead_seconds`` is how far the local clock is ahead of the server's, None where the response has no date.
    ``doubt_seconds`` is the largest error of that difference: half of the round trip, and half of the second to which
    HTTP rounds.
    """

    version: str
    ahead_seconds: float | None
    doubt_seconds: float = 0.0


class AccessReviewer(ApiClient):
    """An API server's client for single questions: its version, access reviews, complete lists."""

    async def server_info(self, unix_clock: Callable[[], float]) -> ServerInfo:
        """Read the server's version, for which no right is needed.

        Raises:
            ApiError: the server does not answer.
        """
        started = unix_clock()
        document, headers = await self._request("GET", "/version")
        round_trip = unix_clock() - started
        version = str(document.get("gitVersion") or "an unknown version")
        try:
            server_time = parsedate_to_datetime(headers.get("date", "")).timestamp()
        except (TypeError, ValueError):
            return ServerInfo(version, None)
        ahead = started + round_trip / 2 - (server_time + _DATE_RESOLUTION_SECONDS / 2)
        return ServerInfo(version, ahead, (round_trip + _DATE_RESOLUTION_SECONDS) / 2)

    async def is_allowed(self, permission: Permission, service_account: str = "") -> bool:
        """Review a permission of a service account ("keda:keda-gpu-scaler"), or of the caller where it is empty.

        Raises:
            ApiError: the review cannot be made. A review of a service account needs a permission of its own.
        """
        name, _, subresource = permission.resource.partition("/")
        attributes = {
            "verb": permission.verb,
            "group": permission.group,
            "resource": name,
            "subresource": subresource,
            "namespace": permission.namespace,
        }
        kind, spec = "SelfSubjectAccessReview", {"resourceAttributes": attributes}
        if service_account:
            kind, spec = "SubjectAccessReview", {**spec, **_subject(service_account)}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        reviewed, _ = await self._request("POST", f"{_REVIEWS}/{kind.lower()}s", review)
        return part(reviewed, "status").get("allowed") is True

    async def items(self, query: ResourceQuery) -> list[Mapping[str, Any]]:
        """Return every object that a query selects, complete.

        Raises:
            ApiError: the objects cannot be listed.
        """
        return await list_objects(self, query)

    async def _request(
        self, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Return a response's object, empty where it is not JSON, and its headers.

        Raises:
            ApiError: the request did not succeed.
        """
        headers = self._headers("")
        response = await self._response(
            lambda: self._http.request(method, path, json=document, headers=headers, timeout=self._timeout),
            _OK,
            _CREATED,
        )
        try:
            body = response.json()
        except ValueError:
            body = None
        return body if isinstance(body, dict) else {}, response.headers


def _subject(service_account: str) -> dict[str, Any]:
    """Name a service account as the API server does, with the groups to which it belongs automatically."""
    namespace = service_account.partition(":")[0]
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
    return {"user": f"system:serviceaccount:{service_account}", "groups": groups}
