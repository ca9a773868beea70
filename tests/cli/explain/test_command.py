# SPDX-License-Identifier: Apache-2.0
"""Tests the pages of ``explain``, the reader of ScaledObjects, and the forecast of KEDA and the HPA."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.cli.explain.answer import answer_line
from keda_gpu_scaler.cli.explain.causes import COMMANDS, Cause, next_step
from keda_gpu_scaler.cli.explain.forecast import forecast_of
from keda_gpu_scaler.cli.explain.json_output import as_json
from keda_gpu_scaler.cli.explain.reasons import next_steps
from keda_gpu_scaler.cli.explain.render import explanation_page
from keda_gpu_scaler.cli.explain.result import ExplainResult, HpaStatus, hpa_status
from keda_gpu_scaler.cli.explain.scaledobject import (
    Fallback,
    ScaledObject,
    ScaledObjectError,
    ScaledObjectTrigger,
    read_scaled_object,
    scaled_object_of,
)
from keda_gpu_scaler.cli.page import Page
from keda_gpu_scaler.cli.probe.client import Call
from keda_gpu_scaler.cli.probe.simulation import decision_sentence
from keda_gpu_scaler.core.comparison import ReplicaLimits
from keda_gpu_scaler.core.evaluate.evaluation import evaluate
from keda_gpu_scaler.core.hpa.controller import Behavior, Limit, Policy, PolicyType, ScalingRules, SelectPolicy
from keda_gpu_scaler.core.scaling_rules import Formula, JobRules, JobStrategy, Tolerances
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.server.explain import explanation
from keda_gpu_scaler.wire import evaluation_pb2 as pb
from tests.fakes import device, node_history, pod, sample, workload
from tests.free_ports import free_port

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
    """Four replicas: two with the values 92 and 184, one on a node that does not answer, and one that starts."""
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
        comparison=pb.Comparison(measured=138.0),
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
                pod="llama-7c9f6d5b8-ccccc", node="gpu-c", ready=True, state="missing", cause="node",
                sentence="node gpu-c last answered 41 s ago (limit 10 s): it does not answer",
            ),
            pb.Observation(
                pod="llama-7c9f6d5b8-ddddd", node="gpu-a", state="no_device", sentence="holds no device of node gpu-a"
            ),
        ],
    )  # fmt: skip
    for key in ("measured", "adjustment"):
        if key in changes:
            change = changes.pop(key)
            base.comparison.ClearField(key)
            if change is not None:
                setattr(base.comparison, key, change)
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


SLOW = "asked less often: it answers after 3.1 s, and its interval is 2 s"


def asked(
    port: int, failure: str = "", *, engine: bool = True, status: int | None = None, remark: str = ""
) -> pb.ScrapeAttempt:
    seconds = 3.1 if remark else 0.0034
    return pb.ScrapeAttempt(
        url=f"http://10.244.117.17:{port}/metrics", engine=engine, status=status or (None if failure else 200),
        failure=failure, age_seconds=0.4, answer_seconds=seconds, remarks=[remark] if remark else [],
    )  # fmt: skip


def engine_pod(suffix: str, value: float | None, *attempts: pb.ScrapeAttempt) -> pb.Observation:
    return pb.Observation(
        pod=f"llama-7c9f6d5b8-{suffix}", node="gpu-a", ready=True, state="missing" if value is None else "observed",
        value=value, age_seconds=None if value is None else 0.4, attempts=attempts,
        cause="engine" if value is None else "",
        sentence="no answer within 5 s" if value is None else f"{value:g} % by vllm",
    )  # fmt: skip


SCALED_OBJECT_OF_LLAMA = ScaledObject(
    "ai", "llama", triggers=(ScaledObjectTrigger(1, {}),), min_replicas=1, max_replicas=6, hpa_name="keda-hpa-llama"
)


def explained(
    evaluated: pb.Evaluation | None,
    scaled_object: ScaledObject = SCALED_OBJECT_OF_LLAMA,
    replicas: int | None = None,
    **changes: Any,
) -> ExplainResult:
    trigger = scaled_object.triggers[0]
    forecast = forecast_of(evaluated, scaled_object, trigger, replicas) if evaluated is not None else None
    instance = "pod keda/keda-gpu-scaler-0"
    parts: dict[str, Any] = {"instance": instance, "evaluation": evaluated, "forecast": forecast, **changes}
    return ExplainResult(AT, scaled_object, trigger, 1, **parts)


TRITON = replace(SCALED_OBJECT_OF_LLAMA, name="triton", hpa_name="keda-hpa-triton")
NOW = 1000.0
GONE = "nothing listens there (connection refused): is it running, and is the port right?"


def of_triton(third_answered_at: float = NOW) -> pb.Evaluation:
    """Evaluate a Deployment of three pods on three nodes; the third agent may be gone."""
    names = {
        node: f"triton-5f7c9b6d4-{suffix}" for node, suffix in zip("abc", ("4kq8x", "j2m5d", "w9r7t"), strict=True)
    }
    histories = {
        f"gpu-{node}": node_history(
            f"gpu-{node}", sample(0, ratio), held={device(0).uuid: names[node]},
            at=third_answered_at if node == "c" else NOW - 0.4, seconds=10,
        )
        for node, ratio in zip("abc", (0.98, 0.97, 0.99), strict=True)
    }  # fmt: skip
    own = histories.pop("gpu-a")
    unavailable = {} if third_answered_at == NOW else {"gpu-c": GONE}
    fleet = Fleet(own, 10.0, peers=histories, unavailable=unavailable, own_node="gpu-a")
    pods = [pod(name, f"gpu-{node}") for node, name in names.items()]
    known = workload(*pods, name="triton", target="Deployment triton", limits=ReplicaLimits(1, 6))
    metadata = {"profile": "triton-inference"}
    trigger = parse_trigger(metadata)
    return explanation(trigger, evaluate(trigger, fleet, NOW, known, metadata), known, metadata, fleet, NOW)


PAGES = {
    "three busy pods": explained(of_triton(), TRITON),
    "three busy pods, one of them on a node whose agent is gone": explained(of_triton(NOW - 41), TRITON),
    "one pod without a value and one not ready": explained(
        evaluation(), hpa_status=HpaStatus(4, 4, ("ScalingLimited False: it is within the range (DesiredWithinRange)",))
    ),
    "no value": explained(
        evaluation(
            None, with_value=0, no_value_reason="unavailable", measured=None,
            reason="no fresh sample for 3 of 3 ready pods: node gpu-c last answered 41 s ago (limit 10 s): it does not "
            "answer",
            observations=[
                pb.Observation(
                    pod=f"llama-7c9f6d5b8-{name}", node="gpu-c", ready=True, state="missing", cause="node",
                    sentence="node gpu-c last answered 41 s ago (limit 10 s): it does not answer",
                )
                for name in ("aaaaa", "bbbbb", "ccccc")
            ],
        )
    ),
    "scaled to zero, with unknown demand": explained(
        evaluation(
            0.0, active=False, with_value=0, expected=0, observations=[], activity_unknown=True,
            workload=pb.Workload(kind="ScaledObject", target="Deployment llama"), measured=None,
            steps=["0: the workload has no replica", "inactive: demand is unknown"],
            demand=pb.Demand(sentence="http://gateway:8080/metrics does not answer"),
        )
    ),
    "devices of the fleet, without a workload": explained(
        evaluation(
            92.0, scope="fleet", workload=None, value_type="", with_value=1, expected=2, measured=92.0,
            steps=["scope fleet: gpu_utilization of 2 device(s) of 2 nodes", "max: 92", "active: 92 is above 0"],
            observations=[
                pb.Observation(
                    node="gpu-a", ready=True, state="observed", value=92.0, age_seconds=0.1, sentence="GPU 0",
                    devices=[pb.ObservedDevice(index=0, model="NVIDIA H100", uuid="GPU-0", value=92.0)],
                ),
                pb.Observation(node="gpu-c", state="missing", cause="node", sentence="node gpu-c: it does not answer"),
            ],
        )
    ),
    "the engines of three pods": explained(
        evaluation(
            152.0, metric="load", target=100.0, with_value=3, expected=3, measured=50.6667,
            steps=["scope workload: load of Deployment llama", "active: 8 requests are running"],
            observations=[
                engine_pod("aaaaa", 52.0, asked(8000)),
                engine_pod("bbbbb", 100.0, asked(8000), asked(9000, "the connection is refused", engine=False)),
                engine_pod("ccccc", 0.0, asked(8000, remark=SLOW)),
            ],
        )
    ),
    "an engine that does not answer, and two that answer": explained(
        evaluation(
            200.0, metric="load", target=100.0, with_value=1, expected=2, measured=100.0,
            adjustment="the resource-metric rules of the pods (1 ready with a value, 1 without, 0 not ready) lead to 4 "
            "replicas, and so does 400",
            steps=["scope workload: load of Deployment llama", "active: 8 requests are running"],
            observations=[
                engine_pod("aaaaa", 100.0, asked(8000), asked(8001), asked(8002, remark=SLOW)),
                engine_pod(
                    "bbbbb", None, asked(8000, "no answer within 5 s"),
                    asked(15020, "the page has no series of a known engine", engine=False, status=200),
                ),
            ],
        )
    ),
    "no engine, so GPU utilisation": explained(
        evaluation(
            115.0, metric="load", with_value=1, expected=1, measured=115.0,
            fallback="no pod has a known engine (llama-0: no engine is found): load is computed from GPU utilisation",
            steps=[
                "no pod has a known engine (llama-0: no engine is found): load is computed from GPU utilisation",
                "active: 115 is above activationThreshold 5",
            ],
            observations=[engine_pod("aaaaa", 115.0, asked(8000, "the connection is refused", engine=False))],
        )
    ),
    "refused metadata": explained(
        None, error=Call("Explain", 1.0, "INVALID_ARGUMENT", 'metadata.targetValue: Invalid value: "eighty"')
    ),
}  # fmt: skip


def all_pages() -> str:
    pages = [
        f"=== {title}, {width} columns{', wide' if is_wide else ''}\n{explanation_page(shown, width, is_wide=is_wide)}"
        for title, shown in PAGES.items()
        for width, is_wide in ((80, False), (140, False), (140, True))
    ]
    return "\n\n".join(re.sub(r"\d\d:04:05", "03:04:05", re.sub("\x1b\\[[0-9;]*m", "", page)) for page in pages) + "\n"


def test_the_pages_are_those_of_the_golden_file() -> None:
    assert all_pages() == GOLDEN.read_text()


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("title", PAGES)
def test_no_line_is_wider_than_the_page(title: str, width: int) -> None:
    for line in explanation_page(PAGES[title], width).splitlines():
        assert len(re.sub("\x1b\\[[0-9;]*m", "", line)) <= width


def test_an_untrusted_text_sends_no_escape_sequence() -> None:
    evil = "\x1b[2J\x07"
    shown = explained(
        evaluation(
            steps=[evil], reason=evil, hints=[evil], observations=[pb.Observation(pod=evil, node=evil, sentence=evil)]
        )
    )
    assert "\x1b[2J" not in explanation_page(shown, 80)
    assert "\x07" not in explanation_page(shown, 80)


def test_a_sentence_of_the_table_is_not_repeated_in_the_steps() -> None:
    assert explanation_page(PAGES["one pod without a value and one not ready"], 140).count("holds no device") == 1


def plain(page: str) -> str:
    return re.sub("\x1b\\[[0-9;]*m", "", page)


def asked_lines(title: str) -> list[str]:
    """Return the lines of the table of URLs at 80 columns, without its head."""
    lines = plain(explanation_page(PAGES[title], 80, is_wide=True)).splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("asked "))
    end = next(number for number, line in enumerate(lines) if number > begin and not line.startswith(" "))
    return lines[begin + 1 : end]


def test_wide_shows_every_asked_url_and_why_it_does_not_count() -> None:
    title = "an engine that does not answer, and two that answer"
    text = " ".join(" ".join(asked_lines(title)).split())
    assert "…6d5b8-aaaaa 200 3 ms 0.4 s http://10.244.117.17:8000/metrics" in text
    assert "8002/metrics; asked less often: it answers after 3.1 s" in text
    assert "8000/metrics: no answer within 5 s" in text
    assert ": the page has no series of a known engine" in text


def test_a_slow_engine_is_named_on_the_short_page() -> None:
    assert "asked less often: it answers after 3.1 s" in plain(explanation_page(PAGES["the engines of three pods"], 80))


def test_a_remark_on_every_url_of_a_pod_is_shown_once() -> None:
    silent = [asked(port, "no answer within 5 s", remark=SLOW) for port in (8000, 8001, 8002)]
    page = explanation_page(explained(evaluation(None, observations=[engine_pod("aaaaa", None, *silent)])), 140)
    assert plain(page).count("asked less often") == 1


def test_a_fallback_is_in_the_first_lines_and_only_there() -> None:
    lines = explanation_page(PAGES["no engine, so GPU utilisation"], 140).splitlines()
    assert "no pod has a known engine" in lines[1]
    assert sum("no pod has a known engine" in line for line in lines) == 1


@pytest.mark.parametrize("title", PAGES)
def test_three_pods_fit_one_screen_of_80_columns_and_24_lines(title: str) -> None:
    assert len(plain(explanation_page(PAGES[title], 80)).splitlines()) <= 24


def crowded() -> ExplainResult:
    """Three pods with long reasons of their own, clocks that differ, hints, a bad HPA and an adjusted number."""
    why = "its certificate, or that of its CA, has expired: renew it, then check why it was not"
    missing = [
        pb.Observation(
            pod=f"llama-7c9f6d5b8-{name * 5}", node=f"gpu-{name}", ready=True, state="missing", cause=cause,
            sentence=f"node gpu-{name} has no snapshot: 10.0.0.1:6000 and 2 more, whose nodes are not known: {why}",
        )
        for name, cause in (("a", "node"), ("b", "engine"), ("c", "holders"))
    ]  # fmt: skip
    reason = "; ".join(one.sentence for one in missing)
    shown = explained(
        evaluation(
            None, observations=missing, with_value=0, measured=None, no_value_reason="unavailable", reason=reason,
            clocks=[pb.ClockDifference(node=f"gpu-{name}", ahead_seconds=-3600.0) for name in "abc"],
            hints=["metadata.windowSeconds: 3600 is above the longest window, so that 300 is used instead of it"] * 3,
            fallback="no pod has a known engine (llama-0: no engine is found): load is computed from GPU utilisation",
        )
    )  # fmt: skip
    condition = "ScalingActive False: the HPA was unable to get the external metric (FailedGetExternalMetric)"
    return replace(shown, hpa_status=HpaStatus(3, 4, (condition,), ("the HPA has another target: 60 instead of 75",)))


@pytest.mark.parametrize("width", [80, 140])
def test_three_pods_fit_one_screen_also_with_many_long_reasons(width: int) -> None:
    shown = crowded()
    lines = plain(explanation_page(shown, width)).splitlines()
    assert len(lines) <= 24
    assert "its certificate, or that of its CA, has expired" in " ".join(" ".join(lines[:5]).split())
    assert "more; -o wide shows them" in " ".join(lines)
    wide = " ".join(plain(explanation_page(shown, width, is_wide=True)).split())
    assert wide.count("has expired: renew it, then check why it was not") >= 3
    assert "more; -o wide shows them" not in wide


def test_the_beginning_of_a_paragraph_has_so_many_lines_and_no_word_is_cut() -> None:
    page, url = Page(80), f"http://{'a' * 90}.example/metrics"
    assert page.beginning(f"no answer of {url}", 1000) == f"no answer of {url}"
    assert page.beginning("word " * 40, 1) == " ".join(["word"] * 13) + "…"
    assert page.beginning("word", 0) == ""


ANSWERS = {
    "one pod without a value and one not ready": "138 % per replica against 75 → 4 → 4 replicas (limit: tolerance)",
    "no value": "? per replica against 75 → 4 → 4 replicas (limit: no metric)",
    "scaled to zero, with unknown demand": "? per replica against 75 → 0 → 0 replicas (limit: activity unknown)",
    "devices of the fleet, without a workload": "92 % of the devices against 75 → ? replicas (limit: size unknown)",
    "the engines of three pods": "50.7 % per replica against 100 → 4 → 2 replicas (limit: window 300 s)",
    "refused metadata": 'the scaler refuses the trigger: metadata.targetValue: Invalid value: "eighty"',
}


@pytest.mark.parametrize("title", ANSWERS)
def test_the_first_line_is_the_answer(title: str) -> None:
    assert answer_line(PAGES[title]) == f"ai/llama: {ANSWERS[title]}"


@pytest.mark.parametrize(
    ("evaluated", "changes", "answer"),
    [
        pytest.param(evaluation(350.0, measured=87.5), {},
                     "87.5 % per replica against 75 → 4 → 5 replicas (limit: none)",
                     id="growth"),
        pytest.param(evaluation(900.0, measured=225.0), {},
                     "225 % per replica against 75 → 4 → 6 replicas (limit: max)",
                     id="the maximum"),
        pytest.param(evaluation(0.0, measured=0.0, active=False), {"min_replicas": 0},
                     "0 % per replica against 75 → 4 → 0 replicas (limit: cooldown 300 s)", id="inactive"),
        pytest.param(evaluation(0.0, measured=0.0, active=False), {"min_replicas": 0, "is_scale_in_paused": True},
                     "0 % per replica against 75 → 4 → 1 replica (limit: min)", id="shrinking is paused"),
        pytest.param(evaluation(), {"paused": "autoscaling.keda.sh/paused: true"},
                     "138 % per replica against 75 → ? replicas (limit: KEDA is paused)", id="paused"),
        pytest.param(evaluation(), {"formula": Formula("gpu", "75", "", "Value")},
                     "the formula is ? against 75 → ? replicas (limit: size unknown)", id="a formula"),
        pytest.param(
            evaluation(75.0, measured=75.0, workload=pb.Workload(kind="ScaledJob", target="x", wanted=5, actual=5)),
            {"kind": "ScaledJob", "jobs": JobRules()},
            "75 % per Job against 75 → KEDA starts 0 jobs in addition to 5, of which 0 are pending", id="Jobs",
        ),
        pytest.param(evaluation(1234.567, measured=1234.567, unit=""), {},
                     "1230 per replica against 75 → 4 → 6 replicas (limit: max)", id="three significant digits"),
    ],
)  # fmt: skip
def test_the_answer_names_what_limits_the_size(evaluated: pb.Evaluation, changes: dict[str, Any], answer: str) -> None:
    shown = explained(evaluated, replace(SCALED_OBJECT_OF_LLAMA, **changes))
    assert answer_line(shown) == f"ai/llama: {answer}"


def test_measured_and_reported_are_two_columns_and_an_adjusted_number_has_its_reason() -> None:
    text = plain(explanation_page(PAGES["an engine that does not answer, and two that answer"], 140))
    assert re.search(r"value +MEASURED +TARGET +REPORTED +TO THE HPA", text)
    assert re.search(r"100 % per replica +100 % +200 +adjusted \(AverageValue\): the resource-metric rules", text)


def test_every_cause_has_a_command() -> None:
    assert set(COMMANDS) == set(Cause)
    assert all(next_step(cause, {}).command for cause in Cause)


@pytest.mark.parametrize(
    ("title", "commands"),
    [
        (
            "one pod without a value and one not ready",
            ["kubectl get pods -n keda -o wide --field-selector spec.nodeName=gpu-c"],
        ),
        (
            "an engine that does not answer, and two that answer",
            ["kubectl get --raw /api/v1/namespaces/ai/pods/llama-7c9f6d5b8-bbbbb:8000/proxy/metrics",
             "keda-gpu-scaler explain ai/llama --watch"],
        ),
        ("refused metadata", ["kubectl -n ai edit scaledobject llama"]),
    ],
)  # fmt: skip
def test_the_page_ends_with_the_next_command_for_each_cause(title: str, commands: list[str]) -> None:
    assert [step.command for step in next_steps(PAGES[title])] == commands


@pytest.mark.parametrize(
    ("file", "edit", "again"),
    [
        pytest.param("", "kubectl -n ai edit scaledobject llama", "ai/llama", id="an object of the cluster"),
        pytest.param("new one.yaml", "${EDITOR:-vi} 'new one.yaml'", "-f 'new one.yaml'", id="a file"),
        pytest.param("-", "${EDITOR:-vi} FILE", "-f -", id="standard input"),
    ],
)
def test_the_next_command_for_an_object_in_a_file_is_about_the_file(file: str, edit: str, again: str) -> None:
    scaled_object = replace(SCALED_OBJECT_OF_LLAMA, file=file)
    refused = replace(PAGES["refused metadata"], scaled_object=scaled_object)
    assert [step.command for step in next_steps(refused)] == [edit]
    waiting = replace(PAGES["no engine, so GPU utilisation"], scaled_object=scaled_object)
    assert [step.command for step in next_steps(waiting)] == [f"keda-gpu-scaler explain {again} --watch"]


def test_a_clock_that_differs_is_a_reason_with_a_next_command() -> None:
    shown = explained(evaluation(clocks=[pb.ClockDifference(node="gpu-b", ahead_seconds=-3600.0)]))
    assert "the clock of node gpu-b is 60 min behind that of the instance" in plain(explanation_page(shown, 140))
    assert "keda-gpu-scaler doctor --cluster" in [step.command for step in next_steps(shown)]


def test_json_has_the_asked_urls() -> None:
    title = "an engine that does not answer, and two that answer"
    shown = json.loads(as_json(PAGES[title]))["observations"][1]["attempts"]
    assert shown[0] == {
        "url": "http://10.244.117.17:8000/metrics", "engine": True, "status": None, "failure": "no answer within 5 s",
        "age_seconds": 0.4, "milliseconds": 3.4, "remarks": [],
    }  # fmt: skip
    assert (shown[1]["engine"], shown[1]["status"]) == (False, 200)


@pytest.mark.parametrize("title", PAGES)
def test_json_always_has_every_key(title: str) -> None:
    keys = set(json.loads(as_json(explained(evaluation()))))
    assert set(json.loads(as_json(PAGES[title]))) == keys


# ---- the forecast ----


def policy(value: int, kind: PolicyType = PolicyType.PODS) -> Policy:
    return Policy(kind, value, 60)


@pytest.mark.parametrize(
    ("evaluated", "scaled_object", "replicas", "limit"),
    [
        (evaluation(600.0), SCALED_OBJECT_OF_LLAMA, 6, Limit.MAX),
        (evaluation(0.0), SCALED_OBJECT_OF_LLAMA, 1, Limit.MIN),
        (evaluation(310.0), SCALED_OBJECT_OF_LLAMA, 4, Limit.TOLERANCE),
        (evaluation(350.0), SCALED_OBJECT_OF_LLAMA, 5, Limit.NONE),
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
        (evaluation(None), SCALED_OBJECT_OF_LLAMA, 4, Limit.NO_METRIC),
        (
            evaluation(0.0, workload=pb.Workload(kind="ScaledObject", target="Deployment llama")),
            SCALED_OBJECT_OF_LLAMA,
            0,
            Limit.DISABLED,
        ),
    ],
    ids=[
        "the maximum", "the minimum", "the tolerance", "no limit", "a policy for scaling up",
        "a policy for scaling down", "no value", "the HPA is disabled at zero replicas",
    ],
)  # fmt: skip
def test_the_limit_that_applies_is_named(
    evaluated: pb.Evaluation, scaled_object: ScaledObject, replicas: int, limit: Limit
) -> None:
    decision = forecast_of(evaluated, scaled_object, scaled_object.triggers[0]).decision
    assert decision is not None
    assert (decision.replicas, decision.limit) == (replicas, limit)


def keda_sentences(evaluated: pb.Evaluation, **changes: Any) -> str:
    scaled_object = ScaledObject("ai", "llama", triggers=(ScaledObjectTrigger(1, {}),), **changes)
    return " | ".join(forecast_of(evaluated, scaled_object, scaled_object.triggers[0]).keda)


JOBS = pb.Workload(kind="ScaledJob", target="ScaledJob llama", wanted=5, actual=5, ready=8, pending=1)
SCALED_TO_ZERO = pb.Workload(kind="ScaledObject", target="Deployment llama")


@pytest.mark.parametrize(
    ("evaluated", "changes", "sentence"),
    [
        (
            evaluation(0.0, active=False),
            {},
            "KEDA sets the size to 0 when the trigger has not been active for 300 s (cooldownPeriod)",
        ),
        (
            evaluation(0.0, active=False),
            {"min_replicas": 2},
            "the trigger is inactive, and the HPA still decides: minReplicaCount is 2",
        ),
        (
            evaluation(0.0, active=False),
            {"min_replicas": 2, "idle_replicas": 0, "cooldown_seconds": 60.0, "others": ("cron",)},
            "KEDA sets the size to 0 when no trigger has been active for 60 s (cooldownPeriod)",
        ),
        (
            evaluation(0.0, workload=SCALED_TO_ZERO),
            {"min_replicas": 0},
            "KEDA activates the workload: it sets the size to 1, and then the HPA decides",
        ),
        (
            evaluation(0.0, active=False, workload=SCALED_TO_ZERO),
            {},
            "the workload stays at 0 replicas until a trigger is active",
        ),
        (evaluation(None), {}, "KEDA gets an error, and no fallback is set: the HPA does not change the size"),
        (
            evaluation(None),
            {"fallback": Fallback(3, 5)},
            "after more than 3 errors in a row its fallback sets the size to 5",
        ),
        (
            evaluation(None),
            {"fallback": Fallback(3, 5, "currentReplicasIfHigher")},
            "its fallback keeps the present size, and at least 5",
        ),
        (evaluation(5.0, activity_unknown=True), {}, "KEDA discards the value, because IsActive returns an error"),
        (
            evaluation(451.0, workload=JOBS),
            {"kind": "ScaledJob", "jobs": JobRules(2, 8)},
            "KEDA starts 3 jobs in addition to 5, of which 1 are pending: ceil(451 / 75) with the strategy default, "
            "minReplicaCount 2, maxReplicaCount 8",
        ),
        (
            evaluation(300.0, workload=JOBS),
            {"kind": "ScaledJob", "jobs": JobRules(2, 8, JobStrategy.ACCURATE)},
            "KEDA starts 3 jobs in addition to 5",
        ),
        (
            evaluation(0.0, active=False, workload=JOBS),
            {"kind": "ScaledJob", "jobs": JobRules()},
            "KEDA starts no job, because the trigger is inactive: 5 are running",
        ),
        (
            evaluation(151.0, workload=None),
            {"kind": "ScaledJob", "jobs": JobRules(strategy=JobStrategy.EAGER)},
            "KEDA starts jobs for ceil(151 / 75), with the strategy eager, minReplicaCount 0, maxReplicaCount 100",
        ),
        (
            evaluation(),
            {"paused": "autoscaling.keda.sh/paused: true"},
            "KEDA is paused because of the annotation autoscaling.keda.sh/paused: true: the size stays, and there is "
            "no HPA",
        ),
        (
            evaluation(),
            {"paused": "autoscaling.keda.sh/paused-replicas: 2"},
            "paused-replicas: 2: it sets the size to 2, and there is no HPA",
        ),
        (
            evaluation(),
            {"kind": "ScaledJob", "paused": "autoscaling.keda.sh/paused: true"},
            "KEDA is paused because of the annotation autoscaling.keda.sh/paused: true: it starts no job",
        ),
        (
            evaluation(0.0, workload=SCALED_TO_ZERO),
            {"is_scale_out_paused": True},
            "the workload stays at 0 replicas although a trigger is active: paused-scale-out pauses the activation",
        ),
        (
            evaluation(0.0, active=False),
            {"is_scale_in_paused": True},
            "KEDA does not set the size to 0, although the trigger is inactive: paused-scale-in pauses it",
        ),
        (
            evaluation(276.0),
            {"formula": Formula("max(gpu, queue)", "75", "", "Value")},
            'scalingModifiers: the HPA compares the result of the formula "max(gpu, queue)" with its target 75 '
            "(Value) | this trigger gives the formula 276; its own target and "
            "metricType have no effect | KEDA activates the workload while the result is above 0 (activationTarget), "
            "whatever the activity of the trigger",
        ),
        (
            evaluation(276.0),
            {"formula": Formula("gpu + queue", "75"), "others": ("prometheus",)},
            "the triggers of other scalers (prometheus) are not evaluated here; the formula takes them",
        ),
    ],
)
def test_the_forecast_says_what_keda_does(evaluated: pb.Evaluation, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in keda_sentences(evaluated, **changes)


@pytest.mark.parametrize(
    ("annotations", "value", "replicas", "limit"),
    [
        pytest.param({}, 350.0, 5, Limit.NONE, id="no pause"),
        pytest.param({"paused-scale-out": "true"}, 350.0, 4, Limit.RATE_UP, id="no growth"),
        pytest.param({"paused-scale-out": "true"}, 150.0, 2, Limit.NONE, id="it may still shrink"),
        pytest.param({"paused-scale-in": "true"}, 150.0, 4, Limit.RATE_DOWN, id="no shrinking"),
        pytest.param({"paused-scale-in": "1"}, 350.0, 5, Limit.NONE, id="it may still grow"),
        pytest.param({"paused-scale-in": "False"}, 150.0, 2, Limit.NONE, id="a pause that is off"),
    ],
)
def test_a_paused_direction_is_disabled_in_the_hpa(
    annotations: dict[str, str], value: float, replicas: int, limit: Limit
) -> None:
    named = {f"autoscaling.keda.sh/{key}": said for key, said in annotations.items()}
    triggers = [{"type": "external", "metadata": {"scalerAddress": "keda-gpu-scaler:6000"}}]
    item = {"metadata": {"name": "llama", "annotations": named}, "spec": {"triggers": triggers}}
    scaled_object = scaled_object_of(item)
    decision = forecast_of(evaluation(value), scaled_object, scaled_object.triggers[0]).decision
    assert decision is not None
    assert (decision.replicas, decision.limit) == (replicas, limit)


def test_a_paused_workload_has_no_decision() -> None:
    scaled_object = replace(SCALED_OBJECT_OF_LLAMA, paused="autoscaling.keda.sh/paused: true")
    forecast = forecast_of(evaluation(276.0), scaled_object, scaled_object.triggers[0])
    assert (forecast.recommendation, forecast.decision, len(forecast.keda)) == (None, None, 1)
    result = ExplainResult(
        AT, scaled_object, scaled_object.triggers[0], 1, "gpu-a", evaluation(276.0), forecast=forecast
    )
    assert "(limit: KEDA is paused)" in explanation_page(result, 120)


def test_under_a_formula_nothing_is_decided_from_the_number_of_the_trigger() -> None:
    scaled_object = replace(SCALED_OBJECT_OF_LLAMA, formula=Formula("gpu", "75", "2", "Value"))
    forecast = forecast_of(evaluation(276.0), scaled_object, scaled_object.triggers[0])
    assert (forecast.recommendation, forecast.decision) == (None, None)
    trigger = scaled_object.triggers[0]
    result = ExplainResult(AT, scaled_object, trigger, 1, "gpu-a", evaluation(276.0), forecast=forecast)
    page = explanation_page(result, 120)
    assert "the result of the formula is not known here" in page


def test_an_unknown_size_leads_to_no_decision_until_it_is_given() -> None:
    evaluated = evaluation(92.0, workload=None)
    assert forecast_of(evaluated, SCALED_OBJECT_OF_LLAMA, SCALED_OBJECT_OF_LLAMA.triggers[0]).decision is None
    decision = forecast_of(evaluated, SCALED_OBJECT_OF_LLAMA, SCALED_OBJECT_OF_LLAMA.triggers[0], 1).decision
    assert decision is not None
    assert decision.replicas == 2


def test_the_tolerance_is_that_of_the_behavior() -> None:
    narrow = ScaledObject("ai", "llama", triggers=(ScaledObjectTrigger(1, {}),), tolerances=Tolerances(0.01, 0.01))
    decision = forecast_of(evaluation(310.0), narrow, narrow.triggers[0]).decision
    assert decision is not None
    assert (decision.replicas, decision.limit) == (5, Limit.NONE)


@pytest.mark.parametrize(
    ("value_type", "value", "replicas", "measured"),
    [("AverageValue", 450.0, 6, "450 is 1.200 of 5 * 75"), ("Value", 100.0, 4, "100 is 1.333 of 75")],
    ids=["the total is divided by status.replicas", "the mean is multiplied by the ready pods"],
)
def test_each_metric_type_uses_its_own_count_of_pods(
    value_type: str, value: float, replicas: int, measured: str
) -> None:
    sizes = pb.Workload(kind="ScaledObject", target="Deployment llama", wanted=4, actual=5, ready=3)
    evaluated = evaluation(value, value_type=value_type, workload=sizes)
    recommendation = forecast_of(evaluated, SCALED_OBJECT_OF_LLAMA, SCALED_OBJECT_OF_LLAMA.triggers[0]).recommendation
    assert recommendation is not None
    assert recommendation.replicas == replicas
    assert recommendation.sentence.startswith(measured)


def test_scaling_down_waits_for_the_stabilization_window_of_the_behavior() -> None:
    scaled_object = ScaledObject(
        "ai", "llama", triggers=(ScaledObjectTrigger(1, {}),), behavior=Behavior(down=ScalingRules((policy(9),), 120.0))
    )
    forecast = forecast_of(evaluation(75.0), scaled_object, scaled_object.triggers[0])
    assert forecast.decision is not None
    assert "when all recommendations of the last 120 s are this low" in decision_sentence(
        forecast.decision, forecast.current, scaled_object.down_window_seconds
    )


# ---- reading a ScaledObject ----

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


def test_a_scaled_object_is_read_completely() -> None:
    found = read_scaled_object(SCALED_OBJECT, "ai", "")
    assert found.triggers == (
        ScaledObjectTrigger(2, {"scalerAddress": "keda-gpu-scaler.keda:6000", "targetValue": "60"}, "Value"),
    )
    assert (found.namespace, found.name, found.kind, found.others) == ("ai", "llama", "ScaledObject", ("cpu",))
    assert (found.min_replicas, found.max_replicas, found.cooldown_seconds) == (2, 9, 60.0)
    assert (found.fallback, found.paused, found.hpa_name) == (
        Fallback(3, 4),
        "autoscaling.keda.sh/paused-replicas: 2",
        "of-llama",
    )
    assert found.behavior is not None
    assert found.behavior.up == ScalingRules((Policy(PolicyType.PODS, 2, 30),), 0.0, SelectPolicy.MIN)
    assert found.behavior.down.stabilisation_seconds == 120
    assert (found.tolerances.up, found.tolerances.down) == (0.05, 0.2)


def test_a_trigger_of_another_scaler_with_a_key_of_this_one_is_not_explained() -> None:
    own = {"type": "external", "metadata": {"scalerAddress": "keda-gpu-scaler.keda:6000"}}
    other = {"type": "external", "metadata": {"scalerAddress": "other-scaler.tools:9090", "targetValue": "5"}}
    found = scaled_object_of({"spec": {"triggers": [other, own]}})
    assert ([trigger.number for trigger in found.triggers], found.others) == ([2], ("external",))


def test_without_a_recognized_trigger_every_external_one_is_explained() -> None:
    unknown = {"type": "external", "metadata": {"scalerAddress": "gpu.tools:9090"}}
    found = scaled_object_of({"spec": {"triggers": [{"type": "cpu"}, unknown, unknown]}})
    assert ([trigger.number for trigger in found.triggers], found.others) == ([2, 3], ("cpu",))


@pytest.mark.parametrize(
    "spec",
    [
        None, [], {"triggers": "none"}, {"triggers": [None, 3, {"type": "external", "metadata": 4}]},
        {"minReplicaCount": "two", "maxReplicaCount": -1, "advanced": [], "fallback": 3},
        {"advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": {"policies": [{"type": "Nodes"}]}}}}},
        {"advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": {"tolerance": "none"}}}}},
    ],
)  # fmt: skip
def test_an_invalid_field_has_its_default(spec: object) -> None:
    found = scaled_object_of({"kind": "ScaledObject", "metadata": {"name": "x"}, "spec": spec})
    assert (found.min_replicas, found.max_replicas, found.behavior) == (0, 100, None)


def test_a_behavior_that_cannot_be_read_is_a_remark() -> None:
    behavior = {"scaleUp": {"policies": [{"type": "Nodes", "value": 1, "periodSeconds": 1}]}}
    found = scaled_object_of({"spec": {"advanced": {"horizontalPodAutoscalerConfig": {"behavior": behavior}}}})
    assert found.remarks[0].startswith("behavior: ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not valid YAML"),
        ("kind: Deployment", "the file has no ScaledObject and no ScaledJob"),
        (
            SCALED_OBJECT + "---" + SCALED_OBJECT.replace("llama", "whisper"),
            "name one of these as NAMESPACE/NAME: ai/llama, ai/whisper",
        ),
    ],
)
def test_a_file_without_exactly_one_scaled_object_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ScaledObjectError, match=sentence):
        read_scaled_object(text, "ai", "")


def test_the_named_scaled_object_is_read() -> None:
    both = SCALED_OBJECT + "---" + SCALED_OBJECT.replace("llama", "whisper")
    assert read_scaled_object(both, "ai", "whisper").name == "whisper"


@pytest.mark.parametrize(
    "item", [None, {}, {"status": None}, {"status": {"conditions": 3}}, {"status": {"conditions": [4]}}]
)
def test_an_invalid_status_of_an_hpa_is_no_error(item: dict[str, Any] | None) -> None:
    found = hpa_status(item)
    assert found is None or found.conditions == ()


# ---- usage ----


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name a ScaledObject (ai/llama), a file (-f), or metadata"),
        (("ai/llama",), "there is no kubeconfig to find an instance with: name one with --kubeconfig or KUBECONFIG"),
        (("ai/llama", "--address", "127.0.0.1:1"), "there is no kubeconfig to read ai/llama with"),
        (("-f", "nowhere.yaml", "--address", "127.0.0.1:1"), "nowhere.yaml: no such file"),
        (("-m", "a=b", "--address", "here"), "must be HOST:PORT"),
        (("-m", "a=b", "--address", "127.0.0.1:1", "--trigger", "2"), "--trigger: Invalid value: 2"),
        (("-m", "a=b", "--address", "127.0.0.1:1", "--tls-cert", "x"), "--tls-cert, --tls-key: belong together"),
        (("-m", "a=b", "--address", "127.0.0.1:1", "--tls-ca", "nowhere.pem"), "--tls-ca: cannot read nowhere.pem"),
        (("ai/llama", "--kubeconfig", "nowhere"), "cannot read nowhere"),
    ],
)
def test_wrong_usage_is_exit_status_2_with_a_sentence(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(main, ["explain", *arguments], env={"KUBECONFIG": str(tmp_path / "none")})
    assert outcome.exit_code == 2, outcome.output
    assert sentence in re.sub(r"\s+", " ", outcome.output)


def test_an_address_without_a_server_is_exit_status_3() -> None:
    address = f"127.0.0.1:{free_port()}"
    outcome = CliRunner().invoke(main, ["explain", "-m", "scope=node", "--address", address, "--json"])
    assert outcome.exit_code == 3
    assert json.loads(outcome.stdout)["error"] == {
        "status": "UNAVAILABLE", "details": "nothing answers there: connection refused"
    }  # fmt: skip


GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "explaining.md"


def test_the_outputs_in_the_guide_are_pages_of_the_golden_file() -> None:
    shown = re.findall(r"```text\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(shown) >= 2
    for block in shown:
        assert block in GOLDEN.read_text()
