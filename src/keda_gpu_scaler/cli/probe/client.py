# SPDX-License-Identifier: Apache-2.0
"""What does a scaler answer, asked as KEDA asks?

The law of this module: it calls what KEDA calls, in KEDA's order, and reads what KEDA reads. It never mends
an answer.

Facts are from KEDA 2.20: pkg/scalers/external_scaler.go and pkg/util/normalize_string.go.
"""

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import grpc

from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb
from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from keda_gpu_scaler.wire.tls import ClientTls

_KNOCK_SECONDS = 1.0
_REPLACED_BY_KEDA = str.maketrans(dict.fromkeys("/.:%()", "-"))


@dataclass(frozen=True, slots=True)
class Timing:
    """Where time comes from: tests bring their own."""

    monotonic: Callable[[], float] = time.monotonic
    utc: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """Which ScaledObject is asked about, and where."""

    address: str
    name: str
    namespace: str
    metadata: Mapping[str, str]
    timeout_seconds: float
    tls: ClientTls | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One call and how it ended. ``status`` is gRPC's name for it, "OK" included."""

    method: str
    milliseconds: float
    status: str = "OK"
    details: str = ""


@dataclass(frozen=True, slots=True)
class MetricReading:
    """A target or a value as it was sent: a name and the same number in two fields."""

    name: str
    integer: int
    floating: float

    @property
    def as_keda_reads_it(self) -> float:
        """The float where it is above 0, else the integer. (NaN is not above 0.)"""
        return self.floating if self.floating > 0 else float(self.integer)


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """All that came back in one round; None where the round did not get that far."""

    connected: bool
    calls: tuple[Call, ...] = ()
    specs: tuple[MetricReading, ...] | None = None
    values: tuple[MetricReading, ...] | None = None
    active: bool | None = None

    @property
    def error(self) -> Call | None:
        """The call that ended the round."""
        return next((call for call in self.calls if call.status != "OK"), None)

    @property
    def value(self) -> float | None:
        """What the HPA gets: it adds the values of one metric up."""
        return sum(value.as_keda_reads_it for value in self.values) if self.values else None


class ScalerClient:
    """One connection to a scaler, opened by the first call.

    Raises:
        TlsError: a certificate cannot be used.
    """

    def __init__(self, question: ProbeRequest, pace: Timing) -> None:
        self._question = question
        self._pace = pace
        # A scaler lives inside the cluster or on the machine: a web proxy is never on the way to it.
        options: tuple[tuple[str, object], ...] = (("grpc.enable_http_proxy", 0),)
        if question.tls is None:
            self._channel = grpc.insecure_channel(question.address, options=options)
        else:
            credentials, options = question.tls.credentials(), (*options, *question.tls.options())
            self._channel = grpc.secure_channel(question.address, credentials, options=options)
        self._stub: Any = pb_grpc.ExternalScalerStub(self._channel)  # type: ignore[no-untyped-call]
        self._evaluations: Any = evaluation_pb_grpc.EvaluationsStub(self._channel)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        return f"<Link to {self._question.address}>"

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def ask(self) -> ProbeAnswer:
        """Call what KEDA calls, in its order, up to the first call that fails."""
        answer = ProbeAnswer(connected=True)
        for part in (self._spec, self._values, self._activity):
            answer = part(answer)
            if answer.error is not None:
                return self._explained(answer)
            if answer.specs == ():
                return answer  # KEDA asks for each metric of the spec: for none, nothing
        return answer

    def explain(self) -> evaluation_pb.Evaluation | None:
        """Ask how the answer came about, which KEDA never does; None where the scaler is not one of ours."""
        return self.told()[1]

    def told(self) -> tuple[ProbeAnswer, evaluation_pb.Evaluation | None]:
        """Ask how the answer comes about; where there is no verdict, the answer holds the call that says why."""
        call, evaluation = self._called(self._evaluations, "Explain", self._reference)
        answer = ProbeAnswer(connected=True, calls=(call,))
        return (answer if evaluation is not None else self._explained(answer)), evaluation

    def _explained(self, answer: ProbeAnswer) -> ProbeAnswer:
        """Tell a scaler that answers UNAVAILABLE from one that is not there: in gRPC both look the same."""
        *before, failed = answer.calls
        if failed.status not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            return answer
        reason = unreachable(self._question.address, min(self._question.timeout_seconds, _KNOCK_SECONDS))
        if reason is None:
            hint = _tls_hint(failed.details, self._question.tls)
            return replace(answer, calls=(*before, replace(failed, details=failed.details + hint)))
        return replace(answer, connected=False, calls=(*before, replace(failed, details=reason)))

    @property
    def _reference(self) -> pb.ScaledObjectRef:
        asked = self._question
        return pb.ScaledObjectRef(name=asked.name, namespace=asked.namespace, scalerMetadata=asked.metadata)

    def _call(self, method: str, request: Any) -> tuple[Call, Any]:
        return self._called(self._stub, method, request)

    def _called(self, stub: Any, method: str, request: Any) -> tuple[Call, Any]:
        began = self._pace.monotonic()
        try:
            reply = getattr(stub, method)(request, timeout=self._question.timeout_seconds)
        except grpc.RpcError as error:
            took = (self._pace.monotonic() - began) * 1000
            return Call(method, took, error.code().name, error.details() or ""), None
        return Call(method, (self._pace.monotonic() - began) * 1000), reply

    def _spec(self, answer: ProbeAnswer) -> ProbeAnswer:
        call, reply = self._call("GetMetricSpec", self._reference)
        specs = reply and tuple(
            MetricReading(spec.metricName, spec.targetSize, spec.targetSizeFloat) for spec in reply.metricSpecs
        )
        return replace(answer, calls=(*answer.calls, call), specs=specs)

    def _values(self, answer: ProbeAnswer) -> ProbeAnswer:
        assert answer.specs  # noqa: S101 - the round ends before, without one
        name = name_from_keda(answer.specs[0].name)
        request = pb.GetMetricsRequest(scaledObjectRef=self._reference, metricName=name)
        call, reply = self._call("GetMetrics", request)
        values = reply and tuple(
            MetricReading(value.metricName, value.metricValue, value.metricValueFloat) for value in reply.metricValues
        )
        return replace(answer, calls=(*answer.calls, call), values=values)

    def _activity(self, answer: ProbeAnswer) -> ProbeAnswer:
        call, reply = self._call("IsActive", self._reference)
        return replace(answer, calls=(*answer.calls, call), active=reply and reply.result)


def unreachable(address: str, timeout_seconds: float) -> str | None:
    """Why no TCP connection to the address can be made, in the system's words; None when one can."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_seconds).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _tls_hint(details: str, tls: ClientTls | None) -> str:
    """Say what to try where a connection stands and TLS does not: gRPC's words name no flag."""
    if "failed to connect" not in details:
        return ""
    if tls is None:
        return "; does it speak TLS? Name its CA with --tls-ca"
    if "Hostname Verification" in details:
        return "; its certificate bears another name: give that one with --tls-server-name"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return "; its certificate is not of this --tls-ca, or has expired"
    if tls.certificate is None:
        return "; does it ask for a certificate? Show one with --tls-cert and --tls-key"
    return "; does it speak TLS, and is the --tls-cert of the CA that it asks for, good for clients, and not expired?"


def name_from_keda(name: str) -> str:
    """The metric name as it comes back from KEDA and the API server: lower case, some signs made dashes."""
    return name.lower().translate(_REPLACED_BY_KEDA)
