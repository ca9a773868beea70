# SPDX-License-Identifier: Apache-2.0
"""Recordings of this program and logs of other tools, played in a loop."""

from keda_gpu_scaler.core.interfaces import Backend
from keda_gpu_scaler.core.trigger.metrics import METRICS
from keda_gpu_scaler.devices.registry import BackendSettings, Vendor, register


def _open(argument: str, settings: BackendSettings) -> Backend:
    from keda_gpu_scaler.devices.replay.backend import ReplayBackend

    return ReplayBackend(argument, settings.replay_speed)


register(
    Vendor(
        name="replay",
        title="a recording, played in a loop",
        open=_open,
        argument="PATH",
        metrics=tuple(METRICS),
        units="as recorded; traffic and activity are in recordings of this program",
    )
)
