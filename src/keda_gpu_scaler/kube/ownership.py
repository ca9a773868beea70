# SPDX-License-Identifier: Apache-2.0
"""Decides which of the pods that a selector matches belong to a scale target, by their controllers.

Law: a pod that provably belongs to another object does not count, and a sentence says so. A pod whose owner is not
known counts, and a sentence says so. No object is read where the pods themselves prove their owner.

A ReplicaSet of a Deployment has the Deployment's name and the hash in the label of its pods (Kubernetes,
pkg/controller/deployment/sync.go, getNewReplicaSet); a Rollout's has the same form with a label of its own (Argo
Rollouts, rollout/sync.go). A Deployment may adopt a ReplicaSet of another name, so another name alone proves nothing.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.types import OwnerReference, Pod
from keda_gpu_scaler.kube.parse import ObjectMetadata
from keda_gpu_scaler.kube.replica_labels import NAME_LABELS

_MAX_DEPTH = 4
_MAX_LISTED = 3
_TEMPLATE_HASHES = {
    "pod-template-hash": ("apps", "Deployment"),
    "rollouts-pod-template-hash": ("argoproj.io", "Rollout"),
}
_BETWEEN: Mapping[str, tuple[str, ...]] = {
    "Deployment": ("ReplicaSet",),
    "Rollout": ("ReplicaSet",),
    "StatefulSet": (),
    "ReplicaSet": (),
    **{kind: between for kind, (_, between) in NAME_LABELS.items()},
}
"""The kinds between a target and its pods. Of a target of another kind, one owner of all pods is taken for its own."""

ReadOwners = Callable[[OwnerReference], Awaitable[Mapping[str, ObjectMetadata] | str]]
"""Returns the objects of an owner's kind in the namespace, by name, or why they cannot be read."""


@dataclass(frozen=True, slots=True)
class OwnedPods:
    """The pods that count for a scale target, and sentences about those that do not, or that count without proof."""

    pods: tuple[Pod, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Lineage:
    """Pods with the same controller, and the object that the controller's name shows to be its owner."""

    owner: OwnerReference
    named_parent: OwnerReference | None
    pods: tuple[Pod, ...]

    @property
    def root(self) -> OwnerReference:
        return self.named_parent or self.owner

    def counted(self) -> str:
        return f"{self.owner} ({_count(self.pods)})"


@dataclass(frozen=True, slots=True)
class _Finding:
    """Whether a lineage belongs to the target: None where that is not known, for ``reason``. ``root`` owns it."""

    lineage: _Lineage
    is_own: bool | None
    root: str = ""
    reason: str = ""


async def owned_pods(target: OwnerReference, pods: Sequence[Pod], read: ReadOwners) -> OwnedPods:
    """Return the pods that belong to a scale target.

    Args:
        target: the scale target.
        pods: the pods that its selector matches.
        read: reads the owners of controllers. It is called only for controllers whose owner the pods do not prove.
    """
    orphans = tuple([pod for pod in pods if pod.owner is None])
    lineages = _lineages(pods)
    is_alone = _is_alone(target, lineages)
    findings: list[_Finding] = []
    for lineage in lineages:
        proven = _proven(target, lineage) or (_Finding(lineage, True) if is_alone else None)
        findings.append(proven or await _followed(target, lineage, read))
    others = {pod.ref for one in findings if one.is_own is False for pod in one.lineage.pods}
    kept = tuple([pod for pod in pods if pod.ref not in others] if others else pods)
    return OwnedPods(kept, (*_chain(target, findings), *_remarks(target, findings), *_orphan_remarks(target, orphans)))


def _lineages(pods: Iterable[Pod]) -> list[_Lineage]:
    found: dict[OwnerReference, list[Pod]] = {}
    for pod in pods:
        if pod.owner is not None:
            found.setdefault(pod.owner, []).append(pod)
    # The pods of a ReplicaSet have the same hash.
    return [_Lineage(owner, _named_parent(owner, members[0]), tuple(members)) for owner, members in found.items()]


def _named_parent(owner: OwnerReference, pod: Pod) -> OwnerReference | None:
    """Return the Deployment or Rollout after which a ReplicaSet is named, None where it is not named so."""
    if (owner.group, owner.kind) != ("apps", "ReplicaSet"):
        return None
    for label, value in pod.labels:
        named = _TEMPLATE_HASHES.get(label)
        suffix = f"-{value}"
        if named and value and owner.name.endswith(suffix) and owner.name != suffix:
            group, kind = named
            return OwnerReference(group, "", kind, owner.name.removesuffix(suffix))
    return None


def _proven(target: OwnerReference, lineage: _Lineage) -> _Finding | None:
    """Decide by what the pods show alone; None where they do not show it."""
    if _is(lineage.owner, target) or (lineage.named_parent and _is(lineage.named_parent, target)):
        return _Finding(lineage, True)
    between = _BETWEEN.get(target.kind)
    if _is_of_kind(lineage.owner, target) or (between is not None and lineage.owner.kind not in between):
        return _Finding(lineage, False, str(lineage.root))
    label, _ = NAME_LABELS.get(target.kind, ("", ()))
    if label and all(dict(pod.labels).get(label) == target.name for pod in lineage.pods):
        return _Finding(lineage, True)
    return None


def _is_alone(target: OwnerReference, lineages: Sequence[_Lineage]) -> bool:
    """Whether all pods have one owner, which is taken for the target's because its chain is not known."""
    roots = {(one.root.group, one.root.kind, one.root.name) for one in lineages}
    return target.kind not in _BETWEEN and len(roots) == 1


async def _followed(target: OwnerReference, lineage: _Lineage, read: ReadOwners) -> _Finding:
    """Decide by reading the owner of the controller, its owner, and so on."""
    owner = lineage.owner
    for _ in range(_MAX_DEPTH):
        known = await read(owner)
        if isinstance(known, str):
            return _Finding(lineage, None, reason=known)
        if owner.name not in known:
            if owner == lineage.owner and lineage.named_parent is not None:
                return _Finding(lineage, False, str(lineage.named_parent))
            return _Finding(lineage, None, reason=f"{owner} does not exist")
        parent = known[owner.name].owner
        if parent is None:
            return _Finding(lineage, False, str(owner))
        if _is(parent, target):
            return _Finding(lineage, True)
        if _is_of_kind(parent, target) or target.kind in _BETWEEN:
            return _Finding(lineage, False, str(parent))
        owner = parent
    return _Finding(lineage, None, reason=f"more than {_MAX_DEPTH} owners follow each other")


def _is(one: OwnerReference, other: OwnerReference) -> bool:
    """Whether two references name one object. In a namespace an object is known by its kind and name."""
    return _is_of_kind(one, other) and one.name == other.name


def _is_of_kind(one: OwnerReference, other: OwnerReference) -> bool:
    return (one.group, one.kind) == (other.group, other.kind)


def _chain(target: OwnerReference, findings: Sequence[_Finding]) -> tuple[str, ...]:
    """Describe through which controllers a target owns its pods, where there are several."""
    own = [finding.lineage for finding in findings if finding.is_own]
    if len(own) < 2:
        return ()
    listed = ", ".join([lineage.counted() for lineage in own[:_MAX_LISTED]])
    more = f" and {len(own) - _MAX_LISTED} more" if len(own) > _MAX_LISTED else ""
    return (f"{target} owns its pods through {listed}{more}",)


def _remarks(target: OwnerReference, findings: Sequence[_Finding]) -> list[str]:
    others: dict[str, list[Pod]] = {}
    unknown: dict[str, list[_Lineage]] = {}
    for finding in findings:
        if finding.is_own is False:
            others.setdefault(finding.root, []).extend(finding.lineage.pods)
        elif finding.is_own is None:
            unknown.setdefault(finding.reason, []).append(finding.lineage)
    remarks = []
    for root, pods in sorted(others.items()):
        verb = "it does" if len(pods) == 1 else "they do"
        remarks.append(f"the selector of {target} also matches {_count(pods)} of {root}: {verb} not count")
    for reason, lineages in unknown.items():
        listed = ", ".join([lineage.counted() for lineage in lineages[:_MAX_LISTED]])
        more = f" and {len(lineages) - _MAX_LISTED} more" if len(lineages) > _MAX_LISTED else ""
        remarks.append(
            f"whether {target} owns the pods of {listed}{more} is not known, so they count by its selector: {reason}"
        )
    return remarks


def _orphan_remarks(target: OwnerReference, pods: Sequence[Pod]) -> list[str]:
    if not pods:
        return []
    verbs = ("has", "counts") if len(pods) == 1 else ("have", "count")
    return [f"{_count(pods)} {verbs[0]} no controller, and {verbs[1]} by the selector of {target}"]


def _count(pods: Sequence[Pod]) -> str:
    return "1 pod" if len(pods) == 1 else f"{len(pods)} pods"
