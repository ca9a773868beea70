# SPDX-License-Identifier: Apache-2.0
"""Can an instance do its work on this machine? The driver, its devices, who holds them, the ports, the clock.

The law of this module: it opens what ``serve`` would open, in the same words, and leaves it as it was. A driver that
hangs is left behind.
"""

import asyncio
import ctypes
import errno
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from keda_gpu_scaler.cli.doctor.endpoints import Health, health, page, trusting
from keda_gpu_scaler.cli.doctor.findings import Finding, Findings, Step, ok, parted, problem, skipped, warning
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.evaluate.attribution import attribute
from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.trigger.metrics import METRICS
from keda_gpu_scaler.core.types import Allocation, Sample, Snapshot
from keda_gpu_scaler.devices import registry
from keda_gpu_scaler.devices.registry import AUTO, BackendSettings, Vendor
from keda_gpu_scaler.kube.podresources import DEFAULT_PATH, PodResources
from keda_gpu_scaler.server.http import listener

DRIVER_SECONDS = 15.0
"""How long a driver may take: without its persistence daemon the first call wakes the devices."""

_NO_DRIVER, _NO_ALLOCATIONS = "an-agent-reads-no-device", "an-agent-reads-no-allocations"
_UNSEEN, _PORTS, _CLOCKS = "pods-have-no-value", "a-port-is-in-use", "clocks-differ"
_CLOCK_UNSYNCHRONISED = 5
_TIMEX_BYTES = 512  # more than struct timex has anywhere; zeroed, it asks and sets nothing


@dataclass(frozen=True, slots=True)
class Machine:
    """What of this machine a test brings its own of."""

    devices: Path = Path("/dev")
    kubelet: str = DEFAULT_PATH
    is_pod: bool = False
    open_device: Callable[[Path], None] = lambda path: os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    clock_state: Callable[[], int] = lambda: _clock_state()
    driver_seconds: float = DRIVER_SECONDS


def node_steps(config: Config, machine: Machine) -> Iterator[Step]:
    """Yield the checks of this machine, in the order in which one thing needs another."""
    node = _Node(config, machine)
    yield Step("asking the driver", node.driver)
    yield Step("opening the devices", node.permissions)
    yield Step("asking the kubelet", node.allocations)
    yield Step("trying the ports", node.ports)
    yield Step("asking the kernel for its clock", node.clock)


class _Node:
    """The checks; each may know what those before it found."""

    def __init__(self, config: Config, machine: Machine) -> None:
        self._config = config
        self._machine = machine
        self._samples: tuple[Sample, ...] | None = None
        self._is_deviceless = False
        self._settings = BackendSettings(config.nvml_library, config.replay_speed)
        self._vendor: Vendor | None = None

    def driver(self) -> Findings:
        """Open the backend and read every device once."""
        # What a backend logs of its devices is told here in a finding.
        logging.getLogger("keda_gpu_scaler").addHandler(logging.NullHandler())
        try:
            self._vendor = registry.vendor_named(self._config.backend, self._settings)
            backend = self._vendor.open(self._config.backend.partition(":")[2], self._settings)
        except BackendError as error:
            text, remedy = parted(str(error), "choose another --backend")
            yield problem("driver", text, remedy, _NO_DRIVER)
            yield skipped("devices", "there is no driver that could list them")
            return
        self._is_deviceless = backend.deviceless
        if backend.deviceless:
            yield skipped("driver", f"--backend {self._config.backend} has no device by design")
            return
        try:
            samples, driver = _within(self._machine.driver_seconds, lambda: self._read(backend))
        except TimeoutError:
            text = f"it gave no answer in {self._machine.driver_seconds:g} s"
            yield problem("driver", text, self._remedy("answers"), _NO_DRIVER)
            yield skipped("devices", "the driver does not answer")
        except BackendError as error:
            text, remedy = parted(str(error), self._remedy("runs"))
            yield problem("driver", text, remedy, _NO_DRIVER)
            yield skipped("devices", "the driver does not answer")
        else:
            self._samples = samples
            yield ok("driver", driver)
            yield from _devices(samples)

    def _read(self, backend: Backend) -> tuple[tuple[Sample, ...], str]:
        """Read every device once; return the samples and a sentence about the driver."""
        try:
            samples = backend.read(time.monotonic())
            check = self._vendor.check if self._vendor else None
            driver = (
                check.describe(backend, self._settings) if check else f"none is needed: readings are a {backend.source}"
            )
            return samples, driver
        finally:
            backend.close()

    def _remedy(self, verb: str) -> str:
        """Return the remedy for a driver that gives an error."""
        check = self._vendor.check if self._vendor else None
        return f"see whether `{check.command}` {verb} on the node" if check else "choose another --backend"

    def _vendors_with_files(self) -> list[Vendor]:
        """Return the vendors whose device files this backend opens; while ``auto`` detects none, all of them."""
        if self._vendor is None and self._config.backend == AUTO:
            return [vendor for vendor in registry.vendors() if vendor.check]
        return [self._vendor] if self._vendor and self._vendor.check else []

    def permissions(self) -> Findings:
        """Open each device file as the driver does."""
        checks = [vendor.check for vendor in self._vendors_with_files() if vendor.check]
        if not checks:
            yield skipped("permissions", f"--backend {self._config.backend} opens no device file")
            return
        folder = self._machine.devices
        try:
            names = sorted(folder.iterdir())
        except OSError:
            names = []
        files = [path for path in names if any(check.device_files.fullmatch(path.name) for check in checks)]
        makers = " or ".join(check.maker for check in checks)
        refused = [(path, why) for path in files if (why := self._refusal(path)) is not None]
        remedy = "let the container runtime give them to this container (chart: driver.mode), or run it privileged"
        for path, why in refused:
            yield problem("permissions", f"{path}: {why}, as user {os.geteuid()}", remedy, _NO_DRIVER)
        if files and not refused:
            yield ok("permissions", f"{_number(files, 'device file')} of {folder} can be opened")
        elif not files and self._samples:
            yield ok("permissions", f"{folder} shows no {makers} device, and the driver answers without")
        elif not files:
            yield problem("permissions", f"{folder} shows no {makers} device", remedy, _NO_DRIVER)

    def _refusal(self, path: Path) -> str | None:
        try:
            self._machine.open_device(path)
        except OSError as error:
            # A device that fell off the bus is there, may be opened, and does not answer: the driver says that better.
            return _reason(error) if error.errno in (errno.EACCES, errno.EPERM) else None
        return None

    def allocations(self) -> Findings:
        """Ask the kubelet who holds which device."""
        path = self._config.pod_resources
        if path == "off":
            yield skipped("allocations", "--pod-resources off: who holds which device is not asked")
        elif path == "auto" and self._is_deviceless:
            yield skipped("allocations", "without devices nobody holds any")
        elif path == "auto" and not Path(self._machine.kubelet).exists():
            yield self._no_kubelet()
        else:
            yield from self._held(self._machine.kubelet if path == "auto" else path)

    def _no_kubelet(self) -> Finding:
        text = f"no kubelet's socket here ({self._machine.kubelet})"
        remedy = "mount its directory (chart: podResources.path), or name the socket with --pod-resources"
        if self._machine.is_pod:
            return problem("allocations", text, remedy, _NO_ALLOCATIONS)
        return skipped("allocations", text, remedy, _NO_ALLOCATIONS)

    def _held(self, path: str) -> Findings:
        held, failure = asyncio.run(_ask_kubelet(path))
        if held is None:
            remedy = "see the kubelet's own log"
            yield problem("allocations", *parted(failure or f"{path}: no answer", remedy), _NO_ALLOCATIONS)
            return
        snapshot = Snapshot("", 0, 0.0, 0.0, "", self._samples or (), held)
        holdings = attribute(snapshot) or {}
        pods = sum(bool(holding.shares) for holding in holdings.values())
        told = _number(held, "allocation")
        yield ok("allocations", f"{path} tells {told}; {_number(range(pods), 'pod')} of them hold what is listed here")
        if self._samples is None:
            return
        for pod, holding in sorted(holdings.items()):
            if holding.unresolved:
                text = f"{pod.namespace}/{pod.name} holds {holding.unresolved[0]}, a device that is not listed here"
                visible = self._vendor.visible_devices if self._vendor else None
                remedy = "let the container runtime show all of them to this container" + (
                    f": {visible.container_variable}=all" if visible else ""
                )
                yield warning("allocations", text, remedy, _UNSEEN)

    def ports(self) -> Findings:
        """Try whether each port is free, or an instance's already."""
        config = self._config
        serves = None
        for flag, port in (
            ("--port", config.port), ("--metrics-port", config.metrics_port), ("--probe-port", config.probe_port),
        ):  # fmt: skip
            if not port:
                yield skipped("ports", f"{flag} 0: {'the system chooses' if flag == '--port' else 'it is off'}")
                continue
            try:
                listener(config.host, port).close()
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    text = f"{flag}: cannot listen on {config.host} port {port}: {_reason(error)}"
                    remedy = "choose an address of this machine, and a port you may use"
                    yield problem("ports", text, remedy, _PORTS)
                    continue
                serves = self._serves(flag, port) if flag == "--port" else serves
                yield self._taken(flag, port, serves)
            else:
                yield ok("ports", f"{flag} {port} is free")

    def _serves(self, flag: str, port: int) -> Health | None:
        return asyncio.run(health(f"{_near(self._config.host)}:{port}", trusting(self._config)))

    def _taken(self, flag: str, port: int, serves: Health | None) -> Finding:
        if flag == "--port" and serves is not None:
            if serves is Health.SERVING:
                return ok("ports", f"{flag} {port}: an instance serves there already")
            text, remedy = f"{flag} {port}: an instance serves there, and is not ready", "see what its log says"
            return warning("ports", text, remedy, _NO_DRIVER)
        if flag == "--metrics-port" and "keda_gpu_scaler_" in page(_near(self._config.host), port, "/metrics"):
            return ok("ports", f"{flag} {port}: an instance's metrics are there already")
        if flag == "--probe-port" and page(_near(self._config.host), port, "/livez"):
            return ok("ports", f"{flag} {port}: something answers probes there already")
        text, remedy = f"{flag} {port}: somebody else listens there", "stop it, or choose another port"
        return problem("ports", text, remedy, _PORTS)

    def clock(self) -> Findings:
        """Ask the kernel whether anything keeps its clock right."""
        try:
            state = self._machine.clock_state()
        except OSError as error:
            yield skipped("clock", f"the kernel does not tell whether its clock is kept right: {_reason(error)}")
            return
        if state == _CLOCK_UNSYNCHRONISED:
            text = "nothing keeps this machine's clock right, as far as the kernel knows"
            remedy = "run chrony or systemd-timesyncd: pods' ages and certificates are judged by it"
            yield warning("clock", text, remedy, _CLOCKS)
        else:
            yield ok("clock", "the kernel's clock is kept right")


def _devices(samples: Sequence[Sample]) -> Findings:
    """Say which devices there are, and what they do not tell."""
    models = Counter(sample.device.model or "no name" for sample in samples)
    named = ", ".join(f"{count} of {model}" for model, count in sorted(models.items()))
    yield ok("devices", f"{_number(samples, 'device')}: {named}")
    seeing = [sample for sample in samples if not sample.has_no_reading]
    for sample in samples:
        if sample.has_no_reading:
            text = f"device {sample.device.index} ({sample.device.uuid}) gives no reading at all"
            yield problem("devices", text, "look for Xid messages in the kernel's log, and reset it", _UNSEEN)
    unknown: dict[tuple[int, ...], list[str]] = {}
    for metric in METRICS.values():
        without = tuple(sample.device.index for sample in seeing if metric.read(sample) is None)
        unknown.setdefault(without, []).append(metric.name)
    for without, metrics in unknown.items():
        if without:
            of = f"{'device' if len(without) == 1 else 'devices'} {', '.join(map(str, without))}"
            remedy = "ask for another metricType there: slices of MIG, for one, tell no utilisation"
            yield warning("devices", f"unknown of {of}: {', '.join(metrics)}", remedy, _UNSEEN)


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """Return what a call returns, or raise what it raises.

    Raises:
        TimeoutError: it takes longer; its thread is left behind.
    """
    came: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            came.put((call(), None))
        except Exception as error:  # raised again by whoever waits
            came.put((None, error))

    threading.Thread(target=run, name="driver", daemon=True).start()
    try:
        answer, error = came.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return answer


async def _ask_kubelet(path: str) -> tuple[tuple[Allocation, ...] | None, str | None]:
    kubelet = PodResources(path)
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        await kubelet.list_once(channel)
    return kubelet.held(time.monotonic()), kubelet.failure


def _clock_state() -> int:
    """Ask adjtimex(2), which anybody may.

    Raises:
        OSError: it is forbidden here, as by the seccomp profile of some runtimes, or there is none.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "adjtimex"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    state = int(library.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    if state < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return state


def _near(host: str) -> str:
    """Name an address at which this machine reaches its own server, which may listen on every interface."""
    if host in ("::", "0.0.0.0", ""):  # noqa: S104 - nothing is bound to it
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _number(items: Sequence[object], name: str) -> str:
    return f"{len(items)} {name}{'' if len(items) == 1 else 's'}"
