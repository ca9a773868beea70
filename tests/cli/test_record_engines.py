# SPDX-License-Identifier: Apache-2.0
"""Tests ``record --engines`` against an API server that forwards ports to engines."""

import contextlib
import fcntl
import json
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.cli.record import engines as record_engines
from keda_gpu_scaler.devices.replay.backend import ReplayBackend
from keda_gpu_scaler.scrape.address_policy import AddressPolicy
from keda_gpu_scaler.wire.engine_recording import Place, RecordedPage, RecordedWorkload, decode_record, is_record
from tests import forked
from tests.apiserver import FakeApiServer
from tests.end_to_end.test_engines import Pages
from tests.limits import WAIT_SECONDS
from tests.polling import interrupted_when, pause
from tests.serving import COMMAND

VLLM = (
    b'vllm:num_requests_running{model_name="secret-model"} 3\nvllm:num_requests_waiting{model_name="secret-model"} 0\n'
)
OTHER = b'process_cpu_seconds_total 7\nhttp_requests_total{path="/secret"} 3\n'


class Cluster:
    """ai/llama with pods whose ports are forwarded to pages."""

    def __init__(self, folder: Path, server: FakeApiServer, stack: contextlib.ExitStack) -> None:
        self.server = server
        self.file = folder / "llama.jsonl"
        self.kubeconfig = str(server.kubeconfig(folder / "kubeconfig"))
        self._stack = stack

    def run(
        self, *pages: bytes | Callable[[], bytes] | None, ports: tuple[int, ...] = (8000,), **metadata: str
    ) -> None:
        """Let the workload have a ready pod for each page; None is a pod whose ports are refused."""
        self.server.scaled_object("llama", **metadata)  # type: ignore[arg-type]
        self.server.scale("llama", len(pages))
        for number, page in enumerate(pages):
            self.server.pod(f"llama-{number}", "gpu-1", address=f"10.0.0.{number + 1}")
            if page is not None:
                engine = self._stack.enter_context(Pages("127.0.0.1"))
                engine.page = page
                for port in ports:
                    self.server.forwards["ai", f"llama-{number}", port] = engine.port

    def record(self, *arguments: object, name: str = "ai/llama", duration: float = 0) -> Result:
        access = ("--kubeconfig", self.kubeconfig, "--out", str(self.file), "--duration", str(duration))
        return CliRunner().invoke(main, ["record", "--engines", name, *access, *map(str, arguments)])

    def written(self) -> bytes:
        """Return what is in the file so far, up to the last complete line."""
        text = self.file.read_bytes() if self.file.exists() else b""
        return text[: text.rfind(b"\n") + 1]

    def records(self) -> list[RecordedPage | RecordedWorkload]:
        return [decode_record(line) for line in self.written().decode().splitlines() if is_record(line)]

    def pages(self) -> list[RecordedPage]:
        return [it for it in self.records() if isinstance(it, RecordedPage)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with FakeApiServer() as server, contextlib.ExitStack() as stack:
        yield Cluster(tmp_path, server, stack)


def test_the_page_of_each_pod_and_the_workload_are_recorded(cluster: Cluster) -> None:
    cluster.run(VLLM, VLLM, profile="llm", engine="vllm")
    outcome = cluster.record()
    assert outcome.exit_code == 0, outcome.output
    assert "wrote 2 page(s) of 2 pod(s), 0 answer(s) without" in outcome.stderr
    header = json.loads(cluster.file.read_text().splitlines()[0])
    assert (header["recording"], header["source"], header["interval_seconds"]) == (2, "engines of ai/llama", 2.0)
    state, *pages = cluster.records()
    assert isinstance(state, RecordedWorkload)
    assert [pod.ref.name for pod in state.workload.pods] == ["llama-0", "llama-1"]
    assert state.workload.triggers[0].metadata == {"profile": "llm", "engine": "vllm"}
    assert sorted(it.place for it in cluster.pages()) == [
        Place("ai", f"llama-{number}", "http", 8000, "/metrics") for number in range(2)
    ]
    assert len(pages) == 2
    assert "10.0.0." not in cluster.file.read_text()
    assert ReplayBackend(cluster.file).engine_recording is not None


@pytest.mark.parametrize("key", ["engineEndpoint", "demandEndpoint"])
def test_a_url_whose_page_is_not_recorded_is_named(cluster: Cluster, key: str) -> None:
    metadata: dict[str, Any] = {"profile": "llm", key: "http://llama.ai/metrics"}
    cluster.run(VLLM, **metadata)
    outcome = cluster.record()
    assert outcome.exit_code == 0, outcome.output
    assert f"ai/llama: the page at {key} is not recorded, so a replay has no value of it" in outcome.stderr


def test_a_workload_without_urls_is_recorded_without_a_remark(cluster: Cluster) -> None:
    cluster.run(VLLM, profile="llm")
    assert "is not recorded" not in cluster.record().stderr


def test_only_requested_series_are_recorded(cluster: Cluster) -> None:
    cluster.run(VLLM + OTHER, metricType="engine", engineMetric='mine{queue="a"}', engine="vllm")
    assert cluster.record().exit_code == 0
    assert "secret-model" in cluster.file.read_text()
    assert "/secret" not in cluster.file.read_text()


def test_labels_are_masked_on_request(cluster: Cluster) -> None:
    cluster.run(VLLM + b'mine{queue="a",tenant="secret"} 4\n', engineMetric='mine{queue="a"}', targetValue="5")
    outcome = cluster.record("--mask-labels")
    assert outcome.exit_code == 0, outcome.output
    [page] = [it for it in cluster.pages() if it.text]
    assert 'model_name="masked-1"' in page.text
    assert 'mine{queue="a",tenant="masked-1"} 4.0' in page.text
    assert "secret" not in cluster.file.read_text()


def test_a_model_that_the_trigger_selects_keeps_its_name(cluster: Cluster) -> None:
    cluster.run(VLLM + VLLM.replace(b"secret", b"other"), profile="llm", engineModel="secret-model")
    assert cluster.record("--mask-labels").exit_code == 0
    [page] = [it for it in cluster.pages() if it.text]
    assert 'num_requests_running{model_name="secret-model"} 3.0' in page.text
    assert "other" not in cluster.file.read_text()


def test_only_the_labels_that_group_pods_are_recorded(cluster: Cluster) -> None:
    cluster.run(VLLM, profile="llm", groupBy="replica", groupLeader="rank=0")
    labels = {"app": "llama", "replica": "a", "rank": "0", "tenant": "secret-tenant"}
    cluster.server.pod("llama-0", "gpu-1", address="10.0.0.1", labels=labels)
    cluster.server.pod("llama-1", "gpu-1", address="10.0.0.2", labels=labels | {"rank": "1"})
    assert cluster.record().exit_code == 0
    [state] = [it for it in cluster.records() if isinstance(it, RecordedWorkload)]
    leader, worker = state.workload.pods
    assert (dict(leader.labels), dict(worker.labels)) == (
        {"replica": "a", "rank": "0"},
        {"replica": "a", "rank": "1"},
    )
    assert "secret-tenant" not in cluster.file.read_text()
    assert {it.place.pod for it in cluster.pages()} == {"llama-0"}, "the leader alone is asked"


def test_an_error_of_a_page_is_masked_too(cluster: Cluster) -> None:
    cluster.run(b'vllm:num_requests_running{a="secret" 3\n', engine="vllm", profile="llm")
    assert cluster.record("--mask-labels").exit_code == 0
    [page] = cluster.pages()
    assert (page.failure, page.kind, page.status) == ("its page cannot be read", "unreadable", 200)


def test_a_port_that_the_pod_refuses_is_recorded_as_refused(cluster: Cluster) -> None:
    cluster.run(None, profile="llm")
    outcome = cluster.record()
    assert outcome.exit_code == 0, outcome.output
    pages = cluster.pages()
    assert {(it.failure, it.kind) for it in pages} == {("the connection is refused", "refused")}
    assert 8000 in {it.place.port for it in pages}
    assert re.search(r"pod ai/llama-0: no engine is found: port \d+", outcome.stderr)


def test_a_page_of_another_kind_is_recorded_without_its_series(cluster: Cluster) -> None:
    cluster.run(OTHER, engine="vllm", profile="llm")
    assert cluster.record().exit_code == 0
    assert [(it.status, it.text) for it in cluster.pages()] == [(200, "")]


def test_metadata_of_the_command_line_replaces_the_trigger_s(cluster: Cluster) -> None:
    cluster.run(VLLM, ports=(9123,), profile="triton-inference")
    assert cluster.record("-m", "profile=llm", "-m", "enginePort=9123").exit_code == 0
    assert {it.place.port for it in cluster.pages()} == {9123}


def test_devices_are_recorded_too_if_a_backend_is_given(cluster: Cluster) -> None:
    cluster.run(VLLM, profile="llm", engine="vllm")
    paces = ("--sample-interval", "0.1", "--scrape-interval", "0.1")
    with interrupted_when(lambda: b'"samples"' in cluster.written() and cluster.pages()):
        outcome = cluster.record("--backend", "synthetic", *paces, duration=WAIT_SECONDS)
    assert outcome.exit_code == 0, outcome.output
    assert re.search(r"and \d+ snapshot\(s\) of devices", outcome.stderr)
    replayed = ReplayBackend(cluster.file)
    assert (len(replayed.read(0.0)), replayed.deviceless) == (8, False)
    assert replayed.engine_recording is not None


def test_a_pod_that_appears_later_is_recorded_with_the_new_state(cluster: Cluster) -> None:
    asked: list[int] = []

    def page() -> bytes:
        asked.append(1)
        if len(asked) == 2:
            cluster.run(VLLM, VLLM, profile="llm", engine="vllm")
        return VLLM

    cluster.run(page, profile="llm", engine="vllm")
    with interrupted_when(
        lambda: b"llama-1" in cluster.written() and len({it.place.pod for it in cluster.pages()}) == 2
    ):
        assert cluster.record("--scrape-interval", "0.1", duration=WAIT_SECONDS).exit_code == 0
    states = [len(it.workload.pods) for it in cluster.records() if isinstance(it, RecordedWorkload)]
    assert (states[0], states[-1]) == (1, 2)
    assert {it.place.pod for it in cluster.pages() if it.text} == {"llama-0", "llama-1"}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_recording_and_the_file_is_complete(cluster: Cluster, stop: signal.Signals) -> None:
    cluster.run(VLLM, profile="llm", engine="vllm")
    command = (*COMMAND, "record", "--engines", "ai/llama", "--kubeconfig", cluster.kubeconfig, "--out", "-")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as recording:
        assert recording.stdout is not None
        lines = [recording.stdout.readline() for _ in range(3)]
        recording.send_signal(stop)
        rest, said = recording.communicate(timeout=WAIT_SECONDS)
    assert recording.returncode == 0, said
    assert "page(s) of 1 pod(s)" in said
    for line in [*lines[1:], *rest.splitlines()]:
        decode_record(line)


def test_a_stop_ends_a_recording_whose_reader_does_not_read(cluster: Cluster) -> None:
    cluster.run(b"".join(b'vllm:num_requests_running{a="%d"} 1\n' % number for number in range(9000)), engine="vllm")
    command = (*COMMAND, "record", "--engines", "ai/llama", "--kubeconfig", cluster.kubeconfig, "--out", "-")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as recording:
        assert recording.stdout is not None
        while _waiting_bytes(recording.stdout.fileno()) < PIPE_BYTES:
            assert recording.poll() is None  # the page does not fit into the pipe
            pause()
        recording.send_signal(signal.SIGTERM)
        assert recording.wait(WAIT_SECONDS) == 1
        assert recording.stderr is not None
        assert "stopped while standard output accepted no more data" in recording.stderr.read()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_the_api_server_hangs_is_an_error_and_no_file(cluster: Cluster, stop: signal.Signals) -> None:
    cluster.server.hang()
    access = ("--kubeconfig", cluster.kubeconfig, "--out", str(cluster.file))
    command = ("record", "--engines", "ai/llama", "--log-level", "info", *access)
    with forked.Forked(command) as recording:
        assert "reading ai/llama" in recording.stderr.readline()
        recording.send_signal(stop)
        assert recording.wait(WAIT_SECONDS) == 1
        assert recording.stderr.read().endswith("stopped before ai/llama was read: nothing is recorded\n")
    assert not cluster.file.exists()
    cluster.server.hang(False)


PIPE_BYTES = 65_536 - 4_096  # a page of memory may be filled in part


def _waiting_bytes(descriptor: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4), sys.byteorder)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--mask-labels",), "--mask-labels: belongs to --engines"),
        (("--kubeconfig", "x"), "--kubeconfig: belongs to --engines"),
        (("-m", "engine=vllm"), "--metadata: belongs to --engines"),
    ],
    ids=["labels", "a kubeconfig", "metadata"],
)
def test_a_flag_of_engines_is_refused_without_them(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    outcome = CliRunner().invoke(main, ["record", "--out", str(tmp_path / "a"), *arguments])
    assert (outcome.exit_code, sentence in outcome.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(
            {"name": "ai/other"}, "ai/other: there is no ScaledObject and no ScaledJob of this name", id="a name"
        ),
        pytest.param({"extra": ("-m", "targetValue=x")}, 'metadata.targetValue: Invalid value: "x"', id="metadata"),
        pytest.param(
            {"forbid": ("list", "pods")}, "forbids to list and watch pods in namespace", id="no right to list pods"
        ),
        pytest.param({"exists": True}, "exists already: choose another name", id="an existing file"),
    ],
)
def test_what_cannot_be_recorded_is_said_in_a_sentence(
    cluster: Cluster, arguments: dict[str, Any], sentence: str
) -> None:
    cluster.run(VLLM, profile="llm", engine="vllm")
    if forbidden := arguments.get("forbid"):
        cluster.server.forbid(*forbidden)
    if arguments.get("exists"):
        cluster.file.write_text("")
    outcome = cluster.record(*arguments.get("extra", ()), name=arguments.get("name", "ai/llama"))
    assert (outcome.exit_code, sentence in outcome.stderr) == (1, True), outcome.stderr


def test_a_missing_right_to_forward_ports_is_recorded_and_said(cluster: Cluster) -> None:
    cluster.run(VLLM, profile="llm", engine="vllm")
    cluster.server.forbid("get", "pods/portforward")
    outcome = cluster.record()
    assert "the port cannot be forwarded: the API server answers 403: pods/portforward is forbidden" in outcome.stderr
    assert {it.kind for it in cluster.pages()} == {"unreadable"}


def test_a_recording_ends_before_it_is_too_large(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_engines, "MAX_RECORDS", 4)
    cluster.run(VLLM, profile="llm", engine="vllm")
    outcome = cluster.record("--scrape-interval", "0.1", duration=60)
    assert outcome.exit_code == 0
    assert "the recording has the largest size that can be replayed, and ends here" in outcome.stderr
    assert len(cluster.records()) == 4


def test_a_workload_with_too_many_pods_is_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_engines, "MAX_PODS", 1)
    cluster.run(VLLM, VLLM, profile="llm", engine="vllm")
    outcome = cluster.record()
    assert outcome.exit_code == 1
    assert outcome.stderr.endswith("keda-gpu-scaler: ai/llama: it has 2 pods: a recording has at most 1\n")


def test_in_a_cluster_the_pods_are_scraped_directly(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.run(profile="llm", engine="vllm")
    with Pages("127.0.0.1") as engine:
        engine.page = VLLM
        cluster.server.pod("llama-0", "gpu-1", address="127.0.0.1")
        monkeypatch.setattr(record_engines, "is_own_pod", lambda path, context: True)
        monkeypatch.setattr(record_engines, "access_of", lambda path, scratch, context: cluster.server.access)
        monkeypatch.setattr(record_engines, "AddressPolicy", lambda allowed: AddressPolicy("127.0.0.0/8"))
        arguments = ("--engines", "ai/llama", "--out", cluster.file, "--duration", 0, "-m", f"enginePort={engine.port}")
        outcome = CliRunner().invoke(main, ["record", *map(str, arguments)])
    assert outcome.exit_code == 0, outcome.output
    assert "wrote 1 page(s) of 1 pod(s)" in outcome.stderr
    assert cluster.server.requests["portforward"] == 0
