# SPDX-License-Identifier: Apache-2.0
"""Where does a command run, and which of this machine's devices are meant for it? As Flux, SLURM or Kubernetes tells.

The law of this module: a device is left out only where the environment names those that are meant. Where it names
none, all that the driver shows are.

Facts are from SLURM's gres_common.c (ids are UUIDs, or else the numbers of the device files, on the whole node) and its
manual pages sbatch(1) and srun(1); from Flux's shell, which sets ``FLUX_JOB_ID``, and its gpu-affinity plugin, which
sets ``CUDA_VISIBLE_DEVICES``; and from CUDA's programming guide: ordinals or UUIDs, up to the first that is none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from keda_gpu_scaler.core.evaluate.attribution import resolve
from keda_gpu_scaler.core.types import Allocation, Device
from keda_gpu_scaler.kube.auth import SERVICE_ACCOUNT

_UUIDS = ("GPU-", "MIG-")
_LONGEST_NAME = 253


class JobEnvironmentKind(StrEnum):
    """Who gave out the machine's devices."""

    FLUX = "flux"
    SLURM = "slurm"
    KUBERNETES = "kubernetes"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Named:
    """The devices that are meant: their names, in the order of ``variable``, which holds them.

    ``are_files`` says that numbers count the node's device files (/dev/nvidia0) and not what the driver shows here.
    """

    variable: str
    names: tuple[str, ...]
    are_files: bool = False

    def __str__(self) -> str:
        return f"{self.variable}={','.join(self.names)}"

    def choose(self, devices: Sequence[Device]) -> tuple[frozenset[str], tuple[str, ...]]:
        """Return the UUIDs of those that are meant, and the names that mean none of them."""
        found = {name: self._find(name, devices) for name in self.names}
        strange = tuple(name for name, uuids in found.items() if not uuids)
        return frozenset(uuid for uuids in found.values() for uuid in uuids), strange

    def _find(self, name: str, devices: Sequence[Device]) -> tuple[str, ...]:
        if not _is_number(name):
            exact = resolve(_named(name), devices)
            # CUDA takes a beginning of a UUID, if there is but one that begins so.
            alike = [device.uuid for device in devices if device.uuid.lower().startswith(name.lower())]
            return tuple(device.uuid for device in exact) or (tuple(alike) if len(alike) == 1 else ())
        if self.are_files:
            return tuple(device.uuid for device in resolve(_named(f"nvidia{int(name)}"), devices))
        return tuple(device.uuid for device in devices if device.index == int(name))


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """A place to run in: ``job`` is its id ("4711", "4711.0", "ai/llama-0"), empty on a plain host.

    ``node`` is the name that the scheduler calls the machine by, empty where it tells none. ``named`` are the devices
    that are meant, None where nobody says.
    """

    kind: JobEnvironmentKind
    job: str = ""
    node: str = ""
    named: Named | None = None

    @property
    def holder(self) -> str:
        """Who holds the devices that are meant, in one word ("slurm/4711", "ai/llama-0"); empty on a plain host."""
        return self.job if self.kind is JobEnvironmentKind.KUBERNETES or not self.job else f"{self.kind}/{self.job}"

    def __str__(self) -> str:
        if self.kind is JobEnvironmentKind.KUBERNETES:
            return f"pod {self.job}"
        return f"{self.kind} job {self.job}" if self.job else "host"


def job_environment_of(environment: Mapping[str, str], namespace: Callable[[], str] | None = None) -> JobEnvironment:
    """Tell from the environment where we run; of several the innermost, Flux within SLURM within a pod.

    Args:
        environment: the process's.
        namespace: reads the pod's namespace.
    """
    if job := _text(environment, "FLUX_JOB_ID"):
        return JobEnvironment(JobEnvironmentKind.FLUX, job, named=_of_cuda(environment))
    if job := _text(environment, "SLURM_JOB_ID"):
        step = _text(environment, "SLURM_STEP_ID")
        return JobEnvironment(
            JobEnvironmentKind.SLURM,
            f"{job}.{step}" if step.isdigit() else job,
            _text(environment, "SLURMD_NODENAME"),
            _of_slurm(environment) or _of_cuda(environment),
        )
    if environment.get("KUBERNETES_SERVICE_HOST") and (pod := _text(environment, "HOSTNAME")):
        home = (namespace or _namespace)()
        return JobEnvironment(
            JobEnvironmentKind.KUBERNETES, f"{home}/{pod}" if home else pod, named=_of_container(environment)
        )
    return JobEnvironment(JobEnvironmentKind.HOST, named=_of_cuda(environment))


def _of_slurm(environment: Mapping[str, str]) -> Named | None:
    # A step's before its job's: what a job holds on its first node is handed down to steps on the others.
    for variable in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        names = tuple(name.strip() for name in environment.get(variable, "").split(",") if name.strip())
        if names:
            return Named(variable, names, are_files=True)
    return None


def _of_cuda(environment: Mapping[str, str]) -> Named | None:
    variable = "CUDA_VISIBLE_DEVICES"
    if variable not in environment:
        return None
    names: list[str] = []
    for name in environment[variable].split(","):
        if not _is_number(name.strip()) and not name.strip().upper().startswith(_UUIDS):
            break
        names.append(name.strip())
    return Named(variable, tuple(names))


def _of_container(environment: Mapping[str, str]) -> Named | None:
    """Return a container's devices: numbers there are the host's, and what they mean here cannot be told."""
    variable = "NVIDIA_VISIBLE_DEVICES"
    names = [name.strip() for name in environment.get(variable, "").split(",")]
    if all(name.upper().startswith(_UUIDS) for name in names):
        return Named(variable, tuple(names))
    return _of_cuda(environment)


def _named(name: str) -> Allocation:
    return Allocation("", "", "", "", name)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= 4


def _text(environment: Mapping[str, str], variable: str) -> str:
    return environment.get(variable, "").strip()[:_LONGEST_NAME]


def _namespace(path: Path = SERVICE_ACCOUNT / "namespace") -> str:
    try:
        return path.read_text().strip()[:_LONGEST_NAME]
    except (OSError, UnicodeDecodeError):
        return ""
