# SPDX-License-Identifier: Apache-2.0
"""The causes that a page of ``explain`` may show, and the next command to run for each.

Law: every cause has one command, in one table. A command only reads, or opens an editor.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


class Cause(enum.Enum):
    """Why a workload has the size that it has, or why that is not known."""

    REFUSED = "refused trigger"
    UNREACHABLE = "no connection"
    CERTIFICATE = "certificate"
    OTHER_SERVER = "another server"
    SCALER_ERROR = "error of the scaler"
    WORKLOAD = "workload not read"
    MISCONFIGURED = "configuration"
    NO_DEVICE = "no device"
    AGENT = "agent unavailable"
    HOLDERS = "holders unknown"
    READING = "no reading"
    ENGINE = "engine unavailable"
    NOT_SCHEDULED = "pod not scheduled"
    PENDING = "not read yet"
    CLOCK = "wrong clock"
    PAUSED = "paused"
    SIZE_UNKNOWN = "size not known"
    MAXIMUM = "maximum"
    RATE = "rate or window"
    HPA = "the live HPA"
    DEMAND = "demand unknown"
    INACTIVE = "inactive"
    NONE = "more"


@dataclass(frozen=True, slots=True)
class NextStep:
    """A cause, and the command to run next."""

    cause: Cause
    command: str


COMMANDS: Mapping[Cause, str] = MappingProxyType(
    {
        Cause.REFUSED: "{edit}",
        Cause.UNREACHABLE: "kubectl get pods -A -o wide -l app.kubernetes.io/part-of=keda-gpu-scaler",
        Cause.CERTIFICATE: "kubectl get certificates,secrets -n {scaler_namespace}",
        Cause.OTHER_SERVER: "kubectl get pods -A -o wide -l app.kubernetes.io/part-of=keda-gpu-scaler",
        Cause.SCALER_ERROR: "kubectl logs -n {scaler_namespace} {scaler_pod}",
        Cause.WORKLOAD: "kubectl -n {namespace} describe {resource} {name}",
        Cause.MISCONFIGURED: "{edit}",
        Cause.NO_DEVICE: "kubectl -n {namespace} describe pod {pod}",
        Cause.AGENT: "kubectl get pods -n {scaler_namespace} -o wide --field-selector spec.nodeName={node}",
        Cause.HOLDERS: "kubectl get pods -n {scaler_namespace} -o wide --field-selector spec.nodeName={node}",
        Cause.READING: "keda-gpu-scaler top --by device --filter {node}",
        Cause.ENGINE: "{engine_page}",
        Cause.NOT_SCHEDULED: "kubectl -n {namespace} describe pod {pod}",
        Cause.PENDING: "keda-gpu-scaler explain {title} --watch",
        Cause.CLOCK: "keda-gpu-scaler doctor --cluster",
        Cause.PAUSED: "kubectl -n {namespace} get {resource} {name} -o jsonpath={{.metadata.annotations}}",
        Cause.SIZE_UNKNOWN: "keda-gpu-scaler explain {title} --replicas N",
        Cause.MAXIMUM: "{edit}",
        Cause.RATE: "keda-gpu-scaler explain {title} --watch",
        Cause.HPA: "kubectl -n {namespace} describe hpa {hpa}",
        Cause.DEMAND: "keda-gpu-scaler explain {title} -o wide",
        Cause.INACTIVE: "keda-gpu-scaler explain {title} --watch",
        Cause.NONE: "keda-gpu-scaler explain {title} -o wide",
    }
)
"""The command for each cause. A name in braces stands for what the page is about."""


def next_step(cause: Cause, names: Mapping[str, str]) -> NextStep:
    """Return the command for a cause.

    Args:
        cause: the cause.
        names: what each name in braces stands for; one that is missing is shown in capitals.
    """
    return NextStep(cause, COMMANDS[cause].format_map(_Names(names)))


class _Names(dict[str, str]):
    """Names for a command; a missing one is shown as a placeholder."""

    def __missing__(self, key: str) -> str:
        return key.upper()
