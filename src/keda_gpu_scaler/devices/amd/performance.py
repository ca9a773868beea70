# SPDX-License-Identifier: Apache-2.0
"""The traffic over XGMI and the energy of one card, from the counters of ``gpu_metrics``.

Law: they are taken every ``PERFORMANCE_SECONDS`` while they are wanted, as means over the whole time between two.

The traffic over PCIe is unknown: the sources of its counters in ``gpu_metrics`` disagree about their unit, and the
file ``pcie_bw`` counts packets and blocks for a second. The counters of XGMI are in KB, which is read as 1,024 bytes.
"""

from collections.abc import Mapping

from keda_gpu_scaler.core.types import PerformanceReadings
from keda_gpu_scaler.devices.amd.gpu_metrics import GpuMetrics
from keda_gpu_scaler.devices.rates import IMPOSSIBLE_LINK_BYTES_PER_SECOND, Count, RateMeter, UnknownRateError

PERFORMANCE_SECONDS = 5.0
FIRST_SECONDS = 1.0
_EARLY_SECONDS = 0.25  # as the sampler's ticks jitter
_KIB = 1024
NO_PCIE = "amdgpu's files do not have the traffic in a known unit"
NO_ACTIVITY = "amdgpu's files do not have it"


class CardPerformance:
    """The expensive readings of one card. ``missing`` says why readings are unknown, by their names."""

    def __init__(self) -> None:
        self._rx: RateMeter[int] = RateMeter(_KIB, IMPOSSIBLE_LINK_BYTES_PER_SECOND)
        self._tx: RateMeter[int] = RateMeter(_KIB, IMPOSSIBLE_LINK_BYTES_PER_SECOND)
        self._last_at: float | None = None
        self._due_at = 0.0
        self._readings: PerformanceReadings | None = None
        self.missing: Mapping[str, str] = {}

    def stop(self) -> None:
        """End the readings. What the card does not have stays known."""
        self._rx.forget()
        self._tx.forget()
        self._last_at, self._readings = None, None

    def update(self, metrics: GpuMetrics | str, at_seconds: float) -> PerformanceReadings | None:
        """Take a table, or why there is none; return the readings, None until there are any.

        Args:
            metrics: the table of this read.
            at_seconds: monotonic seconds at the read.
        """
        last_at = self._last_at
        if last_at is not None and at_seconds < self._due_at:
            return self._readings
        self._last_at = at_seconds
        self._due_at = at_seconds + (FIRST_SECONDS if last_at is None else PERFORMANCE_SECONDS) - _EARLY_SECONDS
        missing = {"pcie": NO_PCIE, "activity": NO_ACTIVITY}
        rx = tx = energy = None
        if isinstance(metrics, str):
            self._rx.forget()
            self._tx.forget()
            missing["nvlink"] = metrics
        elif not metrics.xgmi_read_kib:
            missing["nvlink"] = "gpu_metrics has no traffic of XGMI links"
        else:
            try:
                rx = self._rx.update(_counts(metrics.xgmi_read_kib), at_seconds)
                tx = self._tx.update(_counts(metrics.xgmi_written_kib), at_seconds)
            except UnknownRateError as error:
                missing["nvlink"] = str(error)
        if isinstance(metrics, GpuMetrics):
            energy = metrics.energy_joules
        self.missing = missing
        self._readings = None
        if last_at is not None:
            self._readings = PerformanceReadings(
                at_seconds,
                max(0.0, at_seconds - last_at),
                nvlink_rx_bytes_per_second=rx,
                nvlink_tx_bytes_per_second=tx,
                energy_joules=energy,
            )
        return self._readings


def _counts(kib: Mapping[int, int]) -> dict[int, Count]:
    return {link: Count(count) for link, count in kib.items()}
