# SPDX-License-Identifier: Apache-2.0
"""Measures how long one command takes to name the cause in broken situations.

Run it with ``python -m benchmarks.bench_broken``; name words of situations as arguments to measure only these. Each
situation has real instances, kubelets and engines, and the API server of the tests. The command runs as on a laptop:
with a kubeconfig, and in a process of its own.

Law: a figure is printed only if the cause is within the first five lines of every output.
"""

import contextlib
import http.server
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab import Figure, Serve, in_milliseconds, run_alone
from tests.apiserver import FakeApiServer
from tests.certificates import NAME, Authority, Pair
from tests.kubelet import FakeKubelet

TITLE = "One command that names the cause in its first five lines, from exec to exit; medians (lowest to highest)"
ROUNDS = 5
LIMIT_SECONDS = 5.0
LINES = 5
CALLED, OTHER = "gpu-7", "gpu-8"
ENGINE_PORT = 18123
_ARRANGED_SECONDS = 60.0
_PROGRAM = (sys.executable, "-m", "keda_gpu_scaler")
# gRPC compares deadlines with the clock of the machine, so its own modules get the right time.
_LATE = """\
import sys, time
real = time.time
time.time = lambda: real() - (0.0 if sys._getframe(1).f_globals["__name__"].startswith("grpc") else 3600.0)
"""
_LOG = "timestamp, index, uuid, name, utilization.gpu [%]"
_FILE = """\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: llama, namespace: ai}
spec:
  scaleTargetRef: {name: llama}
  minReplicaCount: 1
  triggers:
    - type: external
      metadata: {scalerAddress: "keda-gpu-scaler.keda.svc.cluster.local:6000", targetValu: "60"}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a command: its wall and CPU seconds, and its output, in which it may have ended with an error."""

    seconds: float
    cpu_seconds: float
    output: str

    def names(self, cause: str) -> bool:
        """Whether the cause is within the first lines; a line break may be within the words."""
        return re.search(cause, " ".join(" ".join(self.output.splitlines()[:LINES]).split())) is not None


def _cpu_of_ended_processes() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class BrokenFleet:
    """ai/llama with a pod on each of two nodes, and an instance on each; inside a ``with`` block.

    The command calls the instance of the first node, which follows the other one.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="broken-")))
        self.server = stack.enter_context(FakeApiServer())
        self.environment = {
            **os.environ, "HOME": str(self.folder), "COLUMNS": "80",
            "KUBECONFIG": str(self.server.kubeconfig(self.folder / "kubeconfig")),
        }  # fmt: skip

    def instance(self, node: str, *flags: str, is_late: bool = False) -> Serve:
        """Start an instance whose device is held by the pod of its node; ``is_late``: its clock is an hour behind."""
        log, number = self.folder / f"{node}.csv", node[-1]
        rows = [f"2026/01/01 00:00:0{second}.000, 0, GPU-{node}, NVIDIA H100, 60 %" for second in range(2)]
        log.write_text("\n".join((_LOG, *rows)) + "\n")
        kubelet = self.stack.enter_context(FakeKubelet(self.folder / f"{node}.sock"))
        kubelet.hold({f"llama-{number}": [f"GPU-{node}"]})
        environment = {}
        if is_late:
            late = self.folder / "late"
            late.mkdir()
            (late / "sitecustomize.py").write_text(_LATE)
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(late), os.environ.get("PYTHONPATH"))))
        cluster = ("--node-name", node, "--pod-resources", str(kubelet.path), "--peers", "kubernetes")
        access = ("--kubeconfig", self.environment["KUBECONFIG"], "--allow-endpoints", "127.0.0.0/8")
        serve = Serve(None, "--backend", f"replay:{log}", *cluster, *access, *flags, environment=environment)
        self.stack.enter_context(serve)
        serve.wait_until_it_listens()
        self.server.put(
            "endpointslices", node, "gpu",
            metadata={"labels": {"kubernetes.io/service-name": "keda-gpu-scaler-agents"}},
            ports=[{"name": "grpc", "port": int(serve.address.rpartition(":")[2]), "protocol": "TCP"}],
            endpoints=[{"addresses": ["127.0.0.1"], "nodeName": node, "targetRef": {"uid": node}}],
        )  # fmt: skip
        return serve

    def install(self, called: Serve, **trigger: str) -> None:
        """Create the workload and its pods, and the Service with the instance that is called."""
        address = f"{NAME}:6000"
        self.server.scale("llama", 2)
        self.server.scaled_object("llama", scalerAddress=address, **trigger)  # type: ignore[arg-type]
        for number, node in enumerate((CALLED, OTHER)):
            self.server.pod(f"llama-{node[-1]}", node, address=f"127.0.0.{number + 2}")
        self.server.pod(f"scaler-{CALLED}", CALLED, namespace="keda")
        self.server.forwards["keda", f"scaler-{CALLED}", 6000] = int(called.address.rpartition(":")[2])
        self.server.put(
            "endpointslices", "keda-gpu-scaler-1", "keda",
            metadata={"labels": {"kubernetes.io/service-name": "keda-gpu-scaler"}},
            ports=[{"name": "grpc", "port": 6000, "protocol": "TCP"}],
            endpoints=[{
                "addresses": ["10.0.0.1"], "conditions": {"ready": True}, "nodeName": CALLED,
                "targetRef": {"kind": "Pod", "name": f"scaler-{CALLED}"},
            }],
        )  # fmt: skip

    def stop_forever(self, instance: Serve) -> None:
        """Let an instance hang until the end of the ``with`` block."""
        instance.send_signal(signal.SIGSTOP)
        self.stack.callback(instance.send_signal, signal.SIGCONT)

    def both(self, *, is_late: bool = False, flags: Sequence[str] = ()) -> tuple[Serve, Serve]:
        """Start both instances and install them; return the one that is called, and the other one."""
        other = self.instance(OTHER, *flags, is_late=is_late)
        called = self.instance(CALLED, *flags)
        self.install(called)
        return called, other

    def run(self, *words: str) -> "Run":
        """Run a command of the program."""
        began, cpu = time.monotonic(), _cpu_of_ended_processes()
        outcome = subprocess.run(
            (*_PROGRAM, *words), env=self.environment, cwd=self.folder, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return Run(time.monotonic() - began, _cpu_of_ended_processes() - cpu, outcome.stdout)

    def engine(self, address: str) -> None:
        """Start an HTTP server without a page."""

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer((address, ENGINE_PORT), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.stack.callback(server.shutdown)


@dataclass(frozen=True, slots=True)
class Situation:
    """A broken situation: what breaks a fleet and returns the command to run, and the cause that it must name."""

    what: str
    arrange: Callable[[BrokenFleet], tuple[str, ...]]
    cause: str


EXPLAIN = ("explain", "ai/llama")


def _agent_has_ended(fleet: BrokenFleet) -> tuple[str, ...]:
    _, other = fleet.both()
    _until(fleet, EXPLAIN, _HEALTHY)
    other.kill()
    return EXPLAIN


def _agent_hangs(fleet: BrokenFleet) -> tuple[str, ...]:
    _, other = fleet.both()
    _until(fleet, EXPLAIN, _HEALTHY)
    fleet.stop_forever(other)
    return EXPLAIN


def _called_has_ended(fleet: BrokenFleet) -> tuple[str, ...]:
    called, _ = fleet.both()
    called.kill()
    return EXPLAIN


def _called_hangs(fleet: BrokenFleet) -> tuple[str, ...]:
    called, _ = fleet.both()
    fleet.stop_forever(called)
    return EXPLAIN


def _engine_answers_404(fleet: BrokenFleet) -> tuple[str, ...]:
    trigger = {"metricType": "queue_depth", "engine": "vllm", "targetValue": "10"}
    fleet.install(fleet.instance(CALLED), enginePort=str(ENGINE_PORT), **trigger)
    for number in (2, 3):
        fleet.engine(f"127.0.0.{number}")
    return EXPLAIN


def _key_is_misspelt(fleet: BrokenFleet) -> tuple[str, ...]:
    fleet.install(fleet.instance(CALLED), profile="triton-inference", targetValu="60")
    return EXPLAIN


def _key_in_a_file_is_misspelt(fleet: BrokenFleet) -> tuple[str, ...]:
    (fleet.folder / "llama.yaml").write_text(_FILE)
    return ("validate", "llama.yaml")


def _clock_is_late(fleet: BrokenFleet) -> tuple[str, ...]:
    fleet.both(is_late=True)
    return EXPLAIN


class _Secured:
    """A CA, an expired certificate and a valid one of the instances, and one of the person."""

    def __init__(self, folder: Path) -> None:
        self._ca = Authority(folder)
        self.expired, self.valid = self._ca.issue("expired", days=-1), self._ca.issue("valid")
        self._mine = self._ca.issue("mine", usage="clientAuth", host="mine")

    def flags(self, pair: Pair) -> tuple[str, ...]:
        known = ("--tls-client-ca", str(self._ca.certificate), "--tls-peer-name", NAME, "--tls-explain-names", "mine")
        return ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), *known)

    @property
    def explain(self) -> tuple[str, ...]:
        own = ("--tls-cert", str(self._mine.certificate), "--tls-key", str(self._mine.key))
        return (*EXPLAIN, "--tls-ca", str(self._ca.certificate), *own)


def _certificate_of_the_called_has_expired(fleet: BrokenFleet) -> tuple[str, ...]:
    secured = _Secured(fleet.folder)
    fleet.both(flags=secured.flags(secured.expired))
    return secured.explain


def _certificate_of_the_agent_has_expired(fleet: BrokenFleet) -> tuple[str, ...]:
    secured = _Secured(fleet.folder)
    fleet.instance(OTHER, *secured.flags(secured.expired))
    fleet.install(fleet.instance(CALLED, *secured.flags(secured.valid)))
    return secured.explain


_HEALTHY = "2 of 2 ready pods"
_GONE = r"node gpu-8 (last answered \d+ s ago \(limit 10 s\)|has no snapshot): "
_TYPO = r'metadata\.targetValu: Forbidden: it is not a key of this scaler, but almost "targetValue"'
SITUATIONS = (
    Situation("agent gone: its process has ended", _agent_has_ended, f"{_GONE}nothing listens there"),
    Situation("agent gone: it hangs", _agent_hangs, f"{_GONE}nothing came for"),
    Situation("agent gone: the called one has ended", _called_has_ended, "the kubelet cannot reach the port"),
    Situation("agent gone: the called one hangs", _called_hangs, "scaler-gpu-7: it cannot be reached"),
    Situation("engine answers 404", _engine_answers_404, r"the server has no such page \(HTTP 404\)"),
    Situation("typo in a trigger key: explain", _key_is_misspelt, _TYPO),
    Situation("typo in a trigger key: validate", _key_in_a_file_is_misspelt, _TYPO),
    Situation("wrong clock: an hour behind", _clock_is_late, "the clock of node gpu-8 is 60 min behind"),
    Situation("expired certificate: of the called", _certificate_of_the_called_has_expired, "certificate expired at"),
    Situation(
        "expired certificate: of an agent",
        _certificate_of_the_agent_has_expired,
        "gpu-8 has no snapshot: its certificate, or that of its CA, has expired",
    ),
)
"""The first five lines of one command must name each cause."""


def figures() -> Iterator[Figure]:
    """Yield the time of the command in each situation."""
    for situation in SITUATIONS:
        if all(word in situation.what for word in sys.argv[1:]):
            yield _measured(situation)


def _measured(situation: Situation) -> Figure:
    with contextlib.ExitStack() as stack:
        fleet = BrokenFleet(stack)
        command = situation.arrange(fleet)
        _until(fleet, command, situation.cause)
        runs = [fleet.run(*command) for _ in range(ROUNDS)]
    for run in runs:
        if not run.names(situation.cause):
            raise RuntimeError(f"{situation.what}: the cause is not in the first {LINES} lines: {run.output}")
    is_short = max(run.seconds for run in runs) < LIMIT_SECONDS
    return Figure(
        situation.what,
        {
            "time": in_milliseconds(run.seconds for run in runs),
            "CPU": in_milliseconds(run.cpu_seconds for run in runs),
            f"each below {LIMIT_SECONDS:.0f} s": "yes" if is_short else "no",
            "rounds": str(ROUNDS),
        },
    )


def _until(fleet: BrokenFleet, command: tuple[str, ...], words: str) -> None:
    """Run a command until its output has these words: the situation then exists."""
    deadline = time.monotonic() + _ARRANGED_SECONDS
    while not re.search(words, " ".join((run := fleet.run(*command)).output.split())):
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"after {_ARRANGED_SECONDS:.0f} s {' '.join(command)} does not say {words}: {run.output}"
            )


if __name__ == "__main__":
    run_alone(TITLE, figures())
