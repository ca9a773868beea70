# SPDX-License-Identifier: Apache-2.0
"""Reads the keys of a trigger that say which pods are one replica together."""

from dataclasses import dataclass

from keda_gpu_scaler.core.selectors import LabelSelector, SelectorError, is_label_key, parse_labels
from keda_gpu_scaler.core.trigger.metadata import MetadataReader, Parameter

AUTO, NONE = "auto", "none"
MIN_GROUP_SIZE, MAX_GROUP_SIZE = 2, 10_000

GROUP_PARAMETERS = (
    Parameter(
        "groupBy",
        AUTO,
        "which pods are one replica together: a label, whose value is the same for all pods of a replica; `auto` reads "
        "the labels that LeaderWorkerSet, KubeRay, JobSet and AIBrix give their pods; `none` makes each pod a replica. "
        "A replica is ready when all its pods are. Its devices together give its value",
    ),
    Parameter(
        "groupSize",
        "from the pods",
        "the number of pods of a replica; with fewer, the replica is not ready: "
        f"{MIN_GROUP_SIZE} to {MAX_GROUP_SIZE}. A LeaderWorkerSet has it in its pods' annotations",
    ),
    Parameter(
        "groupLeader",
        "from the pods",
        "the labels of the pod of each replica whose engine is asked: `key=value`, joined by commas. The leader of a "
        "LeaderWorkerSet and the head of an AIBrix RayClusterFleet are known. Without a leader every pod is asked",
    ),
)


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which pods are one replica together.

    ``label`` is a label, "auto" or "none". ``size`` is the number of pods of a replica, 0 where the pods say it.
    ``leader`` selects the pod whose engine is asked, None where the pods say it.
    """

    label: str = AUTO
    size: int = 0
    leader: LabelSelector | None = None

    @property
    def label_keys(self) -> frozenset[str]:
        """The labels of pods that it reads."""
        leader = () if self.leader is None else self.leader.requirements
        return frozenset([*[one.key for one in leader], *([] if self.label in (AUTO, NONE) else [self.label])])


AUTOMATIC = Grouping()


def read_grouping(read: MetadataReader) -> Grouping:
    """Read the keys of the grouping."""
    label = read.given.get("groupBy", AUTO)
    if label not in (AUTO, NONE) and not is_label_key(label):
        read.invalid("groupBy", f"must be the key of a label, {AUTO} or {NONE}")
        return AUTOMATIC
    for key in ("groupSize", "groupLeader"):
        if label == NONE and key in read.given:
            read.invalid(key, "has no meaning with groupBy none: remove one of the two")
    return Grouping(label, _size(read), _leader(read))


def _size(read: MetadataReader) -> int:
    text = read.given.get("groupSize")
    if text is None:
        return 0
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_GROUP_SIZE))
    if not is_number or not MIN_GROUP_SIZE <= int(text) <= MAX_GROUP_SIZE:
        read.invalid("groupSize", f"must be a whole number from {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE}")
        return 0
    return int(text)


def _leader(read: MetadataReader) -> LabelSelector | None:
    if "groupLeader" not in read.given:
        return None
    try:
        return parse_labels(read.given["groupLeader"])
    except SelectorError as error:
        read.invalid("groupLeader", str(error))
        return None
