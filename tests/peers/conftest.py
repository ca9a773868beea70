# SPDX-License-Identifier: Apache-2.0
"""Removes the pauses between two calls of a peer."""

import pytest

from keda_gpu_scaler.peers import client as client_module


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_jittered", lambda seconds: 0.0)
