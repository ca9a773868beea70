# SPDX-License-Identifier: Apache-2.0
"""Reads from a pod's labels which replica it belongs to, where several pods are one replica.

Law: only labels that a controller sets are read. A pod without them is a replica by itself.

Sources: LeaderWorkerSet, api/leaderworkerset/v1/leaderworkerset_types.go (SetNameLabelKey, GroupIndexLabelKey,
WorkerIndexLabelKey, SizeAnnotationKey). KubeRay 1.5, ray-operator/controllers/ray/common/pod.go
(RayWorkerReplicaNameKey and RayHostIndexKey, set where numOfHosts is above 1). JobSet,
api/jobset/v1alpha2/jobset_types.go (JobSetNameKey). AIBrix, the labels of the pods of a RayClusterFleet, each replica
of which is a RayCluster whose head serves requests. KEDA, pkg/scaling/executor/scale_jobs.go (the label of a
ScaledJob's pods).
"""

from collections.abc import Mapping
from typing import Any, TypedDict

LWS_NAME = "leaderworkerset.sigs.k8s.io/name"
SCALED_JOB_NAME = "scaledjob.keda.sh/name"
_LWS_GROUP = "leaderworkerset.sigs.k8s.io/group-index"
_LWS_WORKER = "leaderworkerset.sigs.k8s.io/worker-index"
_LWS_SIZE = "leaderworkerset.sigs.k8s.io/size"
_FLEET_NAME = "orchestration.aibrix.ai/raycluster-fleet-name"
_RAY_CLUSTER = "ray.io/cluster"
_RAY_NODE_TYPE = "ray.io/node-type"
_RAY_REPLICA = "ray.io/worker-group-replica-name"
_RAY_HOST = "ray.io/replica-host-index"
_JOB_SET_NAME = "jobset.sigs.k8s.io/jobset-name"
_JOB_NAMES = ("batch.kubernetes.io/job-name", "job-name")
NAME_LABELS = {
    "LeaderWorkerSet": (LWS_NAME, ("StatefulSet", "ReplicaSet")),
    "RayClusterFleet": (_FLEET_NAME, ("RayCluster",)),
    "JobSet": (_JOB_SET_NAME, ("Job",)),
    "ScaledJob": (SCALED_JOB_NAME, ("Job",)),
}
"""The label in which a controller writes its object's name on all pods, and the kinds between the object and them."""
_MAX_SIZE = 100_000
_MAX_DIGITS = 6


class ReplicaFields(TypedDict):
    """The fields of a ``Pod`` that say which replica it belongs to."""

    group: str
    group_size: int
    is_worker: bool


def replica_fields(labels: Mapping[str, str], annotations: Mapping[str, Any]) -> ReplicaFields:
    """Read the replica that a pod belongs to, from its labels and annotations."""
    if SCALED_JOB_NAME in labels or _JOB_SET_NAME in labels:
        return _fields(next((labels[name] for name in _JOB_NAMES if name in labels), ""))
    if LWS_NAME in labels and _LWS_GROUP in labels:
        return _fields(
            f"{labels[LWS_NAME]}-{labels[_LWS_GROUP]}",
            size=_number(annotations.get(_LWS_SIZE)),
            is_worker=labels.get(_LWS_WORKER, "0") != "0",
        )
    if _FLEET_NAME in labels and _RAY_CLUSTER in labels:
        return _fields(labels[_RAY_CLUSTER], is_worker=labels.get(_RAY_NODE_TYPE) == "worker")
    if _RAY_REPLICA in labels:
        # The size is not in the labels. A host with this index shows that there are at least as many before it.
        return _fields(labels[_RAY_REPLICA], size=_number(labels.get(_RAY_HOST)) + 1)
    return _fields("")


def _fields(group: str, *, size: int = 0, is_worker: bool = False) -> ReplicaFields:
    return {"group": group, "group_size": size, "is_worker": is_worker}


def _number(value: object) -> int:
    """Return the whole number in a text, 0 where there is none."""
    text = value if isinstance(value, str) else ""
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return min(int(text), _MAX_SIZE) if is_number else 0
