# SPDX-License-Identifier: Apache-2.0
"""The laptop of a newcomer and the cluster that it reaches, with an instance and two engines."""

import contextlib
import copy
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import yaml
from aiohttp import web

from keda_gpu_scaler import __version__
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.apiserver import TOKEN, FakeApiServer
from tests.certificates import NAME
from tests.cli.doctor.fake_cluster import FakeCluster
from tests.end_to_end.test_engines import Pages
from tests.examples.pages import ENGINES
from tests.free_ports import free_port
from tests.kubelet import FakeKubelet
from tests.limits import WAIT_SECONDS
from tests.newcomer.launcher import Launcher
from tests.newcomer.programs import PORTS, STAND_INS, STATE
from tests.serving import Serving

HOME = Path(__file__).resolve().parents[2]
TOOLS = (
    *("bash", "sh", "cat", "date", "dirname", "env", "grep", "gunzip", "gzip", "head", "id", "jq", "mkdir"),
    *("openssl", "sed", "sleep", "tail", "uname"),
)
"""The programs of the machine that the pages use; another one is not found."""
_GPUS = ("triton-0", "triton-1", "triton-2", "llama-0", "llama-1")
"""The pod that holds each GPU of the node."""
NOTHING: Mapping[str, str] = MappingProxyType({})
_PAGE_SECONDS = WAIT_SECONDS / 2
EXPLAINS = "explains-to-people"
"""The pod of a front end with an explain port, which KEDA does not call."""
_CONTEXTS = ("test", "staging", "east", "west")
_TRAP = """trap 'echo "$LINENO: status $?: $BASH_COMMAND" >> "$NEWCOMER_STATE/failures"' ERR"""
_FAST = {
    "KEDA_GPU_SCALER_BACKEND": "synthetic",
    "KEDA_GPU_SCALER_SAMPLE_INTERVAL": "0.1",
    "KEDA_GPU_SCALER_SCRAPE_INTERVAL": "0.2",
    "KEDA_GPU_SCALER_POD_RESOURCES": "off",
    "KEDA_GPU_SCALER_PEERS": "none",
    "KEDA_GPU_SCALER_NODE_NAME": "gpu-1",
}
"""A machine with GPUs, which are read more often than by default."""


@dataclass(frozen=True)
class Outcome:
    """What the commands of a page did: those that failed, their output, and the journal of the stand-ins."""

    failures: list[str]
    output: str
    journal: list[dict[str, Any]]

    @property
    def missing(self) -> set[str]:
        """Why a command was not run on this machine."""
        return {one["missing"] for one in self.journal if "missing" in one}


class _Cluster(FakeCluster):
    """An API server that answers the reviews of ``doctor``, those of the explain port, and everything else."""

    async def _route(self, request: web.Request) -> web.StreamResponse:
        is_review = request.path.endswith("accessreviews")
        if is_review and "name" not in (await request.json())["spec"]["resourceAttributes"]:
            return await self._review(request)
        if request.method == "POST":
            return await FakeApiServer._route(self, request)
        return await super()._route(request)


class World:
    """A laptop and a cluster, inside a ``with`` block."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "World":
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="newcomer-")))
        self._launcher = self._stack.enter_context(Launcher(self._folder))
        self._server = self._stack.enter_context(_Cluster())
        self._bin = self._folder / "bin"
        for name in STAND_INS:
            self._launcher.put(self._bin / name)
        for name in TOOLS:
            if path := shutil.which(name, path=os.defpath):
                (self._bin / name).symlink_to(path)
        self._install()
        self._start_instance()
        self._run_workloads()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # ---- the cluster ----

    def _start_instance(self) -> None:
        """Start an instance that reads the GPUs of node gpu-1 and answers for the pods of the installation."""
        lines = ["timestamp, index, uuid, name, utilization.gpu [%], memory.used [MiB], memory.total [MiB]"]
        for second, index in itertools.product(range(2), range(len(_GPUS))):
            lines.append(
                f"2026/01/01 00:00:0{second}.000, {index}, GPU-{index}, NVIDIA H100, 90 %, 4000 MiB, 80000 MiB"
            )
        (self._folder / "gpus.csv").write_text("\n".join(lines) + "\n")
        kubelet = self._stack.enter_context(FakeKubelet(self._folder / "kubelet.sock"))
        kubelet.hold({pod: [f"GPU-{index}"] for index, pod in enumerate(_GPUS)})
        flags = ("--backend", f"replay:{self._folder / 'gpus.csv'}", "--node-name", "gpu-1", "--peers", "none")
        cluster = ("--pod-resources", str(kubelet.path), "--kubeconfig", str(self.kubeconfig(self._folder)))
        engines = ("--scrape-interval", "1", "--allow-endpoints", "127.0.0.0/8")
        self.ports = {fixed: free_port() for fixed in ("6000", "9090", "8081")}
        listening = ("--metrics-port", str(self.ports["9090"]), "--probe-port", str(self.ports["8081"]))
        common = (*flags, *cluster, *engines)
        instance = self._stack.enter_context(Serving(*common, *listening))
        explain_port = free_port()
        to_people = self._stack.enter_context(Serving(*common, "--explain-port", str(explain_port)))
        instance.wait_for_log(re.compile("first sample"))
        (self._folder / "instance.log").write_text("".join(f"{json.dumps(line)}\n" for line in instance.log))
        self.ports["6000"] = instance.port
        self._instance = instance
        self._server.agents({"gpu-1": instance.port}, "keda")
        for pod in self._scaler_pods:
            self._server.forwards["keda", pod, 6000] = instance.port
        self._server.forwards["keda", EXPLAINS, 6000] = to_people.port
        self._server.forwards["keda", EXPLAINS, 6001] = explain_port

    def _install(self) -> None:
        """Create the objects of the rendered chart, the nodes, and the pods of the DaemonSet and the Deployment."""
        self._server.put("nodes", "gpu-1", "", metadata={"labels": {"nvidia.com/gpu.present": "true"}}, status={})
        self._server.put("nodes", "gpu-2", "", status={})
        self._server.put("runtimeclasses", "nvidia", "", handler="nvidia")
        self._server.put("serviceaccounts", "viewer")
        self._server.put("services", "keda-add-ons-http-interceptor-admin", "keda", spec={"selector": {}, "ports": []})
        self._scaler_pods: list[str] = []
        documents = list(yaml.safe_load_all((HOME / "deploy" / "manifests.yaml").read_text()))
        for kind, resource in (("DaemonSet", "daemonsets"), ("Deployment", "deployments"), ("Service", "services")):
            for one in (document for document in documents if document and document["kind"] == kind):
                name, namespace = one["metadata"]["name"], one["metadata"].get("namespace", "keda")
                self._server.put(resource, name, namespace, metadata=one["metadata"], spec=one["spec"])
                if "template" in one["spec"]:
                    self._add_pod(f"{name}-x7k2p", one["spec"]["template"])
        self._server.keda()
        front_end = next(one for one in documents if one and one["kind"] == "Deployment")
        self._explaining = copy.deepcopy(front_end["spec"]["template"])
        self._explaining["spec"]["containers"][0]["ports"].append({"name": "explain", "containerPort": 6001})
        reviews = self._server.caller_reviews
        reviews.person(TOKEN, "alice")
        reviews.grant("alice", "get", "scaledobjects", "ai", "llama")

    def _add_pod(self, name: str, template: Mapping[str, Any]) -> None:
        self._scaler_pods.append(name)
        self._server.pod(name, "gpu-1", namespace="keda", labels=template["metadata"]["labels"], spec=template["spec"])
        if template["metadata"]["labels"]["app.kubernetes.io/component"] == "frontend" and name != EXPLAINS:
            self._server.put(
                "endpointslices", "keda-gpu-scaler-1", "keda",
                metadata={"labels": {"kubernetes.io/service-name": "keda-gpu-scaler"}},
                ports=[{"name": "grpc", "port": 6000, "protocol": "TCP"}],
                endpoints=[{
                    "addresses": ["10.0.0.1"], "conditions": {"ready": True}, "nodeName": "gpu-1",
                    "targetRef": {"kind": "Pod", "name": name},
                }],
            )  # fmt: skip

    def _run_workloads(self) -> None:
        address, port = f"{NAME}:6000", free_port()
        self._triggers = {
            "triton": {"scalerAddress": address, "profile": "triton-inference"},
            "llama": {"scalerAddress": address, "profile": "llm", "enginePort": str(port)},
        }
        for name, metadata in self._triggers.items():
            pods = [pod for pod in _GPUS if pod.startswith(name)]
            self._server.scale(name, len(pods))
            self._server.own_scaled_object(name, **metadata)
            for number, pod in enumerate(pods):
                engine = self._stack.enter_context(Pages(f"127.0.0.{number + 2}", port)) if name == "llama" else None
                if engine is not None:
                    engine.page = _working()
                    self._server.forwards["ai", pod, port] = engine.port
                    kubelet = self._stack.enter_context(Pages("127.0.0.1"))
                    kubelet.page, self._server.forwards["ai", pod, port] = engine.page, kubelet.port
                place = engine.address if engine else ""
                self._server.pod(pod, "gpu-1", app=name, address=place, annotations={"prometheus.io/port": str(port)})
            size = {"currentReplicas": len(pods), "desiredReplicas": len(pods)}
            self._server.put("horizontalpodautoscalers", f"keda-hpa-{name}", status=size)
            self._server.put("events", f"{name}-1", involvedObject={"kind": "ScaledObject", "name": name})

    def _poll(self) -> None:
        """Call the instance for each workload, as KEDA does all the time."""
        for name in ("triton", "llama"):
            ref = pb.ScaledObjectRef(name=name, namespace="ai", scalerMetadata=self._triggers[name])
            with contextlib.suppress(grpc.RpcError):  # the engines were not scraped twice yet
                self._instance.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref), timeout=WAIT_SECONDS)

    def kubeconfig(self, folder: Path) -> Path:
        """Write a kubeconfig with some contexts for the one cluster; return its path."""
        path = folder / "config"
        path.parent.mkdir(parents=True, exist_ok=True)
        config = {
            "current-context": _CONTEXTS[0],
            "contexts": [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in _CONTEXTS],
            "clusters": [{"name": "c", "cluster": {"server": self._server.url}}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
        }
        path.write_text(json.dumps(config))
        return path

    # ---- the laptop ----

    @contextlib.contextmanager
    def _laptop(self, presumed: Mapping[str, str]) -> Iterator[Path]:
        """Provide a checkout in a folder of its own, with the files that a page presumes."""
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            home = Path(name)
            self.kubeconfig(home / ".kube")
            checkout = home / "checkout"
            (checkout / ".venv" / "bin").mkdir(parents=True)
            for program in ("keda-gpu-scaler", "python"):
                self._launcher.put(checkout / ".venv" / "bin" / program)
            for entry in ("deploy", "docs", "proto", "Makefile", "pyproject.toml", "requirements"):
                if not any(path.startswith(f"{entry}/") for path in presumed):
                    (checkout / entry).symlink_to(HOME / entry)
            shutil.copytree(HOME / "recordings", checkout / "recordings")
            for path, content in presumed.items():
                (checkout / path).parent.mkdir(parents=True, exist_ok=True)
                (checkout / path).write_text(content)
            (home / "state").mkdir()
            (home / "state" / "instance.log").symlink_to(self._folder / "instance.log")
            yield home

    @contextlib.contextmanager
    def explain_port(self, is_there: bool) -> Iterator[None]:
        """Add a front end with an explain port, which KEDA does not call, for the time of the block."""
        if is_there:
            self._add_pod(EXPLAINS, self._explaining)
        yield
        if is_there:
            self._server.delete("pods", EXPLAINS, "keda")

    def run(
        self, script: str, presumed: Mapping[str, str] = NOTHING, variables: Mapping[str, str] = NOTHING
    ) -> Outcome:
        """Run the script of a page as a newcomer does. What it forwards is the instance of the cluster, or its own.

        Args:
            script: its commands.
            presumed: the files that the reader has, by path.
            variables: more environment variables; {world} is the folder of the instance of the cluster.
        """
        self._poll()
        has_own = re.search("keda-gpu-scaler serve ", script)
        ports = {fixed: free_port() for fixed in self.ports} if has_own else dict(self.ports)
        ports["demo"] = free_port()
        with self._laptop(presumed) as home:
            state = home / "state"
            environment = {
                "HOME": str(home), "PATH": str(self._bin), "LANG": "C.UTF-8", "COLUMNS": "80", "V": __version__,
                "PYTHONPATH": str(HOME / "src"), STATE: str(state), PORTS: json.dumps(ports), **_FAST,
            }  # fmt: skip
            for name, fixed in (("PORT", "6000"), ("METRICS_PORT", "9090"), ("PROBE_PORT", "8081")):
                environment[f"KEDA_GPU_SCALER_{name}"] = str(ports[fixed])
            environment |= {name: value.format(world=self._folder) for name, value in variables.items()}
            (state / "script").write_text(f"{_TRAP}; {script}\necho yes > {state}/finished\n")
            command = (str(self._bin / "bash"), str(state / "script"))
            # What stays in the background keeps the output open, so it is a file and no pipe.
            (state / "input").touch()
            with (state / "output").open("wb") as output, (state / "input").open("rb") as empty:
                shell = subprocess.Popen(
                    command, cwd=home / "checkout", env=environment, stdin=empty, stdout=output,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
                try:
                    shell.wait(_PAGE_SECONDS)
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(shell.pid, signal.SIGKILL)  # port-forwards stay in the background
                    shell.wait()
            for pid in _lines(state / "pids"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGTERM)
            journal = [json.loads(line) for line in _lines(state / "journal")]
            failures = _lines(state / "failures")
            if not (state / "finished").exists():
                failures.append("the script of the page has not come to its end")
            return Outcome(failures, (state / "output").read_text(errors="replace"), journal)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _working() -> Callable[[], bytes]:
    """Return a page of an engine at work: its counters grow."""
    began = time.monotonic()
    return lambda: ENGINES["sglang"](time.monotonic() - began).encode()
