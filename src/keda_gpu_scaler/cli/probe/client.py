# SPDX-License-Identifier: Apache-2.0
"""Calls an external scaler as KEDA calls it, and keeps the answers.

Law: the client makes KEDA's calls in KEDA's order and reads the fields that KEDA reads. It never corrects an answer.

Facts are from KEDA 2.20: pkg/scalers/external_scaler.go and pkg/util/normalize_string.go.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from keda_gpu_scaler.cli.pace import Timing
from keda_gpu_scaler.cli.probe.answer_check import answer_problem
from keda_gpu_scaler.cli.probe.tls_failure import tls_failure
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb
from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from keda_gpu_scaler.wire.tls import ClientTls

_CONNECT_SECONDS = 1.0
_REPLACED_BY_KEDA = str.maketrans(dict.fromkeys("/.:%()", "-"))


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """The ScaledObject that the calls name, and the scaler that receives them.

    Explain carries ``token``, if any. ``proposed_spec`` is the spec of a ScaledObject that is not applied, for
    ``explain`` alone.
    """

    address: str
    name: str
    namespace: str
    metadata: Mapping[str, str]
    timeout_seconds: float
    tls: ClientTls | None = None
    token: str = field(default="", repr=False)
    proposed_spec: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One call and its result. ``status`` is the name of gRPC's status code, also "OK".

    ``details`` is the text of the server, or of gRPC itself. ``sentence`` says why the call did not succeed where this
    program knows it, and is empty otherwise.
    """

    method: str
    milliseconds: float
    status: str = "OK"
    details: str = ""
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class MetricReading:
    """A target or a value as the scaler sent it: a name, and the same number in two fields."""

    name: str
    integer: int
    floating: float

    @property
    def as_keda_reads_it(self) -> float:
        """The float where it is above 0, and the integer otherwise. (NaN is not above 0.)"""
        return self.floating if self.floating > 0 else float(self.integer)


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The answers of one round; None for a call that was not made or returned an error."""

    is_connected: bool
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
        """The number that the HPA uses: the sum of the metric's values."""
        return sum(value.as_keda_reads_it for value in self.values) if self.values else None


class ScalerClient:
    """A connection to a scaler. The first call opens it.

    Raises:
        TlsError: a certificate cannot be used.
    """

    def __init__(self, request: ProbeRequest, timing: Timing) -> None:
        self._request = request
        self._timing = timing
        # A scaler runs in the cluster or on this machine: no web proxy leads to it.
        options: tuple[tuple[str, object], ...] = (("grpc.enable_http_proxy", 0),)
        if request.tls is None:
            self._channel = grpc.insecure_channel(request.address, options=options)
        else:
            credentials, options = request.tls.credentials(), (*options, *request.tls.options())
            self._channel = grpc.secure_channel(request.address, credentials, options=options)
        self._stub: Any = pb_grpc.ExternalScalerStub(self._channel)  # type: ignore[no-untyped-call]
        self._evaluations: Any = evaluation_pb_grpc.EvaluationsStub(self._channel)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        return f"<ScalerClient of {self._request.address}>"

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def query(self) -> ProbeAnswer:
        """Make KEDA's calls in KEDA's order, up to the first call that returns an error."""
        answer = self._with_spec(ProbeAnswer(is_connected=True))
        if answer.specs:
            answer = self._with_values(answer, answer.specs[0].name)
            if answer.error is None:
                answer = self._with_activity(answer)
        # KEDA makes the other calls for each metric of the spec: none for an empty spec.
        return answer if answer.error is None else self._with_reason(answer)

    def explain(self) -> tuple[ProbeAnswer, evaluation_pb.Evaluation | None]:
        """Call Explain, which KEDA never calls.

        Returns the evaluation, None where the scaler returns none; the answer's error then says why.
        """
        call, evaluation = self._explained()
        problem = answer_problem(evaluation) if evaluation is not None else None
        if problem is not None:
            # gRPC itself reports an answer that it cannot decode as INTERNAL.
            return ProbeAnswer(
                is_connected=True, calls=(replace(call, status="INTERNAL", details=problem, sentence=problem),)
            ), None
        answer = ProbeAnswer(is_connected=True, calls=(call,))
        return (answer if evaluation is not None else self._with_reason(answer)), evaluation

    def _explained(self) -> tuple[Call, Any]:
        """Call Preview for an object that is not applied, and Explain where the scaler is too old for it."""
        spec, token = self._request.proposed_spec, self._request.token
        headers = (("authorization", f"Bearer {token}"),) if token else ()
        if spec:
            preview = evaluation_pb.PreviewRequest(scaled_object=self._reference, spec=spec)
            call, evaluation = self._call(self._evaluations, "Preview", preview, headers)
            if call.status != "UNIMPLEMENTED":
                return call, evaluation
        return self._call(self._evaluations, "Explain", self._reference, headers)

    def _with_reason(self, answer: ProbeAnswer) -> ProbeAnswer:
        """Distinguish a scaler that returns UNAVAILABLE from an address without a server; gRPC reports both alike."""
        *before, failed = answer.calls
        if failed.status not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            return answer
        request = self._request
        reason = unreachable(request.address, min(request.timeout_seconds, _CONNECT_SECONDS))
        if reason is None:
            failed = replace(failed, sentence=tls_failure(request.address, request.tls, failed.details))
            hint = _tls_hint(failed.details, request.tls)
            return replace(answer, calls=(*before, replace(failed, details=failed.details + hint)))
        failed = replace(failed, details=reason, sentence=f"nothing answers there: {reason[:1].lower()}{reason[1:]}")
        return replace(answer, is_connected=False, calls=(*before, failed))

    @property
    def _reference(self) -> pb.ScaledObjectRef:
        request = self._request
        return pb.ScaledObjectRef(name=request.name, namespace=request.namespace, scalerMetadata=request.metadata)

    def _call(
        self, stub: Any, method: str, message: Any, headers: tuple[tuple[str, str], ...] = ()
    ) -> tuple[Call, Any]:
        """Make one call; the second part of the result is None where it returns an error."""
        began = self._timing.monotonic()
        try:
            reply = getattr(stub, method)(message, timeout=self._request.timeout_seconds, metadata=headers)
        except grpc.RpcError as error:
            took = (self._timing.monotonic() - began) * 1000
            return Call(method, took, error.code().name, error.details() or ""), None
        return Call(method, (self._timing.monotonic() - began) * 1000), reply

    def _with_spec(self, answer: ProbeAnswer) -> ProbeAnswer:
        call, reply = self._call(self._stub, "GetMetricSpec", self._reference)
        specs = reply and tuple(
            MetricReading(spec.metricName, spec.targetSize, spec.targetSizeFloat) for spec in reply.metricSpecs
        )
        return replace(answer, calls=(*answer.calls, call), specs=specs)

    def _with_values(self, answer: ProbeAnswer, metric_name: str) -> ProbeAnswer:
        message = pb.GetMetricsRequest(scaledObjectRef=self._reference, metricName=name_from_keda(metric_name))
        call, reply = self._call(self._stub, "GetMetrics", message)
        values = reply and tuple(
            MetricReading(value.metricName, value.metricValue, value.metricValueFloat) for value in reply.metricValues
        )
        return replace(answer, calls=(*answer.calls, call), values=values)

    def _with_activity(self, answer: ProbeAnswer) -> ProbeAnswer:
        call, reply = self._call(self._stub, "IsActive", self._reference)
        return replace(answer, calls=(*answer.calls, call), active=reply and reply.result)


def unreachable(address: str, timeout_seconds: float) -> str | None:
    """Return why no TCP connection to the address is possible, in the system's words; None when one is."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_seconds).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _tls_hint(details: str, tls: ClientTls | None) -> str:
    """Name the flag to try where TCP connects and TLS does not: gRPC's message names none."""
    if "failed to connect" not in details:
        return ""
    if tls is None:
        return "; if the server uses TLS, give its CA with --tls-ca"
    if "Hostname Verification" in details:
        return "; its certificate contains another name: give that name with --tls-server-name"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return "; its certificate is not signed by this --tls-ca, or has expired"
    if tls.certificate is None:
        return "; if the server requires a client certificate, give one with --tls-cert and --tls-key"
    return (
        "; check that the server uses TLS, that its client CA signed this --tls-cert, and that the certificate allows "
        "clients and has not expired"
    )


def name_from_keda(name: str) -> str:
    """Return the metric name that KEDA and the API server make of it: lower case, with dashes for some characters."""
    return name.lower().translate(_REPLACED_BY_KEDA)
