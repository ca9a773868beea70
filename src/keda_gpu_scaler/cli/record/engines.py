# SPDX-License-Identifier: Apache-2.0
"""Records the engines of a workload: the answers of its pods, and the states of the workload.

Law: engines are found and scraped by the code that ``serve`` uses, so that a recording shows what an instance reads.
"""

import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keda_gpu_scaler.cli.kube_session import access_of, is_own_pod
from keda_gpu_scaler.cli.output import printable, say
from keda_gpu_scaler.cli.record.forwarded_client import LOOPBACK, ForwardedClient
from keda_gpu_scaler.cli.record.stop_signals import WriteAborted, stop_signals
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.evaluate.workload_view import ScrapeRequest, ready_pods, scrape_requests
from keda_gpu_scaler.core.interfaces import Backend, KubeError
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.trigger.engine_params import ENDPOINT_KEYS
from keda_gpu_scaler.core.trigger.namespace import with_credentials
from keda_gpu_scaler.core.trigger.parser import Trigger, TriggerError, parse_trigger
from keda_gpu_scaler.core.types import Snapshot, Unavailable, Workload
from keda_gpu_scaler.devices.replay.text_reader import MAX_BYTES
from keda_gpu_scaler.engines.page_writer import LabelMask
from keda_gpu_scaler.kube.port_forward import PortForwarder
from keda_gpu_scaler.kube.workloads import Workloads
from keda_gpu_scaler.sampler import Sampler
from keda_gpu_scaler.scrape.address_policy import AddressPolicy
from keda_gpu_scaler.scrape.credentials import Credentials, CredentialsError
from keda_gpu_scaler.scrape.http_client import HttpClient
from keda_gpu_scaler.scrape.manager import ScrapeClient, ScrapeManager
from keda_gpu_scaler.scrape.recording_client import RecordingClient
from keda_gpu_scaler.wire.engine_recording import MAX_PODS, MAX_RECORDS, RecordedPage, RecordedWorkload
from keda_gpu_scaler.wire.json_fields import CodecError
from keda_gpu_scaler.wire.recording import RecordingError, RecordingWriter

SYNC_SECONDS = 20.0
"""The longest time until the workload is read, and with ``--duration 0`` until every pod was searched."""
MAX_FILE_BYTES = MAX_BYTES - (8 << 20)
"""The recording ends before it is too large to be replayed."""
_ROUND_SECONDS = 0.5
_log = logging.getLogger(__name__)
_DEFAULT_METADATA = {"profile": "llm"}


@dataclass(frozen=True, slots=True)
class EnginesRequest:
    """What to record.

    ``workload`` is "NAMESPACE/NAME" or "NAME". ``metadata`` replaces keys of the triggers. ``duration`` is None to
    record until a signal.
    """

    workload: str
    metadata: Mapping[str, str]
    out: str
    duration: float | None
    overwrite: bool
    masks_labels: bool
    kubeconfig: str | None
    context: str | None = None


def record_engines(request: EnginesRequest, config: Config, backend: Backend | None) -> None:
    """Record the engines of a workload, and the devices of a backend where one is given.

    Raises:
        KubeError: there is no access to the cluster, or no such workload.
        RecordingError: the file cannot be written.
        CodecError: a record cannot be encoded.
        WriteAborted: a write hangs after the signal.
    """
    # The HTTP client reads the TLS files when it is made, so the directory is not needed later.
    with tempfile.TemporaryDirectory() as scratch:
        access = access_of(request.kubeconfig, Path(scratch), request.context)
        api = PortForwarder(access)
    namespace, _, name = request.workload.rpartition("/")
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    recorder = _EngineRecorder(request, config, api, (namespace or access.namespace, name), stop)

    def on_stop() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(stop.set)

    with stop_signals(on_stop) as disarm, asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(recorder.run(backend, disarm))


class _EngineRecorder:
    """Records one workload.

    Args:
        request: what to record.
        config: the settings.
        api: the API server; it is closed at the end.
        workload: the namespace and the name.
        stop: set at the end of the recording.
    """

    def __init__(
        self,
        request: EnginesRequest,
        config: Config,
        api: PortForwarder,
        workload: tuple[str, str],
        stop: asyncio.Event,
    ) -> None:
        self._request = request
        self._config = config
        self._api = api
        self._workload = workload
        self._stop = stop
        self._title = "/".join(workload)
        self._written: Workload | None = None
        self._error: BaseException | None = None
        self._pages = self._failures = self._snapshots = self._records = 0
        self._pods: set[str] = set()

    async def run(self, backend: Backend | None, on_closed: Callable[[], None]) -> None:
        """Record until the time is over, or ``stop`` is set. ``on_closed`` is called when the file is closed."""
        clock = time.monotonic
        workloads = Workloads(self._api, clock=clock)
        try:
            state = await self._first_state(workloads)
            for key in _url_keys(state, self._request.metadata):
                say(
                    printable(f"{self._title}: the page at {key} is not recorded, so a replay has no value of it"),
                    err=True,
                )
            triggers = _engine_triggers(state, self._request.metadata)
            selectors = _selectors(triggers)
            mask = LabelMask(selectors, _models(triggers)) if self._request.masks_labels else None
            is_direct = is_own_pod(self._request.kubeconfig, self._request.context)
            async with _client(self._api, self._config, is_direct=is_direct) as client:
                recording = RecordingClient(client, self._report, selectors, mask, clock)
                manager = ScrapeManager(recording, clock=clock, interval_seconds=self._config.scrape_interval)
                try:
                    with self._sampled(backend):
                        try:
                            with self._open_file() as self._file:
                                await self._rounds(workloads, triggers, manager)
                        finally:
                            self._stop.set()
                            on_closed()
                finally:
                    await manager.close()
        finally:
            on_closed()
            await workloads.close()  # and with it the API server's client
        if self._error is not None:
            raise self._error
        self._say_result()

    async def _first_state(self, workloads: Workloads) -> Workload:
        _log.info("reading %s", self._title)
        await self._wait_for(workloads.wait_for_sync(*self._workload))
        if self._stop.is_set():
            raise KubeError(f"stopped before {self._title} was read: nothing is recorded")
        state = workloads.workload(*self._workload)
        if isinstance(state, Unavailable):
            raise KubeError(state.reason)
        if len(state.pods) > MAX_PODS:
            raise KubeError(f"{self._title}: it has {len(state.pods)} pods: a recording has at most {MAX_PODS}")
        return state

    def _open_file(self) -> RecordingWriter:
        return RecordingWriter(
            self._request.out,
            f"engines of {self._title}",
            overwrite=self._request.overwrite,
            interval_seconds=self._config.scrape_interval,
        )

    async def _rounds(self, workloads: Workloads, triggers: list[Trigger], manager: ScrapeManager) -> None:
        """Register interest in the engines of the ready pods, again and again."""
        clock, duration = time.monotonic, self._request.duration
        ends_at = None if not duration else clock() + duration
        say(f"recording the engines of {self._title}; Ctrl-C ends the recording", err=True)
        while not self._stop.is_set() and (ends_at is None or clock() < ends_at):
            state = workloads.workload(*self._workload)
            if isinstance(state, Workload):
                if state is not self._written:
                    self._written = state
                    self._write(RecordedWorkload(clock(), _with_read_labels(state, triggers)))
                requests = _pod_requests(triggers, state)
                _register(manager, requests)
                if duration == 0:
                    await self._wait_for(manager.wait_for_sync([one.endpoint for one in requests]))
                    break
            manager.expire_idle()
            left = _ROUND_SECONDS if ends_at is None else max(0.0, min(_ROUND_SECONDS, ends_at - clock()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._stop.wait()
        for endpoint, result in manager.scrape_results().items():
            if result.failure:
                say(printable(f"{endpoint}: {result.failure}"), err=True)

    async def _wait_for(self, sync: Coroutine[Any, Any, None]) -> None:
        """Wait until something is read for the first time, at most ``SYNC_SECONDS`` and until the stop signal."""
        tasks = {asyncio.ensure_future(sync), asyncio.ensure_future(self._stop.wait())}
        await asyncio.wait(tasks, timeout=SYNC_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.contextmanager
    def _sampled(self, backend: Backend | None) -> Iterator[None]:
        """Record the snapshots of a backend while the block lasts."""
        if backend is None:
            yield
            return
        loop = asyncio.get_running_loop()

        def published() -> None:
            history = sampler.history
            if history and sampler.failure is None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._write_snapshot, history.newest)

        sampler = Sampler(
            backend, node=self._config.node_name, interval_seconds=self._config.sample_interval, on_publish=published
        )
        sampler.start()
        try:
            yield
        finally:
            sampler.stop()

    def _report(self, page: RecordedPage) -> None:
        is_page = not page.failure and bool(page.text)
        self._pages += is_page
        self._failures += not is_page
        if is_page:
            self._pods.add(page.place.pod)
        self._write(page)

    def _write(self, record: RecordedPage | RecordedWorkload) -> None:
        """Write a record. An error ends the recording, and is raised at its end."""
        if self._stop.is_set():
            return
        try:
            try:
                self._file.write_record(record)
            except CodecError as error:
                if isinstance(record, RecordedWorkload):
                    raise
                failure = f"the page cannot be recorded: {error}"
                kind = "unreadable"
                self._file.write_record(
                    RecordedPage(
                        record.at_seconds, record.place, record.answer_seconds, 200, failure=failure, kind=kind
                    )
                )
        except (RecordingError, CodecError, WriteAborted) as error:  # asyncio would keep it in a task
            self._error = error
            self._stop.set()
        self._records += 1
        if self._file.size_bytes > MAX_FILE_BYTES or self._records >= MAX_RECORDS:
            say("the recording has the largest size that can be replayed, and ends here", err=True)
            self._stop.set()

    def _write_snapshot(self, snapshot: Snapshot) -> None:
        if self._stop.is_set():
            return
        self._snapshots += 1
        try:
            self._file.write(snapshot)
        except (RecordingError, CodecError, WriteAborted) as error:  # asyncio would keep it in a task
            self._error = error
            self._stop.set()

    def _say_result(self) -> None:
        devices = f" and {self._snapshots} snapshot(s) of devices" if self._snapshots else ""
        say(
            f"wrote {self._pages} page(s) of {len(self._pods)} pod(s), {self._failures} answer(s) without an engine's "
            f"page{devices} to {self._request.out}",
            err=True,
        )


@contextlib.asynccontextmanager
async def _client(api: PortForwarder, config: Config, *, is_direct: bool) -> AsyncIterator[ScrapeClient]:
    """Yield the client that fetches the pages: directly in a cluster, else through forwarded ports.

    Raises:
        KubeError: the credentials cannot be used.
    """
    try:
        credentials = Credentials(config.endpoint_credentials)
    except CredentialsError as error:
        raise KubeError(str(error)) from error
    if is_direct:
        yield HttpClient(AddressPolicy(None), credentials, timeout_seconds=config.scrape_timeout)
        return
    local = HttpClient(AddressPolicy(LOOPBACK), credentials, timeout_seconds=config.scrape_timeout)
    client = ForwardedClient(api, local)
    try:
        yield client
    finally:
        await client.aclose()


def _engine_triggers(workload: Workload, metadata: Mapping[str, str]) -> list[Trigger]:
    """Return the triggers of a workload that scrape its pods; the default one where there is none.

    Raises:
        KubeError: the metadata of the command line is not valid.
    """
    found = []
    for declared in workload.triggers:
        with contextlib.suppress(TriggerError):
            found.append(with_credentials(parse_trigger({**declared.metadata, **metadata}), workload.namespace))
    engines = [trigger for trigger in found if trigger.engine is not None and not trigger.engine.url]
    if engines:
        return engines
    try:
        return [with_credentials(parse_trigger({**_DEFAULT_METADATA, **metadata}), workload.namespace)]
    except TriggerError as error:
        raise KubeError(str(error)) from error


def _url_keys(workload: Workload, metadata: Mapping[str, str]) -> list[str]:
    """Return the keys by which the triggers name URLs: a recording has pages of pods only."""
    keys = {key for declared in workload.triggers for key in declared.metadata} | metadata.keys()
    return [key for key in (*ENDPOINT_KEYS, "demandEndpoint") if key in keys]


def _pod_requests(triggers: list[Trigger], workload: Workload) -> list[ScrapeRequest]:
    requests = [one for trigger in triggers for one in scrape_requests(trigger, ready_pods(workload))]
    return [one for one in requests if one.endpoint.pod is not None]


def _selectors(triggers: list[Trigger]) -> tuple[SeriesSelector, ...]:
    return tuple({it.text: it for trigger in triggers if trigger.engine for it in trigger.engine.selectors}.values())


def _models(triggers: list[Trigger]) -> set[str]:
    return {model for trigger in triggers if trigger.engine for model in trigger.engine.models}


def _with_read_labels(workload: Workload, triggers: list[Trigger]) -> Workload:
    """Return a workload whose pods have only the labels by which the triggers group them."""
    keys = frozenset().union(*(trigger.grouping.label_keys for trigger in triggers))
    pods = [replace(pod, labels=tuple([it for it in pod.labels if it[0] in keys])) for pod in workload.pods]
    return replace(workload, pods=tuple(pods))


def _register(manager: ScrapeManager, requests: list[ScrapeRequest]) -> None:
    for one in requests:
        manager.register_interest(one.endpoint, window_seconds=0.0, selectors=one.selectors)
