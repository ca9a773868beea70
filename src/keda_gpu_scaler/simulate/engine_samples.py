# SPDX-License-Identifier: Apache-2.0
"""Makes the samples of a simulated engine: the readings that a page of this engine would have.

Law: a sample has the readings that the engine's own page has, and no other. Which these are is taken from the engine's
metric map. The page itself is not written and parsed, because that takes longer than the simulation; the tests write
the pages, parse them, and compare.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

from keda_gpu_scaler.core.state.scrape import AUTO
from keda_gpu_scaler.core.trigger.engines import ENGINES, LoadRung
from keda_gpu_scaler.core.types import EngineSample, Histogram
from keda_gpu_scaler.engines import METRIC_MAPS
from keda_gpu_scaler.simulate.counters import FIRST_TOKEN_BOUNDS, TOKEN_TIME_BOUNDS, EngineCounters
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.gateway import Server

ASSUMED_ENGINE = "vllm"
ASSUMED_SERVICE = "triton"


def simulated_engine(name: str, *, is_service: bool = False) -> str:
    """Return the engine whose pages are simulated for a trigger's ``engine``.

    Args:
        name: the trigger's engine, or ``AUTO``.
        is_service: whether the replicas compute whole requests.

    Raises:
        SimulationError: the pages of this engine have no load.
    """
    engine = (ASSUMED_SERVICE if is_service else ASSUMED_ENGINE) if name == AUTO else name
    if is_service and engine in METRIC_MAPS and not METRIC_MAPS[engine].service_seconds_total:
        raise SimulationError(
            f"metadata.engine: {engine} generates tokens, and with --service-time a replica computes whole requests: "
            "remove --service-time, or engine"
        )
    if engine not in METRIC_MAPS or ENGINES[engine].load_rung is LoadRung.NONE:
        raise SimulationError(
            f"metadata.engine: {engine} exports no load of its requests, so that its pods cannot be simulated: remove "
            "engine, or set another one"
        )
    return engine


@dataclass(frozen=True, slots=True)
class SampleMaker:
    """Makes samples of one engine. ``names`` are the readings that its page has.

    ``is_by_request`` says that the engine observes the mean time per token of a request when it ends.
    """

    engine: str
    names: frozenset[str]
    is_by_request: bool

    def sample(self, server: Server, now: float) -> EngineSample:
        """Return the sample of a replica whose counters are up to date."""
        counters = server.counters
        if self.names >= _VLLM_READINGS and not self.is_by_request:
            return _sample_with_token_times(self.engine, server, counters, now)
        readings = {name: read(server, counters) for name, read in _READINGS.items() if name in self.names}
        if self.is_by_request and "token_times_total" in readings:
            readings["token_times_total"] = float(counters.request_means)
            readings["token_time_seconds_total"] = counters.request_mean_seconds
            readings["token_time"] = None
        return EngineSample(now, self.engine, **readings)


def sample_maker(engine: str, *, is_service: bool = False) -> SampleMaker:
    """Return what makes the samples of an engine, by its metric map.

    Args:
        engine: its name.
        is_service: whether it computes whole requests; Triton then has no series of TensorRT-LLM.
    """
    described = METRIC_MAPS[engine]
    names = {field.name for field in fields(described) if getattr(described, field.name)}
    if "first_token" in names:
        names.add("first_tokens_total")
    if "token_time" in names:
        names |= {"token_time_seconds_total", "token_times_total"}
    names = names & _SERVICE_READINGS if is_service else names - _SERVICE_ONLY
    is_by_request = ENGINES[engine].load_rung is LoadRung.REQUEST_TOKEN_TIME
    return SampleMaker(engine, frozenset(names & _READINGS.keys()), is_by_request)


def _sample_with_token_times(engine: str, server: Server, counters: EngineCounters, now: float) -> EngineSample:
    """Make the sample of vLLM and of engines with the same readings; the usual case, and so without a table."""
    return EngineSample(
        now,
        engine,
        float(server.queue_length),
        float(server.running),
        None,
        server.kv_ratio,
        float(counters.ended),
        float(counters.tokens),
        counters.wait_seconds,
        float(counters.ended),
        _histogram(FIRST_TOKEN_BOUNDS, counters.first_token_histogram),
        float(counters.first_tokens),
        float(counters.prompt_tokens),
        _histogram(TOKEN_TIME_BOUNDS, counters.token_histogram),
        counters.token_seconds,
        float(counters.token_times),
    )


def _histogram(bounds: tuple[float, ...], counts: list[int]) -> Histogram:
    return Histogram(bounds, tuple(map(float, accumulate(counts))))


_Reading = Callable[[Server, EngineCounters], Any]
_READINGS: dict[str, _Reading] = {
    "waiting": lambda server, counters: float(server.queue_length),
    "running": lambda server, counters: float(server.running),
    "running_limit": lambda server, counters: float(server.seats),
    "kv_cache_ratio": lambda server, counters: None if math.isnan(server.kv_ratio) else server.kv_ratio,
    "requests_total": lambda server, counters: float(counters.ended),
    "tokens_total": lambda server, counters: float(counters.tokens),
    "queue_wait_seconds_total": lambda server, counters: counters.wait_seconds,
    "queue_waits_total": lambda server, counters: float(counters.ended),
    "first_token": lambda server, counters: _histogram(FIRST_TOKEN_BOUNDS, counters.first_token_histogram),
    "first_tokens_total": lambda server, counters: float(counters.first_tokens),
    "prompt_tokens_total": lambda server, counters: float(counters.prompt_tokens),
    "token_time": lambda server, counters: _histogram(TOKEN_TIME_BOUNDS, counters.token_histogram),
    "token_time_seconds_total": lambda server, counters: counters.token_seconds,
    "token_times_total": lambda server, counters: float(counters.token_times),
    "service_seconds_total": lambda server, counters: counters.service_seconds,
    "services_total": lambda server, counters: float(counters.ended),
    "executions_total": lambda server, counters: float(counters.executions),
}
_SERVICE_ONLY = frozenset({"service_seconds_total", "services_total", "executions_total"})
_SERVICE_READINGS = _SERVICE_ONLY | {"waiting", "requests_total", "queue_wait_seconds_total", "queue_waits_total"}
_VLLM_READINGS = frozenset(_READINGS) - _SERVICE_ONLY - {"running_limit"}
