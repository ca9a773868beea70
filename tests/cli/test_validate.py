# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli.manifests import check
from keda_gpu_scaler.cli.validate import validate

SOUND = """\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: llama, namespace: ai}
spec:
  minReplicaCount: 1
  maxReplicaCount: 8
  triggers:
    - type: external
      metadata:
        scalerAddress: keda-gpu-scaler.keda.svc.cluster.local:6000
        profile: triton-inference
"""


def with_line(old: str, new: str) -> str:
    assert old in SOUND
    return SOUND.replace(old, new)


def said(text: str) -> list[str]:
    return [f"{one.line}:{one.column} {one.severity} {one.message}" for one in check(text).findings]


def test_what_is_sound_has_no_finding() -> None:
    assert check(SOUND).findings == ()
    assert check(SOUND).triggers == 1


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        pytest.param(
            with_line("profile: triton-inference", "targetValue: eighty"),
            '11:9 error metadata.targetValue: Invalid value: "eighty": must be a plain number from 0.001 to 1e+12, '
            "without a unit",
            id="a value that the parser refuses, where it stands",
        ),
        pytest.param(
            with_line("profile: triton-inference", "targetValue: 80"),
            "11:9 error metadata.targetValue: Invalid value: 80: must be text: quote it",
            id="a number without quotes, which the API server refuses",
        ),
        pytest.param(
            with_line("profile: triton-inference", "targetValu: '80'"),
            '11:9 warning metadata: "targetValu" is no key of ours, nothing reads it: did you mean "targetValue"?',
            id="a key that looks like ours",
        ),
        pytest.param(
            with_line(":6000", ""),
            '10:9 error metadata.scalerAddress: Invalid value: "keda-gpu-scaler.keda.svc.cluster.local": must be '
            "HOST:PORT, without a scheme",
            id="an address without a port",
        ),
        pytest.param(
            with_line("        scalerAddress: keda-gpu-scaler.keda.svc.cluster.local:6000\n", ""),
            "9:7 error metadata.scalerAddress: Required value: for example "
            "keda-gpu-scaler.keda.svc.cluster.local:6000",
            id="no address",
        ),
        pytest.param(
            with_line("minReplicaCount: 1", "minReplicaCount: 0"),
            "5:3 warning spec.minReplicaCount: Invalid value: 0: nothing here can wake it: a workload at zero holds no "
            "GPU; set minReplicaCount: 1, or add a trigger that sees the demand",
            id="zero replicas that nothing can wake",
        ),
        pytest.param(
            with_line("  minReplicaCount: 1\n", ""),
            "4:1 warning spec.minReplicaCount: Invalid value: 0: nothing here can wake it: a workload at zero holds no "
            "GPU; set minReplicaCount: 1, or add a trigger that sees the demand",
            id="KEDA's default is zero",
        ),
        pytest.param(
            with_line("maxReplicaCount: 8", "maxReplicaCount: 8\n  idleReplicaCount: 0"),
            "7:3 warning spec.idleReplicaCount: Invalid value: 0: nothing here can wake it: a workload at zero holds "
            "no GPU; set minReplicaCount: 1, or add a trigger that sees the demand",
            id="idle at zero",
        ),
        pytest.param(
            with_line("maxReplicaCount: 8", "maxReplicaCount: 0"),
            "6:3 error spec.maxReplicaCount: Invalid value: 0: must not be below minReplicaCount (1)",
            id="limits the wrong way round",
        ),
        pytest.param(
            with_line("- type: external", "- type: external\n      metricType: Utilization"),
            '9:7 error metricType: Unsupported value: "Utilization": must be AverageValue or Value',
            id="a type that KEDA has for CPU only",
        ),
        pytest.param(
            with_line("profile: triton-inference", "report: average"),
            '11:9 error metadata.report: Invalid value: "average": of metricType AverageValue the HPA expects the '
            "total: say report: total, or leave it out",
            id="an average where the HPA divides",
        ),
        pytest.param(
            with_line("profile: triton-inference", "enableTLS: 'true'"),
            '11:9 warning metadata.enableTLS: Invalid value: "true": without an authenticationRef KEDA knows no CA but '
            "those of its image: name a TriggerAuthentication with caCert",
            id="TLS without a CA",
        ),
        pytest.param("a: b: c", "1:5 error not YAML that can be read: mapping values are not allowed here; render "
                     "templates first", id="no YAML"),
        pytest.param("kind: {{ .Values.kind }}", "1:8 error not YAML that can be read: found unhashable key; render "
                     "templates first", id="a template"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place_and_its_remedy(text: str, finding: str) -> None:
    assert said(text) == [finding]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("kind: Deployment\nspec: {triggers: 7}", id="another kind"),
        pytest.param(
            with_line("keda-gpu-scaler.keda", "other.keda").replace("profile", "queue"), id="another scaler's"
        ),
        pytest.param(with_line("type: external", "type: prometheus"), id="another type's"),
        pytest.param("kind: ScaledObject\napiVersion: keda.sh/v1alpha1", id="without a spec"),
        pytest.param("kind: ScaledObject\napiVersion: keda.sh/v1alpha1\nspec: {triggers: [7, null]}", id="no triggers"),
    ],
)
def test_what_is_not_ours_is_passed_over(text: str) -> None:
    assert check(text) == check("")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(with_line("profile: triton-inference", "targetValueFromEnv: TARGET"), id="from the environment"),
        pytest.param(with_line("- type: external", "- type: external\n      metricType: Value"), id="metricType Value"),
        pytest.param(
            with_line("minReplicaCount: 1", "minReplicaCount: 0")
            + "    - type: cron\n      metadata: {start: 0 8 * * *, end: 0 18 * * *, desiredReplicas: '1'}\n",
            id="zero, with a trigger that can wake it",
        ),
        pytest.param(
            with_line("minReplicaCount: 1", "minReplicaCount: 0") + "        scope: fleet\n",
            id="zero, and what others' devices do can wake it",
        ),
    ],
)
def test_what_works_is_not_complained_about(text: str) -> None:
    assert said(text) == []


def test_a_list_is_looked_into() -> None:
    indented = "".join(f"  {line}\n" for line in SOUND.replace(":6000", "").splitlines())
    assert len(said("kind: List\nitems:\n-" + indented[1:])) == 1


KEYS = st.sampled_from(["kind", "apiVersion", "metadata", "spec", "triggers", "type", "items", "scalerAddress"])
SCALARS = st.none() | st.booleans() | st.floats() | st.text()


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)))
def test_whatever_stands_in_an_object_ends_in_findings(value: object) -> None:
    trigger = {"type": "external", "metadata": {"profile": value, "scalerAddress": value}}
    spec = {"triggers": [value, trigger], "minReplicaCount": value}
    scaled = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": value, "spec": spec}
    check(json.dumps(scaled))


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(validate, arguments, input=stdin)


def test_files_folders_and_standard_input_are_read(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.yaml").write_text(SOUND)
    (tmp_path / "two.yml").write_text(SOUND)
    (tmp_path / "three.txt").write_text("a: b: c")
    assert "2 triggers" in run(str(tmp_path)).output
    assert "3 triggers" in run(str(tmp_path), "-", stdin=SOUND).output
    gone = run(str(tmp_path / "gone.yaml"))
    assert gone.exit_code == 2
    assert "gone.yaml: no such file or directory" in gone.output


@pytest.mark.parametrize(
    ("text", "arguments", "status"),
    [
        pytest.param(SOUND, (), 0, id="nothing wrong"),
        pytest.param(with_line("minReplicaCount: 1", "minReplicaCount: 0"), (), 0, id="a warning"),
        pytest.param(with_line("minReplicaCount: 1", "minReplicaCount: 0"), ("--strict",), 1, id="a warning, strictly"),
        pytest.param(with_line(":6000", ""), (), 1, id="an error"),
    ],
)
def test_the_exit_status_tells_the_worst(text: str, arguments: tuple[str, ...], status: int) -> None:
    assert run("-", *arguments, stdin=text).exit_code == status


def test_each_format_tells_file_line_and_column() -> None:
    text = with_line(":6000", "")
    assert run("-", stdin=text).output.startswith("<stdin>:10:9: error: ai/llama: metadata.scalerAddress: Invalid")
    github = run("-", "--format", "github", stdin=text).output
    assert github.startswith("::error file=<stdin>,line=10,col=9::ai/llama: metadata.scalerAddress: Invalid value: ")
    told = json.loads(run("-", "--format", "json", stdin=text).output)
    assert (told["file"], told["line"], told["column"]) == ("<stdin>", 10, 9)
    assert (told["severity"], told["subject"]) == ("error", "ai/llama")
