# SPDX-License-Identifier: Apache-2.0
import io
import json
import logging
import sys

import pytest

from keda_gpu_scaler.cli.logs import JsonFormatter, set_up


def entry(record: logging.LogRecord) -> dict[str, object]:
    line = JsonFormatter().format(record)
    assert "\n" not in line
    parsed: dict[str, object] = json.loads(line)
    return parsed


def log_record(message: str, **extra: object) -> logging.LogRecord:
    return logging.getLogger("here").makeRecord("here", logging.WARNING, "f", 1, message, (), None, extra=extra)


def test_a_json_line_holds_what_a_log_store_asks_for() -> None:
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
        set_up("warning", style)
        logging.getLogger("here").info("too quiet to be heard")
        logging.getLogger("here").warning("attention")
    finally:
        root.handlers, root.level = handlers, level
    [line] = stream.getvalue().splitlines()
    assert "attention" in line
    assert line.startswith("{") is is_json
