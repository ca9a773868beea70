# SPDX-License-Identifier: Apache-2.0
"""NVML's library: loads, opens and shuts it down, and looks GPUs up by the driver's index."""

import ctypes
import logging
import time
from collections.abc import Callable
from typing import Any

from keda_gpu_scaler.devices.nvml.errors import (
    DriverUnusableError,
    NvmlError,
    ReadingError,
    call,
    call_twice,
    explain_load_error,
    reason_of,
)
from keda_gpu_scaler.devices.nvml.gpm import Gpm
from keda_gpu_scaler.devices.nvml.gpu import ListedGpu, NewestWorkingCall, VersionedCalls, normal_pci_address

_NEEDED = (
    "nvmlInitWithFlags",
    "nvmlShutdown",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
)
_DIE_SENSOR = 0

_logger = logging.getLogger(__name__)


class NvmlDriver:
    """One library of NVML. ``pynvml`` keeps it in a variable of its module, so a process uses one at a time.

    ``gpm`` is usable once the driver was opened. ``open_seconds`` is how long it took to open the driver the last time.
    """

    def __init__(self, library_name: str) -> None:
        self.library_name = library_name
        self._library: ctypes.CDLL | None = None
        self.nvml: Any = None
        self.gpm = Gpm(None, lambda symbol: False)
        self.is_open = False
        self.open_seconds = 0.0

    def open(self) -> int:
        """Open the driver; return the number of its devices.

        Raises:
            DriverUnusableError: the library cannot be used, or the driver has no device.
            NvmlError: the driver cannot be opened.
        """
        began = time.monotonic()
        self._load()
        call(self.nvml.nvmlInit)
        self.is_open = True
        count = self.count()
        self.open_seconds = time.monotonic() - began
        if not count:
            raise DriverUnusableError(
                "the NVIDIA driver answers but lists no device; set NVIDIA_VISIBLE_DEVICES=all for this container, "
                "or keep it off nodes without a GPU"
            )
        return count

    def count(self) -> int:
        """Return the number of devices that the driver has, also of those that it does not describe.

        Raises:
            NvmlError: the driver does not return it.
        """
        return int(call_twice(self.nvml.nvmlDeviceGetCount))

    def shut_down(self) -> None:
        """Shut NVML down. An error is of no consequence, because NVML is opened again before the next call."""
        if not self.is_open:
            return
        self.is_open = False
        self.gpm.free_all()
        try:
            call(self.nvml.nvmlShutdown)
        except NvmlError as error:
            _logger.debug("NVML did not shut down: %s", error)

    def version(self) -> str | None:
        """Return the driver's version ("580.65.06"); None while it is closed or does not return a version."""
        if not self.is_open:
            return None
        try:
            return str(call(self.nvml.nvmlSystemGetDriverVersion))
        except NvmlError:
            return None

    def look_up(self, index: int, known: ListedGpu | None = None) -> ListedGpu:
        """Return the GPU at an index of the driver. What the driver does not return of it is empty.

        Args:
            index: the driver's index.
            known: what was known of the GPU at this index. Of the same GPU only what is missing is asked again.

        Raises:
            NvmlError: the driver does not return the GPU's handle, or has lost it.
        """
        handle = call_twice(self.nvml.nvmlDeviceGetHandleByIndex, index)
        uuid, problem = "", ""
        try:
            uuid = str(call_twice(self.nvml.nvmlDeviceGetUUID, handle)).strip()
            if not uuid:
                problem = "its UUID is empty"
            elif not uuid.isprintable():
                uuid, problem = "", "its UUID is not printable"
        except ReadingError as error:
            problem = f"its UUID cannot be read: {reason_of(error)}"
        if known is None or not uuid or known.uuid != uuid:
            known = ListedGpu("", index, "", "", None, handle)
        return ListedGpu(
            uuid,
            index,
            known.model or self.text(self.nvml.nvmlDeviceGetName, handle),
            known.pci_address or self._pci_address(handle),
            self.number("nvmlDeviceGetMinorNumber", handle) if known.minor is None else known.minor,
            handle,
            problem,
        )

    def text(self, function: Callable[[Any], Any], handle: Any) -> str:
        """Return a text of a device, empty where the driver does not return it."""
        try:
            value = call_twice(function, handle)
        except ReadingError:
            return ""
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
        return text if text.isprintable() else ""

    def number(self, name: str, handle: Any) -> int | None:
        """Return one of the numbers by which device plugins name a device; None if the driver does not return it."""
        try:
            return int(call_twice(getattr(self.nvml, name), handle))
        except ReadingError:
            return None

    def versioned_calls(self) -> VersionedCalls:
        """Return the readings that have an older call, each with the newest call first."""
        nvml = self.nvml
        has_new_temperature = hasattr(nvml, "nvmlDeviceGetTemperatureV")

        def nvmlDeviceGetMemoryInfo_v2(handle: Any) -> Any:  # noqa: N802
            return nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)

        def nvmlDeviceGetTemperatureV(handle: Any) -> Any:  # noqa: N802
            return nvml.nvmlDeviceGetTemperatureV(handle, _DIE_SENSOR)

        def nvmlDeviceGetTemperature(handle: Any) -> Any:  # noqa: N802
            return nvml.nvmlDeviceGetTemperature(handle, _DIE_SENSOR)

        # The functions have NVML's names, because a call that hangs is named in messages.
        newer = [nvmlDeviceGetTemperatureV] if has_new_temperature else []
        return VersionedCalls(
            # Version 1 counts the memory that the driver reserves for itself as used, so it is the second choice.
            memory=NewestWorkingCall(nvmlDeviceGetMemoryInfo_v2, nvml.nvmlDeviceGetMemoryInfo),
            temperature=NewestWorkingCall(*newer, nvmlDeviceGetTemperature),
        )

    def _pci_address(self, handle: Any) -> str:
        def nvmlDeviceGetPciInfo(handle: Any) -> Any:  # noqa: N802
            return self.nvml.nvmlDeviceGetPciInfo(handle).busId

        return normal_pci_address(self.text(nvmlDeviceGetPciInfo, handle))

    def _load(self) -> None:
        if self.nvml is None:
            self.nvml = call(_import_binding)
        if self._library is None:
            try:
                library = ctypes.CDLL(self.library_name)
            except OSError as error:
                raise DriverUnusableError(explain_load_error(self.library_name, error)) from error
            missing = [symbol for symbol in _NEEDED if not hasattr(library, symbol)]
            if missing:
                raise DriverUnusableError(
                    f"{self.library_name} has no {missing[0]}: it is not an NVML library, or it belongs to a driver "
                    "that is too old; point --nvml-library at the library that came with the node's driver"
                )
            self._library = library
            self.gpm = Gpm(self.nvml, lambda symbol: hasattr(library, symbol))
        # The library is loaded here and not by pynvml, which would hide the loader's reason and knows one name only.
        # The function pointers that pynvml has cached may belong to another library.
        self.nvml.nvmlLib = self._library
        self.nvml._nvmlGetFunctionPointer_cache.clear()


def _import_binding() -> Any:
    import pynvml

    return pynvml
