# SPDX-License-Identifier: Apache-2.0
"""The values of one scrape: the target, the reader of the page and the failure."""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from keda_gpu_scaler.core.urls import Url


class FailureKind(enum.Enum):
    """The kinds of failure that the search for an engine distinguishes."""

    REFUSED = "refused"
    """Nothing listens on the port."""
    ABSENT = "absent"
    """A server answers, and it has no such page."""
    DENIED = "denied"
    """The address policy does not allow the address."""
    TLS = "tls"
    """The server was asked by http and expects https."""
    PLAIN = "plain"
    """The server was asked by https and expects http."""
    CLOSED = "closed"
    """The server closes the connection without an answer, as many servers do that expect https."""
    UNTRUSTED = "untrusted"
    """The server speaks https, and its certificate is not trusted."""
    UNREADABLE = "unreadable"
    """There is no answer, or the answer is not usable. This may be temporary."""


class FetchError(Exception):
    """The page cannot be fetched; the text is a sentence for operators.

    ``status`` is the status of the HTTP response, None where there was none. ``answer_seconds`` is the time from the
    beginning of the fetch to the failure.
    """

    def __init__(
        self,
        sentence: str,
        kind: FailureKind = FailureKind.UNREADABLE,
        *,
        status: int | None = None,
        answer_seconds: float = 0.0,
    ) -> None:
        self.kind = kind
        self.status = status
        self.answer_seconds = answer_seconds
        super().__init__(sentence)


class RedirectError(FetchError):
    """The server redirects to another location, which is text from the server and may contain secrets."""

    def __init__(self, location: str, status: int) -> None:
        self.location = location
        super().__init__(
            f"the server redirects to another location (HTTP {status}, {len(location)} characters), which is not "
            "followed",
            FailureKind.ABSENT,
            status=status,
        )


@dataclass(frozen=True, slots=True)
class Target:
    """A URL and the address to connect to; ``namespace`` and ``pod`` are None if a trigger names the URL.

    A pod at another pod's former address is another target, so that it does not inherit the samples of that pod. With
    ``models`` the series of these models alone are read, so the same page is another target. ``is_own`` says that the
    namespace of the trigger owns what its URL leads to, so that the operator need not list it. ``trigger_namespace`` is
    the namespace for whose triggers credentials are sent: empty where no namespace is known, None where none are sent.
    ``forwarded_port`` is the local port at which the port of the URL is forwarded, None without a port-forward.
    """

    url: Url
    address: str
    namespace: str | None = None
    pod: str | None = None
    models: tuple[str, ...] = ()
    is_own: bool = False
    trigger_namespace: str | None = None
    forwarded_port: int | None = None
    _hash: int = field(default=0, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # A target is looked up several times in each scrape. So its hash is computed once, of the parts in which
        # targets usually differ.
        parts = (self.url, self.address, self.namespace, self.pod, self.models, self.trigger_namespace)
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        return self._hash

    @property
    def port(self) -> int:
        """The port to connect to."""
        return self.url.port if self.forwarded_port is None else self.forwarded_port


@dataclass(frozen=True, slots=True)
class ResolvedHost:
    """The allowed addresses of a URL's host.

    ``is_own`` is that of ``Target``. ``has_credentials`` says that some credentials are for the host.
    """

    addresses: tuple[str, ...]
    is_own: bool = False
    has_credentials: bool = False


class PageReader(Protocol):
    """Reads a page in pieces as they arrive."""

    def follow(self, piece: bytes) -> bool:
        """Read a piece at once if it is as expected, which is cheap; return whether it was read.

        After a piece that was not read, and is then given to ``feed`` in smaller ones, no piece is read in this way.
        """

    def feed(self, piece: bytes) -> None:
        """Read the next piece; raises ValueError if the page is refused."""

    def end(self) -> Iterator[None]:
        """Read what needs the whole page, in steps of bounded time; raises ValueError if the page is refused."""


OpenReader = Callable[[str], PageReader]
"""Makes the reader of a page from its content type, which is empty where the response has none."""


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """A page that was given to its reader.

    ``answer_seconds`` is the time from the beginning of the fetch, without the wait for a slot, to the end of the page,
    without ``work_seconds``, the time in which the page was read.
    """

    content_type: str
    answer_seconds: float = 0.0
    work_seconds: float = 0.0
