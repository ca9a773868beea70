# SPDX-License-Identifier: Apache-2.0
"""The measured value is the mean of the replicas, and a missing value has a cause."""

import pytest

from keda_gpu_scaler.core.evaluate.evaluation import evaluate
from keda_gpu_scaler.core.evaluate.missing_cause import MissingCause, missing_cause
from keda_gpu_scaler.core.state.fleet import NOT_ANSWERED_YET, Fleet, History
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import Pod
from tests.fakes import device, node_history, pod, sample, workload

NOW = 1000.0
HELD = {device(0).uuid: "llama-0", device(1).uuid: "llama-1"}
HERE = node_history("gpu-7", sample(0, 0.9), sample(1, 0.3), held=HELD)


@pytest.mark.parametrize(
    ("metadata", "pods", "measured"),
    [
        pytest.param({}, (pod("llama-0"), pod("llama-1")), 60.0, id="the mean of two pods"),
        pytest.param({}, (pod("llama-0"), pod("llama-1", ready=False)), 90.0, id="a pod that is not ready is left out"),
        pytest.param({}, (pod("llama-0"), pod("llama-2", "gpu-8")), 90.0, id="a pod without a value is left out"),
        pytest.param({}, (pod("llama-2", "gpu-8"),), None, id="no pod has a value"),
        pytest.param({"scope": "node", "aggregation": "max"}, (pod("llama-0"),), 90.0, id="the aggregate of devices"),
        pytest.param(
            {}, (pod("llama-0", group="a", group_size=2), pod("llama-1", group="a", group_size=2)), 90.0,
            id="two pods that are one replica count once",
        ),
    ],
)  # fmt: skip
def test_the_measured_value(metadata: dict[str, str], pods: tuple[Pod, ...], measured: float | None) -> None:
    trigger = parse_trigger(metadata)
    evaluation = evaluate(trigger, Fleet(HERE, 10.0), NOW, workload(*pods), metadata)
    assert evaluation.comparison.measured == (measured if measured is None else pytest.approx(measured))


def test_a_value_that_is_not_the_plain_total_has_a_reason() -> None:
    trigger, fleet = parse_trigger({}), Fleet(HERE, 10.0)
    plain = evaluate(trigger, fleet, NOW, workload(pod("llama-0"), pod("llama-1")))
    assert (plain.value, plain.comparison.adjustment) == (120.0, "")
    adjusted = evaluate(trigger, fleet, NOW, workload(pod("llama-1"), pod("llama-2", "gpu-8"), replicas=2))
    assert adjusted.comparison.adjustment in adjusted.steps
    assert "the resource-metric rules of the pods" in adjusted.comparison.adjustment


@pytest.mark.parametrize(
    ("missing", "peers", "unavailable", "cause"),
    [
        pytest.param(pod("llama-2", None), {}, {}, MissingCause.NOT_SCHEDULED, id="a pod without a node"),
        pytest.param(pod("llama-2", "gpu-8"), {}, {}, MissingCause.NODE, id="a node without an instance"),
        pytest.param(
            pod("llama-2", "gpu-8"), {}, {"gpu-8": NOT_ANSWERED_YET}, MissingCause.PENDING, id="a node called just now"
        ),
        pytest.param(
            pod("llama-2", "gpu-8"), {"gpu-8": node_history("gpu-8", sample(), held=None)}, {}, MissingCause.HOLDERS,
            id="a node that does not know who holds its devices",
        ),
        pytest.param(
            pod("llama-2", "gpu-8"),
            {"gpu-8": node_history("gpu-8", sample(0, None), held={device(0).uuid: "llama-2"})},
            {}, MissingCause.READING, id="a device without a reading",
        ),
        pytest.param(
            pod("llama-2", "gpu-8"), {"gpu-8": node_history("gpu-8", sample(), held={}, at=NOW - 41)}, {},
            MissingCause.NODE, id="a node that answered too long ago",
        ),
        pytest.param(pod("llama-0"), {}, {}, None, id="a pod with a value"),
    ],
)  # fmt: skip
def test_the_cause_of_a_missing_value(
    missing: Pod, peers: dict[str, History], unavailable: dict[str, str], cause: MissingCause | None
) -> None:
    trigger, fleet = parse_trigger({}), Fleet(HERE, 10.0, peers=peers, unavailable=unavailable)
    evaluation = evaluate(trigger, fleet, NOW, workload(missing, pod("llama-1")))
    observed = next(one for one in evaluation.observations if one.pod.ref == missing.ref)  # type: ignore[union-attr]
    assert missing_cause(observed, trigger, evaluation, fleet, NOW) is cause
