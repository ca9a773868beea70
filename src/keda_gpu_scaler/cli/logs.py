# SPDX-License-Identifier: Apache-2.0
"""Sets up logging: readable lines on a terminal, one JSON object per line elsewhere.

Law: logging never blocks its caller. A thread writes the lines. Lines are dropped and counted when their reader is too
slow.
"""

import atexit
import contextlib
import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TextIO

MAX_QUEUED_LINES = 1000
"""At most this many lines wait to be written; further lines are dropped."""
FLUSH_SECONDS = 1.0
"""The process waits at most this long, at its end, until the last lines are written."""

_BUILT_IN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# gRPC raises these when a peer sends invalid messages or disconnects early. They are no defect of this program, and a
# peer could cause any number of tracebacks.
_ERRORS_BY_PEERS = frozenset({"DecodeError", "ExecuteBatchError", "AbortError"})


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, extras."""

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
    """Formats a record in the thread that logs it, and writes it to ``stream`` in another thread."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._write_text = _writer(stream)
        self._lines: queue.Queue[str] = queue.Queue(MAX_QUEUED_LINES)
        self._dropped = 0
        self._written = threading.Condition()
        self._waiting = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as dropped."""
        try:
            line = self.format(record)
        except Exception as error:  # an error of the formatter must not reach the caller
            line = f"a log line of {record.name} cannot be formatted: {error!r}"
        if self._dropped:
            line = f"{line}\n{self.format(self._dropped_record(record))}"
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1
        else:
            self._dropped = 0
            with self._written:
                self._waiting += 1

    def wait_until_written(self, timeout_seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until every line is written, or the time is over; return whether every line is written."""
        with self._written:
            return self._written.wait_for(lambda: self._waiting <= 0, timeout_seconds)

    def _dropped_record(self, record: logging.LogRecord) -> logging.LogRecord:
        text = f"{self._dropped} log lines before this one were dropped: their reader is too slow"
        return logging.LogRecord(__name__, logging.WARNING, record.pathname, 0, text, (), None)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            # The reader may have closed the stream, and there is no other place to report it.
            with contextlib.suppress(OSError, ValueError):
                self._write_text(line + "\n")
            with self._written:
                self._waiting -= 1
                self._written.notify_all()


def _writer(stream: TextIO) -> Callable[[str], None]:
    """Return a function that writes to a stream and, where it has a file descriptor, takes no lock of its buffer.

    Python flushes standard error when a process ends. It would wait for the lock, and so for the reader of the log.
    """
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return partial(_write_through, stream)
    return partial(_write_to, descriptor)


def _write_through(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()


def _write_to(descriptor: int, text: str) -> None:
    left = text.encode(errors="backslashreplace")
    while left:
        left = left[os.write(descriptor, left) :]


def is_own_record(record: logging.LogRecord) -> bool:
    """Whether a record is something else than gRPC's report of a peer's error."""
    error = record.exc_info[0] if record.exc_info else None
    return error is None or error.__name__ not in _ERRORS_BY_PEERS


def set_up(level: str, style: str) -> ThreadedHandler | None:
    """Log to standard error at ``level``; ``style`` is text, json, or auto: text on a terminal, json elsewhere.

    Returns the handler, or None where standard error is closed.
    """
    stream: TextIO | None = sys.stderr
    if stream is None:  # closed by the parent process
        logging.disable()
        return None
    if style == "auto":
        style = "text" if stream.isatty() else "json"
    handler = ThreadedHandler(stream)
    handler.setFormatter(
        JsonFormatter() if style == "json" else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    )
    handler.addFilter(is_own_record)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    atexit.register(handler.wait_until_written)
    return handler
