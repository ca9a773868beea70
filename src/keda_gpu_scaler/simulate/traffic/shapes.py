# SPDX-License-Identifier: Apache-2.0
"""Named synthetic shapes of traffic: steady, diurnal, bursts, and a night without any request."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.rates import RateRow, traffic_of_rates

_HOUR, _DAY = 60.0, 1440.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape: its length in minutes, and the factor of the mean rate in each minute."""

    name: str
    minutes: float
    meaning: str
    factor: Callable[[float], float]


def _diurnal(minute: float) -> float:
    """Return a day with its least traffic at 4 and its most at 16 o'clock, in a ratio of 1 to 9."""
    return 1 - 0.8 * math.cos(2 * math.pi * (minute - 240) / _DAY)


def _bursts(minute: float) -> float:
    """Return a calm rate, with four times of it for three minutes out of fifteen."""
    return 2.5 if minute % 15 >= 12 else 0.625


def _overnight_zero(minute: float) -> float:
    """Return a working day from 7 to 20 o'clock, and nothing in the night."""
    hour = minute % _DAY / 60
    return 0.0 if not 7 <= hour < 20 else (math.pi / 2) * (24 / 13) * math.sin(math.pi * (hour - 7) / 13)


SHAPES: MappingProxyType[str, Shape] = MappingProxyType(
    {
        shape.name: shape
        for shape in (
            Shape("steady", _HOUR, "the same rate for an hour", lambda minute: 1.0),
            Shape("diurnal", _DAY, "a day between 0.2 and 1.8 times the mean rate", _diurnal),
            Shape("bursts", 2 * _HOUR, "two hours with a fourfold rate for 3 minutes out of 15", _bursts),
            Shape("overnight-zero", _DAY, "a working day from 7 to 20 h, and no request in the night", _overnight_zero),
        )
    }
)
"""Every shape by its name."""


def traffic_of_shape(name: str, rate: float, lengths: Lengths, minutes: float | None = None) -> RequestTraffic:
    """Return the traffic of a shape.

    Args:
        name: of the shape.
        rate: mean requests per second.
        lengths: of the requests.
        minutes: the length of the traffic; None for the shape's own.

    Raises:
        SimulationError: the shape is not known, or the rate has no request.
    """
    shape = SHAPES.get(name)
    if shape is None:
        raise SimulationError(f"--traffic: {name} is neither a file nor one of {', '.join(SHAPES)}")
    if not (math.isfinite(rate) and rate > 0):
        raise SimulationError(f"--rate: Invalid value: {rate:g}: must be above 0 requests per second")
    count = max(1, math.ceil(shape.minutes if minutes is None else minutes))
    rates: list[RateRow] = [(float(minute), 60 * rate * shape.factor(minute)) for minute in range(count)]
    what = f"the shape {name}: {shape.meaning}; {rate:g} requests per second on average (--rate)"
    return traffic_of_rates(name, rates, lengths, assumptions=(what,))
