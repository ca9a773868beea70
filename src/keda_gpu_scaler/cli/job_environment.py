# SPDX-License-Identifier: Apache-2.0
"""The job, pod or host that a command runs in, and the devices that it assigns to the command.

Law: a device is left out only where the environment names the assigned devices. Where it names none, every device
that the driver lists is taken.

Sources: SLURM's gres_common.c (ids are UUIDs, or else the numbers of the device files, counted on the whole node) and
its manual pages sbatch(1) and srun(1); Flux's shell, which sets ``FLUX_JOB_ID``, and its gpu-affinity plugin, which
sets ``CUDA_VISIBLE_DEVICES``; the vendors' programming guides: ordinals or UUIDs, up to the first value that is
neither. The names of the variables are the vendors' (``devices.registry.VisibleDevices``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from keda_gpu_scaler.core.evaluate.attribution import resolve
from keda_gpu_scaler.core.types import Allocation, Device
from keda_gpu_scaler.devices.registry import Vendor, VisibleDevices, vendors
from keda_gpu_scaler.kube.auth import SERVICE_ACCOUNT

_LONGEST_NAME = 253


class JobEnvironmentKind(StrEnum):
    """The scheduler that assigned the machine's devices."""

    FLUX = "flux"
    SLURM = "slurm"
    KUBERNETES = "kubernetes"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class AssignedDevices:
    """The names of the assigned devices, in the order of the environment variable that holds them.

    ``device_files`` are the names of device files with ``{}`` in the place of a number ("nvidia{}"), if numbers count
    the node's device files; empty if they count the devices that the driver lists in this process. ``vendor`` is the
    vendor of these devices, None if the environment does not name it.
    """

    variable: str
    names: tuple[str, ...]
    device_files: tuple[str, ...] = ()
    vendor: Vendor | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.variable}={','.join(self.names)}"

    def choose(self, devices: Sequence[Device]) -> tuple[frozenset[str], tuple[str, ...]]:
        """Return the UUIDs of the assigned devices, and the names that fit none of the devices."""
        found = {name: self._find(name, devices) for name in self.names}
        unknown = tuple(name for name, uuids in found.items() if not uuids)
        return frozenset(uuid for uuids in found.values() for uuid in uuids), unknown

    def _find(self, name: str, devices: Sequence[Device]) -> tuple[str, ...]:
        if not _is_number(name):
            exact = resolve(_allocation(name), devices)
            # CUDA accepts the beginning of a UUID if exactly one UUID begins with it.
            alike = [device.uuid for device in devices if device.uuid.lower().startswith(name.lower())]
            return tuple(device.uuid for device in exact) or (tuple(alike) if len(alike) == 1 else ())
        if self.device_files:
            files = [file.format(int(name)) for file in self.device_files]
            return tuple(device.uuid for file in files for device in resolve(_allocation(file), devices))
        own = [device for device in devices if not _is_foreign(device, self.vendor)]
        if self.vendor and self.vendor.visible_devices and self.vendor.visible_devices.ordinals_count_slices:
            return tuple(device.uuid for position, device in enumerate(own) if position == int(name))
        return tuple(device.uuid for device in own if device.index == int(name))


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """The environment of a command: ``job`` is its id ("4711", "4711.0", "ai/llama-0"), empty on a plain host.

    ``node`` is the scheduler's name of the machine, empty if the scheduler does not set one. ``assigned`` are the
    assigned devices, None if the environment does not name them.
    """

    kind: JobEnvironmentKind
    job: str = ""
    node: str = ""
    assigned: AssignedDevices | None = None

    @property
    def holder(self) -> str:
        """The holder of the assigned devices in one word ("slurm/4711", "ai/llama-0"); empty on a plain host."""
        return self.job if self.kind is JobEnvironmentKind.KUBERNETES or not self.job else f"{self.kind}/{self.job}"

    def __str__(self) -> str:
        if self.kind is JobEnvironmentKind.KUBERNETES:
            return f"pod {self.job}"
        return f"{self.kind} job {self.job}" if self.job else "host"


def job_environment_of(environment: Mapping[str, str], namespace: Callable[[], str] | None = None) -> JobEnvironment:
    """Return the job environment that the variables describe; of several the innermost: Flux, then SLURM, then a pod.

    Args:
        environment: the environment variables of the process.
        namespace: reads the pod's namespace.
    """
    variables = [(vendor, vendor.visible_devices) for vendor in vendors() if vendor.visible_devices]
    if job := _text(environment, "FLUX_JOB_ID"):
        return JobEnvironment(JobEnvironmentKind.FLUX, job, assigned=_of_process(environment, variables))
    if job := _text(environment, "SLURM_JOB_ID"):
        step = _text(environment, "SLURM_STEP_ID")
        return JobEnvironment(
            JobEnvironmentKind.SLURM,
            f"{job}.{step}" if step.isdigit() else job,
            _text(environment, "SLURMD_NODENAME"),
            _of_slurm(environment, variables) or _of_process(environment, variables),
        )
    if environment.get("KUBERNETES_SERVICE_HOST") and (pod := _text(environment, "HOSTNAME")):
        home = (namespace or _namespace)()
        job = f"{home}/{pod}" if home else pod
        return JobEnvironment(JobEnvironmentKind.KUBERNETES, job, assigned=_of_container(environment, variables))
    return JobEnvironment(JobEnvironmentKind.HOST, assigned=_of_process(environment, variables))


def _of_slurm(
    environment: Mapping[str, str], variables: Sequence[tuple[Vendor, VisibleDevices]]
) -> AssignedDevices | None:
    # A step's variable comes first: a job's variable lists the devices of its first node, and steps on other nodes
    # inherit it.
    for variable in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        names = tuple(name.strip() for name in environment.get(variable, "").split(",") if name.strip())
        if names:
            # SLURM does not name the vendor. It sets the variables of every vendor unless it knows the device's type.
            set_here = [one for _, one in variables if one.process_variable in environment]
            files = tuple(one.device_file for one in set_here or [one for _, one in variables])
            return AssignedDevices(variable, names, files)
    return None


def _of_process(
    environment: Mapping[str, str], variables: Sequence[tuple[Vendor, VisibleDevices]]
) -> AssignedDevices | None:
    set_here = [(vendor, one) for vendor, one in variables if one.process_variable in environment]
    for vendor, one in set_here:
        names: list[str] = []
        for name in environment[one.process_variable].split(","):
            if not _is_number(name.strip()) and not name.strip().upper().startswith(one.uuid_prefixes):
                break
            names.append(name.strip())
        # A scheduler that does not know the devices' vendor sets the variables of several.
        return AssignedDevices(one.process_variable, tuple(names), vendor=vendor if len(set_here) == 1 else None)
    return None


def _of_container(
    environment: Mapping[str, str], variables: Sequence[tuple[Vendor, VisibleDevices]]
) -> AssignedDevices | None:
    """Return a container's devices. Ordinals count the host's devices and cannot be resolved in the container."""
    for _, one in variables:
        names = [name.strip() for name in environment.get(one.container_variable, "").split(",")]
        if all(name.upper().startswith(one.uuid_prefixes) for name in names):
            return AssignedDevices(one.container_variable, tuple(names))
    return _of_process(environment, variables)


def _is_foreign(device: Device, vendor: Vendor | None) -> bool:
    """Whether the UUID says that a device is one of another vendor. A recording's devices belong to no vendor."""
    if vendor is None or vendor.has(device.uuid):
        return False
    return any(other.has(device.uuid) for other in vendors())


def _allocation(device_id: str) -> Allocation:
    return Allocation("", "", "", "", device_id)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= 4


def _text(environment: Mapping[str, str], variable: str) -> str:
    return environment.get(variable, "").strip()[:_LONGEST_NAME]


def _namespace(path: Path = SERVICE_ACCOUNT / "namespace") -> str:
    try:
        return path.read_text().strip()[:_LONGEST_NAME]
    except (OSError, UnicodeDecodeError):
        return ""
