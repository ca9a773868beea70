# SPDX-License-Identifier: Apache-2.0
"""The common part of the backends that read sysfs: the list of cards, indices, missing readings.

Law: every reading is independent, and a file that gives no value makes one reading unknown. A card that was listed
stays listed: without its files its readings are unknown.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.sysfs import DrmCard, UnreadableError, drm_cards

LISTING_SECONDS = 10.0
"""How often the cards and their partitions are listed: an administrator changes them by hand."""

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
        self._logged: set[tuple[str, str]] = set()

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
        samples = [sample for card in self._cards.values() for sample in self._read_or_unknown(card)]
        return tuple(sorted(samples, key=lambda sample: (sample.device.index, sample.device.uuid)))

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
            elif card.drm is None:
                _logger.info("%s is back", card)
            self._update(card, drm)
            card.drm = drm
        self._mark_lost({drm.pci_address or f"card{drm.number}" for drm in listed})

    def _mark_lost(self, keys: set[str]) -> None:
        for card in self._cards.values():
            if card.key not in keys and card.drm is not None:
                card.drm = None
                _logger.warning(
                    "%s is lost: the kernel lists it no more; its readings are unknown until it comes back", card
                )

    def _free_index(self) -> int:
        taken = {card.index for card in self._cards.values()}
        return next(index for index in range(len(taken) + 1) if index not in taken)

    def _read_or_unknown(self, card: Card) -> list[Sample]:
        return [Sample(device) for device in card.devices] if card.drm is None else self._read_card(card, card.drm)

    def _log_missing_once(self, device: Device, missing: Mapping[str, str]) -> None:
        news = {name: why for name, why in missing.items() if (device.uuid, name) not in self._logged}
        if news:
            self._logged.update((device.uuid, name) for name in news)
            reasons = ", ".join(f"{name} ({why})" for name, why in news.items())
            _logger.info("GPU %d (%s, %s) does not offer %s", device.index, device.model, device.uuid, reasons)
