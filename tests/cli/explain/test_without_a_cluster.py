# SPDX-License-Identifier: Apache-2.0
"""Tests ``explain -m … --address … --replicas N`` against an instance without a cluster."""

import json

import pytest
from click.testing import CliRunner

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.types import Unavailable
from keda_gpu_scaler.server.external_scaler import ExternalScaler
from tests.cli.explain.test_broken_situations import served
from tests.fakes import FakeCluster, ManualClock, node_history, sample

FLEET = Fleet(node_history("gpu-7", sample(0, 0.98), sample(1, 0.4), held={}), 10.0, own_node="gpu-7")


def instance() -> ExternalScaler:
    return ExternalScaler(lambda: FLEET, ManualClock())


def lines(*arguments: str) -> list[str]:
    with served(instance) as address:
        command = ["explain", "-m", "scope=fleet", "--address", address, *arguments]
        outcome = CliRunner().invoke(main, command, env={"COLUMNS": "80", "KUBECONFIG": "/nowhere"})
    return outcome.output.splitlines()


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("--replicas", "3"), "98 % of the devices against 80 → 3 → 4 replicas (limit: none)"),
        (("--replicas", "2", "-m", "aggregation=avg"), "69 % of the devices against 80 → 2 → 2 replicas (limit: none)"),
        (("-m", "report=average"), "98 % of the devices against 80 → ? replicas (limit: size unknown)"),
    ],
)
def test_the_size_may_be_given_where_the_instance_does_not_know_it(arguments: tuple[str, ...], answer: str) -> None:
    assert " ".join(lines(*arguments)).startswith(f"no ScaledObject: {answer}")


def test_a_device_is_named_by_its_index() -> None:
    text = "\n".join(lines("--replicas", "3"))
    assert "GPU 0" in text
    assert "GPU 1" in text


def test_without_a_size_the_page_names_the_flag() -> None:
    text = "\n".join(lines("-m", "report=average"))
    assert "keda-gpu-scaler explain … --replicas N" in text
    shown = json.loads("\n".join(lines("-m", "report=average", "--json")))
    assert shown["hpa"] is None
    assert [one["cause"] for one in shown["next"]] == ["size not known"]


def test_a_call_without_a_scaledobject_leads_to_the_list_of_them() -> None:
    cluster = FakeCluster()
    cluster.workloads["default", ""] = Unavailable("the call names no ScaledObject", is_permanent=True)
    with served(lambda: ExternalScaler(lambda: FLEET, ManualClock(), cluster)) as address:
        command = ["explain", "-m", "targetValue=75", "--address", address, "--replicas", "3"]
        outcome = CliRunner().invoke(main, command, env={"COLUMNS": "80", "KUBECONFIG": "/nowhere"})
    assert "kubectl get scaledobjects,scaledjobs -A  # configuration" in outcome.output
    assert "edit" not in outcome.output
