# SPDX-License-Identifier: Apache-2.0
"""The table of fuzz targets: every decoder of bytes that this program did not write.

A target without a folder in the corpus takes all its seeds from the examples of other tests. Examples of binary
messages are written here as messages.
"""

from keda_gpu_scaler.wire import externalscaler_pb2, fleet_pb2
from keda_gpu_scaler.wire import podresources_pb2 as kubelet_pb
from keda_gpu_scaler.wire.snapshot_codec import encode, encode_change
from tests import kubelet
from tests.devices.replay_logs import EXAMPLES
from tests.engines import engine_pages
from tests.fakes import node_history, sample
from tests.fuzz import kubernetes, messages, pages, recordings, settings
from tests.fuzz.target import PARTS, FuzzTarget

_PAGES = {name: page for name, page in vars(engine_pages).items() if isinstance(page, bytes)}
_TEXT_PAGES = {name: page for name, page in _PAGES.items() if not page.lstrip().startswith(b"{")}
_JSON_PAGES = {name: page for name, page in _PAGES.items() if name not in _TEXT_PAGES}
_REPLAYED = {"examples of all logs": b"".join(log.text.encode() for log in EXAMPLES)} | {
    log.format: log.text.encode() for log in EXAMPLES
}

_BEFORE = node_history("gpu-7", sample(0, 0.5), sample(1, None), held={"GPU-0000": "llama-0"}).newest
_AFTER = node_history("gpu-7", sample(0, 0.75), sample(1, 0.0), held={"GPU-0001": "llama-0"}, at=1001.0).newest
_CHANGE = (encode_change(_BEFORE, _AFTER) or "").encode()


def _update(**fields: object) -> bytes:
    message = fleet_pb2.Update(**fields)  # type: ignore[arg-type]
    return message.SerializeToString()


def _request(**metadata: str) -> bytes:
    reference = externalscaler_pb2.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata=metadata)
    request = externalscaler_pb2.GetMetricsRequest(scaledObjectRef=reference, metricName="keda_gpu_metric")
    return request.SerializeToString(deterministic=True)


def _reference(**metadata: str) -> bytes:
    reference = externalscaler_pb2.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata=metadata)
    return reference.SerializeToString(deterministic=True)


def _listed(*containers: kubelet_pb.ContainerResources) -> bytes:
    listed = [kubelet.pod_resources("llama-0", *containers)]
    return kubelet_pb.ListPodResourcesResponse(pod_resources=listed).SerializeToString()


def _table(size: int, version: tuple[int, int]) -> bytes:
    return size.to_bytes(2, "little") + bytes(version) + b"\x20\x00" * (size // 2 - 2)


TARGETS = {
    target.name: target
    for target in (
        FuzzTarget("exposition", pages.check_exposition, _TEXT_PAGES),
        FuzzTarget(
            "page", pages.check_page, {**_TEXT_PAGES, "two pages": PARTS.join((engine_pages.VLLM, engine_pages.TGI))}
        ),
        FuzzTarget("json-page", pages.check_json_page, _JSON_PAGES),
        FuzzTarget("response", pages.check_response),
        FuzzTarget("snapshot", recordings.check_snapshot, {"two devices": encode(_BEFORE).encode()}),
        FuzzTarget("change", recordings.check_change, {"two devices": encode(_BEFORE).encode() + PARTS + _CHANGE}),
        FuzzTarget(
            "update",
            recordings.check_update,
            {
                "a snapshot and a change": _update(snapshot=encode(_BEFORE).encode(), age_seconds=0.5)
                + PARTS
                + _update(change=_CHANGE, age_seconds=0.25),
                "nothing": b"",
            },
        ),
        FuzzTarget("record", recordings.check_record),
        FuzzTarget("replay", recordings.check_replay, _REPLAYED),
        FuzzTarget(
            "gpu-metrics",
            recordings.check_gpu_metrics,
            {f"version {one}": _table(size, one) for one, size in (((1, 3), 120), ((1, 4), 256), ((1, 6), 1664))},
        ),
        FuzzTarget(
            "request",
            messages.check_request,
            {
                "no key": _request(),
                "a profile": _request(profile="llm"),
                "a reference": _reference(metricType="gpu_utilization", targetValue="80", report="average"),
            },
        ),
        FuzzTarget("trigger", messages.check_trigger),
        FuzzTarget("object", kubernetes.check_object),
        FuzzTarget(
            "podresources",
            kubernetes.check_podresources,
            {
                "a device": _listed(kubelet.container("server", "nvidia.com/gpu", "GPU-0000")),
                "a claim": _listed(kubelet.claim("server", "gpu.nvidia.com", "gpu-0")),
                "units": _listed(
                    kubelet.container("server", "aliyun.com/gpu-mem", *(f"GPU-0-_-{unit}" for unit in range(200)))
                ),
                "no pod": kubelet_pb.ListPodResourcesResponse().SerializeToString(),
            },
        ),
        FuzzTarget("kubeconfig", kubernetes.check_kubeconfig),
        FuzzTarget("manifest", kubernetes.check_manifest),
        FuzzTarget("formula", settings.check_formula),
        FuzzTarget("allowed-endpoints", settings.check_allowed_endpoints),
        FuzzTarget("url", settings.check_url),
        FuzzTarget("credentials", settings.check_credentials),
        FuzzTarget("certificate", settings.check_certificate),
    )
}
