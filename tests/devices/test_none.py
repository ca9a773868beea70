# SPDX-License-Identifier: Apache-2.0
"""An instance without a device says so, and complains about nothing."""

import pytest

from keda_gpu_scaler.core.interfaces import Backend
from keda_gpu_scaler.devices.none import NoneBackend
from tests.contract.backends import BackendContract


class TestNoneKeepsTheContract(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return NoneBackend()


def test_there_is_no_device_and_that_is_no_fault() -> None:
    backend = NoneBackend()
    assert backend.read(0.0) == ()
    assert backend.deviceless
    assert backend.source == "none: no device by design"
