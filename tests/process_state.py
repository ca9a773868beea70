# SPDX-License-Identifier: Apache-2.0
"""What a command sets for its whole process, or an earlier test left, is not seen by the next test.

A command that a test runs in the process of the tests sets up the log and the garbage collector as for a process of
its own. Without the reset, the next test of the same worker sees other records, and which test is the next one
depends on the machine.
"""

import gc
import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

_LOGGERS = ("", "keda_gpu_scaler", "httpx")
_GRPC_POLLER = "PollerCompletionQueue._handle_events"


@contextmanager
def process_state_kept() -> Iterator[None]:
    """Reset the levels, the handlers and the switch of logging, and the limits of the garbage collector, at the end."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    log_state = [(each, each.level, each.handlers[:]) for each in loggers]
    disabled, collector = logging.root.manager.disable, gc.get_threshold()
    try:
        yield
    finally:
        for logger, level, handlers in log_state:
            logger.setLevel(level)
            logger.handlers[:] = handlers
        logging.disable(disabled)
        gc.set_threshold(*collector)


def is_of_this_test(record: logging.LogRecord) -> bool:
    """Whether a record of asyncio is of the test that runs.

    A process has one poller of gRPC. An event for the loop of an earlier test may come when that loop is closed, and
    the loop of the test that runs logs it then.
    """
    return _GRPC_POLLER not in record.getMessage()


def pytest_configure() -> None:
    """Drop the records that are of no test."""
    logging.getLogger("asyncio").addFilter(is_of_this_test)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Reset the state of the process after the last fixture of the test."""
    with process_state_kept():
        return (yield)
