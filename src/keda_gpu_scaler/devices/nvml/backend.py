# SPDX-License-Identifier: Apache-2.0
"""How loaded are this node's NVIDIA devices? Asked of the driver's own library, NVML.

The law of this module: every reading stands alone. What one call does not answer is unknown, and takes
no other reading, no other device and no other tick with it. Only the loss of the driver ends a tick.
"""

import ctypes
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.nvml import LIBRARY

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
"""The driver is opened again after the first wait, then after twice as long, and so on up to this."""
SLICES_SECONDS = 10.0
"""How often MIG's layout is looked up: two dozen calls a GPU, for what an administrator changes by hand."""

# Return codes of nvml.h. They are compared by number: which exception class pynvml makes of one has changed
# between its versions.
_UNINITIALIZED = 1
_NOT_SUPPORTED = 3
_NO_PERMISSION = 4
_NOT_FOUND = 6
_DRIVER_NOT_LOADED = 9
_FUNCTION_NOT_FOUND = 13
_GPU_IS_LOST = 15
_LIB_RM_VERSION_MISMATCH = 18
_ARGUMENT_VERSION_MISMATCH = 25
_GPU_NOT_FOUND = 28

_DRIVER_GONE = frozenset({_UNINITIALIZED, _DRIVER_NOT_LOADED, _LIB_RM_VERSION_MISMATCH})
# A handle that the driver handed out and now calls unknown says that our view of the node is out of date;
# while devices are being listed the same code speaks of one device only.
_ENDS_THE_TICK = _DRIVER_GONE | {_GPU_NOT_FOUND}
# The call is not there, for this driver or this device, and will not come: worth trying the older one.
_TRY_THE_OLDER_CALL = frozenset({_NOT_SUPPORTED, _FUNCTION_NOT_FOUND, _ARGUMENT_VERSION_MISMATCH})

_NEEDED = (
    "nvmlInitWithFlags",
    "nvmlShutdown",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
)
_DIE_SENSOR = 0
_MIG_ENABLED = 1

# NVML's "not available" is all bits set, and drivers have been seen to hand it out as a value. No die
# survives the one limit, no board draws the other, and memory must fit the wire's int64.
_IMPOSSIBLE_CELSIUS = 200
_IMPOSSIBLE_WATTS = 100_000
_IMPOSSIBLE_BYTES = 1 << 63

_logger = logging.getLogger(__name__)


class NvmlBackend:
    """Every NVIDIA GPU of the node, and in place of a GPU in MIG mode its slices.

    A card keeps the index it was first seen with, whatever order the driver lists it in later; it stays
    listed when it falls off the bus, until another card sits at its PCI address. A slice stays listed
    until its card, asked for all it has, does not name it. ``pynvml`` keeps the library in a variable of
    its module, so one process reads through one library at a time.

    Args:
        library: the path of NVML's library; by default the dynamic loader looks for ``LIBRARY``.
    """

    source = "nvml"
    deviceless = False

    def __init__(self, library: str | None = None) -> None:
        self._library_name = library or LIBRARY
        self._library: ctypes.CDLL | None = None
        self._nvml: Any = None
        self._is_open = False
        self._cards: dict[str, _Card] = {}
        self._all_listed = False
        self._failure = ""
        self._retry_at: float | None = None
        self._wait_seconds = FIRST_WAIT_SECONDS
        self._told: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed"
        return f"<NvmlBackend {self._library_name} {state}, {len(self._cards)} cards>"

    def read(self, now: float) -> tuple[Sample, ...]:
        """Return one sample of every device, in the order of their indices.

        Args:
            now: monotonic seconds, for the back-off and for looking at MIG's layout again.

        Raises:
            BackendError: the driver cannot be opened, or was lost while it was read.
        """
        if self._retry_at is not None and now < self._retry_at:
            if not self._is_open:
                raise BackendError(self._failure)
        elif self._retry_at is not None or not self._is_open:
            self._open(now)
        try:
            samples = [sample for card in self._cards.values() for sample in self._read_card(card, now)]
        except _TickEndsError as refusal:
            self._give_up(now, _explain(refusal, self._library_name))
        self._plan(now)
        return tuple(sorted(samples, key=lambda sample: (sample.device.index, sample.device.uuid)))

    def driver_version(self) -> str | None:
        """Return the driver's version ("580.65.06"); None while it is closed, or does not tell."""
        if not self._is_open:
            return None
        try:
            return str(_ask(self._nvml.nvmlSystemGetDriverVersion))
        except _NvmlError:
            return None

    def close(self) -> None:
        """Shut NVML down. The cards that were seen stay known, and the next read opens it at once."""
        self._shut_down()
        self._retry_at = None
        self._wait_seconds = FIRST_WAIT_SECONDS

    # Opening, closing, and when to try again

    def _open(self, now: float) -> None:
        self._shut_down()
        self._retry_at = None
        try:
            self._load()
            _ask(self._nvml.nvmlInit)
            self._is_open = True
            self._list_cards()
        except _UnusableError as unusable:
            self._give_up(now, str(unusable))
        except _NvmlError as refusal:
            self._give_up(now, _explain(refusal, self._library_name))
        self._failure = ""

    def _load(self) -> None:
        if self._nvml is None:
            self._nvml = _ask(_import_binding)
        if self._library is None:
            try:
                library = ctypes.CDLL(self._library_name)
            except OSError as error:
                raise _UnusableError(_not_loadable(self._library_name, error)) from error
            missing = [symbol for symbol in _NEEDED if not hasattr(library, symbol)]
            if missing:
                raise _UnusableError(
                    f"{self._library_name} lacks {missing[0]}, so it is no NVML library or one of a driver too old "
                    "for us; point --nvml-library at the one that came with the node's driver"
                )
            self._library = library
        # Loaded here and not by pynvml, which would hide the loader's reason and knows one name only. Its
        # function pointers may still belong to another library.
        self._nvml.nvmlLib = self._library
        self._nvml._nvmlGetFunctionPointer_cache.clear()

    def _give_up(self, now: float, sentence: str) -> NoReturn:
        self._shut_down()
        self._failure = sentence
        self._schedule(now)
        raise BackendError(sentence)

    def _plan(self, now: float) -> None:
        """After a tick: was it whole, or must the driver be opened again for the sake of some card?"""
        if self._all_listed and not any(card.is_lost for card in self._cards.values()):
            # Only a whole tick ends the back-off: a driver that opens well and then cannot be read would
            # otherwise be opened once a second for ever.
            self._wait_seconds = FIRST_WAIT_SECONDS
            self._retry_at = None
        elif self._retry_at is None:
            self._schedule(now)

    def _schedule(self, now: float) -> None:
        self._retry_at = now + self._wait_seconds
        self._wait_seconds = min(2 * self._wait_seconds, LONGEST_WAIT_SECONDS)

    def _shut_down(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for card in self._cards.values():
            card.handle = None
        try:
            _ask(self._nvml.nvmlShutdown)
        except _NvmlError as refusal:
            _logger.debug("NVML did not shut down: %s", refusal)

    # Which cards there are

    def _list_cards(self) -> None:
        count = _ask(self._nvml.nvmlDeviceGetCount)
        if not count:
            raise _UnusableError(
                "the NVIDIA driver answers but lists no device; set NVIDIA_VISIBLE_DEVICES=all for this container, "
                "or keep it off nodes without a GPU"
            )
        found: list[_FoundDevice] = []
        refusals: list[_NvmlError] = []
        for index in range(count):
            try:
                found.append(self._identify(index))
            except _NvmlError as refusal:
                if refusal.code in _DRIVER_GONE:
                    raise
                refusals.append(refusal)
        if not found and not self._cards:
            raise refusals[0]
        # A card withheld by permission is withheld for good: opening the driver again would not bring it.
        self._all_listed = all(refusal.code == _NO_PERMISSION for refusal in refusals)
        self._adopt(found)

    def _identify(self, index: int) -> "_FoundDevice":
        handle = _ask(self._nvml.nvmlDeviceGetHandleByIndex, index)
        uuid = _ask(self._nvml.nvmlDeviceGetUUID, handle)
        minor = self._number("nvmlDeviceGetMinorNumber", handle)
        return _FoundDevice(uuid, index, self._model(handle), self._pci_address(handle), minor, handle)

    def _model(self, handle: Any) -> str:
        try:
            return str(_ask(self._nvml.nvmlDeviceGetName, handle))
        except _RefusedError:
            return ""

    def _pci_address(self, handle: Any) -> str:
        try:
            return _normal_pci_address(_ask(lambda: self._nvml.nvmlDeviceGetPciInfo(handle).busId))
        except _RefusedError:
            return ""

    def _number(self, call: str, handle: Any) -> int | None:
        """One of the numbers that device plugins call a device by; None where the driver does not tell."""
        try:
            return int(_ask(getattr(self._nvml, call), handle))
        except _RefusedError:
            return None

    def _adopt(self, found: "list[_FoundDevice]") -> None:
        """Match what the driver lists now with what was seen before."""
        listed = {each.uuid for each in found}
        taken = {each.pci_address for each in found} - {""}
        for card in list(self._cards.values()):
            if card.device.uuid in listed:
                continue
            if card.device.pci_address in taken:
                # Its successor inherits the index, which is what a trigger's gpuIndex means by it.
                _logger.info("%s was replaced by another card at %s", card, card.device.pci_address)
                del self._cards[card.device.uuid]
            else:
                self._lose(card, "the driver does not hand it out any more")
        for each in found:
            known = self._cards.get(each.uuid)
            index = known.device.index if known else self._free_index(each.index)
            device = Device(each.uuid, index, each.model, each.pci_address, minor=each.minor)
            if known:
                known.renew(device, self._calls(), each.handle)
            else:
                self._cards[each.uuid] = _Card(device, self._calls(), each.handle)

    def _free_index(self, wanted: int) -> int:
        taken = {card.device.index for card in self._cards.values()}
        return wanted if wanted not in taken else next(index for index in range(len(taken) + 1) if index not in taken)

    def _calls(self) -> "_Calls":
        nvml = self._nvml
        new_temperature = getattr(nvml, "nvmlDeviceGetTemperatureV", None)
        return _Calls(
            memory=_NewestThatWorks(
                # v1 counts what the driver reserves for itself as used, so it is only the second choice.
                lambda handle: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2),
                nvml.nvmlDeviceGetMemoryInfo,
            ),
            temperature=_NewestThatWorks(
                *([lambda handle: new_temperature(handle, _DIE_SENSOR)] if new_temperature else []),
                lambda handle: nvml.nvmlDeviceGetTemperature(handle, _DIE_SENSOR),
            ),
        )

    def _lose(self, card: "_Card", reason: object) -> None:
        card.handle = None
        if not card.is_lost:
            card.is_lost = True
            _logger.warning("%s is lost: %s; its readings are unknown until it comes back", card, reason)

    # Reading

    def _read_card(self, card: "_Card", now: float) -> list[Sample]:
        if card.handle is None:
            return card.blind()
        try:
            if now >= card.slices_due_at:
                self._look_at_layout(card, now)
            if card.slices is None:
                samples = [self._read_board(card)]
            else:
                samples = [self._read_slice(each) for each in card.slices]
        except _CardLostError as lost:
            self._lose(card, lost)
            return card.blind()
        card.listed = tuple(sample.device for sample in samples)
        if card.is_lost:
            card.is_lost = False
            _logger.info("%s is back", card)
        return samples

    def _read_board(self, card: "_Card") -> Sample:
        refusals: dict[str, _RefusedError] = {}

        def reading(name: str, call: Callable[[Any], Any]) -> Any:
            try:
                return _ask(call, card.handle)
            except _RefusedError as refusal:
                # Kept without the frames it came through, which hold this very dictionary: a card without
                # a sensor would leave a cycle for the collector on every tick.
                refusals[name] = refusal.with_traceback(None)
                return None

        rates = reading("utilization", self._nvml.nvmlDeviceGetUtilizationRates)
        used, total = _memory_bytes(reading("memory", card.calls.memory))
        sample = Sample(
            card.device,
            gpu_utilization_ratio=_ratio(rates and rates.gpu),
            memory_utilization_ratio=_ratio(rates and rates.memory),
            memory_used_bytes=used,
            memory_total_bytes=total,
            temperature_celsius=_within(reading("temperature", card.calls.temperature), _IMPOSSIBLE_CELSIUS),
            power_watts=_within(_thousandth(reading("power", self._nvml.nvmlDeviceGetPowerUsage)), _IMPOSSIBLE_WATTS),
        )
        if gaps := _gaps(sample):
            self._tell_once(card.device, {name: refusals.get(name, "an impossible value") for name in gaps})
        return sample

    def _read_slice(self, each: "_Slice") -> Sample:
        # A slice's handle answers for its memory only. Temperature and power are the whole board's: they
        # are never divided, and to repeat them for every slice would count them several times.
        if each.memory is None:
            return Sample(each.device)
        try:
            used, total = _memory_bytes(_ask(each.memory))
        except _RefusedError as refusal:
            used, total = None, None
            self._tell_once(each.device, {"memory": refusal})
        return Sample(each.device, memory_used_bytes=used, memory_total_bytes=total)

    def _tell_once(self, device: Device, gaps: "Mapping[str, object]") -> None:
        news = {name: why for name, why in gaps.items() if (device.uuid, name) not in self._told}
        if news:
            self._told.update((device.uuid, name) for name in news)
            reasons = ", ".join(f"{name} ({why})" for name, why in news.items())
            _logger.info("%s does not offer %s", _name(device), reasons)

    # MIG

    def _look_at_layout(self, card: "_Card", now: float) -> None:
        try:
            is_cut = self._is_cut(card)
            card.was_cut = bool(is_cut)
            card.slices = self._slices(card) if is_cut else None
        except _RefusedError as refusal:
            # A card in MIG mode answers for its memory as a whole too. Read on the chance that it is whole, or
            # through the handles of slices that may be others by now, it would give a number true of nothing.
            # The next tick asks again.
            card.hide()
            if not card.is_hidden:
                card.is_hidden = True
                _logger.warning(
                    "%s does not tell how it is cut into MIG slices: %s; its readings are unknown until it does",
                    card,
                    refusal,
                )
            return
        if card.is_hidden:
            card.is_hidden = False
            _logger.info("%s tells again how it is cut into MIG slices", card)
        if is_cut is None:
            card.slices_due_at = math.inf  # a model without MIG; it will not grow it
        elif card.slices is None or all(each.memory for each in card.slices):
            card.slices_due_at = now + SLICES_SECONDS
        # And where a slice is missed, the next tick looks again.

    def _is_cut(self, card: "_Card") -> bool | None:
        """Whether the card is in MIG mode; None where the model, or the driver, has no such thing."""
        try:
            mode, _ = _ask(self._nvml.nvmlDeviceGetMigMode, card.handle)
        except _RefusedError as refusal:
            # What was seen in MIG mode is no such model, whatever it says now.
            if refusal.code in _TRY_THE_OLDER_CALL and not card.was_cut:
                return None
            raise
        return bool(mode == _MIG_ENABLED)

    def _slices(self, card: "_Card") -> "list[_Slice]":
        slices: dict[str, _Slice] = {}
        refusals = 0
        for slot in range(_ask(self._nvml.nvmlDeviceGetMaxMigDeviceCount, card.handle)):
            try:
                each = self._slice(card, slot)
            except _RefusedError as refusal:
                if refusal.code != _NOT_FOUND:  # which is an empty slot; there may be a slice behind it
                    refusals += 1
                    self._tell_once(card.device, {"one of its slices": refusal})
            else:
                slices[each.device.uuid] = each
        if not refusals:
            return list(slices.values())
        # Any slice that was seen may sit in the slot that was refused, and so may all there are: then the
        # card itself goes on standing for them.
        kept = [device for device in card.listed if device.parent or not slices]
        return [*slices.values(), *(_Slice(device) for device in kept if device.uuid not in slices)]

    def _slice(self, card: "_Card", slot: int) -> "_Slice":
        handle = _ask(self._nvml.nvmlDeviceGetMigDeviceHandleByIndex, card.handle, slot)
        uuid = _ask(self._nvml.nvmlDeviceGetUUID, handle)
        device = Device(
            uuid,
            card.device.index,
            self._model(handle),
            card.device.pci_address,
            parent=card.device.uuid,
            minor=card.device.minor,
            gpu_instance=self._number("nvmlDeviceGetGpuInstanceId", handle),
            compute_instance=self._number("nvmlDeviceGetComputeInstanceId", handle),
        )
        return _Slice(device, partial(self._calls().memory, handle))


class _NvmlError(Exception):
    """A call that did not answer. ``code`` is NVML's own, or None where the binding itself stumbled."""

    def __init__(self, code: int | None, cause: Exception) -> None:
        self.code = code
        self._cause = cause
        super().__init__()

    def __str__(self) -> str:
        # Made on demand: a card without a power sensor refuses every tick, and is reported once.
        return f"{self._cause}" if self.code is not None else f"{type(self._cause).__name__}: {self._cause}"


class _RefusedError(_NvmlError):
    """The reading is not to be had."""


class _CardLostError(_NvmlError):
    """The card is not to be had."""


class _TickEndsError(_NvmlError):
    """The driver is not to be had."""


class _UnusableError(Exception):
    """The driver is not to be had, for a reason that has no NVML code. The text is the sentence."""


class _NewestThatWorks:
    """One reading that newer drivers answer through one call and older ones through another.

    The newest call that is not refused as such is remembered, so that no tick probes again.
    """

    def __init__(self, *newest_first: Callable[[Any], Any]) -> None:
        self._calls = newest_first

    def __call__(self, handle: Any) -> Any:
        while len(self._calls) > 1:
            try:
                return _ask(self._calls[0], handle)
            except _RefusedError as refusal:
                if refusal.code not in _TRY_THE_OLDER_CALL:
                    raise
                self._calls = self._calls[1:]
        return _ask(self._calls[0], handle)


@dataclass(frozen=True, slots=True)
class _Calls:
    """The readings of one card that may have to be asked for in an older way."""

    memory: _NewestThatWorks
    temperature: _NewestThatWorks


@dataclass(frozen=True, slots=True)
class _FoundDevice:
    """A card as the driver lists it."""

    uuid: str
    index: int
    model: str
    pci_address: str
    minor: int | None
    handle: Any


@dataclass(frozen=True, slots=True)
class _Slice:
    """What is listed in a card's place: a MIG slice, or whatever was seen before and does not answer.

    ``memory`` asks for it, and is None where there is nobody to ask.
    """

    device: Device
    memory: Callable[[], Any] | None = None


class _Card:
    """One card, known by its UUID for as long as the process lives.

    ``handle`` is None while the card cannot be reached. ``slices`` is None only while the card is known to
    be whole; ``was_cut`` is whether it last said that it is in MIG mode. ``listed`` is what the card was
    last seen to hand out, and what stays listed when it is lost or does not tell.
    """

    def __init__(self, device: Device, calls: _Calls, handle: Any) -> None:
        self.listed: tuple[Device, ...] = (device,)
        self.is_lost = False
        self.is_hidden = False
        self.was_cut = False
        self.renew(device, calls, handle)

    def __str__(self) -> str:
        return _name(self.device)

    def renew(self, device: Device, calls: _Calls, handle: Any) -> None:
        """Take what the driver says after it was opened; whatever came from it before is void."""
        self.device = device
        self.calls = calls
        self.handle = handle
        self.slices_due_at = -math.inf
        self.hide()

    def hide(self) -> None:
        """Keep listed what was, with nobody to ask, until the card tells how it is cut."""
        self.slices: list[_Slice] | None = [_Slice(device) for device in self.listed]

    def blind(self) -> list[Sample]:
        return [Sample(device) for device in self.listed]


def _import_binding() -> Any:
    import pynvml

    return pynvml


def _ask(call: Callable[..., Any], *args: Any) -> Any:
    """Call the binding, and sort whatever it raises by what it means for the tick."""
    try:
        return call(*args)
    except _NvmlError:
        raise
    except Exception as error:  # pynvml's, ctypes' and the decoder's errors have no base class in common
        code = getattr(error, "value", None)
        if code in _ENDS_THE_TICK:
            raise _TickEndsError(code, error) from error
        if code == _GPU_IS_LOST:
            raise _CardLostError(code, error) from error
        raise _RefusedError(code, error) from error


def _name(device: Device) -> str:
    return f"GPU {device.index} ({device.model}, {device.uuid})"


def _gaps(sample: Sample) -> list[str]:
    return [
        name
        for name, value in (
            ("utilization", sample.gpu_utilization_ratio),
            ("memory", sample.memory_used_bytes),
            ("temperature", sample.temperature_celsius),
            ("power", sample.power_watts),
        )
        if value is None
    ]


def _ratio(percent: int | None) -> float | None:
    return percent / 100 if percent is not None and 0 <= percent <= 100 else None


def _thousandth(number: int | None) -> float | None:
    return None if number is None else number / 1000


def _within(number: float | None, impossible: float) -> float | None:
    return float(number) if number is not None and 0 <= number < impossible else None


def _memory_bytes(answer: Any) -> tuple[int | None, int | None]:
    """Used and total, or neither: of an answer that contradicts itself no half is believed."""
    if answer is None:
        return None, None
    used, total = int(answer.used), int(answer.total)
    return (used, total) if used <= total and 0 < total < _IMPOSSIBLE_BYTES else (None, None)


def _normal_pci_address(bus_id: str | bytes) -> str:
    """NVML's "00000000:3B:00.0" as the rest of the world writes it: "0000:3b:00.0"."""
    text = bus_id.decode("ascii", "replace") if isinstance(bus_id, bytes) else bus_id
    domain, _, rest = text.lower().partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}"
    except ValueError:
        return ""


def _not_loadable(library: str, error: OSError) -> str:
    reason = str(error).removeprefix(f"{library}: ")
    return (
        f"cannot load {library}: {reason}; the NVIDIA driver must be on the node and reach this container "
        "(`runtimeClassName: nvidia`, or `--nvml-library PATH`), or choose another `--backend`"
    )


_SENTENCES = {
    _DRIVER_NOT_LOADED: (
        "the NVIDIA driver's library is there but its kernel module is not loaded; see whether `nvidia-smi` runs on "
        "the node"
    ),
    _NO_PERMISSION: (
        "the NVIDIA driver refuses access; this container needs the /dev/nvidia* devices (`runtimeClassName: nvidia` "
        "with NVIDIA_DRIVER_CAPABILITIES=utility) and a user who may open them"
    ),
    _LIB_RM_VERSION_MISMATCH: (
        "the NVIDIA driver's library and kernel module are of different versions, as after an upgrade under a "
        "running process; restart the pod"
    ),
    _UNINITIALIZED: "the NVIDIA driver was shut down under this process; it is being opened again",
    _GPU_NOT_FOUND: "the NVIDIA driver no longer knows a device that it listed; it is being opened again",
    _GPU_IS_LOST: (
        "no device answers the NVIDIA driver: they have fallen off the bus; look for Xid messages in the node's "
        "kernel log, then reset or restart it"
    ),
    _FUNCTION_NOT_FOUND: (
        "the NVIDIA driver's library lacks a function that is needed to list devices; point --nvml-library at the "
        "one that came with the node's driver"
    ),
}


def _explain(error: _NvmlError, library: str) -> str:
    if error.code in _SENTENCES:
        return f"{_SENTENCES[error.code]} ({library}: {error})"
    code = "" if error.code is None else f", NVML code {error.code}"
    return f"the NVIDIA driver does not answer; see whether `nvidia-smi` runs on the node ({library}: {error}{code})"
