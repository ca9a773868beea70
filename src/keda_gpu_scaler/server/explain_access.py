# SPDX-License-Identifier: Apache-2.0
"""The port for people: Explain on the loopback interface, for callers with a Kubernetes token.

Law: a caller learns what the API server lets it learn. To get a ScaledObject is the right to have its declared triggers
explained. To update it is the right to have other metadata explained, because the caller then chooses what is read. To
create one is the right to have one explained before it is applied, and to list those of all namespaces is the right to
see the last answer to each. A check that cannot be made admits no caller.

The interface is the loopback one because a port-forward ends there: the container runtime connects to the port within
the pod's network. No other pod reaches it, and the bytes come from the API server over TLS.
"""

from collections.abc import Awaitable, Callable

import grpc
from grpc.aio import ServicerContext

from keda_gpu_scaler.core.interfaces import Caller, CallerReviews, KubeError
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.metric_type import declares
from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.server.call_guard import CallGuard
from keda_gpu_scaler.server.explain import EvaluationService
from keda_gpu_scaler.server.external_scaler import ExternalScaler
from keda_gpu_scaler.server.grpc_server import EVALUATIONS, make_explain_server
from keda_gpu_scaler.server.lazy_service import LazyService, Registrar
from keda_gpu_scaler.server.undecodable_log import UndecodableLog
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb
from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc
from keda_gpu_scaler.wire import externalscaler_pb2 as pb

LOOPBACK = "127.0.0.1"
RESOURCES = {"ScaledObject": "scaledobjects", "ScaledJob": "scaledjobs"}
"""The resources of keda.sh, by kind."""

_BEARER = "bearer "
_NEEDED = (
    "Explain: this port needs a Kubernetes token, as authorization: Bearer TOKEN; keda-gpu-scaler explain sends that "
    "of the kubeconfig with --namespace-of-scaler, or that of --token-file"
)
_NOT_ACCEPTED = (
    "Explain: the API server does not accept this token: it has expired, or it is for another audience; make a new "
    "one: kubectl create token NAME --audience keda-gpu-scaler"
)


class _RefusedError(Exception):
    """A call is not answered. The text is a sentence for the caller."""

    def __init__(self, code: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class AuthorizedEvaluationService(evaluation_pb_grpc.EvaluationsServicer):
    """Explains to callers what they may get.

    Args:
        scaler: the scaler whose answers are explained.
        reviews: asks the API server about callers.
    """

    def __init__(self, scaler: ExternalScaler, reviews: CallerReviews) -> None:
        self._scaler = scaler
        self._service = EvaluationService(scaler)
        self._reviews = reviews

    async def Explain(self, request: pb.ScaledObjectRef, context: ServicerContext) -> evaluation_pb.Evaluation:  # noqa: N802
        """Answer as ``EvaluationService`` does, where the caller may get the ScaledObject."""
        await self._admit(context, lambda caller: self._check(caller, request, context))
        return await self._service.Explain(request, context)

    async def Preview(  # noqa: N802
        self, request: evaluation_pb.PreviewRequest, context: ServicerContext
    ) -> evaluation_pb.Evaluation:
        """Answer as ``EvaluationService`` does, where the caller may create the ScaledObject."""
        await self._admit(context, lambda caller: self._need(caller, "create", request.scaled_object))
        return await self._service.Preview(request, context)

    async def ListWorkloads(  # noqa: N802
        self, request: evaluation_pb.ListWorkloadsRequest, context: ServicerContext
    ) -> evaluation_pb.WorkloadList:
        """Answer as ``EvaluationService`` does, where the caller may list the ScaledObjects of all namespaces."""
        await self._admit(context, lambda caller: self._need(caller, "list", pb.ScaledObjectRef()))
        return await self._service.ListWorkloads(request, context)

    async def _admit(self, context: ServicerContext, check: Callable[[Caller], Awaitable[None]]) -> None:
        """End the call with an error unless the caller is known and the check passes."""
        try:
            await check(await self._caller(context))
        except _RefusedError as refused:
            await context.abort(refused.code, str(refused))
        except KubeError as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"Explain: the right is not known: {error}")

    async def _need(self, caller: Caller, verb: str, request: pb.ScaledObjectRef) -> None:
        """Raise _RefusedError where a right is missing, KubeError where that is not known."""
        resource = RESOURCES["ScaledObject"]
        if not await self._reviews.may(caller, verb, resource, request.namespace, request.name):
            raise _missing(caller, verb, resource, request)

    async def _caller(self, context: ServicerContext) -> Caller:
        """Return the user of the call's token.

        Raises:
            _RefusedError: there is no token, or the API server does not accept it.
            KubeError: that is not known.
        """
        token = bearer_token(context)
        if not token:
            raise _RefusedError(grpc.StatusCode.UNAUTHENTICATED, _NEEDED)
        caller = await self._reviews.caller(token)
        if caller is None:
            raise _RefusedError(grpc.StatusCode.UNAUTHENTICATED, _NOT_ACCEPTED)
        return caller

    async def _check(self, caller: Caller, request: pb.ScaledObjectRef, context: ServicerContext) -> None:
        """Compare a request with the rights of a caller; the workload is looked up only for one who may get it.

        Raises:
            _RefusedError: a right is missing.
            KubeError: the rights are not known.
        """
        names = request.namespace, request.name
        may_get = [kind for kind in RESOURCES if await self._reviews.may(caller, "get", RESOURCES[kind], *names)]
        if not may_get:
            raise _missing(caller, "get", RESOURCES["ScaledObject"], request)
        known = await self._scaler.workload(request, context)
        kind = known.kind if isinstance(known, Workload) else may_get[0]
        if kind not in may_get:
            raise _missing(caller, "get", RESOURCES[kind], request)
        triggers = known.triggers if known is not None else None
        if triggers is not None and declares(triggers, dict(request.scalerMetadata)):
            return
        if await self._reviews.may(caller, "update", RESOURCES[kind], *names):
            return
        if isinstance(known, Unavailable) and triggers is None:
            raise _RefusedError(grpc.StatusCode.UNAVAILABLE, f"Explain: the triggers are not known: {known.reason}")
        raise _missing(caller, "update", RESOURCES[kind], request)


def bearer_token(context: ServicerContext) -> str:
    """Return the token of a call; empty where there is none, or more than one."""
    values = [str(value) for key, value in context.invocation_metadata() or () if key == "authorization"]
    if len(values) != 1 or not values[0].lower().startswith(_BEARER):
        return ""
    return values[0][len(_BEARER) :].strip()


def _missing(caller: Caller, verb: str, resource: str, request: pb.ScaledObjectRef) -> _RefusedError:
    namespace, name = quoted(request.namespace, 80), quoted(request.name, 80)
    why = ", which is needed for metadata that it does not declare" if verb == "update" else ""
    if verb == "list":
        return _RefusedError(
            grpc.StatusCode.PERMISSION_DENIED,
            f"Explain: user {quoted(caller.user, 80)} may not list {resource}.keda.sh in all namespaces; grant it: "
            f"kubectl create clusterrole list-{resource} --verb=list --resource={resource}.keda.sh, and kubectl create "
            f"clusterrolebinding list-{resource} --clusterrole=list-{resource} --user=USER",
        )
    return _RefusedError(
        grpc.StatusCode.PERMISSION_DENIED,
        f"Explain: user {quoted(caller.user, 80)} may not {verb} {resource}.keda.sh {name} in namespace "
        f"{namespace}{why}; grant it there: kubectl create role explain --verb={verb} --resource={resource}.keda.sh, "
        "and kubectl create rolebinding explain --role=explain --user=USER",
    )


async def start_explain_server(
    port: int, scaler: Callable[[], ExternalScaler], reviews: CallerReviews, log: UndecodableLog
) -> grpc.aio.Server:
    """Serve Explain, and nothing else, on a port of the loopback interface.

    Raises:
        RuntimeError: the port cannot be listened on.
    """

    def add(registrar: Registrar) -> None:
        service = AuthorizedEvaluationService(scaler(), reviews)
        evaluation_pb_grpc.add_EvaluationsServicer_to_server(service, registrar)  # type: ignore[no-untyped-call]

    server = make_explain_server()
    server.add_generic_rpc_handlers((LazyService(EVALUATIONS, add, CallGuard(log).guarded),))
    server.add_insecure_port(f"{LOOPBACK}:{port}")
    await server.start()
    return server
