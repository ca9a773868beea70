# SPDX-License-Identifier: Apache-2.0
"""Reads the kernel's sysfs: cards of the DRM subsystem, small files, and the sensors of hwmon.

Law: a file that cannot be read, or holds something else than expected, is an ``UnreadableError`` with the reason. It is
never 0.

Sources: the kernel's Documentation/ABI/testing and Documentation/gpu/amdgpu. The sysfs of a container shows the cards
of the whole node, read-only, to every user.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from keda_gpu_scaler.devices.reader_threads import RunningCall

ROOT = "/sys"
IMPOSSIBLE_CELSIUS = 200
IMPOSSIBLE_WATTS = 100_000
IMPOSSIBLE_BYTES = 1 << 53
"""No die survives this temperature, no board draws this power, and memory must be an exact number in JSON."""

MOST_FAILURES = 60
"""A source that fails for so many reads in a row does not come back, so another one is chosen."""

_LONGEST_TEXT = 4096  # the kernel writes at most one page into a file of sysfs
_CARD = re.compile(r"card(\d{1,4})", re.ASCII)
_RENDER = re.compile(r"renderD(\d{1,4})", re.ASCII)
_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.ASCII)
_WHOLE = re.compile(r"\d{1,20}", re.ASCII)
_LABEL = re.compile(r"temp(\d{1,2})_label", re.ASCII)
_SUSPENDED = ("suspended", "suspending")


_IN_RESET = "the device is in reset or suspended, or the container may not use it"


class UnreadableError(Exception):
    """A file gives no value. The text is the reason, for people."""


@dataclass(frozen=True, slots=True)
class DrmCard:
    """A graphics card as the DRM subsystem lists it.

    ``number`` is that of its device file (/dev/dri/card0), and ``render`` that of its render node (renderD128), None if
    it has none. ``path`` is the folder of its PCI device. ``pci_address`` looks like "0000:19:00.0". ``device_id`` and
    ``revision`` are those of PCI ("0x74a1", "0x00"), empty where unknown. ``driver`` is the kernel's driver ("amdgpu").
    """

    number: int
    render: int | None
    path: Path
    pci_address: str
    device_id: str
    revision: str
    driver: str


def read_text(path: Path) -> str:
    """Return a file without surrounding white space; one unbuffered read.

    Raises:
        UnreadableError: it cannot be read, or is no text.
    """
    return read_bytes(path, _LONGEST_TEXT).decode("utf-8", "replace").strip()


def read_bytes(path: Path, at_most: int) -> bytes:
    """Return the first bytes of a file with one read. A driver may compute a file anew for each read.

    Raises:
        UnreadableError: it cannot be read.
    """
    try:
        with RunningCall(f"the read of {path.name}"):
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(file, at_most)
            finally:
                os.close(file)
    except (OSError, ValueError) as error:
        reason = _reason(error)
    # Raised here and not in the handler: an error that is kept must not refer to the frames of a read.
    raise UnreadableError(f"{path.name}: {reason}")


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, PermissionError):
        # Of these files everybody may read all. Drivers return EPERM while the device is in reset or suspended.
        return f"{error.strerror}: {_IN_RESET}"
    return str(getattr(error, "strerror", None) or error)


def is_passing(reason: str) -> bool:
    """Whether a reason that a reading is unknown may pass by itself: the device does have the reading."""
    return reason.endswith(_IN_RESET)


def read_whole(path: Path, below: int = IMPOSSIBLE_BYTES) -> int:
    """Return the whole number in a file, at least 0.

    Raises:
        UnreadableError: it cannot be read, is no whole number, or is not below the bound.
    """
    text = read_text(path)
    if not _WHOLE.fullmatch(text):
        raise UnreadableError(f"{path.name}: {text[:40]!a} is no number" if text else f"{path.name}: it is empty")
    if int(text) >= below:
        raise UnreadableError(f"{path.name}: {text} is impossible")
    return int(text)


def read_percent(path: Path) -> float:
    """Return a percentage as a ratio from 0 to 1.

    Raises:
        UnreadableError: it cannot be read, or is not from 0 to 100.
    """
    return read_whole(path, 101) / 100


def first_known(*sources: Callable[[], float]) -> float:
    """Return the value of the first source that has one.

    Raises:
        UnreadableError: none has one; the text has each reason.
    """
    reasons = []
    for source in sources:
        try:
            return source()
        except UnreadableError as error:
            reasons.append(str(error))
    raise UnreadableError("; ".join(reasons))


class ChosenSources:
    """Remembers which of several sources gave each reading of a card.

    Two sources of one reading measure not quite the same: the edge and the hottest spot of a die, two averages of the
    driver. So a source that gave a value is not replaced when it fails for a moment. The reading is unknown then.
    """

    def __init__(self) -> None:
        self._chosen: dict[str, int] = {}
        self._failures: dict[str, int] = {}

    def forget(self) -> None:
        """Choose again: the card was lost and may have another driver."""
        self._chosen.clear()
        self._failures.clear()

    def first(self, key: str, *sources: Callable[[], float]) -> float:
        """Return the value of the chosen source, or of the first one that has a value, which is then chosen.

        Args:
            key: the reading.
            sources: the same ones at each call for this key.

        Raises:
            UnreadableError: the chosen source has no value, or none has one.
        """
        chosen = self._chosen.get(key)
        if chosen is not None and self._failures.get(key, 0) < MOST_FAILURES:
            try:
                value = sources[chosen]()
            except UnreadableError:
                self._failures[key] = self._failures.get(key, 0) + 1
                raise
        else:
            value, self._chosen[key] = self._choose(sources)
        self._failures.pop(key, None)
        return value

    def _choose(self, sources: tuple[Callable[[], float], ...]) -> tuple[float, int]:
        reasons = []
        for number, source in enumerate(sources):
            try:
                return source(), number
            except UnreadableError as error:
                reasons.append(str(error))
        raise UnreadableError("; ".join(dict.fromkeys(reasons)))


class Reasons:
    """Collects why readings of one device are unknown, by the name of the reading."""

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}

    def reading(self, name: str, *sources: Callable[[], float]) -> float | None:
        """Return the value of the first source that has one; None, with the reason kept, if none has."""
        try:
            return first_known(*sources)
        except UnreadableError as error:
            self.missing.setdefault(name, str(error))
            return None


def is_suspended(device: Path) -> bool:
    """Whether the kernel has suspended a PCI device. Reading this wakes nothing; reading its sensors may."""
    try:
        return read_text(device / "power" / "runtime_status") in _SUSPENDED
    except UnreadableError:
        return False


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder in natural order, none if it cannot be listed."""
    try:
        return sorted(os.listdir(folder), key=lambda name: (len(name), name))
    except OSError:
        return []


def drm_cards(root: Path, vendor_id: str) -> list[DrmCard]:
    """Return the cards of a PCI vendor ("0x1002"), in the order of their PCI addresses.

    Connectors ("card0-DP-1"), and devices of other buses, such as the partitions of a GPU, are left out.

    Raises:
        UnreadableError: the DRM subsystem cannot be listed.
    """
    folder = root / "class" / "drm"
    try:
        entries = os.listdir(folder)
    except OSError as error:
        raise UnreadableError(f"{folder}: {error.strerror}") from None
    found = (_drm_card(folder / name, int(match[1])) for name in entries if (match := _CARD.fullmatch(name)))
    cards = [card for card in found if _or_empty(card.path / "vendor").lower() == vendor_id]
    return sorted(cards, key=lambda card: (card.pci_address, card.number))


def _drm_card(folder: Path, number: int) -> DrmCard:
    path = folder / "device"
    event = dict(line.partition("=")[::2] for line in _or_empty(path / "uevent").splitlines())
    address = event.get("PCI_SLOT_NAME", "").lower()
    return DrmCard(
        number=number,
        render=render_minor(path),
        path=path,
        pci_address=address if _PCI.fullmatch(address) else _address_of_link(path),
        device_id=_hex(_or_empty(path / "device")),
        revision=_hex(_or_empty(path / "revision")),
        driver=event.get("DRIVER", ""),
    )


def _address_of_link(path: Path) -> str:
    name = os.path.basename(os.path.realpath(path)).lower()
    return name if _PCI.fullmatch(name) else ""


def render_minor(device: Path) -> int | None:
    """Return the number of a device's render node, None if it has none."""
    return next((int(match[1]) for name in names_in(device / "drm") if (match := _RENDER.fullmatch(name))), None)


def card_number(device: Path) -> int | None:
    """Return the number of a device's card, None if it has none."""
    return next((int(match[1]) for name in names_in(device / "drm") if (match := _CARD.fullmatch(name))), None)


def hwmon_folders(device: Path, *names: str) -> list[Path]:
    """Return the folders of a device's sensors whose driver has one of these names."""
    folders = (device / "hwmon" / name for name in names_in(device / "hwmon"))
    return [folder for folder in folders if _or_empty(folder / "name") in names]


def labelled_temperatures(hwmon: Path) -> Iterator[tuple[str, Path]]:
    """Yield each temperature of a sensor folder that has a label: the label, and the file with the reading."""
    for name in names_in(hwmon):
        if match := _LABEL.fullmatch(name):
            yield _or_empty(hwmon / name).lower(), hwmon / f"temp{match[1]}_input"


def read_celsius(path: Path) -> float:
    """Return a temperature in °C from a file in thousandths of a degree.

    Raises:
        UnreadableError: it cannot be read, or is impossible.
    """
    return read_whole(path, IMPOSSIBLE_CELSIUS * 1000) / 1000


def read_watts(path: Path) -> float:
    """Return a power in watts from a file in microwatts.

    Raises:
        UnreadableError: it cannot be read, or is impossible.
    """
    return read_whole(path, IMPOSSIBLE_WATTS * 1_000_000) / 1_000_000


def _or_empty(path: Path) -> str:
    try:
        return read_text(path)
    except UnreadableError:
        return ""


def _hex(text: str) -> str:
    return text.lower() if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text) else ""
