# SPDX-License-Identifier: Apache-2.0
"""The alerts of the chart: each uses metrics that exist, leads to its entry, and fires when it should."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts import tools

from tests.deploy.rendering import render

pytestmark = pytest.mark.usefixtures("chart_tools")

OPERATING = tools.HOME / "docs" / "operating.md"
METRICS = tools.HOME / "docs" / "reference" / "metrics.md"
PROMTOOL = os.environ.get("KEDA_GPU_SCALER_TEST_PROMTOOL") or shutil.which(
    "promtool", path=os.pathsep.join((str(tools.BIN), os.environ.get("PATH", "")))
)
WORKLOAD = 'namespace="ai",name="llama",metric_name="gpu"'

CASES: Mapping[str, tuple[str, Mapping[str, str], str, bool]] = {
    "no instance": ("GPUScalerAbsent", {}, "11m", True),
    "an instance": ("GPUScalerAbsent", {'keda_gpu_scaler_build_info{version="1"}': "1x30"}, "11m", False),
    "a refused trigger": (
        "GPUTriggerRefused",
        {f'keda_gpu_scaler_workload_value_available{{{WORKLOAD},reason="refused"}}': "0x30"},
        "2m",
        True,
    ),
    "a trigger without data": (
        "GPUTriggerRefused",
        {f'keda_gpu_scaler_workload_value_available{{{WORKLOAD},reason="unavailable"}}': "0x30"},
        "2m",
        False,
    ),
    "no value at any instance": (
        "GPUTriggerWithoutValue",
        {
            f'keda_gpu_scaler_workload_value_available{{{WORKLOAD},instance="a"}}': "0x30",
            f'keda_gpu_scaler_workload_value_available{{{WORKLOAD},instance="b"}}': "0x30",
        },
        "11m",
        True,
    ),
    "a value at the instance that KEDA calls": (
        "GPUTriggerWithoutValue",
        {
            f'keda_gpu_scaler_workload_value_available{{{WORKLOAD},instance="a"}}': "0x30",
            f'keda_gpu_scaler_workload_value_available{{{WORKLOAD},instance="b"}}': "1x30",
        },
        "11m",
        False,
    ),
    "no value for a short time": (
        "GPUTriggerWithoutValue",
        {f"keda_gpu_scaler_workload_value_available{{{WORKLOAD}}}": "1x10 0x5 1x20"},
        "20m",
        False,
    ),
    "requests wait": (
        "GPUTriggerQueueContradiction",
        {f"keda_gpu_scaler_workload_queue_contradiction{{{WORKLOAD}}}": "1x30"},
        "11m",
        True,
    ),
    "a peer does not answer": (
        "GPUScalerPeersUnavailable",
        {"keda_gpu_scaler_peers_unavailable": "2x30"},
        "11m",
        True,
    ),
    "all peers answer": ("GPUScalerPeersUnavailable", {"keda_gpu_scaler_peers_unavailable": "0x30"}, "11m", False),
    "most scrapes fail": (
        "GPUScalerEngineUnreachable",
        {
            'keda_gpu_scaler_scrapes_total{engine="vllm"}': "0+30x30",
            'keda_gpu_scaler_scrape_failures_total{engine="vllm"}': "0+20x30",
        },
        "20m",
        True,
    ),
    "some scrapes fail": (
        "GPUScalerEngineUnreachable",
        {
            'keda_gpu_scaler_scrapes_total{engine="vllm"}': "0+30x30",
            'keda_gpu_scaler_scrape_failures_total{engine="vllm"}': "0+3x30",
        },
        "20m",
        False,
    ),
    "a certificate ends in ten days": (
        "GPUScalerCertificateExpires",
        {'keda_gpu_scaler_certificate_expiry_timestamp_seconds{flag="--tls-cert"}': "864000x90"},
        "70m",
        True,
    ),
    "a certificate ends in twenty days": (
        "GPUScalerCertificateExpires",
        {'keda_gpu_scaler_certificate_expiry_timestamp_seconds{flag="--tls-cert"}': "1728000x90"},
        "70m",
        False,
    ),
}
"""For each case the alert, the series of one sample a minute, the time, and whether it fires."""


def groups() -> list[dict[str, Any]]:
    [rule] = render("--set", "prometheusRule.enabled=true").all("PrometheusRule")
    return list(rule["spec"]["groups"])


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in groups() for rule in group["rules"]}


def anchors(page: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_alert_leads_to_an_entry_and_uses_metrics_that_exist() -> None:
    entries, metrics = anchors(OPERATING.read_text()), METRICS.read_text()
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook_url"].partition("#")[2] in entries, name
        for metric in re.findall(r"keda_gpu_scaler_\w+", rule["expr"]):
            assert f"`{metric}`" in metrics, f"{name}: {metric}"


def test_each_alert_has_a_case_in_which_it_fires() -> None:
    assert {alert for alert, _, _, fires in CASES.values() if fires} == alerts().keys()


def test_labels_time_and_the_place_of_the_entries_are_values() -> None:
    [rule] = render(
        *("--set", "prometheusRule.enabled=true", "--set", "prometheusRule.alertLabels.team=serving"),
        *("--set", "prometheusRule.for=3m", "--set", "prometheusRule.runbookUrl=https://wiki.example/gpu"),
    ).all("PrometheusRule")
    [first, *_] = rule["spec"]["groups"][0]["rules"]
    assert (first["for"], first["labels"]) == ("3m", {"severity": "critical", "team": "serving"})
    assert first["annotations"]["runbook_url"].startswith("https://wiki.example/gpu#")


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool: `make chart` builds one")
def test_each_alert_fires_when_it_should(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups()}))
    known = alerts()
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": [{"series": series, "values": text} for series, text in given.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
                    "eval_time": at,
                    "exp_samples": [{"labels": "{}", "value": int(fires)}],
                }
            ],
        }
        for name, (alert, given, at, fires) in CASES.items()
        if alert in known
    ]
    (tmp_path / "tests.yaml").write_text(
        json.dumps({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests})
    )
    command = [str(PROMTOOL), "test", "rules", "tests.yaml"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
