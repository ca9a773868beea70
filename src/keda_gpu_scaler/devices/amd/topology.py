# SPDX-License-Identifier: Apache-2.0
"""Finds the compute partitions of an AMD GPU in the topology of the kernel's compute driver, KFD.

Sources: the files ``/sys/class/kfd/kfd/topology/nodes/*/properties`` and AMD's k8s-device-plugin
(``internal/pkg/amdgpu/amdgpu.go``). The function of ``location_id`` is the number of the partition. Partition 0 is the
PCI device itself; the others are platform devices ``amdgpu_xcp_<N>``, of which some belong to no partition.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from keda_gpu_scaler.devices.sysfs import UnreadableError, card_number, names_in, read_text, render_minor

_PLATFORM = re.compile(r"amdgpu_xcp_\d{1,4}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Partition:
    """A compute partition: its number in its card, and the names under which device plugins assign it."""

    number: int
    render: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """The partitions of a node by the PCI address of their card without its function ("0000:05:00").

    ``problems`` says which part of the topology cannot be read. Then partitions are missing.
    """

    partitions: dict[str, tuple[Partition, ...]]
    problems: tuple[str, ...] = ()


def read_topology(root: Path) -> Topology:
    """Read the topology of every GPU. A node of the topology that cannot be read is left out."""
    folder = root / "class" / "kfd" / "kfd" / "topology" / "nodes"
    platform = _platform_devices(root)
    partitions: dict[str, list[Partition]] = {}
    problems = []
    nodes = names_in(folder)
    for node in nodes:
        try:
            properties = _properties(folder / node / "properties")
        except UnreadableError as error:
            problems.append(f"{folder / node}: {error}")
            continue
        render = properties.get("drm_render_minor", 0)
        location = properties.get("location_id", 0)
        if not render:  # a processor
            continue
        address = f"{properties.get('domain', 0):04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}"
        names = (f"renderD{render}", *platform.get(render, ()))
        partitions.setdefault(address, []).append(Partition(location & 7, render, names))
    if not nodes:
        problems.append(f"{folder} cannot be listed")
    return Topology({address: tuple(found) for address, found in partitions.items()}, tuple(problems))


def _properties(path: Path) -> dict[str, int]:
    lines = (line.split() for line in read_text(path).splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isascii() and line[1].isdigit()}


def _platform_devices(root: Path) -> dict[int, tuple[str, ...]]:
    """Return the names of the platform devices by their render nodes."""
    folder = root / "devices" / "platform"
    found: dict[int, tuple[str, ...]] = {}
    for name in names_in(folder):
        if _PLATFORM.fullmatch(name) and (render := render_minor(folder / name)) is not None:
            card = card_number(folder / name)
            found[render] = (name, *([f"gpu-{card}-{render}"] if card is not None else []))
    return found
