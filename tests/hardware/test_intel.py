# SPDX-License-Identifier: Apache-2.0
"""The Intel backend on the real driver, checked against xpu-smi."""

import shutil
import time

import pytest

from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices.intel.backend import IntelBackend
from tests.contract.backends import BackendContract
from tests.hardware.vendor_tools import (
    XPU_SMI_DISCOVERY,
    XPU_SMI_METRICS,
    ToolReadings,
    run,
    xpu_smi,
    xpu_smi_devices,
)

pytestmark = pytest.mark.hardware

CELSIUS_TOLERANCE = 5
WATTS_SHARE = 0.25
BETWEEN_READS_SECONDS = 1.0


def _reason_to_skip() -> str | None:
    try:
        IntelBackend().read(0.0)
    except BackendError as error:
        return str(error)
    return None


if (reason := _reason_to_skip()) is not None:
    pytest.skip(f"no Intel device to read: {reason}", allow_module_level=True)


class TestContract(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return IntelBackend()


@pytest.fixture
def compared() -> list[tuple[Sample, ToolReadings]]:
    """The cards, with what xpu-smi says of them in the same second."""
    if shutil.which(XPU_SMI_DISCOVERY[0]) is None:
        pytest.skip("no xpu-smi to compare with")
    devices = xpu_smi_devices(run(XPU_SMI_DISCOVERY))
    backend = IntelBackend()
    backend.read(0.0)
    time.sleep(BETWEEN_READS_SECONDS)  # power is the growth of a counter of the hardware
    by_address = {sample.device.pci_address: sample for sample in backend.read(BETWEEN_READS_SECONDS)}
    dump = ("xpu-smi", "dump", "-m", XPU_SMI_METRICS, "-i", "1", "-n", "1", "-d")
    pairs = [
        (by_address[address], xpu_smi(run((*dump, str(number))))[-1])
        for number, address in devices.items()
        if address in by_address
    ]
    if not pairs:
        pytest.skip("xpu-smi lists no card of this machine")
    return pairs


def test_xpu_smi_says_the_same_of_temperature_and_power(compared: list[tuple[Sample, ToolReadings]]) -> None:
    for sample, tool in compared:
        if sample.temperature_celsius is not None and tool.celsius is not None:
            assert sample.temperature_celsius == pytest.approx(tool.celsius, abs=CELSIUS_TOLERANCE)
        if sample.power_watts is not None and tool.watts is not None:
            assert sample.power_watts == pytest.approx(tool.watts, rel=WATTS_SHARE, abs=10)


def test_utilisation_is_known_of_a_card_that_is_awake(compared: list[tuple[Sample, ToolReadings]]) -> None:
    for sample, _ in compared:
        assert sample.gpu_utilization_ratio is not None
