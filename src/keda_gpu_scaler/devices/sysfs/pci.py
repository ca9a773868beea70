# SPDX-License-Identifier: Apache-2.0
"""Finds the PCI devices of a vendor that the kernel's driver does not serve, for ``doctor``.

Such a device is not in the DRM subsystem, so no backend lists it. Source: the kernel's Documentation/ABI/testing,
sysfs-bus-pci. Every container sees these files.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from keda_gpu_scaler.devices.registry import HostProblem
from keda_gpu_scaler.devices.sysfs import UnreadableError, drm_cards, names_in, read_text

DISPLAY_CLASS, ACCELERATOR_CLASS = 0x03, 0x12
"""Base classes of PCI. Instinct GPUs may be processing accelerators; those of Intel are NPUs."""

_CLASS = re.compile(r"0x([0-9a-f]{2})[0-9a-f]{4}", re.ASCII)
_FUNCTION = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.ASCII)


def unserved_devices(
    root: Path, vendor_id: str, drivers: Sequence[str], classes: Sequence[int] = (DISPLAY_CLASS,)
) -> Iterator[HostProblem]:
    """Yield a problem for each GPU without one of these drivers, and for each that its driver did not start.

    Args:
        root: the folder at which sysfs is mounted.
        vendor_id: the vendor's PCI id ("0x1002").
        drivers: the kernel's drivers that the backend reads.
        classes: the base classes of the vendor's GPUs.
    """
    try:
        listed = {card.pci_address for card in drm_cards(root, vendor_id)}
    except UnreadableError:
        listed = set()
    folder = root / "bus" / "pci" / "devices"
    for address in filter(_FUNCTION.fullmatch, names_in(folder)):
        found = _CLASS.match(_text(folder / address / "class"))
        if found is None or int(found[1], 16) not in classes or _text(folder / address / "vendor") != vendor_id:
            continue
        name = f"{address} ({vendor_id}:{_text(folder / address / 'device') or 'unknown'})"
        if problem := _problem(name, _driver(folder / address), drivers, is_listed=address in listed):
            yield problem


def _problem(name: str, driver: str, drivers: Sequence[str], *, is_listed: bool) -> HostProblem | None:
    wanted = " or ".join(drivers)
    if not driver:
        return HostProblem(
            f"{name} has no driver in the kernel", f"load {wanted} on the node, and look for its messages with `dmesg`"
        )
    if driver not in drivers:
        return HostProblem(
            f"{name} has the driver {driver[:40]!a}, and not {wanted}",
            f"bind it to {wanted} if pods of this node use it; a virtual machine has it otherwise",
            is_intended=True,
        )
    if not is_listed:
        return HostProblem(
            f"{name} has the driver {driver}, which lists no card for it",
            "its start failed: look for the driver's messages with `dmesg` on the node",
        )
    return None


def _driver(device: Path) -> str:
    event = dict(line.partition("=")[::2] for line in _text(device / "uevent").splitlines())
    return event.get("DRIVER", "")


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except UnreadableError:
        return ""
