# SPDX-License-Identifier: Apache-2.0
"""The time that a simulation takes: seconds of CPU for an hour with about fifty replicas.

Run it with ``python -m benchmarks.bench_simulate [MINUTES]``; the default is an hour.
"""

import gc
import sys
import time

from keda_gpu_scaler.simulate.presets import PRESETS
from keda_gpu_scaler.simulate.scenario import Circumstances, ScalingSpec, TriggerSpec
from keda_gpu_scaler.simulate.simulation import WorkloadSimulation, initial_replicas
from keda_gpu_scaler.simulate.summary import summarize
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.shapes import traffic_of_shape

MODEL = "llama-3.1-70b-h100-tp4"
REQUESTS_PER_SECOND = 130.0


def main(minutes: float) -> None:
    """Simulate, and print what it took."""
    model, circumstances = PRESETS[MODEL], Circumstances()
    traffic = traffic_of_shape("steady", REQUESTS_PER_SECOND, Lengths(), minutes)
    spec = ScalingSpec("llm", (TriggerSpec({"profile": "llm"}, is_push=True),), min_replicas=1, max_replicas=60)
    gc.freeze()
    gc.set_threshold(100_000)  # as the command does
    began = time.process_time()
    run = WorkloadSimulation(traffic, model, circumstances, initial_replicas(traffic, model)).scaled_by(spec)
    seconds = time.process_time() - began
    summary = summarize(spec.title, run, circumstances.objective, model.gpus)
    replicas = sum(moment.active for moment in run.moments) / len(run.moments)
    print(
        f"{len(traffic)} requests in {minutes:g} minutes on {replicas:.0f} replicas of {MODEL}: {seconds:.1f} s of "
        f"CPU, {1e6 * seconds / len(traffic):.1f} us a request; {summary.within_percent:.1f} % in time"
    )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
