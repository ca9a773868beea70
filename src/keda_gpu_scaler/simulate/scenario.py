# SPDX-License-Identifier: Apache-2.0
"""What is simulated: how a ScaledObject scales, and the circumstances in which it does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from keda_gpu_scaler.core.comparison import DEFAULT_MAX_REPLICAS
from keda_gpu_scaler.core.hpa.controller import Behavior
from keda_gpu_scaler.core.scaling_rules import (
    DEFAULT_COOLDOWN_SECONDS,
    DEFAULT_TOLERANCES,
    Formula,
    JobRules,
    Tolerances,
)
from keda_gpu_scaler.simulate.gateway import Router

POLLING_SECONDS = 30.0
"""KEDA's default for ``pollingInterval``."""

FormulaResult = Callable[[str, Mapping[str, float]], float | None]
"""Computes a formula of scalingModifiers from the values of its triggers by name."""


@dataclass(frozen=True, slots=True)
class TriggerSpec:
    """A trigger of this scaler. ``is_push`` says that KEDA opens a stream for it (``external-push``)."""

    metadata: Mapping[str, str]
    metric_type: str = "AverageValue"
    name: str = ""
    is_push: bool = False


@dataclass(frozen=True, slots=True)
class FallbackSpec:
    """A ScaledObject's ``fallback``: what counts after more than ``failures`` errors in a row."""

    failures: int
    replicas: int
    behavior: str = "static"


@dataclass(frozen=True, slots=True)
class QueueTrigger:
    """A trigger of another scaler, whose value is the length of the queue.

    It is active above ``activation`` items. ``counts_unfinished`` says that the items count until they are done, and
    not only while no one has taken them.
    """

    type: str
    target: float
    activation: float = 0.0
    metric_type: str = "AverageValue"
    name: str = ""
    counts_unfinished: bool = False


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The Jobs of a ScaledJob. ``completions`` is how many pods of a Job must succeed, None for ``parallelism``."""

    rules: JobRules
    completions: int | None = None


@dataclass(frozen=True, slots=True)
class ScalingSpec:
    """How a ScaledObject or a ScaledJob scales: its triggers, its sizes, and the settings of KEDA and of the HPA.

    ``others`` are the types of the triggers of other scalers that are not simulated, ``queue_triggers`` those that are.
    ``idle_replicas`` is None where it is not given. ``jobs`` is None for a ScaledObject.
    """

    title: str
    triggers: tuple[TriggerSpec, ...]
    others: tuple[str, ...] = ()
    min_replicas: int = 0
    max_replicas: int = DEFAULT_MAX_REPLICAS
    idle_replicas: int | None = None
    cooldown_seconds: float = DEFAULT_COOLDOWN_SECONDS
    polling_seconds: float = POLLING_SECONDS
    behavior: Behavior | None = None
    tolerances: Tolerances = DEFAULT_TOLERANCES
    fallback: FallbackSpec | None = None
    formula: Formula | None = None
    initial_cooldown_seconds: float = 0.0
    queue_triggers: tuple[QueueTrigger, ...] = ()
    jobs: JobSpec | None = None

    @property
    def hpa_min(self) -> int:
        """The HPA's lower limit: KEDA never sets less than 1."""
        return max(1, self.min_replicas)

    @property
    def hpa_max(self) -> int:
        """The HPA's upper limit; never below the lower one, because the API server refuses such an HPA."""
        return max(self.max_replicas, self.hpa_min)

    @property
    def inactive_replicas(self) -> int | None:
        """The size that KEDA itself sets after the cooldown; None where the HPA decides on an inactive workload."""
        if self.idle_replicas is not None:
            return self.idle_replicas
        return 0 if self.min_replicas == 0 else None


@dataclass(frozen=True, slots=True)
class Objective:
    """What users accept: the time to the first token and the time per token, in seconds.

    ``is_for_items`` says that ``first_token_seconds`` is the time until an item of a queue is done.
    """

    first_token_seconds: float = 2.0
    token_seconds: float = 0.1
    is_for_items: bool = False

    def describe(self) -> str:
        """Say what is in time."""
        if self.is_for_items:
            return f"in time: an item of the queue is done within {self.first_token_seconds:g} s of its arrival"
        return (
            f"in time: the first token within {self.first_token_seconds:g} s, and each further one within "
            f"{1000 * self.token_seconds:g} ms on average"
        )


@dataclass(frozen=True, slots=True)
class QueueRules:
    """The queue from which pods take items. ``items_per_pod`` is how many a pod of a Job takes before it ends.

    A pod of a Job also ends where it finds the queue empty; ``items_per_pod`` is None where it ends only then.
    ``counts_unfinished`` says whether the source of demand of this scaler's triggers counts items until they are done.
    """

    items_per_pod: int | None = 1
    counts_unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The circumstances of a simulation; times are in seconds.

    A cold start takes between the two numbers of ``cold_start_seconds``, from the creation of a pod until it is ready.
    ``node_start_seconds`` comes on top for a pod that needs a node that does not exist; None where there is always a
    node. ``warm_nodes`` nodes exist from the start. ``initial_replicas`` are ready at the start, None for as many as
    the traffic of the first two minutes needs. ``grace_seconds`` is terminationGracePeriodSeconds. The first sync of
    the HPA and the first poll of KEDA are at ``hpa_phase_seconds`` and ``keda_phase_seconds``. After the last arrival
    the simulation goes on for ``tail_seconds`` at most.
    """

    objective: Objective = field(default_factory=Objective)
    cold_start_seconds: tuple[float, float] = (60.0, 120.0)
    node_start_seconds: float | None = None
    warm_nodes: int = 0
    initial_replicas: int | None = None
    grace_seconds: float = 300.0
    router: Router = Router.LEAST_REQUESTS
    seed: int = 1
    scrape_seconds: float = 2.0
    stale_after_seconds: float = 10.0
    hpa_phase_seconds: float = 7.0
    keda_phase_seconds: float = 11.0
    tail_seconds: float = 900.0
    queue: QueueRules | None = None
