# SPDX-License-Identifier: Apache-2.0
"""Tests that the outputs of vendors' tools are read, without their devices."""

import json

from tests.hardware.vendor_tools import ToolReadings, rocm_smi, xpu_smi, xpu_smi_devices


def test_rocm_smi() -> None:
    card = {
        "PCI Bus": "0000:C3:00.0",
        "GPU use (%)": "42",
        "VRAM Total Memory (B)": "1024",
        "VRAM Total Used Memory (B)": "512",
        "Temperature (Sensor edge) (C)": "N/A",
        "Temperature (Sensor junction) (C)": "61.0",
        "Average Graphics Package Power (W)": "36.5",
    }
    found = rocm_smi(json.dumps({"card0": card, "system": {"Driver version": "6"}}))
    assert found == {"0000:c3:00.0": ToolReadings(42, 512, 1024, 61, 36.5)}


def test_xpu_smi() -> None:
    assert xpu_smi_devices('{"device_list": [{"device_id": 1, "pci_bdf_address": "0000:4D:00.0"}]}') == {
        1: "0000:4d:00.0"
    }
    title = "Timestamp, DeviceId, GPU Power (W), GPU Core Temperature (Celsius Degree)"
    assert xpu_smi(f"{title}\n06:00:01.000,    1, 14.61, 44.00\n06:00:02.000,    1, , N/A\n") == [
        ToolReadings(celsius=44, watts=14.61),
        ToolReadings(),
    ]
