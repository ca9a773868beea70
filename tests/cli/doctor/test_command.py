# SPDX-License-Identifier: Apache-2.0
import ast
import asyncio
import errno
import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from aiohttp import web
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli.doctor import findings as checks
from keda_gpu_scaler.cli.doctor.certificates import CertificateError, certificate_steps, validities, validity
from keda_gpu_scaler.cli.doctor.cluster import (
    GRANTED,
    GRANTED_BESIDE_US,
    GRANTED_ON_NODES,
    Installation,
    World,
    examine,
)
from keda_gpu_scaler.cli.doctor.command import doctor, shown
from keda_gpu_scaler.cli.doctor.findings import Finding, Outcome, Step
from keda_gpu_scaler.cli.doctor.node import Machine, node_steps
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.types import Device, Sample, Snapshot
from keda_gpu_scaler.kube.access_review import AccessReviewer
from keda_gpu_scaler.peers.client import WATCH
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire.snapshot_codec import encode
from keda_gpu_scaler.wire.tls import ClientTls, Pem, own_pair
from tests.apiserver import TOKEN, FakeApiServer
from tests.certificates import NAME, Authority
from tests.fake_nvml import NOT_SUPPORTED, Card, FakeNvml
from tests.kubelet import FakeKubelet
from tests.serving import Serving, free_port

HOME = Path(__file__).resolve().parents[3]
GOLDEN = HOME / "tests" / "golden"
PLAIN = Config(backend="synthetic", pod_resources="off", port=0, metrics_port=0, probe_port=0, node_name="gpu-7")
HERE = Machine(clock_state=lambda: 0, driver_seconds=20.0)
THEM = Installation(namespace="gpu")
SOUND: dict[str, Any] = {"scalerAddress": f"{THEM.host}:6000", "profile": "triton-inference"}
NOW = 1_700_000_000.0


def found(steps: Iterable[Step], *names: str) -> list[str]:
    """Make the checks; return what they found, of these names alone."""
    return told([finding for step in steps for finding in step.look()], *names)


def told(findings: Iterable[Finding], *names: str) -> list[str]:
    for finding in findings:
        assert_sound(finding)
    return [f"{one.outcome}: {one.text}" for one in findings if not names or one.check in names]


def assert_sound(finding: Finding) -> None:
    """Hold every finding of every test against what each must have."""
    if finding.outcome in (Outcome.WARNING, Outcome.PROBLEM):
        assert finding.remedy, finding
        assert finding.heading, finding
    assert "\n" not in finding.text + finding.remedy


# ---- how findings look ----

SCREEN = (
    checks.ok("driver", "NVIDIA's, version 580.65.06, through libnvidia-ml.so.1"),
    checks.warning(
        "devices",
        "unknown of devices 4, 5, 6, 7: gpu_utilization, memory_utilization",
        "ask for another metricType there: slices of MIG, for one, tell no utilisation",
        "pods-have-no-value",
    ),
    checks.problem(
        "allocations",
        "cannot open /var/lib/kubelet/pod-resources/kubelet.sock: permission denied",
        "run as root on the node (chart: podResources.path)",
        "an-agent-reads-no-allocations",
    ),
    checks.skipped("clock", "the kernel does not tell whether its clock is kept right: operation not permitted"),
    checks.problem("peers", "node \x1b[31mgpu-9\x07: it ended\nthe connection, 100% sure", "see its log", "flaps"),
)


@pytest.mark.parametrize("width", [80, 140])
def test_what_is_found_fits_the_screen(width: int) -> None:
    lines = "\n".join(shown(finding, "text", width) for finding in SCREEN)
    plain = re.sub(r"\x1b\[\d*m", "", lines)
    assert plain + "\n" == (GOLDEN / f"doctor-{width}.txt").read_text()
    assert max(map(len, plain.splitlines())) <= width


def test_without_a_terminal_a_finding_is_one_line_that_a_stranger_cannot_break() -> None:
    lines = [shown(finding, "text") for finding in SCREEN]
    assert not any("\n" in line or "\x07" in line or "\x1b[31mgpu" in line for line in lines)
    assert (
        "permission denied; run as root on the node (chart: podResources.path) (docs/operating.md#an-agent" in lines[2]
    )


def test_json_has_every_key_and_the_text_as_it_is() -> None:
    assert json.loads(shown(SCREEN[4], "json")) == {
        "check": "peers",
        "outcome": "problem",
        "text": SCREEN[4].text,
        "remedy": "see its log",
        "link": "docs/operating.md#flaps",
    }


def test_github_gets_annotations_of_what_is_wrong_alone() -> None:
    lines = [shown(finding, "github") for finding in SCREEN]
    assert [line.partition(" ")[0] for line in lines] == ["ok", "::warning", "::error", "skipped", "::error"]
    assert lines[4].startswith(
        "::error title=doctor peers::node �[31mgpu-9�: it ended�the connection, 100%25 sure; see"
    )


def headings() -> set[str]:
    page = (HOME / "docs" / "operating.md").read_text()
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^## (.+)$", page, re.M)}


def test_every_heading_that_a_finding_links_to_is_there() -> None:
    named = set()
    for path in (HOME / "src" / "keda_gpu_scaler" / "cli" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and re.fullmatch(r"[a-z]+(-[a-z_]+)+", str(node.value)):
                named.add(node.value)
    named -= {"keda-gpu-scaler", "keda-operator"}
    assert len(named) > 8
    assert named <= headings()


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(doctor, list(arguments), env=environment or None)


OFF = ("--pod-resources", "off", "--port", "0", "--metrics-port", "0", "--probe-port", "0")


def test_a_machine_that_is_well_exits_with_0() -> None:
    result = run("--backend", "none", *OFF, "--format", "json")
    outcomes = {json.loads(line)["outcome"] for line in result.stdout.splitlines()}
    assert (result.exit_code, outcomes - {"warning"}) == (0, {"ok", "skipped"} & outcomes)


def test_a_problem_exits_with_1(tmp_path: Path) -> None:
    result = run("--backend", f"replay:{tmp_path / 'nothing.csv'}", *OFF)
    assert result.exit_code == 1
    assert result.stdout.startswith("problem  driver ")
    assert "1 problem" in result.stderr


def test_a_warning_fails_where_it_is_to(tmp_path: Path) -> None:
    arguments = ("--backend", "synthetic", *OFF)  # one of its devices tells no power
    assert [run(*arguments, *more).exit_code for more in ((), ("--strict",))] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(("--port", "9090"), "must differ from one another", id="settings that contradict each other"),
        pytest.param(("--kubeconfig", "/nowhere"), "cannot read /nowhere", id="a kubeconfig that is not there"),
        pytest.param(("--cluster",), "cannot read ", id="a cluster that nothing names"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], sentence: str) -> None:
    result = run(*arguments, KUBECONFIG="/nowhere/either", KUBERNETES_SERVICE_HOST="")
    assert (result.exit_code, sentence in result.stderr) == (2, True)


# ---- a node ----


def test_a_driver_tells_its_version_and_its_devices(fake_nvml: FakeNvml) -> None:
    config = replace(PLAIN, backend="nvml", nvml_library=str(fake_nvml.library))
    assert found(node_steps(config, HERE), "driver", "devices") == [
        f"ok: NVIDIA's, version 999.99.99, through {fake_nvml.library}",
        "ok: 2 devices: 2 of NVIDIA Fake 80GB",
    ]


def test_a_driver_that_tells_no_version_is_well(fake_nvml: FakeNvml) -> None:
    fake_nvml.refuse("driver version", NOT_SUPPORTED)
    config = replace(PLAIN, backend="nvml", nvml_library=str(fake_nvml.library))
    assert found(node_steps(config, HERE), "driver")[0].startswith("ok: NVIDIA's, of an unknown version")


def test_readings_that_a_device_does_not_give_are_named(fake_nvml: FakeNvml) -> None:
    fake_nvml.device(1).refuse("utilisation")
    config = replace(PLAIN, backend="nvml", nvml_library=str(fake_nvml.library))
    assert found(node_steps(config, HERE), "devices")[1:] == [
        "warning: unknown of device 1: gpu_utilization, memory_utilization"
    ]


def test_a_device_that_gives_nothing_is_a_problem(fake_nvml: FakeNvml) -> None:
    fake_nvml.devices = [Card("GPU-a"), Card("GPU-b", pci_bus_id="00000000:3B:00.0")]
    for call in ("utilisation", "memory v1", "memory v2", "temperature v1", "temperature v2", "power"):
        fake_nvml.device(1).refuse(call)
    config = replace(PLAIN, backend="nvml", nvml_library=str(fake_nvml.library))
    assert found(node_steps(config, HERE), "devices")[1:] == ["problem: device 1 (GPU-b) gives no reading at all"]


def test_a_driver_that_hangs_is_left_behind(fake_nvml: FakeNvml) -> None:
    config = replace(PLAIN, backend="nvml", nvml_library=str(fake_nvml.library))
    fake_nvml.hang("utilisation")
    try:
        assert found(node_steps(config, replace(HERE, driver_seconds=0.2)), "driver", "devices") == [
            "problem: it gave no answer in 0.2 s",
            "skipped: the driver does not answer",
        ]
    finally:
        fake_nvml.release()


@pytest.mark.parametrize(
    ("backend", "library", "says"),
    [
        pytest.param("nvml", "/nowhere.so", "problem: cannot load /nowhere.so: ", id="there is no library"),
        pytest.param(
            "auto", "/nowhere.so", "problem: --backend auto: no NVIDIA driver library here", id="none to find"
        ),
        pytest.param("magic", None, "problem: --backend: Unsupported value", id="a backend that is none"),
        pytest.param("none", None, "skipped: --backend none has no device by design", id="no device by design"),
        pytest.param("synthetic", None, "ok: none is needed: readings are a synthetic", id="a demonstration"),
    ],
)
def test_what_there_is_instead_of_a_driver_is_said(backend: str, library: str | None, says: str) -> None:
    config = replace(PLAIN, backend=backend, nvml_library=library)
    assert found(node_steps(config, HERE), "driver")[0].startswith(says)


def refusing(number: int) -> Callable[[Path], None]:
    def open_device(path: Path) -> None:
        if path.name == "nvidia1":
            raise OSError(number, os.strerror(number))

    return open_device


@pytest.mark.parametrize(
    ("files", "opening", "says"),
    [
        pytest.param(
            ("nvidiactl", "nvidia0", "nvidia-modeset", "null"),
            refusing(0),
            "ok: 2 device files of",
            id="all may be opened",
        ),
        pytest.param(
            ("nvidiactl", "nvidia1"), refusing(errno.EPERM), "problem: ", id="the runtime's device rules forbid one"
        ),
        pytest.param(("nvidiactl", "nvidia1"), refusing(errno.EIO), "ok: 2 device files", id="one fell off the bus"),
        pytest.param((), refusing(0), "problem: ", id="there is none"),
    ],
)
def test_device_files_are_opened(
    files: tuple[str, ...], opening: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    config = replace(PLAIN, backend="nvml", nvml_library="/nowhere.so")
    [finding] = found(node_steps(config, replace(HERE, devices=tmp_path, open_device=opening)), "permissions")
    assert finding.startswith(says)


def test_who_holds_devices_is_asked_of_the_kubelet(tmp_path: Path, fake_nvml: FakeNvml) -> None:
    fake_nvml.devices = [Card("GPU-00000000-0000-0000-0000-00000000000a")]
    config = replace(PLAIN, backend="nvml", nvml_library=str(fake_nvml.library), pod_resources=f"{tmp_path}/k.sock")
    with FakeKubelet(tmp_path / "k.sock") as kubelet:
        kubelet.hold(
            {
                "llama-0": ["GPU-00000000-0000-0000-0000-00000000000a"],
                "llama-1": ["GPU-00000000-0000-0000-0000-0000000000ff"],
            }
        )
        assert found(node_steps(config, HERE), "allocations") == [
            f"ok: {tmp_path}/k.sock tells 2 allocations; 1 pod of them hold what is listed here",
            "warning: ai/llama-1 holds GPU-00000000-0000-0000-0000-0000000000ff, a device that is not listed here",
        ]
        kubelet.error = grpc.StatusCode.UNIMPLEMENTED
        assert found(node_steps(config, HERE), "allocations") == [
            f"problem: {tmp_path}/k.sock: this kubelet does not serve the PodResources API v1"
        ]


@pytest.mark.parametrize(
    ("pod_resources", "is_pod", "says"),
    [
        pytest.param("auto", False, "skipped: no kubelet's socket here", id="a plain host needs none"),
        pytest.param("auto", True, "problem: no kubelet's socket here", id="a pod of ours needs it"),
        pytest.param("off", True, "skipped: --pod-resources off", id="it is switched off"),
        pytest.param(
            "/nowhere/k.sock", False, "problem: cannot open /nowhere/k.sock: there is no such", id="a wrong path"
        ),
    ],
)
def test_a_kubelet_that_is_not_there(pod_resources: str, is_pod: bool, says: str, tmp_path: Path) -> None:
    machine = replace(HERE, kubelet=str(tmp_path / "none.sock"), is_pod=is_pod)
    [finding] = found(node_steps(replace(PLAIN, pod_resources=pod_resources), machine), "allocations")
    assert finding.startswith(says)


def test_free_ports_and_ports_that_somebody_else_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = replace(PLAIN, host="127.0.0.1", port=free_port(), metrics_port=port)
        assert found(node_steps(config, HERE), "ports") == [
            f"ok: --port {config.port} is free",
            f"problem: --metrics-port {port}: somebody else listens there",
            "skipped: --probe-port 0: it is off",
        ]


def test_an_address_of_another_machine_is_a_problem() -> None:
    [finding, *_] = found(node_steps(replace(PLAIN, host="192.0.2.1", port=6000), HERE), "ports")
    assert finding.startswith("problem: --port: cannot listen on 192.0.2.1 port 6000: ")


def test_an_instance_of_ours_is_known_by_its_answers() -> None:
    metrics, probes = free_port(), free_port()
    arguments = ("--backend", "synthetic", "--metrics-port", str(metrics), "--probe-port", str(probes))
    with Serving(*arguments) as serving:
        serving.value_in_the_end(scope="node")
        ports = replace(PLAIN, host="127.0.0.1", port=serving.port, metrics_port=metrics, probe_port=probes)
        assert found(node_steps(ports, HERE), "ports") == [
            f"ok: --port {serving.port}: an instance serves there already",
            f"ok: --metrics-port {metrics}: an instance's metrics are there already",
            f"ok: --probe-port {probes}: something answers probes there already",
        ]


def test_an_instance_that_is_not_ready_is_worth_a_warning() -> None:
    with Serving("--backend", "nvml", "--nvml-library", "/nowhere.so") as serving:
        config = replace(PLAIN, host="127.0.0.1", port=serving.port)
        assert found(node_steps(config, HERE), "ports")[0] == (
            f"warning: --port {serving.port}: an instance serves there, and is not ready"
        )


def forbidden() -> int:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize(
    ("state", "says"),
    [
        pytest.param(lambda: 0, "ok: the kernel's clock is kept right", id="it is kept right"),
        pytest.param(lambda: 5, "warning: nothing keeps this machine's clock right", id="nothing does"),
        pytest.param(forbidden, "skipped: the kernel does not tell", id="the runtime forbids the question"),
    ],
)
def test_the_kernel_is_asked_for_its_clock(state: Callable[[], int], says: str) -> None:
    [finding] = found(node_steps(PLAIN, replace(HERE, clock_state=state)), "clock")
    assert finding.startswith(says)


def test_this_very_kernel_can_be_asked() -> None:
    [finding] = found(node_steps(PLAIN, replace(HERE, clock_state=Machine().clock_state)), "clock")
    assert finding.partition(":")[0] in ("ok", "warning", "skipped")


# ---- certificates ----


def of(authority: Authority, name: str = "server", peer: str | None = NAME, **how: Any) -> Config:
    pair, ca = authority.issue(name, **how), str(authority.certificate)
    return replace(
        PLAIN, tls_cert=str(pair.certificate), tls_key=str(pair.key), tls_ca=ca, tls_client_ca=ca, tls_peer_name=peer
    )


def certificates(config: Config, later: timedelta = timedelta()) -> list[str]:
    return found(certificate_steps(config, lambda: datetime.now(UTC) + later))


def test_without_tls_nothing_is_looked_at() -> None:
    assert certificates(PLAIN) == ["skipped: no --tls-cert is named, so instances and KEDA speak without TLS"]


def test_certificates_that_are_good(tmp_path: Path) -> None:
    dates = certificates(of(Authority(tmp_path), days=90))
    assert dates[0].startswith("ok: --tls-cert: ")
    assert re.search(r"is good for (89|90) days more, until \d{4}-\d\d-\d\d \d\d:\d\d UTC$", dates[0])
    assert dates[-1] == f"ok: two instances with these files believe each other as {NAME}"


def test_an_end_that_is_near_is_a_warning_and_one_that_is_past_a_problem(tmp_path: Path) -> None:
    config = of(Authority(tmp_path), days=30)
    ours = [certificates(config, timedelta(days=days))[0] for days in (0, 20, 31, -2)]
    assert [one.partition(": ")[0] for one in ours] == ["ok", "warning", "problem", "problem"]
    assert " expires in 9 days" in ours[1] or " expires in 10 days" in ours[1]
    assert " has expired at " in ours[2]
    assert " begins to be good at " in ours[3]


def test_dates_are_those_that_openssl_reads(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("server", days=47)
    [found] = validities(pair.certificate.read_bytes())
    assert found.ends - found.begins == timedelta(days=47)
    assert abs(datetime.now(UTC) - found.begins) < timedelta(minutes=10)


def test_a_chain_ends_with_its_first_end_and_authorities_with_their_last(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    config = of(authority, days=90)
    short = authority.issue("short", days=3)
    for path in (config.tls_cert, config.tls_ca):
        assert path is not None
        Path(path).write_bytes(Path(path).read_bytes() + short.certificate.read_bytes())
    ours, theirs, _, _ = certificates(config)
    assert ours.startswith("warning: --tls-cert: ")
    assert "expires in 2 days" in ours
    assert re.search(r"expires in (1|2|3) days", theirs)  # the authority's own certificate has two days


@pytest.mark.parametrize(
    ("how", "says"),
    [
        pytest.param({"host": "other.svc"}, "a client finds that the certificate is not good: Hostname", id="its name"),
        pytest.param({"usage": "serverAuth"}, "a server finds that the certificate is not good: ", id="no client may"),
        pytest.param({"usage": "clientAuth"}, "a client finds that the certificate is not good: ", id="no server may"),
        pytest.param({"days": -1}, "a client finds that the certificate is not good: ", id="expired"),
    ],
)
def test_a_certificate_that_would_not_be_believed(how: dict[str, Any], says: str, tmp_path: Path) -> None:
    last = certificates(of(Authority(tmp_path), **how))[-1]
    assert last.startswith(f"problem: two instances with these files would not speak: {says}")


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    other = replace(of(authority), tls_key=str(authority.issue("other").key))
    assert certificates(other)[-1] == "problem: the files cannot be used: key values mismatch"
    stranger = replace(of(authority), tls_ca=str(Authority(tmp_path, "stranger").certificate))
    assert "would not speak: a client finds that" in certificates(stranger)[-1]


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    config = of(Authority(tmp_path))
    (tmp_path / "odd.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    odd = certificates(replace(config, tls_cert=str(tmp_path / "odd.pem"), tls_ca=str(tmp_path / "none.pem")))
    assert odd[0] == f"problem: --tls-cert: {tmp_path}/odd.pem: it is no certificate"
    assert odd[1] == f"problem: --tls-ca: cannot read {tmp_path}/none.pem: no such file or directory"


def der(tag: int, content: bytes) -> bytes:
    return bytes((tag, len(content))) + content


DATES = der(0x17, b"250101000000Z") + der(0x18, b"20490101000000Z")
SMALLEST = der(0x30, der(0x30, der(2, b"7") + der(0x30, b"") + der(0x30, b"") + der(0x30, DATES)))


def test_both_ways_of_writing_a_time_are_read() -> None:
    found = validity(SMALLEST)
    assert (found.begins, found.ends) == (datetime(2025, 1, 1, tzinfo=UTC), datetime(2049, 1, 1, tzinfo=UTC))


@given(bent=st.dictionaries(st.integers(0, len(SMALLEST) - 1), st.integers(0, 255)), end=st.integers(0, len(SMALLEST)))
def test_bytes_that_are_no_certificate_are_a_sentence(bent: dict[int, int], end: int) -> None:
    bytes_ = bytes(bent.get(place, byte) for place, byte in enumerate(SMALLEST[:end]))
    with suppress(CertificateError):
        assert validity(bytes_).begins.tzinfo is UTC


def test_what_ends_before_it_says_is_no_certificate() -> None:
    with pytest.raises(CertificateError):
        validity(bytes((SMALLEST[0], SMALLEST[1] + 5)) + SMALLEST[2:])


@given(st.binary(max_size=300))
def test_any_bytes_are_a_sentence(data: bytes) -> None:
    with pytest.raises(CertificateError, match="it is no certificate"):
        validity(data)


# ---- a cluster ----


class FakeCluster(FakeApiServer):
    """An API server that also greets and reviews.

    Whoever asks has every right but those ``denied``, by verb, resource and namespace; ``reviews`` are those that were
    asked for, by their kind and user. ``may_review`` says whether of somebody else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.denied: set[tuple[str, str, str]] = set()
        self.reviews: list[tuple[str, str]] = []
        self.may_review = True
        self.tells_time = True

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        app.on_response_prepare.append(self._date)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        assert self._runner.addresses
        self.port = self._runner.addresses[0][1]

    async def _date(self, request: web.Request, response: web.StreamResponse) -> None:
        if not self.tells_time:
            response.headers["Date"] = "some day"

    async def _route(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/version":
            return web.json_response({"gitVersion": "v1.34.1"})
        if request.method != "POST":
            return await super()._route(request)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"message": "Unauthorized"}, status=401)
        return await self._review(request)

    async def _review(self, request: web.Request) -> web.Response:
        review = await request.json()
        kind, spec = review["kind"], review["spec"]
        assert request.path == f"/apis/authorization.k8s.io/v1/{kind.lower()}s"
        assert review["apiVersion"] == "authorization.k8s.io/v1"
        self.reviews.append((kind, spec.get("user", "")))
        if kind == "SubjectAccessReview" and not self.may_review:
            return web.json_response({"message": "subjectaccessreviews is forbidden"}, status=403)
        wanted = spec["resourceAttributes"]
        assert set(wanted) == {"verb", "group", "resource", "subresource", "namespace"}
        resource = "/".join(filter(None, (wanted["resource"], wanted["subresource"])))
        allowed = (wanted["verb"], resource, wanted["namespace"]) not in self.denied
        return web.json_response({**review, "status": {"allowed": allowed}}, status=201)

    # ---- what stands in it ----

    def keda(self, image: str = "ghcr.io/kedacore/keda:2.20.1", ready: int = 1, **labels: str) -> None:
        self.put(
            "deployments", "keda-operator", "keda",
            metadata={"labels": labels or {"app": "keda-operator"}},
            spec={"template": {"spec": {"containers": [{"image": image}]}}},
            status={"readyReplicas": ready},
        )  # fmt: skip

    def names_us(
        self,
        name: str,
        *,
        ready: str = "True",
        active: str = "True",
        said: str = "",
        fallback: str = "False",
        paused: str = "False",
        **metadata: str,
    ) -> None:
        self.scaled_object(name, resolved=True, **{**SOUND, **metadata})
        conditions = [
            {"type": "Ready", "status": ready, "message": said},
            {"type": "Active", "status": active},
            {"type": "Fallback", "status": fallback},
            {"type": "Paused", "status": paused},
        ]
        before = self._objects["scaledobjects", "ai", name]
        spec, status = {**before["spec"], "minReplicaCount": 1}, {**before["status"], "conditions": conditions}
        self.put("scaledobjects", name, "ai", spec=spec, status=status)

    def agents(self, addresses: Mapping[str, int]) -> None:
        """Let the agents of these nodes be at these ports of 127.0.0.1, each in a slice of its own."""
        for node, port in addresses.items():
            self.put(
                "endpointslices", node, "gpu",
                metadata={"labels": {"kubernetes.io/service-name": "keda-gpu-scaler-agents"}},
                ports=[{"name": "grpc", "port": port, "protocol": "TCP"}],
                endpoints=[{"addresses": ["127.0.0.1"], "nodeName": node, "targetRef": {"uid": node}}],
            )  # fmt: skip

    def node(self, name: str, **allocatable: str) -> None:
        counts = {
            kind.replace("_", "/", 1).replace("nvidia/", "nvidia.com/"): count for kind, count in allocatable.items()
        }
        self.put("nodes", name, "", status={"allocatable": {"cpu": "8", **counts}})


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster() as server:
        yield server


async def nowhere(host: str) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def loopback(host: str) -> list[str]:
    assert host == "keda-gpu-scaler.gpu.svc.cluster.local"
    return ["127.0.0.1"]


INSIDE = World(is_inside=True, resolve=nowhere)
OUTSIDE = World(is_inside=False)


def examined(cluster: FakeCluster, *names: str, world: World = INSIDE, here: Installation = THEM) -> list[str]:
    async def all_of_them() -> list[Finding]:
        return [finding async for finding in examine(cluster.access, here, world, lambda title: None)]

    return told(asyncio.run(all_of_them()), *names)


def test_an_api_server_tells_its_version_and_the_time(cluster: FakeCluster) -> None:
    assert examined(cluster, "api", "clock") == [
        f"ok: v1.34.1 at {cluster.url}",
        "ok: this machine's clock and the API server's agree",
    ]


@pytest.mark.parametrize(("shift", "says"), [(63.0, "63 s ahead of"), (-3600.0, "3600 s behind")])
def test_a_clock_that_is_off_is_told_from_the_api_servers(cluster: FakeCluster, shift: float, says: str) -> None:
    world = replace(INSIDE, unix_clock=lambda: datetime.now(UTC).timestamp() + shift)
    [finding] = examined(cluster, "clock", world=world)
    seconds = int(re.search(r"(\d+) s", finding)[1])  # type: ignore[index]
    assert abs(seconds - abs(shift)) <= 2
    assert finding.startswith("warning: this machine's clock is ")
    assert says.partition(" s ")[2] in finding


def test_a_time_that_is_none_is_no_skew(cluster: FakeCluster) -> None:
    cluster.tells_time = False
    assert examined(cluster, "clock") == ["skipped: the API server does not tell what time it is there"]


def test_an_api_server_that_is_not_there_ends_it(cluster: FakeCluster) -> None:
    cluster.stop()
    [finding] = examined(cluster)
    assert finding.startswith(f"problem: the API server {cluster.url} does not answer: ")


@pytest.mark.parametrize(
    ("image", "says"),
    [
        pytest.param("ghcr.io/kedacore/keda:2.20.1", "ok: keda/keda-operator is KEDA 2.20, which reads f", id="new"),
        pytest.param(
            "registry:5000/keda:v2.17.0@sha256:0", "ok: keda/keda-operator is KEDA 2.17", id="by tag and digest"
        ),
        pytest.param("keda:2.16.1", "warning: keda/keda-operator is KEDA 2.16, which reads whole numbers", id="old"),
        pytest.param("keda:2.9.3", "warning: keda/keda-operator is KEDA 2.9, ", id="much older, though 9 is above 1"),
        pytest.param("registry:5000/keda@sha256:0", "skipped: keda/keda-operator: its version cannot", id="no tag"),
        pytest.param("keda:main", "skipped: keda/keda-operator: its version cannot be told", id="a tag that is none"),
    ],
)
def test_kedas_version_is_that_of_its_image(cluster: FakeCluster, image: str, says: str) -> None:
    cluster.keda(image)
    [finding] = examined(cluster, "keda")
    assert finding.startswith(says)


def test_kedas_version_stands_on_its_label_too(cluster: FakeCluster) -> None:
    labels = {"app.kubernetes.io/name": "keda-operator", "app.kubernetes.io/version": "2.18.3"}
    cluster.keda("keda@sha256:0", 0, **labels)
    assert examined(cluster, "keda") == [
        "ok: keda/keda-operator is KEDA 2.18, which reads fractions",
        "problem: keda/keda-operator has no ready pod",
    ]


def test_keda_that_is_not_there(cluster: FakeCluster) -> None:
    cluster.uninstall("scaledobjects")
    assert examined(cluster, "keda", "workloads") == [
        "warning: no Deployment of KEDA's operator is found by its labels (app: keda-operator)",
        "problem: the API server knows no ScaledObjects",
    ]


def test_workloads_that_name_us_and_are_well(cluster: FakeCluster) -> None:
    cluster.names_us("llama")
    cluster.names_us("mistral", active="False", paused="Unknown", fallback="Unknown")
    cluster.scaled_object("another", scalerAddress="other-scaler.gpu.svc.cluster.local:6000")
    cluster.scaled_object("elsewhere", scalerAddress="keda-gpu-scaler.keda.svc.cluster.local:6000")
    assert examined(cluster, "workloads") == ["ok: 2 of 2 ScaledObjects that name us are ready, 1 active"]


def test_nobody_names_us(cluster: FakeCluster) -> None:
    assert examined(cluster, "workloads") == ["skipped: no ScaledObject names keda-gpu-scaler.gpu.svc.cluster.local"]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        pytest.param(
            {"ready": "False", "said": "Triggers defined in ScaledObject are not well"},
            "problem: ai/llama: KEDA does not call it ready: Triggers defined in ScaledObject are not well",
            id="it is not ready",
        ),
        pytest.param({"paused": "True"}, "warning: ai/llama: it is paused", id="it is paused"),
        pytest.param({"fallback": "True"}, "warning: ai/llama: KEDA uses its fallback", id="its fallback is in use"),
        pytest.param({"ready": "Unknown"}, "problem: ai/llama: KEDA does not call it ready", id="KEDA does not know"),
        pytest.param(
            {"scalerAddress": "keda-gpu-scaler-agents.gpu.svc:6000"},
            "problem: ai/llama: scalerAddress keda-gpu-scaler-agents.gpu.svc:6000 is the agents' headless Service",
            id="it names the headless Service",
        ),
        pytest.param(
            {"targetValue": "eighty"},
            'problem: ai/llama: metadata.targetValue: Invalid value: "eighty"',
            id="its metadata is wrong",
        ),
    ],
)
def test_a_workload_that_is_not_well(cluster: FakeCluster, how: dict[str, str], says: str) -> None:
    cluster.names_us("llama", **how)
    assert examined(cluster, "workloads")[0].startswith(says)


def test_many_that_are_unwell_are_counted(cluster: FakeCluster) -> None:
    for number in range(25):
        cluster.names_us(f"llama-{number:02}", ready="False")
    findings = examined(cluster, "workloads")
    assert (len(findings), findings[-1]) == (21, "problem: and 5 more")


def test_the_worst_is_not_what_is_left_out(cluster: FakeCluster) -> None:
    for number in range(25):
        cluster.names_us(f"llama-{number:02}", paused="True")
    cluster.names_us("zephyr", ready="False")
    findings = examined(cluster, "workloads")
    assert findings[0] == "problem: ai/zephyr: KEDA does not call it ready"
    assert findings[-2:] == [
        "warning: and 6 more",
        "ok: 25 of 26 ScaledObjects that name us are ready, 26 active",
    ]


# ---- rights ----


def test_every_right_is_reviewed(cluster: FakeCluster) -> None:
    assert examined(cluster, "rights") == ["ok: whoever asks here has 17 rights of those that are needed"]
    assert cluster.reviews == [("SelfSubjectAccessReview", "")] * 17


def test_from_outside_the_service_accounts_rights_are_reviewed(cluster: FakeCluster) -> None:
    assert examined(cluster, "rights", world=OUTSIDE) == [
        "ok: service account keda-gpu-scaler of gpu has 17 rights of those that are needed"
    ]
    assert set(cluster.reviews) == {("SubjectAccessReview", "system:serviceaccount:gpu:keda-gpu-scaler")}


def test_who_may_not_review_others_is_told_how_to_ask(cluster: FakeCluster) -> None:
    cluster.may_review = False
    assert examined(cluster, "rights", world=OUTSIDE) == ["skipped: you may not ask what gpu:keda-gpu-scaler may"]


def test_the_rights_that_are_reviewed_are_those_that_the_chart_grants() -> None:
    granted = set()
    for document in yaml.safe_load_all((HOME / "deploy" / "manifests.yaml").read_text()):
        if document["kind"] not in ("Role", "ClusterRole"):
            continue
        for rule in document["rules"]:
            for group in rule["apiGroups"]:
                granted |= {(group, resource, verb) for resource in rule["resources"] for verb in rule["verbs"]}
    reviewed = {
        (group, resource, verb)
        for group, resource, verbs in (*GRANTED, GRANTED_BESIDE_US, GRANTED_ON_NODES)
        for verb in verbs
    }
    assert reviewed == granted


@pytest.mark.parametrize(
    ("denied", "says"),
    [
        pytest.param(
            {("list", "pods", ""), ("watch", "pods", "")},
            "problem: may not list and watch pods in the whole cluster",
            id="a right that everybody needs",
        ),
        pytest.param(
            {("get", "deployments/scale", "")},
            "problem: may not get deployments.apps/scale in the whole cluster",
            id="a subresource",
        ),
        pytest.param(
            {("watch", "endpointslices", "gpu")},
            "problem: may not watch endpointslices.discovery.k8s.io in namespace gpu",
            id="a right beside us",
        ),
        pytest.param(
            {("create", "events", "")},
            "warning: may not create events in the whole cluster",
            id="a right that answers do without",
        ),
        pytest.param(
            {("list", "nodes", ""), ("watch", "nodes", "")},
            "skipped: may not list and watch nodes in the whole cluster, which triggers with a nodeSelector alone need",
            id="a right that nobody uses",
        ),
    ],
)
def test_a_right_that_is_lacking(cluster: FakeCluster, denied: set[tuple[str, str, str]], says: str) -> None:
    cluster.denied = denied
    assert examined(cluster, "rights")[0] == says


def test_nodes_are_needed_by_whoever_selects_them(cluster: FakeCluster) -> None:
    cluster.denied = {("list", "nodes", "")}
    cluster.names_us("llama", nodeSelector="pool=a")
    assert examined(cluster, "rights")[0].startswith("problem: may not list nodes in the whole cluster, and a trigger")


def test_rights_in_a_namespace_are_enough_for_it(cluster: FakeCluster) -> None:
    cluster.names_us("llama")
    cluster.denied = {("list", "pods", ""), ("list", "pods", "b")}
    assert examined(cluster, "rights") == ["ok: whoever asks here has 16 rights of those that are needed"]
    here = replace(THEM, workload_namespaces=("ai", "b"))
    assert examined(cluster, "rights", here=here)[0] == "problem: may not list pods in namespace b"


def test_a_scale_target_of_another_kind_needs_its_own_rights(cluster: FakeCluster) -> None:
    cluster.scaled_object("llama", kind="Rollout", api_version="argoproj.io/v1alpha1", **SOUND)
    cluster.denied = {("get", "rollouts/scale", ""), ("get", "rollouts/scale", "ai")}
    assert examined(cluster, "rights")[0] == "problem: may not get rollouts.argoproj.io/scale in namespace ai"


def test_what_may_not_be_listed_is_skipped(cluster: FakeCluster) -> None:
    for resource in ("deployments", "scaledobjects"):
        cluster.forbid("list", resource)
    assert examined(cluster, "keda", "workloads") == [
        "skipped: you may not list Deployments here",
        "skipped: you may not list ScaledObjects here",
    ]


# ---- the Service and the agents ----


def test_a_name_that_cannot_be_resolved(cluster: FakeCluster) -> None:
    assert examined(cluster, "service") == [
        "problem: keda-gpu-scaler.gpu.svc.cluster.local cannot be resolved: name or service not known"
    ]
    assert examined(cluster, "service", world=OUTSIDE) == [
        "skipped: keda-gpu-scaler.gpu.svc.cluster.local is a name within the cluster"
    ]


def test_nothing_answers_behind_the_service(cluster: FakeCluster) -> None:
    port = free_port()
    findings = examined(cluster, "service", world=World(is_inside=True, resolve=loopback, port=port))
    assert findings == [
        "ok: keda-gpu-scaler.gpu.svc.cluster.local is 127.0.0.1",
        f"problem: nothing of ours answers at keda-gpu-scaler.gpu.svc.cluster.local:{port}",
    ]


def test_agents_are_not_there(cluster: FakeCluster) -> None:
    cluster.node("gpu-7", nvidia_gpu="8")
    assert examined(cluster, "agents", "peers", "nodes") == [
        "problem: the headless Service gpu/keda-gpu-scaler-agents has no endpoint",
        "warning: 1 node with accelerators and without an agent: gpu-7",
    ]


def test_agents_may_not_be_looked_for(cluster: FakeCluster) -> None:
    cluster.forbid("list", "endpointslices")
    [finding] = examined(cluster, "agents", "peers", "nodes")
    assert finding.startswith("problem: the API server forbids to list and watch endpointslices.discovery.k8s.io")


def test_a_live_fleet_is_well_and_one_that_is_gone_is_named(cluster: FakeCluster) -> None:
    gone = free_port()
    for node in ("gpu-7", "gpu-8", "gpu-9"):
        cluster.node(node, nvidia_gpu="8")
    cluster.node("cpu-1", nvidia_gpu="0")
    arguments = ("--backend", "synthetic", "--pod-resources", "off")
    with (
        Serving(*arguments, "--node-name", "gpu-7") as seven,
        Serving(*arguments, "--node-name", "gpu-8") as eight,
        Serving("--backend", "none", "--node-name", "front") as front,
    ):
        for one in (seven, eight):
            one.value_in_the_end(scope="node")
        cluster.agents({"gpu-7": seven.port, "gpu-8": eight.port, "gpu-9": gone})
        world = World(is_inside=True, resolve=loopback, port=front.port)
        findings = examined(cluster, "service", "agents", "peers", "nodes", world=world)
    assert findings[1].startswith(f"ok: keda-gpu-scaler.gpu.svc.cluster.local:{front.port} serves; ")
    assert findings[2] == "ok: the headless Service gpu/keda-gpu-scaler-agents has 3 endpoints"
    assert findings[3].startswith(f"problem: node gpu-9 (127.0.0.1:{gone}): UNAVAILABLE: ")
    assert re.fullmatch(r"ok: 2 of 3 agents tell 16 devices; the oldest snapshot is \d\.\d s old", findings[4])
    assert findings[5:] == ["ok: each of 3 nodes with accelerators has an agent"]


def test_a_fleet_with_tls_is_asked_with_its_certificates(cluster: FakeCluster, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, ca = authority.issue("instance", host=THEM.host), str(authority.certificate)
    files = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), "--tls-ca", ca, "--tls-client-ca", ca)
    own = own_pair(str(pair.certificate), str(pair.key))
    assert own is not None
    tls = ClientTls(Pem("--tls-ca", authority.certificate), *own, THEM.host)
    arguments = ("--backend", "synthetic", "--pod-resources", "off", "--node-name", "gpu-7")
    with Serving(*arguments, *files, "--tls-peer-name", THEM.host, tls=tls) as serving:
        serving.value_in_the_end(scope="node")
        cluster.agents({"gpu-7": serving.port})
        world = World(is_inside=True, resolve=loopback, port=serving.port)
        known, strange = (examined(cluster, "service", "peers", world=replace(world, tls=one)) for one in (tls, None))
    assert known[1].startswith(f"ok: {THEM.host}:{serving.port} serves; ")
    assert known[2].startswith("ok: 1 of 1 agents tell 8 devices")
    assert [one.partition(":")[0] for one in strange] == ["ok", "problem", "problem"]


def test_pods_that_are_not_reached_from_outside_are_not_called_broken(cluster: FakeCluster) -> None:
    cluster.agents({"gpu-7": free_port()})
    assert examined(cluster, "peers", world=OUTSIDE) == ["skipped: pods' addresses are not reached from here"]


@contextmanager
def telling(message: bytes) -> Iterator[int]:
    """An agent that says this to whoever watches; its port."""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            if details.method != WATCH:
                return None
            return grpc.unary_stream_rpc_method_handler(lambda request, context: iter((message,)))

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def update(node: str = "gpu-7", age: float = 0.5, wall: float = NOW, **more: Any) -> bytes:
    """An update whose snapshot was taken ``age`` seconds before ``wall`` by its node's clock."""
    samples = (Sample(Device("GPU-a", 0, "NVIDIA L4"), memory_used_bytes=1),)
    snapshot = Snapshot(node, 1, 5.0, wall - age, "nvml", samples)
    told = pb.Update(instance="x", age_seconds=age, snapshot=encode(snapshot).encode(), **more)
    whole: bytes = told.SerializeToString()
    return whole


@pytest.mark.parametrize(
    ("message", "says"),
    [
        pytest.param(update(), "ok: 1 of 1 agents tell 1 device; the oldest snapshot is 0.5 s old", id="well"),
        pytest.param(
            update(age=41.0), "problem: node gpu-7 (127.0.0.1:PORT): its snapshot is 41 s old (limit 10 s)", id="stale"
        ),
        pytest.param(
            update(wall=NOW + 90), "warning: node gpu-7: its clock is 90 s ahead of this machine's", id="a fast clock"
        ),
        pytest.param(
            update(wall=NOW - 90), "warning: node gpu-7: its clock is 90 s behind this machine's", id="a slow clock"
        ),
        pytest.param(
            update(node="other"),
            "problem: 127.0.0.1:PORT says that it is node other, and it runs on node gpu-7",
            id="another node's name",
        ),
        pytest.param(
            update(failure="the driver hangs"), "problem: node gpu-7 (127.0.0.1:PORT): the driver hangs", id="a failure"
        ),
        pytest.param(
            pb.Update(instance="x").SerializeToString(),
            "problem: node gpu-7 (127.0.0.1:PORT): it has no snapshot yet",
            id="no snapshot yet",
        ),
        pytest.param(
            pb.Update(instance="x", deviceless=True).SerializeToString(),
            "ok: 1 of 1 agents tell 0 devices; the oldest snapshot is 0.0 s old",
            id="no device by design",
        ),
        pytest.param(
            pb.Update(instance="x", snapshot=b"{}").SerializeToString(),
            "problem: node gpu-7 (127.0.0.1:PORT): what it tells cannot be read: ",
            id="nonsense",
        ),
        pytest.param(
            b"\xff", "problem: node gpu-7 (127.0.0.1:PORT): what it tells cannot be read: ", id="another protocol"
        ),
    ],
)
def test_what_an_agent_tells_is_judged(cluster: FakeCluster, message: bytes, says: str) -> None:
    with telling(message) as port:
        cluster.agents({"gpu-7": port})
        first = examined(cluster, "peers", world=replace(INSIDE, unix_clock=lambda: NOW))[0]
    assert first.startswith(says.replace("PORT", str(port)))


def test_two_agents_of_one_name_are_told(cluster: FakeCluster) -> None:
    with telling(update()) as one, telling(update()) as other:
        cluster.agents({"gpu-7": one, "gpu-8": other})
        findings = examined(cluster, "peers", world=replace(INSIDE, unix_clock=lambda: NOW))
    assert "problem: 2 agents say that they are node gpu-7" in findings


def test_the_command_examines_a_cluster_by_its_kubeconfig(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.keda()
    cluster.names_us("llama")
    kubeconfig = str(cluster.kubeconfig(tmp_path / "config"))
    with telling(update(wall=datetime.now(UTC).timestamp())) as port:
        cluster.agents({"gpu-7": port})
        result = run("--kubeconfig", kubeconfig, "--namespace", "gpu", "--format", "json")
    findings = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.exit_code, result.stderr) == (0, "")
    assert [(one["check"], one["outcome"]) for one in findings] == [
        ("api", "ok"),
        ("clock", "ok"),
        ("keda", "ok"),
        ("workloads", "ok"),
        ("rights", "ok"),
        ("service", "skipped"),
        ("agents", "ok"),
        ("peers", "ok"),
        ("nodes", "skipped"),
    ]


def test_pages_of_a_list_are_all_read(cluster: FakeCluster) -> None:
    from keda_gpu_scaler.kube.reflector import ResourceQuery

    cluster.page_limit = 2
    for number in range(5):
        cluster.pod(f"pod-{number}")

    async def listed() -> list[str]:
        api = AccessReviewer(cluster.access)
        try:
            return [str(item["metadata"]["name"]) for item in await api.items(ResourceQuery("pods"))]
        finally:
            await api.close()

    assert asyncio.run(listed()) == [f"pod-{number}" for number in range(5)]
