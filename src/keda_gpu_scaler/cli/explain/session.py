# SPDX-License-Identifier: Apache-2.0
"""Calls an instance for the evaluation of each trigger, and another one if a connection breaks.

Law: the evaluation is the one behind the answers to KEDA, made by an instance that answers KEDA. Nothing of it is
computed here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from keda_gpu_scaler.cli.explain.forecast import forecast_of
from keda_gpu_scaler.cli.explain.formula_forecast import with_formula
from keda_gpu_scaler.cli.explain.live_hpa import hpa_differences
from keda_gpu_scaler.cli.explain.result import ExplainResult, hpa_status
from keda_gpu_scaler.cli.explain.scaledobject import ScaledObject, ScaledObjectTrigger
from keda_gpu_scaler.cli.kube_session import KubeSession
from keda_gpu_scaler.cli.output import waiting_notice
from keda_gpu_scaler.cli.pace import Timing
from keda_gpu_scaler.cli.people_port import PersonalToken, token_for
from keda_gpu_scaler.cli.probe.client import Call, ProbeAnswer, ProbeRequest, ScalerClient
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb
from keda_gpu_scaler.wire.tls import ClientTls

_RETRY_SECONDS = 0.2
_REPORT = "report"


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """What to explain, and where.

    ``address`` is the instance to call; empty to find one in the cluster, in ``scaler_namespace`` where that is not
    empty. ``total_triggers`` counts all triggers of the ScaledObject, also those that are not to be explained.
    ``replicas`` is the workload's size where the scaler does not know it. ``token`` is that of ``--token-file``.
    """

    scaled_object: ScaledObject
    total_triggers: int
    address: str
    scaler_namespace: str
    timeout_seconds: float
    tls: ClientTls | None
    replicas: int | None
    token: str = field(default="", repr=False)


class ExplainSession:
    """Explains every trigger of one ScaledObject, as often as required.

    Args:
        request: what to explain.
        cluster: the cluster; None where ``request.address`` is enough.
        timing: the clocks.
    """

    def __init__(self, request: ExplainRequest, cluster: KubeSession | None, timing: Timing) -> None:
        self._request = request
        self._cluster = cluster
        self._timing = timing
        self._forwarding = cluster if not request.address else None
        self._address = request.address
        self._instance = request.address
        self._token = request.token if request.address else ""
        self._cold_until: float | None = None

    def explain(self) -> Iterator[ExplainResult]:
        """Yield the explanation of each trigger.

        Raises:
            KubeError: no instance can be reached, and none was reached before.
        """
        yield from with_formula(list(self._each()), self._request.replicas)

    def _each(self) -> Iterator[ExplainResult]:
        for trigger in self._request.scaled_object.triggers:
            try:
                yield self._explain(trigger)
            except KubeError as error:
                if not self._instance:
                    raise
                # With --watch, a later round may reach an instance again.
                yield self._result(trigger, error=Call("Explain", 0.0, "UNAVAILABLE", str(error), str(error)))

    def _explain(self, trigger: ScaledObjectTrigger) -> ExplainResult:
        result = self._called(trigger)
        if not self._needs_average(result):
            return result
        # The total over the replicas is their mean times their number, so the HPA decides the same from the mean.
        mean = replace(trigger, metadata={**trigger.metadata, _REPORT: "average"}, value_type=ValueType.VALUE.value)
        result = self._called(mean)
        if result.forecast is None:
            return result
        size = self._request.replicas
        sentence = f"the instance does not know the size: evaluated with report: average for {size} replicas"
        return replace(result, forecast=replace(result.forecast, keda=(*result.forecast.keda, sentence)))

    def _needs_average(self, result: ExplainResult) -> bool:
        """Whether only the workload's size is missing, and the command line gives it."""
        evaluation = result.evaluation
        if self._request.replicas is None or evaluation is None or evaluation.HasField("value"):
            return False
        is_measured = any(observation.HasField("value") for observation in evaluation.observations)
        return is_measured and not evaluation.HasField("workload") and _REPORT not in result.trigger.metadata

    def _called(self, trigger: ScaledObjectTrigger) -> ExplainResult:
        if not self._address and self._forwarding is not None:
            self._forward(self._forwarding, trigger)
        request = self._request
        scaled_object = request.scaled_object
        call = ProbeRequest(
            self._address, scaled_object.name, scaled_object.namespace, trigger.metadata, request.timeout_seconds,
            self._tls(trigger), self._token, scaled_object.proposed_spec,
        )  # fmt: skip
        client = ScalerClient(call, self._timing)
        try:
            with waiting_notice(f"calling {self._instance}"):
                answer, evaluation = self._complete_answer(client)
        finally:
            client.close()
        if evaluation is None:
            error = answer.error
            reason = self._close_broken_forward(is_connected=answer.is_connected)
            return self._result(
                trigger, error=replace(error, details=reason, sentence=reason) if error and reason else error
            )
        hpa = self._hpa()
        return replace(
            self._result(trigger),
            evaluation=evaluation,
            forecast=forecast_of(evaluation, scaled_object, trigger, request.replicas),
            hpa_status=hpa_status(hpa, hpa_differences(hpa, scaled_object, trigger, evaluation)),
        )

    def _complete_answer(self, client: ScalerClient) -> tuple[ProbeAnswer, evaluation_pb.Evaluation | None]:
        """Call the instance until it has read everything once, at most for the time limit of the first call."""
        if self._cold_until is None:
            self._cold_until = self._timing.monotonic() + self._request.timeout_seconds
        while True:
            answer, evaluation = client.explain()
            is_late = self._timing.monotonic() + _RETRY_SECONDS > self._cold_until
            if evaluation is None or not evaluation.pending or is_late:
                return answer, evaluation
            self._timing.sleep(_RETRY_SECONDS)

    def _result(self, trigger: ScaledObjectTrigger, *, error: Call | None = None) -> ExplainResult:
        request = self._request
        return ExplainResult(
            self._timing.utc(), request.scaled_object, trigger, request.total_triggers, self._instance, None, error
        )

    def _forward(self, cluster: KubeSession, trigger: ScaledObjectTrigger) -> None:
        """Find an instance and forward a port to it.

        Raises:
            KubeError: there is none, or the API server refuses.
        """
        with waiting_notice("looking for an instance"):
            instance = cluster.instance(trigger.metadata.get("scalerAddress", ""), self._request.scaler_namespace)
            # With certificates the person calls the port of the instances.
            port = cluster.explain_port(instance) if self._request.tls is None else None
            self._token = ""
            if port is not None:
                named, given = self._request.scaler_namespace, self._request.token
                self._token = token_for(
                    instance, PersonalToken(named, "--namespace-of-scaler", given, cluster.bearer_token)
                )
            self._address = cluster.forward(instance if port is None else replace(instance, port=port))
        self._instance = str(instance)

    def _tls(self, trigger: ScaledObjectTrigger) -> ClientTls | None:
        """Return the TLS settings; through a forwarded port the certificate must name the host that KEDA calls."""
        tls = self._request.tls
        if tls is None or tls.server_name is not None or self._forwarding is None:
            return tls
        host = trigger.metadata.get("scalerAddress", "").rpartition(":")[0]
        return replace(tls, server_name=host or None)

    def _close_broken_forward(self, *, is_connected: bool) -> str:
        """Close a forwarded connection that broke, so that the next call looks for another instance; return why."""
        cluster = self._forwarding
        if cluster is None or (is_connected and not cluster.failure):
            return ""
        reason = cluster.failure
        cluster.close_forwards()
        self._address = ""
        return reason

    def _hpa(self) -> Mapping[str, Any] | None:
        """Return the live HPA; None where there is none, or where it cannot be read."""
        scaled_object = self._request.scaled_object
        if self._cluster is None or scaled_object.kind != "ScaledObject" or not scaled_object.hpa_name:
            return None
        return self._cluster.hpa(scaled_object.namespace, scaled_object.hpa_name)
