# SPDX-License-Identifier: Apache-2.0
"""The hand-written parts of an engine's page in the guide. The rest of the page is generated."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineGuide:
    """What users of an engine need to know, in Markdown.

    ``switch_on`` says what must be set so that the engine exports its metrics. ``traps`` are facts that mislead, each
    with its remedy, and with its versions where it has some. ``reads`` says what is read of a page of JSON.
    """

    switch_on: str
    traps: tuple[str, ...] = ()
    reads: str = ""
