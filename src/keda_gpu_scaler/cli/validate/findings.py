# SPDX-License-Identifier: Apache-2.0
"""Defines the findings of ``validate``."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Whether the object cannot work, works in an unexpected way, or works in a way that is worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True, order=True)
class ValidationFinding:
    """A finding and its place. Lines and columns count from 1. ``subject`` is the object's "namespace/name"."""

    line: int
    column: int
    severity: Severity
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """The findings in one text, in the order of their places, and the number of the scaler's triggers in it."""

    findings: tuple[ValidationFinding, ...]
    trigger_count: int
