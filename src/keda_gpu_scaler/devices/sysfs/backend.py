# SPDX-License-Identifier: Apache-2.0
"""The common part of the backends that read sysfs: the list of cards, indices, missing readings.

Law: every reading is independent, and a file that gives no value makes one reading unknown. A card that was listed
stays listed: without its files its readings are unknown. A card with a file whose read hangs costs no other card a
reading.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.failure_log import FailureLog, ReadingProblem, reason_of_defect
from keda_gpu_scaler.devices.job_group import JobGroup
from keda_gpu_scaler.devices.reader_threads import DriverHangError, ReaderJob, ReaderThreads
from keda_gpu_scaler.devices.sysfs import DrmCard, UnreadableError, drm_cards, is_passing

LISTING_SECONDS = 10.0
"""How often the cards and their partitions are listed: an administrator changes them by hand."""

BASIC_READINGS = frozenset({"utilization", "memory", "temperature", "power"})

_logger = logging.getLogger(__name__)


class Card:
    """One card, identified by its PCI address for the life of the process.

    ``devices`` are the units of the card that the kubelet assigns: the card itself, or its partitions. ``drm`` is None
    while the card is not listed. ``listed_anew`` is what the last listing returned, until the card's devices are set
    by it. While a job of the card runs, only the job changes the card. ``placeholder`` is what is known of the card
    before its files are read, without a UUID.
    """

    def __init__(self, key: str, index: int, drm: DrmCard) -> None:
        self.key = key
        self.index = index
        self.placeholder = Device("", index, "", drm.pci_address, names=(f"card{drm.number}",))
        self.drm: DrmCard | None = drm
        self.listed_anew: DrmCard | None = None
        self.devices: tuple[Device, ...] = ()

    def __str__(self) -> str:
        return f"GPU {self.index} at {self.key}"


@dataclass(frozen=True, slots=True)
class CardReading:
    """One device's sample, and why readings of it are unknown, by the reading; "" for all readings.

    ``undecided`` are readings of which this read does not show whether the device has them.
    """

    sample: Sample
    missing: Mapping[str, str] = field(default_factory=dict)
    undecided: Collection[str] = ()


class SysfsBackend(ABC):
    """Reads the cards of one PCI vendor.

    A subclass says how the devices of a card are called, and how they are read. A card keeps the index with which it
    was listed first; the cards of the first listing are counted in the order of their PCI addresses.

    Every file is read in a reader thread. A card with a file whose read hangs keeps one thread until the read returns,
    and the other cards are read in another one.

    Args:
        root: the folder at which sysfs is mounted.
    """

    maker = ""
    vendor_id = ""
    deviceless = False
    source = ""

    def __init__(self, root: str) -> None:
        self._root = Path(root)
        self._cards: dict[str, Card] = {}
        self._list_at = -math.inf
        self._failures = FailureLog()
        self._offered: dict[str, set[str]] = {}  # the readings that were known once, by the device's UUID
        self._threads = ReaderThreads()
        self._jobs: JobGroup[Card] = JobGroup(self._threads)
        self._defects: dict[Card, str] = {}  # those that the log has
        self._listing: ReaderJob | None = None  # the one that has overrun

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._root}, {len(self._cards)} cards>"

    @property
    def cards(self) -> tuple[Card, ...]:
        """The cards that were listed, in the order of their indices."""
        return tuple(sorted(self._cards.values(), key=lambda card: card.index))

    def read(self, now: float) -> tuple[Sample, ...]:
        """Return one sample of every device, in the order of their indices.

        Args:
            now: monotonic seconds, for the age of the listing.

        Raises:
            BackendError: no card was ever listed.
        """
        if now >= self._list_at:
            self._list(now)
        jobs = self._jobs.run({card: partial(self._update_and_read, card) for card in self.cards if self._has(card)})
        samples = [sample for card in self.cards for sample in self._samples(card, jobs.get(card), now)]
        self._failures.keep([sample.device.uuid for sample in samples])
        return tuple(sorted(samples, key=lambda sample: (sample.device.index, sample.device.uuid)))

    def overdue_call(self) -> str | None:
        """Return None: no file keeps ``read`` waiting. The samples of a card have the file whose read hangs."""
        return None

    def close(self) -> None:
        """Forget when the cards were listed. They stay known, and the next read lists them at once."""
        self._list_at = -math.inf

    @abstractmethod
    def _card(self, key: str, index: int, drm: DrmCard) -> Card:
        """Return a new card."""

    @abstractmethod
    def _update(self, card: Card, drm: DrmCard) -> None:
        """Set the devices of a listed card. ``card.drm`` is that of the last listing, None if it was not listed."""

    @abstractmethod
    def _read_card(self, card: Card, drm: DrmCard) -> list[CardReading]:
        """Read every device of a listed card."""

    # Listing

    def _list(self, now: float) -> None:
        """Find new and removed cards. While the listing hangs, the cards that are known stay as they are."""
        is_new = self._listing is None
        job = self._listing or ReaderJob(f"the list of {self.maker}'s cards", self._listed_cards)
        if is_new:
            self._threads.run([job])
        if not job.is_done:
            self._listing = job
            self._report_hang(job, is_new=is_new)
            return
        if not is_new:
            _logger.info("%s: the read has returned, after %.0f s", job.subject, job.duration_seconds)
        self._listing = None
        if job.error is not None:
            raise job.error
        self._note_listed(job.result, now)

    def _listed_cards(self) -> tuple[list[DrmCard], str]:
        """Return the cards of the vendor, and what there is instead if there are none."""
        try:
            return drm_cards(self._root, self.vendor_id), f"{self._root / 'class' / 'drm'} has no card of {self.maker}"
        except UnreadableError as error:
            return [], str(error)

    def _report_hang(self, job: ReaderJob, *, is_new: bool) -> None:
        sentence = f"{job.subject}: {job.describe()}"
        if not self._cards:
            raise DriverHangError(f"{sentence}; look for messages of the driver in the kernel's log")
        if is_new:
            _logger.warning("%s; new and removed cards are not noticed until it returns", sentence)

    def _note_listed(self, listing: tuple[list[DrmCard], str], now: float) -> None:
        listed, reason = listing
        if not listed and not self._cards:
            raise BackendError(
                f"no {self.maker} GPU here: {reason}; load the kernel's driver on the node, or choose another --backend"
            )
        self._list_at = now + LISTING_SECONDS
        for drm in listed:
            key = drm.pci_address or f"card{drm.number}"
            card = self._cards.get(key)
            if card is None:
                card = self._cards[key] = self._card(key, self._free_index(), drm)
            if not self._jobs.is_busy(card):
                card.listed_anew = drm
        self._mark_lost({drm.pci_address or f"card{drm.number}" for drm in listed})

    def _mark_lost(self, keys: set[str]) -> None:
        for card in self._cards.values():
            if card.key not in keys and not self._jobs.is_busy(card):
                card.drm = card.listed_anew = None

    def _free_index(self) -> int:
        taken = {card.index for card in self._cards.values()}
        return next(index for index in range(len(taken) + 1) if index not in taken)

    # Reading

    def _has(self, card: Card) -> bool:
        """Whether a card is listed, or still read."""
        return card.drm is not None or card.listed_anew is not None or self._jobs.is_busy(card)

    def _update_and_read(self, card: Card) -> list[CardReading]:
        """Set a card's devices after a listing, and read them. This is the job of the card."""
        if card.listed_anew is not None:
            self._update(card, card.listed_anew)
            card.drm, card.listed_anew = card.listed_anew, None
        return [] if card.drm is None else self._read_card(card, card.drm)

    def _samples(self, card: Card, job: ReaderJob | None, now: float) -> list[Sample]:
        """Return what the job of a card read, or its devices without readings."""
        if job is None:
            return self._without_readings(card, ReadingProblem("it is lost: the kernel does not list it"), now)
        if not job.is_done:
            return self._without_readings(card, ReadingProblem(job.describe(), until="it returns"), now)
        if job.error is not None:  # a defect must not cost the other cards their readings
            return self._without_readings(card, self._defect(card, job.error), now)
        readings: list[CardReading] = job.result
        lag = job.lag_seconds()
        return [
            self._with_failures(
                replace(each.sample, lag_seconds=lag) if lag else each.sample, self._problems(each), now
            )
            for each in readings
        ]

    def _without_readings(self, card: Card, problem: ReadingProblem, now: float) -> list[Sample]:
        # A card whose first read hangs is listed by its PCI address, and gets its name when the read returns.
        devices = card.devices or (replace(card.placeholder, uuid=f"{self.source}-{card.key}"),)
        return [self._with_failures(Sample(device), {"": problem}, now) for device in devices]

    def _defect(self, card: Card, error: Exception) -> ReadingProblem:
        problem = ReadingProblem(reason_of_defect(error), until="it is repaired")
        if self._defects.get(card) != problem.reason:
            self._defects[card] = problem.reason
            _logger.error("%s: the %s backend broke its contract", card, self.source, exc_info=error)
        return problem

    def _with_failures(self, sample: Sample, problems: Mapping[str, ReadingProblem], now: float) -> Sample:
        failures = self._failures.note(sample.device, problems, now)
        return replace(sample, failures=failures) if failures else sample

    def _problems(self, reading: CardReading) -> dict[str, ReadingProblem]:
        """Return why readings are unknown. A reading that was known once is one that the device has."""
        offered = self._offered.setdefault(reading.sample.device.uuid, set())
        problems = {
            name: ReadingProblem(why, is_lasting=bool(name) and name not in offered and not is_passing(why))
            for name, why in reading.missing.items()
        }
        if "" not in problems:
            offered |= BASIC_READINGS - problems.keys() - set(reading.undecided)
        return problems
