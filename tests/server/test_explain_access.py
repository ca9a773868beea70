# SPDX-License-Identifier: Apache-2.0
"""Tests of the port for people: who gets an explanation, and what a refusal says."""

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.core.interfaces import Caller, KubeError
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.types import DeclaredTrigger, Unavailable, Workload
from keda_gpu_scaler.server import preparation as preparation_module
from keda_gpu_scaler.server.explain_access import start_explain_server
from keda_gpu_scaler.server.external_scaler import ExternalScaler
from keda_gpu_scaler.server.undecodable_log import UndecodableLog
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb
from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from tests.fakes import FakeCluster, FakeEngines, ManualClock, node_history, pod, sample, workload
from tests.free_ports import free_port
from tests.limits import WAIT_SECONDS

DECLARED = {"targetValue": "80", "windowSeconds": "30"}
LLAMA = workload(pod("llama-0"), triggers=(DeclaredTrigger(DECLARED, "AverageValue"),))
GET, UPDATE = ("get", "scaledobjects", "ai", "llama"), ("update", "scaledobjects", "ai", "llama")
GET_JOB = ("get", "scaledjobs", "ai", "llama")
SPEC = '{"scaleTargetRef":{"name":"llama"},"triggers":[]}'
ALICE = (("authorization", "Bearer token-of-alice"),)


class FakeCallerReviews:
    """Knows one user, alice, by her token, and what she may do."""

    def __init__(self, *rights: tuple[str, str, str, str], failure: str = "") -> None:
        self.rights, self.failure = rights, failure

    async def caller(self, token: str) -> Caller | None:
        if self.failure:
            raise KubeError(self.failure)
        return Caller("alice") if token == "token-of-alice" else None  # noqa: S105 - not a real secret

    async def may(self, caller: Caller, verb: str, resource: str, namespace: str, name: str) -> bool:
        assert caller == Caller("alice")
        return (verb, resource, namespace, name) in self.rights


class Port:
    """The explain port of an instance that knows one workload."""

    def __init__(self, known: Workload | Unavailable | None = LLAMA) -> None:
        fleet = Fleet(node_history("gpu-7", sample(0, 0.92), held={"GPU-0000": "llama-0"}), 10.0)
        self.cluster = FakeCluster(**({} if known is None else {"llama": known}))
        self.engines = FakeEngines()
        self.scaler = ExternalScaler(lambda: fleet, ManualClock(), self.cluster, engines=self.engines)

    def call(
        self,
        reviews: FakeCallerReviews,
        metadata: dict[str, str] = DECLARED,
        headers: Iterable[tuple[str, str]] = ALICE,
        method: str = "Explain",
    ) -> tuple[str, str]:
        """Call a method; return the code and the details of a refusal, or "OK" and the value, if there is one."""
        return asyncio.run(self._call(reviews, tuple(headers), metadata, method))

    async def _call(
        self, reviews: FakeCallerReviews, headers: tuple[tuple[str, str], ...], metadata: dict[str, str], method: str
    ) -> tuple[str, str]:
        port = free_port()
        server = await start_explain_server(port, lambda: self.scaler, reviews, UndecodableLog(lambda: 0.0))
        ref = pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata=metadata)
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub: Any = evaluation_pb_grpc.EvaluationsStub(channel)  # type: ignore[no-untyped-call]
                request = {
                    "Explain": ref,
                    "Preview": evaluation_pb.PreviewRequest(scaled_object=ref, spec=SPEC),
                    "ListWorkloads": evaluation_pb.ListWorkloadsRequest(),
                }[method]
                message = await getattr(stub, method)(request, metadata=headers, timeout=WAIT_SECONDS)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        finally:
            await server.stop(None)
        return "OK", f"{message.value:g}" if method == "Explain" else ""


def test_who_may_get_a_scaledobject_gets_the_explanation_of_its_declared_trigger() -> None:
    assert Port().call(FakeCallerReviews(GET)) == ("OK", "92")


@pytest.mark.parametrize(
    ("rights", "known", "metadata", "details"),
    [
        pytest.param(
            (), LLAMA, DECLARED,
            'user "alice" may not get scaledobjects.keda.sh "llama" in namespace "ai"; grant it there: kubectl create '
            "role explain --verb=get --resource=scaledobjects.keda.sh, and kubectl create rolebinding explain "
            "--role=explain --user=USER",
            id="no right",
        ),
        pytest.param(
            (("get", "scaledobjects", "ai", "mistral"), ("get", "scaledobjects", "other", "llama")), LLAMA, DECLARED,
            'user "alice" may not get scaledobjects.keda.sh "llama"',
            id="a right on another ScaledObject, and in another namespace",
        ),
        pytest.param(
            (GET_JOB,), LLAMA, DECLARED, 'may not get scaledobjects.keda.sh "llama"',
            id="a right on a ScaledJob, where it is a ScaledObject",
        ),
        pytest.param(
            (GET,), workload(pod("llama-0"), kind="ScaledJob", triggers=LLAMA.triggers), DECLARED,
            'may not get scaledjobs.keda.sh "llama"', id="a right on a ScaledObject, where it is a ScaledJob",
        ),
        pytest.param(
            (GET,), LLAMA, {**DECLARED, "targetValue": "60"},
            'user "alice" may not update scaledobjects.keda.sh "llama" in namespace "ai", which is needed for metadata '
            "that it does not declare",
            id="another target",
        ),
        pytest.param((GET,), LLAMA, {"scope": "fleet"}, "may not update scaledobjects.keda.sh", id="the whole fleet"),
        pytest.param(
            (GET,), Unavailable("ai/llama: there is no ScaledObject", True, ()), DECLARED,
            "may not update scaledobjects.keda.sh", id="a ScaledObject that does not exist",
        ),
    ],
)  # fmt: skip
def test_a_missing_right_is_named(
    rights: tuple[tuple[str, str, str, str], ...],
    known: Workload | Unavailable,
    metadata: dict[str, str],
    details: str,
) -> None:
    code, found = Port(known).call(FakeCallerReviews(*rights), metadata)
    assert code == "PERMISSION_DENIED"
    assert found.startswith("Explain: ")
    assert details in found


def test_a_refused_caller_causes_no_watch_and_no_scrape() -> None:
    port = Port()
    metadata = {"profile": "vllm-inference", "engineEndpoint": "http://llama:8000/metrics"}
    port.call(FakeCallerReviews(), metadata)
    assert not port.cluster.asked
    port.call(FakeCallerReviews(GET), metadata)
    assert port.cluster.asked
    assert not port.engines.asked


def test_who_may_update_the_scaledobject_may_try_other_metadata() -> None:
    assert Port().call(FakeCallerReviews(GET, UPDATE), {"targetValue": "60"}) == ("OK", "92")


def test_who_may_get_a_scaledjob_gets_its_explanation() -> None:
    port = Port(workload(pod("llama-0"), kind="ScaledJob", triggers=LLAMA.triggers))
    code, found = port.call(FakeCallerReviews(GET_JOB))
    assert (code, "may not" in found) == ("OK", False)


def test_triggers_that_are_not_read_yet_are_an_error_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation_module, "SYNC_SECONDS", 0.01)
    assert Port(None).call(FakeCallerReviews(GET)) == (
        "UNAVAILABLE", "Explain: the triggers are not known: ai/llama: not read yet"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "details"),
    [
        pytest.param((), "this port needs a Kubernetes token", id="no token"),
        pytest.param((("authorization", "Basic YTpi"),), "this port needs a Kubernetes token", id="a password"),
        pytest.param((("authorization", "Bearer "),), "this port needs a Kubernetes token", id="an empty token"),
        pytest.param((*ALICE, *ALICE), "this port needs a Kubernetes token", id="two tokens"),
        pytest.param(
            (("authorization", "Bearer token-of-eve"),), "the API server does not accept this token", id="unknown"
        ),
    ],
)
def test_without_a_valid_token_there_is_no_answer(headers: tuple[tuple[str, str], ...], details: str) -> None:
    port = Port()
    code, found = port.call(FakeCallerReviews(GET, UPDATE), headers=headers)
    assert (code, details in found) == ("UNAUTHENTICATED", True)
    assert "token-of" not in found
    assert not port.cluster.asked


def test_a_review_that_cannot_be_made_admits_no_caller() -> None:
    reviews = FakeCallerReviews(GET, UPDATE, failure="the API server makes no review: status 503")
    assert Port().call(reviews) == (
        "PERMISSION_DENIED", "Explain: the right is not known: the API server makes no review: status 503"
    )  # fmt: skip


def test_the_port_has_no_other_service_and_no_other_interface() -> None:
    async def talk() -> None:
        port, server_port = Port(), free_port()
        server = await start_explain_server(
            server_port, lambda: port.scaler, FakeCallerReviews(GET), UndecodableLog(lambda: 0.0)
        )
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server_port}") as channel:
            keda = pb_grpc.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]
            for call in (
                keda.IsActive(pb.ScaledObjectRef(), metadata=ALICE),
                channel.unary_unary("/grpc.health.v1.Health/Check")(b"", metadata=ALICE),
                channel.unary_unary("/keda_gpu_scaler.fleet.v1.Fleet/RegisterInterest")(b"", metadata=ALICE),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call
                assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        # Another address of the loopback interface stands for those of other interfaces.
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.2", server_port)
        await server.stop(None)

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("method", "right"),
    [
        ("Preview", ("create", "scaledobjects", "ai", "llama")),
        ("ListWorkloads", ("list", "scaledobjects", "", "")),
    ],
)
def test_a_preview_needs_the_right_to_create_and_the_list_the_right_to_list_everywhere(
    method: str, right: tuple[str, str, str, str]
) -> None:
    assert Port().call(FakeCallerReviews(right), method=method)[0] == "OK"
    code, sentence = Port().call(FakeCallerReviews(GET, UPDATE), method=method)
    assert (code, f"may not {right[0]} scaledobjects.keda.sh" in sentence) == ("PERMISSION_DENIED", True)
    assert Port().call(FakeCallerReviews(right), headers=(), method=method)[0] == "UNAUTHENTICATED"
    assert Port().call(FakeCallerReviews(failure="it does not answer"), method=method)[0] == "PERMISSION_DENIED"
