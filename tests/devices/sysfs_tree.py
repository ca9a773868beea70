# SPDX-License-Identifier: Apache-2.0
"""Builds a tree of sysfs with cards of AMD and Intel, as the kernel lays it out."""

import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.reader_time import Hold

AMD, INTEL, ASPEED = "0x1002", "0x8086", "0x1a03"
GIB = 1 << 30
NO_VALUE = b"\xff"

Files = Mapping[str, str | bytes | int]

# Sizes and offsets of the kernel's kgd_pp_interface.h, written down a second time: (size, gfx, memory, celsius, watts).
TABLES = {
    (1, 1): (96, 16, 18, 4, 22),
    (1, 2): (104, 16, 18, 4, 22),
    (1, 3): (120, 16, 18, 4, 22),
    (1, 4): (288, 12, 14, 4, 10),
    (1, 5): (360, 12, 14, 4, 10),
    (1, 6): (1664, 12, 14, 4, 10),
    (1, 7): (2208, 12, 14, 4, 10),
    (1, 8): (3872, 12, 14, 4, 10),
}
PARTITIONS = {(1, 6): (306, 312, 168), (1, 7): (338, 344, 232), (1, 8): (338, 344, 440)}


class SysfsTree:
    """A folder with the layout of /sys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "class" / "drm").mkdir(parents=True)

    def card(
        self,
        number: int,
        address: str,
        *,
        vendor: str = AMD,
        device: str = "0x74a1",
        driver: str = "amdgpu",
        render: int | None = None,
        files: Files | None = None,
    ) -> Path:
        """Add a PCI card with its DRM devices; return the folder of the PCI device."""
        folder = self.root / "devices" / "pci0000:00" / address
        write(
            folder,
            {
                "vendor": vendor,
                "device": device,
                "revision": "0xc1",
                "uevent": f"DRIVER={driver}\nPCI_CLASS=38000\nPCI_SLOT_NAME={address}",
                "power/runtime_status": "active",
                **(files or {}),
            },
        )
        self._drm(folder, f"card{number}")
        if render is not None:
            self._drm(folder, f"renderD{render}")
        return folder

    def partition(self, name: str, number: int, render: int) -> Path:
        """Add a platform device of a compute partition; return its folder."""
        folder = self.root / "devices" / "platform" / name
        folder.mkdir(parents=True)
        self._drm(folder, f"card{number}")
        self._drm(folder, f"renderD{render}")
        return folder

    def kfd_node(self, node: int, **properties: int) -> Path:
        """Add a node of KFD's topology; return its file of properties."""
        folder = self.root / "class" / "kfd" / "kfd" / "topology" / "nodes" / str(node)
        write(folder, {"properties": "\n".join(f"{name} {value}" for name, value in properties.items())})
        return folder / "properties"

    def pci(self, address: str, vendor: str, device: str, *, driver: str = "", kind: str = "0x030000") -> Path:
        """Add a PCI device to the bus, without a card; return its folder."""
        folder = self.root / "bus" / "pci" / "devices" / address
        event = f"DRIVER={driver}\nPCI_SLOT_NAME={address}" if driver else f"PCI_SLOT_NAME={address}"
        write(folder, {"vendor": vendor, "device": device, "class": kind, "uevent": event})
        return folder

    def remove(self, folder: Path) -> None:
        """Remove a device and its links."""
        for link in (self.root / "class" / "drm").iterdir():
            if link.resolve().is_relative_to(folder.resolve()):
                link.unlink()
        shutil.rmtree(folder)

    def _drm(self, device: Path, name: str) -> None:
        folder = device / "drm" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "device").symlink_to(os.path.relpath(device, folder))
        link = self.root / "class" / "drm" / name
        link.symlink_to(os.path.relpath(folder, link.parent))


class HangingFiles:
    """Files whose read hangs until they are released. Let ``open`` take the place of ``os.open``."""

    def __init__(self) -> None:
        self._holds: dict[str, Hold] = {}
        self._open = os.open

    @property
    def held_threads(self) -> set[int]:
        """The threads whose reads hang now."""
        return {thread for hold in self._holds.values() for thread in hold.held_threads}

    def hang(self, path: Path) -> Hold:
        """From now on the reads of this file hang."""
        hold = self._holds[os.path.realpath(path)] = Hold()
        hold.hold()
        return hold

    def release(self) -> None:
        """Let every read return the file's content."""
        for hold in self._holds.values():
            hold.release()

    def open(self, path: Path, flags: int, *arguments: Any, **named: Any) -> int:
        """Open a file as ``os.open`` does, after its release."""
        hold = self._holds.get(os.path.realpath(path))
        if hold is not None:
            hold.stay()
        return self._open(path, flags, *arguments, **named)


# Where a version of the table has the energy, the lanes of a link, and what each link read and wrote.
LINKS = {
    (1, 4): (24, 52, 104, 168),
    (1, 5): (88, 116, 176, 240),
    (1, 6): (16, 64, 128, 192),
    (1, 7): (24, 72, 136, 200),
    (1, 8): (24, 72, 136, 200),
}


def write(folder: Path, files: Files) -> None:
    """Write files as the kernel does: text ends in a newline."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())


def gpu_metrics(
    version: tuple[int, int],
    *,
    gfx: int = 57,
    memory: int = 21,
    celsius: int = 61,
    watts: int = 433,
    size: int | None = None,
    partitions: list[list[int]] | None = None,
    energy: int | None = None,
    read: list[int] | None = None,
    written: list[int] | None = None,
) -> bytes:
    """Return a table ``gpu_metrics`` in which every other field is not available."""
    full, *offsets = TABLES[version]
    table = bytearray(NO_VALUE * full)
    struct.pack_into("<HBB", table, 0, size or full, *version)
    for offset, value in zip(offsets, (gfx, memory, celsius, watts), strict=True):
        struct.pack_into("<H", table, offset, value)
    if version in PARTITIONS:
        count_at, first, stride = PARTITIONS[version]
        struct.pack_into("<H", table, count_at, len(partitions or [1]))
        for position, busy in enumerate(partitions or []):
            struct.pack_into(f"<{len(busy)}I", table, first + position * stride, *busy)
    if version in LINKS:
        energy_at, width_at, read_at, written_at = LINKS[version]
        if energy is not None:
            struct.pack_into("<Q", table, energy_at, energy)
        if read is not None and written is not None:
            struct.pack_into("<H", table, width_at, 16)
            struct.pack_into(f"<{len(read)}Q", table, read_at, *read)
            struct.pack_into(f"<{len(written)}Q", table, written_at, *written)
    return bytes(table)


def xcp_metrics(busy: list[int], size: int = 488) -> bytes:
    """Return a table ``xcp_metrics`` of version 1.0."""
    table = bytearray(NO_VALUE * 488)
    struct.pack_into("<HBB", table, 0, size, 1, 0)
    struct.pack_into(f"<{len(busy)}I", table, 48, *busy)
    return bytes(table)


INSTINCT: Files = {
    "unique_id": "e3aa140f9a5f9e31",
    "product_name": "AMD Instinct MI300X OAM",
    "current_compute_partition": "SPX",
    "current_memory_partition": "NPS1",
    "mem_info_vram_used": 283 << 20,
    "mem_info_vram_total": 196592 << 20,
    "mem_info_gtt_used": 5 << 20,
    "mem_info_gtt_total": 512 * GIB,
    "gpu_metrics": gpu_metrics((1, 8)),
    "hwmon/hwmon5/name": "amdgpu",
    "hwmon/hwmon5/temp2_label": "junction",
    "hwmon/hwmon5/temp2_input": 61000,
    "hwmon/hwmon5/temp3_label": "mem",
    "hwmon/hwmon5/temp3_input": 45000,
    "hwmon/hwmon5/power1_input": 433_000_000,
}
RADEON: Files = {
    "gpu_busy_percent": 42,
    "mem_busy_percent": 7,
    "pcie_bw": "this file sleeps for a second",
    "mem_info_vram_used": 3 * GIB,
    "mem_info_vram_total": 12 * GIB,
    "mem_info_gtt_used": GIB,
    "mem_info_gtt_total": 32 * GIB,
    "hwmon/hwmon3/name": "amdgpu",
    "hwmon/hwmon3/temp1_label": "edge",
    "hwmon/hwmon3/temp1_input": 51000,
    "hwmon/hwmon3/temp2_label": "junction",
    "hwmon/hwmon3/temp2_input": 66000,
    "hwmon/hwmon3/power1_average": 123_500_000,
    "hwmon/hwmon3/power1_input": 140_000_000,
}
APU: Files = {
    "gpu_busy_percent": 12,
    "mem_info_vram_used": GIB // 2,
    "mem_info_vram_total": GIB,
    "mem_info_gtt_used": 3 * GIB,
    "mem_info_gtt_total": 15 * GIB,
    "hwmon/hwmon1/name": "amdgpu",
    "hwmon/hwmon1/temp1_label": "edge",
    "hwmon/hwmon1/temp1_input": 48000,
    "hwmon/hwmon1/power1_input": 9_000_000,
}
BATTLEMAGE: Files = {
    "tile0/gt0/gtidle/name": "gt0-rc",
    "tile0/gt0/gtidle/idle_residency_ms": 1000,
    "tile0/gt1/gtidle/name": "gt1-mc",
    "tile0/gt1/gtidle/idle_residency_ms": 50,
    "hwmon/hwmon4/name": "xe",
    "hwmon/hwmon4/energy1_input": 5_000_000,
    "hwmon/hwmon4/energy2_input": 2_000_000,
    "hwmon/hwmon4/temp2_label": "pkg",
    "hwmon/hwmon4/temp2_input": 44000,
    "hwmon/hwmon4/temp3_label": "vram",
    "hwmon/hwmon4/temp3_input": 52000,
}
FLEX: Files = {
    "drm/card0/gt/gt0/rc6_residency_ms": 1000,
    "hwmon/hwmon2/name": "i915",
    "hwmon/hwmon2/energy1_input": 5_000_000,
    "hwmon/hwmon2/temp1_input": 39000,
}
