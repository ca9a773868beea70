# SPDX-License-Identifier: Apache-2.0
"""Five broken situations: the first five lines of ``explain`` name the cause.

The last lines have a command for it.

The evaluations are those of a real scaler in this process, over snapshots, pages and certificates that are broken.
"""

import asyncio
import json
import re
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.core.state.fleet import NOT_ANSWERED_YET, Fleet, History
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeAttempt, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.types import PodRef, Unavailable, Workload
from keda_gpu_scaler.server.explain import EvaluationService
from keda_gpu_scaler.server.external_scaler import ExternalScaler
from keda_gpu_scaler.wire import evaluation_pb2_grpc as pb_grpc
from tests.certificates import NAME, Authority, Pair
from tests.fakes import FakeCluster, FakeEngines, FakePeers, ManualClock, device, node_history, pod, sample, workload
from tests.limits import WAIT_SECONDS

UNIX_SECONDS = 1.7e9
HERE = node_history("gpu-7", sample(0, 0.92), held={device(0).uuid: "llama-0"})
THERE = node_history("gpu-8", sample(0, 0.4), held={device(0).uuid: "llama-1"})
PODS = workload(pod("llama-0"), pod("llama-1", "gpu-8"))
RAW = re.compile(r"UNAVAILABLE|INVALID_ARGUMENT|UNKNOWN|INTERNAL|DEADLINE|details =|grpc|_channel|ipv4:|SSL_ERROR")


def scaler(
    peers: FakePeers, known: Workload | Unavailable = PODS, engines: FakeEngines | None = None
) -> ExternalScaler:
    def fleet() -> Fleet:
        results = engines.scrape_results() if engines is not None else {}
        return Fleet(
            HERE, 10.0, peers=peers.histories(), unavailable=peers.unavailable(), own_node="gpu-7",
            scrape_results=results,
        )  # fmt: skip

    return ExternalScaler(fleet, ManualClock(), FakeCluster(llama=known), peers, engines)


@contextmanager
def served(make: Callable[[], ExternalScaler], pair: Pair | None = None) -> Iterator[str]:
    """Serve the explanations of a scaler in a thread, with a certificate or without; yield the address."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    state: dict[str, object] = {}

    async def start() -> None:
        server = grpc.aio.server()
        service = EvaluationService(make(), lambda: UNIX_SECONDS)
        pb_grpc.add_EvaluationsServicer_to_server(service, server)  # type: ignore[no-untyped-call]
        if pair is None:
            state["port"] = server.add_insecure_port("127.0.0.1:0")
        else:
            files = [(pair.key.read_bytes(), pair.certificate.read_bytes())]
            state["port"] = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(files))
        await server.start()
        state["server"] = server
        started.set()

    def run() -> None:
        loop.create_task(start())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(WAIT_SECONDS)
    try:
        yield f"127.0.0.1:{state['port']}"
    finally:
        server = state["server"]
        asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(WAIT_SECONDS)  # type: ignore[attr-defined]
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_SECONDS)
        loop.close()


def page(address: str, *arguments: str) -> list[str]:
    """Return the lines of ``explain`` for ai/llama, at 80 columns; none has a text of gRPC."""
    document = Path("llama.yaml")
    document.write_text(
        "apiVersion: keda.sh/v1alpha1\nkind: ScaledJob\nmetadata: {name: llama, namespace: ai}\n"
        "spec: {triggers: [{type: external, metadata: {scalerAddress: 'keda-gpu-scaler.keda:6000'}}]}\n"
    )
    outcome = CliRunner().invoke(
        main, ["explain", "-f", str(document), "--address", address, *arguments], env={"COLUMNS": "80"}
    )
    assert outcome.exit_code in (0, 1, 3), outcome.output
    assert not RAW.search(outcome.output), outcome.output
    return outcome.output.splitlines()


def first_five(lines: list[str]) -> str:
    return " ".join(" ".join(lines[:5]).split())


def commands(lines: list[str]) -> str:
    """Return the text with continued lines joined, as a shell reads them."""
    return " ".join(" ".join(lines).replace("\\", "").split())


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_agent_that_is_gone_is_named_with_its_node() -> None:
    last = replace(THERE.newest, unix_seconds=UNIX_SECONDS - 41)
    gone = FakePeers(
        replace(THERE, snapshots=(last,), received_at_seconds=959.0),
        unavailable={"gpu-8": "nothing listens there (connection refused): is it running, and is the port right?"},
    )
    with served(lambda: scaler(gone)) as address:
        lines = page(address)
    assert "1 of 2 ready pods without a value: node gpu-8 last answered 41 s ago (limit 10 s)" in first_five(lines)
    assert "kubectl get pods -n SCALER_NAMESPACE -o wide --field-selector spec.nodeName=gpu-8" in commands(lines)


def test_a_workload_without_a_device_leads_to_its_pod_and_not_to_its_trigger() -> None:
    with served(lambda: scaler(FakePeers(), workload(pod("llama-7")))) as address:
        lines = page(address)
    assert "none of its 1 pods holds a device" in first_five(lines)
    assert "kubectl -n ai describe pod llama-7  # no device" in "\n".join(lines)
    assert "EDITOR" not in "\n".join(lines)


def test_an_engine_that_answers_404_is_named_with_its_url() -> None:
    url = "http://10.0.0.1:8000/metrics"
    failure = f"HTTP 404 at {url}: does the engine export metrics there?"
    attempt = ScrapeAttempt(url, 404, failure)
    endpoint = Endpoint(pod=PodRef("ai", "llama-0"), address="10.0.0.1", engine="vllm")
    failed = ScrapeResult((TargetHistory(url, failure=failure, attempt=attempt),))
    one = workload(pod("llama-0", address="10.0.0.1"))
    with served(lambda: scaler(FakePeers(), one, FakeEngines({endpoint: failed}))) as address:
        lines = page(address, "-m", "metricType=queue_depth", "-m", "engine=vllm", "-m", "targetValue=10")
    assert "404" in first_five(lines)
    assert "kubectl get --raw /api/v1/namespaces/ai/pods/llama-0:8000/proxy/metrics" in commands(lines)


@pytest.mark.parametrize(
    ("urls", "page_of_pod"),
    [
        pytest.param(["https://10.0.0.1:8000/metrics"], "https:llama-0:8000/proxy/metrics", id="https"),
        pytest.param(["http://10.0.0.1/metrics"], "llama-0:80/proxy/metrics", id="the port 80"),
        pytest.param(["https://10.0.0.1/metrics"], "https:llama-0:443/proxy/metrics", id="the port 443"),
        pytest.param(["http://[fd00::1]:8000/metrics"], "llama-0:8000/proxy/metrics", id="IPv6"),
        pytest.param(
            ["http://10.0.0.1:8000/metrics", "http://10.0.0.1:8001/metrics"],
            "llama-0:8001/proxy/metrics",
            id="the engine that does not answer, of two",
        ),
        pytest.param(["http://10.0.0.1:8000/m?a=1&b=2"], "llama-0:8000/proxy/m?a=1&b=2", id="a query"),
    ],
)
def test_the_next_command_shows_the_page_that_cannot_be_read(urls: list[str], page_of_pod: str) -> None:
    endpoint = Endpoint(pod=PodRef("ai", "llama-0"), address="10.0.0.1", engine="vllm")
    *others, failed = urls
    targets = [TargetHistory(it, attempt=ScrapeAttempt(it, 200)) for it in others]
    targets.append(TargetHistory(failed, failure="no answer", attempt=ScrapeAttempt(failed, failure="no answer")))
    engines = FakeEngines({endpoint: ScrapeResult(tuple(targets))})
    with served(lambda: scaler(FakePeers(), workload(pod("llama-0", address="10.0.0.1")), engines)) as address:
        lines = page(address, "-m", "metricType=queue_depth", "-m", "engine=vllm", "-m", "targetValue=10")
    path = f"/api/v1/namespaces/ai/pods/{page_of_pod}"
    assert f"kubectl get --raw {shlex.quote(path)} from" in commands(lines)


def test_the_next_command_for_a_url_that_cannot_be_read_shows_what_was_asked() -> None:
    url = "http://engine.ai:8000/metrics"
    failed = TargetHistory(url, failure="no answer", attempt=ScrapeAttempt(url, failure="no answer"))
    engines = FakeEngines({Endpoint(url=url, namespace="ai"): ScrapeResult((failed,))})
    with served(lambda: scaler(FakePeers(), workload(pod("llama-0", address="10.0.0.1")), engines)) as address:
        lines = page(address, "-m", "metricType=queue_depth", "-m", f"engineEndpoint={url}", "-m", "targetValue=10")
    assert "keda-gpu-scaler explain -f llama.yaml -o wide # engine unavailable" in commands(lines)


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ("targetValu=60", 'metadata.targetValu: Forbidden: it is not a key of this scaler, but almost "targetValue"'),
        ("profile=tritn-inference", "metadata.profile: "),
        ("targetValue=eighty", "metadata.targetValue: Invalid value"),
    ],
)
def test_a_typo_in_the_trigger_is_named_with_its_key(metadata: str, sentence: str) -> None:
    with served(lambda: scaler(FakePeers(THERE))) as address:
        lines = page(address, "-m", metadata)
    assert f"ai/llama: the scaler refuses the trigger: {sentence}" in first_five(lines)
    assert "${EDITOR:-vi} llama.yaml" in "\n".join(lines)


def test_a_wrong_clock_of_a_node_is_named() -> None:
    late = replace(THERE, snapshots=(replace(THERE.newest, unix_seconds=UNIX_SECONDS - 3600),))
    with served(lambda: scaler(FakePeers(late))) as address:
        lines = page(address)
    assert "the clock of node gpu-8 is 60 min behind that of the instance" in first_five(lines)
    assert "keda-gpu-scaler doctor --cluster" in "\n".join(lines)


def test_an_expired_certificate_is_named_with_its_date(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    expired = authority.issue("expired", days=-1)
    with served(lambda: scaler(FakePeers(THERE)), expired) as address:
        lines = page(address, "--tls-ca", str(authority.certificate), "--tls-server-name", NAME)
    assert re.search(r"its certificate expired at \d{4}-\d\d-\d\d \d\d:\d\d UTC: renew it", first_five(lines))
    assert "kubectl get certificates,secrets" in "\n".join(lines)


def test_an_expired_certificate_of_an_agent_is_named_with_its_node() -> None:
    reason = "its certificate, or that of its CA, has expired: renew it, then check why it was not"
    with served(lambda: scaler(FakePeers(unavailable={"gpu-8": reason}))) as address:
        lines = page(address)
    assert f"node gpu-8 has no snapshot: {reason}" in first_five(lines)


def test_an_expired_certificate_of_an_agent_is_named_where_its_node_is_not_known() -> None:
    reason = "its certificate, or that of its CA, has expired: renew it, then check why it was not"
    with served(lambda: scaler(FakePeers(unavailable={"10.0.0.8:6000": reason}))) as address:
        lines = page(address)
    assert f"node gpu-8 has no snapshot: 10.0.0.8:6000, whose node is not known: {reason}" in (first_five(lines))


def test_a_certificate_of_another_name_or_authority_and_a_server_without_tls_are_named(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    ca = ("--tls-ca", str(authority.certificate))
    with served(lambda: scaler(FakePeers(THERE)), authority.issue("good")) as address:
        assert "its certificate contains another name" in first_five(page(address, *ca, "--tls-server-name", "x"))
        wrong = page(address, "--tls-ca", str(other.certificate), "--tls-server-name", NAME)
        assert "its certificate is not signed by this --tls-ca" in first_five(wrong)
        assert "if it uses TLS, give its CA with --tls-ca" in first_five(page(address))
    with served(lambda: scaler(FakePeers(THERE))) as address:
        assert "it does not use TLS" in first_five(page(address, *ca, "--tls-server-name", NAME))


def test_a_cold_instance_is_asked_again_until_it_has_the_first_data() -> None:
    class Appearing(FakePeers):
        """Another instance, whose first snapshot comes a few calls later."""

        calls = 0

        def histories(self) -> Mapping[str, History]:
            self.calls += 1
            return {"gpu-8": THERE} if self.calls > 8 else {}

        def unavailable(self) -> Mapping[str, str]:
            return {} if self.calls > 8 else {"gpu-8": NOT_ANSWERED_YET}

    only_there = workload(pod("llama-1", "gpu-8"))
    with served(lambda: scaler(Appearing(), only_there)) as address:
        lines = page(address, "--json")
    assert json.loads("\n".join(lines))["measured"] == 40.0


def test_a_server_that_is_no_scaler_is_named() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert "it does not have this call: is it a keda-gpu-scaler" in first_five(page(f"127.0.0.1:{port}"))
    server.stop(None).wait()
