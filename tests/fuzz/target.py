# SPDX-License-Identifier: Apache-2.0
"""A fuzz target: a decoder's contract as a check of any bytes, and its seeds.

Law: a check passes, or it raises. An error that the decoder documents passes; every other exception is a finding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
PARTS = b"\n%%%\n"
"""What divides an input that has several parts, such as two pages of one engine."""
MAX_MESSAGE_LENGTH = 4096


@dataclass(frozen=True)
class FuzzTarget:
    """The contract of one decoder.

    Args:
        name: also the folder in the corpus.
        check: raises for bytes on which the decoder breaks its contract.
        examples: valid inputs by name, which other tests have too.
    """

    name: str
    check: Callable[[bytes], None]
    examples: Mapping[str, bytes] = field(default_factory=dict)

    def seeds(self) -> dict[str, bytes]:
        """Return the files of the corpus and the examples, by name."""
        folder = CORPUS / self.name
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        return {**{path.name: path.read_bytes() for path in files}, **self.examples}


def check_message(error: Exception) -> None:
    """Check that a documented error has a printable message of bounded length."""
    message = str(error)
    assert message, repr(error)
    assert len(message) <= MAX_MESSAGE_LENGTH, (len(message), message[:200])
    assert message.isprintable(), message


def check_has_message(error: Exception) -> None:
    """Check that a documented error says something; the text may quote what the user wrote, in several lines."""
    assert str(error), repr(error)
