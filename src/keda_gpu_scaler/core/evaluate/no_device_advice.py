# SPDX-License-Identifier: Apache-2.0
"""Says why no pod of a workload holds a device, and what to do, by the way they request one.

Law: the advice fits the request. Pods with a claim, with a scheduler that shares GPUs or with another vendor's resource
are not advised to request nvidia.com/gpu.
"""

from collections.abc import Iterable

from keda_gpu_scaler.core.types import ClusterAssignments, Pod

ANY_SCOPE = "or set scope: node or fleet"
_WITHOUT_REQUEST = (
    "request one in the pod template, with a device plugin's resource (nvidia.com/gpu, amd.com/gpu, gpu.intel.com/xe), "
    f"a resource claim or the scheduler that shares your GPUs, {ANY_SCOPE}"
)


def no_device_advice(pods: Iterable[Pod], cluster: ClusterAssignments) -> str:
    """Return a clause that continues "none of its pods holds a device"."""
    listed = tuple(pods)
    if any(pod.has_claims for pod in listed):
        return _claims_advice(cluster)
    if any(pod.assigned is not None for pod in listed):
        return (
            "a scheduler that shares GPUs has marked them, and the kubelet lists no GPU that it shares: see the events "
            f"of the pods and the log of the scheduler, {ANY_SCOPE}"
        )
    requested = sorted({resource for pod in listed for resource in pod.requests})
    if requested:
        return (
            f"they request {', '.join(requested[:3])}, and the kubelet lists no GPU of it: keda-gpu-scaler doctor on "
            f"their node says what it lists; take the load from the engine (engine), {ANY_SCOPE}"
        )
    return _WITHOUT_REQUEST


def _claims_advice(cluster: ClusterAssignments) -> str:
    if cluster.claims_unavailable:
        return (
            "they have resource claims, which the kubelet lists from Kubernetes 1.34 on, and which cannot be read from "
            f"the API server: {cluster.claims_unavailable} (chart: rbac.resourceClaims)"
        )
    return (
        "they have resource claims, and no claim has a GPU of their nodes without adminAccess: see "
        f"status.allocation of the ResourceClaims, {ANY_SCOPE}"
    )
