# SPDX-License-Identifier: Apache-2.0
"""Presets for sources of demand: routers, gateways and interceptors whose series are known."""

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class DemandPreset:
    """One known source of demand.

    ``series`` are the names that its series of waiting requests may have. The first name that is found counts.
    ``siblings`` are beginnings of names that the source exports also while it has no such series. A page with one of
    them and without the series says that no request waits.
    """

    name: str
    title: str
    series: tuple[str, ...]
    remark: str
    siblings: tuple[str, ...] = ()


DEMANDS: MappingProxyType[str, DemandPreset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            DemandPreset(
                "epp",
                "endpoint picker of the Gateway API inference extension, or of llm-d",
                ("llm_d_epp_flow_control_queue_size", "inference_extension_flow_control_queue_size"),
                "its flow control must be switched on; to read one pool, set `demandMetric` to "
                '`{inference_pool="NAME"}`',
                # The gauge of a flow is deleted when the flow is idle. The other series of flow control stay, and
                # exist only where flow control is switched on.
                siblings=("llm_d_epp_flow_control_", "inference_extension_flow_control_"),
            ),
            DemandPreset(
                "vllm-router",
                "router of the vLLM production stack",
                ("vllm:num_incoming_requests_total",),
                'incoming requests per second; to read one model, set `demandMetric` to `{model="NAME"}`',
            ),
            DemandPreset(
                "http-add-on",
                "interceptor of KEDA's HTTP add-on",
                ("http_add_on_pending_requests",),
                "requests that the interceptor holds or has forwarded and that have not ended; to read one host, set "
                '`demandMetric` to `{host="NAMESPACE/NAME"}`',
            ),
            DemandPreset(
                "dynamo",
                "frontend of NVIDIA Dynamo",
                ("dynamo_frontend_queued_requests", "dynamo_frontend_inflight_requests"),
                'requests that have no first token yet; to read one model, set `demandMetric` to `{model="NAME"}`',
                siblings=("dynamo_frontend_",),
            ),
        )
    }
)
"""Every preset by its name in trigger metadata."""


def siblings_of(series: str) -> tuple[str, ...]:
    """Return how the names of the other series begin that the source of this series exports; empty if unknown."""
    return _SIBLINGS.get(series, ())


_SIBLINGS = MappingProxyType({name: preset.siblings for preset in DEMANDS.values() for name in preset.series})
