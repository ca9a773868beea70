# SPDX-License-Identifier: Apache-2.0
"""A test that changes the log or the collector of its process changes nothing for the next one."""

import gc
import logging

import pytest

from keda_gpu_scaler.cli.logs import set_up
from tests.process_state import process_state_kept


def test_a_command_that_sets_up_its_process_changes_nothing_for_the_next_test() -> None:
    own = logging.getLogger("keda_gpu_scaler")
    before = _state(own)
    with process_state_kept():
        set_up("debug", "text")
        own.addHandler(logging.NullHandler())
        own.setLevel(logging.CRITICAL)
        logging.disable()
        gc.set_threshold(12_345, 10, 10)
        changed = _state(own)
    assert _state(own) == before
    assert all(was != now for was, now in zip(before, changed, strict=True))


def test_the_process_state_is_kept_around_every_test(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.pluginmanager.has_plugin("tests.process_state")


def test_an_event_of_grpc_for_an_earlier_loop_is_not_in_the_log_of_a_test(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("asyncio").error("Exception in callback PollerCompletionQueue._handle_events(<_UnixSelecto...>)")
    logging.getLogger("asyncio").error("Exception in callback another()")
    assert caplog.messages == ["Exception in callback another()"]


def _state(own: logging.Logger) -> tuple[object, ...]:
    root = logging.getLogger()
    return (
        root.level,
        root.handlers[:],
        own.level,
        own.handlers[:],
        logging.root.manager.disable,
        gc.get_threshold(),
    )
