# SPDX-License-Identifier: Apache-2.0
"""Finds the rung from which the load of an engine is computed, by the readings of its pages.

Law: a rung is used only where its readings are known. A counter grows from its second sample on.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from keda_gpu_scaler.core.evaluate.load.counter_steps import counter_bits
from keda_gpu_scaler.core.evaluate.sample_window import RUNNING, EngineReading
from keda_gpu_scaler.core.trigger.engines import ENGINES, LoadRung
from keda_gpu_scaler.core.types import EngineSample

TOKEN_TIME_RUNGS = (LoadRung.TOKEN_TIME, LoadRung.REQUEST_TOKEN_TIME)
NEEDED_COUNTERS = {
    LoadRung.TOKEN_TIME: counter_bits("waits", "times"),
    LoadRung.REQUEST_TOKEN_TIME: counter_bits("waits", "times"),
    LoadRung.TOKEN_RATE: counter_bits("tokens"),
    LoadRung.SERVICE_TIME: counter_bits("service", "services"),
    LoadRung.RUNNING: 0,
    LoadRung.NONE: 0,
}
"""The counters without which a span on this rung is not known, as bits."""
_TIMES = (
    EngineReading("token_time_seconds_total", "time per token"),
    EngineReading("token_times_total", "count of times per token"),
)
_READINGS: Mapping[LoadRung, tuple[EngineReading, ...]] = MappingProxyType(
    {
        LoadRung.TOKEN_TIME: _TIMES,
        LoadRung.REQUEST_TOKEN_TIME: _TIMES,
        LoadRung.TOKEN_RATE: (EngineReading("tokens_total", "count of tokens"), RUNNING),
        LoadRung.SERVICE_TIME: (
            EngineReading("service_seconds_total", "time of computation"),
            EngineReading("services_total", "count of computed requests"),
        ),
        LoadRung.RUNNING: (RUNNING,),
        LoadRung.NONE: (),
    }
)
"""The readings without which a rung is not reached."""
_RUNGS_FROM = {rung: tuple(LoadRung)[number:] for number, rung in enumerate(LoadRung)}
"""Each rung with those after it."""


def rung_of(sample: EngineSample) -> LoadRung:
    """Return the best rung that the engine of this sample reaches with what the page has."""
    engine = ENGINES.get(sample.engine)
    if engine is None:
        return LoadRung.NONE
    rungs = _RUNGS_FROM[engine.load_rung]
    return next((rung for rung in rungs if _has(sample, rung)), LoadRung.NONE)


def grown_rung(samples: Sequence[EngineSample]) -> LoadRung:
    """Return the best rung whose counters the two newest samples have; of a single sample, the best that it has."""
    best, newest, before = rung_of(samples[-1]), samples[-1], samples[-2:][0]
    for rung in _RUNGS_FROM[best]:
        if _has(newest, rung) and (not NEEDED_COUNTERS[rung] or _has(before, rung)):
            return rung
    return LoadRung.NONE


def hidden_rung(samples: Sequence[EngineSample], rung: LoadRung) -> str:
    """Say which reading of a better rung the two newest pages have and which is not known; empty where there is none.

    The load by this rung is then a lower bound, unless it is computed from a time per token too.
    """
    if rung.has_token_time:
        return ""
    engine = ENGINES.get(samples[-1].engine)
    for better in _RUNGS_FROM[engine.load_rung] if engine is not None else ():
        if better is rung:
            break
        for sample in samples[:-3:-1]:
            unknown = [it for it in _READINGS[better] if it.of(sample) is None]
            if unknown and all(it.name in sample.known_parts for it in unknown):
                return unknown[0].unknown(sample)
    return ""


def observes_ended_requests(rung: LoadRung, engine_name: str) -> bool:
    """Whether the time per token is known only when a request ends."""
    if rung is not LoadRung.TOKEN_RATE:
        return rung is LoadRung.REQUEST_TOKEN_TIME
    engine = ENGINES.get(engine_name)
    return engine is not None and engine.counts_tokens_at_end


def newest_with(window: Sequence[EngineSample], rung: LoadRung) -> Sequence[EngineSample]:
    """Return the samples after the last one without the readings of the rung, at least the newest."""
    for number in range(len(window) - 2, -1, -1):
        if not _has(window[number], rung):
            return window[number + 1 :]
    return window


def _has(sample: EngineSample, rung: LoadRung) -> bool:
    readings = _READINGS[rung]
    return bool(readings) and all(reading.of(sample) is not None for reading in readings)
