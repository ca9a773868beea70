# SPDX-License-Identifier: Apache-2.0
"""Tests the command ``doctor``: its exit status, its usage errors, and a whole run against a cluster."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keda_gpu_scaler.cli.doctor.command import doctor
from tests.cli.doctor.fake_agent import fake_agent, update
from tests.cli.doctor.fake_cluster import FakeCluster


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(doctor, list(arguments), env=environment or None)


OFF = ("--pod-resources", "off", "--port", "0", "--metrics-port", "0", "--probe-port", "0")


def test_a_machine_without_a_problem_exits_with_0() -> None:
    result = run("--backend", "none", *OFF, "--format", "json")
    outcomes = {json.loads(line)["outcome"] for line in result.stdout.splitlines()}
    assert (result.exit_code, outcomes - {"warning"}) == (0, {"ok", "skipped"} & outcomes)


def test_a_problem_exits_with_1(tmp_path: Path) -> None:
    result = run("--backend", f"replay:{tmp_path / 'nothing.csv'}", *OFF)
    assert result.exit_code == 1
    assert result.stdout.startswith("problem  driver ")
    assert "1 problem" in result.stderr
    assert result.stderr.endswith("docs is https://github.com/keda-gpu-scaler/keda-gpu-scaler/blob/main/docs\n")


def test_a_warning_exits_with_1_with_strict() -> None:
    arguments = ("--backend", "synthetic", *OFF)  # one of its devices has no power reading
    assert [run(*arguments, *more).exit_code for more in ((), ("--strict",))] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(("--port", "9090"), "must differ from one another", id="contradictory settings"),
        pytest.param(("--kubeconfig", "/nowhere"), "cannot read /nowhere", id="a missing kubeconfig"),
        pytest.param(("--cluster",), "cannot read ", id="no access to a cluster"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], sentence: str) -> None:
    result = run(*arguments, KUBECONFIG="/nowhere/either", KUBERNETES_SERVICE_HOST="")
    assert (result.exit_code, sentence in result.stderr) == (2, True)


def test_the_command_checks_the_cluster_of_a_kubeconfig(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.keda()
    cluster.own_scaled_object("llama")
    kubeconfig = str(cluster.kubeconfig(tmp_path / "config"))
    with fake_agent(update(wall=datetime.now(UTC).timestamp())) as port:
        cluster.agents({"gpu-7": port})
        result = run("--kubeconfig", kubeconfig, "--namespace", "gpu", "--format", "json")
    findings = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.exit_code, result.stderr) == (0, "")
    assert [(one["check"], one["outcome"]) for one in findings] == [
        ("api", "ok"),
        ("clock", "ok"),
        ("keda", "ok"),
        ("workloads", "ok"),
        ("rights", "ok"),
        ("service", "skipped"),
        ("agents", "ok"),
        ("peers", "ok"),
        ("nodes", "skipped"),
    ]
