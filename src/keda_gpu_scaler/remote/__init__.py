# SPDX-License-Identifier: Apache-2.0
"""The cluster's workloads, the other instances and the engines, each opened on first use.

Law: nothing is opened or imported before it is needed. KEDA calls only a few of the instances, and an HTTP client with
its TLS is a third of an instance's memory.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.instance_status import PeerCounts, RecentAnswer, RefusedTrigger, Watches
from keda_gpu_scaler.core.interfaces import CallerReviews, KubeError
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.types import PodRef, Workload
from keda_gpu_scaler.kube.auth import in_cluster, kubeconfig, service_account
from keda_gpu_scaler.peers.discovery import DiscoveryError
from keda_gpu_scaler.remote.cluster import AgentDiscovery, ApiConnection, RemoteCluster
from keda_gpu_scaler.remote.engines import EndpointSettingsError, RemoteEngines
from keda_gpu_scaler.remote.on_first_use import OnFirstUse
from keda_gpu_scaler.remote.peers import RemotePeers, discovery
from keda_gpu_scaler.wire.engine_recording import EngineRecording
from keda_gpu_scaler.wire.tls import TlsError

if TYPE_CHECKING:
    from keda_gpu_scaler.kube.deletion_cost import DeletionCostWriter
    from keda_gpu_scaler.kube.events import EventRecorder
    from keda_gpu_scaler.remote.replayed_cluster import ReplayedCluster
    from keda_gpu_scaler.scrape.playback import Playback


class RemoteError(Exception):
    """The settings name a cluster, peers or endpoints that cannot be used. The text is a sentence for the operator."""


class Remote:
    """Everything outside this node: ``engines``, and ``cluster`` and ``peers``, which may be None.

    Args:
        config: the settings.
        instance: this instance's random name.
        clock: monotonic seconds.
        on_peers: called after every snapshot that a peer reports.
        on_cluster: called whenever the state of a workload has changed.
        on_engines: called whenever an engine or a source of demand reports something.
        recording: the workloads and engines that are played; None for those of the cluster.

    Raises:
        RemoteError: the settings cannot work.
    """

    def __init__(
        self,
        config: Config,
        instance: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        on_peers: Callable[[], None] = lambda: None,
        on_cluster: Callable[[], None] = lambda: None,
        on_engines: Callable[[], None] = lambda: None,
        recording: EngineRecording | None = None,
    ) -> None:
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        try:
            playback = None if recording is None else _playback(config, recording, clock)
            self._api = self._api_connection(config) if playback is None else None
            listed = discovery(config.peers, self._api, clock)
            self._agents = listed if isinstance(listed, AgentDiscovery) else None
            self.peers = None if listed is None else RemotePeers(listed, config, instance, clock, on_peers)
            server = None if self._api is None else self._api.config.server
            if config.explain_port and self._api is None:
                raise KubeError(
                    f"--explain-port: Invalid value: {config.explain_port}: needs access to the API server, which "
                    "checks the tokens: run in a pod with a service account, or name a --kubeconfig"
                )
            self.engines = RemoteEngines(
                config, clock, on_engines, playback, pod_addresses=self._pod_addresses, api_server=server
            )
        except (KubeError, DiscoveryError, TlsError, EndpointSettingsError) as error:
            self._remove_scratch()
            raise RemoteError(str(error)) from error
        self.cluster = _cluster(self._api, playback, clock, on_cluster)
        self._costs = None if self._api is None else _deletion_costs(self._api, config, clock)
        self._events = None if self._api is None else _event_recorder(self._api, config.node_name, clock)
        self._clock = clock

    @property
    def has_frequent_news(self) -> bool:
        """Whether peers or engines may report something several times a second."""
        return self.engines.is_open or (self.peers is not None and self.peers.is_open)

    def note_answer(self, answer: RecentAnswer) -> None:
        """Have an Event written about a trigger that loses its value, or has one again.

        The event recorder is made for the first answer without a value or with unknown demand.
        """
        if self._events is None:
            return
        is_well = answer.value is not None and answer.is_demand_known is not False
        if self._events.opened is not None or not is_well:
            self._events.open().note(answer)

    def note_refusals(self, refused: Sequence[RefusedTrigger], accepted: Iterable[tuple[str, str]]) -> None:
        """Have an Event written about each object with refused triggers, and about those that have none any more."""
        if self._events is None or not (refused or self._events.opened):
            return
        problems: dict[tuple[str, str], list[str]] = {name: [] for name in accepted}
        for trigger in refused:
            problems.setdefault((trigger.namespace, trigger.name), []).extend(trigger.problems)
        for (namespace, name), found in problems.items():
            self._events.open().note_metadata(namespace, name, found)

    @property
    def has_deletion_costs(self) -> bool:
        """Whether deletion costs are written or removed."""
        return self._costs is not None

    def note_deletion_costs(self, workload: Workload, trigger: str, costs: Mapping[PodRef, int] | None) -> None:
        """Have the deletion costs of a workload's pods written, or removed, as ``DeletionCostWriter.note`` does."""
        if self._costs is not None:
            self._costs.open().note(workload, trigger, costs)

    def caller_reviews(self) -> CallerReviews:
        """Return the reviews of callers.

        Raises:
            KubeError: there is no access to the API server.
        """
        if self._api is None:
            raise KubeError("there is no access to the API server")
        from keda_gpu_scaler.kube.caller_reviews import ApiCallerReviews

        return ApiCallerReviews(self._api.client, self._clock)

    def peer_counts(self) -> PeerCounts:
        """Return the number of followed instances, and the longest time that one of them has been unavailable."""
        return self.peers.counts() if self.peers is not None else PeerCounts()

    def watches(self) -> Watches:
        """Count the watches on the API server, by resource and state."""
        workloads = self.cluster.watches() if self.cluster is not None else {}
        agents = self._agents.watches() if self._agents is not None else {}
        return {**workloads, **agents}

    def expire_idle(self) -> None:
        """Release everything without interest; called regularly."""
        self.engines.expire_idle()
        if self.cluster is not None:
            self.cluster.expire_idle()
        if self.peers is not None:
            self.peers.expire_idle()

    def reload(self) -> None:
        """Read the credentials of engines and demand endpoints again."""
        self.engines.reload()

    async def close(self) -> None:
        """Close everything."""
        await self.engines.close()
        if self.peers is not None:
            await self.peers.close()
        if self._events is not None and self._events.opened is not None:
            await self._events.opened.close()
        if self._costs is not None and self._costs.opened is not None:
            await self._costs.opened.close()
        if self.cluster is not None:
            await self.cluster.close()
        if self._api is not None:
            await self._api.close()
        self._remove_scratch()

    def _pod_addresses(self, namespace: str) -> frozenset[str]:
        return self.cluster.pod_addresses(namespace) if isinstance(self.cluster, RemoteCluster) else frozenset()

    def _remove_scratch(self) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()

    def _api_connection(self, config: Config) -> ApiConnection | None:
        """Return the connection that ``--kubeconfig`` names, not opened yet.

        Raises:
            KubeError: the kubeconfig or the service account cannot be used.
        """
        if config.kubeconfig == "off" or (config.kubeconfig == "auto" and not in_cluster()):
            return None
        if config.kubeconfig == "auto":
            return ApiConnection(service_account())
        self._scratch = tempfile.TemporaryDirectory(prefix="keda-gpu-scaler-")
        return ApiConnection(kubeconfig(Path(config.kubeconfig), Path(self._scratch.name)))


def _playback(config: Config, recording: EngineRecording, clock: Callable[[], float]) -> "Playback":
    """Begin to play a recording. The module is imported here.

    Raises:
        KubeError: the settings name another source of workloads.
    """
    if config.kubeconfig not in ("auto", "off"):
        raise KubeError(
            f"--kubeconfig: Invalid value: {quoted(config.kubeconfig)}: the recording has the workload and its "
            "engines; leave the flag out"
        )
    from keda_gpu_scaler.scrape.playback import Playback

    return Playback(recording, clock)


def _cluster(
    api: ApiConnection | None, playback: "Playback | None", clock: Callable[[], float], on_change: Callable[[], None]
) -> "RemoteCluster | ReplayedCluster | None":
    if playback is not None:
        from keda_gpu_scaler.remote.replayed_cluster import ReplayedCluster

        return ReplayedCluster(playback)
    return None if api is None else RemoteCluster(api, clock, on_change)


def _deletion_costs(
    api: ApiConnection, config: Config, clock: Callable[[], float]
) -> "OnFirstUse[DeletionCostWriter] | None":
    if config.deletion_cost == "none":
        return None

    def make() -> "DeletionCostWriter":
        from keda_gpu_scaler.kube.deletion_cost import DeletionCostWriter

        return DeletionCostWriter(api.client, is_removing=config.deletion_cost == "remove", clock=clock)

    return OnFirstUse(make)


def _event_recorder(api: ApiConnection, reporter: str, clock: Callable[[], float]) -> "OnFirstUse[EventRecorder]":
    def make() -> "EventRecorder":
        from keda_gpu_scaler.kube.events import EventRecorder

        return EventRecorder(api.client, reporter, clock=clock)

    return OnFirstUse(make)
