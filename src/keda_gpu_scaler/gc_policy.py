# SPDX-License-Identifier: Apache-2.0
"""When are reference cycles looked for? Little and often, so that no call waits while a fleet's memory is searched.

The law of this module: what is searched often is what is new. Python starts its search by how many objects there are
more than before; in a large fleet as many snapshots go as come, so that number hardly grows while a hundred thousand
objects pass, and then all of them are searched at once (100 ms with 1,000 nodes). By the clock it is a few hundred.
"""

import gc

ALL_SECONDS = 600.0
"""Among all objects that closely: at 1,000 nodes it takes a quarter of a second, and finds a few thousand."""

# Between two sweeps nothing grows so fast, unless something is wrong; then Python's own searches go on as a limit.
_THRESHOLDS = (50_000, 100, 100)


class GcPolicy:
    """Searches for cycles at each ``sweep``: among the newest objects, and now and then among all.

    Args:
        now: monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self._all_at = now

    def start(self) -> None:
        """Take what there is for what lasts as long as the process, and searches by the clock from now on."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_THRESHOLDS)

    def sweep(self, now: float) -> None:
        """Search once; to be called several times a second where much comes and goes."""
        is_due = now - self._all_at >= ALL_SECONDS
        if is_due:
            self._all_at = now
        gc.collect(2 if is_due else 0)
