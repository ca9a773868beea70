# SPDX-License-Identifier: Apache-2.0
"""The composition root: builds an instance of the scaler, starts it and stops it.

Law: an error at start ends the process with a sentence; a later error does not end it.
"""

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2

from keda_gpu_scaler import __version__
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.instance_status import RecentAnswer, RefusedTrigger
from keda_gpu_scaler.core.interfaces import Backend
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.reading_interest import ReadingInterest
from keda_gpu_scaler.devices import registry
from keda_gpu_scaler.devices.registry import BackendSettings
from keda_gpu_scaler.gc_policy import GcPolicy
from keda_gpu_scaler.kube.podresources import DEFAULT_PATH, PodResources
from keda_gpu_scaler.peers.server import MAX_FOLLOWERS, FleetServer
from keda_gpu_scaler.remote import Remote, RemoteError
from keda_gpu_scaler.remote.on_first_use import OnFirstUse
from keda_gpu_scaler.remote.own_tls import certificate_files, client_roles, server_tls, tls_description
from keda_gpu_scaler.sampler import Sampler
from keda_gpu_scaler.server.call_guard import CallGuard
from keda_gpu_scaler.server.certificate_roles import role_guard
from keda_gpu_scaler.server.grpc_server import (
    EVALUATIONS,
    EXTERNAL_SCALER,
    FLEET,
    MAX_FLEET_STREAMS_PER_CONNECTION,
    health_service,
    make_grpc_server,
    reflection_service,
)
from keda_gpu_scaler.server.http import HttpPage, HttpPages, HttpServer, QueryPages, probe_pages
from keda_gpu_scaler.server.lazy_service import LazyService, Registrar
from keda_gpu_scaler.server.listen_error import listen_error
from keda_gpu_scaler.server.request_counters import RequestCounters
from keda_gpu_scaler.server.stream_limit import StreamLimit
from keda_gpu_scaler.server.undecodable_log import UndecodableLog
from keda_gpu_scaler.wire import fleet_pb2_grpc as fleet_pb_grpc
from keda_gpu_scaler.wire.certificate_expiry import CertificateExpiry
from keda_gpu_scaler.wire.engine_recording import EngineRecording, PlaysEngines
from keda_gpu_scaler.wire.tls import TlsError

if TYPE_CHECKING:
    from keda_gpu_scaler.server.external_scaler import ExternalScaler
    from keda_gpu_scaler.server.status_page import StatusPage
    from keda_gpu_scaler.server.status_view import StatusView


_HEALTH_INTERVAL_SECONDS = 1.0
_STOP_GRACE_SECONDS = 2.0
_MIN_NEWS_SECONDS = 0.05
_RELEASE_SECONDS = 0.5
"""The least time between two searches for what is idle."""
_STREAMS_SHARE = 0.2
_log = logging.getLogger(__name__)


class StartError(Exception):
    """The process cannot start. The text is a sentence for the operator."""


def open_backend(config: Config, wants_performance: Callable[[], bool] = lambda: False) -> Backend:
    """Return the backend that ``--backend`` names.

    Args:
        config: the settings.
        wants_performance: whether the readings that are expensive to take are wanted now. Any thread may call it.

    Raises:
        BackendError: there is no such backend, ``auto`` detects no driver, or the backend cannot be opened.
    """
    settings = BackendSettings(
        config.nvml_library, config.replay_speed, config.sysfs_root, wants_performance, config.measure_shares
    )
    return registry.open_backend(config.backend, settings)


def engine_recording(backend: Backend) -> EngineRecording | None:
    """Return the engines that a backend plays besides devices; None where it plays none."""
    return backend.engine_recording if isinstance(backend, PlaysEngines) else None


class Agent:
    """One running instance: samples its node's devices and answers KEDA.

    Once ``started`` is set, ``port``, ``metrics_port`` and ``probe_port`` are the ports that the instance listens on.

    Args:
        config: the settings.
        backend: reads the devices; the agent closes it.
        clock: monotonic seconds.
        performance: the interest in the performance readings, which the backend looks at.

    Raises:
        StartError: the settings name a cluster or peers that cannot be used.
    """

    def __init__(
        self,
        config: Config,
        backend: Backend,
        clock: Callable[[], float] = time.monotonic,
        performance: ReadingInterest | None = None,
    ) -> None:
        self._config = config
        self._backend = backend
        self._clock = clock
        self._performance = performance or ReadingInterest()
        self._started_at = clock()
        self._pod_resources = _pod_resources(config, backend, clock)
        self._sampler = Sampler(
            backend,
            node=config.node_name,
            interval_seconds=config.sample_interval,
            allocations=self._pod_resources.held if self._pod_resources else lambda now: None,
            clock=clock,
            on_publish=self._sampled_in_thread,
        )
        instance = os.urandom(8).hex()  # the module secrets would load OpenSSL, which takes 4 MiB
        try:
            self._remote = Remote(
                config,
                instance,
                clock,
                on_peers=self._reported,
                on_cluster=self._notify,
                on_engines=self._notify,
                recording=engine_recording(backend),
            )
        except RemoteError as error:
            raise StartError(str(error)) from error
        self._fleet_server = FleetServer(
            lambda: self._sampler.history,
            lambda: self._sampler.failure,
            clock,
            instance,
            deviceless=backend.deviceless,
            on_interest=lambda seconds: self._performance.register(clock(), seconds),
        )
        self._counters = RequestCounters()
        self._scaler = OnFirstUse(self._make_scaler)
        self._status = OnFirstUse(self._make_status_page)
        self._health = health.aio.HealthServicer()
        self._gc_policy = GcPolicy(clock())
        self._certificates = CertificateExpiry(certificate_files(config))
        self._http_servers: list[HttpServer] = []
        self._explain_server: grpc.aio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._news = asyncio.Event()
        self.started = asyncio.Event()
        self.port = config.port
        self.metrics_port = config.metrics_port
        self.probe_port = config.probe_port

    async def run(self) -> None:
        """Serve until ``stop``; then end streams with OK, and everything else in order.

        Raises:
            StartError: a port cannot be listened on.
        """
        self._loop = asyncio.get_running_loop()
        kubelet = asyncio.create_task(self._pod_resources.run()) if self._pod_resources else None
        self._sampler.start()
        server = self._grpc_server()
        try:
            await self._listen(server)
            _log.info(
                "keda-gpu-scaler %s serves ExternalScaler on port %d%s, reading %s",
                __version__,
                self.port,
                tls_description(self._config),
                self._backend.source,
            )
            self.started.set()
            self._gc_policy.start()
            await self._run_loop()
            _log.info("stopping")
        finally:
            await self._health.enter_graceful_shutdown()
            if self._scaler.opened is not None:
                self._scaler.opened.stop()
            self._fleet_server.stop()
            await server.stop(_STOP_GRACE_SECONDS)
            if self._explain_server is not None:
                await self._explain_server.stop(_STOP_GRACE_SECONDS)
            await self._remote.close()
            if kubelet is not None:
                kubelet.cancel()
                await asyncio.gather(kubelet, return_exceptions=True)
            for http_server in self._http_servers:
                await http_server.close()
            await self._loop.run_in_executor(None, self._sampler.stop)

    def stop(self) -> None:
        """Ask ``run`` to end; to be called in its event loop."""
        self._stopping = True
        self._news.set()

    def reload(self) -> None:
        """Read certificates and credentials again now; to be called in the event loop.

        Both are also read again without this: certificates at a new connection, credentials regularly.
        """
        _log.info("certificates and credentials are read again")
        self._certificates.check()
        self._remote.reload()

    async def _listen(self, server: grpc.aio.Server) -> None:
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        address = f"{host}:{self._config.port}"
        tls = server_tls(self._config)
        try:
            # First, so that an error of the address is not reported as an error of the certificate.
            credentials = tls.credentials() if tls else None
            self.port = server.add_secure_port(address, credentials) if tls else server.add_insecure_port(address)
        except TlsError as error:
            raise StartError(str(error)) from error
        except RuntimeError as error:
            raise StartError(listen_error("--port", self._config.host, self._config.port, tls)) from error
        await server.start()
        if self._config.explain_port:
            self._explain_server = await self._listen_for_people(self._config.explain_port)
        if self._config.probe_port:
            pages = probe_pages(lambda: self._fleet().not_ready_reason(self._clock()))
            self.probe_port = await self._listen_http("--probe-port", self._config.probe_port, pages)
        if self._config.metrics_port:
            pages = {"/metrics": self._metrics_page, "/": lambda: self._status.open().page()}
            by_query = {"/workload": lambda query: self._status.open().workload_page(query)}
            self.metrics_port = await self._listen_http("--metrics-port", self._config.metrics_port, pages, by_query)

    async def _listen_for_people(self, port: int) -> grpc.aio.Server:
        from keda_gpu_scaler.server.explain_access import LOOPBACK, start_explain_server

        reviews, log = self._remote.caller_reviews(), UndecodableLog(self._clock)
        try:
            return await start_explain_server(port, self._scaler.open, reviews, log)
        except RuntimeError as error:
            raise StartError(listen_error("--explain-port", LOOPBACK, port)) from error

    async def _listen_http(self, flag: str, port: int, pages: HttpPages, by_query: QueryPages | None = None) -> int:
        server = HttpServer(pages, by_query)
        try:
            bound = await server.start(self._config.host, port)
        except OSError as error:
            raise StartError(listen_error(flag, self._config.host, port)) from error
        self._http_servers.append(server)
        return bound

    def _grpc_server(self) -> grpc.aio.Server:
        server, log = make_grpc_server(MAX_FOLLOWERS), UndecodableLog(self._clock)
        followers = StreamLimit(MAX_FLEET_STREAMS_PER_CONNECTION, MAX_FOLLOWERS)
        roles = client_roles(self._config)
        server.add_generic_rpc_handlers(
            (
                LazyService(EXTERNAL_SCALER, self._add_external_scaler, role_guard(roles.keda, log)),
                LazyService(EVALUATIONS, self._add_evaluations, role_guard(roles.explain, log, CallGuard(log).guarded)),
                LazyService(FLEET, self._add_fleet, role_guard(roles.watch, log, CallGuard(log, followers).guarded)),
                health_service(self._health, log),
                reflection_service(log),
            )
        )
        return server

    def _make_scaler(self) -> "ExternalScaler":
        from keda_gpu_scaler.server.external_scaler import ExternalScaler

        remote = self._remote
        return ExternalScaler(
            self._fleet,
            self._clock,
            remote.cluster,
            remote.peers,
            remote.engines,
            remote.note_answer,
            remote.note_deletion_costs if remote.has_deletion_costs else None,
            self._counters,
            self._performance,
            has_credentials=self._config.endpoint_credentials is not None,
        )

    def _add_external_scaler(self, registrar: Registrar) -> None:
        registrar.add_generic_rpc_handlers((self._scaler.open().handlers(),))

    def _add_fleet(self, registrar: Registrar) -> None:
        fleet_pb_grpc.add_FleetServicer_to_server(self._fleet_server, registrar)  # type: ignore[no-untyped-call]

    def _add_evaluations(self, registrar: Registrar) -> None:
        from keda_gpu_scaler.server.explain import EvaluationService
        from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc

        service = EvaluationService(self._scaler.open())
        evaluation_pb_grpc.add_EvaluationsServicer_to_server(service, registrar)  # type: ignore[no-untyped-call]

    async def _run_loop(self) -> None:
        """Wake streams on news, keep the health service up to date and release what is idle, until ``stop``."""
        serving: bool | None = None
        released_at_seconds = -math.inf
        while not self._stopping:
            self._news.clear()
            began = self._clock()
            if self._scaler.opened is not None:
                await self._scaler.opened.wake_streams()
                self._remote.note_refusals(*self._scaler.opened.refusals())
            ready = self._fleet().not_ready_reason(self._clock()) is None
            if ready != serving:
                serving = ready
                status = health_pb2.HealthCheckResponse
                for name in ("", EXTERNAL_SCALER):
                    await self._health.set(name, status.SERVING if ready else status.NOT_SERVING)
            self._certificates.check_regularly(self._clock())
            self._gc_policy.sweep(self._clock())
            if began - released_at_seconds >= _RELEASE_SECONDS:
                released_at_seconds = began
                self._release_idle()
            if not self._stopping and self._remote.has_frequent_news:
                # Peers and engines report all the time. Evaluating the streams takes a fixed share of the loop at most.
                pause = max(_MIN_NEWS_SECONDS, (self._clock() - began) / _STREAMS_SHARE)
                await asyncio.sleep(min(pause, self._config.sample_interval))
            # A snapshot becomes stale without any news.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEALTH_INTERVAL_SECONDS):
                    await self._news.wait()

    def _release_idle(self) -> None:
        if self._scaler.opened is not None:
            self._scaler.opened.expire_idle()
        self._remote.expire_idle()

    def _fleet(self) -> Fleet:
        return Fleet(
            history=self._sampler.history,
            stale_after_seconds=self._config.stale_after,
            deviceless=self._backend.deviceless,
            failure=self._sampler.failure,
            peers=self._remote.peers.histories() if self._remote.peers else {},
            unavailable=self._remote.peers.unavailable() if self._remote.peers else {},
            own_node=self._config.node_name,
            scrape_results=self._remote.engines.scrape_results(),
            started_at_seconds=self._started_at,
        )

    def _metrics_page(self) -> HttpPage:
        from keda_gpu_scaler.server.metrics import metrics_page, render

        # The exporter wants them too: the next pages have them.
        self._performance.register(self._clock())
        text = render(
            self._fleet(),
            self._clock(),
            self._sampler.counts,
            self._counters.counts(),
            self._answers(),
            self._remote.engines.counts(),
            self._remote.peer_counts(),
            self._remote.watches(),
            lambda uuid: registry.maker_of(uuid).lower(),
            self._certificates.expiries(),
            self._refused(),
        )
        return metrics_page(text)

    def _make_status_page(self) -> "StatusPage":
        from keda_gpu_scaler.server.status_page import StatusPage

        return StatusPage(self._view, self._clock)

    def _view(self) -> "StatusView":
        from keda_gpu_scaler.server.status_view import StatusView

        view = StatusView(
            fleet=self._fleet(),
            now=self._clock(),
            unix_seconds=time.time(),
            node=self._config.node_name,
            source=self._backend.source,
            answers=self._answers(),
            peers=self._remote.peer_counts(),
            watches=self._remote.watches(),
            refused=self._refused(),
        )
        if (scaler := self._scaler.opened) is None:
            return view
        return replace(view, histories=scaler.histories, evaluation_of=scaler.last_evaluation)

    def _refused(self) -> list[RefusedTrigger]:
        return self._scaler.opened.refused_triggers() if self._scaler.opened is not None else []

    def _answers(self) -> list[RecentAnswer]:
        return self._scaler.opened.answers() if self._scaler.opened is not None else []

    def _sampled_in_thread(self) -> None:
        """Notify the event loop of a sample; called in the sampler's thread."""
        # A driver call that hung may return after the loop has closed.
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._sampled)

    def _sampled(self) -> None:
        self._fleet_server.published()
        self._notify()

    def _reported(self) -> None:
        """Note that a peer reported something."""
        if self._scaler.opened is not None:
            self._scaler.opened.note_report()
        self._notify()

    def _notify(self) -> None:
        self._news.set()


def _pod_resources(config: Config, backend: Backend, clock: Callable[[], float]) -> PodResources | None:
    """Return the client of the kubelet, or None without a kubelet or without devices."""
    path = config.pod_resources
    if path == "off" or (path == "auto" and backend.deviceless):
        return None
    if path == "auto" and not Path(DEFAULT_PATH).exists():
        _log.info(
            "no kubelet here (%s): it is not known which pod holds which device, so scope: workload has no reading of "
            "this node; on a node of a cluster mount its directory, or name the socket with --pod-resources",
            DEFAULT_PATH,
        )
        return None
    return PodResources(
        DEFAULT_PATH if path == "auto" else path,
        interval_seconds=config.sample_interval,
        stale_after_seconds=config.stale_after,
        clock=clock,
    )
