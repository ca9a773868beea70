# SPDX-License-Identifier: Apache-2.0
"""Results of measuring a workload, devices or an endpoint, before the activity is decided."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.evaluate.observation import DeviceObservation, PodObservation
from keda_gpu_scaler.core.evaluate.outage import ActivityHold
from keda_gpu_scaler.core.hpa.reported_value import ReportedValue, ReportType
from keda_gpu_scaler.core.types import Pod, Unavailable

_MAX_LISTED = 3  # this many sentences are listed, and the others are counted


@dataclass(frozen=True, slots=True)
class ActivityEvidence:
    """What says whether the workload has work.

    ``busiest`` is the value that the activation threshold applies to, None where requests alone decide. ``requests`` is
    the number of requests that the engines have. ``starting`` are the pods within their startup grace.
    ``missing_reasons`` say what has no value, and could be at work. ``expires_at_seconds`` has the time at which each
    observation with a value becomes stale. ``hold`` says why the workload counts as active although it has no work.
    """

    busiest: float | None
    requests: float = 0.0
    starting: tuple[Pod, ...] = ()
    missing_reasons: tuple[str, ...] = ()
    expires_at_seconds: tuple[float, ...] = ()
    hold: ActivityHold | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measured value. ``with_value`` of ``expected`` ready pods (or devices) had a value.

    ``contradiction`` says that requests wait and the value asks for no replica for them, empty where that is not so.
    ``fallback`` says that the value comes from another source than the one that the metric names first, and why. It is
    in ``steps`` too. ``measured`` is the mean of the replicas with a value, or the aggregate of the devices; None where
    it is not known for one replica. ``report`` is what the HPA expects.
    """

    reported: ReportedValue
    evidence: ActivityEvidence
    steps: tuple[str, ...]
    with_value: int
    expected: int
    observations: tuple[PodObservation | DeviceObservation, ...]
    contradiction: str = ""
    fallback: str = ""
    measured: float | None = None
    report: ReportType | None = None


@dataclass(frozen=True, slots=True)
class NoMeasurement:
    """The reason why there is no value, and what was observed nevertheless.

    ``fallback`` is that of ``Measurement``. The reason needs it where it is read alone.
    """

    why: Unavailable
    steps: tuple[str, ...] = ()
    with_value: int = 0
    expected: int = 0
    observations: tuple[PodObservation | DeviceObservation, ...] = ()
    fallback: str = ""

    @property
    def reason(self) -> str:
        """The reason as it is read alone."""
        return f"{self.why.reason}; {self.fallback}" if self.fallback else self.why.reason


@dataclass(frozen=True, slots=True)
class ScaledToZero:
    """A workload without replicas and pods. ``reported`` is the size that demand needs, None where it needs none."""

    reported: ReportedValue | None
    steps: tuple[str, ...]


def misconfigured(reason: str) -> Unavailable:
    """Return a reason that stays until the configuration is changed."""
    return Unavailable(reason, is_permanent=True)


def unavailable(reason: str) -> Unavailable:
    """Return a reason that may pass without a change of the configuration."""
    return Unavailable(reason, is_permanent=False)


def list_reasons(observations: Iterable[PodObservation | DeviceObservation]) -> str:
    """List the first reasons, each once, and count the rest."""
    sentences = list(dict.fromkeys(observation.sentence for observation in observations))
    more = f" and {len(sentences) - _MAX_LISTED} more" if len(sentences) > _MAX_LISTED else ""
    return "; ".join(sentences[:_MAX_LISTED]) + more


def expiries(observations: Sequence[PodObservation | DeviceObservation]) -> tuple[float, ...]:
    """Return when each observation with a value becomes stale."""
    return tuple([observation.expires_at_seconds for observation in observations if observation.value is not None])
