# SPDX-License-Identifier: Apache-2.0
"""What does an instance read that has no device, and is not meant to have one? Nothing, without complaint.

The law of this module: no device by design is not a fault.
"""

from keda_gpu_scaler.core.types import Sample


class NoneBackend:
    """Reads no device: for a front end, and for a node that only answers."""

    @property
    def source(self) -> str:
        """Where the readings come from."""
        return "none: no device by design"

    @property
    def deviceless(self) -> bool:
        """True: there is nothing to wait for."""
        return True

    def read(self, now: float) -> tuple[Sample, ...]:
        """Return no sample."""
        return ()

    def close(self) -> None:
        """Let go of nothing."""
