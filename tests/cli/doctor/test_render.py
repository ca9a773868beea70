# SPDX-License-Identifier: Apache-2.0
"""Tests how ``doctor`` prints its findings, and that the documentation has their headings."""

import ast
import json
import re
from pathlib import Path

import pytest

from keda_gpu_scaler.cli.doctor.findings import Heading, ok, problem, skipped, warning
from keda_gpu_scaler.cli.doctor.render import formatted

HOME = Path(__file__).resolve().parents[3]
GOLDEN = HOME / "tests" / "golden"

FINDINGS = (
    ok("driver", "NVIDIA's, version 580.65.06, through libnvidia-ml.so.1"),
    warning(
        "devices",
        "unknown for devices 4, 5, 6, 7: gpu_utilization, memory_utilization",
        "use another metricType there: MIG slices, for example, have no utilisation",
        "pods-have-no-value",
    ),
    problem(
        "allocations",
        "cannot open /var/lib/kubelet/pod-resources/kubelet.sock: permission denied",
        "run as root on the node (chart: podResources.path)",
        "an-agent-reads-no-allocations",
    ),
    skipped("clock", "the kernel does not report whether its clock is synchronized: operation not permitted"),
    problem("peers", "node \x1b[31mgpu-9\x07: it ended\nthe connection, 100% sure", "see its log", "flaps"),
)


@pytest.mark.parametrize("width", [80, 140])
def test_findings_fit_the_width_as_in_the_golden_file(width: int) -> None:
    lines = "\n".join(formatted(finding, "text", width) for finding in FINDINGS)
    plain = re.sub(r"\x1b\[\d*m", "", lines)
    assert plain + "\n" == (GOLDEN / f"doctor-{width}.txt").read_text()
    assert max(map(len, plain.splitlines())) <= width


def test_in_a_narrow_terminal_a_long_word_is_divided() -> None:
    lines = [re.sub(r"\x1b\[\d*m", "", formatted(finding, "text", 60)) for finding in FINDINGS]
    assert max(len(line) for text in lines for line in text.splitlines()) == 60
    assert "/var/lib/kubelet/pod-resources/kubelet.sock" in re.sub(r"\s+", "", lines[2])


def test_without_a_terminal_a_finding_is_one_printable_line() -> None:
    lines = [formatted(finding, "text") for finding in FINDINGS]
    assert not any("\n" in line or "\x07" in line or "\x1b[31mgpu" in line for line in lines)
    assert (
        "permission denied; run as root on the node (chart: podResources.path) (docs/operating.md#an-agent" in lines[2]
    )


def test_json_has_every_key_and_the_unchanged_text() -> None:
    assert json.loads(formatted(FINDINGS[4], "json")) == {
        "check": "peers",
        "outcome": "problem",
        "text": FINDINGS[4].text,
        "remedy": "see its log",
        "link": "docs/operating.md#flaps",
    }


def test_github_gets_annotations_for_warnings_and_problems_only() -> None:
    lines = [formatted(finding, "github") for finding in FINDINGS]
    assert [line.partition(" ")[0] for line in lines] == ["ok", "::warning", "::error", "skipped", "::error"]
    assert lines[4].startswith(
        "::error title=doctor peers::node �[31mgpu-9�: it ended�the connection, 100%25 sure; see"
    )


def headings() -> set[str]:
    page = (HOME / "docs" / "operating.md").read_text()
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^## (.+)$", page, re.M)}


def test_every_heading_of_a_finding_is_in_the_page() -> None:
    assert len(Heading) > 8
    assert {str(heading) for heading in Heading} <= headings()


def test_headings_are_named_in_one_place_only() -> None:
    named = set()
    for path in (HOME / "src" / "keda_gpu_scaler" / "cli" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and re.fullmatch(r"[a-z]+(-[a-z_]+)+", str(node.value)):
                named.add(node.value)
    assert named - {"keda-gpu-scaler", "keda-operator"} == {str(heading) for heading in Heading}
