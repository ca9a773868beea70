# SPDX-License-Identifier: Apache-2.0
"""NVML's return codes, what each means for a read, and the sentences for people.

Law: every call to the binding goes through ``call``, which sorts each error by what it means: one reading is not
available, one GPU is lost, or the driver is lost.
"""

from collections.abc import Callable
from typing import Any

from keda_gpu_scaler.devices.failure_log import MAX_REASON_LENGTH
from keda_gpu_scaler.devices.reader_threads import RunningCall

# Return codes of nvml.h. They are compared by number, because the exception class that pynvml makes of a code has
# changed between its versions.
UNINITIALIZED = 1
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
LIB_RM_VERSION_MISMATCH = 18
ARGUMENT_VERSION_MISMATCH = 25
GPU_NOT_FOUND = 28

DRIVER_LOST = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH})
# A handle that the driver returned and no longer knows concerns one GPU: its handle is looked up again.
_GPU_LOST = frozenset({GPU_IS_LOST, GPU_NOT_FOUND})
CALL_NOT_AVAILABLE = frozenset({NOT_SUPPORTED, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH})
"""This driver or this device does not have the call, now or later. An older call may work."""


class NvmlError(Exception):
    """A call that returned an error. ``code`` is NVML's return code, or None if the binding itself failed."""

    def __init__(self, code: int | None, cause: Exception) -> None:
        self.code = code
        self._cause = cause
        super().__init__()

    def __str__(self) -> str:
        # Formatted on demand: a GPU without a power sensor returns an error at every read, and is logged once.
        return f"{self._cause}" if self.code is not None else f"{type(self._cause).__name__}: {self._cause}"


def reason_of(error: object) -> str:
    """Return NVML's own reason with its code ("Unknown Error (999)"), printable and of bounded length."""
    code = getattr(error, "code", None)
    text = "".join([letter if letter.isprintable() else "?" for letter in str(error)])
    text = text.removesuffix(".")[:MAX_REASON_LENGTH] or "no reason"
    return text if code is None else f"{text} ({code})"


class ReadingError(NvmlError):
    """One reading is not available."""


class GpuLostError(NvmlError):
    """One GPU is lost."""


class DriverLostError(NvmlError):
    """The driver is lost: no device can be read until it is opened again."""


class DriverUnusableError(Exception):
    """The driver cannot be used, for a reason without an NVML return code. The text is a sentence for people."""


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call the binding, and sort each error by what it means for the read.

    Raises:
        ReadingError: this reading is not available.
        GpuLostError: the GPU is lost, or its handle is not valid any more.
        DriverLostError: the driver is lost.
    """
    try:
        with RunningCall(getattr(function, "__name__", "a call")):
            return function(*args)
    except NvmlError:
        raise
    except Exception as error:  # the errors of pynvml, ctypes and the decoder have no base class in common
        code = getattr(error, "value", None)
        if code in DRIVER_LOST:
            raise DriverLostError(code, error) from error
        if code in _GPU_LOST:
            raise GpuLostError(code, error) from error
        raise ReadingError(code, error) from error


def call_twice(function: Callable[..., Any], *args: Any) -> Any:
    """Call the binding, and once more after an error: a driver under load returns errors that are gone at once.

    Raises:
        NvmlError: as ``call``, of the second call.
    """
    try:
        return call(function, *args)
    except NvmlError as error:
        if error.code in CALL_NOT_AVAILABLE or error.code is None:
            raise
    return call(function, *args)


_SENTENCES = {
    DRIVER_NOT_LOADED: (
        "the NVIDIA driver's library is there but its kernel module is not loaded; see whether `nvidia-smi` runs on "
        "the node"
    ),
    NO_PERMISSION: (
        "the NVIDIA driver refuses access; this container needs the /dev/nvidia* devices (`runtimeClassName: nvidia` "
        "with NVIDIA_DRIVER_CAPABILITIES=utility) and a user who may open them"
    ),
    LIB_RM_VERSION_MISMATCH: (
        "the NVIDIA driver's library and kernel module are of different versions, as after an upgrade under a "
        "running process; restart the pod"
    ),
    UNINITIALIZED: "the NVIDIA driver was shut down under this process; it is being opened again",
    GPU_NOT_FOUND: "the NVIDIA driver no longer knows a device that it listed; its handle is looked up again",
    GPU_IS_LOST: (
        "no device answers the NVIDIA driver: all have fallen off the bus; look for Xid messages in the node's "
        "kernel log, then reset or restart the node"
    ),
    FUNCTION_NOT_FOUND: (
        "the NVIDIA driver's library has no function that is needed to list devices; point --nvml-library at the "
        "library that came with the node's driver"
    ),
}


def explain(error: NvmlError, library: str) -> str:
    """Return a sentence that says what is wrong with the driver, and what to do."""
    if error.code in _SENTENCES:
        return f"{_SENTENCES[error.code]} ({library}: {error})"
    code = "" if error.code is None else f", NVML code {error.code}"
    return f"the NVIDIA driver does not answer; see whether `nvidia-smi` runs on the node ({library}: {error}{code})"


def explain_load_error(library: str, error: OSError) -> str:
    """Return a sentence that says why the library cannot be loaded, and what to do."""
    reason = str(error).removeprefix(f"{library}: ")
    return (
        f"cannot load {library}: {reason}; the NVIDIA driver must be on the node and reach this container "
        "(`runtimeClassName: nvidia`, or `--nvml-library PATH`), or choose another `--backend`"
    )
