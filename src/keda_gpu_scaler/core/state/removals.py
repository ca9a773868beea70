# SPDX-License-Identifier: Apache-2.0
"""Notes when a pod that carried load last left a workload."""

import math
from collections.abc import Iterable

from keda_gpu_scaler.core.types import Pod, PodRef


class Removals:
    """Compares the pods of one workload with its pods at the last call."""

    def __init__(self) -> None:
        self._serving: frozenset[PodRef] = frozenset()
        self._at_seconds = -math.inf

    def note(self, pods: Iterable[Pod], now: float) -> float:
        """Return when a ready pod last left: it was deleted, began to be deleted, or is not ready any more.

        It is minus infinity while none did. The load of a pod that left moves to the other pods.

        Args:
            pods: the pods of the workload, whatever their state.
            now: monotonic seconds.
        """
        serving = frozenset([pod.ref for pod in pods if pod.is_ready and not pod.is_deleting])
        if not self._serving <= serving:
            self._at_seconds = now
        self._serving = serving
        return self._at_seconds
