# SPDX-License-Identifier: Apache-2.0
"""Runs the checks of ``doctor`` for tests, and describes their findings in short texts."""

from collections.abc import Iterable

from keda_gpu_scaler.cli.doctor.findings import Check, Finding, Outcome
from keda_gpu_scaler.cli.doctor.host_access import HostAccess
from keda_gpu_scaler.config import Config

PLAIN = Config(backend="synthetic", pod_resources="off", port=0, metrics_port=0, probe_port=0, node_name="gpu-7")
HOST = HostAccess(clock_state=lambda: 0, driver_timeout_seconds=20.0)


def findings_of(checks: Iterable[Check], *names: str) -> list[str]:
    """Make the checks, and describe their findings; with names, only the findings of these checks."""
    return described([finding for check in checks for finding in check.run()], *names)


def described(findings: Iterable[Finding], *names: str) -> list[str]:
    for finding in findings:
        assert_complete(finding)
    return [f"{one.outcome}: {one.text}" for one in findings if not names or one.check in names]


def assert_complete(finding: Finding) -> None:
    """Assert what every finding of every test must have."""
    if finding.outcome in (Outcome.WARNING, Outcome.PROBLEM):
        assert finding.remedy, finding
        assert finding.heading, finding
    assert "\n" not in finding.text + finding.remedy
