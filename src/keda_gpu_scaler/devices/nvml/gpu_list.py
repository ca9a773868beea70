# SPDX-License-Identifier: Apache-2.0
"""The GPUs of a node: matches the GPUs that the driver lists with the GPUs that are known.

Law: every device that the driver counts is listed, also where the driver does not describe it. Two GPUs are never
taken for one, and a GPU that is known keeps its index.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from keda_gpu_scaler.core.types import Device
from keda_gpu_scaler.devices.nvml.gpu import Gpu, ListedGpu, ReadingProblem, VersionedCalls

_PLACEHOLDER = "unidentified-"
_NOT_LISTED = ReadingProblem("the driver does not list it any more")

_logger = logging.getLogger(__name__)


class GpuList:
    """Every known GPU, and a placeholder for each index of the driver without one."""

    def __init__(self) -> None:
        self._gpus: dict[str, Gpu] = {}
        self._calls: VersionedCalls | None = None
        self._named: set[str] = set()

    def __len__(self) -> int:
        return len(self._gpus)

    def __iter__(self) -> Iterator[Gpu]:
        return iter(list(self._gpus.values()))

    @property
    def has_identified(self) -> bool:
        """Whether at least one GPU is not a placeholder."""
        return any(not _is_placeholder(gpu) for gpu in self)

    @property
    def is_any_busy(self) -> bool:
        """Whether a reader thread is at work on a GPU."""
        return any(gpu.is_busy for gpu in self)

    @property
    def lost(self) -> list[Gpu]:
        """The GPUs that cannot be reached, without those that are withheld by permission."""
        return [gpu for gpu in self if gpu.handle is None and not (gpu.problem and gpu.problem.is_lasting)]

    def reset(self, calls: VersionedCalls) -> None:
        """Void every handle, because the driver was opened. A GPU at work is reset when its job is collected."""
        self._calls = calls
        for gpu in self:
            if gpu.job is None:
                gpu.reset(calls)
            else:
                gpu.is_void = True

    def of_slots(self, count: int) -> list[Gpu]:
        """Return the GPU that is known at each index of the driver, with a placeholder where none is."""
        for gpu in self:
            if gpu.slot is not None and gpu.slot >= count:
                gpu.slot = None
        for uuid in [uuid for uuid, gpu in self._gpus.items() if gpu.slot is None and _is_placeholder(gpu)]:
            del self._gpus[uuid]
        at = {gpu.slot: gpu for gpu in self}
        return [at.get(slot) or self._add_placeholder(slot) for slot in range(count)]

    def due_for_look_up(self) -> list[Gpu]:
        """Return the GPUs whose handle is to be looked up now: each that has none, at every second call."""
        due = []
        for gpu in self:
            if gpu.handle is None and gpu.slot is not None and gpu.job is None:
                gpu.skips_look_up = not gpu.skips_look_up
                if gpu.skips_look_up:
                    due.append(gpu)
        return due

    def update(
        self, found: Sequence[ListedGpu], refused: Mapping[int, ReadingProblem], now: float, *, is_complete: bool
    ) -> None:
        """Take over what the driver said about some of its indices, or about all of them.

        Args:
            found: the GPUs that the driver described.
            refused: why the driver did not describe a GPU, by its index.
            now: monotonic seconds.
            is_complete: whether every index is in ``found`` or in ``refused``.
        """
        found = self._with_identities(found)
        uuids = {each.uuid for each in found}
        asked = {each.index for each in found} | set(refused)
        occupied = {each.pci_address for each in found} - {""}
        free_refusals = dict(refused)
        missing = [
            gpu
            for gpu in self
            if gpu.device.uuid not in uuids and (gpu.slot in asked or (is_complete and not _is_placeholder(gpu)))
        ]
        missing.sort(key=lambda gpu: (_is_placeholder(gpu), gpu.slot not in refused))
        for gpu in missing:
            self._settle(gpu, free_refusals, occupied, now)
        for slot, problem in free_refusals.items():
            self._add_placeholder(slot).lose(problem, now)
        for each in found:
            self._settle_found(each)

    def _settle(self, gpu: Gpu, refusals: dict[int, ReadingProblem], occupied: set[str], now: float) -> None:
        """Decide what becomes of a known GPU, or of a placeholder, that was not described."""
        if gpu.device.pci_address in occupied:
            # The replacement takes over the index, because a trigger's gpuIndex means the slot.
            _logger.info("%s was replaced by another GPU at %s", gpu, gpu.device.pci_address)
            del self._gpus[gpu.device.uuid]
        elif refusals:
            slot = gpu.slot if gpu.slot in refusals else next(iter(refusals))
            if _is_placeholder(gpu) and slot != gpu.slot:
                del self._gpus[gpu.device.uuid]
                return
            gpu.slot = slot
            gpu.lose(refusals.pop(slot), now)
        elif _is_placeholder(gpu):
            del self._gpus[gpu.device.uuid]
        else:
            gpu.slot = None
            gpu.lose(_NOT_LISTED, now)

    def _settle_found(self, listing: ListedGpu) -> None:
        gpu = self._gpus.get(listing.uuid)
        known = gpu.device if gpu is not None else None
        device = Device(
            listing.uuid,
            known.index if known else self._free_index(listing.index),
            # One error of the driver does not erase what is known of the GPU.
            listing.model or (known.model if known else ""),
            listing.pci_address or (known.pci_address if known else ""),
            minor=known.minor if known and listing.minor is None else listing.minor,
        )
        if gpu is None:
            gpu = self._gpus[listing.uuid] = Gpu(device, listing)
            gpu.calls = self._calls
        gpu.found(device, listing)

    def _with_identities(self, found: Sequence[ListedGpu]) -> list[ListedGpu]:
        """Give each GPU a UUID of its own: the driver's where it is one, else the known one or a placeholder."""
        asked = {each.index for each in found}
        elsewhere = [gpu.device.uuid for gpu in self if gpu.slot is not None and gpu.slot not in asked]
        counts = Counter([each.uuid for each in found] + elsewhere)
        return [self._with_identity(each, counts[each.uuid] > 1) for each in found]

    def _with_identity(self, listing: ListedGpu, is_duplicate: bool) -> ListedGpu:
        problem = listing.problem
        if listing.uuid and is_duplicate:
            problem = f"its UUID {listing.uuid[:48]} is also that of another GPU"
        if not problem:
            return listing
        known = self._known_at(listing)
        if known is not None and listing.uuid in ("", known):
            return replace(listing, uuid=known, problem="")
        uuid = f"{_PLACEHOLDER}{listing.index}"
        if uuid not in self._named:
            self._named.add(uuid)
            _logger.warning(
                "GPU %d (%s, at %s) is listed as %s: %s; pods that hold it have no value",
                listing.index, listing.model or "no name", listing.pci_address or "no PCI address", uuid, problem,
            )  # fmt: skip
        return replace(listing, uuid=uuid, problem=problem)

    def _known_at(self, listing: ListedGpu) -> str | None:
        """Return the UUID of the known GPU at the same PCI address, else of the one that has the same UUID there."""
        for gpu in self:
            if _is_placeholder(gpu):
                continue
            address = gpu.device.pci_address
            if address == listing.pci_address if address and listing.pci_address else gpu.slot == listing.index:
                return gpu.device.uuid
        return None

    def _add_placeholder(self, slot: int) -> Gpu:
        uuid = f"{_PLACEHOLDER}{slot}"
        if uuid not in self._gpus:
            listing = ListedGpu("", slot, "", "", None, None)
            gpu = self._gpus[uuid] = Gpu(Device(uuid, self._free_index(slot), ""), listing)
            gpu.calls = self._calls
        return self._gpus[uuid]

    def _free_index(self, wanted: int) -> int:
        taken = {gpu.device.index for gpu in self}
        return wanted if wanted not in taken else next(index for index in range(len(taken) + 1) if index not in taken)


def _is_placeholder(gpu: Gpu) -> bool:
    return gpu.device.uuid.startswith(_PLACEHOLDER)
