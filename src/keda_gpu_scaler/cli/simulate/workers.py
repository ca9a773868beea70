# SPDX-License-Identifier: Apache-2.0
"""Runs the rows of a simulation on several processes, and shows how far they are."""

import gc
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from keda_gpu_scaler.cli.formula import FormulaError, formula_result
from keda_gpu_scaler.cli.output import say
from keda_gpu_scaler.simulate.bounds import Bound, clairvoyant, static_peak
from keda_gpu_scaler.simulate.engine_model import ReplicaModel
from keda_gpu_scaler.simulate.outcome import RunOutcome, outcome_of, simulate_spec
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.scenario import Circumstances, ScalingSpec

_SHOWN_EVERY_SECONDS = 1.0
_OBJECTS_BEFORE_A_COLLECTION = 100_000


@dataclass(frozen=True, slots=True)
class Setup:
    """What every row has in common. ``goal`` is in percent."""

    traffic: RequestTraffic
    model: ReplicaModel
    circumstances: Circumstances
    initial: int
    goal: float


class _Shared:
    """What a process keeps between two rows: sending the traffic takes longer than a short row."""

    setup: Setup | None = None
    shares: Any = None


def simulate_rows(setup: Setup, specs: Sequence[ScalingSpec], *, jobs: int, with_bounds: bool) -> list[RunOutcome]:
    """Simulate each ScaledObject, and with bounds also the static peak and the clairvoyant schedule.

    Raises:
        TriggerError: the metadata of a trigger cannot be used.
        SimulationError: a trigger needs data that a simulation does not have.
    """
    rows: list[tuple[Callable[..., RunOutcome], Any]] = []
    rows += [(_spec_row, spec) for spec in specs]
    rows += [(_bound_row, name) for name in ("static", "clairvoyant")] if with_bounds else []
    jobs = min(jobs or os.cpu_count() or 1, len(rows))
    shares = multiprocessing.Array("d", len(rows))
    if jobs == 1:
        _begin(setup, shares)
        return [simulate(number, what) for number, (simulate, what) in enumerate(rows)]
    with ProcessPoolExecutor(jobs, initializer=_begin, initargs=(setup, shares)) as pool:
        futures = [pool.submit(simulate, number, what) for number, (simulate, what) in enumerate(rows)]
        _show_progress(futures, shares)
        return [future.result() for future in futures]


def _begin(setup: Setup, shares: Any) -> None:
    gc.freeze()  # the traffic stays until the end, and a simulation makes no cycles
    gc.set_threshold(_OBJECTS_BEFORE_A_COLLECTION)
    _Shared.setup, _Shared.shares = setup, shares


def _spec_row(number: int, spec: ScalingSpec) -> RunOutcome:
    setup = _of_process()
    outcome = simulate_spec(
        spec,
        setup.traffic,
        setup.model,
        setup.circumstances,
        setup.initial,
        _formula_or_none if spec.formula is not None else None,
        lambda share: _note(number, share),
    )
    _note(number, 1.0)
    return outcome


def _bound_row(number: int, name: str) -> RunOutcome:
    setup = _of_process()
    search = static_peak if name == "static" else clairvoyant
    bound: Bound = search(setup.traffic, setup.model, setup.circumstances, setup.goal)
    _note(number, 1.0)
    objective = setup.circumstances.objective
    return outcome_of(bound.title, bound.summary, bound.run, objective, notes=(bound.sentence,), is_bound=True)


def _of_process() -> Setup:
    if _Shared.setup is None:
        raise RuntimeError("a row is simulated in a process that has no traffic")
    return _Shared.setup


def _note(number: int, share: float) -> None:
    _Shared.shares[number] = share
    if multiprocessing.parent_process() is None:
        _show(_Shared.shares)


def _formula_or_none(text: str, values: Mapping[str, float]) -> float | None:
    try:
        return formula_result(text, values)
    except FormulaError:
        return None


def _show_progress(futures: Sequence[Future[RunOutcome]], shares: Any) -> None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, _SHOWN_EVERY_SECONDS)
        if any(future.exception() is not None for future in done):
            for future in pending:
                future.cancel()
            return
        _show(shares)


def _show(shares: Any) -> None:
    if not sys.stderr.isatty():
        return
    share = sum(shares) / max(1, len(shares))
    ending = "\r" + " " * 40 + "\r" if share >= 1 else ""
    say(f"\rsimulated {100 * share:3.0f} % of {len(shares)} rows{ending}", nl=False, err=True)
