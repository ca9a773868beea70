# SPDX-License-Identifier: Apache-2.0
"""Measures the latency of GetMetrics with a fast and a slow driver.

Run it with ``python -m benchmarks.bench_latency``. 1,000 triggers at KEDA's rate, 18 calls a minute each, are 300 calls
a second. No two triggers are equal, which is the worst case: no evaluation is shared.
"""

import statistics
import time
from collections.abc import Iterator

from benchmarks.lab import Figure, Serve, in_milliseconds, node, percentiles, run_alone, stolen_since_now
from benchmarks.load import CALLERS, failed_calls, load

TITLE = f"GetMetrics over one connection, 8 devices; medians of the rounds (lowest to highest), {CALLERS} callers"
ROUNDS = 3
_TRIGGERS = 1000
_SETTLE_SECONDS = 15.0  # the default window of ten seconds is full, and the slow driver is open
_DELAYS = {"driver calls of 1 ms": 1_000, "driver calls of 100 ms": 100_000}
_CASES: tuple[tuple[str, int, int, int | None], ...] = (
    ("300 calls/s of 1,000 triggers", 3000, _TRIGGERS, 300),
    ("1,000 calls/s of 1,000 triggers", 3000, _TRIGGERS, 1000),
    ("1,000 calls/s of one trigger", 3000, 1, 1000),
    (f"{CALLERS} callers without a pause, 1,000 triggers", 3000, _TRIGGERS, None),
    (f"{CALLERS} callers without a pause, one trigger", 3000, 1, None),
)


def figures() -> Iterator[Figure]:
    """Yield the latency at each rate, with a fast and with a slow driver."""
    for driver, delay in _DELAYS.items():
        with node(delay) as fake, Serve(fake, "--sample-interval", "1") as serve:
            serve.wait_until_it_answers()
            time.sleep(_SETTLE_SECONDS)
            serve.call_triggers(_TRIGGERS)  # all triggers are known, as after the first poll of KEDA
            for name, calls, triggers, rate in _CASES:
                stolen = stolen_since_now()
                loads = [
                    load(serve.address, calls=calls, triggers=triggers, calls_per_second=rate) for _ in range(ROUNDS)
                ]
                rounds = [percentiles(each.latencies_seconds) for each in loads]
                answered = statistics.median(each.calls_per_second for each in loads)
                yield Figure(
                    f"{name}; {driver}",
                    {
                        **{key: in_milliseconds(each[key] for each in rounds) for key in rounds[0]},
                        "answered": f"{answered:.0f}/s",
                        "failed calls": failed_calls(loads),
                        "stolen by the host": stolen(),
                        "client": loads[0].client,
                    },
                )


if __name__ == "__main__":
    run_alone(TITLE, figures())
