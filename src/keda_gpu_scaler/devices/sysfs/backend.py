# SPDX-License-Identifier: Apache-2.0
"""The common part of the backends that read sysfs: the list of cards, indices, missing readings.

Law: every reading is independent, and a file that gives no value makes one reading unknown. A card that was listed
stays listed: without its files its readings are unknown.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.failure_log import FailureLog, ReadingProblem
from keda_gpu_scaler.devices.sysfs import DrmCard, UnreadableError, drm_cards, is_passing

LISTING_SECONDS = 10.0
"""How often the cards and their partitions are listed: an administrator changes them by hand."""

OVERDUE_SECONDS = 5.0
"""After this time a card whose files do not answer is named. A read takes some milliseconds."""

_logger = logging.getLogger(__name__)


class Card:
    """One card, identified by its PCI address for the life of the process.

    ``devices`` are the units of the card that the kubelet assigns: the card itself, or its partitions. ``drm`` is None
    while the card is not listed.
    """

    def __init__(self, key: str, index: int, drm: DrmCard) -> None:
        self.key = key
        self.index = index
        self.drm: DrmCard | None = drm
        self.devices: tuple[Device, ...] = ()

    def __str__(self) -> str:
        return f"GPU {self.index} at {self.key}"


class SysfsBackend(ABC):
    """Reads the cards of one PCI vendor.

    A subclass says how the devices of a card are called, and how they are read. A card keeps the index with which it
    was listed first; the cards of the first listing are counted in the order of their PCI addresses.

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
        self._problems: dict[str, dict[str, ReadingProblem]] = {}  # of this read, by the device's UUID
        self._reading: tuple[Card, float] | None = None
        self._named: tuple[Card, float] | None = None  # the reading that the log names

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
        self._problems = {}
        samples = [
            self._with_failures(sample, now) for card in self._cards.values() for sample in self._read_or_unknown(card)
        ]
        self._reading = None
        self._failures.keep([sample.device.uuid for sample in samples])
        return tuple(sorted(samples, key=lambda sample: (sample.device.index, sample.device.uuid)))

    def overdue_call(self) -> str | None:
        """Return which card's files have kept ``read`` waiting for a while; None where none have.

        The first call that finds such a card writes it to the log. An instance calls this regularly, also while no
        request comes.
        """
        reading = self._reading
        if reading is None or (seconds := monotonic() - reading[1]) < OVERDUE_SECONDS:
            return None
        sentence = f"{reading[0]}: its files in sysfs have not answered for {seconds:.0f} s"
        if self._named is not reading:
            self._named = reading
            _logger.warning("%s; no device of %s is read until they do", sentence, self.maker)
        return sentence

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
    def _read_card(self, card: Card, drm: DrmCard) -> list[Sample]:
        """Read every device of a listed card."""

    def _list(self, now: float) -> None:
        try:
            listed = drm_cards(self._root, self.vendor_id)
        except UnreadableError as error:
            listed, reason = [], str(error)
        else:
            reason = f"{self._root / 'class' / 'drm'} has no card of {self.maker}"
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
            self._update(card, drm)
            card.drm = drm
        self._mark_lost({drm.pci_address or f"card{drm.number}" for drm in listed})

    def _mark_lost(self, keys: set[str]) -> None:
        for card in self._cards.values():
            if card.key not in keys and card.drm is not None:
                card.drm = None

    def _free_index(self) -> int:
        taken = {card.index for card in self._cards.values()}
        return next(index for index in range(len(taken) + 1) if index not in taken)

    def _read_or_unknown(self, card: Card) -> list[Sample]:
        if card.drm is None:
            for device in card.devices:
                self._problems[device.uuid] = {"": ReadingProblem("it is lost: the kernel does not list it")}
            return [Sample(device) for device in card.devices]
        self._reading = reading = (card, monotonic())
        samples = self._read_card(card, card.drm)
        if self._named is reading:
            _logger.info("%s: its files in sysfs have answered, after %.0f s", card, monotonic() - reading[1])
        return samples

    def _with_failures(self, sample: Sample, now: float) -> Sample:
        failures = self._failures.note(sample.device, self._problems.get(sample.device.uuid, {}), now)
        return replace(sample, failures=failures) if failures else sample

    def _note_missing(self, device: Device, missing: Mapping[str, str]) -> None:
        """Note why readings of a device are unknown in this read, by the reading; empty for all readings."""
        self._problems[device.uuid] = {
            name: ReadingProblem(why, is_lasting=bool(name) and not is_passing(why)) for name, why in missing.items()
        }
