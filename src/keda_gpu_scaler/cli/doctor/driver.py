# SPDX-License-Identifier: Apache-2.0
"""Checks the driver of this machine, its devices and its device files.

Law: a check opens what ``serve`` would open, with the same error sentences, and closes it. A driver that hangs is
abandoned after a timeout.
"""

import errno
import logging
import os
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keda_gpu_scaler.cli.doctor.findings import Finding, Heading, counted, ok, problem, skipped, split_remedy, warning
from keda_gpu_scaler.cli.doctor.host_access import HostAccess, reason_of
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.trigger.metrics import BASIC_METRICS, METRICS
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices import registry
from keda_gpu_scaler.devices.registry import AUTO, BackendSettings, DriverCheck, Vendor

_OTHER_METRIC = "use another metricType there: not every device has every reading"
_NO_PERMISSION = (errno.EACCES, errno.EPERM)


class DriverChecks:
    """The checks of the driver. ``samples`` is None until the driver is read."""

    def __init__(self, config: Config, host: HostAccess) -> None:
        self._config = config
        self._host = host
        self._settings = BackendSettings(config.nvml_library, config.replay_speed, config.sysfs_root)
        self.samples: tuple[Sample, ...] | None = None
        self.is_deviceless = False
        self.vendors: tuple[Vendor, ...] = ()

    def check_driver(self) -> Iterator[Finding]:
        """Open each backend and read its devices."""
        # The findings report what a backend logs about its devices.
        logging.getLogger("keda_gpu_scaler").addHandler(logging.NullHandler())
        try:
            self.vendors = registry.selected(self._config.backend, self._settings)
            opened = [
                (vendor, registry.open_vendor(vendor, self._config.backend, self._settings)) for vendor in self.vendors
            ]
        except BackendError as error:
            text, remedy = split_remedy(str(error), "choose another --backend")
            yield problem("driver", text, remedy, Heading.NO_DEVICE)
            yield from self._check_host()
            yield skipped("devices", "there is no driver that could list them")
            return
        for vendor, backend in opened:
            self.is_deviceless = backend.deviceless
            if backend.deviceless:
                yield skipped("driver", f"--backend {self._config.backend} has no device by design")
            else:
                yield from self._check_backend(vendor, backend)
        yield from self._check_host()

    def _check_host(self) -> Iterator[Finding]:
        """Report devices that no driver lists: of the selected vendors, or of all where ``auto`` detects none."""
        for check in self._checks():
            for one in check.host_problems(self._settings):
                report = warning if one.is_intended else problem
                yield report("driver", one.text, one.remedy, Heading.NO_DEVICE)

    def _checks(self) -> list[DriverCheck]:
        is_undetected = not self.vendors and self._config.backend == AUTO
        return [vendor.check for vendor in (registry.vendors() if is_undetected else self.vendors) if vendor.check]

    def _check_backend(self, vendor: Vendor, backend: Backend) -> Iterator[Finding]:
        timeout_seconds = self._host.driver_timeout_seconds
        try:
            samples, driver = _with_timeout(timeout_seconds, lambda: self._read(vendor, backend))
        except (TimeoutError, BackendError) as error:
            if isinstance(error, BackendError):
                text, remedy = split_remedy(str(error), _tool_remedy(vendor, "runs"))
            else:
                text, remedy = f"it did not answer within {timeout_seconds:g} s", _tool_remedy(vendor, "answers")
            yield problem("driver", text, remedy, Heading.NO_DEVICE)
            yield skipped("devices", "the driver does not answer")
        else:
            self.samples = (*(self.samples or ()), *samples)
            yield ok("driver", driver)
            yield from _check_devices(samples, vendor.check.remedies if vendor.check else {})

    def _read(self, vendor: Vendor, backend: Backend) -> tuple[tuple[Sample, ...], str]:
        """Read every device, twice where rates need it; return the samples and a sentence about the driver."""
        try:
            samples = backend.read(time.monotonic())
            if vendor.check and vendor.check.seconds_between_reads:
                self._host.sleep(vendor.check.seconds_between_reads)
                samples = backend.read(time.monotonic())
            without_driver = f"no driver is needed: the readings are a {backend.source}"
            return samples, vendor.check.describe(backend, self._settings) if vendor.check else without_driver
        finally:
            backend.close()

    # ---- device files ----

    def check_permissions(self) -> Iterator[Finding]:
        """Open each device file as the driver does."""
        checks = self._checks_with_device_files()
        if not checks:
            yield skipped("permissions", f"--backend {self._config.backend} opens no device file")
            return
        directory = self._host.device_directory
        try:
            paths = sorted(directory.iterdir())
        except OSError:
            paths = []
        files = [path for path in paths if any(pattern.fullmatch(path.name) for _, pattern in checks)]
        makers = " or ".join(check.maker for check, _ in checks)
        refused = [(path, reason) for path in files if (reason := self._refusal(path)) is not None]
        remedy = (
            "let the container runtime add the devices to this container (chart: driver.mode), or run it privileged"
        )
        for path, reason in refused:
            yield problem("permissions", f"{path}: {reason}, as user {os.geteuid()}", remedy, Heading.NO_DEVICE)
        if files and not refused:
            yield ok("permissions", f"{counted(len(files), 'device file')} of {directory} can be opened")
        elif not files and self.samples:
            yield ok("permissions", f"{directory} has no {makers} device, and the driver works without")
        elif not files:
            yield problem("permissions", f"{directory} has no {makers} device", remedy, Heading.NO_DEVICE)

    def _checks_with_device_files(self) -> list[tuple[DriverCheck, re.Pattern[str]]]:
        """Return the checks of the drivers that open device files; of every driver where ``auto`` detected none."""
        return [(check, check.device_files) for check in self._checks() if check.device_files]

    def _refusal(self, path: Path) -> str | None:
        try:
            self._host.open_device(path)
        except OSError as error:
            # A card that fell off the bus gives another error here. The finding about the driver names the cause.
            return reason_of(error) if error.errno in _NO_PERMISSION else None
        return None


def _tool_remedy(vendor: Vendor, verb: str) -> str:
    return f"check whether `{vendor.check.command}` {verb} on the node" if vendor.check else "choose another --backend"


def _check_devices(samples: Sequence[Sample], remedies: Mapping[str, str]) -> Iterator[Finding]:
    """Report the devices, and the readings that they do not have."""
    models = Counter(sample.device.model or "no name" for sample in samples)
    named = ", ".join(f"{count} of {model}" for model, count in sorted(models.items()))
    yield ok("devices", f"{counted(len(samples), 'device')}: {named}")
    for sample in samples:
        if not sample.has_reading:
            why = f": {sample.failures[0].reason}" if sample.failures else ""
            text = f"device {sample.device.index} ({sample.device.uuid}) has no reading{why}"
            remedy = "look for the driver's messages in the kernel's log (NVIDIA: Xid), and reset it"
            yield problem("devices", text, remedy, Heading.NO_VALUE)
    with_reading = [sample for sample in samples if sample.has_reading]
    metrics_by_devices: dict[tuple[int, ...], list[str]] = {}
    # The others are read only while they are wanted, and need two readings.
    for metric in map(METRICS.__getitem__, BASIC_METRICS):
        without = tuple(sample.device.index for sample in with_reading if metric.read(sample) is None)
        metrics_by_devices.setdefault(without, []).append(metric.name)
    for devices, metrics in metrics_by_devices.items():
        if devices:
            named = f"{'device' if len(devices) == 1 else 'devices'} {', '.join(map(str, devices))}"
            remedy = next((remedies[name] for name in metrics if name in remedies), _OTHER_METRIC)
            yield warning("devices", f"unknown for {named}: {', '.join(metrics)}", remedy, Heading.NO_VALUE)


def _with_timeout(seconds: float, call: Callable[[], Any]) -> Any:
    """Make a call in a thread; return its result, or raise its exception.

    Raises:
        TimeoutError: the call takes longer. Its thread continues.
    """
    results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((call(), None))
        except Exception as error:  # the calling thread raises it again
            results.put((None, error))

    threading.Thread(target=run, name="driver", daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return result
