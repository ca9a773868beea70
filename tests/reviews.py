# SPDX-License-Identifier: Apache-2.0
"""The reviews of a fake API server: who a token belongs to, and what each user may do."""

from dataclasses import dataclass, field
from typing import Any

REVIEWS = {
    "tokenreviews": ("authentication.k8s.io", "v1", "TokenReview"),
    "subjectaccessreviews": ("authorization.k8s.io", "v1", "SubjectAccessReview"),
}
API_SERVER = "https://kubernetes.default.svc.cluster.local"
"""The audience of a token that is made for the API server itself."""


@dataclass
class FakeReviews:
    """Answers as the API server does: a review has a status, and a token is compared with the audiences.

    ``users`` and ``audiences`` have the user and the audience of each token. ``rights`` has the user or group, verb,
    resource, namespace and name. ``knows_audiences`` is false for an authenticator that ignores them.
    """

    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    audiences: dict[str, str] = field(default_factory=dict)
    rights: set[tuple[str, str, str, str, str]] = field(default_factory=set)
    knows_audiences: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)

    def person(self, token: str, name: str, *groups: str, audience: str = API_SERVER) -> None:
        self.users[token] = {"username": name, "uid": f"uid of {name}", "groups": ["system:authenticated", *groups]}
        self.audiences[token] = audience

    def grant(self, name: str, verb: str, resource: str, namespace: str, scaled_object: str) -> None:
        self.rights.add((name, verb, resource, namespace, scaled_object))

    def reviewed(self, review: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(review)
        status = self._token(review["spec"]) if review["kind"] == "TokenReview" else self._access(review["spec"])
        return {**review, "status": status}

    def _token(self, spec: dict[str, Any]) -> dict[str, Any]:
        wanted = spec.get("audiences") or [API_SERVER]
        user = self.users.get(spec["token"])
        if user is None or (self.knows_audiences and self.audiences[spec["token"]] not in wanted):
            return {"user": {}, "error": "invalid bearer token"}
        return {"authenticated": True, "user": user, **({"audiences": wanted} if self.knows_audiences else {})}

    def _access(self, spec: dict[str, Any]) -> dict[str, Any]:
        about = spec["resourceAttributes"]
        assert about["group"] == "keda.sh"
        right = tuple(about[key] for key in ("verb", "resource", "namespace", "name"))
        return {"allowed": any((who, *right) in self.rights for who in (spec["user"], *spec["groups"]))}
