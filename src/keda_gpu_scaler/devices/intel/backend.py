# SPDX-License-Identifier: Apache-2.0
"""The Intel backend: lists the cards of i915 and xe, and reads them through sysfs.

Law: a card that sleeps is not woken. Its state is read first, and if it is suspended nothing else is read. The memory
in use is unknown unless the process has the right to know it; without the right the kernel reports 0.

Sources: the kernel's Documentation/ABI/testing/sysfs-driver-intel-{i915,xe}-hwmon, xe_gt_idle.c and i915's sysfs of
GTs. Idle residency is the time in the sleep state C6 (RC6). A GT leaves it before work starts and enters it some time
after work ends, so the rest of the time is more than the time in which a kernel ran.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from keda_gpu_scaler.core.types import Device, PerformanceReadings, Sample
from keda_gpu_scaler.devices.intel import DRIVERS, PCI_VENDOR
from keda_gpu_scaler.devices.intel.counters import CounterRate
from keda_gpu_scaler.devices.intel.memory import MemoryReader, read_memory
from keda_gpu_scaler.devices.intel.performance import MISSING, CardEnergy
from keda_gpu_scaler.devices.sysfs import (
    IMPOSSIBLE_WATTS,
    ROOT,
    DrmCard,
    Reasons,
    UnreadableError,
    first_known,
    hwmon_folders,
    is_suspended,
    labelled_temperatures,
    names_in,
    read_celsius,
    read_text,
    read_whole,
)
from keda_gpu_scaler.devices.sysfs.backend import BASIC_READINGS, Card, CardReading, SysfsBackend

_XE = "xe"
_TILE = re.compile(r"tile\d{1,3}", re.ASCII)
_GT = re.compile(r"gt\d{1,3}", re.ASCII)
_MEDIA = "-mc"
_PACKAGE = "pkg"
_LONGEST_COUNTER = 1 << 64
_LATE_SHARE = 0.05
"""By how much idle time may exceed the time between two readings: the clock is read just before the file."""

# Products for data centres and workstations, by PCI device id, as in Intel's table of supported devices.
_PRODUCTS = {
    "0x0bd5": "Intel Data Center GPU Max 1550",
    "0x0bda": "Intel Data Center GPU Max 1100",
    "0x56a0": "Intel Arc A770",
    "0x56a1": "Intel Arc A750",
    "0x56c0": "Intel Data Center GPU Flex 170",
    "0x56c1": "Intel Data Center GPU Flex 140",
    "0xe20b": "Intel Arc B580",
    "0xe20c": "Intel Arc B570",
    "0xe211": "Intel Arc Pro B60",
    "0xe212": "Intel Arc Pro B50",
}


class IntelCard(Card):
    """A card of i915 or xe, with the counters of which the rates are taken, by their files."""

    def __init__(self, key: str, index: int, drm: DrmCard) -> None:
        super().__init__(key, index, drm)
        self.rates: dict[Path, CounterRate] = {}
        self.energy = CardEnergy()

    def rate_of(self, path: Path, count: int, at_seconds: float) -> float:
        """Return the growth of a counter's file in a second.

        Raises:
            UnreadableError: there is no rate yet.
        """
        return self.rates.setdefault(path, CounterRate()).update(count, at_seconds)


class IntelBackend(SysfsBackend):
    """Reads every Intel GPU of the node.

    Args:
        root: the folder at which sysfs is mounted.
        clock: monotonic seconds, read with every counter.
        memory: reads the used and the total memory of a card.
        wants_performance: whether the readings that are expensive to take are wanted now.
    """

    source = "intel"
    maker = "Intel"
    vendor_id = PCI_VENDOR

    def __init__(
        self,
        root: str = ROOT,
        clock: Callable[[], float] = time.monotonic,
        memory: MemoryReader = read_memory,
        wants_performance: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(root)
        self._clock = clock
        self._memory = memory
        self._wants_performance = wants_performance

    def sources(self) -> str:
        """Return a sentence about the drivers of the cards, for ``doctor``."""
        counts = Counter(card.drm.driver or "an unknown driver" for card in self.cards if card.drm)
        return ", ".join(f"{count} with {driver}" for driver, count in sorted(counts.items()))

    def _card(self, key: str, index: int, drm: DrmCard) -> IntelCard:
        return IntelCard(key, index, drm)

    def _update(self, card: Card, drm: DrmCard) -> None:
        model = _PRODUCTS.get(drm.device_id) or f"Intel GPU {drm.device_id}".strip()
        names = [f"card{drm.number}"]
        if drm.render is not None:
            names.append(f"renderD{drm.render}")
        if drm.pci_address and drm.device_id:
            # The name of Intel's DRA driver.
            names.append(f"{drm.pci_address.replace(':', '-').replace('.', '-')}-{drm.device_id}")
        card.devices = (Device(f"intel-{card.key}", card.index, model, drm.pci_address, names=tuple(names)),)

    def _read_card(self, card: Card, drm: DrmCard) -> list[CardReading]:
        if not isinstance(card, IntelCard):
            return []
        device = card.devices[0]
        if is_suspended(drm.path):
            # The counters stand still while the card sleeps, so growth over this time means nothing.
            card.rates.clear()
            card.energy.stop()
            has_idle = any(True for _ in _idle_files(self._root, drm))
            sample = Sample(device, gpu_utilization_ratio=0.0 if has_idle else None)
            return [CardReading(sample, undecided=BASIC_READINGS)]
        reasons = Reasons()
        used, total = None, None
        try:
            used, total = self._memory(drm)
        except UnreadableError as error:
            reasons.missing["memory"] = str(error)
        sample = Sample(
            device,
            gpu_utilization_ratio=reasons.reading("utilization", lambda: self._busy(card, drm)),
            memory_used_bytes=used,
            memory_total_bytes=total,
            temperature_celsius=reasons.reading("temperature", lambda: _celsius(drm)),
            power_watts=reasons.reading("power", lambda: self._watts(card, drm)),
            performance=self._performance(card, drm, reasons),
        )
        lasting = {name: why for name, why in reasons.missing.items() if "one reading so far" not in why}
        return [CardReading(sample, lasting, reasons.missing.keys() - lasting.keys())]

    def _performance(self, card: IntelCard, drm: DrmCard, reasons: Reasons) -> PerformanceReadings | None:
        if not self._wants_performance():
            card.energy.stop()
            return None
        reasons.missing.update(MISSING)
        return card.energy.update(partial(_joules, drm), self._clock())

    def _busy(self, card: IntelCard, drm: DrmCard) -> float:
        """Return the share of time in which the busiest compute GT was not idle.

        Raises:
            UnreadableError: it is not known of every GT. The busiest of some would be too low.
        """
        reasons = Reasons()
        # Every counter is read at every tick, whether or not another one can be read.
        busy = [reasons.reading(str(path), partial(self._busy_of, card, path)) for path in _idle_files(self._root, drm)]
        if reasons.missing:
            raise UnreadableError("; ".join(dict.fromkeys(reasons.missing.values())))
        if not busy:
            raise UnreadableError("the driver has no file with the idle time of a GT")
        return max(ratio for ratio in busy if ratio is not None)

    def _busy_of(self, card: IntelCard, path: Path) -> float:
        at_seconds = self._clock()
        rate = card.rate_of(path, read_whole(path, _LONGEST_COUNTER), at_seconds) / 1000
        if rate > 1 + _LATE_SHARE:
            raise UnreadableError(f"{path.name}: it grew by {rate:.3g} s in a second, which is impossible")
        return max(0.0, 1 - rate)

    def _watts(self, card: IntelCard, drm: DrmCard) -> float:
        """Return the mean power since the last reading: of the card, else of its package."""
        folders = hwmon_folders(drm.path, *DRIVERS)
        if not folders:
            raise UnreadableError("there are no sensors (hwmon)")
        return first_known(*(partial(self._rate_in_watts, card, path) for path in _energy_files(folders[0])))

    def _rate_in_watts(self, card: IntelCard, path: Path) -> float:
        at_seconds = self._clock()
        watts = card.rate_of(path, read_whole(path, _LONGEST_COUNTER), at_seconds) / 1_000_000
        if watts >= IMPOSSIBLE_WATTS:
            raise UnreadableError(f"{path.name}: {watts:.6g} W is impossible")
        if watts == 0:
            raise UnreadableError(f"{path.name}: it does not grow, which is impossible while the card is awake")
        return watts


def _idle_files(root: Path, drm: DrmCard) -> Iterator[Path]:
    """Yield the files with the idle time of each GT that computes, in milliseconds.

    xe names its GTs, and that of the media engines ends in "-mc". i915 does not: its GTs all count.
    """
    if drm.driver == _XE:
        for tile in filter(_TILE.fullmatch, names_in(drm.path)):
            for gt in filter(_GT.fullmatch, names_in(drm.path / tile)):
                folder = drm.path / tile / gt / "gtidle"
                if not _is_media(folder):
                    yield folder / "idle_residency_ms"
        return
    card = root / "class" / "drm" / f"card{drm.number}"
    gts = [card / "gt" / gt / "rc6_residency_ms" for gt in names_in(card / "gt") if _GT.fullmatch(gt)]
    yield from gts or [path for path in [card / "power" / "rc6_residency_ms"] if path.exists()]


def _is_media(folder: Path) -> bool:
    try:
        return read_text(folder / "name").endswith(_MEDIA)
    except UnreadableError:
        return False


def _energy_files(hwmon: Path) -> list[Path]:
    """Return the counters of energy in microjoules. xe: the first is the card's, the second its package's."""
    files = [hwmon / f"energy{number}_input" for number in (1, 2)]
    # Always the same one: the growth is that of one counter.
    return [path for path in files if path.exists()][:1] or files[:1]


def _joules(drm: DrmCard) -> float:
    """Return the energy of the card, else of its package."""
    folders = hwmon_folders(drm.path, *DRIVERS)
    if not folders:
        raise UnreadableError("there are no sensors (hwmon)")
    return read_whole(_energy_files(folders[0])[0], _LONGEST_COUNTER) / 1_000_000


def _celsius(drm: DrmCard) -> float:
    folders = hwmon_folders(drm.path, *DRIVERS)
    if not folders:
        raise UnreadableError("there are no sensors (hwmon)")
    labelled = dict(labelled_temperatures(folders[0]))
    if not labelled:
        return read_celsius(folders[0] / ("temp2_input" if drm.driver == _XE else "temp1_input"))
    if _PACKAGE not in labelled:
        raise UnreadableError(f"hwmon has no temperature {_PACKAGE}")
    return read_celsius(labelled[_PACKAGE])
