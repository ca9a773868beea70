# SPDX-License-Identifier: Apache-2.0
"""Notes when a pod that carried load was last removed from a workload."""

import math
from collections.abc import Iterable

from keda_gpu_scaler.core.types import Pod, PodRef


class Removals:
    """Compares the pods of one workload with its pods at the last call."""

    def __init__(self) -> None:
        self._serving: frozenset[PodRef] = frozenset()
        self._at_seconds = -math.inf

    def note(self, pods: Iterable[Pod], now: float) -> float:
        """Return when a ready pod was last deleted or began to be deleted; minus infinity while none was.

        Args:
            pods: the pods of the workload, whatever their state.
            now: monotonic seconds.
        """
        left = [pod for pod in pods if not pod.is_deleting]
        if not self._serving <= {pod.ref for pod in left}:
            self._at_seconds = now
        self._serving = frozenset(pod.ref for pod in left if pod.is_ready)
        return self._at_seconds
