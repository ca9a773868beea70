# SPDX-License-Identifier: Apache-2.0
"""Decides which questions are those of a ScaledObject that exists and declares the trigger.

Law: only such a question is remembered, in metrics, on the status page, in Events and in deletion costs. Any client can
ask, with any name and any metadata.
"""

from keda_gpu_scaler.core.trigger.metric_type import declares
from keda_gpu_scaler.core.types import Unavailable
from keda_gpu_scaler.server.bounded_cache import BoundedCache
from keda_gpu_scaler.server.preparation import Prepared
from keda_gpu_scaler.server.request_resolver import IDLE_SECONDS, MAX_TRIGGERS, ResolvedTrigger


class Declarations:
    """Compares questions with what the API server knows, and keeps the result while the API server is not available."""

    def __init__(self) -> None:
        self._declared: BoundedCache[tuple[object, ...], bool] = BoundedCache(MAX_TRIGGERS, IDLE_SECONDS)

    def is_declared(self, resolved: ResolvedTrigger, prepared: Prepared) -> bool:
        """Whether the ScaledObject of a question exists and declares its trigger.

        Without access to the API server, or without the right to read ScaledObjects, nothing can be compared, and
        every question counts.
        """
        known, now = prepared.workload, prepared.at_seconds
        if known is None:
            return True
        key = (resolved.namespace, resolved.name, resolved.metadata)
        if known.triggers is None:
            is_forbidden = isinstance(known, Unavailable) and known.is_permanent
            return is_forbidden or self._declared.get(key, now) is not None
        if not declares(known.triggers, dict(resolved.metadata)):
            self._declared.discard(key)
            return False
        self._declared.put(key, True, now)
        return True

    def expire_idle(self, now: float) -> None:
        """Release the triggers that were not used for a while."""
        self._declared.expire(now)
