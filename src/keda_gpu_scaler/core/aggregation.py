# SPDX-License-Identifier: Apache-2.0
"""How do many readings become one? Over known values only; the caller decides what unknown means.

The law of this module: every aggregate but ``sum`` lies within its inputs, and none depends on their order.
"""

import math
from collections.abc import Callable, Sequence
from types import MappingProxyType


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one value, exactly rounded and never outside the inputs.

    Raises:
        ValueError: when there is no value.
    """
    if not values:
        raise ValueError("the mean of no values is unknown")
    # Rounding may carry the quotient one step beyond equal inputs: three times 0.1 must stay 0.1.
    return min(max(math.fsum(values) / len(values), min(values)), max(values))


def nearest_rank(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least ``percent`` per cent of the values do not exceed.

    The nearest-rank definition, which always answers with one of its inputs: below twenty values
    the 95th percentile is the largest.
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
"""Every aggregation by its name in trigger metadata. Each is monotonic in every input."""
