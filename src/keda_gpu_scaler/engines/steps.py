# SPDX-License-Identifier: Apache-2.0
"""Work in steps of bounded time, between which the event loop can do other work."""

from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""A generator that pauses after each step and returns the result of its work."""


def run_steps(steps: Steps[Result]) -> Result:
    """Do all steps at once and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
