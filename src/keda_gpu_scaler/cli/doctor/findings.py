# SPDX-License-Identifier: Apache-2.0
"""Defines the findings of ``doctor``: check, outcome, text, remedy and a link.

Law: a check changes nothing. A check that cannot be made is skipped, with the reason, and is never reported as ok.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

OPERATING_PAGE = "docs/operating.md"
MAX_FINDINGS = 20
"""The most findings of one check that are printed; the rest is counted."""


class Outcome(StrEnum):
    """The result of a check, in increasing severity."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    PROBLEM = "problem"


class Heading(StrEnum):
    """A heading of docs/operating.md, as a link names it."""

    UNAVAILABLE = "getmetrics-fails-unavailable"
    INVALID_METADATA = "getmetrics-fails-invalid_argument"
    NO_VALUE = "pods-have-no-value"
    NO_DEVICE = "an-agent-reads-no-device"
    NO_ALLOCATIONS = "an-agent-reads-no-allocations"
    FORBIDDEN = "the-api-server-denies-access"
    NOT_REACHED = "keda-does-not-reach-the-scaler"
    TLS = "tls-does-not-work"
    PORT_IN_USE = "a-port-is-in-use"
    CLOCKS = "clocks-differ"
    CERTIFICATES = "certificates-expire"
    KEDA = "keda-is-old-or-not-ready"
    SCALEDOBJECT = "a-scaledobject-is-not-ready"


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding of one check. ``heading`` is empty where there is nothing to do."""

    check: str
    outcome: Outcome
    text: str
    remedy: str = ""
    heading: str = ""

    @property
    def link(self) -> str:
        """The page and heading with more information; empty without a heading."""
        return f"{OPERATING_PAGE}#{self.heading}" if self.heading else ""


@dataclass(frozen=True, slots=True)
class Check:
    """A check. ``title`` says what it does ("calling the driver"); ``run`` makes it."""

    title: str
    run: Callable[[], Iterator[Finding]]


def ok(check: str, text: str) -> Finding:
    """Return the finding of a check that found no problem."""
    return Finding(check, Outcome.OK, text)


def skipped(check: str, text: str, remedy: str = "", heading: str = "") -> Finding:
    """Return the finding of a check that was not made."""
    return Finding(check, Outcome.SKIPPED, text, remedy, heading)


def warning(check: str, text: str, remedy: str, heading: str) -> Finding:
    """Return a finding about a condition that can cause a problem."""
    return Finding(check, Outcome.WARNING, text, remedy, heading)


def problem(check: str, text: str, remedy: str, heading: str) -> Finding:
    """Return a finding about a condition that is a problem."""
    return Finding(check, Outcome.PROBLEM, text, remedy, heading)


def split_remedy(sentence: str, default_remedy: str) -> tuple[str, str]:
    """Split an error sentence at its semicolon into the condition and the remedy.

    Args:
        sentence: a sentence of this program ("cannot open /dev/x; run as root").
        default_remedy: the remedy where the sentence has none.
    """
    text, semicolon, remedy = sentence.partition("; ")
    return text, remedy if semicolon else default_remedy


def limited(findings: Sequence[Finding], check: str) -> Iterator[Finding]:
    """Yield the most severe findings, and how many are left out."""
    severity = list(Outcome)
    ordered = sorted(findings, key=lambda finding: -severity.index(finding.outcome))
    yield from ordered[:MAX_FINDINGS]
    if rest := ordered[MAX_FINDINGS:]:
        yield replace(rest[0], check=check, text=f"and {len(rest)} more", remedy="solve these first")


def counted(count: int, noun: str) -> str:
    """Return a number and a noun ("1 node", "2 nodes")."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
