# SPDX-License-Identifier: Apache-2.0
"""Makes a traffic of a recording of engines: what arrived at all of them together.

What arrived in an interval is what ended in it, plus the growth of the requests that run or wait. The lengths of
requests are not recorded: their means are those of the counters.
"""

from pathlib import Path

from keda_gpu_scaler.core.types import EngineSample
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.traffic.engine_history import EngineHistory, read_engine_history
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.rates import RateRow, traffic_of_rates


def traffic_of_recording(path: Path, lengths: Lengths) -> RequestTraffic:
    """Return the traffic of a recording.

    Raises:
        SimulationError: the recording has no engine, or no request arrived in it.
    """
    return traffic_of_history(path.name, read_engine_history(path), lengths)


def traffic_of_history(title: str, history: EngineHistory, lengths: Lengths) -> RequestTraffic:
    """Return the traffic of the engines of a recording."""
    by_minute: dict[int, float] = {}
    for earlier, later in history.intervals():
        minute = int((later.at_seconds - history.begin) // 60)
        by_minute[minute] = by_minute.get(minute, 0.0) + _arrived(earlier, later)
    if sum(by_minute.values()) < 1:
        raise SimulationError(f"{title}: no request arrived at its engines: record while there is traffic")
    means, sentence = mean_lengths(history, lengths)
    rates: list[RateRow] = [(float(minute), max(0.0, count)) for minute, count in sorted(by_minute.items())]
    what = (
        f"the requests that arrived at {len(history.samples)} engines in {history.seconds / 60:.0f} minutes, by their "
        "counters"
    )
    return traffic_of_rates(title, rates, means, assumptions=(what, sentence))


def mean_lengths(history: EngineHistory, lengths: Lengths) -> tuple[Lengths, str]:
    """Return the mean lengths of the requests of a recording, and a sentence about where they come from."""
    prompts = answers = firsts = ended = 0.0
    for earlier, later in history.intervals():
        prompts += _growth(earlier.prompt_tokens_total, later.prompt_tokens_total)
        answers += _growth(earlier.tokens_total, later.tokens_total)
        firsts += _growth(earlier.first_tokens_total, later.first_tokens_total)
        ended += _growth(earlier.requests_total, later.requests_total)
    prompt = prompts / firsts if prompts and firsts else lengths.prompt_tokens
    answer = answers / ended if answers and ended else lengths.answer_tokens
    missing = [name for name, known in (("prompts", prompts and firsts), ("answers", answers and ended)) if not known]
    source = "the means of the lengths are those of the engines' counters"
    if missing:
        source = f"the engines do not count the tokens of {' and '.join(missing)}"
    return Lengths(max(1.0, prompt), max(1.0, answer), lengths.spread, lengths.seed), source


def _arrived(earlier: EngineSample, later: EngineSample) -> float:
    in_flight = sum((getattr(later, name) or 0.0) - (getattr(earlier, name) or 0.0) for name in ("running", "waiting"))
    return _growth(earlier.requests_total, later.requests_total) + in_flight


def _growth(before: float | None, after: float | None) -> float:
    return 0.0 if before is None or after is None else after - before
