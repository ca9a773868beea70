# SPDX-License-Identifier: Apache-2.0
"""The command simulate: its rows, its formats, its page, and what it refuses."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from keda_gpu_scaler.cli.simulate.command import simulate
from keda_gpu_scaler.cli.simulate.scaledobjects import read_settings, read_specs

SHORT = ("--traffic", "steady", "--minutes", "4", "--rate", "3", "--jobs", "1", "--no-bounds")


def scaled_object(folder: Path, name: str = "llama", **spec: object) -> str:
    trigger = {
        "type": "external-push",
        "metadata": {"scalerAddress": "keda-gpu-scaler.keda:6000", "profile": "llm"},
    }
    item = {
        "kind": "ScaledObject",
        "metadata": {"name": name, "namespace": "ai"},
        "spec": {"minReplicaCount": 1, "maxReplicaCount": 5, "triggers": [trigger], **spec},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(item))
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(simulate, arguments, catch_exceptions=False)


def test_the_table_has_a_row_with_what_is_assumed_and_what_is_not_modelled(tmp_path: Path) -> None:
    result = run("-f", scaled_object(tmp_path), *SHORT, "--gpu-hour-price", "2.5")
    assert result.exit_code == 0, result.output
    assert re.search(r"\* ai/llama +\d+\.\d %", result.output)
    for words in ("COST", "* best: ai/llama: the fewest GPU-hours", "assumed:", "not modelled:", "prefix caching"):
        assert words in result.output


def test_a_sweep_has_a_row_for_each_combination(tmp_path: Path) -> None:
    settings = ("--set", "trigger.headroom=1,1.3", "--set", "spec.maxReplicaCount=2,4", "--sweep")
    result = run("-f", scaled_object(tmp_path), *SHORT, *settings, "--format", "csv")
    rows = [*csv.DictReader(io.StringIO(result.output))]
    assert [row["title"] for row in rows] == [
        f"ai/llama headroom={headroom} maxReplicaCount={most}" for headroom in ("1", "1.3") for most in (2, 4)
    ]
    assert [row["is_best"] for row in rows].count("True") == 1


def test_two_files_stand_side_by_side_with_the_bounds(tmp_path: Path) -> None:
    files = ("-f", scaled_object(tmp_path, "a"), "-f", scaled_object(tmp_path, "b", maxReplicaCount=2))
    result = run(*files, *SHORT[:-1], "--format", "json")
    found = json.loads(result.output)
    assert [row["is_bound"] for row in found["rows"]] == [False, False, True, True]
    assert [row["title"] for row in found["rows"]][:2] == ["ai/a", "ai/b"]
    assert found["best"]["row"] in (0, 1)
    assert found["assumptions"]
    assert found["not_modelled"]


def test_several_processes_give_the_same_rows(tmp_path: Path) -> None:
    arguments = (
        "-f",
        scaled_object(tmp_path),
        *SHORT,
        "--set",
        "trigger.headroom=1,1.5",
        "--sweep",
        "--format",
        "json",
    )
    alone = run(*arguments)
    together = run(*arguments, "--jobs", "2")
    assert json.loads(alone.output) == json.loads(together.output)


def test_the_page_is_complete_and_loads_nothing(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    title = "<img src=x onerror=alert(1)>"
    path = scaled_object(tmp_path)
    Path(path).write_text(Path(path).read_text().replace("name: llama", f"name: '{title}'"))
    result = run("-f", path, *SHORT, "--out", str(page))
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert text.count('<svg class="wide"') == text.count('<svg class="narrow"') == 5
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "default-src 'none'" in text
    assert title not in text
    for forbidden in ("<script", "<img", "<link", "http:", "https:", "@import", "url("):
        assert forbidden not in text
    for line in ("wanted", "ready", "running", "waiting", "first token", "target"):
        assert f">{line}</text>" in text


def test_a_foreign_trigger_is_said_to_be_constant(tmp_path: Path) -> None:
    own = {"type": "external", "metadata": {"scalerAddress": "keda-gpu-scaler.keda:6000", "profile": "llm"}}
    result = run("-f", scaled_object(tmp_path, triggers=[own, {"type": "prometheus", "metadata": {}}]), *SHORT)
    assert "the triggers of other scalers (prometheus) are taken as constant" in result.output


def test_a_setting_changes_the_triggers_of_this_scaler_alone(tmp_path: Path) -> None:
    own = {"type": "external", "metadata": {"scalerAddress": "keda-gpu-scaler.keda:6000", "profile": "llm"}}
    other = {"type": "external", "metadata": {"scalerAddress": "other-scaler.tools:9090", "targetValue": "5"}}
    path = scaled_object(tmp_path, triggers=[other, own])
    [spec], remarks = read_specs([path], read_settings(["trigger.targetValue=80"], is_sweep=False))
    assert [trigger.metadata["targetValue"] for trigger in spec.triggers] == ["80"]
    assert "the triggers of other scalers (external) are taken as constant" in " ".join(remarks)


def test_a_server_of_whole_requests(tmp_path: Path) -> None:
    service = ("--service-time", "0.1", "--batch", "4", "--instances", "2")
    result = run("-f", scaled_object(tmp_path), *SHORT, *service)
    assert result.exit_code == 0, result.output
    assert "a batch of up to 4 requests takes 100 ms" in result.output
    assert "the engines export what triton exports" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("--traffic", "nonsense"), "nonsense is neither a file nor one of steady", id="unknown traffic"),
        pytest.param(("--rate", "0"), "--rate: Invalid value: 0", id="no traffic"),
        pytest.param(("--rate", "100000"), "at most 300000 a minute", id="too much traffic"),
        pytest.param(("--scale", "-1"), "--scale: Invalid value: -1", id="a negative scale"),
        pytest.param(("--engine-model", "gpt-9"), "--engine-model: gpt-9 is neither", id="an unknown model"),
        pytest.param(("--cold-start", "90-60"), '--cold-start: Invalid value: "90-60"', id="a range backwards"),
        pytest.param(("--service-time", "0"), "--service-time: Invalid value: 0", id="a service of no time"),
        pytest.param(("--set", "trigger.headroom=1,2"), "add --sweep", id="several values without a sweep"),
        pytest.param(("--set", "headroom=1"), "must be trigger.KEY=VALUE or spec.FIELD=VALUE", id="a path of nothing"),
        pytest.param(("--set", "trigger.headroom=9"), "metadata.headroom: Invalid value", id="a refused value"),
        pytest.param(("--set", "trigger.metricType=power_draw"), "a simulated GPU has", id="a metric of the GPU"),
        pytest.param(("--prompt-tokens", "0"), "--prompt-tokens: Invalid value: 0", id="no prompt"),
        pytest.param(("--out", "/nonexistent/report.html"), "--out: cannot write", id="a folder that is not there"),
    ],
)
def test_what_cannot_be_simulated_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run("-f", scaled_object(tmp_path), *SHORT, *arguments)
    assert result.exit_code == 1
    assert words in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("kind: Deployment\n", "has no ScaledObject", id="no ScaledObject"),
        pytest.param("kind: ScaledJob\n", "scaledjob: no trigger of this scaler", id="a ScaledJob without a trigger"),
        pytest.param(
            "kind: ScaledObject\nspec: {triggers: [{type: redis, metadata: {}}]}\n",
            "--queue simulates the length of a queue (redis)", id="a queue without --queue",
        ),
        pytest.param("a: [", "not valid YAML", id="no YAML"),
        pytest.param(
            "kind: ScaledObject\nspec: {triggers: [{type: prometheus, metadata: {}}]}\n", "no trigger of this scaler",
            id="a trigger of another scaler alone",
        ),
    ],
)  # fmt: skip
def test_a_file_without_a_usable_scaledobject_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "object.yaml"
    path.write_text(text)
    result = run("-f", str(path), *SHORT)
    assert result.exit_code == 1
    assert words in result.stderr


def scaled_job(folder: Path, **spec: object) -> str:
    queue = {"type": "rabbitmq", "metadata": {"value": "1"}}
    item = {
        "kind": "ScaledJob",
        "metadata": {"name": "render", "namespace": "ai"},
        "spec": {"maxReplicaCount": 10, "jobTargetRef": {}, "triggers": [queue], **spec},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(item))
    return str(path)


SLOW = ("--traffic", "steady", "--minutes", "10", "--rate", "0.05", "--jobs", "1", "--no-bounds")


def test_a_scaledjob_takes_items_from_a_queue(tmp_path: Path) -> None:
    strategy = ("--set", "spec.scalingStrategy.strategy=default,accurate", "--sweep")
    result = run("-f", scaled_job(tmp_path), *SLOW, "--service-time", "60", *strategy)
    assert result.exit_code == 0, result.output
    for words in (
        "an item of the queue is done within 600 s",
        "DONE p50",
        "ai/render strategy=accurate",
        "Jobs were started",
        "the trigger rabbitmq counts an item of the queue until it is taken",
        "takes at most 1 item (--items-per-pod)",
    ):
        assert words in result.output
    assert "TOKEN p50" not in result.output
    assert "prompts have" not in result.output


def test_a_scaledjob_and_workers_of_a_scaledobject_stand_side_by_side(tmp_path: Path) -> None:
    workers = scaled_object(tmp_path, "workers", triggers=[{"type": "redis", "metadata": {"listLength": "2"}}])
    page = tmp_path / "report.html"
    arguments = ("-f", scaled_job(tmp_path), "-f", workers, *SLOW, "--service-time", "60", "--out", str(page))
    result = run(*arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert [row["title"] for row in found["rows"]] == ["ai/render", "ai/workers"]
    assert [row["unfinished"] for row in found["rows"]] == [0, 0]
    assert "time until an item is done" in page.read_text()


@pytest.mark.parametrize(
    ("spec", "arguments", "words"),
    [
        pytest.param({}, (), "--service-time: Required value", id="no time of an item"),
        pytest.param(
            {"scalingStrategy": {"strategy": "custom", "customScalingRunningJobPercentage": "0.5"}},
            ("--service-time", "60"), "customScalingQueueLengthDeduction: Required value", id="a number is missing",
        ),
        pytest.param({"jobTargetRef": {"parallelism": 0}}, ("--service-time", "60"), "start no pod", id="no pods"),
        pytest.param(
            {"triggers": [{"type": "rabbitmq", "metadata": {"value": "1", "mode": "MessageRate"}}]},
            ("--service-time", "60"), "no trigger of this scaler", id="a rate in place of a length",
        ),
    ],
)  # fmt: skip
def test_what_a_scaledjob_needs_is_one_sentence(
    tmp_path: Path, spec: dict[str, object], arguments: tuple[str, ...], words: str
) -> None:
    result = run("-f", scaled_job(tmp_path, **spec), *SLOW, *arguments)
    assert result.exit_code == 1
    assert words in result.stderr


def test_file_and_traffic_are_required() -> None:
    result = run("--rate", "3")
    assert result.exit_code == 2
    assert "-f FILE and --traffic" in result.stderr


def test_a_fit_of_no_recording_is_refused(tmp_path: Path) -> None:
    result = run("fit", str(tmp_path / "nothing.jsonl"))
    assert result.exit_code == 1
    assert "cannot read" in result.stderr
