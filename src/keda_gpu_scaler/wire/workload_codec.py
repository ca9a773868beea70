# SPDX-License-Identifier: Apache-2.0
"""Encodes a workload with its pods as a JSON object, and decodes untrusted JSON as a workload.

Law: a decoded workload equals the encoded one, except for the addresses and the owners of its pods and for what assigns
devices to them, which are left out. A pod with an address has ``UNKNOWN_ADDRESS`` instead.
"""

import math
from typing import Any

from keda_gpu_scaler.core.comparison import ReplicaLimits
from keda_gpu_scaler.core.scaling_rules import Formula, JobRules, JobStrategy, Tolerances
from keda_gpu_scaler.core.types import DeclaredTrigger, Pod, PodRef, Workload
from keda_gpu_scaler.core.urls import MAX_PORT
from keda_gpu_scaler.wire.json_fields import MAX_NUMBER, MAX_TEXT_LENGTH, MAX_WHOLE, CodecError, Fields

UNKNOWN_ADDRESS = "unknown"
"""The address of a decoded pod that had one."""
MAX_PODS = 1024
MAX_TRIGGERS = 64
MAX_METADATA_LENGTH = 16 << 10
_MAX_PORTS = 256
_MAX_CONDITIONS = 32
_MAX_LABELS_LENGTH = 32 << 10
_MAX_REMARKS = 64
_MAX_REMARK_LENGTH = 1024
_KINDS = ("ScaledObject", "ScaledJob")
_TYPES = ("AverageValue", "Value", "Utilization")


def encode_workload(workload: Workload) -> dict[str, Any]:
    """Return a workload as a JSON object."""
    plain: dict[str, Any] = {
        "namespace": workload.namespace,
        "name": workload.name,
        "kind": workload.kind,
        "target": workload.target,
        "spec_replicas": workload.spec_replicas,
        "status_replicas": workload.status_replicas,
        "pods": [_encode_pod(pod) for pod in workload.pods],
        "triggers": [
            {"metadata": dict(trigger.metadata), "metric_type": trigger.metric_type} for trigger in workload.triggers
        ],
        "tolerances": {"up": workload.tolerances.up, "down": workload.tolerances.down},
        "cooldown_seconds": workload.cooldown_seconds,
        "idle_replicas": workload.idle_replicas,
        "counts_pods": workload.counts_pods,
    }
    if workload.selected_ready_pods is not None:
        plain["selected_ready_pods"] = workload.selected_ready_pods
    if workload.remarks:
        plain["remarks"] = [_printable(remark) for remark in workload.remarks[:_MAX_REMARKS]]
    if math.isfinite(workload.removed_at_seconds):
        plain["removed_at_seconds"] = workload.removed_at_seconds
    if workload.formula is not None:
        formula = workload.formula
        plain["formula"] = {
            "text": formula.text,
            "target": formula.target,
            "activation_target": formula.activation_target,
            "metric_type": formula.metric_type,
        }
    if workload.limits is not None:
        plain["limits"] = _encode_limits(workload.limits)
    if workload.jobs is not None:
        plain["jobs"] = _encode_jobs(workload.jobs)
    return plain


def _encode_pod(pod: Pod) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": pod.ref.name,
        "phase": pod.phase,
        "is_ready": pod.is_ready,
        "created_at_seconds": pod.created_at_seconds,
        "has_address": bool(pod.address),
    }
    flags = {"is_deleting": pod.is_deleting, "is_worker": pod.is_worker}
    plain |= {key: True for key, is_set in flags.items() if is_set}
    optional = {
        "node": pod.node,
        "ports": list(pod.ports),
        "metrics_port": pod.metrics_port,
        "metrics_path": pod.metrics_path,
        "metrics_scheme": pod.metrics_scheme,
        "ready_at_seconds": pod.ready_at_seconds,
        "restarts": pod.restarts,
        "uid": pod.uid,
        "group": pod.group,
        "group_size": pod.group_size,
        "labels": dict(pod.labels),
        "conditions": list(pod.conditions),
    }
    costs = {"deletion_cost": pod.deletion_cost, "written_deletion_cost": pod.written_deletion_cost}
    plain |= {key: cost for key, cost in costs.items() if cost is not None}
    return plain | {key: value for key, value in optional.items() if value not in (None, [], {}, "", 0)}


def _encode_limits(limits: ReplicaLimits) -> dict[str, Any]:
    plain = {"min_replicas": limits.min_replicas, "max_replicas": limits.max_replicas}
    return plain if limits.idle_replicas is None else {**plain, "idle_replicas": limits.idle_replicas}


def _limits(fields: Fields) -> ReplicaLimits:
    idle = fields.whole("idle_replicas") if "idle_replicas" in fields else None
    return ReplicaLimits(fields.whole("min_replicas"), fields.whole("max_replicas"), idle)


def _encode_jobs(jobs: JobRules) -> dict[str, Any]:
    optional = {"max_jobs": jobs.max_jobs, "queue_length_deduction": jobs.queue_length_deduction}
    return {
        "min_jobs": jobs.min_jobs,
        "strategy": jobs.strategy.value,
        "running_job_ratio": jobs.running_job_ratio,
        "pending_conditions": list(jobs.pending_conditions),
        "pods_per_job": jobs.pods_per_job,
        "calculation": jobs.calculation,
        "triggers": jobs.triggers,
    } | {key: value for key, value in optional.items() if value is not None}


def decode_workload(fields: Fields) -> Workload:
    """Return the workload of a JSON object.

    Raises:
        CodecError: a field is missing or invalid.
    """
    namespace = fields.text("namespace")
    tolerances = fields.object("tolerances")
    return Workload(
        namespace=namespace,
        name=fields.text("name"),
        kind=_choice(fields, "kind", _KINDS),
        target=fields.text("target"),
        spec_replicas=fields.whole("spec_replicas"),
        status_replicas=fields.whole("status_replicas"),
        pods=tuple(sorted((_pod(item, namespace) for item in fields.objects("pods", MAX_PODS)), key=lambda it: it.ref)),
        triggers=tuple(
            DeclaredTrigger(item.mapping("metadata", MAX_METADATA_LENGTH), _choice(item, "metric_type", _TYPES))
            for item in fields.objects("triggers", MAX_TRIGGERS)
        ),
        removed_at_seconds=_time(fields, "removed_at_seconds", default=-math.inf),
        formula=_formula(fields.object("formula")) if "formula" in fields else None,
        tolerances=Tolerances(tolerances.number("up", 0, MAX_NUMBER), tolerances.number("down", 0, MAX_NUMBER)),
        cooldown_seconds=fields.number("cooldown_seconds", 0, MAX_NUMBER),
        idle_replicas=fields.whole("idle_replicas"),
        counts_pods=fields.flag("counts_pods", default=True),
        selected_ready_pods=fields.whole("selected_ready_pods") if "selected_ready_pods" in fields else None,
        remarks=fields.texts("remarks", _MAX_REMARKS, _MAX_REMARK_LENGTH) if "remarks" in fields else (),
        limits=_limits(fields.object("limits")) if "limits" in fields else None,
        jobs=_jobs(fields.object("jobs")) if "jobs" in fields else None,
    )


def _pod(fields: Fields, namespace: str) -> Pod:
    return Pod(
        ref=PodRef(namespace, fields.text("name")),
        node=None if fields.is_unknown("node") else fields.text("node"),
        phase=fields.text("phase"),
        is_ready=fields.flag("is_ready"),
        is_deleting=fields.flag("is_deleting", default=False),
        created_at_seconds=fields.number("created_at_seconds", -MAX_NUMBER, MAX_NUMBER),
        address=UNKNOWN_ADDRESS if fields.flag("has_address") else "",
        ports=_ports(fields) if "ports" in fields else (),
        metrics_port=fields.whole("metrics_port", 1, MAX_PORT) if "metrics_port" in fields else None,
        metrics_path=fields.text("metrics_path") if "metrics_path" in fields else None,
        metrics_scheme=_choice(fields, "metrics_scheme", ("http", "https")) if "metrics_scheme" in fields else None,
        ready_at_seconds=(
            fields.number("ready_at_seconds", -MAX_NUMBER, MAX_NUMBER) if "ready_at_seconds" in fields else None
        ),
        restarts=fields.whole("restarts") if "restarts" in fields else 0,
        uid=fields.text("uid", default=""),
        group=fields.text("group", default=""),
        group_size=fields.whole("group_size") if "group_size" in fields else 0,
        is_worker=fields.flag("is_worker", default=False),
        labels=_labels(fields) if "labels" in fields else (),
        conditions=fields.texts("conditions", _MAX_CONDITIONS) if "conditions" in fields else (),
        deletion_cost=_signed(fields, "deletion_cost"),
        written_deletion_cost=_signed(fields, "written_deletion_cost"),
    )


def _ports(fields: Fields) -> tuple[int, ...]:
    ports = fields.items("ports", _MAX_PORTS)
    if not all(type(port) is int and 1 <= port <= MAX_PORT for port in ports):
        raise CodecError(f"ports: Invalid value: {str(ports)[:80]!a}: must be whole numbers from 1 to {MAX_PORT}")
    return tuple(ports)


def _labels(fields: Fields) -> tuple[tuple[str, str], ...]:
    labels = sorted(fields.mapping("labels", _MAX_LABELS_LENGTH).items())
    for key, value in labels:
        if not (key + value).isprintable():
            raise CodecError(f"labels: Invalid value: {key[:80]!a}: must have printable keys and values")
    return tuple(labels)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_MAX_REMARK_LENGTH])


def _formula(fields: Fields) -> Formula:
    return Formula(
        fields.block("text", MAX_METADATA_LENGTH),
        fields.text("target", default=""),
        fields.text("activation_target", default=""),
        _choice(fields, "metric_type", _TYPES),
    )


def _jobs(fields: Fields) -> JobRules:
    return JobRules(
        min_jobs=fields.whole("min_jobs"),
        max_jobs=fields.whole("max_jobs") if "max_jobs" in fields else None,
        strategy=JobStrategy(_choice(fields, "strategy", tuple(JobStrategy))),
        queue_length_deduction=_signed(fields, "queue_length_deduction"),
        running_job_ratio=fields.number("running_job_ratio", -MAX_NUMBER, MAX_NUMBER),
        pending_conditions=fields.texts("pending_conditions", _MAX_CONDITIONS),
        pods_per_job=fields.whole("pods_per_job"),
        calculation=fields.text("calculation", MAX_TEXT_LENGTH, default=""),
        triggers=fields.whole("triggers"),
    )


def _signed(fields: Fields, key: str) -> int | None:
    return fields.whole(key, -MAX_WHOLE) if key in fields else None


def _time(fields: Fields, key: str, *, default: float) -> float:
    return fields.number(key, -MAX_NUMBER, MAX_NUMBER) if key in fields else default


def _choice(fields: Fields, key: str, choices: tuple[str, ...]) -> str:
    value = fields.text(key)
    if value not in choices:
        raise CodecError(f"{key}: Unsupported value: {value[:80]!a}: must be one of {', '.join(choices)}")
    return value
