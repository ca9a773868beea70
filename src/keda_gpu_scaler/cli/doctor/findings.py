# SPDX-License-Identifier: Apache-2.0
"""What can be found out before anything is scaled? A finding for each thing that must be so, and its remedy.

The law of this package: a check changes nothing, and one that cannot be made is skipped and says why. What nobody
looked at is never called well.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

PAGE = "docs/operating.md"


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. ``heading`` is the one of docs/operating.md that says more, by its name in links."""

    check: str
    outcome: Outcome
    text: str
    remedy: str = ""
    heading: str = ""

    @property
    def link(self) -> str:
        """Where there is more to read; empty where there is nothing to do."""
        return f"{PAGE}#{self.heading}" if self.heading else ""


Findings = Iterator[Finding]
Looked = AsyncIterator[Finding]


@dataclass(frozen=True, slots=True)
class Step:
    """A check by its title ("asking the driver"), to be made when its turn comes."""

    title: str
    look: Callable[[], Findings]


def ok(check: str, text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Outcome.OK, text)


def skipped(check: str, text: str, remedy: str = "", heading: str = "") -> Finding:
    """Return a finding that nobody looked."""
    return Finding(check, Outcome.SKIPPED, text, remedy, heading)


def warning(check: str, text: str, remedy: str, heading: str) -> Finding:
    """Return a finding that will hurt, or may."""
    return Finding(check, Outcome.WARNING, text, remedy, heading)


def problem(check: str, text: str, remedy: str, heading: str) -> Finding:
    """Return a finding that hurts."""
    return Finding(check, Outcome.PROBLEM, text, remedy, heading)


def parted(sentence: str, remedy: str) -> tuple[str, str]:
    """Part a sentence of this program into what is so and what to do; with a remedy where it names none itself."""
    text, mark, advice = sentence.partition("; ")
    return text, advice if mark else remedy
