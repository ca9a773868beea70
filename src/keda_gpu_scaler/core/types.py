# SPDX-License-Identifier: Apache-2.0
"""What was seen: devices, their samples, who holds them, and the workloads whose pods those are.

The law of this module: a reading the driver did not give is ``None``. It is never 0, and nothing
downstream may turn it into one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Device:
    """What the kubelet hands out: a whole GPU, or a slice of one.

    ``uuid`` is the identity ("GPU-…", "MIG-…"). ``index`` is the driver's ordinal, a convenience that
    may change at reboot; a slice has the index of the GPU it was cut from, whose UUID is ``parent``.
    ``pci_address`` looks like "0000:19:00.0" and is empty where the source does not tell. ``minor`` is the number
    of the device file (/dev/nvidia0), a slice's that of its GPU; ``gpu_instance`` and ``compute_instance`` say which
    slice of it this is. Device plugins name devices by any of these.
    """

    uuid: str
    index: int
    model: str
    pci_address: str = ""
    parent: str | None = None
    minor: int | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One device's readings at one instant; every reading may be unknown.

    Utilisations are ratios from 0 to 1: the share of time in which a kernel ran, or in which memory was
    being read or written.
    """

    device: Device
    gpu_utilization_ratio: float | None = None
    memory_utilization_ratio: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None

    @property
    def has_no_reading(self) -> bool:
        """Whether not one reading is known, as for a card that fell off the bus."""
        return (
            self.gpu_utilization_ratio is None
            and self.memory_utilization_ratio is None
            and self.memory_used_bytes is None
            and self.temperature_celsius is None
            and self.power_watts is None
        )


@dataclass(frozen=True, slots=True, order=True)
class Allocation:
    """The kubelet's statement: this pod's container holds that device, or one share of it.

    ``device_id`` is spelt as the device plugin spells it; of a resource claim it is the device's name, and
    ``resource`` the driver's. A pod's name is unique within its namespace and node at any one time.
    """

    namespace: str
    pod: str
    container: str
    resource: str
    device_id: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One node's samples at one instant, and who held its devices: immutable, numbered, dated.

    ``sequence`` grows by one with every snapshot of a run. ``at_seconds`` is the sampling node's monotonic
    clock, good for differences only; ``unix_seconds`` is the wall clock, for people. ``source`` says where
    the readings come from ("nvml", "replay of …", "synthetic …"), so that no demonstration passes for a
    measurement. ``allocations`` is sorted, and None while nobody can tell who holds what.
    """

    node: str
    sequence: int
    at_seconds: float
    unix_seconds: float
    source: str
    samples: tuple[Sample, ...]
    allocations: tuple[Allocation, ...] | None = None


@dataclass(frozen=True, slots=True, order=True)
class PodRef:
    """A pod by its namespace and name."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a workload, as the API server tells it.

    ``node`` is None until it is scheduled. ``phase`` is Kubernetes' own word ("Pending", "Running", "Succeeded",
    "Failed", "Unknown"); ``is_ready`` is the condition Ready; ``is_deleting`` says that it was told to end.
    ``created_at_seconds`` is on the monotonic clock of whoever judges, and may lie before its zero. ``address`` is its
    IP, empty until it has one, and ``ports`` are the TCP ports its containers declare. ``metrics_port``,
    ``metrics_path`` and ``metrics_scheme`` are what its annotations ``prometheus.io/port``, ``/path`` and ``/scheme``
    say, None where they say nothing of use.
    """

    ref: PodRef
    node: str | None
    phase: str
    is_ready: bool
    is_deleting: bool
    created_at_seconds: float
    address: str = ""
    ports: tuple[int, ...] = ()
    metrics_port: int | None = None
    metrics_path: str | None = None
    metrics_scheme: str | None = None


@dataclass(frozen=True, slots=True)
class DeclaredTrigger:
    """One trigger of ours in a ScaledObject: its metadata, and KEDA's ``metricType`` ("AverageValue", "Value")."""

    metadata: Mapping[str, str]
    metric_type: str


@dataclass(frozen=True, slots=True)
class Workload:
    """The scale target behind a ScaledObject or ScaledJob: its pods and replicas at one instant.

    ``kind`` is "ScaledObject" or "ScaledJob". ``target`` names the scale target for people ("Deployment llama").
    ``spec_replicas`` is the size it was told to have, ``status_replicas`` the size it has. ``pods`` is sorted by
    reference and holds every pod that matches the target's selector, whatever its state. ``triggers`` are the
    external ones.
    """

    namespace: str
    name: str
    kind: str
    target: str
    spec_replicas: int
    status_replicas: int
    pods: tuple[Pod, ...]
    triggers: tuple[DeclaredTrigger, ...] = ()


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why nothing is known of a workload: a sentence for a person.

    ``is_permanent`` says that it will not pass by itself: no such object, a right that is missing.
    """

    reason: str
    is_permanent: bool


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often something took how long, counted since its source started.

    ``bounds_seconds`` are upper bounds in rising order, the last infinite; ``counts`` holds for each how many
    observations were not above it.
    """

    bounds_seconds: tuple[float, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """The sum of all series that a selector means: a gauge's value, or a counter's count since its source started."""

    value: float
    is_counter: bool


@dataclass(frozen=True, slots=True)
class EngineSample:
    """What one page of metrics told at one instant, in the words of no engine; every reading may be unknown.

    ``at_seconds`` is on the scraper's monotonic clock. ``engine`` is a name in ``core.catalog.ENGINES``, empty where
    the page is none's. ``kv_cache_ratio`` is from 0 to 1, of several ranks the fullest; ``running_limit`` is how many
    requests may run at once. What ends in ``_total`` is counted since the engine started: requests that ended well,
    tokens generated, seconds that requests waited in the queue and how many requests those were. ``selected`` holds
    what was asked for besides, by the selector's text: None where it means no series of the page.
    """

    at_seconds: float
    engine: str = ""
    waiting: float | None = None
    running: float | None = None
    running_limit: float | None = None
    kv_cache_ratio: float | None = None
    requests_total: float | None = None
    tokens_total: float | None = None
    queue_wait_seconds_total: float | None = None
    queue_waits_total: float | None = None
    first_token: Histogram | None = None
    selected: Mapping[str, Series | None] = field(default_factory=dict)
