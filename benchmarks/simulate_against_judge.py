# SPDX-License-Identifier: Apache-2.0
"""Holds the command simulate against an independent simulator, on the same traffic and replica.

Run it with the Python of ``make judge``, which has the simulator's libraries:

    PYTHONPATH=src:. .tools/judge/bin/python -m benchmarks.simulate_against_judge --judge FOLDER

The simulator is not a part of this repository: FOLDER holds its package ``judge``. It reads the pages of simulated
engines through ``benchmarks/judge_adapter.py`` and has its own engine, cluster and HPA. Each policy must agree within
three points of the requests in time and ten percent of the GPU-hours. It prints one JSON object a policy, and its exit
status is 1 where one does not agree.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from keda_gpu_scaler.simulate.engine_model import EngineModel
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.scenario import Circumstances, Objective, ScalingSpec, TriggerSpec
from keda_gpu_scaler.simulate.simulation import WorkloadSimulation
from keda_gpu_scaler.simulate.summary import Summary, summarize

HOME = Path(__file__).resolve().parent.parent
MOST_POINTS = 3.0
MOST_HOURS_SHARE = 0.1
MAX_REPLICAS = 50
POLICIES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "llm": {"profile": "llm"},
        "llm, maxSeqs 64": {"profile": "llm", "maxSeqs": "64"},
        "llm, headroom 1.3": {"profile": "llm", "headroom": "1.3"},
        "saturation 80": {"metricType": "saturation", "targetValue": "80"},
        "queue 5": {"profile": "vllm-queue-depth"},
        "running 64": {"metricType": "running_requests", "targetValue": "64"},
    }
)
"""The compared policies: metadata of a trigger by a name."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The figures of one policy by both simulators; shares are in percent."""

    policy: str
    slo: float
    judged_slo: float
    gpu_hours: float
    judged_gpu_hours: float
    moves: int
    judged_moves: int
    seconds: float
    judged_seconds: float

    @property
    def agrees(self) -> bool:
        """Whether both figures are near enough."""
        is_near = abs(self.slo - self.judged_slo) <= MOST_POINTS
        return is_near and abs(self.gpu_hours / self.judged_gpu_hours - 1) <= MOST_HOURS_SHARE

    def line(self) -> str:
        """Return the comparison as JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in plain.items()}
        return json.dumps({**rounded, "agrees": self.agrees})


class Judge:
    """The independent simulator.

    Args:
        folder: the folder of its package.
        trace: the name of one of its traces.
        minutes: the length of the part of the trace that is used; None for all of it.
    """

    def __init__(self, folder: Path, trace: str, minutes: float | None) -> None:
        sys.path.insert(0, str(folder.resolve().parent))
        self._cluster: Any = importlib.import_module("judge.cluster")
        self._adapter: Any = importlib.import_module("judge.adapter")
        traces: Any = importlib.import_module("judge.traces")
        oracle: Any = importlib.import_module("judge.oracle")
        self.trace = traces.build(trace, folder.parent / "traces")
        if minutes is not None:
            kept = self.trace.arrival <= 60 * minutes
            arrays = (self.trace.arrival[kept], self.trace.prompt[kept], self.trace.out[kept])
            self.trace = traces.Trace(self.trace.name, arrays, self.trace.kind, self.trace.slo)
        self.initial: int = oracle.initial_replicas(self.trace)

    def run(self, metadata: Mapping[str, str]) -> Any:
        """Judge one policy."""
        file = HOME / "benchmarks" / "judge_adapter.py"
        policy = self._adapter.Product(file, "product", dict(metadata))
        cluster = self._cluster.Cluster(max_replicas=MAX_REPLICAS, initial=self.initial)
        return self._cluster.simulate(self.trace, policy, cluster)

    def model(self) -> EngineModel:
        """Return the replica of the trace."""
        kind = self.trace.kind
        return EngineModel(
            kind.name, kind.alpha, kind.gamma, kind.beta, kind.kappa, kind.kv, kind.max_seqs, kind.budget,
            overhead_seconds=kind.overhead, overhead_request_seconds=4e-4, gpus=kind.gpus,
        )  # fmt: skip

    def traffic(self) -> RequestTraffic:
        """Return the requests of the trace."""
        arrivals, prompts, answers = (
            column.tolist() for column in (self.trace.arrival, self.trace.prompt, self.trace.out)
        )
        return RequestTraffic(self.trace.name, arrivals, prompts, answers, self.trace.end)


def simulated(judge: Judge, metadata: Mapping[str, str]) -> Summary:
    """Simulate one policy with the command's own simulator."""
    trigger = TriggerSpec(metadata, is_push=True)
    spec = ScalingSpec("product", (trigger,), min_replicas=1, max_replicas=MAX_REPLICAS)
    circumstances = Circumstances(objective=Objective(*judge.trace.slo))
    model = judge.model()
    run = WorkloadSimulation(judge.traffic(), model, circumstances, judge.initial).scaled_by(spec)
    return summarize(spec.title, run, circumstances.objective, model.gpus)


def compare(judge: Judge, names: Iterable[str]) -> Iterable[Comparison]:
    """Compare policies one after another; the seconds are of this process's CPU."""
    for name in names:
        began = time.process_time()
        own = simulated(judge, POLICIES[name])
        between = time.process_time()
        result = judge.run(POLICIES[name])
        ended = time.process_time()
        yield Comparison(
            name, own.within_percent, result.slo, own.gpu_hours, result.gpu_hours, own.moves, len(result.moves),
            between - began, ended - between,
        )  # fmt: skip


def main() -> int:
    """Compare as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", type=Path, required=True, help="the folder of the package judge")
    parser.add_argument("--trace", default="azure-conv/large")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--policy", dest="names", action="append", choices=[*POLICIES], help="by default all")
    arguments = parser.parse_args()
    names = arguments.names or [*POLICIES]
    is_fine = True
    for comparison in compare(Judge(arguments.judge, arguments.trace, arguments.minutes), names):
        print(comparison.line(), flush=True)
        is_fine = is_fine and comparison.agrees
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
