# SPDX-License-Identifier: Apache-2.0
"""What an explanation looks like, what is read of a ScaledObject, and what is foreseen of KEDA and the HPA."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.cli.explain.forecast import decided, forecast_of
from keda_gpu_scaler.cli.explain.render import ExplainResult, HpaStatus, as_json, hpa_status, screen
from keda_gpu_scaler.cli.explain.scaledobject import (
    ScaledObject,
    ScaledObjectError,
    ScaledObjectTrigger,
    read_scaled_object,
    scaled_object_of,
)
from keda_gpu_scaler.cli.probe.client import Call
from keda_gpu_scaler.core.hpa.controller import Behavior, Limit, Policy, PolicyType, ScalingRules, SelectPolicy
from keda_gpu_scaler.core.hpa.replica_calculator import Tolerances
from keda_gpu_scaler.wire import evaluation_pb2 as pb
from tests.serving import free_port

GOLDEN = Path(__file__).parents[2] / "golden" / "explain.txt"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = (
    ("profile", "triton-inference", "given"),
    ("metricType", "gpu_utilization", "profile triton-inference"),
    ("targetValue", "75 %", "profile triton-inference"),
    ("scope", "workload", "default"),
    ("windowSeconds", "10", "default"),
)


def evaluation(value: float | None = 276.0, **changes: Any) -> pb.Evaluation:
    """Three replicas, two of them seen at 92 and 184, one on a node that went silent, and one that starts."""
    base = pb.Evaluation(
        metric_name="keda_gpu_triton_inference",
        metric="gpu_utilization",
        unit="%",
        target=75.0,
        scope="workload",
        value=value,
        active=True,
        with_value=2,
        expected=3,
        steps=[
            "scope workload: gpu_utilization of Deployment llama (mean of the last 10 s): 4 replicas of 4 wanted",
            "pod llama-7c9f6d5b8-aaaaa: 92 % on node gpu-a: GPU 0 NVIDIA H100 92 %",
            "pod llama-7c9f6d5b8-ddddd (not ready): holds no device of node gpu-a",
            "total of 2 pods: 276",
            "active: 184 is above activationThreshold 5",
        ],
        instance="gpu-a",
        value_type="AverageValue",
        settings=[pb.Setting(key=key, value=said, origin=origin) for key, said, origin in SETTINGS],
        workload=pb.Workload(kind="ScaledObject", target="Deployment llama", wanted=4, actual=4, ready=3),
        observations=[
            pb.Observation(
                pod="llama-7c9f6d5b8-aaaaa", node="gpu-a", ready=True, state="observed", value=92.0, age_seconds=0.4,
                sentence="92 % on node gpu-a: GPU 0 NVIDIA H100 92 %",
                devices=[pb.ObservedDevice(index=0, model="NVIDIA H100", uuid="GPU-0", value=92.0, sharers=1)],
            ),
            pb.Observation(
                pod="llama-7c9f6d5b8-bbbbb", node="gpu-b", ready=True, state="observed", value=184.0, age_seconds=12.0,
                sentence="184 % on node gpu-b",
                devices=[
                    pb.ObservedDevice(index=0, model="NVIDIA H100", uuid="GPU-1", value=92.0, sharers=2),
                    pb.ObservedDevice(index=1, model="NVIDIA H100", uuid="GPU-2", value=92.0, sharers=1),
                ],
            ),
            pb.Observation(
                pod="llama-7c9f6d5b8-ccccc", node="gpu-c", ready=True, state="missing",
                sentence="node gpu-c last answered 41 s ago (limit 10 s): it does not answer",
            ),
            pb.Observation(
                pod="llama-7c9f6d5b8-ddddd", node="gpu-a", state="no_device", sentence="holds no device of node gpu-a"
            ),
        ],
    )  # fmt: skip
    for key, change in changes.items():
        if isinstance(change, list):
            del getattr(base, key)[:]
            getattr(base, key).extend(change)
        elif change is None:
            base.ClearField(key)
        elif isinstance(change, pb.Workload | pb.Demand):
            getattr(base, key).CopyFrom(change)
        else:
            setattr(base, key, change)
    return base


DEFINITION = ScaledObject(
    "ai", "llama", triggers=(ScaledObjectTrigger(1, {}),), min_replicas=1, max_replicas=6, hpa_name="keda-hpa-llama"
)


def explained(
    told: pb.Evaluation | None, definition: ScaledObject = DEFINITION, replicas: int | None = None, **changes: Any
) -> ExplainResult:
    declared = definition.triggers[0]
    forecast = forecast_of(told, definition, declared, replicas) if told is not None else None
    parts: dict[str, Any] = {"asked": "pod keda/keda-gpu-scaler-0", "evaluation": told, "forecast": forecast, **changes}
    return ExplainResult(AT, definition, declared, 1, **parts)


SCREENS = {
    "one pod unseen, one not ready, and the HPA would grow": explained(
        evaluation(), status=HpaStatus(4, 4, ("ScalingLimited False: it is within the range (DesiredWithinRange)",))
    ),
    "no value": explained(
        evaluation(
            None, with_value=0, no_value_reason="unavailable", reason="no fresh sample for 3 of 3 ready pods: node gpu-c told nothing"
        )
    ),
    "asleep, with demand that nobody can read": explained(
        evaluation(
            0.0, active=False, with_value=0, expected=0, observations=[], activity_unknown=True,
            workload=pb.Workload(kind="ScaledObject", target="Deployment llama"),
            steps=["0: the workload has no replica", "inactive: demand is unknown"],
            demand=pb.Demand(sentence="http://gateway:8080/metrics does not answer"),
        )
    ),
    "devices of the fleet, without the workload": explained(
        evaluation(
            92.0, scope="fleet", workload=None, value_type="", with_value=1, expected=2,
            steps=["scope fleet: gpu_utilization of 2 device(s) of 2 nodes", "max: 92", "active: 92 is above 0"],
            observations=[
                pb.Observation(
                    node="gpu-a", ready=True, state="observed", value=92.0, age_seconds=0.1, sentence="GPU 0",
                    devices=[pb.ObservedDevice(index=0, model="NVIDIA H100", uuid="GPU-0", value=92.0)],
                ),
                pb.Observation(node="gpu-c", state="missing", sentence="node gpu-c: it does not answer"),
            ],
        )
    ),
    "no verdict": explained(
        None, error=Call("Explain", 1.0, "INVALID_ARGUMENT", 'metadata.targetValue: Invalid value: "eighty"')
    ),
}  # fmt: skip


def drawn() -> str:
    pages = [
        f"=== {title}, {width} columns{', wide' if wide else ''}\n{screen(shown, width, wide=wide)}"
        for title, shown in SCREENS.items()
        for width, wide in ((80, False), (140, False), (140, True))
    ]
    return "\n\n".join(re.sub(r"\d\d:04:05", "03:04:05", re.sub("\x1b\\[[0-9;]*m", "", page)) for page in pages) + "\n"


def test_the_screens_are_those_of_the_golden_file() -> None:
    assert drawn() == GOLDEN.read_text()


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("title", SCREENS)
def test_no_line_is_wider_than_the_screen(title: str, width: int) -> None:
    for line in screen(SCREENS[title], width).splitlines():
        assert len(re.sub("\x1b\\[[0-9;]*m", "", line)) <= width


def test_nothing_that_a_terminal_obeys_gets_through() -> None:
    evil = "\x1b[2J\x07"
    shown = explained(
        evaluation(
            steps=[evil], reason=evil, hints=[evil], observations=[pb.Observation(pod=evil, node=evil, sentence=evil)]
        )
    )
    assert "\x1b[2J" not in screen(shown, 80)
    assert "\x07" not in screen(shown, 80)


def test_what_the_table_shows_is_not_told_twice() -> None:
    assert screen(SCREENS["one pod unseen, one not ready, and the HPA would grow"], 140).count("holds no device") == 1


@pytest.mark.parametrize("title", SCREENS)
def test_for_programs_every_key_is_always_there(title: str) -> None:
    keys = set(json.loads(as_json(explained(evaluation()))))
    assert set(json.loads(as_json(SCREENS[title]))) == keys


# ---- what is foreseen ----


def policy(value: int, kind: PolicyType = PolicyType.PODS) -> Policy:
    return Policy(kind, value, 60)


@pytest.mark.parametrize(
    ("told", "definition", "replicas", "limit"),
    [
        (evaluation(600.0), DEFINITION, 6, Limit.MAX),
        (evaluation(0.0), DEFINITION, 1, Limit.MIN),
        (evaluation(310.0), DEFINITION, 4, Limit.TOLERANCE),
        (evaluation(350.0), DEFINITION, 5, Limit.NONE),
        (
            evaluation(600.0),
            ScaledObject(
                "ai", "llama", triggers=(ScaledObjectTrigger(1, {}),), behavior=Behavior(up=ScalingRules((policy(1),)))
            ),
            5,
            Limit.RATE_UP,
        ),
        (
            evaluation(75.0),
            ScaledObject(
                "ai",
                "llama",
                triggers=(ScaledObjectTrigger(1, {}),),
                behavior=Behavior(down=ScalingRules((policy(1),))),
            ),
            3,
            Limit.RATE_DOWN,
        ),
        (evaluation(None), DEFINITION, 4, Limit.NO_METRIC),
        (
            evaluation(0.0, workload=pb.Workload(kind="ScaledObject", target="Deployment llama")),
            DEFINITION,
            0,
            Limit.DISABLED,
        ),
    ],
    ids=[
        "as many as there may be", "as few as there may be", "near enough", "one more", "no faster than a policy",
        "no faster down either", "without a value nothing", "asleep the HPA has no say",
    ],
)  # fmt: skip
def test_the_limit_that_bites_is_named(
    told: pb.Evaluation, definition: ScaledObject, replicas: int, limit: Limit
) -> None:
    decision = forecast_of(told, definition, definition.triggers[0]).decision
    assert decision is not None
    assert (decision.replicas, decision.limit) == (replicas, limit)


def of_keda(told: pb.Evaluation, **changes: Any) -> str:
    definition = ScaledObject("ai", "llama", triggers=(ScaledObjectTrigger(1, {}),), **changes)
    return " | ".join(forecast_of(told, definition, definition.triggers[0]).keda)


ASLEEP = pb.Workload(kind="ScaledObject", target="Deployment llama")


@pytest.mark.parametrize(
    ("told", "changes", "sentence"),
    [
        (evaluation(0.0, active=False), {}, "KEDA scales it to 0 when it was inactive for 300 s (cooldownPeriod)"),
        (evaluation(0.0, active=False), {"min_replicas": 2}, "changes nothing: minReplicaCount is 2"),
        (
            evaluation(0.0, active=False),
            {"min_replicas": 2, "idle_replicas": 0, "cooldown_seconds": 60.0, "others": ("cron",)},
            "KEDA scales it to 0 when it was inactive for 60 s (cooldownPeriod) and no other trigger is active",
        ),
        (evaluation(0.0, workload=ASLEEP), {"min_replicas": 0}, "KEDA wakes it: 1 at once"),
        (evaluation(0.0, active=False, workload=ASLEEP), {}, "it stays asleep until a trigger is active"),
        (evaluation(None), {}, "KEDA gets an error: the HPA leaves the size alone (no fallback is set)"),
        (evaluation(None), {"fallback": (3, 5)}, "after 3 of them its fallback sets 5 replicas"),
        (evaluation(5.0, activity_unknown=True), {}, "IsActive is an error too"),
        (evaluation(301.0), {"kind": "ScaledJob", "max_replicas": 4}, "KEDA keeps 4 jobs running: ceil(301 / 75)"),
        (evaluation(), {"paused": "autoscaling.keda.sh/paused: true"}, "KEDA does nothing: it is paused"),
        (evaluation(), {"has_formula": True}, "scalingModifiers"),
    ],
)
def test_what_keda_does_itself_is_said(told: pb.Evaluation, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in of_keda(told, **changes)


def test_a_size_that_nobody_knows_leads_to_no_decision_until_it_is_given() -> None:
    told = evaluation(92.0, workload=None)
    assert forecast_of(told, DEFINITION, DEFINITION.triggers[0]).decision is None
    decision = forecast_of(told, DEFINITION, DEFINITION.triggers[0], 1).decision
    assert decision is not None
    assert decision.replicas == 2


def test_the_tolerance_is_the_one_that_the_behaviour_gives() -> None:
    narrow = ScaledObject("ai", "llama", triggers=(ScaledObjectTrigger(1, {}),), tolerances=Tolerances(0.01, 0.01))
    decision = forecast_of(evaluation(310.0), narrow, narrow.triggers[0]).decision
    assert decision is not None
    assert (decision.replicas, decision.limit) == (5, Limit.NONE)


@pytest.mark.parametrize(
    ("value_type", "value", "replicas", "measured"),
    [("AverageValue", 450.0, 6, "450 is 1.200 of 5 * 75"), ("Value", 100.0, 4, "100 is 1.333 of 75")],
    ids=["the total is shared by as many as there are", "the mean is for those that are ready"],
)
def test_while_pods_come_and_go_each_type_counts_its_own(
    value_type: str, value: float, replicas: int, measured: str
) -> None:
    sizes = pb.Workload(kind="ScaledObject", target="Deployment llama", wanted=4, actual=5, ready=3)
    told = evaluation(value, value_type=value_type, workload=sizes)
    recommendation = forecast_of(told, DEFINITION, DEFINITION.triggers[0]).recommendation
    assert recommendation is not None
    assert recommendation.replicas == replicas
    assert recommendation.sentence.startswith(measured)


def test_shrinking_waits_as_long_as_the_behaviour_says() -> None:
    definition = ScaledObject(
        "ai", "llama", triggers=(ScaledObjectTrigger(1, {}),), behavior=Behavior(down=ScalingRules((policy(9),), 120.0))
    )
    forecast = forecast_of(evaluation(75.0), definition, definition.triggers[0])
    assert forecast.decision is not None
    assert "once all recommendations of 120 s are this low" in decided(forecast.decision, forecast.current, definition)


# ---- what a ScaledObject says ----

SCALED_OBJECT = """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: llama, namespace: ai, annotations: {autoscaling.keda.sh/paused-replicas: "2"}}
spec:
  minReplicaCount: 2
  maxReplicaCount: 9
  cooldownPeriod: 60
  fallback: {failureThreshold: 3, replicas: 4}
  advanced:
    horizontalPodAutoscalerConfig:
      name: of-llama
      behavior:
        scaleUp: {tolerance: 50m, policies: [{type: Pods, value: 2, periodSeconds: 30}], selectPolicy: Min}
        scaleDown: {stabilizationWindowSeconds: 120, tolerance: "0.2"}
  triggers:
    - {type: cpu, metadata: {value: "80"}}
    - {type: external-push, metricType: Value, metadata: {scalerAddress: "keda-gpu-scaler.keda:6000", targetValue: 60}}
"""


def test_everything_that_matters_is_read_of_a_scaled_object() -> None:
    found = read_scaled_object(SCALED_OBJECT, "ai", "")
    assert found.triggers == (
        ScaledObjectTrigger(2, {"scalerAddress": "keda-gpu-scaler.keda:6000", "targetValue": "60"}, "Value"),
    )
    assert (found.namespace, found.name, found.kind, found.others) == ("ai", "llama", "ScaledObject", ("cpu",))
    assert (found.min_replicas, found.max_replicas, found.cooldown_seconds) == (2, 9, 60.0)
    assert (found.fallback, found.paused, found.hpa_name) == (
        (3, 4),
        "autoscaling.keda.sh/paused-replicas: 2",
        "of-llama",
    )
    assert found.behavior is not None
    assert found.behavior.up == ScalingRules((Policy(PolicyType.PODS, 2, 30),), 0.0, SelectPolicy.MIN)
    assert found.behavior.down.stabilisation_seconds == 120
    assert (found.tolerances.up, found.tolerances.down) == (0.05, 0.2)


@pytest.mark.parametrize(
    "spec",
    [
        None, [], {"triggers": "none"}, {"triggers": [None, 3, {"type": "external", "metadata": 4}]},
        {"minReplicaCount": "two", "maxReplicaCount": -1, "advanced": [], "fallback": 3},
        {"advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": {"policies": [{"type": "Nodes"}]}}}}},
        {"advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": {"tolerance": "none"}}}}},
    ],
)  # fmt: skip
def test_whatever_strangers_write_is_a_definition(spec: object) -> None:
    found = scaled_object_of({"kind": "ScaledObject", "metadata": {"name": "x"}, "spec": spec})
    assert (found.min_replicas, found.max_replicas, found.behavior) == (0, 100, None)


def test_a_behaviour_that_cannot_be_read_is_remarked() -> None:
    behavior = {"scaleUp": {"policies": [{"type": "Nodes", "value": 1, "periodSeconds": 1}]}}
    found = scaled_object_of({"spec": {"advanced": {"horizontalPodAutoscalerConfig": {"behavior": behavior}}}})
    assert found.remarks[0].startswith("behavior: ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not YAML that can be read"),
        ("kind: Deployment", "there is no ScaledObject and no ScaledJob in it"),
        (SCALED_OBJECT + "---" + SCALED_OBJECT.replace("llama", "whisper"), "in it are: ai/llama, ai/whisper"),
    ],
)
def test_a_file_that_does_not_say_which_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ScaledObjectError, match=sentence):
        read_scaled_object(text, "ai", "")


def test_of_several_the_named_one_is_read() -> None:
    both = SCALED_OBJECT + "---" + SCALED_OBJECT.replace("llama", "whisper")
    assert read_scaled_object(both, "ai", "whisper").name == "whisper"


@pytest.mark.parametrize(
    "item", [None, {}, {"status": None}, {"status": {"conditions": 3}}, {"status": {"conditions": [4]}}]
)
def test_whatever_an_hpa_says_of_itself_is_no_fault(item: dict[str, Any] | None) -> None:
    found = hpa_status(item)
    assert found is None or found.conditions == ()


# ---- usage ----


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name a ScaledObject (ai/llama), a file (-f), or metadata"),
        (("ai/llama",), "--address: Required value: there is no kubeconfig"),
        (("ai/llama", "--address", "127.0.0.1:1"), "there is no kubeconfig to read ai/llama by"),
        (("-f", "nowhere.yaml", "--address", "127.0.0.1:1"), "nowhere.yaml: no such file"),
        (("-m", "a=b", "--address", "here"), "must be HOST:PORT"),
        (("-m", "a=b", "--address", "127.0.0.1:1", "--trigger", "2"), "--trigger: Invalid value: 2"),
        (("-m", "a=b", "--address", "127.0.0.1:1", "--tls-cert", "x"), "--tls-cert, --tls-key: belong together"),
        (("-m", "a=b", "--address", "127.0.0.1:1", "--tls-ca", "nowhere.pem"), "--tls-ca: cannot read nowhere.pem"),
        (("ai/llama", "--kubeconfig", "nowhere"), "cannot read nowhere"),
    ],
)
def test_wrong_usage_is_said(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(main, ["explain", *arguments], env={"KUBECONFIG": str(tmp_path / "none")})
    assert outcome.exit_code == 2, outcome.output
    assert sentence in re.sub(r"\s+", " ", outcome.output)


def test_nobody_at_the_address_is_status_3() -> None:
    address = f"127.0.0.1:{free_port()}"
    outcome = CliRunner().invoke(main, ["explain", "-m", "scope=node", "--address", address, "--json"])
    assert outcome.exit_code == 3
    assert json.loads(outcome.stdout)["error"] == {"status": "UNAVAILABLE", "details": "Connection refused"}
