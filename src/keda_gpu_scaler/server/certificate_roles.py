# SPDX-License-Identifier: Apache-2.0
"""Decides by the names in a client's certificate which methods of port 6000 it may call.

Law: where a role has names, a call without one of them is answered with PERMISSION_DENIED, and its content is not used.
The certificates themselves were checked by TLS, against the CA of ``--tls-client-ca``.

gRPC gives the names of a verified certificate as properties of the call: x509_common_name, and
x509_subject_alternative_name for each DNS name, URI and address (include/grpc/grpc_security_constants.h).
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from grpc.aio import ServicerContext

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.server.call_guard import write_messages
from keda_gpu_scaler.server.lazy_service import Guard
from keda_gpu_scaler.server.undecodable_log import UndecodableLog

ANY_NAME = "*"
"""In a list of names: every certificate of the CA."""

_NAME_PROPERTIES = ("x509_common_name", "x509_subject_alternative_name")
_MAX_SHOWN_NAMES = 3
_Check = Callable[[ServicerContext], Awaitable[None]]
_EXPLAIN_PORT = (
    "people use the port of --explain-port (in the chart: explain.enabled), through a port-forward and with their own "
    "Kubernetes token: keda-gpu-scaler explain NAMESPACE/NAME --namespace-of-scaler NAMESPACE"
)


@dataclass(frozen=True, slots=True)
class Role:
    """Who may call the methods of one service.

    ``names`` are the names of certificates; None admits every client. ``remedy`` says what a refused client can do.
    """

    names: tuple[str, ...] | None
    remedy: str

    def refusal(self, method: str, context: ServicerContext) -> str:
        """Return why a client may not call a method; empty where it may."""
        if self.names is None:
            return ""
        found = certificate_names(context)
        if any(is_named(listed, found) for listed in self.names):
            return ""
        shown = ", ".join(quoted(name) for name in found[:_MAX_SHOWN_NAMES]) or "no name"
        return f"{method.rpartition('/')[2]}: permission denied to a certificate with the name {shown}: {self.remedy}"


@dataclass(frozen=True, slots=True)
class CertificateRoles:
    """The roles of port 6000: KEDA, the instances that follow this one, and the clients that may call Explain."""

    keda: Role
    watch: Role
    explain: Role


def certificate_roles(
    *,
    has_client_ca: bool,
    keda: tuple[str, ...],
    watch: tuple[str, ...],
    explain: tuple[str, ...],
    peer_name: str | None,
    has_explain_port: bool,
) -> CertificateRoles:
    """Return the roles.

    Args:
        has_client_ca: whether every client shows a certificate.
        keda: the names of KEDA's certificate; empty admits every client.
        watch: the names of followers; empty admits those with ``peer_name``, and every client where there is none.
        explain: the names that may call Explain; empty admits no certificate.
        peer_name: the name in the instances' certificates.
        has_explain_port: whether people have a port of their own, so that Explain is closed here.
    """
    following = watch or ((peer_name,) if peer_name else ())
    explaining = explain if has_client_ca or has_explain_port else None
    return CertificateRoles(
        Role((keda or None) if has_client_ca else None, "add its name to --tls-keda-names"),
        Role((following or None) if has_client_ca else None, "add its name to --tls-watch-names"),
        Role(explaining, f"{_EXPLAIN_PORT}; or add the name to --tls-explain-names"),
    )


def certificate_names(context: ServicerContext) -> list[str]:
    """Return the names in a client's certificate, each once; none without a certificate."""
    properties = context.auth_context()
    found = (name.decode("utf-8", "replace") for key in _NAME_PROPERTIES for name in properties.get(key, ()))
    return list(dict.fromkeys(found))


def is_named(listed: str, names: Iterable[str]) -> bool:
    """Whether a listed name is among a certificate's: upper case does not count, and "*." stands for one label."""
    if listed == ANY_NAME:
        return True
    wanted = listed.lower()
    label, _, rest = wanted.partition(".")
    return any(name.lower() in (wanted, f"*.{rest}" if label and rest else wanted) for name in names)


def role_guard(role: Role, log: UndecodableLog, inner: Guard | None = None) -> Guard | None:
    """Return the guard of a service whose methods only one role may call.

    Args:
        role: who may call.
        log: logs refused calls, because the client may be KEDA with a name that is not listed.
        inner: a further guard, which comes after the role.
    """
    if role.names is None:
        return inner

    def guarded(method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        return _restricted(role, log, method, handler if inner is None else inner(method, handler))

    return guarded


def _restricted(role: Role, log: UndecodableLog, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
    async def check(context: ServicerContext) -> None:
        if refusal := role.refusal(method, context):
            log.note(method, context.peer(), refusal)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)

    decode, encode = handler.request_deserializer, handler.response_serializer
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(_unary(check, handler.unary_unary), decode, encode)
    return grpc.unary_stream_rpc_method_handler(_stream(check, handler.unary_stream), decode, encode)


def _unary(check: _Check, behavior: Callable[..., Any]) -> Callable[..., Any]:
    async def unary(request: Any, context: ServicerContext) -> Any:
        await check(context)
        return await behavior(request, context)

    return unary


def _stream(check: _Check, behavior: Callable[..., Any]) -> Callable[..., Any]:
    async def stream(request: Any, context: ServicerContext) -> None:
        await check(context)
        await write_messages(behavior(request, context), context)

    return stream
