# SPDX-License-Identifier: Apache-2.0
"""The workloads of a recording, in the place of the API server's."""

from collections.abc import Mapping

from keda_gpu_scaler.core.instance_status import Watches
from keda_gpu_scaler.core.trigger.declared_objects import DeclaredObjects
from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.scrape.playback import Playback


class ReplayedCluster:
    """The workloads of a recording, as they were at the position that is played. Nothing is watched or closed."""

    def __init__(self, playback: Playback) -> None:
        self._playback = playback

    def workload(self, namespace: str, name: str, proposed_spec: str = "") -> Workload | Unavailable:
        """Return the recorded state of a workload now."""
        return self._playback.workload(namespace, name)

    async def wait_for_sync(self, namespace: str, name: str, proposed_spec: str = "") -> None:
        """Return at once: the recording was read before."""

    def node_labels(self) -> Mapping[str, Mapping[str, str]] | Unavailable:
        """Return that the labels are not known."""
        return Unavailable("metadata.nodeSelector: the labels of nodes are not recorded", is_permanent=True)

    def declarations(self) -> Mapping[str, DeclaredObjects]:
        """Return nothing: a recording has one workload and not its namespace."""
        return {}

    def watches(self) -> Watches:
        """Return nothing."""
        return {}

    def expire_idle(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""
