# SPDX-License-Identifier: Apache-2.0
"""The outcome of one row of a simulation, and which row is the best.

Law: the best row is the cheapest of those that reach the goal; where none does, the one that comes nearest to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from keda_gpu_scaler.simulate.engine_model import ReplicaModel
from keda_gpu_scaler.simulate.job_simulation import JobSimulation
from keda_gpu_scaler.simulate.requests import NEVER, RequestTraffic
from keda_gpu_scaler.simulate.scenario import Circumstances, FormulaResult, Objective, ScalingSpec
from keda_gpu_scaler.simulate.simulation import Progress, Run, WorkloadMoment, WorkloadSimulation
from keda_gpu_scaler.simulate.summary import Summary, latencies, percentile, summarize

LATENCY_BIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class LatencyBin:
    """The p95 of the requests that arrived within a minute, in seconds; infinite where they never ended."""

    at_seconds: float
    requests: int
    first_token: float
    token: float


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """One row: its figures and its timelines.

    ``is_bound`` says that no ScaledObject decided. ``notes`` are sentences about it. ``summary`` is None where nothing
    of the kind reaches the goal.
    """

    title: str
    summary: Summary | None
    moments: tuple[WorkloadMoment, ...] = ()
    latencies: tuple[LatencyBin, ...] = ()
    notes: tuple[str, ...] = ()
    is_bound: bool = False


@dataclass(frozen=True, slots=True)
class Best:
    """The best row, by its number, and why."""

    number: int
    sentence: str


def simulate_spec(
    spec: ScalingSpec,
    traffic: RequestTraffic,
    model: ReplicaModel,
    circumstances: Circumstances,
    initial: int,
    formula: FormulaResult | None = None,
    progress: Progress | None = None,
) -> RunOutcome:
    """Simulate one ScaledObject.

    Raises:
        TriggerError: the metadata of a trigger cannot be used.
        SimulationError: a trigger needs data that a simulation does not have.
    """
    if spec.jobs is not None:
        return _simulate_jobs(spec, traffic, model, circumstances, progress)
    first = min(spec.hpa_max, max(initial, spec.min_replicas))
    run = WorkloadSimulation(traffic, model, circumstances, first).scaled_by(spec, formula, progress)
    summary = summarize(spec.title, run, circumstances.objective, model.gpus)
    return outcome_of(spec.title, summary, run, circumstances.objective, notes=_notes(run, summary, "syncs of the HPA"))


def _simulate_jobs(
    spec: ScalingSpec,
    traffic: RequestTraffic,
    model: ReplicaModel,
    circumstances: Circumstances,
    progress: Progress | None,
) -> RunOutcome:
    simulation = JobSimulation(traffic, model, circumstances, spec)
    run = simulation.run(progress)
    summary = summarize(spec.title, run, circumstances.objective, model.gpus)
    totals = simulation.totals
    notes = [f"{totals.created} Jobs were started, and {totals.finished} of them were complete at the end"]
    if totals.found_empty:
        notes.append(
            f"{totals.found_empty} pods found the queue empty when they began: KEDA counted the same items twice, or "
            "the queue was short"
        )
    return outcome_of(
        spec.title, summary, run, circumstances.objective, notes=[*notes, *_notes(run, summary, "polls of KEDA")]
    )


def outcome_of(
    title: str,
    summary: Summary | None,
    run: Run | None,
    objective: Objective,
    *,
    notes: Sequence[str] = (),
    is_bound: bool = False,
) -> RunOutcome:
    """Return the outcome of a run."""
    if run is None:
        return RunOutcome(title, summary, notes=tuple(notes), is_bound=is_bound)
    return RunOutcome(title, summary, tuple(run.moments), _latency_bins(run, objective), tuple(notes), is_bound)


def best_of(outcomes: Sequence[RunOutcome], goal: float) -> Best | None:
    """Return the best of the rows of ScaledObjects; None without any."""
    rows = [
        (number, one.summary) for number, one in enumerate(outcomes) if one.summary is not None and not one.is_bound
    ]
    if not rows:
        return None
    good = [(number, summary) for number, summary in rows if summary.within_percent >= goal]
    if good:
        number, summary = min(good, key=lambda row: (row[1].gpu_hours, -row[1].within_percent))
        others = f" of the {len(good)} rows that serve" if len(good) > 1 else ", the only row that serves"
        reason = f"the fewest GPU-hours ({summary.gpu_hours:.2f}){others} {goal:g} % in time"
        return Best(number, f"{summary.title}: {reason}")
    number, summary = max(rows, key=lambda row: (row[1].within_percent, -row[1].gpu_hours))
    nearest = f"this one comes nearest ({summary.within_percent:.1f} %)"
    return Best(number, f"{summary.title}: no row serves {goal:g} % in time, and {nearest}")


def _notes(run: Run, summary: Summary, steps: str) -> list[str]:
    notes = []
    if summary.unfinished:
        notes.append(f"{summary.unfinished} requests had not ended when the simulation did")
    if run.without_value:
        reason = max(run.reasons, key=lambda one: run.reasons[one])
        notes.append(f"{run.without_value} of {run.syncs} {steps} had no value, most often because {reason}")
    if run.max_seconds:
        notes.append(f"more than maxReplicaCount was wanted for {run.max_seconds / 60:.0f} minutes")
    return notes


def _latency_bins(run: Run, objective: Objective) -> tuple[LatencyBin, ...]:
    first, token = latencies(run.log, until_end=objective.is_for_items)
    arrivals = run.log.traffic.arrivals
    by_bin: dict[int, tuple[list[float], list[float]]] = {}
    for arrival, one, other in zip(arrivals, first, token, strict=True):
        firsts, tokens = by_bin.setdefault(int(arrival // LATENCY_BIN_SECONDS), ([], []))
        firsts.append(one)
        tokens.append(other)
    return tuple(
        LatencyBin(
            LATENCY_BIN_SECONDS * number,
            len(firsts),
            _p95(firsts),
            _p95(tokens),
        )
        for number, (firsts, tokens) in sorted(by_bin.items())
    )


def _p95(values: list[float]) -> float:
    return percentile(sorted(values), 95) if values else NEVER
