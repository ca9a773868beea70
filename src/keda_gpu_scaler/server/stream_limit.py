# SPDX-License-Identifier: Apache-2.0
"""Limits the open streams of one method, of one connection and in total.

Law: the streams of one method, or of one client, leave room for the calls of every other client.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator


class TooManyStreamsError(Exception):
    """A limit is reached. The text is a sentence for the client."""


class StreamLimit:
    """Counts the open streams of one method.

    Args:
        per_connection: the number of streams that one connection may have open.
        total: the number of streams that may be open.
    """

    def __init__(self, per_connection: int, total: int) -> None:
        self._per_connection = per_connection
        self._total = total
        self._open: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._open.total()

    @contextlib.contextmanager
    def opened(self, connection: str) -> Iterator[None]:
        """Count a stream as open for the duration of the ``with`` block.

        Args:
            connection: identifies the connection: the address and the port of the client.

        Raises:
            TooManyStreamsError: a limit is reached; the stream is not counted.
        """
        if self._open[connection] >= self._per_connection:
            raise TooManyStreamsError(
                f"this connection has {self._per_connection} streams of this method open, which is the limit; close one"
            )
        if len(self) >= self._total:
            raise TooManyStreamsError(f"{self._total} streams of this method are open, which is the limit; try later")
        self._open[connection] += 1
        try:
            yield
        finally:
            self._open[connection] -= 1
            if not self._open[connection]:
                del self._open[connection]
