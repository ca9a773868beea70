# SPDX-License-Identifier: Apache-2.0
"""The NVML backend: opens the driver, lists its GPUs and MIG slices, and reads them.

Law: every reading is independent. A call that returns an error makes one reading unknown, and affects no other
reading, no other device and no other read. Only the loss of the driver ends a read.
"""

import ctypes
import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.nvml import LIBRARY
from keda_gpu_scaler.devices.nvml.errors import (
    CALL_NOT_AVAILABLE,
    DRIVER_LOST,
    NO_PERMISSION,
    NOT_FOUND,
    DriverLostError,
    DriverUnusableError,
    GpuLostError,
    NvmlError,
    ReadingError,
    call,
    explain,
    explain_load_error,
)
from keda_gpu_scaler.devices.nvml.gpu import (
    IMPOSSIBLE_CELSIUS,
    Gpu,
    ListedGpu,
    MigSlice,
    NewestWorkingCall,
    VersionedCalls,
    describe,
    memory_bytes,
    missing_readings,
    normal_pci_address,
    ratio,
    watts,
    within,
)

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
"""The driver is opened again after the first wait, then after twice as long, and so on up to this limit."""
MIG_LAYOUT_SECONDS = 10.0
"""How often the MIG layout is read: it takes two dozen calls a GPU, and an administrator changes it by hand."""

_NEEDED = (
    "nvmlInitWithFlags",
    "nvmlShutdown",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
)
_DIE_SENSOR = 0
_MIG_ENABLED = 1

_logger = logging.getLogger(__name__)


class NvmlBackend:
    """Reads every NVIDIA GPU of the node, and the MIG slices in the place of a GPU in MIG mode.

    A GPU keeps the index with which it was listed first, whatever order the driver lists it in later. It stays listed
    when it falls off the bus, until another GPU is at its PCI address. A slice stays listed until its GPU reports its
    complete layout without the slice. ``pynvml`` keeps the library in a variable of its module, so one process reads
    through one library at a time.

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
        self._gpus: dict[str, Gpu] = {}
        self._all_listed = False
        self._failure = ""
        self._retry_at: float | None = None
        self._wait_seconds = FIRST_WAIT_SECONDS
        self._logged: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed"
        return f"<NvmlBackend {self._library_name} {state}, {len(self._gpus)} GPUs>"

    def read(self, now: float) -> tuple[Sample, ...]:
        """Return one sample of every device, in the order of their indices.

        Args:
            now: monotonic seconds, for the back-off and for the age of the MIG layout.

        Raises:
            BackendError: the driver cannot be opened, or was lost during the read.
        """
        if self._retry_at is not None and now < self._retry_at:
            if not self._is_open:
                raise BackendError(self._failure)
        elif self._retry_at is not None or not self._is_open:
            self._open(now)
        try:
            samples = [sample for gpu in self._gpus.values() for sample in self._read_gpu(gpu, now)]
        except DriverLostError as error:
            self._fail(now, explain(error, self._library_name))
        self._plan_retry(now)
        return tuple(sorted(samples, key=lambda sample: (sample.device.index, sample.device.uuid)))

    def driver_version(self) -> str | None:
        """Return the driver's version ("580.65.06"); None while it is closed or does not return a version."""
        if not self._is_open:
            return None
        try:
            return str(call(self._nvml.nvmlSystemGetDriverVersion))
        except NvmlError:
            return None

    def close(self) -> None:
        """Shut NVML down. The GPUs that were listed stay known, and the next read opens NVML at once."""
        self._shut_down()
        self._retry_at = None
        self._wait_seconds = FIRST_WAIT_SECONDS

    # Opening, closing and the back-off

    def _open(self, now: float) -> None:
        self._shut_down()
        self._retry_at = None
        try:
            self._load()
            call(self._nvml.nvmlInit)
            self._is_open = True
            self._list_gpus()
        except DriverUnusableError as error:
            self._fail(now, str(error))
        except NvmlError as error:
            self._fail(now, explain(error, self._library_name))
        self._failure = ""

    def _load(self) -> None:
        if self._nvml is None:
            self._nvml = call(_import_binding)
        if self._library is None:
            try:
                library = ctypes.CDLL(self._library_name)
            except OSError as error:
                raise DriverUnusableError(explain_load_error(self._library_name, error)) from error
            missing = [symbol for symbol in _NEEDED if not hasattr(library, symbol)]
            if missing:
                raise DriverUnusableError(
                    f"{self._library_name} has no {missing[0]}: it is not an NVML library, or it belongs to a driver "
                    "that is too old; point --nvml-library at the library that came with the node's driver"
                )
            self._library = library
        # The library is loaded here and not by pynvml, which would hide the loader's reason and knows one name only.
        # The function pointers that pynvml has cached may belong to another library.
        self._nvml.nvmlLib = self._library
        self._nvml._nvmlGetFunctionPointer_cache.clear()

    def _fail(self, now: float, sentence: str) -> NoReturn:
        self._shut_down()
        self._failure = sentence
        self._schedule_retry(now)
        raise BackendError(sentence)

    def _plan_retry(self, now: float) -> None:
        """After a read: end the back-off if every GPU was read, else schedule that the driver is opened again."""
        if self._all_listed and not any(gpu.is_lost for gpu in self._gpus.values()):
            # Only a complete read ends the back-off. A driver that opens and then cannot be read would otherwise be
            # opened once a second for ever.
            self._wait_seconds = FIRST_WAIT_SECONDS
            self._retry_at = None
        elif self._retry_at is None:
            self._schedule_retry(now)

    def _schedule_retry(self, now: float) -> None:
        self._retry_at = now + self._wait_seconds
        self._wait_seconds = min(2 * self._wait_seconds, LONGEST_WAIT_SECONDS)

    def _shut_down(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for gpu in self._gpus.values():
            gpu.handle = None
        try:
            call(self._nvml.nvmlShutdown)
        except NvmlError as error:
            _logger.debug("NVML did not shut down: %s", error)

    # Listing the GPUs

    def _list_gpus(self) -> None:
        count = call(self._nvml.nvmlDeviceGetCount)
        if not count:
            raise DriverUnusableError(
                "the NVIDIA driver answers but lists no device; set NVIDIA_VISIBLE_DEVICES=all for this container, "
                "or keep it off nodes without a GPU"
            )
        listed: list[ListedGpu] = []
        errors: list[NvmlError] = []
        for index in range(count):
            try:
                listed.append(self._identify(index))
            except NvmlError as error:
                if error.code in DRIVER_LOST:
                    raise
                errors.append(error)
        if not listed and not self._gpus:
            raise errors[0]
        # A GPU that is withheld by permission stays withheld: opening the driver again would not help.
        self._all_listed = all(error.code == NO_PERMISSION for error in errors)
        self._update_gpus(listed)

    def _identify(self, index: int) -> ListedGpu:
        handle = call(self._nvml.nvmlDeviceGetHandleByIndex, index)
        uuid = call(self._nvml.nvmlDeviceGetUUID, handle)
        minor = self._number("nvmlDeviceGetMinorNumber", handle)
        return ListedGpu(uuid, index, self._model(handle), self._pci_address(handle), minor, handle)

    def _model(self, handle: Any) -> str:
        try:
            return str(call(self._nvml.nvmlDeviceGetName, handle))
        except ReadingError:
            return ""

    def _pci_address(self, handle: Any) -> str:
        try:
            return normal_pci_address(call(lambda: self._nvml.nvmlDeviceGetPciInfo(handle).busId))
        except ReadingError:
            return ""

    def _number(self, name: str, handle: Any) -> int | None:
        """Return one of the numbers by which device plugins name a device; None if the driver does not return it."""
        try:
            return int(call(getattr(self._nvml, name), handle))
        except ReadingError:
            return None

    def _update_gpus(self, listed: list[ListedGpu]) -> None:
        """Match the GPUs that the driver lists now with the GPUs that are known."""
        uuids = {each.uuid for each in listed}
        occupied = {each.pci_address for each in listed} - {""}
        for gpu in list(self._gpus.values()):
            if gpu.device.uuid in uuids:
                continue
            if gpu.device.pci_address in occupied:
                # The replacement takes over the index, because a trigger's gpuIndex means the slot.
                _logger.info("%s was replaced by another GPU at %s", gpu, gpu.device.pci_address)
                del self._gpus[gpu.device.uuid]
            else:
                self._mark_lost(gpu, "the driver does not list it any more")
        for each in listed:
            known = self._gpus.get(each.uuid)
            index = known.device.index if known else self._free_index(each.index)
            device = Device(each.uuid, index, each.model, each.pci_address, minor=each.minor)
            if known:
                known.reset(device, self._versioned_calls(), each.handle)
            else:
                self._gpus[each.uuid] = Gpu(device, self._versioned_calls(), each.handle)

    def _free_index(self, wanted: int) -> int:
        taken = {gpu.device.index for gpu in self._gpus.values()}
        return wanted if wanted not in taken else next(index for index in range(len(taken) + 1) if index not in taken)

    def _versioned_calls(self) -> VersionedCalls:
        nvml = self._nvml
        new_temperature = getattr(nvml, "nvmlDeviceGetTemperatureV", None)
        return VersionedCalls(
            memory=NewestWorkingCall(
                # Version 1 counts the memory that the driver reserves for itself as used, so it is the second choice.
                lambda handle: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2),
                nvml.nvmlDeviceGetMemoryInfo,
            ),
            temperature=NewestWorkingCall(
                *([lambda handle: new_temperature(handle, _DIE_SENSOR)] if new_temperature else []),
                lambda handle: nvml.nvmlDeviceGetTemperature(handle, _DIE_SENSOR),
            ),
        )

    def _mark_lost(self, gpu: Gpu, reason: object) -> None:
        gpu.handle = None
        if not gpu.is_lost:
            gpu.is_lost = True
            _logger.warning("%s is lost: %s; its readings are unknown until it comes back", gpu, reason)

    # Reading

    def _read_gpu(self, gpu: Gpu, now: float) -> list[Sample]:
        if gpu.handle is None:
            return gpu.samples_without_readings()
        try:
            if now >= gpu.layout_due_at:
                self._read_layout(gpu, now)
            if gpu.slices is None:
                samples = [self._read_whole_gpu(gpu)]
            else:
                samples = [self._read_slice(each) for each in gpu.slices]
        except GpuLostError as error:
            self._mark_lost(gpu, error)
            return gpu.samples_without_readings()
        gpu.listed = tuple(sample.device for sample in samples)
        if gpu.is_lost:
            gpu.is_lost = False
            _logger.info("%s is back", gpu)
        return samples

    def _read_whole_gpu(self, gpu: Gpu) -> Sample:
        errors: dict[str, ReadingError] = {}

        def reading(name: str, function: Callable[[Any], Any]) -> Any:
            try:
                return call(function, gpu.handle)
            except ReadingError as error:
                # Kept without its traceback, whose frames hold this dictionary: a GPU without a sensor would leave a
                # reference cycle at every read.
                errors[name] = error.with_traceback(None)
                return None

        rates = reading("utilization", self._nvml.nvmlDeviceGetUtilizationRates)
        used, total = memory_bytes(reading("memory", gpu.calls.memory))
        sample = Sample(
            gpu.device,
            gpu_utilization_ratio=ratio(rates and rates.gpu),
            memory_utilization_ratio=ratio(rates and rates.memory),
            memory_used_bytes=used,
            memory_total_bytes=total,
            temperature_celsius=within(reading("temperature", gpu.calls.temperature), IMPOSSIBLE_CELSIUS),
            power_watts=watts(reading("power", self._nvml.nvmlDeviceGetPowerUsage)),
        )
        if missing := missing_readings(sample):
            self._log_missing_once(gpu.device, {name: errors.get(name, "an impossible value") for name in missing})
        return sample

    def _read_slice(self, each: MigSlice) -> Sample:
        # The handle of a slice returns its memory only. Temperature and power belong to the whole board: they are
        # never divided, and repeating them for every slice would count them several times.
        if each.memory is None:
            return Sample(each.device)
        try:
            used, total = memory_bytes(call(each.memory))
        except ReadingError as error:
            used, total = None, None
            self._log_missing_once(each.device, {"memory": error})
        return Sample(each.device, memory_used_bytes=used, memory_total_bytes=total)

    def _log_missing_once(self, device: Device, missing: Mapping[str, object]) -> None:
        news = {name: why for name, why in missing.items() if (device.uuid, name) not in self._logged}
        if news:
            self._logged.update((device.uuid, name) for name in news)
            reasons = ", ".join(f"{name} ({why})" for name, why in news.items())
            _logger.info("%s does not offer %s", describe(device), reasons)

    # MIG

    def _read_layout(self, gpu: Gpu, now: float) -> None:
        try:
            is_in_mig_mode = self._is_in_mig_mode(gpu)
            gpu.was_in_mig_mode = bool(is_in_mig_mode)
            gpu.slices = self._read_slices(gpu) if is_in_mig_mode else None
        except ReadingError as error:
            # A GPU in MIG mode returns the memory of the whole GPU too. To read it as a whole GPU, or through handles
            # of slices that may have changed, would give a wrong number. The next read asks for the layout again.
            gpu.forget_layout()
            if not gpu.is_layout_unknown:
                gpu.is_layout_unknown = True
                _logger.warning(
                    "%s does not report its MIG layout: %s; its readings are unknown until it does", gpu, error
                )
            return
        if gpu.is_layout_unknown:
            gpu.is_layout_unknown = False
            _logger.info("%s reports its MIG layout again", gpu)
        if is_in_mig_mode is None:
            gpu.layout_due_at = math.inf  # this model has no MIG, and never will
        elif gpu.slices is None or all(each.memory for each in gpu.slices):
            gpu.layout_due_at = now + MIG_LAYOUT_SECONDS
        # While a slice cannot be read, the next read asks for the layout again.

    def _is_in_mig_mode(self, gpu: Gpu) -> bool | None:
        """Return whether the GPU is in MIG mode; None if the model or the driver has no MIG."""
        try:
            mode, _ = call(self._nvml.nvmlDeviceGetMigMode, gpu.handle)
        except ReadingError as error:
            # A GPU that was in MIG mode has MIG, whatever the driver returns now.
            if error.code in CALL_NOT_AVAILABLE and not gpu.was_in_mig_mode:
                return None
            raise
        return bool(mode == _MIG_ENABLED)

    def _read_slices(self, gpu: Gpu) -> list[MigSlice]:
        slices: dict[str, MigSlice] = {}
        errors = 0
        for slot in range(call(self._nvml.nvmlDeviceGetMaxMigDeviceCount, gpu.handle)):
            try:
                each = self._slice_in(gpu, slot)
            except ReadingError as error:
                if error.code != NOT_FOUND:  # NOT_FOUND is an empty slot; a later slot may hold a slice
                    errors += 1
                    self._log_missing_once(gpu.device, {"one of its slices": error})
            else:
                slices[each.device.uuid] = each
        if not errors:
            return list(slices.values())
        # A slice that was listed before may be in the slot that returned the error, so it stays listed. If no slice
        # was read at all, the GPU itself stays listed in their place.
        kept = [device for device in gpu.listed if device.parent or not slices]
        return [*slices.values(), *(MigSlice(device) for device in kept if device.uuid not in slices)]

    def _slice_in(self, gpu: Gpu, slot: int) -> MigSlice:
        handle = call(self._nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu.handle, slot)
        uuid = call(self._nvml.nvmlDeviceGetUUID, handle)
        device = Device(
            uuid,
            gpu.device.index,
            self._model(handle),
            gpu.device.pci_address,
            parent=gpu.device.uuid,
            minor=gpu.device.minor,
            gpu_instance=self._number("nvmlDeviceGetGpuInstanceId", handle),
            compute_instance=self._number("nvmlDeviceGetComputeInstanceId", handle),
        )
        return MigSlice(device, partial(self._versioned_calls().memory, handle))


def _import_binding() -> Any:
    import pynvml

    return pynvml
