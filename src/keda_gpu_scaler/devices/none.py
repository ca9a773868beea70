# SPDX-License-Identifier: Apache-2.0
"""The backend of an instance without devices: it reads nothing, and that is no error.

Law: no device by design is not a fault.
"""

from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices.registry import Vendor, register


class NoneBackend:
    """Reads no device: for a front end, and for a node that only answers."""

    @property
    def source(self) -> str:
        """The origin of the readings."""
        return "none: no device by design"

    @property
    def deviceless(self) -> bool:
        """True: this backend never has a device."""
        return True

    def read(self, now: float) -> tuple[Sample, ...]:
        """Return no sample."""
        return ()

    def overdue_call(self) -> str | None:
        """Return None: it calls no driver."""
        return None

    def close(self) -> None:
        """Do nothing: nothing is open."""


register(Vendor(name="none", title="no device by design", open=lambda argument, settings: NoneBackend()))
