# SPDX-License-Identifier: Apache-2.0
"""Tests which questions are remembered: those of ScaledObjects that exist and declare the trigger."""

import asyncio
from collections.abc import Mapping

import grpc
import pytest

from keda_gpu_scaler.core.instance_status import RecentAnswer
from keda_gpu_scaler.core.interfaces import Cluster
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import DeclaredTrigger, PodRef, Unavailable, Workload
from keda_gpu_scaler.server.declarations import Declarations
from keda_gpu_scaler.server.external_scaler import ExternalScaler
from keda_gpu_scaler.server.recent_answers import MAX_ANSWERS
from keda_gpu_scaler.server.request_resolver import ResolvedTrigger
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.fakes import FakeCluster, ManualClock, node_history, pod, sample, workload

SENT = {"targetValue": "50", "metricName": "gpu"}
DECLARED = (DeclaredTrigger({**SENT, "scalerTokenFromEnv": "TOKEN"}, "AverageValue"), DeclaredTrigger({}, "Value"))
KNOWN = workload(pod("llama-0"), triggers=DECLARED)
ABSENT = Unavailable("there is no ScaledObject of this name", is_permanent=True, triggers=())
PENDING = Unavailable("not read yet", is_permanent=False)
INVENTED = 2_100


def resolved(metadata: Mapping[str, str]) -> ResolvedTrigger:
    return ResolvedTrigger(parse_trigger(metadata), tuple(sorted(metadata.items())), "ai", "llama")


def is_declared(
    known: Workload | Unavailable | None, metadata: Mapping[str, str] = SENT, declarations: Declarations | None = None
) -> bool:
    return (declarations or Declarations()).standing(resolved(metadata), known, 0.0).counts


@pytest.mark.parametrize(
    ("known", "metadata", "expected"),
    [
        pytest.param(KNOWN, SENT, True, id="a declared trigger"),
        pytest.param(KNOWN, {}, True, id="another declared trigger"),
        pytest.param(KNOWN, {**SENT, "scalerTokenFromEnv": "abc"}, True, id="with a value from the environment"),
        pytest.param(KNOWN, {**SENT, "targetValue": "51"}, False, id="another value"),
        pytest.param(KNOWN, {**SENT, "gpuIndex": "1"}, False, id="one key more"),
        pytest.param(KNOWN, {"targetValue": "50"}, False, id="one key less"),
        pytest.param(ABSENT, SENT, False, id="no such ScaledObject"),
        pytest.param(
            Unavailable("its scale target does not exist", is_permanent=True, triggers=DECLARED), SENT, True,
            id="a declared trigger without a target",
        ),
        pytest.param(
            Unavailable("its scale target does not exist", is_permanent=True, triggers=DECLARED), {"gpuIndex": "1"},
            False, id="another trigger without a target",
        ),
        pytest.param(PENDING, SENT, False, id="a ScaledObject that was never read"),
        pytest.param(Unavailable("forbidden", is_permanent=True), SENT, True, id="ScaledObjects may not be read"),
        pytest.param(None, SENT, True, id="no access to the API server"),
    ],
)  # fmt: skip
def test_a_question_counts_if_its_scaled_object_declares_the_trigger(
    known: Workload | Unavailable | None, metadata: Mapping[str, str], expected: bool
) -> None:
    assert is_declared(known, metadata) == expected


def test_a_declared_trigger_stays_one_while_the_api_server_does_not_answer() -> None:
    declarations = Declarations()
    assert is_declared(KNOWN, SENT, declarations)
    assert is_declared(PENDING, SENT, declarations)
    assert not is_declared(PENDING, {}, declarations)
    assert not is_declared(ABSENT, SENT, declarations)
    assert not is_declared(PENDING, SENT, declarations)


class InventingCluster(FakeCluster):
    """A cluster with one ScaledObject. Every other name has none."""

    def workload(self, namespace: str, name: str, proposed_spec: str = "") -> Workload | Unavailable:
        return KNOWN if (namespace, name) == ("ai", "llama") else ABSENT


class Asked:
    """A scaler that is called without a network, with what it notes."""

    def __init__(self, cluster: Cluster | None) -> None:
        fleet = Fleet(node_history("gpu-7", sample(0, 0.92), held={"GPU-0000": "llama-0"}), 10.0)
        self.events: list[RecentAnswer] = []
        self.costs: list[Mapping[PodRef, int] | None] = []
        self.scaler = ExternalScaler(
            lambda: fleet,
            ManualClock(),
            cluster,
            on_answer=self.events.append,
            on_costs=lambda workload, trigger, costs: self.costs.append(costs),
        )

    async def ask(self, name: str, metadata: Mapping[str, str], namespace: str = "ai") -> None:
        ref = pb.ScaledObjectRef(name=name, namespace=namespace, scalerMetadata=metadata)
        request = pb.GetMetricsRequest(scaledObjectRef=ref).SerializeToString()
        call = self.scaler._counted("GetMetrics", self.scaler._get_metrics)
        try:
            await call(request, _Context())
        except _AbortError:
            return


class _AbortError(Exception):
    pass


class _Context:
    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise _AbortError(f"{code}: {details}")


def test_invented_names_evict_no_scaled_object_and_reach_no_event() -> None:
    async def talk() -> None:
        await asked.ask("llama", SENT)
        for number in range(INVENTED):
            await asked.ask(f"invented-{number}", {"metricName": f"evil{number}", **({} if number % 2 else SENT)})
        for number in range(50):
            await asked.ask("llama", {"metricName": f"evil{number}"})

    assert INVENTED > MAX_ANSWERS
    asked = Asked(InventingCluster())
    asyncio.run(talk())
    assert [(it.name, it.metric_name) for it in asked.scaler.answers()] == [("llama", "gpu")]
    assert [(it.name, it.metric_name) for it in asked.events] == [("llama", "gpu")]
    assert len(asked.costs) == 1


EDITED = workload(pod("llama-0"), triggers=(DeclaredTrigger({"profile": "tritn-inference"}, "AverageValue"),))


def test_an_answer_ends_with_the_edit_of_its_trigger_and_does_not_come_back_with_it() -> None:
    async def talk() -> None:
        cluster.report(KNOWN)
        await asked.ask("llama", SENT)
        assert [it.value for it in asked.scaler.answers()] != []
        cluster.report(EDITED)
        assert asked.scaler.answers() == []
        cluster.report(KNOWN)
        assert asked.scaler.answers() == []
        await asked.ask("llama", SENT)
        assert len(asked.scaler.answers()) == 1

    cluster = FakeCluster()
    asked = Asked(cluster)
    asyncio.run(talk())


def test_a_refused_question_ends_the_answers_about_its_object_where_declarations_cannot_be_read() -> None:
    async def talk() -> None:
        await asked.ask("llama", SENT)
        await asked.ask("chat", SENT)
        await asked.ask("llama", {"profile": "tritn-inference"})
        assert [it.name for it in asked.scaler.answers()] == ["chat"]
        assert [it.name for it in asked.scaler.refused_triggers()] == ["llama"]
        await asked.ask("llama", SENT)  # another trigger of the object is still valid
        await asked.ask("llama", {"profile": "tritn-inference"})
        assert {it.name for it in asked.scaler.answers()} == {"llama", "chat"}

    asked = Asked(None)
    asyncio.run(talk())


def test_refused_triggers_are_compared_regularly_without_a_page_that_asks_for_them() -> None:
    async def talk() -> None:
        cluster.report(EDITED)
        await asked.ask("llama", {"profile": "tritn-inference"})
        asked.scaler.expire_idle()
        refused, accepted = asked.scaler.refusals()
        assert ([it.name for it in refused], accepted) == (["llama"], [])

    cluster = FakeCluster()
    asked = Asked(cluster)
    asyncio.run(talk())
