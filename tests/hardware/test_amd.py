# SPDX-License-Identifier: Apache-2.0
"""The AMD backend on the real driver, checked against rocm-smi."""

import shutil

import pytest

from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices.amd.backend import AmdBackend
from tests.contract.backends import BackendContract
from tests.hardware.vendor_tools import ROCM_SMI, ToolReadings, rocm_smi, run

pytestmark = pytest.mark.hardware

MEMORY_TOLERANCE_BYTES = 256 << 20
CELSIUS_TOLERANCE = 5
WATTS_SHARE = 0.25
IDLE_RATIO = 0.25


def _reason_to_skip() -> str | None:
    try:
        AmdBackend().read(0.0)
    except BackendError as error:
        return str(error)
    return None


if (reason := _reason_to_skip()) is not None:
    pytest.skip(f"no AMD device to read: {reason}", allow_module_level=True)


class TestContract(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return AmdBackend()


@pytest.fixture
def compared() -> list[tuple[Sample, ToolReadings]]:
    """Whole cards, with what rocm-smi says of them in the same second."""
    if shutil.which(ROCM_SMI[0]) is None:
        pytest.skip("no rocm-smi to compare with")
    samples = AmdBackend().read(0.0)
    theirs = rocm_smi(run(ROCM_SMI))
    pairs = [
        (sample, theirs[sample.device.pci_address])
        for sample in samples
        if sample.device.parent is None and sample.device.pci_address in theirs
    ]
    if not pairs:
        pytest.skip("rocm-smi lists no whole card of this machine")
    return pairs


def test_rocm_smi_says_the_same_of_memory(compared: list[tuple[Sample, ToolReadings]]) -> None:
    for sample, tool in compared:
        if sample.memory_total_bytes is not None and tool.memory_total_bytes is not None:
            assert sample.memory_total_bytes >= tool.memory_total_bytes  # an APU's has its system memory too
        if sample.memory_used_bytes is not None and tool.memory_used_bytes is not None:
            assert sample.memory_used_bytes >= tool.memory_used_bytes - MEMORY_TOLERANCE_BYTES


def test_rocm_smi_says_the_same_of_temperature_and_power(compared: list[tuple[Sample, ToolReadings]]) -> None:
    for sample, tool in compared:
        if sample.temperature_celsius is not None and tool.celsius is not None:
            assert sample.temperature_celsius == pytest.approx(tool.celsius, abs=CELSIUS_TOLERANCE)
        if sample.power_watts is not None and tool.watts is not None:
            assert sample.power_watts == pytest.approx(tool.watts, rel=WATTS_SHARE, abs=10)


def test_an_idle_card_of_rocm_smi_is_no_busy_one(compared: list[tuple[Sample, ToolReadings]]) -> None:
    for sample, tool in compared:
        if tool.utilization_percent == 0:
            assert sample.gpu_utilization_ratio is None or sample.gpu_utilization_ratio <= IDLE_RATIO
