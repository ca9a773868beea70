# SPDX-License-Identifier: Apache-2.0
"""The workflows: least rights, pinned actions, and every command in them one that exists."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts import image_docker

from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.devices.replay.backend import ReplayBackend
from tests.image.workflows import problems

HOME = Path(__file__).resolve().parent.parent.parent
FOLDER = HOME / ".github" / "workflows"
E2E = HOME / ".github" / "e2e"
CHART = HOME / "deploy" / "helm" / "keda-gpu-scaler"
NAMES = sorted(path.name for path in FOLDER.iterdir())


def workflow(name: str) -> dict[Any, Any]:
    read = yaml.safe_load((FOLDER / name).read_text())
    assert isinstance(read, dict)
    return read


def scripts(name: str) -> str:
    steps = [step for job in workflow(name)["jobs"].values() for step in job["steps"]]
    return "\n".join(step.get("run", "") for step in steps)


def test_there_are_the_workflows_that_the_documents_speak_of() -> None:
    assert NAMES == ["ci.yml", "e2e.yml", "release.yml"]


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_keeps_every_rule(name: str) -> None:
    assert problems((FOLDER / name).read_text(), workflow(name)) == []


CHECKOUT = "actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0"
BREAKS = [
    pytest.param("  pull_request:", "  pull_request_target:", "strangers' code", id="pull_request_target"),
    pytest.param("permissions:\n  contents: read", "permissions: write-all", "must be contents: read", id="write-all"),
    pytest.param("permissions:\n  contents: read\n", "", "must be contents: read", id="no permissions stated"),
    pytest.param(CHECKOUT, "actions/checkout@v5", "must be a commit", id="a tag"),
    pytest.param(CHECKOUT, "actions/checkout@v5", "not pinned to a commit", id="a tag, in the job"),
    pytest.param(CHECKOUT, CHECKOUT.partition(" ")[0], "with the version it is", id="a commit without its version"),
    pytest.param(
        "          persist-credentials: false\n", "          fetch-depth: 1\n", "leaves a token", id="a token"
    ),
    pytest.param("    timeout-minutes: 20\n", "", "would do so for six hours", id="no time limit"),
    pytest.param("ubuntu-24.04\n    timeout", "ubuntu-latest\n    timeout", "under our feet", id="a moving runner"),
    pytest.param("bash .ci/run", "echo ${{ github.head_ref }}", "is code; pass it by env", id="a stranger's words"),
    pytest.param("bash .ci/run", "curl -s x | sh", "into a shell", id="curl into a shell"),
    pytest.param(
        "    timeout-minutes: 20\n",
        "    timeout-minutes: 20\n    permissions:\n      packages: write\n",
        "a pull request's job writes nothing",
        id="rights for a pull request",
    ),
    pytest.param(
        "    timeout-minutes: 20\n",
        "    timeout-minutes: 20\n    permissions:\n      actions: write\n",
        "nothing here needs to write that",
        id="a right that nothing needs",
    ),
    pytest.param(
        "    timeout-minutes: 20\n",
        "    timeout-minutes: 20\n    permissions:\n      contents: write\n",
        "under the release environment's protection",
        id="rights without the environment",
    ),
]


@pytest.mark.parametrize(("old", "new", "sentence"), BREAKS)
def test_every_break_of_a_rule_is_found(old: str, new: str, sentence: str) -> None:
    text = (FOLDER / "ci.yml").read_text()
    assert old in text
    broken = text.replace(old, new)
    assert [line for line in problems(broken, yaml.safe_load(broken)) if sentence in line]


def test_ci_runs_on_every_python_that_the_package_allows_and_runs_what_ci_runs() -> None:
    pythons = workflow("ci.yml")["jobs"]["check"]["strategy"]["matrix"]["python"]
    minimum = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["requires-python"]
    assert minimum == f">={pythons[0]}"
    assert [int(python.removeprefix("3.")) for python in pythons] == list(range(11, 11 + len(pythons)))
    assert "bash .ci/run" in scripts("ci.yml")


@pytest.mark.parametrize("name", NAMES)
def test_every_make_target_file_and_option_of_a_workflow_exists(name: str) -> None:
    text = scripts(name)
    makefile = (HOME / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"(?<![\w/])((?:\.ci|\.github|scripts|deploy/examples)/[\w./-]+)", text):
        assert (HOME / path).exists(), path
    for command in re.findall(r"image_docker\.py (\w+)", text):
        assert f'"{command}"' in (HOME / "scripts" / "image_docker.py").read_text(), command


def test_only_a_version_makes_a_release() -> None:
    assert workflow("release.yml")[True] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}


def test_a_release_is_run_before_it_is_signed() -> None:
    jobs = workflow("release.yml")["jobs"]
    assert jobs["image"]["needs"] == "check"
    assert jobs["smoke"]["needs"] == "image"
    assert jobs["scan"]["needs"] == "image"
    assert jobs["publish"]["needs"] == ["image", "smoke", "scan"]
    signing = [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})]
    assert signing == ["publish"]
    assert "cosign" not in "".join(str(job) for name, job in jobs.items() if name != "publish")


def test_a_release_is_scanned_for_known_vulnerabilities_before_it_is_signed() -> None:
    [scan] = [
        step for step in workflow("release.yml")["jobs"]["scan"]["steps"] if "scan-action" in step.get("uses", "")
    ]
    given = scan["with"]
    assert given["image"] == "${{ env.IMAGE }}@${{ needs.image.outputs.digest }}"
    assert (given["fail-build"], given["severity-cutoff"]) == (True, "high")
    assert "make audit" in "".join(step.get("run", "") for step in workflow("release.yml")["jobs"]["scan"]["steps"])
    makefile = (HOME / "Makefile").read_text()
    audit = makefile.partition("\naudit:")[2].partition("\n\n")[0]
    assert "--require-hashes -r requirements/audit.txt" in audit
    assert "--requirement requirements/run.txt" in audit
    assert "--strict" in audit  # a package that cannot be looked up is not a package without vulnerabilities


def test_a_release_has_the_list_of_its_packages_with_a_checksum_and_an_attestation() -> None:
    jobs = workflow("release.yml")["jobs"]
    assert "make build sbom" in "".join(step.get("run", "") for step in jobs["image"]["steps"])
    text = "".join(str(step) for step in jobs["publish"]["steps"])
    assert text.count("sbom.cdx.json") == 2


def test_the_smoke_test_runs_on_both_platforms() -> None:
    for name, job in (("ci.yml", "image"), ("release.yml", "smoke")):
        runners = workflow(name)["jobs"][job]["strategy"]["matrix"]["runner"]
        assert len(runners) == len(image_docker.PLATFORMS.split(","))
        assert sum(runner.endswith("-arm") for runner in runners) == 1


def test_the_image_that_is_released_is_the_one_that_the_makefile_names() -> None:
    # github.repository is the project's; from there both have the same name.
    assert image_docker.IMAGE == "ghcr.io/keda-gpu-scaler/keda-gpu-scaler"
    assert workflow("release.yml")["env"]["IMAGE"] == "ghcr.io/${{ github.repository }}"


@pytest.mark.parametrize(("name", "percent"), [("busy.csv", 95), ("idle.csv", 5)])
def test_the_recordings_of_the_cluster_say_what_their_names_say(name: str, percent: float) -> None:
    backend = ReplayBackend(str(E2E / name), 1.0)
    assert [sample.gpu_utilization_ratio for sample in backend.read(0.0)] == [percent / 100]


def test_the_workload_of_the_cluster_grows_on_one_recording_and_shrinks_on_the_other() -> None:
    deployment, scaled = yaml.safe_load_all((E2E / "workload.yaml").read_text())
    (trigger,) = scaled["spec"]["triggers"]
    parsed = parse_trigger(trigger["metadata"])
    assert 5 < parsed.target < 95
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    text = scripts("e2e.yml")
    for limit, wanted in (("maxReplicaCount", "readyReplicas}'="), ("minReplicaCount", "replicas}'=")):
        assert f"{wanted}{scaled['spec'][limit]} " in text
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (1, 4)
    release = workflow("e2e.yml")["jobs"]["scale"]["env"]["NAMESPACE"]
    assert trigger["metadata"]["scalerAddress"] == f"keda-gpu-scaler.{release}.svc.cluster.local:6000"


def tool(name: str) -> str:
    beside = (Path(sys.executable).parent, HOME / ".tools" / "bin", Path.home() / "go" / "bin")
    found = shutil.which(name, path=":".join(map(str, beside))) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_the_chart_takes_the_values_of_the_cluster() -> None:
    helm = tool("helm")
    if not (CHART / "Chart.yaml").exists():
        pytest.skip("there is no chart")
    command = (helm, "template", "gpu-scaler", CHART, "--kube-version", "1.33.0", "--values", E2E / "values.yaml")
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    (agents,) = [one for one in yaml.safe_load_all(made.stdout) if one and one["kind"] == "DaemonSet"]
    pod = agents["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert "runtimeClassName" not in pod
    (container,) = pod["containers"]
    assert container["image"] == "keda-gpu-scaler:e2e"
    backends = [argument for argument in container["args"] if argument.startswith("--backend")]
    assert backends[-1] == "--backend=replay:/load/load.csv"
    assert agents["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] == "keda-gpu-scaler"
    assert {"name": "load", "mountPath": "/load", "readOnly": True} in container["volumeMounts"]


def test_actionlint_has_nothing_to_say() -> None:
    command = (tool("actionlint"), "-no-color", *(str(FOLDER / name) for name in NAMES))
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "")
