# SPDX-License-Identifier: Apache-2.0
"""Checks the driver of this machine, its devices and its device files.

Law: a check opens what ``serve`` would open, with the same error sentences, and closes it. A driver that hangs is
abandoned after a timeout.
"""

import errno
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from keda_gpu_scaler.cli.doctor.findings import Finding, Heading, counted, ok, problem, skipped, split_remedy, warning
from keda_gpu_scaler.cli.doctor.host_access import HostAccess, reason_of
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.trigger.metrics import METRICS
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices import registry
from keda_gpu_scaler.devices.registry import AUTO, BackendSettings, DriverCheck, Vendor

_NO_PERMISSION = (errno.EACCES, errno.EPERM)


class DriverChecks:
    """The checks of the driver. ``samples`` is None until the driver is read."""

    def __init__(self, config: Config, host: HostAccess) -> None:
        self._config = config
        self._host = host
        self._settings = BackendSettings(config.nvml_library, config.replay_speed)
        self.samples: tuple[Sample, ...] | None = None
        self.is_deviceless = False
        self.vendor: Vendor | None = None

    def check_driver(self) -> Iterator[Finding]:
        """Open the backend and read every device once."""
        # The findings report what a backend logs about its devices.
        logging.getLogger("keda_gpu_scaler").addHandler(logging.NullHandler())
        try:
            self.vendor = registry.vendor_named(self._config.backend, self._settings)
            backend = self.vendor.open(self._config.backend.partition(":")[2], self._settings)
        except BackendError as error:
            text, remedy = split_remedy(str(error), "choose another --backend")
            yield problem("driver", text, remedy, Heading.NO_DEVICE)
            yield skipped("devices", "there is no driver that could list them")
            return
        self.is_deviceless = backend.deviceless
        if backend.deviceless:
            yield skipped("driver", f"--backend {self._config.backend} has no device by design")
            return
        yield from self._check_backend(backend)

    def _check_backend(self, backend: Backend) -> Iterator[Finding]:
        timeout_seconds = self._host.driver_timeout_seconds
        try:
            samples, driver = _with_timeout(timeout_seconds, lambda: self._read(backend))
        except (TimeoutError, BackendError) as error:
            if isinstance(error, BackendError):
                text, remedy = split_remedy(str(error), self._tool_remedy("runs"))
            else:
                text, remedy = f"it did not answer within {timeout_seconds:g} s", self._tool_remedy("answers")
            yield problem("driver", text, remedy, Heading.NO_DEVICE)
            yield skipped("devices", "the driver does not answer")
        else:
            self.samples = samples
            yield ok("driver", driver)
            yield from _check_devices(samples)

    def _read(self, backend: Backend) -> tuple[tuple[Sample, ...], str]:
        """Read every device once; return the samples and a sentence about the driver."""
        try:
            samples = backend.read(time.monotonic())
            check = self._driver_check()
            without_driver = f"no driver is needed: the readings are a {backend.source}"
            return samples, check.describe(backend, self._settings) if check else without_driver
        finally:
            backend.close()

    def _driver_check(self) -> DriverCheck | None:
        return self.vendor.check if self.vendor else None

    def _tool_remedy(self, verb: str) -> str:
        check = self._driver_check()
        return f"check whether `{check.command}` {verb} on the node" if check else "choose another --backend"

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
        files = [path for path in paths if any(check.device_files.fullmatch(path.name) for check in checks)]
        makers = " or ".join(check.maker for check in checks)
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

    def _checks_with_device_files(self) -> list[DriverCheck]:
        """Return the check of the backend's driver; of every driver where ``auto`` detected none."""
        if self.vendor is None and self._config.backend == AUTO:
            return [vendor.check for vendor in registry.vendors() if vendor.check]
        check = self._driver_check()
        return [check] if check else []

    def _refusal(self, path: Path) -> str | None:
        try:
            self._host.open_device(path)
        except OSError as error:
            # A card that fell off the bus gives another error here. The finding about the driver names the cause.
            return reason_of(error) if error.errno in _NO_PERMISSION else None
        return None


def _check_devices(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Report the devices, and the readings that they do not have."""
    models = Counter(sample.device.model or "no name" for sample in samples)
    named = ", ".join(f"{count} of {model}" for model, count in sorted(models.items()))
    yield ok("devices", f"{counted(len(samples), 'device')}: {named}")
    for sample in samples:
        if not sample.has_reading:
            why = f": {sample.failures[0].reason}" if sample.failures else ""
            text = f"device {sample.device.index} ({sample.device.uuid}) has no reading{why}"
            yield problem("devices", text, "look for Xid messages in the kernel's log, and reset it", Heading.NO_VALUE)
    with_reading = [sample for sample in samples if sample.has_reading]
    metrics_by_devices: dict[tuple[int, ...], list[str]] = {}
    for metric in METRICS.values():
        without = tuple(sample.device.index for sample in with_reading if metric.read(sample) is None)
        metrics_by_devices.setdefault(without, []).append(metric.name)
    for devices, metrics in metrics_by_devices.items():
        if devices:
            named = f"{'device' if len(devices) == 1 else 'devices'} {', '.join(map(str, devices))}"
            remedy = "use another metricType there: MIG slices, for example, have no utilisation"
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
