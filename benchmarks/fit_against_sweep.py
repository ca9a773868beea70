# SPDX-License-Identifier: Apache-2.0
"""Fits a simulated replica to a published load test of vLLM, and compares the latencies.

Run it with ``python -m benchmarks.fit_against_sweep --sweep FOLDER [--run NAME ...]``.

FOLDER holds runs of InferenceX's multi-turn sweep (github.com/SemiAnalysisAI/InferenceX, experimental/multiturn;
Apache-2.0): in each run a number of clients sends one request after another. ``metrics_server_metrics.csv`` has one row
of readings a second, and ``experiment_summary.csv`` the latencies that the clients measured. The runs are fitted
together, and each alone, which must be refused: the load of one run is always the same. Then as many clients as in each
run send requests to one simulated replica. Their latencies are compared with the measured ones. It prints one JSON
object a line.

The lengths of requests are not published but their means. They are drawn from the log-normal distribution that
``simulate`` assumes.
"""

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from keda_gpu_scaler.core.types import EngineSample, Series
from keda_gpu_scaler.simulate.engine_model import EngineModel, SimulationError
from keda_gpu_scaler.simulate.fit import Fit, fit_engine_model
from keda_gpu_scaler.simulate.replica import Replica
from keda_gpu_scaler.simulate.requests import RequestLog, RequestTraffic
from keda_gpu_scaler.simulate.summary import latencies, percentile
from keda_gpu_scaler.simulate.traffic.engine_history import EngineHistory
from keda_gpu_scaler.simulate.traffic.lengths import Lengths

RUNS = ("tp1_bs16_offloadoff", "tp1_bs64_offloadoff", "tp1_bs128_offloadoff")
KV_TOKENS = 700_000
"""The size of the cache of this model on this GPU; the recording has its usage alone."""
OVERHEAD_SECONDS = 0.06
REQUESTS = 3000
PERCENTS = (50, 90, 99)


def history(sweep: Path, run: str) -> EngineHistory:
    """Read the readings of one run."""
    with (sweep / run / "metrics_server_metrics.csv").open(newline="") as file:
        samples = [_sample(row) for row in csv.DictReader(file)]
    return EngineHistory({run: samples}, samples[0].at_seconds, samples[-1].at_seconds)


def _sample(row: Mapping[str, str]) -> EngineSample:
    return EngineSample(
        float(row["relative_time_sec"]),
        "vllm",
        waiting=float(row["num_requests_waiting"]),
        running=float(row["num_requests_running"]),
        kv_cache_ratio=float(row["kv_cache_usage_pct"]) / 100,
        requests_total=float(row["request_success_total"]),
        tokens_total=float(row["generation_tokens_total"]),
        prompt_tokens_total=float(row["prompt_tokens_total"]),
        first_tokens_total=float(row["request_success_total"]),
        selected={"vllm:prefix_cache_hits_total": Series(float(row["prefix_cache_hits"]), is_counter=True)},
    )


def measured(sweep: Path) -> dict[str, dict[str, float]]:
    """Return what the clients measured in each run."""
    with (sweep / "experiment_summary.csv").open(newline="") as file:
        return {
            row["exp_name"]: {key: float(value) for key, value in row.items() if _is_number(value)}
            for row in csv.DictReader(file)
        }


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def closed_loop(model: EngineModel, clients: int, lengths: Lengths) -> tuple[list[float], list[float]]:
    """Let so many clients send requests one after another; return their times to the first token, and per token."""
    draw = lengths.drawing()
    drawn = [draw() for _ in range(REQUESTS)]
    starts = [0.0] * REQUESTS
    traffic = RequestTraffic("clients", starts, [one for one, _ in drawn], [answer for _, answer in drawn], 1.0)
    log = RequestLog(traffic)
    replica = Replica(model, log)
    for number in range(clients):
        replica.give(number, 0.0)
    sent = clients
    while sent < REQUESTS:
        now = replica.ends_at
        replica.finish()
        while replica.load < clients and sent < REQUESTS:
            starts[sent] = now
            replica.give(sent, now)
            sent += 1
    while replica.load:
        replica.finish()
    first, token = latencies(log)
    settled = slice(clients, REQUESTS - clients)  # without the begin, when all prompts come at once, and the end
    return sorted(first[settled]), sorted(token[settled])


def compare(fit: Fit, run: str, found: Mapping[str, float]) -> str:
    """Compare the latencies of one run as a line of JSON; times are in milliseconds."""
    requests = found["throughput_rps"]
    prompt = found["input_throughput_tps"] / requests
    answer = (found["total_throughput_tps"] - found["input_throughput_tps"]) / requests
    first, token = closed_loop(fit.model, round(found["bs"]), Lengths(prompt, answer))
    line: dict[str, object] = {"run": run, "clients": round(found["bs"])}
    for name, times in (("ttft", first), ("tpot", token)):
        for percent in PERCENTS:
            predicted, real = 1000 * percentile(times, percent), found[f"p{percent}_{name}_ms"]
            line[f"{name}_p{percent}"] = {
                "measured": round(real, 1), "predicted": round(predicted, 1), "ratio": round(predicted / real, 2),
            }  # fmt: skip
    return json.dumps(line)


def main() -> int:
    """Fit and compare as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, required=True)
    parser.add_argument("--run", dest="runs", action="append", help=f"by default {', '.join(RUNS)}")
    arguments = parser.parse_args()
    runs: Sequence[str] = arguments.runs or RUNS
    histories = {run: history(arguments.sweep, run) for run in runs}
    for run, one in histories.items():
        try:
            fit_engine_model(run, [one], kv_tokens=KV_TOKENS)
            print(json.dumps({"run": run, "alone": "fitted"}))
        except SimulationError as error:
            print(json.dumps({"run": run, "alone": f"refused: {error}"}))
    fit = fit_engine_model("sweep", [*histories.values()], kv_tokens=KV_TOKENS)
    print(json.dumps({"model": fit.model.describe(), "explained": round(fit.explained, 3), "said": fit.sentences}))
    print(json.dumps({check.name: [round(check.measured, 4), round(check.predicted, 4)] for check in fit.checks}))
    found = measured(arguments.sweep)
    model = EngineModel(
        **{name: getattr(fit.model, name) for name in fit.model.__dataclass_fields__}
        | {"overhead_seconds": OVERHEAD_SECONDS}
    )
    for run in runs:
        print(compare(Fit(model, fit.spans, fit.explained, fit.checks, fit.sentences), run, found[run]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
