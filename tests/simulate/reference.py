# SPDX-License-Identifier: Apache-2.0
"""A replica that computes each iteration by itself: slow, and simple enough to be read."""

from dataclasses import dataclass, field

from keda_gpu_scaler.simulate.engine_model import EngineModel


@dataclass(eq=False)
class Job:
    """One request on the replica."""

    arrival: float
    prompt: int
    answer: int
    left: int
    done: int = 0
    held: int = 0
    first: float | None = None
    last: float | None = None


@dataclass
class SlowReplica:
    """Works off a list of requests; ``tokens`` and ``preemptions`` count."""

    model: EngineModel
    jobs: list[Job]
    running: list[Job] = field(default_factory=list)
    waiting: list[Job] = field(default_factory=list)
    tokens: int = 0
    preemptions: int = 0

    def run(self) -> None:
        """Serve every request."""
        now, coming = 0.0, sorted(self.jobs, key=lambda job: job.arrival)
        while coming or self.running or self.waiting:
            if not self.running and not self.waiting:
                now = max(now, coming[0].arrival)
            while coming and coming[0].arrival <= now:
                self.waiting.append(coming.pop(0))
            now = self._iterate(now)

    def _iterate(self, now: float) -> float:
        model, takes = self.model, {}
        was_preempted = self._make_room()
        budget = model.token_budget - sum(job.left == 0 for job in self.running)
        for job in list(self.running):
            if job not in self.running:
                continue
            if job.left == 0:
                takes[id(job)] = 1
                continue
            take = min(job.left, budget)
            while self._used(takes) + take > model.kv_tokens and len(self.running) > 1 and job in self.running:
                self._preempt()
                was_preempted = True
            if job in self.running:
                takes[id(job)] = take
                budget -= take
        while self.waiting and not was_preempted and budget > 0 and len(self.running) < model.max_seqs:
            job = self.waiting[0]
            take = min(job.left, budget)
            if self._used(takes) + take > model.kv_tokens and self.running:
                break
            self.running.append(self.waiting.pop(0))
            takes[id(job)] = take
            budget -= take
        return self._finish(now, takes)

    def _used(self, takes: dict[int, int]) -> int:
        decoding = sum(1 for job in self.running if job.left == 0 and id(job) not in takes)
        return sum(job.held + takes.get(id(job), 0) for job in self.running) + decoding

    def _make_room(self) -> bool:
        was_preempted = False
        while len(self.running) > 1:
            needed = sum(job.held for job in self.running) + sum(job.left == 0 for job in self.running)
            if needed <= self.model.kv_tokens:
                break
            self._preempt()
            was_preempted = True
        return was_preempted

    def _preempt(self) -> None:
        job = self.running.pop()
        job.left, job.held = job.prompt + job.done, 0
        self.waiting.insert(0, job)
        self.preemptions += 1

    def _finish(self, now: float, takes: dict[int, int]) -> float:
        model = self.model
        decoding = sum(job.left == 0 for job in self.running)
        prompts = sum(takes[id(job)] for job in self.running if job.left)
        for job in self.running:
            job.held += takes[id(job)]
        held = sum(job.held for job in self.running)
        now += model.iteration_seconds + model.request_seconds * decoding
        now += model.prompt_token_seconds * prompts + model.kv_token_seconds * held
        for job in list(self.running):
            job.left = max(0, job.left - takes[id(job)])
            if job.left:
                continue
            job.done += 1
            self.tokens += 1
            job.first = now if job.first is None else job.first
            if job.done == job.answer:
                job.last = now
                self.running.remove(job)
        return now
