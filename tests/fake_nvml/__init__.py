# SPDX-License-Identifier: Apache-2.0
"""A fake NVIDIA driver: a real shared library with NVML's interface, and a node to configure.

The law of this module: what a ``FakeNvml`` is told holds from the next call on, in every process that
loaded its library. Only the list of cards is like the real driver's: it is taken when NVML is initialised.
"""

import ctypes
import mmap
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
INSUFFICIENT_POWER = 8
DRIVER_NOT_LOADED = 9
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
LIB_RM_VERSION_MISMATCH = 18
ARGUMENT_VERSION_MISMATCH = 25
GPU_NOT_FOUND = 28
UNKNOWN = 999

GIB = 1 << 30

CALLS = (
    "init",
    "shutdown",
    "driver version",
    "count",
    "handle",
    "uuid",
    "name",
    "index",
    "pci",
    "utilisation",
    "memory v1",
    "memory v2",
    "temperature v1",
    "temperature v2",
    "power",
    "mig mode",
    "mig slots",
    "mig handle",
    "minor",
    "gpu instance",
    "compute instance",
    "gpm support",
    "gpm alloc",
    "gpm free",
    "gpm sample",
    "gpm mig sample",
    "gpm metrics",
    "field values",
    "pcie throughput",
    "compute processes",
    "graphics processes",
    "process utilisation",
)
"""Every call that can be made to err (but for "shutdown"), to dawdle or to hang, and is counted.

The order is that of nvml.c.
"""

_CARDS = 16
_SLICES = 8
_FLAP_CODES = 8
_LINKS = 18
GPM = ("graphics", "sm", "tensor", "dram", "pcie tx", "pcie rx", "nvlink rx", "nvlink tx")
"""The metrics of GPM: four in percent, and four in MiB/s. The order is that of nvml.c."""
FIELDS = (
    "energy",
    "nvlink links",
    "nvlink tx",
    "nvlink rx",
    "pcie tx",
    "pcie rx",
    "nvlink tx of a link",
    "nvlink rx of a link",
)
"""The field values: millijoules, a number, KiB, bytes, and bytes of each link. The order is that of nvml.c."""
_FIELDS = 10
UNSIGNED_INT, UNSIGNED_LONG, UNSIGNED_LONG_LONG = 1, 2, 3
"""Types of a field value; the first has 32 bits and the others 64."""
_PROCESSES = 8
_THREADS = 32
_MIG_UNSUPPORTED, _MIG_DISABLED, _MIG_ENABLED = range(3)
_SOURCE = Path(__file__).with_name("nvml.c")


class Memory(NamedTuple):
    """Bytes; what the driver reserves for itself is not in ``used``."""

    used: int
    total: int
    reserved: int = 0


_CARD_MEMORY = Memory(used=0, total=80 * GIB)
_SLICE_MEMORY = Memory(used=1 * GIB, total=10 * GIB)


@dataclass(frozen=True)
class Slice:
    """One MIG slice as a test describes it; ``instances`` are its GPU's and its compute instance's ids."""

    uuid: str
    model: str = "NVIDIA Fake 80GB MIG 1g.10gb"
    memory: Memory = _SLICE_MEMORY
    instances: tuple[int, int] | None = None


@dataclass(frozen=True)
class Process:
    """A process on a card as a test describes it.

    ``sm`` and ``memory_time`` are percents at the time ``at_us``; ``sm`` is None where the driver has no sample of it.
    ``memory`` is None where the driver does not return it.
    """

    pid: int
    sm: int | None = 0
    memory: int | None = 1 * GIB
    memory_time: int = 0
    at_us: int = 1_000_000
    graphics: bool = False
    running: bool = True


@dataclass(frozen=True)
class Card:
    """One GPU as a test describes it; utilisation in percent, of the processors and of the memory.

    ``mig`` is None for a model that has none; ``slices`` holds None for an empty slot; ``minor`` is the device file's
    number, None where the driver does not tell. ``gpm`` says whether the card has GPM, ``fields`` whether it has the
    counters of ``FIELDS``.
    """

    uuid: str | bytes
    model: str | bytes = "NVIDIA Fake 80GB"
    pci_bus_id: str = "00000000:19:00.0"
    utilisation: tuple[int, int] = (0, 0)
    memory: Memory = _CARD_MEMORY
    temperature: int = 30
    power_milliwatts: int = 70_000
    mig: bool | None = None
    slices: Sequence[Slice | None] = ()
    minor: int | None = None
    gpm: bool = False
    fields: bool = False


class _GpmState(ctypes.Structure):
    _fields_ = (
        ("supported", ctypes.c_uint32),
        ("incarnation", ctypes.c_uint32),
        ("errors", ctypes.c_int32 * len(GPM)),
        ("seconds", ctypes.c_double),
        ("totals", ctypes.c_double * len(GPM)),
    )


class _FieldState(ctypes.Structure):
    _fields_ = (
        ("error", ctypes.c_int32),
        ("value_type", ctypes.c_uint32),
        ("values", ctypes.c_uint64 * _LINKS),
    )


class _SliceState(ctypes.Structure):
    _fields_ = (
        ("present", ctypes.c_uint32),
        ("errors", ctypes.c_int32 * len(CALLS)),
        ("memory_total", ctypes.c_uint64),
        ("memory_reserved", ctypes.c_uint64),
        ("memory_used", ctypes.c_uint64),
        ("gpu_instance", ctypes.c_int32),
        ("compute_instance", ctypes.c_int32),
        ("gpm", _GpmState),
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
    )


class _ProcessState(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint32),
        ("graphics", ctypes.c_uint32),
        ("running", ctypes.c_uint32),
        ("has_sample", ctypes.c_uint32),
        ("sm_percent", ctypes.c_uint32),
        ("memory_percent", ctypes.c_uint32),
        ("memory_used", ctypes.c_uint64),
        ("time_us", ctypes.c_uint64),
    )


class _CardState(ctypes.Structure):
    _fields_ = (
        ("lost", ctypes.c_int32),
        ("hang", ctypes.c_uint32),
        ("errors", ctypes.c_int32 * len(CALLS)),
        ("gpu_percent", ctypes.c_uint32),
        ("memory_percent", ctypes.c_uint32),
        ("temperature_celsius", ctypes.c_int32),
        ("power_milliwatts", ctypes.c_uint32),
        ("memory_total", ctypes.c_uint64),
        ("memory_reserved", ctypes.c_uint64),
        ("memory_used", ctypes.c_uint64),
        ("mig", ctypes.c_uint32),
        ("slots", ctypes.c_uint32),
        ("minor", ctypes.c_int32),
        ("gpm", _GpmState),
        ("fields", _FieldState * _FIELDS),
        ("pcie_kb_per_second", ctypes.c_uint32 * 2),
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
        ("pci_bus_id", ctypes.c_char * 32),
        ("slices", _SliceState * _SLICES),
        ("processes", _ProcessState * _PROCESSES),
    )


class _State(ctypes.Structure):
    _fields_ = (
        ("hang", ctypes.c_uint32),
        ("held_threads", ctypes.c_uint64 * _THREADS),
        ("driver", ctypes.c_int32),
        ("errors", ctypes.c_int32 * len(CALLS)),
        ("delays_us", ctypes.c_uint32 * len(CALLS)),
        ("calls", ctypes.c_uint64 * len(CALLS)),
        ("flap_per_mille", ctypes.c_uint32),
        ("flap_code_count", ctypes.c_uint32),
        ("flap_codes", ctypes.c_int32 * _FLAP_CODES),
        ("flap_state", ctypes.c_uint64),
        ("lists_live", ctypes.c_uint32),
        ("listed_count", ctypes.c_uint32),
        ("listed", ctypes.c_uint32 * _CARDS),
        ("gpm_samples", ctypes.c_int32),
        ("gpm_leaks", ctypes.c_uint32),
        ("gpm_mismatches", ctypes.c_uint32),
        ("cards", _CardState * _CARDS),
    )


def compiler() -> str | None:
    """The system's C compiler, if it has one."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def compile_library(directory: Path, *without: str) -> Path:
    """Compile the library into ``directory``.

    Args:
        directory: where it goes; it must exist.
        without: which symbols to leave out: "init", "memory_v2", "temperature_v", "mig", "gpm", "fields".
    """
    cc = compiler()
    assert cc, "a C compiler is needed (cc, gcc or clang)"
    library = directory / "-".join(["libfake-nvml", *(f"without-{each}" for each in without)])
    flags = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared"]
    left_out = [f"-DWITHOUT_{each.upper()}" for each in without]
    subprocess.run([cc, *flags, *left_out, "-o", str(library), str(_SOURCE)], check=True)
    return library


def forget_library() -> None:
    """Put pynvml back to where it was before it loaded a library."""
    if (pynvml := sys.modules.get("pynvml")) is not None:
        vars(pynvml).update(nvmlLib=None, _nvmlLib_refcount=0)
        vars(pynvml)["_nvmlGetFunctionPointer_cache"].clear()


class FakeNvml:
    """One node's driver, and the library to reach it by. Close it when done.

    Args:
        directory: a fresh one. The library is copied there, because a path that is loaded twice in one
            process is one library with one memory.
        compiled: what ``compile_library`` returned.
    """

    def __init__(self, directory: Path, compiled: Path) -> None:
        self.library = str(shutil.copy(compiled, directory / "libnvidia-ml.so.1"))
        path = directory / "fake-nvml.state"
        path.write_bytes(bytes(ctypes.sizeof(_State)))
        os.mkfifo(f"{path}.hanging")
        # Open for both directions, so that neither side ever waits for the other to come.
        self._hanging = os.open(f"{path}.hanging", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        with path.open("r+b") as file:
            self._mapping = mmap.mmap(file.fileno(), 0)
        self._state = _State.from_buffer(self._mapping)
        self.environment = {"FAKE_NVML_STATE": str(path)}
        self.incarnations = 0  # how often slices were assigned

    def close(self) -> None:
        """Let hanging calls go, and give everything back."""
        self.release()
        os.close(self._hanging)
        del self._state
        self._mapping.close()

    def assert_layout(self) -> None:
        """Compare the C struct with its mirror here. Loads the library: the environment must be set."""
        library = ctypes.CDLL(self.library)
        assert ctypes.c_uint32.in_dll(library, "fake_nvml_calls").value == len(CALLS)
        assert ctypes.c_uint32.in_dll(library, "fake_nvml_state_bytes").value == ctypes.sizeof(_State)

    # The node

    @property
    def devices(self) -> "tuple[FakeDevice, ...]":
        """The cards in the order in which the next initialisation lists them."""
        return tuple(FakeDevice(self, self._state.listed[each]) for each in range(self._state.listed_count))

    @devices.setter
    def devices(self, cards: Sequence[Card]) -> None:
        """Take every card out and put these in: a node at rest, its cards listed in this order."""
        ctypes.memset(self._state.cards, 0, ctypes.sizeof(self._state.cards))
        for slot, card in enumerate(cards):
            FakeDevice(self, slot).become(card)
        self.enumeration = range(len(cards))

    @property
    def enumeration(self) -> Sequence[int]:
        """Which slots the next initialisation finds, in the order of indices; ``device`` counts slots."""
        return tuple(self._state.listed[: self._state.listed_count])

    @enumeration.setter
    def enumeration(self, slots: Sequence[int]) -> None:
        for index, slot in enumerate(slots):
            self._state.listed[index] = slot
        self._state.listed_count = len(slots)

    def list_live(self) -> None:
        """From now on the driver's list of cards is ``enumeration`` at any time, not only after an initialisation."""
        self._state.lists_live = 1

    def device(self, slot: int) -> "FakeDevice":
        """The card in this slot, which it keeps whatever the driver calls it."""
        return FakeDevice(self, slot)

    def lose(self, slot: int, code: int = GPU_IS_LOST) -> None:
        """The card falls off the bus: every call about it errs, now and after an initialisation."""
        self._state.cards[slot].lost = code

    def find(self, slot: int) -> None:
        """The card answers again."""
        self._state.cards[slot].lost = 0

    # The driver

    def refuse(self, call: str, code: int) -> None:
        """Every such call errs, whichever card it is about."""
        self._state.errors[CALLS.index(call)] = code

    def allow(self, call: str) -> None:
        """Such calls no longer err."""
        self.refuse(call, 0)

    def driver_gone(self, code: int = DRIVER_NOT_LOADED) -> None:
        """Every call errs, initialisation included."""
        self._state.driver = code

    def driver_back(self) -> None:
        """The driver answers again, to whoever initialises NVML."""
        self._state.driver = 0

    @property
    def driver_is_there(self) -> bool:
        return not self._state.driver

    def delay(self, call: str, microseconds: int) -> None:
        """Every such call takes so long."""
        self._state.delays_us[CALLS.index(call)] = microseconds

    def flap(self, per_mille: int, *codes: int, seed: int = 1) -> None:
        """From now on so many of a thousand calls err, with one of these codes; 0 ends it.

        One seed gives one sequence of errors, as long as one thread calls at a time.
        """
        for number, code in enumerate(codes):
            self._state.flap_codes[number] = code
        self._state.flap_code_count = len(codes)
        self._state.flap_state = seed
        self._state.flap_per_mille = per_mille

    # A wedged driver

    def hang(self, *calls: str) -> None:
        """From now on these calls, or all without a name, do not return until ``release``; so "shutdown" may."""
        self._state.hang = sum(1 << CALLS.index(call) for call in calls or CALLS)

    def release(self) -> None:
        """Hanging calls go on, with whatever holds by now."""
        self._state.hang = 0
        for card in self._state.cards:
            card.hang = 0

    def wait_until_hanging(self, timeout_seconds: float = 30) -> None:
        """Return when a call hangs that was not waited for before; the limit is for broken tests."""
        readable, _, _ = select.select([self._hanging], [], [], timeout_seconds)
        assert readable, f"no call hung within {timeout_seconds} s"
        os.read(self._hanging, 1)

    @property
    def hanging(self) -> int:
        """How many calls hang now."""
        return sum(map(bool, self._state.held_threads))

    @property
    def held_threads(self) -> set[int]:
        """The threads whose calls hang now, by the identifiers that they have in their own process."""
        return set(self._state.held_threads) - {0}

    # What was asked

    def calls(self, *names: str) -> int:
        """How many of these calls were made, refused ones included; of any call without a name."""
        return sum(self._state.calls[CALLS.index(name)] for name in names or CALLS)

    @property
    def gpm_samples(self) -> int:
        """How many GPM samples are allocated now."""
        return int(self._state.gpm_samples)

    @property
    def gpm_leaks(self) -> int:
        """How many GPM samples were still allocated when NVML was shut down."""
        return int(self._state.gpm_leaks)

    @property
    def gpm_mismatches(self) -> int:
        """How often two GPM samples were compared that belong to different instances, or in the wrong order."""
        return int(self._state.gpm_mismatches)

    @property
    def inits(self) -> int:
        """How often NVML was initialised, in vain or not."""
        return self.calls("init")

    @property
    def shutdowns(self) -> int:
        """How often NVML was shut down."""
        return self.calls("shutdown")


class FakeDevice:
    """One card of a ``FakeNvml``: what is assigned here is what the driver answers next."""

    def __init__(self, fake: FakeNvml, slot: int) -> None:
        self._fake = fake
        self.slot = slot

    @property
    def _state(self) -> _CardState:
        # Looked up anew each time: whoever kept it would keep the mapping from being closed.
        state: _CardState = self._fake._state.cards[self.slot]
        return state

    def become(self, card: Card) -> None:
        """Put this card into the slot, healthy."""
        state = self._state
        ctypes.memset(ctypes.addressof(state), 0, ctypes.sizeof(state))
        state.uuid = card.uuid.encode() if isinstance(card.uuid, str) else card.uuid
        state.name = card.model.encode() if isinstance(card.model, str) else card.model
        state.pci_bus_id = card.pci_bus_id.encode()
        state.power_milliwatts = card.power_milliwatts
        state.minor = -1 if card.minor is None else card.minor
        self.utilisation = card.utilisation
        self.memory = card.memory
        self.temperature = card.temperature
        if card.mig is not None:
            self.mig = card.mig
        self.slices = card.slices
        state.gpm.supported = card.gpm
        for field in state.fields:
            field.error, field.value_type = 0 if card.fields else NOT_SUPPORTED, UNSIGNED_LONG_LONG

    def refuse(self, call: str, code: int = NOT_SUPPORTED) -> None:
        """Such calls about this card err."""
        self._state.errors[CALLS.index(call)] = code

    def allow(self, call: str) -> None:
        """Such calls about this card no longer err."""
        self.refuse(call, 0)

    def hang(self, *calls: str) -> None:
        """From now on these calls about this card do not return until ``release``, the driver's or the card's."""
        self._state.hang = sum(1 << CALLS.index(call) for call in calls)

    def release(self) -> None:
        """Hanging calls about this card go on."""
        self._state.hang = 0

    def refuse_slice(self, slot: int, call: str, code: int = NOT_SUPPORTED) -> None:
        """Such calls about this card's slice err."""
        self._state.slices[slot].errors[CALLS.index(call)] = code

    def run(self, seconds: float, slot: int | None = None, /, **means: float) -> None:
        """Let GPM count: the means by the names of ``GPM``, with "_" for " ", over a time; the others are 0.

        Args:
            seconds: how long.
            slot: of which slice; None for the card.
            means: percent, or MiB/s.
        """
        gpm = self._state.gpm if slot is None else self._state.slices[slot].gpm
        gpm.seconds += seconds
        for name, mean in means.items():
            gpm.totals[GPM.index(name.replace("_", " "))] += seconds * mean

    def refuse_gpm(self, name: str, code: int = NOT_SUPPORTED, slot: int | None = None) -> None:
        """One metric of GPM has an error of its own."""
        gpm = self._state.gpm if slot is None else self._state.slices[slot].gpm
        gpm.errors[GPM.index(name)] = code

    def refuse_field(self, name: str, code: int = NOT_SUPPORTED) -> None:
        """One field value has an error of its own."""
        self._state.fields[FIELDS.index(name)].error = code

    def set_field(self, name: str, *values: int, value_type: int = UNSIGNED_LONG_LONG) -> None:
        """One field value becomes this; that of single links has a value a link."""
        field = self._state.fields[FIELDS.index(name)]
        field.error, field.value_type = 0, value_type
        for number, value in enumerate(values):
            field.values[number] = value

    def set_pcie_throughput(self, *, tx: int, rx: int) -> None:
        """Set what the call of 20 ms returns, in KB/s."""
        self._state.pcie_kb_per_second[0], self._state.pcie_kb_per_second[1] = tx, rx

    @property
    def uuid(self) -> str:
        return bytes(self._state.uuid).decode()

    @uuid.setter
    def uuid(self, uuid: str) -> None:
        self._state.uuid = uuid.encode()

    @property
    def utilisation(self) -> tuple[int, int]:
        """Percent, of the processors and of the memory."""
        return self._state.gpu_percent, self._state.memory_percent

    @utilisation.setter
    def utilisation(self, percents: tuple[int, int]) -> None:
        self._state.gpu_percent, self._state.memory_percent = percents

    @property
    def memory(self) -> Memory:
        return Memory(self._state.memory_used, self._state.memory_total, self._state.memory_reserved)

    @memory.setter
    def memory(self, memory: Memory) -> None:
        _set_memory(self._state, memory)

    @property
    def temperature(self) -> int:
        """Degrees Celsius."""
        return int(self._state.temperature_celsius)

    @temperature.setter
    def temperature(self, celsius: int) -> None:
        self._state.temperature_celsius = celsius

    @property
    def power_milliwatts(self) -> int:
        return int(self._state.power_milliwatts)

    @power_milliwatts.setter
    def power_milliwatts(self, milliwatts: int) -> None:
        self._state.power_milliwatts = milliwatts

    @property
    def mig(self) -> bool:
        """Whether the card is in MIG mode."""
        return bool(self._state.mig == _MIG_ENABLED)

    @mig.setter
    def mig(self, enabled: bool) -> None:
        self._state.mig = _MIG_ENABLED if enabled else _MIG_DISABLED

    def run_processes(self, *processes: Process) -> None:
        """Take every process off the card, and put these on it."""
        ctypes.memset(self._state.processes, 0, ctypes.sizeof(self._state.processes))
        for state, each in zip(self._state.processes, processes, strict=False):
            state.pid, state.graphics, state.running = each.pid, each.graphics, each.running
            state.has_sample, state.sm_percent, state.memory_percent = (
                each.sm is not None,
                each.sm or 0,
                each.memory_time,
            )
            state.memory_used = (1 << 64) - 1 if each.memory is None else each.memory
            state.time_us = each.at_us

    @property
    def slices(self) -> Sequence[Slice | None]:
        """The card's slots for slices, None where one is empty."""
        return tuple(_slice(each) for each in self._state.slices[: self._state.slots])

    @slices.setter
    def slices(self, slices: Sequence[Slice | None]) -> None:
        self._fake.incarnations += 1
        ctypes.memset(self._state.slices, 0, ctypes.sizeof(self._state.slices))
        for state, each in zip(self._state.slices, slices, strict=False):
            if each is not None:
                state.present = 1
                state.uuid = each.uuid.encode()
                state.name = each.model.encode()
                state.gpu_instance, state.compute_instance = each.instances or (-1, -1)
                state.gpm.incarnation = self._fake.incarnations
                _set_memory(state, each.memory)
        self._state.slots = len(slices)


def _set_memory(state: _CardState | _SliceState, memory: Memory) -> None:
    state.memory_used, state.memory_total, state.memory_reserved = memory


def _slice(state: _SliceState) -> Slice | None:
    if not state.present:
        return None
    memory = Memory(state.memory_used, state.memory_total, state.memory_reserved)
    instances = (state.gpu_instance, state.compute_instance) if state.gpu_instance >= 0 else None
    return Slice(bytes(state.uuid).decode(), bytes(state.name).decode(), memory, instances)
