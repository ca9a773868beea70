# SPDX-License-Identifier: Apache-2.0
"""Returns the product name of an AMD card.

Source: server cards carry their name, and the driver returns it (``product_name``). The names of other cards are in
libdrm's file ``amdgpu.ids``, by the device and the revision of PCI, where it is installed.
"""

from functools import lru_cache
from pathlib import Path

from keda_gpu_scaler.devices.sysfs import DrmCard, UnreadableError, read_text

AMDGPU_IDS = "/usr/share/libdrm/amdgpu.ids"
_LONGEST = 128


def product_name(card: DrmCard, names: Path) -> str:
    """Return the card's product name, else a name with its PCI device id."""
    try:
        given = read_text(card.path / "product_name")
    except UnreadableError:
        given = ""
    key = (card.device_id.removeprefix("0x").upper(), card.revision.removeprefix("0x").upper())
    found = given or _listed(names).get(key, "")
    printable = "".join(letter for letter in found if letter.isprintable()).strip()[:_LONGEST]
    if not printable:
        return f"AMD GPU {card.device_id}".strip()
    return printable if printable.startswith("AMD") else f"AMD {printable}"


@lru_cache(maxsize=1)
def _listed(names: Path) -> dict[tuple[str, str], str]:
    try:
        lines = names.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    rows = ([part.strip() for part in line.split(",", 2)] for line in lines if not line.startswith("#"))
    return {
        (row[0].upper(), row[1].removeprefix("0x").upper()): row[2] for row in rows if len(row) == 3 and row[2]
    }  # fmt: skip
