# SPDX-License-Identifier: Apache-2.0
"""Gives ``doctor`` access to this machine: device files, the kubelet's socket, the kernel's clock."""

import ctypes
import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keda_gpu_scaler.kube.podresources import DEFAULT_PATH

DRIVER_TIMEOUT_SECONDS = 15.0
"""The first call of a driver without its persistence daemon initializes the devices, which takes seconds."""
CLOCK_UNSYNCHRONISED = 5
"""``TIME_ERROR`` of adjtimex(2)."""

_TIMEX_BYTES = 512  # larger than struct timex on every platform; a zeroed one changes nothing


def _open_and_close(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))


def _kernel_clock_state() -> int:
    """Return the state of adjtimex(2), which needs no privilege.

    Raises:
        OSError: the call is forbidden, for example by a seccomp profile, or does not exist.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "adjtimex"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    state = int(library.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    if state < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return state


@dataclass(frozen=True, slots=True)
class HostAccess:
    """The access to this machine; tests replace parts of it.

    ``is_pod`` says whether this process runs in a pod. ``open_device`` opens a device file and closes it again.
    ``clock_state`` returns the state of adjtimex(2). ``sleep`` waits between two reads of a driver, in seconds.
    """

    device_directory: Path = Path("/dev")
    kubelet_socket: str = DEFAULT_PATH
    is_pod: bool = False
    open_device: Callable[[Path], None] = _open_and_close
    clock_state: Callable[[], int] = _kernel_clock_state
    driver_timeout_seconds: float = DRIVER_TIMEOUT_SECONDS
    sleep: Callable[[float], None] = time.sleep


def reason_of(error: OSError) -> str:
    """Return the reason of an error of the operating system, in lower case."""
    return (error.strerror or str(error)).lower()
