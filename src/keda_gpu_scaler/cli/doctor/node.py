# SPDX-License-Identifier: Apache-2.0
"""Checks whether an instance can work on this machine: driver, kubelet, ports and clock."""

import asyncio
import errno
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from keda_gpu_scaler.cli.doctor.driver import DriverChecks
from keda_gpu_scaler.cli.doctor.endpoints import Health, health, http_page, tls_between_instances
from keda_gpu_scaler.cli.doctor.findings import (
    Check,
    Finding,
    Heading,
    counted,
    ok,
    problem,
    skipped,
    split_remedy,
    warning,
)
from keda_gpu_scaler.cli.doctor.host_access import CLOCK_UNSYNCHRONISED, HostAccess, reason_of
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.evaluate.attribution import attribute
from keda_gpu_scaler.core.types import Allocation, Snapshot
from keda_gpu_scaler.kube.podresources import PodResources
from keda_gpu_scaler.server.http import listener


def node_checks(config: Config, host: HostAccess) -> Iterator[Check]:
    """Yield the checks of this machine. A later check can depend on the findings of an earlier one."""
    driver = DriverChecks(config, host)
    yield Check("calling the driver", driver.check_driver)
    yield Check("opening the device files", driver.check_permissions)
    yield Check("calling the kubelet", lambda: _check_allocations(config, host, driver))
    yield Check("trying the ports", lambda: _check_ports(config))
    yield Check("reading the state of the kernel's clock", lambda: _check_clock(host))


# ---- the kubelet ----


def _check_allocations(config: Config, host: HostAccess, driver: DriverChecks) -> Iterator[Finding]:
    """List the devices that the kubelet assigned to pods."""
    path = config.pod_resources
    if path == "off":
        yield skipped("allocations", "--pod-resources off: the holders of the devices are not read")
    elif path == "auto" and driver.is_deviceless:
        yield skipped("allocations", "there are no devices that a pod could hold")
    elif path == "auto" and not Path(host.kubelet_socket).exists():
        yield _no_kubelet(host)
    else:
        yield from _check_kubelet(host.kubelet_socket if path == "auto" else path, driver)


def _no_kubelet(host: HostAccess) -> Finding:
    text = f"the kubelet's socket does not exist ({host.kubelet_socket})"
    remedy = "mount its directory (chart: podResources.path), or name the socket with --pod-resources"
    report = problem if host.is_pod else skipped
    return report("allocations", text, remedy, Heading.NO_ALLOCATIONS)


def _check_kubelet(path: str, driver: DriverChecks) -> Iterator[Finding]:
    allocations, failure = asyncio.run(_list_allocations(path))
    if allocations is None:
        sentence = failure or f"{path}: no answer"
        yield problem("allocations", *split_remedy(sentence, "see the kubelet's log"), Heading.NO_ALLOCATIONS)
        return
    attributed = attribute(Snapshot("", 0, 0.0, 0.0, "", driver.samples or (), allocations)) or {}
    pods = sum(bool(devices.shares) for devices in attributed.values())
    listed = counted(len(allocations), "allocation")
    yield ok("allocations", f"{path} lists {listed}; pods with devices that the driver lists: {pods}")
    if driver.samples is None:
        return
    yield from _check_resources(allocations, driver)
    for pod, devices in sorted(attributed.items()):
        if devices.unresolved:
            text = f"{pod.namespace}/{pod.name} holds {devices.unresolved[0]}, which the driver does not list"
            visible = next((vendor.visible_devices for vendor in driver.vendors if vendor.visible_devices), None)
            remedy = "let the container runtime add every device to this container" + (
                f": {visible.container_variable}=all" if visible else ""
            )
            yield warning("allocations", text, remedy, Heading.NO_VALUE)
        if devices.undetermined:
            text = f"{pod.namespace}/{pod.name} holds {devices.undetermined[0][0]}, which names no device"
            remedy = (
                "nothing: the annotation of its scheduler names the device, and the instance that KEDA calls reads it"
            )
            yield skipped("allocations", text, remedy, Heading.NO_VALUE)


def _check_resources(allocations: tuple[Allocation, ...], driver: DriverChecks) -> Iterator[Finding]:
    """Report a vendor of whose devices no pod holds one. Its device plugin may be missing, or pods request none."""
    for vendor in driver.vendors:
        resources = vendor.check.resources if vendor.check else ()
        has_devices = any(vendor.has(sample.device.uuid) for sample in driver.samples or ())
        if resources and has_devices and not any(one.resource.startswith(resources) for one in allocations):
            text = f"no pod holds a device of {vendor.title.partition(' ')[0]}"
            remedy = f"pods with a value request one as {resources[0]}…, or as a claim of {resources[-1]}"
            yield skipped("allocations", text, remedy)


async def _list_allocations(path: str) -> tuple[tuple[Allocation, ...] | None, str | None]:
    """Return the allocations, or None and the reason."""
    kubelet = PodResources(path)
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        await kubelet.list_once(channel)
    return kubelet.held(time.monotonic()), kubelet.failure


# ---- ports ----


def _check_ports(config: Config) -> Iterator[Finding]:
    """Report whether each port is free, or an instance uses it already."""
    for flag, port in (
        ("--port", config.port),
        ("--metrics-port", config.metrics_port),
        ("--probe-port", config.probe_port),
    ):
        if port:
            yield _check_port(config, flag, port)
        else:
            yield skipped("ports", f"{flag} 0: {'the system chooses' if flag == '--port' else 'it is off'}")


def _check_port(config: Config, flag: str, port: int) -> Finding:
    try:
        listener(config.host, port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _port_in_use(config, flag, port)
        text = f"{flag}: cannot listen on {config.host} port {port}: {reason_of(error)}"
        remedy = "choose an address of this machine, and a port that this user may use"
        return problem("ports", text, remedy, Heading.PORT_IN_USE)
    return ok("ports", f"{flag} {port} is free")


def _port_in_use(config: Config, flag: str, port: int) -> Finding:
    host = _local_host(config.host)
    if flag == "--port":
        state = asyncio.run(health(f"{host}:{port}", tls_between_instances(config)))
        if state is Health.SERVING:
            return ok("ports", f"{flag} {port}: an instance already serves there")
        if state is Health.NOT_READY:
            text = f"{flag} {port}: an instance serves there and is not ready"
            return warning("ports", text, "see its log for the reason", Heading.NO_DEVICE)
    if flag == "--metrics-port" and "keda_gpu_scaler_" in http_page(host, port, "/metrics"):
        return ok("ports", f"{flag} {port}: an instance already serves its metrics there")
    if flag == "--probe-port" and http_page(host, port, "/livez"):
        return ok("ports", f"{flag} {port}: a process already answers probes there")
    remedy = "stop that program, or choose another port"
    return problem("ports", f"{flag} {port}: another program listens there", remedy, Heading.PORT_IN_USE)


def _local_host(host: str) -> str:
    """Return a host under which this machine reaches its own server, which may listen on every interface."""
    if host in ("::", "0.0.0.0", ""):  # noqa: S104 - this does not bind
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


# ---- the clock ----


def _check_clock(host: HostAccess) -> Iterator[Finding]:
    """Report whether a time service synchronizes the kernel's clock."""
    try:
        state = host.clock_state()
    except OSError as error:
        text = f"the kernel does not report whether its clock is synchronized: {reason_of(error)}"
        yield skipped("clock", text)
        return
    if state == CLOCK_UNSYNCHRONISED:
        text = "the kernel reports that no time service synchronizes this machine's clock"
        remedy = "run chrony or systemd-timesyncd: the ages of pods and certificates depend on the clock"
        yield warning("clock", text, remedy, Heading.CLOCKS)
    else:
        yield ok("clock", "the kernel's clock is synchronized")
