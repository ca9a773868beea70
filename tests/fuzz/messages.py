# SPDX-License-Identifier: Apache-2.0
"""Checks KEDA's requests and the metadata of triggers, from the bytes to the answer."""

import asyncio
import math
from collections.abc import Collection
from typing import Any, NamedTuple

import grpc

from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint
from keda_gpu_scaler.core.trigger.parser import TriggerError, parse_trigger
from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.server.external_scaler import SERVICE, ExternalScaler
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.fakes import FakeCluster, FakeEngines, FakePeers, ManualClock, node_history, pod, sample, workload
from tests.fuzz.target import MAX_MESSAGE_LENGTH, check_has_message

_METHODS = ("GetMetricSpec", "GetMetrics", "IsActive")
_CODES = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION)
_MAX_DETAILS_LENGTH = 4 * MAX_MESSAGE_LENGTH
_MAX_KEYS = 64


class _Details(NamedTuple):
    method: str
    invocation_metadata: Any = None


class _RefusedCallError(Exception):
    """A call that was answered with an error."""


class _CallContext:
    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise _RefusedCallError(code, details)


class _SyncedCluster(FakeCluster):
    """A cluster in which each ScaledObject has the same pod."""

    def workload(self, namespace: str, name: str, proposed_spec: str = "") -> Workload | Unavailable:
        return self.workloads["ai", "llama"]


class _SyncedEngines(FakeEngines):
    """Engines that were all scraped, without a result."""

    async def wait_for_sync(self, endpoints: Collection[Endpoint]) -> None:
        return


class _Calls:
    """A scaler without a network, with one pod on one device. It is replaced before its caches are large."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._count = 0

    def answer(self, method: str, request: bytes) -> bytes | tuple[grpc.StatusCode, str]:
        """Return the response, or the status of the error."""
        if self._count % 256 == 0:
            self._scaler = self._new_scaler()
        self._count += 1
        handlers: Any = self._scaler.handlers()
        handler = handlers.service(_Details(f"/{SERVICE}/{method}")).unary_unary
        try:
            response: bytes = self._loop.run_until_complete(handler(request, _CallContext()))
        except _RefusedCallError as refused:
            code, details = refused.args
            return code, details
        return response

    def _new_scaler(self) -> ExternalScaler:
        known = workload(pod("llama-0", address="10.0.0.1", ports=(8000,)))
        fleet = Fleet(node_history("gpu-7", sample(0, 0.9), held={"GPU-0000": "llama-0"}, at=1000.0), 10.0)
        return ExternalScaler(lambda: fleet, ManualClock(), _SyncedCluster(llama=known), FakePeers(), _SyncedEngines())


_CALLS = _Calls()


def check_request(data: bytes) -> None:
    """Check that each method answers any bytes, and twice with the same answer."""
    for method in _METHODS:
        answer = _CALLS.answer(method, data)
        assert _CALLS.answer(method, data) == answer
        if isinstance(answer, bytes):
            _check_response(method, answer)
        else:
            code, details = answer
            assert code in _CODES, code
            assert details
            assert len(details) <= _MAX_DETAILS_LENGTH, len(details)
            assert details.isprintable(), details


def check_trigger(data: bytes) -> None:
    """Check the metadata in lines of ``key: value``: it is a trigger or a list of problems, and KEDA is answered."""
    lines = [line.partition(":") for line in data.decode("utf-8", "replace").split("\n")[:_MAX_KEYS]]
    metadata = {key.strip(): value.strip() for key, _, value in lines if key.strip()}
    try:
        trigger = parse_trigger(metadata)
    except TriggerError as error:
        check_has_message(error)
    else:
        assert math.isfinite(trigger.target)
    reference = pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata=metadata)
    check_request(pb.GetMetricsRequest(scaledObjectRef=reference).SerializeToString(deterministic=True))
    check_request(reference.SerializeToString(deterministic=True))


def _check_response(method: str, answer: bytes) -> None:
    if method == "GetMetrics":
        for metric in pb.GetMetricsResponse.FromString(answer).metricValues:
            assert math.isfinite(metric.metricValueFloat)
            assert metric.metricValueFloat >= 0
    elif method == "GetMetricSpec":
        (spec,) = pb.GetMetricSpecResponse.FromString(answer).metricSpecs
        assert spec.targetSize >= 1
        assert spec.metricName
