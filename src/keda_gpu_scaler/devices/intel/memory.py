# SPDX-License-Identifier: Apache-2.0
"""Asks the kernel for the memory of an Intel card, as the user-mode drivers do.

Law: without CAP_PERFMON the kernel reports that nothing is in use. So the memory in use is unknown unless the process
is known to have the capability.

Sources: the kernel's uapi/drm/xe_drm.h (``DRM_XE_DEVICE_QUERY_MEM_REGIONS``) and i915_drm.h
(``DRM_I915_QUERY_MEMORY_REGIONS``); linux/capability.h. The kernel accepts CAP_PERFMON or CAP_SYS_ADMIN, in its own
user namespace only.
"""

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from keda_gpu_scaler.devices.reader_threads import RunningCall
from keda_gpu_scaler.devices.sysfs import IMPOSSIBLE_BYTES, DrmCard, UnreadableError, read_text

MemoryReader = Callable[[DrmCard], tuple[int | None, int | None]]
"""Returns the used and the total memory of a card in bytes; raises ``UnreadableError``."""

Ioctl = Callable[[int, int, bytearray], object]

_PERFMON, _SYS_ADMIN = 38, 21
_FIRST_USER_NAMESPACE = ["0", "0", "4294967295"]
_LONGEST_REPLY = 1 << 16
_REGION_BYTES = 88

_XE_QUERY = struct.Struct("<QIIQQQ")  # extensions, query, size, data, reserved
_XE_MEMORY = 1
_XE_REGIONS_AT, _XE_VRAM = 8, 1
_XE_REGION = struct.Struct("<HHIQQ")  # class, instance, smallest page, total, used
_I915_QUERY = struct.Struct("<IIQ")  # number of items, flags, items
_I915_ITEM = struct.Struct("<QiIQ")  # query, length, flags, data
_I915_MEMORY = 4
_I915_REGIONS_AT, _I915_VRAM = 16, 1
_I915_REGION = struct.Struct("<HHIQQ")  # class, instance, reserved, probed, unallocated


def _request(command: int, size: int) -> int:
    """Return the number of an ioctl of DRM that reads and writes: _IOWR('d', 0x40 + command, size)."""
    return 3 << 30 | size << 16 | ord("d") << 8 | 0x40 + command


_XE_REQUEST = _request(0x00, _XE_QUERY.size)
_I915_REQUEST = _request(0x39, _I915_QUERY.size)


def read_memory(card: DrmCard) -> tuple[int | None, int | None]:
    """Return the used and the total memory of a card in bytes.

    Raises:
        UnreadableError: the process may not know it, or the card has no memory of its own.
    """
    if card.render is None:
        raise UnreadableError("the card has no render node")
    if not may_know_usage(Path("/proc/self")):
        raise UnreadableError("the process has no CAP_PERFMON")
    try:
        with RunningCall(f"the query of renderD{card.render}"):
            file = os.open(f"/dev/dri/renderD{card.render}", os.O_RDWR | os.O_CLOEXEC)
            try:
                return memory_of(card.driver, file, fcntl.ioctl)
            finally:
                os.close(file)
    except OSError as error:
        reason = f"/dev/dri/renderD{card.render}: {error.strerror}"
    raise UnreadableError(reason)


def may_know_usage(process: Path) -> bool:
    """Whether a process may know the memory in use, by its folder in /proc.

    Capabilities in a user namespace of the container's own do not count.
    """
    try:
        if read_text(process / "uid_map").split() != _FIRST_USER_NAMESPACE:
            return False
        lines = (line.partition(":") for line in read_text(process / "status").splitlines())
        effective = int(next(value for name, _, value in lines if name == "CapEff"), 16)
    except (UnreadableError, StopIteration, ValueError):
        return False
    return bool(effective >> _PERFMON & 1 or effective >> _SYS_ADMIN & 1)


def memory_of(driver: str, file: int, ioctl: Ioctl) -> tuple[int, int]:
    """Return the used and the total memory in bytes: the sum over the tiles of a card.

    Args:
        driver: "xe" or "i915".
        file: the open render node.
        ioctl: makes the call.

    Raises:
        UnreadableError: the reply is not one of this driver, or the card has no memory of its own.
        OSError: the driver refuses the call.
    """
    regions = list(_xe_regions(file, ioctl) if driver == "xe" else _i915_regions(file, ioctl))
    used, total = sum(used for used, _ in regions), sum(total for _, total in regions)
    if not regions:
        raise UnreadableError("the card has no memory of its own")
    if not 0 <= used <= total < IMPOSSIBLE_BYTES or not total:
        raise UnreadableError(f"{used} of {total} bytes are used, which is impossible")
    return used, total


def _xe_regions(file: int, ioctl: Ioctl) -> Iterator[tuple[int, int]]:
    def query(size: int, address: int) -> int:
        data = bytearray(_XE_QUERY.pack(0, _XE_MEMORY, size, address, 0, 0))
        ioctl(file, _XE_REQUEST, data)
        return int(_XE_QUERY.unpack(data)[2])

    reply = _reply(query)
    for offset in _offsets(reply, _XE_REGIONS_AT):
        kind, _, _, total, used = _XE_REGION.unpack_from(reply, offset)
        if kind == _XE_VRAM:
            yield used, total


def _i915_regions(file: int, ioctl: Ioctl) -> Iterator[tuple[int, int]]:
    def query(size: int, address: int) -> int:
        item = ctypes.create_string_buffer(_I915_ITEM.pack(_I915_MEMORY, size, 0, address), _I915_ITEM.size)
        ioctl(file, _I915_REQUEST, bytearray(_I915_QUERY.pack(1, 0, ctypes.addressof(item))))
        return int(_I915_ITEM.unpack(item.raw)[1])

    reply = _reply(query)
    for offset in _offsets(reply, _I915_REGIONS_AT):
        kind, _, _, probed, unallocated = _I915_REGION.unpack_from(reply, offset)
        if kind == _I915_VRAM:
            yield probed - unallocated, probed


def _reply(query: Callable[[int, int], int]) -> bytes:
    """Ask for the size of a reply, and then for the reply."""
    size = query(0, 0)
    if not 0 < size <= _LONGEST_REPLY:
        raise UnreadableError(f"the driver announces a reply of {size} bytes")
    buffer = ctypes.create_string_buffer(size)
    query(size, ctypes.addressof(buffer))
    return buffer.raw


def _offsets(reply: bytes, first: int) -> range:
    count = int.from_bytes(reply[:4], "little")
    if len(reply) < first + count * _REGION_BYTES:
        raise UnreadableError(f"the driver's reply has {len(reply)} bytes for {count} regions")
    return range(first, first + count * _REGION_BYTES, _REGION_BYTES)
