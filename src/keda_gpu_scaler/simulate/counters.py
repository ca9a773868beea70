# SPDX-License-Identifier: Apache-2.0
"""The counters of a simulated engine, which its samples are made of."""

import math
from dataclasses import dataclass, field

TOKEN_TIME_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    *(0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, math.inf),
)  # fmt: skip
"""The bounds of vLLM's histogram of the times between tokens (vllm/v1/metrics/loggers.py)."""
FIRST_TOKEN_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0, math.inf),
)  # fmt: skip
"""The bounds of vLLM's histogram of the times to the first token."""


@dataclass(slots=True)
class EngineCounters:
    """What an engine counted since it started; the histograms are not cumulative over their buckets.

    ``request_mean_seconds`` adds up the mean time per token of each request that ended, ``service_seconds`` the time of
    computation of each.
    """

    prompt_tokens: int = 0
    ended: int = 0
    first_tokens: int = 0
    token_times: int = 0
    token_seconds: float = 0.0
    wait_seconds: float = 0.0
    busy_seconds: float = 0.0
    preemptions: int = 0
    request_means: int = 0
    request_mean_seconds: float = 0.0
    service_seconds: float = 0.0
    executions: int = 0
    token_histogram: list[int] = field(default_factory=lambda: [0] * len(TOKEN_TIME_BOUNDS))
    first_token_histogram: list[int] = field(default_factory=lambda: [0] * len(FIRST_TOKEN_BOUNDS))

    @property
    def tokens(self) -> int:
        """The tokens of answers: each is the first of its request, or comes after another one."""
        return self.first_tokens + self.token_times
