# SPDX-License-Identifier: Apache-2.0
"""Data types: devices, samples, allocations, snapshots, pods, workloads and engine samples.

Law: a reading that the driver did not return is ``None``. It is never 0, and no code may turn it into 0.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from keda_gpu_scaler.core.comparison import ReplicaLimits
from keda_gpu_scaler.core.pod_use import PodUse
from keda_gpu_scaler.core.scaling_rules import (
    DEFAULT_COOLDOWN_SECONDS,
    DEFAULT_TOLERANCES,
    Formula,
    JobRules,
    Tolerances,
)


@dataclass(frozen=True, slots=True)
class Device:
    """A device that the kubelet assigns: a whole GPU, or a slice of one.

    ``uuid`` is the identity ("GPU-…", "MIG-…"). ``index`` is the driver's ordinal, which may change at a reboot. A
    slice has the index of its GPU, whose UUID is ``parent``. ``pci_address`` looks like "0000:19:00.0" and is empty
    where the source has none. ``minor`` is the number of the device file (/dev/nvidia0); a slice has the number of its
    GPU. ``gpu_instance`` and ``compute_instance`` identify the slice within its GPU. ``names`` has further names that
    identify the device on its node ("amdgpu_xcp_3", "card0"); a device with names is never found by its index or minor.
    Device plugins use any of these as the name of a device.
    """

    uuid: str
    index: int
    model: str
    pci_address: str = ""
    parent: str | None = None
    minor: int | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadingFailure:
    """Why a reading of a device is unknown.

    ``reading`` is "utilization", "memory", "temperature", "power", "activity", "pcie", "nvlink", "identity" or that of
    ``pod_use``, and empty for all readings.
    ``reason`` is a short printable text, the driver's own where it has one ("Unknown Error (999)").
    ``since_seconds`` is when the reading was first unknown, on the clock of ``Snapshot.at_seconds``; None where it
    was never known, because the device does not have it.
    """

    reading: str
    reason: str
    since_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PerformanceReadings:
    """The readings of a device that are expensive to take: means over a time, taken at a slower pace.

    ``at_seconds`` is the end of that time, on the clock of ``Snapshot.at_seconds``, and ``seconds`` its length. The
    same object is in every sample until the next one is taken. Activities are ratios from 0 to 1: the share of the
    streaming multiprocessors that were busy, of the time in which the tensor cores were busy, and of the memory's
    bandwidth that was used. ``tx`` is traffic from the device, ``rx`` traffic to it. NVLink stands for the links
    between GPUs, on AMD XGMI. ``energy_joules`` counts since the driver was loaded.
    """

    at_seconds: float
    seconds: float
    sm_active_ratio: float | None = None
    tensor_active_ratio: float | None = None
    dram_active_ratio: float | None = None
    pcie_rx_bytes_per_second: float | None = None
    pcie_tx_bytes_per_second: float | None = None
    nvlink_rx_bytes_per_second: float | None = None
    nvlink_tx_bytes_per_second: float | None = None
    energy_joules: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One device's readings at one instant; every reading may be unknown.

    Utilisations are ratios from 0 to 1: the share of time in which a kernel ran, or in which memory was read or
    written. ``lag_seconds`` is how much older than their snapshot the readings are; less than a second counts as 0.
    ``failures`` says why readings are unknown, where the backend knows it. ``performance`` is None while these
    readings are not wanted, and until the first of them was taken. ``uses`` has what each pod used of the
    device, sorted by UID, each once; None where that is not measured.
    """

    device: Device
    gpu_utilization_ratio: float | None = None
    memory_utilization_ratio: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    lag_seconds: float = 0.0
    failures: tuple[ReadingFailure, ...] = ()
    performance: PerformanceReadings | None = None
    uses: tuple[PodUse, ...] | None = None

    @property
    def has_reading(self) -> bool:
        """Whether at least one reading is known. A card that fell off the bus has none."""
        return not (
            self.gpu_utilization_ratio is None
            and self.memory_utilization_ratio is None
            and self.memory_used_bytes is None
            and self.temperature_celsius is None
            and self.power_watts is None
        )

    def failure_of(self, reading: str) -> ReadingFailure | None:
        """Return why a reading is unknown: the failure of all readings, else that of this reading; None if not known.

        Args:
            reading: a value of ``ReadingFailure.reading``.
        """
        found = {failure.reading: failure for failure in self.failures}
        return found.get("") or found.get(reading)


@dataclass(frozen=True, slots=True, order=True)
class Allocation:
    """A container of a pod holds a device, or one share of it, as the kubelet reports it.

    ``device_id`` is the id of the device plugin. For a resource claim it is the name of the device, and ``resource`` is
    the name of the driver. A pod's name is unique within its namespace and node at any one time. ``quantity`` is the
    number of ids where a plugin lists a unit of memory as a device: ``device_id`` is then the first of them.
    """

    namespace: str
    pod: str
    container: str
    resource: str
    device_id: str
    quantity: int = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One node's samples and allocations at one instant.

    ``sequence`` grows by one with every snapshot of a run. ``at_seconds`` is when the devices were read, on the node's
    monotonic clock; only differences have a meaning. ``unix_seconds`` is the wall clock, for display. ``source`` says
    where the readings come from ("nvml", "replay of …", "synthetic …"), so that a demonstration is never taken for a
    measurement.
    ``allocations`` is sorted. It is None while the allocations are not known.
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
class AssignedPod:
    """A pod with labels or annotations of a scheduler that assigns devices, as the API server returns it.

    ``marks`` are those labels and annotations by key, sorted. ``core.assignment`` says what they mean.
    """

    ref: PodRef
    node: str
    marks: tuple[tuple[str, str], ...]

    def mark(self, key: str) -> str:
        """Return the value of a label or annotation, empty where the pod has none of this key."""
        return next((value for name, value in self.marks if name == key), "")


@dataclass(frozen=True, slots=True)
class ClaimedDevice:
    """A device that the allocation of a ResourceClaim gives to a pod.

    ``is_admin`` says that the pod observes the device and does not use it (adminAccess). ``uuid`` and ``pci_address``
    come from the driver's ResourceSlice, and are empty where it has none.
    """

    pod: PodRef
    node: str
    driver: str
    device: str
    is_admin: bool = False
    uuid: str = ""
    pci_address: str = ""


@dataclass(frozen=True, slots=True)
class ClusterAssignments:
    """What the API server knows of the assignment of devices on the nodes of a workload.

    ``pods`` are the running pods with marks of a scheduler. ``claimed`` are the devices of resource claims, None where
    they were not read. ``pods_unavailable`` and ``claims_unavailable`` say why they could not be read completely.
    Both are empty where nothing is missing, or where the workload needs nothing of it.
    """

    pods: tuple[AssignedPod, ...] = ()
    claimed: tuple[ClaimedDevice, ...] | None = None
    pods_unavailable: str = ""
    claims_unavailable: str = ""


KUBELET_ONLY = ClusterAssignments()
"""Nothing is known but what the kubelet lists."""


@dataclass(frozen=True, slots=True)
class OwnerReference:
    """The controller of an object, from ``metadata.ownerReferences``; ``group`` and ``version`` are of its API."""

    group: str
    version: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


MAX_COLD_START_SECONDS = 3600.0
"""A pod that became ready later than this after its creation was probably ready before."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a workload, as the API server returns it.

    ``node`` is None until the pod is scheduled. ``phase`` is that of Kubernetes ("Pending", "Running", "Succeeded",
    "Failed", "Unknown"). ``is_ready`` is the condition Ready. ``is_deleting`` says that it has a deletion timestamp.
    ``created_at_seconds`` is on this instance's monotonic clock, and may be negative. ``address`` is the pod's IP
    address, empty until it has one, and ``other_addresses`` are its further ones: a pod in a dual-stack cluster has one
    of each family. ``ports`` are the TCP ports that the containers declare. ``metrics_port``,
    ``metrics_path`` and ``metrics_scheme`` come from the annotations ``prometheus.io/port``, ``/path`` and ``/scheme``.
    They are None where the annotation is missing or invalid. ``ready_at_seconds`` is when the pod became ready, on the
    clock of ``created_at_seconds``, None while it is not ready. ``restarts`` counts the restarts of its containers.
    ``group`` is the key of the replica that several pods are together, such as a Job of a ScaledJob or a group of a
    LeaderWorkerSet. It is empty where the pod is a replica by itself. ``group_size`` is the least number of pods that
    the replica has when it is complete, 0 where that is not known. ``is_worker`` says that another pod of the replica,
    its leader, answers requests for it. ``conditions`` are the types of the true conditions of a pod of a ScaledJob.
    ``labels`` are sorted by key. ``owner`` is the pod's controller, None where it has none. ``deletion_cost`` is the
    annotation pod-deletion-cost, and ``written_deletion_cost`` the one that this scaler wrote; each is None where there
    is none.
    ``requests`` are the extended resources that its containers request ("nvidia.com/gpu"), and ``has_claims`` says that
    it has resource claims. ``assigned`` has the marks of a scheduler that assigns devices, None where the pod has none.
    ``uid`` is the one that the pod has on its node, empty where it is not known.
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
    ready_at_seconds: float | None = None
    restarts: int = 0
    other_addresses: tuple[str, ...] = ()
    group: str = ""
    conditions: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    has_claims: bool = False
    assigned: AssignedPod | None = None
    group_size: int = 0
    is_worker: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    owner: OwnerReference | None = None
    deletion_cost: int | None = None
    written_deletion_cost: int | None = None
    uid: str = ""

    @property
    def is_serving(self) -> bool:
        """Whether the pod gets requests, as the HPA counts it: it is scheduled, it runs, and it is ready."""
        return self.is_ready and self.phase == "Running" and self.node is not None

    @property
    def has_users_deletion_cost(self) -> bool:
        """Whether the pod has a deletion cost that this scaler did not write."""
        return self.deletion_cost is not None and self.deletion_cost != self.written_deletion_cost

    @property
    def replica(self) -> str:
        """The name of the replica that the pod is, or that it belongs to; unique within a workload."""
        return self.group or self.ref.name

    @property
    def serving_since_seconds(self) -> float:
        """When it became ready; when it was created where that is not known."""
        return self.created_at_seconds if self.ready_at_seconds is None else self.ready_at_seconds

    @property
    def cold_start_seconds(self) -> float | None:
        """The time from the pod's creation until it was ready, None where it is not known.

        The API server keeps only the last time at which a pod became ready. A pod whose containers were restarted
        became ready again later, so its time says nothing. Neither does one above ``MAX_COLD_START_SECONDS``: an
        overloaded pod is not ready for a while, and becomes ready again hours or days after its creation.
        """
        if self.ready_at_seconds is None or self.restarts:
            return None
        seconds = max(0.0, self.ready_at_seconds - self.created_at_seconds)
        return seconds if seconds <= MAX_COLD_START_SECONDS else None


@dataclass(frozen=True, slots=True)
class DeclaredTrigger:
    """One trigger of this scaler in a ScaledObject, with KEDA's ``metricType`` ("AverageValue", "Value")."""

    metadata: Mapping[str, str]
    metric_type: str


@dataclass(frozen=True, slots=True)
class Workload:
    """The scale target behind a ScaledObject or ScaledJob: its pods and replicas at one instant.

    ``kind`` is "ScaledObject" or "ScaledJob". ``target`` is the scale target for display ("Deployment llama").
    ``spec_replicas`` is the size that the scale target should have, ``status_replicas`` the size that it has. ``pods``
    is sorted by reference and has every pod of the target, whatever its state. ``triggers`` are the external
    triggers. ``removed_at_seconds`` is when a ready pod last left (see ``Removals``), on this instance's monotonic
    clock, and minus infinity while none was seen to leave. ``formula`` is None where the HPA compares each trigger.
    ``tolerances`` are those of the HPA. ``assignments`` says who assigned devices besides the kubelet.
    ``cooldown_seconds`` is ``cooldownPeriod``, and ``idle_replicas`` the size of an inactive workload
    (``idleReplicaCount``). ``jobs`` has the rules of a ScaledJob; its sizes count Jobs. ``counts_pods`` says that the
    sizes count pods also where several pods are one replica, as those of a StatefulSet do; the sizes of a
    LeaderWorkerSet count its groups. ``selected_ready_pods`` is how many ready pods the target's selector selects, None
    where it selects exactly ``pods``. ``remarks`` are sentences about whose the pods are. ``limits`` are those of the
    ScaledObject, None where they are not known, and for a ScaledJob.
    """

    namespace: str
    name: str
    kind: str
    target: str
    spec_replicas: int
    status_replicas: int
    pods: tuple[Pod, ...]
    triggers: tuple[DeclaredTrigger, ...] = ()
    removed_at_seconds: float = -math.inf
    formula: Formula | None = None
    tolerances: Tolerances = DEFAULT_TOLERANCES
    jobs: JobRules | None = None
    assignments: ClusterAssignments = KUBELET_ONLY
    cooldown_seconds: float = DEFAULT_COOLDOWN_SECONDS
    idle_replicas: int = 0
    counts_pods: bool = True
    selected_ready_pods: int | None = None
    remarks: tuple[str, ...] = ()
    limits: ReplicaLimits | None = None

    @property
    def hpa_ready_pods(self) -> int:
        """The ready pods in the HPA's arithmetic: those that the target's selector selects, also while they end."""
        if self.selected_ready_pods is not None:
            return self.selected_ready_pods
        return sum([pod.is_serving for pod in self.pods])

    @property
    def cold_start_seconds(self) -> float | None:
        """The median time from the creation of a pod until it was ready, None while no pod shows it.

        Where several pods are one replica, the slowest of them counts.
        """
        slowest: dict[str, float] = {}
        for pod in self.pods:
            if (seconds := pod.cold_start_seconds) is not None:
                slowest[pod.replica] = max(seconds, slowest.get(pod.replica, 0.0))
        times = sorted(slowest.values())
        return times[len(times) // 2] if times else None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why something is not known: a sentence for the operator.

    ``is_permanent`` says that it needs a change of the configuration: an object does not exist, a right is missing.
    ``triggers`` are those that the ScaledObject or ScaledJob of this name declares, also where something else of the
    workload is not known: empty where there is no such object, None where that is not known.
    """

    reason: str
    is_permanent: bool
    triggers: tuple[DeclaredTrigger, ...] | None = None


@dataclass(frozen=True, slots=True)
class Histogram:
    """A cumulative histogram of durations since its source started.

    ``bounds_seconds`` are upper bounds in rising order, the last infinite. ``counts`` has for each bound the number of
    observations that are not above it.
    """

    bounds_seconds: tuple[float, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """The sum of all series that a selector selects: the value of gauges, or the count of counters.

    ``above_zero`` is the same sum with each negative gauge counted as 0, None where no gauge is negative. With
    ``is_absent`` the selector selects no series, ``value`` is 0, and the page has the family of the series or another
    one of its source. A source of demand then has no demand. An engine's value is not known. With ``is_partial`` the
    value of a selected series is not a number, and the sum is not known. ``value`` is then the sum of the known values
    above 0.
    """

    value: float
    is_counter: bool
    above_zero: float | None = None
    is_absent: bool = False
    is_partial: bool = False


_NOTHING_UNREAD: Mapping[str, str] = MappingProxyType({})
_NO_PARTS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class EngineSample:
    """The readings of one page of metrics at one instant, independent of the engine; every reading may be unknown.

    ``at_seconds`` is on the scraper's monotonic clock. ``engine`` is a name in ``core.trigger.engines.ENGINES``, empty
    where the page belongs to no known engine. ``kv_cache_ratio`` is from 0 to 1; of several ranks it is the fullest.
    ``is_kv_percent`` says that the engine exports it in per cent, under the name of a ratio. ``deferred`` is the number
    of requests that wait for something else than capacity, such as the transfer of a KV cache. ``waiting`` has none of
    them.
    ``running_limit`` is the number of requests that may run at once. ``selected`` has the series that the trigger
    requests in addition, by the selector's text; None where the selector selects no series of the page. ``unread`` has
    the reasons why selectors were not applied, by the same text. ``summed_models`` is the number of models that are
    added up, where one of them may count the requests of others once more; else 0. ``has_model`` is false where the
    trigger selects models and the page has no series of them. ``known_parts`` has the names of readings that the engine
    exports and that are unknown, because the value of a series is not a number or differs from its copy. Its number is
    what the other series say: a reading of requests or of the KV cache is at least this.

    The fields that end in ``_total`` count since the engine started: requests that ended well, generated tokens, tokens
    of prompts, seconds of requests in the queue, and requests that left the queue. ``token_times_total`` counts
    observed times between two tokens of a request, and ``token_time_seconds_total`` adds them up; ``token_time`` has
    their histogram. ``first_tokens_total`` counts first tokens. ``services_total`` counts requests that were computed,
    ``service_seconds_total`` adds up their time of computation, and ``executions_total`` counts executions, each of one
    batch of requests.
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
    first_tokens_total: float | None = None
    prompt_tokens_total: float | None = None
    token_time: Histogram | None = None
    token_time_seconds_total: float | None = None
    token_times_total: float | None = None
    service_seconds_total: float | None = None
    services_total: float | None = None
    executions_total: float | None = None
    deferred: float | None = None
    is_kv_percent: bool = False
    selected: Mapping[str, Series | None] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=lambda: _NOTHING_UNREAD)
    summed_models: int = 0
    has_model: bool = True
    known_parts: Mapping[str, float] = field(default_factory=lambda: _NO_PARTS)
