# SPDX-License-Identifier: Apache-2.0
"""The AMD backend: lists the cards of amdgpu and their partitions, and reads them through sysfs.

Law: a card that sleeps is not woken. Its state is read first, and if it is suspended nothing else is read.

Sources: the kernel's Documentation/gpu/amdgpu and amdgpu_pm.c. Older drivers wake a suspended card for each reading,
newer ones return EPERM; EPERM is also the answer while a card is in reset. ``pcie_bw`` is never read, because its
reading sleeps for a second in the kernel.
"""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from keda_gpu_scaler.core.types import Device, PerformanceReadings, Sample
from keda_gpu_scaler.devices.amd import PCI_VENDOR, looks_like_an_apu
from keda_gpu_scaler.devices.amd.gpu_metrics import (
    APU_FORMATS,
    LONGEST_TABLE,
    GpuMetrics,
    parse,
    parse_header,
    parse_partition,
)
from keda_gpu_scaler.devices.amd.performance import CardPerformance
from keda_gpu_scaler.devices.amd.product_names import AMDGPU_IDS, product_name
from keda_gpu_scaler.devices.amd.topology import Partition, Topology, read_topology
from keda_gpu_scaler.devices.sysfs import (
    ROOT,
    ChosenSources,
    DrmCard,
    Reasons,
    UnreadableError,
    hwmon_folders,
    is_suspended,
    labelled_temperatures,
    read_bytes,
    read_celsius,
    read_percent,
    read_text,
    read_watts,
    read_whole,
)
from keda_gpu_scaler.devices.sysfs.backend import BASIC_READINGS, Card, CardReading, SysfsBackend

_WHOLE_MODE = "SPX"
_PARTITION_MODES = ("DPX", "TPX", "QPX", "CPX")
_HWMON = "amdgpu"
_NOTABLE_DIFFERENCE = 0.1
# The edge of the die, as rocm-smi reports it; MI300 has the hottest spot of the die only. Memory is no substitute.
_TEMPERATURES = ("edge", "junction", "")
_POWERS = ("power1_average", "power1_input")


class AmdCard(Card):
    """A card of amdgpu.

    ``identity`` is its UUID and its model, which it keeps while it is listed. ``is_apu`` is None until it is known.
    ``mode`` is the compute mode, empty where the card has none. ``layout_problem`` says why the partitions are not
    known, empty while they are. ``source`` says where the readings come from.
    """

    identity: tuple[str, str] | None = None
    is_apu: bool | None = None
    mode = ""
    layout_problem = ""
    source = "not read yet"

    def __init__(self, key: str, index: int, drm: DrmCard) -> None:
        super().__init__(key, index, drm)
        self.performance = CardPerformance()
        self.sources = ChosenSources()


class AmdBackend(SysfsBackend):
    """Reads every AMD GPU of the node, and the partitions in the place of a GPU that is partitioned.

    Args:
        root: the folder at which sysfs is mounted.
        names: the file of libdrm with the names of products.
        wants_performance: whether the readings that are expensive to take are wanted now.
        clock: monotonic seconds, the sampler's.
    """

    source = "amd"
    maker = "AMD"
    vendor_id = PCI_VENDOR

    def __init__(
        self,
        root: str = ROOT,
        names: str = AMDGPU_IDS,
        wants_performance: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(root)
        self._names = Path(names)
        self._wants_performance = wants_performance
        self._clock = clock

    def sources(self) -> str:
        """Return a sentence about the sources of the readings, for ``doctor``."""
        cards = [card for card in self.cards if isinstance(card, AmdCard)]
        counts = Counter(card.source for card in cards)
        problems = [f"{card}: {card.layout_problem}" for card in cards if card.layout_problem]
        problems += [difference for card in cards if (difference := self._difference(card))]
        return "; ".join([*(f"{count} from {source}" for source, count in sorted(counts.items())), *problems])

    def _difference(self, card: AmdCard) -> str:
        """Return where the two sources of a card's utilisation differ; drivers with a wrong one are known."""
        if card.drm is None or self._jobs.is_busy(card) or is_suspended(card.drm.path):
            return ""
        metrics = self._read_metrics(card, card.drm.path)
        try:
            of_table = _of_table(metrics, "gfx_ratio")()
            of_file = read_percent(card.drm.path / "gpu_busy_percent")
        except UnreadableError:
            return ""
        if abs(of_table - of_file) < _NOTABLE_DIFFERENCE:
            return ""
        return f"{card}: gpu_metrics says {of_table:.0%} and gpu_busy_percent says {of_file:.0%}; the first is reported"

    # Listing

    def _card(self, key: str, index: int, drm: DrmCard) -> AmdCard:
        return AmdCard(key, index, drm)

    def _update(self, card: Card, drm: DrmCard) -> None:
        if not isinstance(card, AmdCard):
            return
        # The names are constants of the driver: reading them wakes no card.
        device = self._whole(card, drm)
        if not (drm.path / "current_compute_partition").exists():
            card.mode, card.layout_problem, card.devices = "", "", (device,)
            return
        try:
            mode = read_text(drm.path / "current_compute_partition").upper()
        except UnreadableError as error:
            mode, problem = "", str(error)
        else:
            problem = f"current_compute_partition: {mode[:40]!a} is no known mode"
        if mode == _WHOLE_MODE or (mode not in _PARTITION_MODES and self._has_one_partition(drm)):
            card.mode, card.layout_problem, card.devices = mode, "", (device,)
        elif mode in _PARTITION_MODES:
            self._set_partitions(card, drm, device, mode)
        else:
            card.layout_problem = problem
            card.devices = card.devices or (device,)

    def _whole(self, card: AmdCard, drm: DrmCard) -> Device:
        unique_id = _unique_id(drm.path)
        if card.identity is None or card.drm is None:
            uuid = f"amd-{unique_id or card.key}"
            others = {each for one in self.cards if one is not card for each in _uuids(one)}
            # Virtual functions of one card have its unique id.
            card.sources.forget()
            card.identity = f"amd-{card.key}" if uuid in others else uuid, product_name(drm, self._names)
        uuid, model = card.identity
        names = [f"GPU-{unique_id}"] if unique_id else []
        if drm.render is not None:
            names += [f"renderD{drm.render}", f"gpu-{drm.number}-{drm.render}"]
        return Device(uuid, card.index, model, drm.pci_address, names=tuple(names))

    def _has_one_partition(self, drm: DrmCard) -> bool:
        """Whether the topology shows a card of an unknown mode as one unit."""
        topology = read_topology(self._root)
        address, _, _ = drm.pci_address.rpartition(".")
        return not topology.problems and len(topology.partitions.get(address, ())) == 1

    def _set_partitions(self, card: AmdCard, drm: DrmCard, whole: Device, mode: str) -> None:
        topology = read_topology(self._root)
        kept = {device.gpu_instance: device for device in card.devices if mode == card.mode and topology.problems}
        found = {each.gpu_instance: each for each in _partitions(topology, drm, whole, mode)}
        card.devices = tuple(device for _, device in sorted({**kept, **found}.items(), key=lambda item: item[0] or 0))
        card.mode = mode
        card.layout_problem = (
            f"its partitions are not all known ({topology.problems[0]}); the container needs the right to use its "
            "render nodes"
            if topology.problems
            else ""
        )

    # Reading

    def _read_card(self, card: Card, drm: DrmCard) -> list[CardReading]:
        if not isinstance(card, AmdCard):
            return []
        if is_suspended(drm.path):
            card.source = "the state of the card: it sleeps"
            card.performance.stop()
            samples = [_sample_of_suspended(device, drm.path) for device in card.devices]
            return [CardReading(sample, undecided=BASIC_READINGS) for sample in samples]
        metrics = self._read_metrics(card, drm.path)
        is_whole = len(card.devices) == 1 and card.devices[0].parent is None
        if is_whole and card.layout_problem:
            # The readings of a whole card are not those of a partition.
            return [CardReading(Sample(card.devices[0]), {"": card.layout_problem})]
        if is_whole:
            return [self._read_whole(card, card.devices[0], drm.path, metrics)]
        card.performance.stop()
        return [self._read_partition(device, drm, metrics) for device in card.devices]

    def _read_metrics(self, card: AmdCard, path: Path) -> GpuMetrics | str:
        """Return the table ``gpu_metrics``, or why there is none; and learn whether the card is an APU."""
        try:
            data = read_bytes(path / "gpu_metrics", LONGEST_TABLE)
            if not data and card.is_apu is None:
                card.is_apu = looks_like_an_apu(path)
            header = parse_header(data)
            card.is_apu = header.format in APU_FORMATS
            card.source = f"gpu_metrics {header}"
            return parse(data)
        except UnreadableError as error:
            if card.is_apu is None and not (path / "gpu_metrics").exists():
                card.is_apu = looks_like_an_apu(path)
            card.source = "sysfs"
            return str(error)

    def _read_whole(self, card: AmdCard, device: Device, path: Path, metrics: GpuMetrics | str) -> CardReading:
        reasons = Reasons()
        of_table = partial(_of_table, metrics)
        hwmon = _Hwmon(path)

        def known(name: str, part: str, *sources: Callable[[], float]) -> float | None:
            return reasons.reading(name, lambda: card.sources.first(f"{name} {part}", *sources))

        used, total = None, None
        try:
            used, total = _memory(card, path)
        except UnreadableError as error:
            reasons.missing["memory"] = str(error)
        sample = Sample(
            device,
            known("utilization", "gfx", of_table("gfx_ratio"), lambda: read_percent(path / "gpu_busy_percent")),
            known("utilization", "memory", of_table("memory_ratio"), lambda: read_percent(path / "mem_busy_percent")),
            used,
            total,
            known("temperature", "", of_table("celsius"), *map(hwmon.celsius, _TEMPERATURES)),
            known("power", "", of_table("watts"), *map(hwmon.watts, _POWERS)),
            performance=self._performance(card, metrics),
        )
        return CardReading(sample, {**card.performance.missing, **reasons.missing})

    def _performance(self, card: AmdCard, metrics: GpuMetrics | str) -> PerformanceReadings | None:
        if self._wants_performance():
            return card.performance.update(metrics, self._clock())
        card.performance.stop()
        return None

    def _read_partition(self, device: Device, drm: DrmCard, metrics: GpuMetrics | str) -> CardReading:
        # Temperature and power belong to the whole board, and the files do not have the memory of a partition.
        reasons = Reasons()
        number = device.gpu_instance or 0
        ratio = reasons.reading(
            "utilization",
            lambda: _of_partition(metrics, number),
            lambda: self._read_xcp_metrics(device, drm),
        )
        return CardReading(Sample(device, gpu_utilization_ratio=ratio), reasons.missing)

    def _read_xcp_metrics(self, device: Device, drm: DrmCard) -> float:
        render = next((name for name in device.names if name.startswith("renderD")), None)
        path = self._root / "class" / "drm" / render / "device" if render else drm.path
        return parse_partition(read_bytes(path / "xcp" / "xcp_metrics", LONGEST_TABLE))


class _Hwmon:
    """The sensors of a card. Its folder is looked for when the first sensor is needed."""

    def __init__(self, device: Path) -> None:
        self._device = device

    def _folder(self) -> Path:
        folders = hwmon_folders(self._device, _HWMON)
        if not folders:
            raise UnreadableError("there are no sensors (hwmon)")
        return folders[0]

    def celsius(self, label: str) -> Callable[[], float]:
        """Return how to read a temperature by its label. Without labels there is only the die's, of the label ""."""

        def read() -> float:
            folder = self._folder()
            labelled = dict(labelled_temperatures(folder))
            if not labelled:
                labelled = {"": folder / "temp1_input"}
            elif "" in labelled:
                del labelled[""]  # its label cannot be read, so it may be that of the memory
            if label not in labelled:
                raise UnreadableError("hwmon has no temperature edge or junction")
            return read_celsius(labelled[label])

        return read

    def watts(self, name: str) -> Callable[[], float]:
        """Return how to read a power by the name of its file."""

        def read() -> float:
            watts = read_watts(self._folder() / name)
            if watts == 0:
                raise UnreadableError("hwmon: a power of 0 W is impossible while the card is awake")
            return watts

        return read


def _of_table(metrics: GpuMetrics | str, field: str) -> Callable[[], float]:
    def read() -> float:
        if isinstance(metrics, str):
            raise UnreadableError(metrics)
        value: float | None = getattr(metrics, field)
        if value is None:
            raise UnreadableError(f"gpu_metrics has no {field}")
        return value

    return read


def _of_partition(metrics: GpuMetrics | str, number: int) -> float:
    if isinstance(metrics, str):
        raise UnreadableError(metrics)
    value = metrics.partitions[number] if number < len(metrics.partitions) else None
    if value is None:
        raise UnreadableError(f"gpu_metrics has no utilisation of partition {number}")
    return value


def _memory(card: AmdCard, path: Path) -> tuple[int, int]:
    """Return the used and the total memory in bytes. An APU's work is in system memory, beside a small carve-out."""
    if card.is_apu is None:
        raise UnreadableError("it is not known yet whether the card has its own memory")
    kinds = ["vram", "gtt"] if card.is_apu else ["vram"]
    if card.is_apu and not (path / "mem_info_vram_total").exists():
        kinds.remove("vram")  # newer drivers hide the carve-out where there is none
    used = sum(read_whole(path / f"mem_info_{kind}_used") for kind in kinds)
    total = sum(read_whole(path / f"mem_info_{kind}_total") for kind in kinds)
    if not used <= total or not total:
        raise UnreadableError(f"{used} of {total} bytes are used, which is impossible")
    return used, total


def _sample_of_suspended(device: Device, path: Path) -> Sample:
    """Return the sample of a card that sleeps: it runs nothing. What it cannot report awake stays unknown."""
    if device.parent is not None:
        return Sample(device)
    return Sample(
        device,
        gpu_utilization_ratio=0.0 if (path / "gpu_busy_percent").exists() else None,
        memory_utilization_ratio=0.0 if (path / "mem_busy_percent").exists() else None,
    )


def _unique_id(path: Path) -> str:
    try:
        text = read_text(path / "unique_id").lower()
        return text if len(text) == 16 and int(text, 16) else ""
    except (UnreadableError, ValueError):
        return ""


def _uuids(card: Card) -> set[str]:
    return {device.parent or device.uuid for device in card.devices}


def _partitions(topology: Topology, drm: DrmCard, whole: Device, mode: str) -> list[Device]:
    """Return the devices of a partitioned card. Partition 0 is known without the topology: it is the PCI device."""
    address, _, _ = drm.pci_address.rpartition(".")
    found = {each.number: each for each in topology.partitions.get(address, ())}
    found.setdefault(0, Partition(0, 0, ()))
    memory_mode = _memory_mode(drm.path)
    unique_id = [name for name in whole.names if name.startswith("GPU-")]
    own = [name for name in whole.names if not name.startswith("GPU-")]
    return [
        Device(
            f"{whole.uuid}-{number}",
            whole.index,
            f"{whole.model} {mode}{memory_mode}",
            f"{address}.{number}",
            parent=whole.uuid,
            gpu_instance=number,
            # Partition 0 has the device files of the PCI device.
            names=tuple(dict.fromkeys([*unique_id, *(own if number == 0 and own else partition.names)])),
        )
        for number, partition in sorted(found.items())
    ]


def _memory_mode(path: Path) -> str:
    try:
        return f" {read_text(path / 'current_memory_partition').upper()[:8]}".rstrip()
    except UnreadableError:
        return ""
