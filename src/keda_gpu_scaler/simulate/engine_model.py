# SPDX-License-Identifier: Apache-2.0
"""The model of one replica: how long an iteration of its engine takes, and how much it holds."""

import math
from dataclasses import dataclass, fields


class SimulationError(Exception):
    """A simulation that cannot be done. The text is a sentence: the field, the value, the limit and the remedy."""


@dataclass(frozen=True, slots=True)
class EngineModel:
    """An engine with continuous batching, as vLLM, SGLang or TensorRT-LLM.

    An iteration takes ``iteration_seconds``, and in addition ``request_seconds`` for each request that decodes,
    ``prompt_token_seconds`` for each prompt token that is computed, and ``kv_token_seconds`` for each token in the KV
    cache. ``kv_tokens`` is the size of the cache in tokens, ``max_seqs`` the number of requests that run at once
    (vLLM: --max-num-seqs), and ``token_budget`` the number of tokens of one iteration (--max-num-batched-tokens).
    ``overhead_seconds`` is the time outside the engine until a client has its first token, and
    ``overhead_request_seconds`` the part of it for each running request. ``gpus`` is the number of GPUs of a replica.
    ``source`` says where the numbers come from.
    """

    name: str
    iteration_seconds: float
    request_seconds: float
    prompt_token_seconds: float
    kv_token_seconds: float
    kv_tokens: int
    max_seqs: int = 256
    token_budget: int = 8192
    overhead_seconds: float = 0.03
    overhead_request_seconds: float = 0.0
    gpus: int = 1
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse a model with which time does not go on.

        Raises:
            SimulationError: a number is negative or not finite, or an iteration cannot serve every running request.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
                raise SimulationError(f"engine model {field.name}: Invalid value: {value:g}: must be 0 or more")
        if self.iteration_seconds + self.request_seconds <= 0 or not self.max_seqs or not self.kv_tokens:
            raise SimulationError(
                f"engine model {self.name}: an iteration must take time, and max_seqs and kv_tokens must be above 0"
            )
        if self.token_budget <= self.max_seqs:
            raise SimulationError(
                f"engine model token_budget: Invalid value: {self.token_budget}: must be above max_seqs "
                f"({self.max_seqs}), so that each running request gets a token in each iteration"
            )

    def describe(self) -> str:
        """Describe the model in one sentence without a full stop."""
        parts = (
            f"an iteration takes {1000 * self.iteration_seconds:.3g} ms",
            f"{1e6 * self.request_seconds:.3g} us a request",
            f"{1e6 * self.prompt_token_seconds:.3g} us a prompt token",
            f"{1e9 * self.kv_token_seconds:.3g} ns a token in the KV cache of {self.kv_tokens}",
        )
        limits = f"at most {self.max_seqs} requests and {self.token_budget} tokens an iteration"
        return f"{' + '.join(parts)}; {limits}; {self.gpus} GPU{'' if self.gpus == 1 else 's'} a replica"

    def work_seconds(self, prompt: float, answer: float, together: float = 100.0) -> float:
        """Return the time that a well-filled replica spends on a request.

        Args:
            prompt: tokens of the prompt.
            answer: tokens of the answer.
            together: the number of requests that decode at the same time.
        """
        token = self.iteration_seconds / together + self.request_seconds
        token += self.kv_token_seconds * (prompt + answer / 2)
        return prompt * self.prompt_token_seconds + answer * token


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """A server that computes whole requests: ``batch`` of them at most in ``service_seconds``, in each instance."""

    name: str
    service_seconds: float
    batch: int = 1
    instances: int = 1
    overhead_seconds: float = 0.0
    gpus: int = 1
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse a model with which time does not go on.

        Raises:
            SimulationError: the time of a batch is not above 0, or a number is below 1.
        """
        if not (math.isfinite(self.service_seconds) and self.service_seconds > 0):
            raise SimulationError(f"--service-time: Invalid value: {self.service_seconds:g}: must be above 0 seconds")
        if min(self.batch, self.instances, self.gpus) < 1:
            raise SimulationError("--batch, --instances, --gpus: must be 1 or more")

    @property
    def max_seqs(self) -> int:
        """The number of requests that are computed at once at most."""
        return self.batch * self.instances

    def describe(self) -> str:
        """Describe the model in one sentence without a full stop."""
        seconds = self.service_seconds
        shown = f"{seconds:g} s" if seconds >= 1 else f"{1000 * seconds:g} ms"
        what = f"a batch of up to {self.batch} requests" if self.batch > 1 else "a request"
        together = f", and {self.instances} are computed at the same time" if self.instances > 1 else ""
        return f"{what} takes {shown}{together}; {self.gpus} GPU{'' if self.gpus == 1 else 's'} a replica"

    def work_seconds(self, prompt: float, answer: float) -> float:
        """Return the time that a well-filled replica spends on a request, whatever its length is."""
        return self.service_seconds / self.max_seqs


ReplicaModel = EngineModel | ServiceModel
