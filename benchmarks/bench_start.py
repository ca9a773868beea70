# SPDX-License-Identifier: Apache-2.0
"""Measures the time from the start of ``serve`` to its first answers.

Run it with ``python -m benchmarks.bench_start``.
"""

import time
from collections.abc import Iterator

from benchmarks.lab import Figure, Serve, in_milliseconds, node, ref, run_alone, until_answered

TITLE = "From exec of `serve` to the first answer, 8 devices; medians of the rounds (lowest to highest)"
ROUNDS = 11


def figures() -> Iterator[Figure]:
    """Yield the times. The first metric specification needs no sample; the first value needs one."""
    rounds = [_start() for _ in range(ROUNDS)]
    for method, column in zip(("connection", "GetMetricSpec", "GetMetrics"), zip(*rounds, strict=True), strict=True):
        yield Figure(f"first {method}", {"time": in_milliseconds(column), "rounds": str(ROUNDS)})


def _start() -> tuple[float, float, float]:
    with node() as fake, Serve(fake) as serve:
        serve.wait_until_it_listens()
        listening = time.monotonic()
        with serve.stub() as stub:
            stub.GetMetricSpec(ref(), timeout=10)
            specified = time.monotonic()
            until_answered(stub)
            return listening - serve.started, specified - serve.started, time.monotonic() - serve.started


if __name__ == "__main__":
    run_alone(TITLE, figures())
