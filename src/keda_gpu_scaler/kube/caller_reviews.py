# SPDX-License-Identifier: Apache-2.0
"""Asks the API server who the user of a bearer token is, and what that user may do.

Law: a token is kept in no log, in no error and in no cache. The cache has its SHA-256. A review that cannot be made
admits no caller.

The API server evaluates a review and does not store it. A TokenReview with audiences is answered with those of them for
which the token was made (k8s.io/api/authentication/v1, TokenReviewSpec).
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

from keda_gpu_scaler.core.interfaces import Caller, KubeError
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.token_bucket import TokenBucket
from keda_gpu_scaler.kube.client import ApiClient, ApiError
from keda_gpu_scaler.kube.parse import part

AUDIENCE = "keda-gpu-scaler"
"""A token that was made for this audience is good for explanations and for nothing else."""
ADMITTED_SECONDS = 30.0
"""How long an admission is kept: as long as a withdrawn right still counts."""
REFUSED_SECONDS = 5.0
"""How long a refusal is kept: as long as a new right does not count."""
MAX_REVIEWS = 1024
"""The number of results of each kind that are kept. One more removes the oldest."""
MAX_TOKEN_LENGTH = 16_384
"""A longer token is refused without a review."""
REVIEW_SECONDS = 4.0
"""The limit of one review."""
OPEN_SECONDS = 20.0
"""The limit of the first connection, for which the HTTP client is loaded."""

_BURST, _REFILL_SECONDS = 40, 0.1  # reviews at once, and then one in this time
_AUTHENTICATION = "authentication.k8s.io", "tokenreviews"
_AUTHORIZATION = "authorization.k8s.io", "subjectaccessreviews"
_KEDA_GROUP = "keda.sh"
_FORBIDDEN = 403

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class ReviewCache(Generic[_Result]):
    """The last results, each until it expires.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._results: OrderedDict[Hashable, tuple[float, _Result]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._results)

    async def get(self, key: Hashable, review: Callable[[], Awaitable[_Result]]) -> _Result:
        """Return the result for a key: the one that is kept, or else that of a new review."""
        found = self._results.get(key)
        if found is not None and self._clock() < found[0]:
            return found[1]
        result = await review()
        self._results[key] = self._clock() + (ADMITTED_SECONDS if result else REFUSED_SECONDS), result
        self._results.move_to_end(key)
        if len(self._results) > MAX_REVIEWS:
            self._results.popitem(last=False)
        return result


class ApiCallerReviews:
    """The reviews of one API server.

    Args:
        client: returns the client of the API server.
        clock: monotonic seconds.
    """

    def __init__(self, client: Callable[[], Awaitable[ApiClient]], clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._limit = TokenBucket(_BURST, _REFILL_SECONDS, clock())
        self._callers: ReviewCache[Caller | None] = ReviewCache(clock)
        self._rights: ReviewCache[bool] = ReviewCache(clock)

    async def caller(self, token: str) -> Caller | None:
        """Return the user of a bearer token; None where the API server does not accept the token.

        A token for the API server is accepted, and a token for the audience ``AUDIENCE``.

        Raises:
            KubeError: the review cannot be made.
        """
        if not token or len(token) > MAX_TOKEN_LENGTH:
            return None
        key = hashlib.sha256(token.encode()).digest()
        return await self._callers.get(key, lambda: self._review_token(token))

    async def may(self, caller: Caller, verb: str, resource: str, namespace: str, name: str) -> bool:
        """Whether a user has a right on one object of keda.sh, for example of ``scaledobjects``.

        Raises:
            KubeError: the review cannot be made.
        """
        attributes = {"verb": verb, "group": _KEDA_GROUP, "resource": resource, "namespace": namespace, "name": name}
        key = (caller, *attributes.values())
        return await self._rights.get(key, lambda: self._review_right(caller, attributes))

    async def _review_token(self, token: str) -> Caller | None:
        for audiences in ((), (AUDIENCE,)):
            spec: dict[str, Any] = {"token": token, **({"audiences": list(audiences)} if audiences else {})}
            status = await self._review(*_AUTHENTICATION, "TokenReview", spec)
            if status.get("authenticated") is not True:
                continue
            # A server that does not know audiences returns none, and has not compared them.
            if audiences and AUDIENCE not in _texts(status.get("audiences")):
                continue
            return _caller(part(status, "user"))
        _log.info("a caller of Explain shows a token that the API server does not accept")
        return None

    async def _review_right(self, caller: Caller, attributes: Mapping[str, str]) -> bool:
        spec = {
            "resourceAttributes": dict(attributes),
            "user": caller.user,
            "uid": caller.uid,
            "groups": list(caller.groups),
            "extra": {key: list(values) for key, values in caller.extra},
        }
        status = await self._review(*_AUTHORIZATION, "SubjectAccessReview", spec)
        is_allowed = status.get("allowed") is True and status.get("denied") is not True
        _log.info(
            "%s may%s %s %s %s/%s", quoted(caller.user, 80), "" if is_allowed else " not", attributes["verb"],
            attributes["resource"], *(quoted(attributes[key], 80) for key in ("namespace", "name")),
        )  # fmt: skip
        return is_allowed

    async def _review(self, group: str, resource: str, kind: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the status of a review.

        Raises:
            KubeError: the review cannot be made. The text has nothing of the review.
        """
        if not self._limit.take(1, self._clock()):
            raise KubeError("the limit of reviews of callers is reached; try again in a second")
        review = {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec}
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                client = await self._client()
            async with asyncio.timeout(REVIEW_SECONDS):
                return part(await client.create(f"/apis/{group}/v1/{resource}", review), "status")
        except TimeoutError as error:
            raise KubeError("the API server does not answer the review in time; try again") from error
        except ApiError as error:
            if error.status != _FORBIDDEN:
                raise KubeError(f"the API server makes no review: status {error.status}") from None
            missing = f"the scaler may not create {resource}.{group}"
            raise KubeError(f"{missing}; grant it (in the chart: explain.enabled)") from None


def _caller(user: Mapping[str, Any]) -> Caller | None:
    """Read the user of a review; None where it has no name."""
    name = user.get("username")
    if not isinstance(name, str) or not name:
        return None
    extra = tuple((str(key), _texts(values)) for key, values in sorted(part(user, "extra").items()))
    return Caller(name, str(user.get("uid") or ""), _texts(user.get("groups")), extra)


def _texts(values: object) -> tuple[str, ...]:
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()
