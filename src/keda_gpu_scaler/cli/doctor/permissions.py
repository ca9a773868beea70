# SPDX-License-Identifier: Apache-2.0
"""Reviews the permissions of the scaler's service account."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace

from keda_gpu_scaler.cli.doctor.findings import Finding, Heading, counted, limited, ok, problem, skipped, warning
from keda_gpu_scaler.cli.doctor.installation import FORBIDDEN, ClusterContext
from keda_gpu_scaler.kube.access_review import Permission
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.keda_objects import trigger_metadata
from keda_gpu_scaler.kube.parse import is_name, part

WORKLOAD_PERMISSIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("keda.sh", "scaledobjects", ("list", "watch")),
    ("keda.sh", "scaledjobs", ("list", "watch")),
    ("", "pods", ("list", "watch")),
    ("apps", "deployments", ("list", "watch")),
    ("apps", "statefulsets", ("list", "watch")),
    ("apps", "replicasets", ("list", "watch")),
    ("apps", "deployments/scale", ("get",)),
    ("apps", "statefulsets/scale", ("get",)),
    ("", "events", ("create",)),
)
"""The permissions that the chart grants in the namespaces of workloads: group, resource, verbs."""
NODE_PERMISSION = ("", "nodes", ("list", "watch"))
CLAIM_PERMISSIONS = tuple(
    ("resource.k8s.io", resource, ("list", "watch")) for resource in ("resourceclaims", "resourceslices")
)
OWN_NAMESPACE_PERMISSION = ("discovery.k8s.io", "endpointslices", ("list", "watch"))

_CHECK = "rights"
_OPTIONAL = ("events", "replicasets")
"""Without events no user is informed, and without ReplicaSets the selector decides whose a pod is."""
_CHART_GROUPS = ("", "apps", "keda.sh", "discovery.k8s.io")


async def check_permissions(context: ClusterContext) -> AsyncIterator[Finding]:
    """Review every permission that the chart grants, and those on the scale targets in use."""
    installation = context.installation
    account = "" if context.options.is_in_cluster else f"{installation.namespace}:{installation.service}"
    allowed, missing_findings = 0, list[Finding]()
    try:
        for permissions, is_needed in _required_permissions(context):
            missing = [one for one in permissions if not await context.api.is_allowed(one, account)]
            allowed += len(permissions) - len(missing)
            missing_findings += [finding async for finding in _missing(context, missing, is_needed, account)]
    except ApiError as error:
        if error.status != FORBIDDEN:
            yield problem(_CHECK, str(error), "see the API server's log", Heading.FORBIDDEN)
            return
        text = f"you may not review the permissions of {account}"
        yield skipped(_CHECK, text, installation.run_in_pod, Heading.FORBIDDEN)
        return
    for finding in limited(missing_findings, _CHECK):
        yield finding
    name = f"the service account {installation.service} of {installation.namespace}" if account else "this account"
    if allowed:
        yield ok(_CHECK, f"{name} has {counted(allowed, 'needed permission')}")


def _required_permissions(context: ClusterContext) -> Iterator[tuple[list[Permission], bool]]:
    """Yield groups of permissions, and whether an evaluation needs them."""
    for group, resource, verbs in (*WORKLOAD_PERMISSIONS, *_scale_target_permissions(context)):
        yield [Permission(verb, resource, group) for verb in verbs], True
    group, resource, verbs = OWN_NAMESPACE_PERMISSION
    yield [Permission(verb, resource, group, context.installation.namespace) for verb in verbs], True
    group, resource, verbs = NODE_PERMISSION
    uses_node_selector = any(
        "nodeSelector" in metadata for item in context.scaled_objects for metadata in trigger_metadata(item)
    )
    yield [Permission(verb, resource, group) for verb in verbs], uses_node_selector
    for group, resource, verbs in CLAIM_PERMISSIONS:
        yield [Permission(verb, resource, group) for verb in verbs], False


def _scale_target_permissions(context: ClusterContext) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield the permissions on the kinds of scale targets in use, without those that every workload needs."""
    resolved = [part(part(item, "status"), "scaleTargetGVKR") for item in context.scaled_objects]
    kinds = {(str(kind.get("group") or ""), str(kind.get("resource") or "")) for kind in resolved}
    reviewed = {(group, resource) for group, resource, _ in WORKLOAD_PERMISSIONS}
    for group, resource in sorted(kinds - reviewed):
        if is_name(resource):
            yield group, resource, ("list", "watch")
            yield group, f"{resource}/scale", ("get",)


async def _missing(
    context: ClusterContext, missing: Sequence[Permission], is_needed: bool, account: str
) -> AsyncIterator[Finding]:
    """Report permissions that are not granted in the whole cluster, unless every namespace grants them."""
    if not missing:
        return
    first = missing[0]
    if first.resource == "nodes":
        yield _missing_on_nodes(missing, is_needed)
        return
    if first.group == "resource.k8s.io":
        remedy, reason = "grant it (chart: rbac.resourceClaims)", "which only workloads with resource claims need"
        yield skipped(_CHECK, f"may not {_joined(missing)}, {reason}", remedy, Heading.FORBIDDEN)
        return
    remedy = "grant them (chart: rbac.create)"
    if first.group not in _CHART_GROUPS:
        remedy = f"add {first.kind.partition('/')[0]} (chart: rbac.scaleTargets)"
    report = warning if first.resource in _OPTIONAL else problem
    namespaces = _workload_namespaces(context)
    if first.namespace:
        yield report(_CHECK, f"may not {_joined(missing)}", remedy, Heading.FORBIDDEN)
    elif not namespaces:
        text = f"may not {_joined(missing)}"
        yield report(_CHECK, text, f"{remedy}, or name the namespaces with --workloads-in", Heading.FORBIDDEN)
    else:
        for namespace in namespaces:
            needed = [replace(permission, namespace=namespace) for permission in missing]
            if refused := [one for one in needed if not await context.api.is_allowed(one, account)]:
                yield report(_CHECK, f"may not {_joined(refused)}", remedy, Heading.FORBIDDEN)


def _missing_on_nodes(missing: Sequence[Permission], is_needed: bool) -> Finding:
    text, remedy = f"may not {_joined(missing)}", "grant it on nodes (chart: rbac.nodes)"
    if is_needed:
        return problem(_CHECK, f"{text}, and a trigger has a nodeSelector", remedy, Heading.FORBIDDEN)
    return skipped(_CHECK, f"{text}, which only triggers with a nodeSelector need", remedy, Heading.FORBIDDEN)


def _workload_namespaces(context: ClusterContext) -> Sequence[str]:
    used = {str(part(item, "metadata").get("namespace") or "") for item in context.scaled_objects}
    return sorted({*context.installation.workload_namespaces, *used} - {""})


def _joined(permissions: Sequence[Permission]) -> str:
    """Return permissions on one resource as one text ("list and watch pods in namespace ai")."""
    return " and ".join([*(permission.verb for permission in permissions[:-1]), str(permissions[-1])])
