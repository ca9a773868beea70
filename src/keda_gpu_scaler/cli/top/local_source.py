# SPDX-License-Identifier: Apache-2.0
"""Reads the devices of this machine through its driver, without an instance of the scaler."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from keda_gpu_scaler.cli.job_environment import JobEnvironment, JobEnvironmentKind
from keda_gpu_scaler.cli.pace import Timing
from keda_gpu_scaler.cli.top.rows import FleetReadings, device_rows, unavailable_instances, unmeasured_sources
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.interfaces import Backend
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.types import Device
from keda_gpu_scaler.devices.registry import BackendSettings, selected
from keda_gpu_scaler.kube.podresources import DEFAULT_PATH, PodResources
from keda_gpu_scaler.sampler import Sampler


@dataclass(slots=True)
class LocalDevices:
    """The devices of this machine that are assigned to the job environment."""

    sampler: Sampler
    config: Config
    environment: JobEnvironment
    timing: Timing
    first_reading: asyncio.Event = field(default_factory=asyncio.Event)

    def readings(self) -> FleetReadings:
        """Return the newest readings of the driver."""
        now = self.timing.monotonic()
        fleet = Fleet(
            self.sampler.history,
            self.config.stale_after,
            failure=self.sampler.failure,
            own_node=self.config.node_name,
        )
        assigned, notes = self._assigned(
            [sample.device for _, history in fleet.nodes() for sample in history.newest.samples]
        )
        rows = tuple(
            device_rows(
                fleet,
                now,
                is_included=lambda device: assigned is None or device.uuid in assigned,
                default_holder=self.environment.holder if assigned is not None and self.environment.job else None,
            )
        )
        notes = (*notes, *unmeasured_sources(rows))
        return FleetReadings(self.timing.utc(), str(self.environment), rows, unavailable_instances(fleet), notes)

    async def wait_for_sync(self) -> None:
        """Return after the first attempt to read the driver; the second where rates are the growth of counters."""
        await self.first_reading.wait()

    async def wait_for_workloads(self) -> None:
        """Return at once: a driver knows no workloads."""

    def _assigned(self, devices: Sequence[Device]) -> tuple[frozenset[str] | None, tuple[str, ...]]:
        """Return the UUIDs of the assigned devices, None for all of them, and notes about the assignment."""
        environment, names = self.environment, self.environment.assigned
        if names is None:
            if environment.kind in (JobEnvironmentKind.SLURM, JobEnvironmentKind.FLUX):
                return None, (f"{environment} names no device, so every device of the driver is shown",)
            return None, ()
        assigned, unknown = names.choose(devices)
        notes = [f"{len(assigned)} of {len(devices)} devices are assigned, by {names}"]
        if unknown and devices:
            notes.append(f"{names.variable} also names {', '.join(unknown)}, which the driver does not list")
        return assigned, tuple(notes)


@asynccontextmanager
async def local_devices(
    backend: Backend, config: Config, environment: JobEnvironment, timing: Timing
) -> AsyncIterator[LocalDevices]:
    """Read this machine's devices for the time of the block, and close the backend after it."""
    loop = asyncio.get_running_loop()
    kubelet = await _kubelet(config, backend, timing)
    listing = asyncio.create_task(kubelet.run()) if kubelet is not None else None

    attempts = itertools.count(1)
    needed = 2 if _needs_two_readings(config) else 1

    def on_publish() -> None:
        if next(attempts) < needed:
            return
        with contextlib.suppress(RuntimeError):  # a call of the driver may return after the loop is closed
            loop.call_soon_threadsafe(source.first_reading.set)

    sampler = Sampler(
        backend,
        node=config.node_name,
        interval_seconds=config.sample_interval,
        allocations=kubelet.held if kubelet is not None else lambda now: None,
        clock=timing.monotonic,
        on_publish=on_publish,
    )
    source = LocalDevices(sampler, config, environment, timing)
    sampler.start()
    try:
        yield source
    finally:
        if listing is not None:
            listing.cancel()
            await asyncio.gather(listing, return_exceptions=True)
        await loop.run_in_executor(None, sampler.stop)


def _needs_two_readings(config: Config) -> bool:
    settings = BackendSettings(config.nvml_library, config.replay_speed, config.sysfs_root)
    vendors = selected(config.backend, settings)
    return any(vendor.check is not None and vendor.check.seconds_between_reads > 0 for vendor in vendors)


async def _kubelet(config: Config, backend: Backend, timing: Timing) -> PodResources | None:
    """Return the kubelet after its first list; None where there is no kubelet."""
    path = DEFAULT_PATH if config.pod_resources == "auto" else config.pod_resources
    if path == "off" or backend.deviceless or (config.pod_resources == "auto" and not Path(path).exists()):
        return None
    kubelet = PodResources(
        path,
        interval_seconds=config.sample_interval,
        stale_after_seconds=config.stale_after,
        clock=timing.monotonic,
    )
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        await kubelet.list_once(channel)
    return kubelet
