# SPDX-License-Identifier: Apache-2.0
"""Reads the output of rocm-smi and xpu-smi, with which the hardware tests compare.

Sources: the outputs that their projects publish. rocm-smi writes an object for each card, with sentences as keys, and
"N/A" for a missing value. xpu-smi 1 lists devices as JSON, and readings as a table with a title for each column.
"""

import csv
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from tests.limits import WAIT_SECONDS

ROCM_SMI = ("rocm-smi", "--showbus", "--showmeminfo", "vram", "--showuse", "--showtemp", "--showpower", "--json")
XPU_SMI_DISCOVERY = ("xpu-smi", "discovery", "-j")
XPU_SMI_METRICS = "1,3"  # power in W, temperature of the core in °C


@dataclass(frozen=True)
class ToolReadings:
    """What a vendor's tool says of one card; None where it has no value."""

    utilization_percent: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    celsius: float | None = None
    watts: float | None = None


def run(command: Sequence[str]) -> str:
    """Return the output of a vendor's tool."""
    outcome = subprocess.run(command, check=True, capture_output=True, text=True, timeout=2 * WAIT_SECONDS)
    return outcome.stdout


def rocm_smi(text: str) -> dict[str, ToolReadings]:
    """Return the readings of each card by its PCI address."""
    cards = [card for name, card in json.loads(text).items() if name.startswith("card")]
    return {
        card["PCI Bus"].lower(): ToolReadings(
            _number(card, "GPU use (%)"),
            _number(card, "VRAM Total Used Memory (B)"),
            _number(card, "VRAM Total Memory (B)"),
            _number(card, "Temperature (Sensor edge) (C)", "Temperature (Sensor junction) (C)"),
            _number(card, "Average Graphics Package Power (W)", "Current Socket Graphics Package Power (W)"),
        )
        for card in cards
    }


def xpu_smi_devices(text: str) -> dict[int, str]:
    """Return the PCI address of each device by its number."""
    return {one["device_id"]: one["pci_bdf_address"].lower() for one in json.loads(text)["device_list"]}


def xpu_smi(text: str) -> list[ToolReadings]:
    """Return the readings of each row of `xpu-smi dump`."""
    rows = csv.DictReader(text.splitlines(), skipinitialspace=True)
    return [
        ToolReadings(
            celsius=_number(row, "GPU Core Temperature (Celsius Degree)"),
            watts=_number(row, "GPU Power (W)"),
        )
        for row in rows
    ]


def _number(values: dict[str, str], *names: str) -> float | None:
    for name in names:
        try:
            return float(values[name])
        except (KeyError, ValueError, TypeError):
            continue
    return None
