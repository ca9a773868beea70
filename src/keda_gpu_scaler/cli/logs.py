# SPDX-License-Identifier: Apache-2.0
"""What does a log line look like? Readable on a terminal, one JSON object a line elsewhere.

The law of this module: logging holds nobody up. Lines are written by a thread of their own, and dropped and
counted when whoever reads them does not keep up.
"""

import atexit
import json
import logging
import queue
import sys
import threading
from datetime import UTC, datetime
from typing import TextIO

WAITING_LINES = 1000
"""So many lines wait to be written; more are dropped."""
LAST_WORDS_SECONDS = 1.0
"""How long the process waits at its end for the last lines to be written."""

_BUILT_IN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# What gRPC's core says of a peer that sends nonsense or leaves in the middle: no defect here, and as many
# tracebacks as a stranger likes.
_PEERS_DOING = frozenset({"DecodeError", "ExecuteBatchError", "AbortError"})


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message`` and any extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _BUILT_IN},
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class ThreadedHandler(logging.Handler):
    """Formats a record where it is logged, and writes it to ``stream`` in a thread of its own."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str] = queue.Queue(WAITING_LINES)
        self._dropped = 0
        self._written = threading.Condition()
        self._waiting = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line over, or count it as dropped."""
        try:
            line = self.format(record)
        except Exception as error:  # whoever logs is not to fail by it
            line = f"a log line of {record.name} cannot be shown: {error!r}"
        if self._dropped:
            line = f"{line}\n{self.format(self._word_of_the_dropped(record))}"
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1
        else:
            self._dropped = 0
            with self._written:
                self._waiting += 1

    def wait_until_written(self, timeout_seconds: float = LAST_WORDS_SECONDS) -> bool:
        """Wait until every line was written, but not for a reader who does not read."""
        with self._written:
            return self._written.wait_for(lambda: self._waiting <= 0, timeout_seconds)

    def _word_of_the_dropped(self, record: logging.LogRecord) -> logging.LogRecord:
        text = f"{self._dropped} log lines before this one were dropped: nobody read them"
        return logging.LogRecord(__name__, logging.WARNING, record.pathname, 0, text, (), None)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                pass  # the reader is gone, and there is nobody else to tell
            with self._written:
                self._waiting -= 1
                self._written.notify_all()


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record is more than gRPC's word of a peer that sent nonsense or left."""
    error = record.exc_info[0] if record.exc_info else None
    return error is None or error.__name__ not in _PEERS_DOING


def set_up(level: str, style: str) -> ThreadedHandler | None:
    """Log to standard error at ``level``; ``style`` is text, json, or auto for whichever suits it.

    Returns what writes the lines, or None where standard error is closed.
    """
    stream: TextIO | None = sys.stderr
    if stream is None:  # closed by whoever started us: there is nobody to tell
        logging.disable()
        return None
    if style == "auto":
        style = "text" if stream.isatty() else "json"
    handler = ThreadedHandler(stream)
    handler.setFormatter(
        JsonFormatter() if style == "json" else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    )
    handler.addFilter(is_news)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    atexit.register(handler.wait_until_written)
    return handler
