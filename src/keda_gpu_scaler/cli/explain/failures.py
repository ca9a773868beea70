# SPDX-License-Identifier: Apache-2.0
"""Says why a call of ``explain`` returned no evaluation: a cause, and a sentence with a remedy.

Law: neither the name of a status code nor a text of gRPC's own library is in the sentence.
"""

from dataclasses import dataclass

from keda_gpu_scaler.cli.explain.causes import Cause
from keda_gpu_scaler.cli.probe.client import Call
from keda_gpu_scaler.wire.rpc_failure import rpc_failure

_CAUSES = {
    "INVALID_ARGUMENT": Cause.REFUSED,
    "FAILED_PRECONDITION": Cause.REFUSED,
    "UNIMPLEMENTED": Cause.OTHER_SERVER,
    "DEADLINE_EXCEEDED": Cause.UNREACHABLE,
    "UNAVAILABLE": Cause.UNREACHABLE,
    "PERMISSION_DENIED": Cause.CERTIFICATE,
    "UNAUTHENTICATED": Cause.CERTIFICATE,
}
_TLS_WORDS = ("certificate", "TLS")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no evaluation: ``reason`` alone, and in a ``sentence`` that says from where."""

    cause: Cause
    reason: str
    sentence: str


def failure_of(call: Call, instance: str) -> Failure:
    """Return why a call returned no evaluation.

    Args:
        call: the call that ended with an error.
        instance: the instance that was called.
    """
    cause = _CAUSES.get(call.status, Cause.SCALER_ERROR)
    if cause is Cause.REFUSED:
        reason = call.details or "it gives no reason"
        return Failure(cause, reason, f"the scaler refuses the trigger: {reason}")
    reason = call.sentence or rpc_failure(call.status, call.details)
    if any(word in reason for word in _TLS_WORDS):
        cause = Cause.CERTIFICATE
    return Failure(cause, reason, f"no evaluation from {instance}: {reason}")
