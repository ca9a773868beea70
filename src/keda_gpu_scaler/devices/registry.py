# SPDX-License-Identifier: Apache-2.0
"""The registry of device backends: each module in this folder registers what it can read.

Law: a vendor's module is the only place that has to change for a new backend. ``auto``, ``doctor``, ``top``, job
environments and the reference find every vendor here. A backend lists the names of device plugins in ``Device.names``.
Names with a share or a replica in them are the exception: ``core.evaluate.attribution`` knows their forms.

A vendor is one module or one package of ``keda_gpu_scaler.devices``. It bears the name of its backend, and calls
``register`` when it is imported. It imports its driver's binding only when ``Vendor.open`` is called, because
detection imports every vendor on every node. ``sysfs``, ``combined``, ``reader_threads`` and ``job_group`` serve
several vendors and register none.
"""

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from keda_gpu_scaler import devices
from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.quoting import quoted

COMBINED_BY = ","
"""Separates the names of backends that are read together: ``--backend amd,nvml``."""
AUTO = "auto"
"""The backend name that stands for every vendor whose driver is detected."""


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """The settings of ``serve`` that concern backends.

    ``library`` is the path of the driver's library, None for the vendor's default. ``replay_speed`` is the number of
    recorded seconds that pass in one second. ``sysfs_root`` is the folder at which the kernel's sysfs is mounted.
    ``wants_performance`` says whether the readings that are expensive to take are wanted now. Any thread may call it.
    ``measure_shares`` requests what the processes of each pod use of a device, where the driver returns that.
    """

    library: str | None = None
    replay_speed: float = 1.0
    sysfs_root: str = "/sys"
    wants_performance: Callable[[], bool] = lambda: False
    measure_shares: bool = False


@dataclass(frozen=True, slots=True)
class VisibleDevices:
    """The environment variables by which a runtime restricts a process or a container to some devices.

    ``process_variable`` holds ordinals or UUIDs and applies to one process; ``container_variable`` applies to a
    container, and its ordinals count the devices of the host. ``uuid_prefixes`` are the prefixes of the vendor's UUIDs.
    ``device_file`` is the name of a device file with ``{}`` in the place of its number ("nvidia{}").
    ``ordinals_count_slices`` says that the ordinals of ``process_variable`` count the slices of a device, not the
    devices.
    """

    process_variable: str
    container_variable: str
    uuid_prefixes: tuple[str, ...]
    device_file: str
    ordinals_count_slices: bool = False


@dataclass(frozen=True, slots=True)
class HostProblem:
    """A condition of this machine that keeps a device from being read: a sentence, and what to do.

    ``is_intended`` says that it may be chosen, such as a device that a virtual machine has.
    """

    text: str
    remedy: str
    is_intended: bool = False


@dataclass(frozen=True, slots=True)
class DriverCheck:
    """The checks of a vendor's driver by ``doctor``.

    ``maker`` is the vendor for people ("NVIDIA"). ``describe`` returns a sentence about the driver behind an open
    backend. ``device_files`` matches the names of the device files that the driver opens, None if it opens none.
    ``command`` is the vendor's own tool, which remedies name ("nvidia-smi"). ``remedies`` says for a metric what to do
    where it is unknown. ``seconds_between_reads`` is the time that the vendor's rates need: they are the growth of a
    counter between two reads. 0 if one read has every reading. ``host_problems`` returns what is wrong with devices
    that the driver does not list. ``resources`` are the prefixes of the resources of the vendor's device plugin, and
    its DRA driver.
    """

    maker: str
    describe: Callable[[Backend, BackendSettings], str]
    device_files: re.Pattern[str] | None
    command: str
    remedies: Mapping[str, str] = field(default_factory=dict)
    seconds_between_reads: float = 0.0
    host_problems: Callable[[BackendSettings], Sequence[HostProblem]] = lambda settings: ()
    resources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Vendor:
    """One backend, and everything that the rest of the program needs to know of it.

    Args:
        name: the value of ``--backend``, which is also the name of the vendor's module.
        title: the backend for people ("NVIDIA GPUs, through NVML").
        open: returns the backend; its arguments are what follows the colon in ``--backend NAME:ARGUMENT`` and the
            settings. Raises ``BackendError`` if the backend cannot work with these.
        argument: the name of the argument for people ("PATH"), empty if the backend has none.
        detect: returns None if the vendor's driver is present on this machine, else a sentence that says what is
            missing and what to do. Without it, ``auto`` never selects the backend.
        has_only_integrated: whether every device of the vendor on this machine is a part of the processor. Beside
            another vendor's devices, ``auto`` then leaves the vendor out: such a device drives a display.
        is_measured: whether the readings come from a driver. A recording and a demonstration are not measured, and
            every output says so.
        metrics: the device metrics that the backend can read, by their names in ``metricType``.
        units: facts about the driver's units and their conversion, for the reference.
        visible_devices: the environment variables that select devices; None if there are none.
        uuid_prefixes: the prefixes of ``Device.uuid``, by which the devices of several vendors are distinguished; by
            default those that ``visible_devices`` accepts.
        check: what ``doctor`` checks of the driver; None without a driver.
    """

    name: str
    title: str
    open: Callable[[str, BackendSettings], Backend]
    argument: str = ""
    detect: Callable[[BackendSettings], str | None] | None = None
    has_only_integrated: Callable[[BackendSettings], bool] = lambda settings: False
    is_measured: bool = False
    metrics: tuple[str, ...] = ()
    units: str = ""
    visible_devices: VisibleDevices | None = None
    uuid_prefixes: tuple[str, ...] = ()
    check: DriverCheck | None = field(default=None)

    @property
    def usage(self) -> str:
        """The backend as it is written behind ``--backend``: "nvml", "replay:PATH"."""
        return f"{self.name}:{self.argument}" if self.argument else self.name

    def has(self, uuid: str) -> bool:
        """Whether a device is one of this vendor, by its UUID."""
        accepted = self.visible_devices.uuid_prefixes if self.visible_devices else ()
        return uuid.startswith(self.uuid_prefixes or accepted)


_vendors: dict[str, Vendor] = {}


def register(vendor: Vendor) -> None:
    """Make a vendor known. Each vendor's module calls this once, when it is imported.

    Raises:
        ValueError: the name is taken.
    """
    if vendor.name in _vendors or vendor.name == AUTO:
        raise ValueError(f"devices: Duplicate value: {quoted(vendor.name)}: another backend has this name")
    _vendors[vendor.name] = vendor


def vendors() -> Iterator[Vendor]:
    """Yield every vendor, in alphabetical order of the module names; import each module just before."""
    for module in sorted(module.name for module in pkgutil.iter_modules(devices.__path__)):
        if vendor := find(module):
            yield vendor


def find(name: str) -> Vendor | None:
    """Return the vendor of this name; import its module, and no other. Return None if there is no such vendor."""
    if name not in _vendors and any(module.name == name for module in pkgutil.iter_modules(devices.__path__)):
        importlib.import_module(f"{devices.__name__}.{name}")
    return _vendors.get(name)


@functools.lru_cache(maxsize=4096)
def maker_of(uuid: str) -> str:
    """Return the maker of a device for people ("NVIDIA"), by its UUID; empty where no vendor has such UUIDs."""
    return next((vendor.check.maker for vendor in vendors() if vendor.check and vendor.has(uuid)), "")


def is_measured(source: str) -> bool:
    """Whether the readings of a snapshot's source come from a driver, and are not a recording or a demonstration.

    A backend with a driver uses its own name as the source, and a combination the names of its backends.
    """
    found = [find(name) if name.isidentifier() else None for name in source.split(COMBINED_BY)]
    return all(vendor is not None and vendor.is_measured for vendor in found)


def detect(settings: BackendSettings) -> tuple[Vendor, ...]:
    """Return every vendor whose driver is present on this machine, in the order of their names.

    A vendor with integrated devices alone is left out beside another vendor.

    Raises:
        BackendError: no driver was detected; the sentence holds what each vendor misses.
    """
    found, reasons = [], []
    for vendor in vendors():
        if vendor.detect is None:
            continue
        reason = vendor.detect(settings)
        if reason is None:
            found.append(vendor)
        else:
            reasons.append(reason)
    if found:
        return tuple([vendor for vendor in found if not vendor.has_only_integrated(settings)] or found)
    others = ", ".join(f"{vendor.usage} ({vendor.title})" for vendor in vendors() if vendor.detect is None)
    # The conditions first, and then those with a remedy behind a semicolon.
    reasons.sort(key=lambda reason: ";" in reason)
    raise BackendError(f"--backend auto: {', '.join(reasons)}; or choose another backend: {others}")


def open_backend(backend: str, settings: BackendSettings | None = None) -> Backend:
    """Return the backend that ``--backend`` names. Several are read together as one.

    Args:
        backend: "auto", "NAME", "NAME:ARGUMENT" or "NAME,NAME".
        settings: the settings that concern backends.

    Raises:
        BackendError: there is no such backend, ``auto`` detects no driver, or the backend cannot be opened.
    """
    settings = settings or BackendSettings()
    chosen = selected(backend, settings)
    if len(chosen) == 1:
        return open_vendor(chosen[0], backend, settings)
    from keda_gpu_scaler.devices.combined import CombinedBackend

    return CombinedBackend({vendor.name: vendor.open("", settings) for vendor in chosen})


def open_vendor(vendor: Vendor, backend: str, settings: BackendSettings) -> Backend:
    """Return the backend of one vendor that the value of ``--backend`` selects.

    Raises:
        BackendError: the backend cannot be opened.
    """
    return vendor.open(backend.partition(":")[2] if vendor.argument else "", settings)


def selected(backend: str, settings: BackendSettings | None = None) -> tuple[Vendor, ...]:
    """Return the vendors that the value of ``--backend`` selects.

    Raises:
        BackendError: there is no such backend, or ``auto`` detects no driver.
    """
    name, colon, argument = backend.partition(":")
    if name == AUTO and not colon:
        return detect(settings or BackendSettings())
    if COMBINED_BY in name:
        return _combination(backend)
    vendor = find(name)
    if vendor is None or bool(vendor.argument) != bool(argument) or (colon and not argument):
        choices = ", ".join((AUTO, *(vendor.usage for vendor in vendors())))
        raise BackendError(f"--backend: Unsupported value: {quoted(backend)}: must be one of {choices}")
    return (vendor,)


def _combination(backend: str) -> tuple[Vendor, ...]:
    names = [name.strip() for name in backend.split(COMBINED_BY)]
    chosen = [vendor for name in names if (vendor := find(name)) is not None and vendor.is_measured]
    if len(chosen) < len(names) or len(set(names)) < len(names):
        choices = ", ".join(vendor.name for vendor in vendors() if vendor.is_measured)
        others = [vendor for name in names if (vendor := find(name.partition(":")[0])) and not vendor.is_measured]
        hint = f"; {others[0].name} is never mixed with the devices of a node" if others else ""
        raise BackendError(
            f"--backend: Unsupported value: {quoted(backend)}: a list must have different backends of {choices}{hint}"
        )
    return tuple(chosen)
