# SPDX-License-Identifier: Apache-2.0
"""Runs Python's cycle collection by the clock, in short steps, so that it does not delay an RPC.

Law: only the youngest generation is collected often. Python starts a collection when the number of objects grows. In
a large fleet as many snapshots expire as arrive, so the number hardly grows while a hundred thousand objects are
created, and one collection then scans all of them (100 ms with 1,000 nodes). By the clock it scans a few hundred.

The caches of pure functions release what is not used at each full collection: an entry stays for one to two times
``FULL_COLLECTION_SECONDS`` after its last use.
"""

import gc

from keda_gpu_scaler.core.idle_cache import release_unused

FULL_COLLECTION_SECONDS = 600.0
"""The time between two full collections. With 1,000 nodes one takes 0.25 s and frees a few thousand objects."""

# Between two sweeps so many objects appear only after a defect. Then Python's own collections limit the memory.
_THRESHOLDS = (50_000, 100, 100)


class GcPolicy:
    """Collects the youngest generation at each ``sweep``, and all generations every ``FULL_COLLECTION_SECONDS``.

    Args:
        now: monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self._last_full_at = now

    def start(self) -> None:
        """Exempt the existing objects from collection, and collect by the clock from now on."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_THRESHOLDS)

    def sweep(self, now: float) -> None:
        """Collect once. A busy instance calls this several times a second."""
        is_due = now - self._last_full_at >= FULL_COLLECTION_SECONDS
        if is_due:
            self._last_full_at = now
            release_unused()
        gc.collect(2 if is_due else 0)
