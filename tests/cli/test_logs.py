# SPDX-License-Identifier: Apache-2.0
"""Tests the format, the queue and the filter of the log."""

import contextlib
import io
import json
import logging
import os
import sys
import threading

import pytest
from google.protobuf.message import DecodeError

from keda_gpu_scaler.cli.logs import MAX_QUEUED_LINES, JsonFormatter, ThreadedHandler, is_own_record, set_up
from tests.limits import WAIT_SECONDS


def entry(record: logging.LogRecord) -> dict[str, object]:
    line = JsonFormatter().format(record)
    assert "\n" not in line
    parsed: dict[str, object] = json.loads(line)
    return parsed


def log_record(message: str, **extra: object) -> logging.LogRecord:
    return logging.getLogger("here").makeRecord("here", logging.WARNING, "f", 1, message, (), None, extra=extra)


def test_a_json_line_has_the_fields_of_a_log_store() -> None:
    record = log_record("two\nlines", node="gpu-7", strange=object)
    record.created = 1_700_000_000.25
    assert entry(record) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "warning",
        "logger": "here",
        "message": "two\nlines",
        "node": "gpu-7",
        "strange": "<class 'object'>",
    }


def test_an_exception_is_part_of_its_line() -> None:
    record = log_record("x")
    try:
        raise ValueError("lost")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert "ValueError: lost" in str(entry(record)["exception"])


@pytest.mark.parametrize(
    ("style", "is_terminal", "is_json"),
    [("auto", True, False), ("auto", False, True), ("text", False, False), ("json", True, True)],
)
def test_auto_is_text_on_a_terminal_and_json_elsewhere(
    monkeypatch: pytest.MonkeyPatch, style: str, is_terminal: bool, is_json: bool
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers = []
    try:
        handler = set_up("warning", style)
        logging.getLogger("here").info("below the level")
        logging.getLogger("here").warning("attention")
        assert handler is not None
        assert handler.wait_until_written(WAIT_SECONDS)
    finally:
        root.handlers, root.level = handlers, level
    [line] = stream.getvalue().splitlines()
    assert "attention" in line
    assert line.startswith("{") is is_json


def test_a_slow_reader_blocks_no_caller_and_gets_the_number_of_dropped_lines() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as stream:
        handler = ThreadedHandler(stream)
        for _ in range(2 * MAX_QUEUED_LINES):
            handler.emit(log_record("x" * 100))
        assert not handler.wait_until_written(0.01)

        def read_all() -> None:
            while "dropped: their reader is too slow" not in reader.readline().decode():
                handler.emit(log_record("the reader is back"))

        thread = threading.Thread(target=read_all)
        thread.start()
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()
        # Let the writing thread write every queued line before the pipe is closed.
        drain = threading.Thread(target=reader.read)
        drain.start()
        assert handler.wait_until_written(WAIT_SECONDS)
        stream.close()
        drain.join(WAIT_SECONDS)


def test_a_closed_reader_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    handler = ThreadedHandler(stream)
    handler.emit(log_record("no reader is left"))
    assert handler.wait_until_written(WAIT_SECONDS)
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_an_error_of_a_peer_is_not_logged_and_a_defect_is() -> None:
    def record_of(error: Exception) -> logging.LogRecord:
        record = log_record("Unexpected error")
        record.exc_info = (type(error), error, None)
        return record

    assert not is_own_record(record_of(DecodeError("Error parsing message")))
    assert is_own_record(record_of(ZeroDivisionError()))
    assert is_own_record(log_record("plain"))


def test_without_standard_error_nothing_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    try:
        assert set_up("info", "auto") is None
    finally:
        logging.disable(logging.NOTSET)
