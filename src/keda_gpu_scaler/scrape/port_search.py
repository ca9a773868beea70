# SPDX-License-Identifier: Apache-2.0
"""Searches one port of a pod for an engine: its paths, by http and https, at each address of the pod.

Law: a port counts as one without an engine only after each candidate answered with another page or refused the
connection. A candidate that does not answer may be an engine.
"""

from dataclasses import dataclass

from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeAttempt, TargetHistory
from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.port_candidates import PortCandidates
from keda_gpu_scaler.scrape.types import FailureKind, Target

LOST_AFTER_SECONDS = 30.0
"""An engine that refuses connections for this time is searched for again."""
NO_ENGINE_KINDS = frozenset({FailureKind.REFUSED, FailureKind.ABSENT})
_HTTPS_KINDS = frozenset({FailureKind.TLS, FailureKind.CLOSED})
_SPEAKING_HTTPS = frozenset({FailureKind.TLS, FailureKind.UNTRUSTED})


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a candidate has no engine; ``is_answer`` is false where the candidate may still be an engine."""

    target: Target
    attempt: ScrapeAttempt
    is_answer: bool


class PortSearch:
    """The search for the engine of one port.

    ``target`` is the engine, or the candidate to try now, or None while there is nothing to try. ``last`` is the last
    history of the engine that was found. It remains when the engine is lost.
    """

    def __init__(self, endpoint: Endpoint, candidates: PortCandidates) -> None:
        if endpoint.pod is None:
            raise ValueError("the endpoint is a URL, and only a pod has ports to search")
        self.candidates = candidates
        self.target: Target | None = None
        self.is_found = False
        self.is_ended = False
        """Whether each candidate was tried at least once since the beginning of the scrape."""
        self.last: TargetHistory | None = None
        self.has_seen_engine = False
        self._addresses = (endpoint.address, *endpoint.other_addresses)
        self._is_scheme_fixed = endpoint.scheme is not None
        self._pod = endpoint.pod
        self._models = endpoint.models
        self._trigger_namespace = endpoint.credentials_namespace
        self._rejections: dict[tuple[str, str], Rejection] = {}
        self._address_index = self._path_index = 0
        self._speaks_https = self._speaks_http = False
        self._has_answered = False
        self._refused_since_seconds: float | None = None

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """Why the candidates of this search have no engine, in the order in which they were tried."""
        return tuple(self._rejections.values())

    @property
    def is_searching(self) -> bool:
        """Whether a candidate is to be tried."""
        return self.target is not None and not self.is_found

    @property
    def is_second_try(self) -> bool:
        """Whether the candidate that is tried now was tried by the other scheme before."""
        return self.target is not None and (self.target.address, self.target.url.path) in self._rejections

    def begin(self) -> None:
        """Search from the first candidate on."""
        self.is_found, self._refused_since_seconds = False, None
        self._rejections.clear()
        self._begin_address(0)

    def find(self) -> None:
        """Accept the candidate as the engine."""
        self.is_found = self.has_seen_engine = self.is_ended = True
        self._refused_since_seconds = None
        self._rejections.clear()

    def is_lost(self, *, is_absent: bool, now: float) -> bool:
        """Process a scrape of the engine; return whether the engine has to be searched for again."""
        if not is_absent:
            self._refused_since_seconds = None
        elif self._refused_since_seconds is None:
            self._refused_since_seconds = now
        return self._refused_since_seconds is not None and now - self._refused_since_seconds >= LOST_AFTER_SECONDS

    def lose(self) -> None:
        """Give the engine up. Its last history remains."""
        self.is_found, self.target = False, None

    def reject(self, attempt: ScrapeAttempt, kind: FailureKind | None) -> None:
        """Process a candidate without an engine, and choose the next one.

        Args:
            attempt: the scrape, with the reason as its failure.
            kind: the kind of its failure, None if another page was read.
        """
        target = self.target
        if target is None:
            return
        is_answer = kind is None or kind in NO_ENGINE_KINDS
        is_https_try = target.url.scheme == "https" and self.candidates.scheme == "http"
        key = (target.address, target.url.path)
        before = self._rejections.get(key)
        self._speaks_http |= kind is FailureKind.PLAIN
        self._speaks_https |= kind in _SPEAKING_HTTPS or (is_https_try and is_answer)
        if not (is_https_try and not is_answer and before is not None and not self._speaks_https):
            self._rejections[key] = Rejection(target, attempt, is_answer)
        self._has_answered |= kind is None or kind is FailureKind.ABSENT
        if (other := self._other_scheme(target, kind)) is not None:
            self.target = self._candidate(other)
        elif kind is not FailureKind.REFUSED and self._path_index + 1 < len(self.candidates.paths):
            self._path_index += 1
            self.target = self._candidate(self._likely_scheme)
        elif not self._has_answered and self._address_index + 1 < len(self._addresses):
            self._begin_address(self._address_index + 1)
        else:
            self.target, self.is_ended = None, True

    def _other_scheme(self, target: Target, kind: FailureKind | None) -> str | None:
        """Return the scheme by which to try a candidate again, None if it is not tried again."""
        scheme = target.url.scheme
        if self._is_scheme_fixed or scheme != self.candidates.scheme:
            return None
        if scheme == "http":
            return "https" if kind in _HTTPS_KINDS else None
        return "http" if kind is FailureKind.PLAIN else None

    @property
    def _likely_scheme(self) -> str:
        """The scheme by which to try the next path."""
        if self._is_scheme_fixed or self._speaks_https == self._speaks_http:
            return self.candidates.scheme
        return "https" if self._speaks_https else "http"

    def _begin_address(self, index: int) -> None:
        self._address_index, self._path_index = index, 0
        self._speaks_https = self._speaks_http = self._has_answered = False
        self.target = self._candidate(self.candidates.scheme)

    def _candidate(self, scheme: str) -> Target:
        address = self._addresses[self._address_index]
        url = Url(scheme, address, self.candidates.port, self.candidates.paths[self._path_index])
        return Target(
            url,
            address,
            self._pod.namespace,
            self._pod.name,
            self._models,
            trigger_namespace=self._trigger_namespace,
        )
