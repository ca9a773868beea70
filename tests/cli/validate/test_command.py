# SPDX-License-Identifier: Apache-2.0
"""Tests the rules of ``validate``, the engines that it recognizes, and the command."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli.validate.command import validate
from keda_gpu_scaler.cli.validate.engine_images import engine_of
from keda_gpu_scaler.cli.validate.rules import validate_text

VALID = """\
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
    assert old in VALID
    return VALID.replace(old, new)


DEMAND = """\
        profile: llm
        demand: epp
        demandEndpoint: http://epp.ai.svc:9090/metrics
"""
AT_ZERO = with_line("minReplicaCount: 1", "minReplicaCount: 0").replace("        profile: triton-inference\n", DEMAND)
ON_MEMORY = with_line("profile: triton-inference", 'targetMemoryUtilization: "80"')


def served_by(text: str, kind: str = "Deployment", namespace: str = "ai", **container: object) -> str:
    """Append the manifest of the scale target to a ScaledObject."""
    server = {"name": "server", "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}}, **container}
    pods = {"template": {"spec": {"containers": [server]}}}
    workload = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "llama"}, "spec": pods}
    if namespace:
        workload["metadata"] = {"name": "llama", "namespace": namespace}
    target = f"  scaleTargetRef: {{name: llama, kind: {kind}}}\n  minReplicaCount"
    return text.replace("  minReplicaCount", target) + "---\n" + json.dumps(workload)


def findings_in(text: str) -> list[str]:
    return [f"{one.line}:{one.column} {one.severity} {one.message}" for one in validate_text(text).findings]


def test_a_valid_scaled_object_has_no_finding() -> None:
    assert validate_text(VALID).findings == ()
    assert validate_text(VALID).trigger_count == 1


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        pytest.param(
            with_line("profile: triton-inference", "targetValue: eighty"),
            '11:9 error metadata.targetValue: Invalid value: "eighty": must be a plain number from 0.001 to 1e+12, '
            "without a unit",
            id="a value that the parser refuses, with its place",
        ),
        pytest.param(
            with_line("profile: triton-inference", "targetValue: 80"),
            "11:9 error metadata.targetValue: Invalid value: 80: must be text: quote it",
            id="a number without quotes, which the API server refuses",
        ),
        pytest.param(
            with_line("profile: triton-inference", "targetValu: '80'"),
            '11:9 error metadata.targetValu: Forbidden: it is not a key of this scaler, but almost "targetValue"; '
            "rename it, or remove it",
            id="a misspelt key of the scaler",
        ),
        pytest.param(
            with_line("profile: triton-inference", "target: '80'"),
            '11:9 warning metadata: "target" is not a key of this scaler and is ignored: did you mean "targetValue"?',
            id="a key that is similar to one of the scaler",
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
            "5:3 warning spec.minReplicaCount: Invalid value: 0: no trigger here can activate it: a workload "
            "at zero holds no GPU; set minReplicaCount: 1, name a demandEndpoint, or add a "
            "trigger that reads the demand",
            id="zero replicas that no trigger can activate",
        ),
        pytest.param(
            with_line("  minReplicaCount: 1\n", ""),
            "4:1 warning spec.minReplicaCount: Invalid value: 0: no trigger here can activate it: a workload "
            "at zero holds no GPU; set minReplicaCount: 1, name a demandEndpoint, or add a "
            "trigger that reads the demand",
            id="KEDA's default is zero",
        ),
        pytest.param(
            with_line("maxReplicaCount: 8", "maxReplicaCount: 8\n  idleReplicaCount: 0"),
            "7:3 warning spec.idleReplicaCount: Invalid value: 0: no trigger here can activate it: a workload "
            "at zero holds no GPU; set minReplicaCount: 1, name a demandEndpoint, or add a "
            "trigger that reads the demand",
            id="idle at zero",
        ),
        pytest.param(
            with_line("maxReplicaCount: 8", "maxReplicaCount: 0"),
            "6:3 error spec.maxReplicaCount: Invalid value: 0: must not be below minReplicaCount (1)",
            id="a maximum below the minimum",
        ),
        pytest.param(
            with_line("- type: external", "- type: external\n      metricType: Utilization"),
            '9:7 error metricType: Unsupported value: "Utilization": must be AverageValue or Value',
            id="a metricType that KEDA has for CPU only",
        ),
        pytest.param(
            with_line("profile: triton-inference", "report: average"),
            '11:9 error metadata.report: Invalid value: "average": with metricType AverageValue '
            "the HPA expects the total: set report: total, or remove the key",
            id="an average where the HPA divides",
        ),
        pytest.param(
            with_line("profile: triton-inference", "enableTLS: 'true'"),
            '11:9 warning metadata.enableTLS: Invalid value: "true": without an authenticationRef KEDA '
            "trusts only the CAs of its image: name a TriggerAuthentication with caCert",
            id="TLS without a CA",
        ),
        pytest.param(
            AT_ZERO, '8:7 warning type: Invalid value: "external": demand activates the workload only when '
            "KEDA polls, every 30 s; use external-push",
            id="demand that is not pushed",
        ),
        pytest.param(
            AT_ZERO.replace("spec:\n", "spec:\n  pollingInterval: 5\n"),
            '9:7 warning type: Invalid value: "external": demand activates the workload only when '
            "KEDA polls, every 5 s; use external-push",
            id="demand that is not pushed, with a pollingInterval",
        ),
        pytest.param(
            AT_ZERO.replace("external", "external-push").replace("spec:\n", "spec:\n  cooldownPeriod: 120\n"),
            "5:3 warning spec.cooldownPeriod: Invalid value: 120: after so short a pause in the load, the workload may "
            "have to start again, which takes a large model 60 to 130 s with cached weights and 2 to 7 minutes "
            "without; set 300 or more",
            id="a cooldown that is shorter than a start",
        ),
        pytest.param(
            with_line("keda-gpu-scaler.keda", "keda-gpu-scaler-agents.keda"),
            "10:9 warning metadata.scalerAddress: Invalid value: "
            '"keda-gpu-scaler-agents.keda.svc.cluster.local:6000": is the Service of the agents, and an agent '
            "behind a front end has the readings of its own node only; name the Service for KEDA: "
            "keda-gpu-scaler.keda.svc.cluster.local:6000",
            id="the Service of the agents",
        ),
        pytest.param(
            with_line("profile: triton-inference", "profile: vllm-inference"),
            '11:9 warning metadata.profile: Invalid value: "vllm-inference": vLLM allocates its memory '
            "when it starts and keeps it, so the workload may never scale down; use profile: llm instead",
            id="a profile of memory for vLLM",
        ),
        pytest.param(
            with_line("profile: triton-inference", "profile: tgi-inference"),
            '11:9 warning metadata.profile: Invalid value: "tgi-inference": TGI allocates its memory '
            "when it starts and keeps it, so the workload may never scale down; use profile: llm instead",
            id="a profile of memory for TGI",
        ),
        pytest.param(
            served_by(ON_MEMORY, image="lmsysorg/sglang:v0.5.3"),
            '12:9 warning metadata.targetMemoryUtilization: Invalid value: "80": SGLang allocates its memory '
            "when it starts and keeps it, so the workload may never scale down; use profile: llm instead",
            id="a target of memory for an engine in a manifest",
        ),
        pytest.param(
            served_by(with_line("profile: triton-inference", "metricType: memory_used_mib"), args=["vllm", "serve"])
            .replace("memory_used_mib", 'memory_used_mib\n        targetValue: "60000"'),
            '12:9 warning metadata.metricType: Invalid value: "memory_used_mib": vLLM allocates its memory '
            "when it starts and keeps it, so the workload may never scale down; use profile: llm instead",
            id="a target in MiB for an engine in a manifest",
        ),
        pytest.param("a: b: c", "1:5 error not readable as YAML: mapping values are not allowed here; render "
                     "templates first", id="a syntax error"),
        pytest.param("a: 1\nb: 2001-99-99", "2:4 error not readable as YAML: a value is not a possible timestamp; put "
                     "it in quotes; render templates first", id="a date that does not exist"),
        pytest.param("kind: {{ .Values.kind }}", "1:8 error not readable as YAML: found unhashable key; render "
                     "templates first", id="a template"),
    ],
)  # fmt: skip
def test_a_finding_has_its_place_and_its_remedy(text: str, finding: str) -> None:
    assert findings_in(text) == [finding]


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
def test_other_objects_and_triggers_are_not_checked(text: str) -> None:
    assert validate_text(text) == validate_text("")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(with_line("profile: triton-inference", "targetValueFromEnv: TARGET"), id="from the environment"),
        pytest.param(with_line("- type: external", "- type: external\n      metricType: Value"), id="metricType Value"),
        pytest.param(
            with_line("minReplicaCount: 1", "minReplicaCount: 0")
            + "    - type: cron\n      metadata: {start: 0 8 * * *, end: 0 18 * * *, desiredReplicas: '1'}\n",
            id="zero replicas, and another trigger that can activate it",
        ),
        pytest.param(
            with_line("minReplicaCount: 1", "minReplicaCount: 0") + "        scope: fleet\n",
            id="zero replicas, and activation by other workloads",
        ),
        pytest.param(
            (with_line("minReplicaCount: 1", "minReplicaCount: 0") + "        scope: fleet\n")
            .replace("spec:\n", "spec:\n  cooldownPeriod: 60\n"),
            id="zero replicas, and a short cooldown of a workload without a GPU",
        ),
        pytest.param(AT_ZERO.replace("external", "external-push"), id="zero replicas, and demand that activates it"),
        pytest.param(
            AT_ZERO.replace("external", "external-push").replace("demandEndpoint: http", "demandEndpointFromEnv: http")
            .replace("        demand: epp\n", ""),
            id="zero replicas, and demand whose URL is in the environment",
        ),
        pytest.param(
            AT_ZERO.replace("external", "external-push") + AT_ZERO[AT_ZERO.index("    - type") :],
            id="zero replicas, and one of two triggers pushes the demand",
        ),
        pytest.param(
            AT_ZERO.replace("minReplicaCount: 0", "minReplicaCount: 1\n  cooldownPeriod: 60"),
            id="never zero replicas, with demand and a short cooldown",
        ),
        pytest.param(
            with_line("profile: triton-inference", "profile: vllm-inference\n        metricType: gpu_utilization"),
            id="a profile of memory with another metric",
        ),
        pytest.param(ON_MEMORY, id="a target of memory for an unknown engine"),
        pytest.param(served_by(ON_MEMORY, image="ollama/ollama:0.12"), id="memory of an engine that frees it"),
        pytest.param(
            served_by(ON_MEMORY + "        scope: fleet\n", image="vllm/vllm-openai"), id="the memory of the fleet"
        ),
        pytest.param(
            served_by(ON_MEMORY, namespace="other", image="vllm/vllm-openai"), id="an engine in another namespace"
        ),
        pytest.param(
            served_by(ON_MEMORY, image="vllm/vllm-openai").replace("name: llama, kind", "name: mistral, kind"),
            id="an engine of another workload",
        ),
    ],
)  # fmt: skip
def test_a_working_object_has_no_finding(text: str) -> None:
    assert findings_in(text) == []


@pytest.mark.parametrize(
    ("container", "engine"),
    [
        pytest.param({"image": "vllm/vllm-openai:v0.11.0"}, "vLLM", id="vLLM's image"),
        pytest.param({"image": "registry.example.com:5000/ml/vllm@sha256:0"}, "vLLM", id="a copy in another registry"),
        pytest.param({"image": "mine", "command": ["/opt/bin/vllm", "serve"]}, "vLLM", id="its command by a path"),
        pytest.param(
            {"command": ["python3", "-m", "vllm.entrypoints.openai.api_server"]}, "vLLM", id="its Python module"
        ),
        pytest.param({"command": ["sh", "-c", "cd /m && exec vllm serve ."]}, "vLLM", id="a command in a shell script"),
        pytest.param({"args": ["sglang.launch_server"]}, "SGLang", id="SGLang's module"),
        pytest.param(
            {"image": "ghcr.io/huggingface/text-generation-inference:3.3"}, "TGI", id="TGI's image"
        ),
        pytest.param({"command": ["text-generation-launcher"]}, "TGI", id="TGI's command"),
        pytest.param(
            {"image": "nvcr.io/nvidia/tritonserver:25.08-trtllm-python-py3"}, "TensorRT-LLM", id="Triton with trtllm"
        ),
        pytest.param({"image": "nvcr.io/nvidia/tensorrt-llm/release:1.0"}, "TensorRT-LLM", id="the TensorRT image"),
        pytest.param({"command": ["trtllm-serve", "m"]}, "TensorRT-LLM", id="the TensorRT-LLM server"),
        pytest.param({"image": "nvcr.io/nim/meta/llama-3.1-8b-instruct:1.8"}, "NIM", id="a NIM"),
        pytest.param({"image": "openmmlab/lmdeploy:latest"}, "LMDeploy", id="LMDeploy's image"),
        pytest.param({"image": "xprobe/xinference:latest"}, "Xinference", id="Xinference's image"),
        pytest.param({"image": "mine", "command": ["xinference-worker", "-e", "x"]}, "Xinference", id="Xinference"),
        pytest.param({"image": "mine", "args": ["bentoml", "serve", "."]}, "BentoML", id="BentoML"),
        pytest.param({"image": "nvcr.io/nvidia/tritonserver:25.08-py3"}, None, id="Triton alone"),
        pytest.param({"image": "vllm.example.com/speech:1"}, None, id="a registry with that name"),
        pytest.param({"image": "lmcache/vllm-router:1"}, None, id="a router"),
        pytest.param({"image": "me/vllmish"}, None, id="a longer word"),
        pytest.param({"args": ["--url=http://vllm:8000", "http://vllm:8000/v1"]}, None, id="a client of the engine"),
        pytest.param({"image": 7, "command": "vllm", "args": None}, None, id="invalid fields"),
    ],
)  # fmt: skip
def test_the_image_and_the_command_identify_an_engine(container: dict[str, object], engine: str | None) -> None:
    assert engine_of({"spec": {"containers": [{"image": "sidecar"}, container]}}) == engine


@pytest.mark.parametrize("kind", ["StatefulSet", "Rollout"])
def test_a_scale_target_can_be_of_any_kind_and_without_a_namespace(kind: str) -> None:
    assert len(findings_in(served_by(ON_MEMORY, kind, "", image="vllm/vllm-openai"))) == 1


def test_a_workload_in_a_list_is_found() -> None:
    text = served_by(ON_MEMORY, image="vllm/vllm-openai")
    head, _, workload = text.partition("---\n")
    assert len(findings_in(f"{head}---\n" + json.dumps({"kind": "List", "items": [json.loads(workload)]}))) == 1


def test_a_scaled_job_contains_its_containers() -> None:
    job = "  jobTargetRef: {template: {spec: {containers: [{name: it, image: vllm/vllm-openai}]}}}\n  minReplicaCount"
    text = ON_MEMORY.replace("ScaledObject", "ScaledJob").replace("  minReplicaCount", job)
    assert [one.split(" ")[2] for one in findings_in(text)] == ["metadata.targetMemoryUtilization:"]


def test_nested_aliases_are_visited_once() -> None:
    """The aliases stand for a million million containers."""
    text = "metadata: {}\na0: &a0 {containers: []}\n" + "".join(
        f"a{at}: &a{at} [{', '.join(9 * [f'*a{at - 1}'])}]\n" for at in range(1, 13)
    )
    assert validate_text(text + "itself: &itself [*itself]").findings == ()


def test_a_scaled_object_in_a_list_is_checked() -> None:
    indented = "".join(f"  {line}\n" for line in VALID.replace(":6000", "").splitlines())
    assert len(findings_in("kind: List\nitems:\n-" + indented[1:])) == 1


KEYS = st.sampled_from(["kind", "apiVersion", "metadata", "spec", "triggers", "type", "items", "scalerAddress"])
SCALARS = st.none() | st.booleans() | st.floats() | st.text()


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)))
def test_every_value_in_an_object_ends_in_findings(value: object) -> None:
    trigger = {"type": "external", "metadata": {"profile": value, "scalerAddress": value}}
    spec = {"triggers": [value, trigger], "minReplicaCount": value}
    scaled = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": value, "spec": spec}
    validate_text(json.dumps(scaled))


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(validate, arguments, input=stdin)


def test_files_directories_and_standard_input_are_read(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.yaml").write_text(VALID)
    (tmp_path / "two.yml").write_text(VALID)
    (tmp_path / "three.txt").write_text("a: b: c")
    assert "2 triggers" in run(str(tmp_path)).output
    assert "3 triggers" in run(str(tmp_path), "-", stdin=VALID).output
    gone = run(str(tmp_path / "gone.yaml"))
    assert gone.exit_code == 2
    assert "gone.yaml: no such file or directory" in gone.output


def test_the_workload_of_another_file_is_found(tmp_path: Path) -> None:
    scaled, _, workload = served_by(ON_MEMORY, image="vllm/vllm-openai").partition("---\n")
    (tmp_path / "a.yaml").write_text(scaled)
    (tmp_path / "b.yaml").write_text(workload)
    (tmp_path / "c.yaml").write_text("containers: b: c")
    assert "vLLM allocates its memory" in run(str(tmp_path)).output
    assert "vLLM allocates its memory" not in run(str(tmp_path / "a.yaml")).output


@pytest.mark.parametrize(
    ("text", "arguments", "status"),
    [
        pytest.param(VALID, (), 0, id="no finding"),
        pytest.param(with_line("minReplicaCount: 1", "minReplicaCount: 0"), (), 0, id="a warning"),
        pytest.param(with_line("minReplicaCount: 1", "minReplicaCount: 0"), ("--strict",), 1, id="a warning, strictly"),
        pytest.param(with_line(":6000", ""), (), 1, id="an error"),
    ],
)
def test_the_exit_status_is_that_of_the_most_severe_finding(text: str, arguments: tuple[str, ...], status: int) -> None:
    assert run("-", *arguments, stdin=text).exit_code == status


def test_each_format_has_file_line_and_column() -> None:
    text = with_line(":6000", "")
    assert run("-", stdin=text).output.startswith("<stdin>:10:9: error: ai/llama: metadata.scalerAddress: Invalid")
    github = run("-", "--format", "github", stdin=text).output
    assert github.startswith("::error file=<stdin>,line=10,col=9::ai/llama: metadata.scalerAddress: Invalid value: ")
    document = json.loads(run("-", "--format", "json", stdin=text).output)
    assert (document["file"], document["line"], document["column"]) == ("<stdin>", 10, 9)
    assert (document["severity"], document["subject"]) == ("error", "ai/llama")


def scaled_job(**spec: object) -> str:
    trigger = {"type": "external", "metadata": {"scalerAddress": "keda-gpu-scaler.keda:6000"}}
    base = {"minReplicaCount": 1, "jobTargetRef": {}, "triggers": [trigger]}
    item = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledJob", "metadata": {"name": "batch"}}
    return json.dumps({**item, "spec": {**base, **spec}}, indent=1)


@pytest.mark.parametrize(
    ("spec", "line", "message"),
    [
        pytest.param({}, 0, "", id="a usable job"),
        pytest.param({"scalingStrategy": {"strategy": "eager"}}, 0, "", id="a usable strategy"),
        pytest.param(
            {"scalingStrategy": {"strategy": "custom", "customScalingRunningJobPercentage": "1"}},
            18,
            "spec.scalingStrategy.customScalingQueueLengthDeduction: Required value: KEDA fails without it: set it "
            "to 0",
            id="a strategy without a field that KEDA needs",
        ),
        pytest.param(
            {"jobTargetRef": {"parallelism": 0}},
            9,
            "spec.jobTargetRef: Invalid value: 0: its Jobs start no pod: set parallelism and completions above 0",
            id="jobs without pods",
        ),
        pytest.param(
            {"triggers": [{"type": "external", "metricType": "Value", "metadata": {"scalerAddress": "a.b:1",
             "profile": "batch"}}]},
            13,
            "metricType: Invalid value: Value: KEDA starts no job of a ScaledJob for a trigger of this type: remove "
            "metricType",
            id="a type for which KEDA starts no job",
        ),
    ],
)  # fmt: skip
def test_a_scaled_job_that_no_value_can_lead_is_an_error(spec: dict[str, object], line: int, message: str) -> None:
    findings = validate_text(scaled_job(**spec)).findings
    assert [(one.line, one.severity, one.message) for one in findings] == (
        [(line, "error", message)] if message else []
    )


def with_formula(trigger: str = "name: gpu", **modifiers: str) -> str:
    fields = json.dumps({"formula": "gpu * 2", "target": "75", **modifiers})
    advanced = f"  advanced: {{scalingModifiers: {fields}}}\n  minReplicaCount"
    text = VALID.replace("  minReplicaCount", advanced)
    return text.replace("- type: external", f"- type: external\n      {trigger}")


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        pytest.param(with_formula(), [], id="a usable formula"),
        pytest.param(
            with_formula("metricType: AverageValue\n      name: gpu", metricType="Value"),
            ['10:7 warning metricType: Invalid value: "AverageValue": has no effect: the HPA uses that of the formula, '
             "Value, and the trigger reports the number for it"],
            id="a type that has no effect",
        ),
        pytest.param(
            with_formula(target=""),
            ["5:14 error spec.advanced.scalingModifiers.target: Required value: KEDA refuses a formula without a "
             "target"],
            id="no target",
        ),
        pytest.param(
            with_formula("timeout: 1"), ["9:7 error name: Required value: a formula takes a trigger by its name"],
            id="no name",
        ),
        pytest.param(
            with_formula() + "    - {type: cron, name: gpu, metadata: {}}\n",
            ['10:7 error name: Duplicate value: "gpu": a formula takes a trigger by its name'],
            id="a name that another trigger has",
        ),
    ],
)  # fmt: skip
def test_a_formula_takes_triggers_by_their_names(text: str, findings: list[str]) -> None:
    assert findings_in(text) == findings


@pytest.mark.parametrize(
    ("idle", "findings"),
    [
        pytest.param("0", [], id="zero, below the minimum"),
        pytest.param(
            "3",
            ["5:3 error spec.idleReplicaCount: Invalid value: 3: KEDA refuses it, because it must be below "
             "minReplicaCount (3)"],
            id="as many as the minimum",
        ),
        pytest.param(
            "2",
            ["5:3 warning spec.idleReplicaCount: Invalid value: 2: the HPA scales up to minReplicaCount again: use 0"],
            id="above zero",
        ),
    ],
)  # fmt: skip
def test_the_size_of_an_idle_workload(idle: str, findings: list[str]) -> None:
    text = with_line("minReplicaCount: 1", f"idleReplicaCount: {idle}\n  minReplicaCount: 3")
    assert [one for one in findings_in(text) if "no trigger here can activate it" not in one] == findings


def with_fallback(fallback: str, more: str = "") -> str:
    return VALID.replace("  triggers:\n", f"  fallback: {fallback}\n{more}  triggers:\n")


EQUAL = VALID + VALID[VALID.index("    - type: external") :]
KEEPS = ". This scaler returns an error when too little is known, and without a fallback the HPA then keeps the size"
MODIFIERS = "  advanced: {scalingModifiers: {formula: gpu, target: %s}}\n"


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        pytest.param(
            with_fallback("{failureThreshold: 3, replicas: 4}"),
            [
                "7:3 info spec.fallback: after more than 3 errors in a row KEDA sets the size to 4" + KEEPS
            ],
            id="a static fallback",
        ),
        pytest.param(
            with_fallback("{failureThreshold: 3, replicas: 4, behavior: currentReplicasIfHigher}"),
            [
                "7:3 info spec.fallback: after more than 3 errors in a row KEDA keeps the present size, and at least 4"
                + KEEPS
            ],
            id="the present size, and at least that of the fallback",
        ),
        pytest.param(
            with_fallback("{failureThreshold: 3, replicas: 4, behavior: scalingModifiers}"),
            [
                '7:48 error spec.fallback.behavior: Invalid value: "scalingModifiers": there is no formula, and then '
                "KEDA's fallback fails: use currentReplicas"
            ],
            id="the behavior for formulas without one",
        ),
        pytest.param(
            with_fallback("{failureThreshold: 3, replicas: 4}", MODIFIERS % '"7.5"').replace(
                "- type: external", "- name: gpu\n      type: external"
            ),
            [
                "7:3 warning spec.fallback: has no effect: with a formula KEDA needs a whole number as its target, "
                'and it is "7.5"'
            ],
            id="a formula with a fraction as its target",
        ),
        pytest.param(
            EQUAL,
            ["12:7 warning trigger 2: Duplicate value: it is the same as trigger 1: remove one"],
            id="the same trigger twice",
        ),
        pytest.param(
            EQUAL + "      metricType: Value\n",
            [
                "16:7 error metricType: Invalid value: Value: trigger 1 has the same metadata and metricType "
                "AverageValue, and KEDA sends the metadata alone, so no value fits both: remove one"
            ],
            id="the same trigger with two types",
        ),
        pytest.param(
            with_formula(formula="gpu + lag"),
            [
                '5:33 error spec.advanced.scalingModifiers.formula: Not found: "lag": no external trigger has this '
                "name, and KEDA refuses the formula"
            ],
            id="a formula with a name that no trigger has",
        ),
    ],
)  # fmt: skip
def test_what_triggers_do_together_is_said(text: str, findings: list[str]) -> None:
    assert [one for one in findings_in(text) if "spec.fallback: with metricType" not in one] == findings


def test_an_information_fails_no_strict_run_and_is_a_notice_on_github(tmp_path: Path) -> None:
    file = tmp_path / "so.yaml"
    file.write_text(with_fallback("{failureThreshold: 3, replicas: 4}"))
    result = CliRunner().invoke(validate, ["--strict", "--format", "github", str(file)])
    assert result.exit_code == 0
    assert result.output.startswith("::notice file=")
