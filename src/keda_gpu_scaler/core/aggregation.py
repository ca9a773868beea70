# SPDX-License-Identifier: Apache-2.0
"""Aggregations, which combine several known values into one.

Law: every aggregate except ``sum`` lies within its inputs, and none depends on their order. The caller decides what an
unknown value counts as.
"""

import math
from collections.abc import Callable, Sequence
from types import MappingProxyType


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean of at least one value, exactly rounded and never outside the inputs.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("the mean of no values is unknown")
    # Rounding may move the quotient one step beyond equal inputs: the mean of three times 0.1 must be 0.1.
    return min(max(math.fsum(values) / len(values), min(values)), max(values))


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are known, None where none is."""
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def nearest_rank(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that at least ``percent`` per cent of the values do not exceed.

    This is the nearest-rank definition. The result is always one of the inputs. Of fewer than twenty values the 95th
    percentile is the largest.
    """
    ordered = sorted(values)
    rank = -(-percent * len(ordered) // 100)  # ceiling, in whole numbers
    return ordered[max(rank, 1) - 1]


AGGREGATIONS: MappingProxyType[str, Callable[[Sequence[float]], float]] = MappingProxyType(
    {
        "max": max,
        "min": min,
        "avg": mean,
        "sum": math.fsum,
        "p95": lambda values: nearest_rank(values, 95),
        "p99": lambda values: nearest_rank(values, 99),
    }
)
"""Every aggregation by its name in the trigger's metadata. Each is monotonic in every input."""
