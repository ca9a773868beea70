# SPDX-License-Identifier: Apache-2.0
"""One replica of an engine with continuous batching, from event to event.

Law: between two events every running request gets one token in each iteration. So the time of any number of iterations
is a sum in closed form, and no iteration is computed by itself unless prompts are computed in it.

As in vLLM's scheduler (vllm/v1/core/sched/scheduler.py): running requests come first, then waiting ones in their order
while seats, the token budget and the KV cache last; prompts are computed in chunks; where the cache is full, the
youngest running request is preempted and computed again.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush

from keda_gpu_scaler.simulate.counters import FIRST_TOKEN_BOUNDS, TOKEN_TIME_BOUNDS, EngineCounters
from keda_gpu_scaler.simulate.engine_model import EngineModel
from keda_gpu_scaler.simulate.requests import NEVER, RequestLog

PREALLOCATED_RATIO = 0.9
"""The default of vLLM's --gpu-memory-utilization."""
_PRUNED_AFTER = 2048


class Replica:
    """A replica. ``ends_at`` is the time of its next event, infinite while it is idle.

    ``load`` is the number of requests that it has. ``counters`` are up to date after ``settle``.
    """

    __slots__ = (
        "_answers", "_chunks", "_decoding", "_done", "_first_at", "_first_step_seconds", "_given_at", "_growth",
        "_iterations", "_log", "_model", "_prompts", "_step", "_youngest",
        "counters", "ends_at", "kv", "load", "slot", "started_at", "waiting",
    )  # fmt: skip

    def __init__(self, model: EngineModel, log: RequestLog) -> None:
        self._model = model
        self._log = log
        self._prompts, self._answers = log.traffic.prompts, log.traffic.answers
        self._done, self._first_at, self._given_at = log.done, log.first_at, log.given_at
        self.counters = EngineCounters()
        self.waiting: deque[int] = deque()
        self.slot = -1
        self.load = 0
        self.kv = 0
        """Tokens in the cache, those of the iteration that goes on included."""
        self.started_at = 0.0
        self.ends_at = NEVER
        self._step = 0
        self._decoding: list[tuple[int, int]] = []  # a heap of (the step of the last token, request)
        self._chunks: list[list[int]] = []  # [request, prompt tokens left, tokens of this iteration], the oldest first
        self._youngest: list[int] = []  # the running requests in the order of their admission; may hold ended ones
        self._iterations = 0  # of the decode run that goes on; 0 while prompts are computed
        self._first_step_seconds = 0.0
        self._growth = 0.0

    @property
    def running(self) -> int:
        """The number of requests that run."""
        return len(self._decoding) + len(self._chunks)

    @property
    def queue_length(self) -> int:
        """The number of requests that wait."""
        return len(self.waiting)

    @property
    def kv_ratio(self) -> float:
        """The share of the KV cache in use."""
        return self.kv / self._model.kv_tokens

    @property
    def seats(self) -> int:
        """The number of requests that may run at once."""
        return self._model.max_seqs

    @property
    def room(self) -> int:
        """The number of further requests that may run."""
        return max(0, self._model.max_seqs - self.load)

    @property
    def memory_ratio(self) -> float:
        """The share of the GPU's memory in use: an engine takes it when it starts, and keeps it."""
        return PREALLOCATED_RATIO

    def busy_until(self, now: float) -> float:
        """Return for how many seconds it worked until now, after ``settle``."""
        return self.counters.busy_seconds + (now - self.started_at if self.ends_at != NEVER else 0.0)

    def give(self, request: int, now: float) -> None:
        """Take a request from the gateway."""
        self._given_at[request] = now
        self.load += 1
        waiting = self.waiting
        waiting.append(request)
        if self.ends_at == NEVER:
            self._begin(now)
        elif self._iterations > 1 and len(waiting) == 1 and len(self._decoding) < self._model.max_seqs:
            self._end_after_this_iteration(now)  # in a decode run there is no chunk

    def give_all(self, requests: Sequence[int], now: float) -> None:
        """Take some requests together."""
        for request in requests:
            self.give(request, now)

    def settle(self, now: float) -> None:
        """Count the iterations that ended until now; no request ends in them."""
        if self._iterations > 1:
            completed = min(self._completed_by(now), self._iterations - 1)
            if completed > 0:
                self._count_steps(completed)
                self.started_at += self._seconds_of(completed)
                self.kv += completed * len(self._decoding)
                self._first_step_seconds += completed * self._growth
                self._iterations -= completed

    def finish(self) -> None:
        """Do what is due at ``ends_at``, and begin what follows."""
        now, iterations, decoding = self.ends_at, self._iterations, self._decoding
        if iterations:
            self._count_steps(iterations)
            self.kv += (iterations - 1) * len(decoding)
        else:
            self._finish_prompts(now)
        if decoding and decoding[0][0] <= self._step:
            self._end_requests(now)
        self._begin(now)

    def _end_requests(self, now: float) -> None:
        """End every request whose last token is that of this step."""
        decoding, step, log, counters = self._decoding, self._step, self._log, self.counters
        answers, prompts, first_at = self._answers, self._prompts, self._first_at
        while decoding and decoding[0][0] <= step:
            request = heappop(decoding)[1]
            answer = answers[request]
            log.ended_at[request] = now
            self._done[request] = answer
            self.kv -= prompts[request] + answer - 1
            self.load -= 1
            counters.ended += 1
            counters.wait_seconds += log.queue_waits[request]
            if answer > 1:
                counters.request_means += 1
                counters.request_mean_seconds += (now - first_at[request]) / (answer - 1)

    def take_away(self, now: float) -> list[int]:
        """Stop, and return the requests that did not end, the running ones first."""
        self.settle(now)
        left = [request for _, request in self._decoding] + [chunk[0] for chunk in self._chunks] + [*self.waiting]
        self._decoding, self._chunks, self._youngest = [], [], []
        self.waiting.clear()
        self.load, self.kv, self.ends_at, self._iterations = 0, 0, NEVER, 0
        return left

    # ---- an iteration ----

    def _begin(self, now: float) -> None:
        model, decoding, chunks = self._model, self._decoding, self._chunks
        count, capacity = len(decoding), model.kv_tokens
        was_preempted = False
        if self.kv + count > capacity and count + len(chunks) > 1:
            self._preempt_until_it_fits(now)
            was_preempted, count = True, len(decoding)
        prompt_tokens, budget = 0, model.token_budget - count
        if chunks:
            prompt_tokens, was_chunk_preempted = self._continue_chunks(budget, count, now)
            budget -= prompt_tokens
            was_preempted = was_preempted or was_chunk_preempted
        if self.waiting and not was_preempted:
            prompt_tokens += self._admit(budget, count, now)
        count = len(decoding)
        if not count and not prompt_tokens:
            self.ends_at, self._iterations = NEVER, 0
            if not chunks:
                self.kv = 0
            return
        before = self.kv
        self.kv = before + count + prompt_tokens
        seconds = (
            model.iteration_seconds
            + model.request_seconds * count
            + model.prompt_token_seconds * prompt_tokens
            + model.kv_token_seconds * self.kv
        )
        self.started_at = now
        if prompt_tokens:
            self._iterations = 0
            self.ends_at = now + seconds
            return
        iterations = decoding[0][0] - self._step
        if count > 1 and iterations > (room := (capacity - before) // count):
            iterations = room
        # In the iteration after a preemption there may be room for the request that was preempted.
        if was_preempted or iterations < 1:
            iterations = 1
        self._iterations = iterations
        self._first_step_seconds = seconds
        self._growth = growth = model.kv_token_seconds * count
        self.ends_at = now + iterations * seconds + growth * (iterations * (iterations - 1) / 2)

    def _continue_chunks(self, budget: int, count: int, now: float) -> tuple[int, bool]:
        """Give each running prompt its next chunk; return the tokens, and whether a request was preempted."""
        tokens, was_preempted, number = 0, False, 0
        while number < len(self._chunks):
            chunk = self._chunks[number]
            take = min(chunk[1], budget - tokens)
            if self.kv + count + tokens + take > self._model.kv_tokens and self.running > 1:
                was_preempted = True
                if self._preempt_youngest(now) == chunk[0]:
                    break
                continue
            chunk[2] = take
            tokens += take
            number += 1
        return tokens, was_preempted

    def _admit(self, budget: int, count: int, now: float) -> int:
        """Admit waiting requests while seats, budget and cache last; return their prompt tokens of this iteration."""
        model, waiting, chunks, youngest = self._model, self.waiting, self._chunks, self._youngest
        if len(youngest) > _PRUNED_AFTER:
            self._prune_youngest()
            youngest = self._youngest
        seats = model.max_seqs - count - len(chunks)
        room = model.kv_tokens - self.kv - count
        if chunks:
            room -= sum([chunk[2] for chunk in chunks])
        tokens = 0
        while waiting and seats > 0 and tokens < budget:
            request = waiting[0]
            done = self._done[request]
            take = left = self._prompts[request] + done
            if take > budget - tokens:
                take = budget - tokens
            if tokens + take > room and (count or chunks):
                break
            waiting.popleft()
            if not done:
                self._log.queue_waits[request] = now - self._given_at[request]
            chunks.append([request, left, take])
            youngest.append(request)
            tokens += take
            seats -= 1
        return tokens

    def _finish_prompts(self, now: float) -> None:
        """End an iteration in which prompts were computed: every decoding request has a token too."""
        counters, seconds = self.counters, now - self.started_at
        self._step += 1
        counters.busy_seconds += seconds
        if count := len(self._decoding):
            counters.token_times += count
            counters.token_seconds += count * seconds
            counters.token_histogram[bisect_left(TOKEN_TIME_BOUNDS, seconds)] += count
        unfinished = []
        for chunk in self._chunks:
            request, left, take = chunk
            if left > take:
                chunk[1], chunk[2] = left - take, 0
                unfinished.append(chunk)
            else:
                self._first_token(request, now)
        self._chunks = unfinished

    def _first_token(self, request: int, now: float) -> None:
        counters, given_at = self.counters, self._given_at[request]
        done = self._done[request] + 1
        self._done[request] = done
        waited = now - given_at  # for a preempted request since the preemption, right after the token before
        if self._first_at[request] == NEVER:
            model, log = self._model, self._log
            self._first_at[request] = now
            log.overheads[request] = model.overhead_seconds + model.overhead_request_seconds * self.running
            counters.prompt_tokens += self._prompts[request]  # as in vLLM, when the first token comes
            counters.first_tokens += 1
            counters.first_token_histogram[bisect_left(FIRST_TOKEN_BOUNDS, waited)] += 1
        else:
            counters.token_times += 1
            counters.token_seconds += waited
            counters.token_histogram[bisect_left(TOKEN_TIME_BOUNDS, waited)] += 1
        heappush(self._decoding, (self._step + self._answers[request] - done, request))

    # ---- preemption ----

    def _prune_youngest(self) -> None:
        alive = {request for _, request in self._decoding} | {chunk[0] for chunk in self._chunks}
        self._youngest = [request for request in self._youngest if request in alive]

    def _preempt_until_it_fits(self, now: float) -> None:
        while self.running > 1 and self.kv + len(self._decoding) > self._model.kv_tokens:
            self._preempt_youngest(now)

    def _preempt_youngest(self, now: float) -> int:
        """Preempt the running request that was admitted last; it waits before all others."""
        at_step = {request: step for step, request in self._decoding}
        in_chunks = {chunk[0]: chunk for chunk in self._chunks}
        while (request := self._youngest.pop()) not in at_step and request not in in_chunks:
            pass
        log = self._log
        if request in in_chunks:
            chunk = in_chunks[request]
            self._chunks.remove(chunk)
            self.kv -= log.traffic.prompts[request] + log.done[request] - chunk[1]
        else:
            done = log.traffic.answers[request] - (at_step[request] - self._step)
            log.done[request], log.given_at[request] = done, now
            self._decoding.remove((at_step[request], request))
            self._decoding.sort()
            self.kv -= log.traffic.prompts[request] + done - 1
        self.waiting.appendleft(request)
        self.counters.preemptions += 1
        return request

    # ---- a run of iterations that only decode ----

    def _seconds_of(self, iterations: int) -> float:
        return iterations * self._first_step_seconds + self._growth * (iterations * (iterations - 1) / 2)

    def _completed_by(self, now: float) -> int:
        """Return how many iterations of the run ended until now."""
        passed, first, growth = now - self.started_at, self._first_step_seconds, self._growth
        if passed < first:
            return 0
        half = first - growth / 2
        if growth > 0:
            completed = int((math.sqrt(half * half + 2 * growth * passed) - half) / growth)
        else:
            completed = int(passed / first)
        # Rounding may be off by one. The sums are those of ``_seconds_of``.
        while completed * first + growth * (completed * (completed - 1) / 2) > passed:
            completed -= 1
        while (completed + 1) * first + growth * ((completed + 1) * completed / 2) <= passed:
            completed += 1
        return completed

    def _end_after_this_iteration(self, now: float) -> None:
        iterations = self._completed_by(now) + 1
        if iterations < self._iterations:
            self._iterations = iterations
            self.ends_at = self.started_at + self._seconds_of(iterations)

    def _count_steps(self, iterations: int) -> None:
        """Count the tokens of the first iterations of the run."""
        count, first, growth = len(self._decoding), self._first_step_seconds, self._growth
        self._step += iterations
        seconds = iterations * first + growth * (iterations * (iterations - 1) / 2)
        counters, tokens = self.counters, count * iterations
        counters.busy_seconds += seconds
        counters.token_times += tokens
        counters.token_seconds += count * seconds
        histogram = counters.token_histogram
        bucket = bisect_left(TOKEN_TIME_BOUNDS, first)
        longest = first + growth * (iterations - 1)
        if longest <= TOKEN_TIME_BOUNDS[bucket]:
            histogram[bucket] += tokens
            return
        last = bisect_left(TOKEN_TIME_BOUNDS, longest)
        counted = 0
        while bucket < last:
            below = min(iterations, int((TOKEN_TIME_BOUNDS[bucket] - first) / growth) + 1)
            histogram[bucket] += count * (below - counted)
            counted, bucket = below, bucket + 1
        histogram[last] += count * (iterations - counted)
