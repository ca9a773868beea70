# SPDX-License-Identifier: Apache-2.0
"""The CPU time of a simulation: an hour with about fifty replicas, and a day.

Run it with ``python -m benchmarks.bench_simulate [--traces FOLDER] [--row NAME]``. The goal is 20 s for an hour with
fifty replicas and 300 s for a day, on one core. FOLDER holds two published traces: the hours of
``azure-llm-2023/AzureLLMInferenceTrace_conv.csv`` (github.com/Azure/AzurePublicDataset) and
``mooncake/conversation_trace.jsonl`` (github.com/kvcache-ai/Mooncake). Without them their rows are left out.

The seconds are of CPU. Other work on the machine makes them more: caches are shared, and so are the two threads of a
core. So each row also has the time of a loop of ten million steps, which takes a quarter of a second on a core of a
server that does nothing else.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keda_gpu_scaler.simulate.presets import PRESETS
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.scenario import Circumstances, ScalingSpec, TriggerSpec
from keda_gpu_scaler.simulate.simulation import WorkloadSimulation, initial_replicas
from keda_gpu_scaler.simulate.summary import summarize
from keda_gpu_scaler.simulate.traffic.assembly import scaled
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.request_log import read_request_log
from keda_gpu_scaler.simulate.traffic.shapes import traffic_of_shape

MODEL = "llama-3.1-70b-h100-tp4"
AZURE = Path("azure-llm-2023") / "AzureLLMInferenceTrace_conv.csv"
MOONCAKE = Path("mooncake") / "conversation_trace.jsonl"
_LOOP_STEPS = 10_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One measured simulation. ``goal_seconds`` is how much CPU it may take; ``trace`` is a file in the folder."""

    name: str
    goal_seconds: float
    traffic: Callable[[Path], RequestTraffic]
    trace: Path | None = None


def _log(folder: Path, trace: Path, factor: float) -> RequestTraffic:
    return scaled(read_request_log(folder / trace, Lengths()), factor)


ROWS = (
    Row("hour, steady", 20.0, lambda folder: traffic_of_shape("steady", 110.0, Lengths(2048, 512))),
    Row("hour, Mooncake", 20.0, lambda folder: _log(folder, MOONCAKE, 10.0), MOONCAKE),
    Row("hour, Azure", 20.0, lambda folder: _log(folder, AZURE, 24.0), AZURE),
    Row("day, diurnal", 300.0, lambda folder: traffic_of_shape("diurnal", 52.0, Lengths())),
)


def measured(row: Row, folder: Path) -> tuple[str, bool]:
    """Simulate one row; return a sentence about it, and whether it reached its goal."""
    model, circumstances, traffic = PRESETS[MODEL], Circumstances(), row.traffic(folder)
    spec = ScalingSpec("llm", (TriggerSpec({"profile": "llm"}, is_push=True),), min_replicas=1, max_replicas=80)
    gc.freeze()
    gc.set_threshold(100_000)  # as the command does
    loop = _loop_seconds()
    began = time.process_time()
    run = WorkloadSimulation(traffic, model, circumstances, initial_replicas(traffic, model)).scaled_by(spec)
    seconds = time.process_time() - began
    loop = (loop + _loop_seconds()) / 2
    summary = summarize(spec.title, run, circumstances.objective, model.gpus)
    replicas = sum(moment.active for moment in run.moments) / len(run.moments)
    return (
        f"{row.name}: {len(traffic)} requests in {traffic.seconds / 3600:.2f} h on {replicas:.0f} replicas (at most "
        f"{summary.most_replicas}) of {MODEL}: {seconds:.1f} s of CPU (goal {row.goal_seconds:g}), "
        f"{1e6 * seconds / len(traffic):.1f} us a request; {summary.within_percent:.1f} % in time; a loop of ten "
        f"million steps took {loop:.2f} s"
    ), seconds <= row.goal_seconds


def _loop_seconds() -> float:
    began = time.process_time()
    for _ in range(_LOOP_STEPS):
        pass
    return time.process_time() - began


def main() -> int:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=Path("nowhere"), help="the folder of recorded traces")
    parser.add_argument("--row", dest="names", action="append", choices=[row.name for row in ROWS])
    arguments = parser.parse_args()
    is_fine = True
    for row in ROWS:
        if arguments.names and row.name not in arguments.names:
            continue
        if row.trace is not None and not (arguments.traces / row.trace).is_file():
            print(f"{row.name}: left out: there is no {arguments.traces / row.trace}")
            continue
        sentence, reached = measured(row, arguments.traces)
        print(sentence, flush=True)
        is_fine = is_fine and reached
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
