# SPDX-License-Identifier: Apache-2.0
"""What does the API server say, asked once? Who may do what, what there is, and what time it is there.

The law of this module: it follows nothing and changes nothing. A review is an object that is created and never kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from keda_gpu_scaler.kube.client import ApiClient, ApiError
from keda_gpu_scaler.kube.reflector import PAGE, ResourceQuery

_REVIEWS = "/apis/authorization.k8s.io/v1"
_OK, _CREATED = 200, 201
_MOST_PAGES = 200
_DATES_STEP_SECONDS = 1.0  # HTTP's Date has whole seconds, and is cut, not rounded


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    """One thing that RBAC grants: a verb on a resource ("deployments/scale"), in one namespace or in the cluster."""

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
        where = f"in namespace {self.namespace}" if self.namespace else "in the whole cluster"
        return f"{self.verb} {self.kind} {where}"


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """An API server's version, and how far our clock is ahead of its own: seconds, None where it tells no time.

    ``doubt_seconds`` is how far off that may be: half of the way there and back, and half of the second that HTTP cuts.
    """

    version: str
    ahead_seconds: float | None
    doubt_seconds: float = 0.0


class AccessReviewer(ApiClient):
    """An API server that is asked, and not followed."""

    async def greet(self, unix_clock: Callable[[], float]) -> ServerInfo:
        """Ask for the version, which everybody may.

        Raises:
            ApiError: there is no answer.
        """
        began = unix_clock()
        body, headers = await self._once("GET", "/version")
        took = unix_clock() - began
        version = str(body.get("gitVersion") or "an unknown version")
        try:
            there = parsedate_to_datetime(headers.get("date", "")).timestamp()
        except (TypeError, ValueError):
            return ServerInfo(version, None)
        ahead = began + took / 2 - (there + _DATES_STEP_SECONDS / 2)
        return ServerInfo(version, ahead, (took + _DATES_STEP_SECONDS) / 2)

    async def allows(self, right: Permission, service_account: str = "") -> bool:
        """Ask whether somebody has a right: a service account ("keda:keda-gpu-scaler"), or whoever asks.

        Raises:
            ApiError: there is no answer; of somebody else it needs a right of its own.
        """
        name, _, subresource = right.resource.partition("/")
        wanted = {
            "verb": right.verb,
            "group": right.group,
            "resource": name,
            "subresource": subresource,
            "namespace": right.namespace,
        }
        kind, spec = "SelfSubjectAccessReview", {"resourceAttributes": wanted}
        if service_account:
            kind, spec = "SubjectAccessReview", {**spec, **_subject(service_account)}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        answer, _ = await self._once("POST", f"{_REVIEWS}/{kind.lower()}s", review)
        status = answer.get("status")
        return isinstance(status, Mapping) and status.get("allowed") is True

    async def items(self, place: ResourceQuery) -> list[Mapping[str, Any]]:
        """Return every object of a place, whole.

        Raises:
            ApiError: they cannot be listed.
        """
        query = {"limit": str(PAGE), **({"labelSelector": place.labels} if place.labels else {})}
        found: list[Mapping[str, Any]] = []
        for _ in range(_MOST_PAGES):
            page = await self.get(place.path, query)
            items = page.get("items")
            found += [item for item in (items if isinstance(items, list) else ()) if isinstance(item, Mapping)]
            metadata = page.get("metadata")
            token = metadata.get("continue") if isinstance(metadata, Mapping) else None
            if not token:
                break
            query["continue"] = str(token)
        return found

    async def _once(
        self, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Return an answer's object and headers.

        Raises:
            ApiError: there is none.
        """
        try:
            answer = await self._http.request(
                method, path, json=document, headers=self._headers(""), timeout=self._patience
            )
        except self._errors as error:
            raise self._unreachable(error) from error
        try:
            body = answer.json()
        except ValueError:
            body = None
        body = body if isinstance(body, dict) else {}
        if answer.status_code not in (_OK, _CREATED):
            said = ascii(str(body.get("message", ""))[:300])[1:-1]
            raise ApiError(f"the API server answers {answer.status_code}: {said}", answer.status_code)
        return body, answer.headers


def _subject(service_account: str) -> dict[str, Any]:
    """Name a service account as the API server knows it, with the groups that it is in by itself."""
    namespace = service_account.partition(":")[0]
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
    return {"user": f"system:serviceaccount:{service_account}", "groups": groups}
