# SPDX-License-Identifier: Apache-2.0
"""Checks the readers of Kubernetes objects, of the kubelet's list and of kubeconfigs."""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from keda_gpu_scaler.cli.explain.scaledobject import ScaledObjectError, read_scaled_object
from keda_gpu_scaler.cli.validate.documents import read_documents
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube import assignments, keda_objects, parse
from keda_gpu_scaler.kube.auth import kubeconfig
from keda_gpu_scaler.kube.podresources import MAX_ALLOCATIONS, PodResources
from keda_gpu_scaler.wire import podresources_pb2
from tests.fuzz.target import check_has_message, check_message

_SCRATCH = tempfile.TemporaryDirectory(prefix="fuzz-kubernetes-")
_READERS: tuple[Callable[[Mapping[str, Any]], object], ...] = (
    lambda item: parse.pod(item, 0.0),
    parse.assigned_pod,
    parse.object_metadata,
    parse.labels,
    parse.scale,
    parse.first_image,
    parse.has_accelerators,
    parse.grpc_port,
    parse.endpoints,
    keda_objects.scaled_object,
    keda_objects.scaled_job,
    keda_objects.trigger_metadata,
    assignments.device_claim,
    assignments.device_slice,
)


def check_object(data: bytes) -> None:
    """Check that no object makes a reader raise, and that each reads it twice as the same."""
    try:
        item = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(item, dict):
        for read in _READERS:
            assert repr(read(item)) == repr(read(item))


def check_podresources(data: bytes) -> None:
    """Check that the kubelet's list gives plausible allocations, or a failure in a sentence."""
    try:
        response = podresources_pb2.ListPodResourcesResponse.FromString(data)
    except DecodeError:
        return
    resources = PodResources("kubelet.sock", clock=lambda: 0.0)
    resources.accept(response)
    held = resources.held(0.0)
    if held is None:
        check_message(KubeError(resources.failure or ""))
        return
    assert len(held) <= MAX_ALLOCATIONS
    assert list(held) == sorted(set(held))
    texts = (text for one in held for text in (one.namespace, one.pod, one.container, one.resource, one.device_id))
    assert all(text.isprintable() and text for text in texts)


def check_kubeconfig(data: bytes) -> None:
    """Check that a kubeconfig gives a configuration or a KubeError."""
    path = Path(_SCRATCH.name) / "kubeconfig"
    path.write_bytes(data)
    try:
        config = kubeconfig(path, Path(_SCRATCH.name))
    except KubeError as error:
        check_has_message(error)
    else:
        assert config.server.startswith(("http://", "https://"))


def check_manifest(data: bytes) -> None:
    """Check that YAML ends in documents with positions, and in findings; and that a ScaledObject is found or not."""
    text = data.decode("utf-8", "replace")
    try:
        read_scaled_object(text, "", "")
    except ScaledObjectError as error:
        check_has_message(error)
    try:
        documents, findings = read_documents(text)
    except RecursionError:
        return
    assert len(findings) <= 1
    for document in documents:
        line, column = document.position(("spec", "triggers", 0))
        assert line >= 1
        assert column >= 1
