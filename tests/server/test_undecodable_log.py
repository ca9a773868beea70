# SPDX-License-Identifier: Apache-2.0
"""Tests of the log of requests that are not valid messages."""

import logging

import pytest

from keda_gpu_scaler.server.undecodable_log import REPEAT_SECONDS, UndecodableLog
from tests.fakes import ManualClock


def test_a_method_is_logged_once_a_minute_with_the_number_of_requests_between(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    log = UndecodableLog(clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            log.note("/a/One", "ipv4:10.0.0.9:1")
        log.note("/a/Two", "ipv4:10.0.0.9:1")
        clock.advance(REPEAT_SECONDS)
        log.note("/a/One", "ipv4:10.0.0.9:2")
    assert [it.getMessage() for it in caplog.records] == [
        "/a/One from ipv4:10.0.0.9:1: the request is not a valid message",
        "/a/Two from ipv4:10.0.0.9:1: the request is not a valid message",
        "/a/One from ipv4:10.0.0.9:2: the request is not a valid message; 4 more requests since the last line",
    ]
