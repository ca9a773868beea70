# SPDX-License-Identifier: Apache-2.0
"""The lengths of requests where a source does not say them.

The lengths of real requests are spread widely and to the right. They are drawn from a log-normal distribution, whose
spread is that of published chat traces.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from keda_gpu_scaler.simulate.engine_model import SimulationError

DEFAULT_PROMPT_TOKENS = 1024.0
DEFAULT_ANSWER_TOKENS = 256.0
DEFAULT_SPREAD = 0.8
"""The standard deviation of the logarithm. A mean of 1000 tokens then has a median of 726 and a p95 of 2700."""
_MOST_MEANS = 30.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens of prompts and answers, and how far they are spread; 0 gives every request the mean.

    ``matter`` says whether the replicas generate tokens. Where they do not, no length is an assumption.
    """

    prompt_tokens: float = DEFAULT_PROMPT_TOKENS
    answer_tokens: float = DEFAULT_ANSWER_TOKENS
    spread: float = DEFAULT_SPREAD
    seed: int = 1
    matter: bool = True

    def __post_init__(self) -> None:
        """Refuse lengths of nothing.

        Raises:
            SimulationError: a mean is below 1, or the spread is not from 0 to 3.
        """
        for flag, mean in (("--prompt-tokens", self.prompt_tokens), ("--answer-tokens", self.answer_tokens)):
            if not (math.isfinite(mean) and mean >= 1):
                raise SimulationError(f"{flag}: Invalid value: {mean:g}: must be 1 or more")
        if not 0 <= self.spread <= 3:
            raise SimulationError(f"--length-spread: Invalid value: {self.spread:g}: must be 0 to 3")

    def drawing(self) -> Callable[[], tuple[int, int]]:
        """Return a function that draws the tokens of the prompt and of the answer of one request after another."""
        random = Random(self.seed)  # noqa: S311 - a simulation, reproducible by its seed

        def draw() -> tuple[int, int]:
            return _one(random, self.prompt_tokens, self.spread), _one(random, self.answer_tokens, self.spread)

        return draw

    def describe(self) -> str:
        """Say what is assumed of both."""
        if not self.matter:
            return "the lengths of requests do not matter to replicas that serve whole requests"
        return f"{self.describe_prompts()}; {self.describe_answers()}"

    def describe_prompts(self) -> str:
        """Say what is assumed of prompts."""
        return f"prompts have {self.prompt_tokens:g} tokens on average (--prompt-tokens), {self._spread_text()}"

    def describe_answers(self) -> str:
        """Say what is assumed of answers."""
        return f"answers have {self.answer_tokens:g} tokens on average (--answer-tokens), {self._spread_text()}"

    def _spread_text(self) -> str:
        return f"spread log-normally by {self.spread:g} (--length-spread)" if self.spread else "each the same"


def _one(random: Random, mean: float, spread: float) -> int:
    drawn = random.lognormvariate(math.log(mean) - spread * spread / 2, spread) if spread else mean
    return max(1, round(min(drawn, _MOST_MEANS * mean)))
