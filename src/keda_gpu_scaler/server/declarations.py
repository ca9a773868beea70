# SPDX-License-Identifier: Apache-2.0
"""Decides which questions are those of a ScaledObject that exists and declares the trigger.

Law: only such a question is remembered, in metrics, on the status page, in Events and in deletion costs, and only for
such a question credentials are sent. Any client can ask, with any name and any metadata.
"""

from keda_gpu_scaler.core.trigger.metric_type import declares
from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.server.bounded_cache import BoundedCache
from keda_gpu_scaler.server.request_resolver import IDLE_SECONDS, MAX_TRIGGERS, ResolvedTrigger, Standing


class Declarations:
    """Compares questions with what the API server knows, and keeps the result while the API server is not available."""

    def __init__(self) -> None:
        # Each declared trigger, with the state of the workload that was compared last.
        self._declared: BoundedCache[tuple[object, ...], Workload | Unavailable] = BoundedCache(
            MAX_TRIGGERS, IDLE_SECONDS
        )

    def standing(self, resolved: ResolvedTrigger, known: Workload | Unavailable | None, now: float) -> Standing:
        """Return whether the ScaledObject of a question exists and declares its trigger.

        Args:
            resolved: the question.
            known: what the API server knows under its name; None without access to the API server.
            now: monotonic seconds.
        """
        if known is None:
            return Standing.UNVERIFIABLE
        key = (resolved.namespace, resolved.name, resolved.metadata)
        if known.triggers is None:
            if isinstance(known, Unavailable) and known.is_permanent:
                return Standing.UNVERIFIABLE  # without the right to read ScaledObjects
            return Standing.UNDECLARED if self._declared.get(key, now) is None else Standing.DECLARED
        if self._declared.get(key, now) is known:
            return Standing.DECLARED
        if not declares(known.triggers, dict(resolved.metadata)):
            self._declared.discard(key)
            return Standing.UNDECLARED
        self._declared.put(key, known, now)
        return Standing.DECLARED

    def expire_idle(self, now: float) -> None:
        """Release the triggers that were not used for a while."""
        self._declared.expire(now)
