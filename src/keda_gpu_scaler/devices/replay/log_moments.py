# SPDX-License-Identifier: Apache-2.0
"""Makes moments of the rows and pages of a log, and gives each device one identity.

Law: two devices are never read as one. A log in which nothing distinguishes its devices is refused.

A device is identified by its UUID, else by its index, else by its PCI address. Rows without any of these are one
device.
A row or page that is lost becomes a gap: the devices that it may have had are unknown there.
"""

import logging
from collections.abc import Iterable

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.replay.log_fields import LogRow
from keda_gpu_scaler.devices.replay.log_format import (
    LogError,
    Moment,
    UnreadableLineError,
    UnreadableLogError,
    ValueTally,
)
from keda_gpu_scaler.wire.snapshot_codec import MAX_SAMPLES

MAX_SPREAD_SECONDS = 1.0
"""Rows that are further apart in time than this belong to two moments, even if no device repeats."""
PASS_GAP_SECONDS = 0.05
"""Tools write the rows of one pass within this time of each other."""
INTERVAL_SECONDS = 0.2
"""A longer time between two rows is the time between two passes."""
MAX_UNNAMED = 64

_log = logging.getLogger(__name__)


class LogMoments:
    """Collects rows until their moment is complete.

    Args:
        impossible: counts values that contradict each other.
        uuid_prefix: the prefix of the vendor's UUIDs in this program ("amd-"), empty where the log has them in full.
        remedy: what to record, in the sentence that refuses a log of several devices.
    """

    def __init__(self, impossible: ValueTally, uuid_prefix: str = "", remedy: str = "record an index") -> None:
        self._impossible = impossible
        self._prefix = uuid_prefix
        self._devices: dict[str, Device] = {}
        self._index_by_key: dict[str, int] = {}
        self._uuid_by_index: dict[tuple[int, int], str] = {}
        self._group: dict[str, Sample] = {}
        self._group_at: float | None = None
        self._lost = 0
        self._has_gap = False
        self._last_at: float | None = None
        self._has_moment = False
        self._ready: list[Moment] = []
        self._unnamed = _UnnamedRows(remedy)

    def add(self, row: LogRow) -> None:
        """Add a row of a log without pages: a device that repeats, or a later time, begins the next moment.

        Raises:
            LogError: the row contradicts another one.
            UnreadableLogError: nothing distinguishes the devices of the log.
        """
        device = self._device(row)
        if self._starts_group(device, row.at_seconds):
            self._close()
        self._put(device, row)

    def lose(self) -> None:
        """Note that a row was lost."""
        if self._group and len(self._group) + self._lost >= len(self._devices):
            self._close()
        self._lost += 1

    def end_pass(self) -> None:
        """Note that the next row belongs to another moment: the log was started again."""
        self._close()

    def page(self, at_seconds: float | None, rows: Iterable[LogRow]) -> None:
        """Add a page: all devices of one moment.

        Raises:
            LogError: the page has nothing, or a device twice.
        """
        self._close()
        try:
            for row in rows:
                device = self._device(row)
                if device.uuid in self._group:
                    raise self._duplicate(device, self._group[device.uuid].device)
                self._put(device, row)
        except LogError:
            self._group = {}
            raise
        self._group_at = at_seconds
        if not self._group:
            raise LogError("has no device")
        self._close()

    def lose_page(self) -> None:
        """Note that a page was lost."""
        self._close()
        self._lost = 1
        self._close()

    def end(self) -> None:
        """Complete the last moment.

        Raises:
            UnreadableLogError: nothing distinguishes the devices of the log.
        """
        self._unnamed.check()
        self._close()

    def take(self) -> list[Moment]:
        """Return the moments that are complete, and forget them."""
        ready, self._ready = self._ready, []
        return ready

    def _starts_group(self, device: Device, at: float | None) -> bool:
        # Without times, the number of rows shows where a pass ends, the lost ones included.
        if self._lost and None in (at, self._group_at) and len(self._group) + self._lost >= len(self._devices):
            return True
        # A tool writes the time of each row: the rows of one pass may differ by some milliseconds.
        return device.uuid in self._group or (bool(self._group) and not self._is_same_pass(at))

    def _is_same_pass(self, at: float | None) -> bool:
        if at is None or self._group_at is None:
            return True
        spread = at - self._group_at
        # Times in whole seconds differ by one where the second ended during the pass.
        has_whole_seconds = at.is_integer() and self._group_at.is_integer()
        return 0 <= spread < MAX_SPREAD_SECONDS or (has_whole_seconds and spread == MAX_SPREAD_SECONDS)

    def _put(self, device: Device, row: LogRow) -> None:
        if len(self._devices) >= MAX_SAMPLES and device.uuid not in self._devices:
            raise UnreadableLineError(f"holds one device more: must be at most {MAX_SAMPLES} in a log")
        if not self._group:
            self._group_at = row.at_seconds
        # The first description of a device is kept, even if a reboot changes its index.
        known = self._devices.setdefault(device.uuid, device)
        self._uuid_by_index[device.index, row.partition or 0] = device.uuid
        self._index_by_key.setdefault(row.uuid or device.uuid, device.index)
        self._index_by_key.setdefault(device.pci_address or device.uuid, device.index)
        self._group[device.uuid] = _sample(known, row, self._impossible)

    def _close(self) -> None:
        if self._group:
            moment = Moment(self._group_at, tuple(self._group.values()))
            if self._has_gap and self._has_moment:
                self._ready.append(Moment(between(self._last_at, moment.at_seconds), ()))
            self._ready.append(moment)
            self._has_gap, self._has_moment, self._last_at = False, True, moment.at_seconds
        elif self._lost:
            self._has_gap = True
        self._group, self._group_at, self._lost = {}, None, 0

    def _device(self, row: LogRow) -> Device:
        index = self._order(row) if row.index is None else row.index
        uuid = self._uuid(row, index)
        known = self._devices.get(uuid)
        if uuid in self._group and known and known.index != index and self._is_same_pass(row.at_seconds):
            raise self._duplicate(Device(uuid, index, ""), known)
        return Device(
            uuid=uuid,
            index=index,
            model=row.model or "unknown",
            pci_address=row.pci_address or "",
            parent=row.parent,
            gpu_instance=row.instances[0],
            compute_instance=row.instances[1],
        )

    def _duplicate(self, device: Device, known: Device) -> LogError:
        sentence = (
            f'column "uuid": Invalid value: {quoted(device.uuid)}: must differ between devices, but index '
            f"{known.index} has it; leave uuid out to go by index"
        )
        # In the first pass it is a log whose identifiers were masked, later it is one line.
        return LogError(sentence) if self._has_moment else UnreadableLineError(sentence)

    def _uuid(self, row: LogRow, index: int) -> str:
        if row.uuid:
            found = row.uuid if row.uuid.startswith(self._prefix) else self._prefix + row.uuid
        elif known := self._uuid_by_index.get((index, row.partition or 0)):
            return known
        else:
            own = self._prefix and row.pci_address
            found = f"{self._prefix}{own or f'replay-gpu-{index}'}"
        return f"{found}-{row.partition}" if row.partition else found

    def _order(self, row: LogRow) -> int:
        """Return the index of a device in a log without an index column: devices are counted in order of appearance."""
        if key := row.uuid or row.pci_address:
            return self._index_by_key.get(key, len(self._devices))
        self._unnamed.add(row)
        return 0


class _UnnamedRows:
    """Finds several devices in rows that name none.

    Tools write the rows of one pass at almost the same time, and wait until the next one. Rows of one device are
    equally far apart.
    """

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy
        self._count = 0
        self._last_at: float | None = None
        self._short = 0
        self._long = 0
        self._traits: tuple[object, ...] | None = None

    def add(self, row: LogRow) -> None:
        if not self._count:
            _log.warning("no column identifies a device: all rows are read as one device")
        self._count += 1
        traits = (row.model, row.readings.get("memory_total_bytes"))
        if None not in traits or self._traits is None:
            if self._traits is not None and None not in self._traits and traits != self._traits:
                raise self._several()
            self._traits = traits
        elif row.model and self._traits[0] and row.model != self._traits[0]:
            raise self._several()
        if row.at_seconds is not None and self._last_at is not None:
            gap = row.at_seconds - self._last_at
            self._short += 0 <= gap <= PASS_GAP_SECONDS
            self._long += gap >= INTERVAL_SECONDS
        self._last_at = row.at_seconds

    def check(self) -> None:
        # Each pass of n devices has n - 1 short gaps, and one long gap before the next pass.
        if self._short and self._long <= 2 * self._short <= 2 * MAX_UNNAMED * (self._long + 1):
            raise self._several()

    def _several(self) -> UnreadableLogError:
        return UnreadableLogError(
            f"it holds rows of several devices, and no column names the device of a row: {self._remedy}"
        )


def between(before: float | None, after: float | None) -> float | None:
    """Return the time of a gap: the middle, so that the last sample is shown for about as long as it was valid."""
    if before is None or after is None or after < before:
        return before
    return before + (after - before) / 2


def _sample(device: Device, row: LogRow, impossible: ValueTally) -> Sample:
    readings = row.readings
    used, total = readings.get("memory_used_bytes"), readings.get("memory_total_bytes")
    # If the two values contradict each other, both are unknown.
    if total is not None and not (used or 0) <= total > 0:
        impossible.add(f"memory: Invalid value: {used or 0:g} of {total:g} bytes: must be at most the total")
        used, total = None, None
    return Sample(
        device=device,
        gpu_utilization_ratio=readings.get("gpu_utilization_ratio"),
        memory_utilization_ratio=readings.get("memory_utilization_ratio"),
        memory_used_bytes=None if used is None else round(used),
        memory_total_bytes=None if total is None else round(total),
        temperature_celsius=readings.get("temperature_celsius"),
        power_watts=readings.get("power_watts"),
    )
