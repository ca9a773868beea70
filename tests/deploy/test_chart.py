# SPDX-License-Identifier: Apache-2.0
"""Tests of the chart: every shape of it is valid, and wrong values are refused."""

import functools
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from scripts import chart, image_docker, tools

import keda_gpu_scaler
from keda_gpu_scaler.cli import main as cli
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.kube.podresources import DEFAULT_PATH
from keda_gpu_scaler.remote.peers import DEFAULT_SERVICE
from tests.deploy.rendering import Rendered, container, matches, render, sets

pytestmark = pytest.mark.usefixtures("chart_tools")

HOST_PATH = sets(
    "driver.mode=hostPath", "driver.hostPath.directory=/opt/nvidia/lib", "driver.hostPath.library=libnvidia-ml.so.1"
)
PERFMON = sets("driver.intel.perfmon=true", "driver.intel.monitoringResource=gpu.intel.com/xe_monitoring")
DRIVERS: Mapping[str, Sequence[str]] = {
    "runtime class": (),
    "default runtime": sets("runtimeClassName="),
    "CDI": sets("driver.mode=cdi"),
    "MIG": sets("driver.mig=true"),
    "GKE": sets("driver.mode=gke"),
    "GKE with devices from elsewhere": sets("driver.mode=gke", "driver.privileged=false"),
    "host path": HOST_PATH,
    "AMD": sets("driver.mode=amd"),
    "Intel": sets("driver.mode=intel"),
    "Intel with its memory": (*sets("driver.mode=intel"), *PERFMON),
    "NVIDIA with AMD and Intel": sets("driver.also={amd,intel}"),
    "AMD and Intel on nodes of their own": chart.VENDORS,
}
SHAPES: Mapping[str, Sequence[str]] = {"one node": chart.ONE_NODE, "front end": ()}
MORE: Mapping[str, Sequence[str]] = {
    "as it is": (),
    "mutual TLS by cert-manager": chart.CERTIFICATE,
    "TLS by a Secret": sets("tls.enabled=true", "tls.secretName=mine", "tls.clientCA=", "tls.peerName=peers.example"),
    "watched": (*chart.SCRAPED, *sets("podMonitor.enabled=true", "dashboards.enabled=true")),
    "open and without rights": sets("networkPolicy.enabled=false", "rbac.create=false"),
    "extras": chart.EXTRAS,
    "what charts usually have": chart.EXPECTED,
    "engines": chart.ENGINES,
}
MATRIX = {
    f"{driver}, {shape}, {more}": (*DRIVERS[driver], *SHAPES[shape], *MORE[more])
    for driver, shape, more in itertools.product(DRIVERS, SHAPES, MORE)
} | {f"people and roles, {shape}": (*SHAPES[shape], *chart.CERTIFICATE, *chart.EXPLAIN) for shape in SHAPES}
EVERY_SHAPE = pytest.mark.parametrize("flags", MATRIX.values(), ids=MATRIX)


@functools.cache
def values() -> dict[str, Any]:
    return dict(yaml.safe_load((chart.CHART / "values.yaml").read_text()))


# ---- what Kubernetes takes ----


@pytest.mark.parametrize("flags", [*DRIVERS.values(), *MORE.values()], ids=[*DRIVERS, *MORE])
def test_helm_lint_has_nothing_to_say(flags: Sequence[str]) -> None:
    outcome = chart.helm("lint", "--strict", "--quiet", str(chart.CHART), *flags)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def conform(folder: Path, version: str) -> list[str]:
    """Hold every file of a folder against the schemas of a Kubernetes; return what is wrong."""
    name = "{{.ResourceKind}}{{.KindSuffix}}.json"
    places = (tools.SCHEMAS / f"v{version}" / name, tools.SCHEMAS / name)
    flags = [word for place in places for word in ("-schema-location", str(place))]
    # One reader: each of several reads every schema for itself.
    command = [str(tools.BIN / "kubeconform"), "-strict", "-n", "1", "-output", "json", "-verbose", *flags, str(folder)]
    environment = {**os.environ, **tools.SHORT_RUN}
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    resources = json.loads(outcome.stdout)["resources"]
    assert resources, outcome.stderr
    return [f"{one['filename']}: {one['kind']}: {one['msg']}" for one in resources if one["status"] != "statusValid"]


@EVERY_SHAPE
def test_no_object_is_there_twice(flags: Sequence[str]) -> None:
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in render(*flags).objects]
    assert len(set(names)) == len(names)


# ---- what is committed ----


@pytest.mark.parametrize("name", chart.GOLDENS)
def test_a_golden_is_what_the_chart_renders(name: str) -> None:
    rendered = chart.template(*chart.GOLDENS[name])
    assert (chart.GOLDEN / f"{name}.yaml").read_text() == rendered, (
        "changed: read the difference, then `make manifests`"
    )


def test_every_golden_is_one_of_the_table() -> None:
    assert {path.stem for path in chart.GOLDEN.iterdir()} == set(chart.GOLDENS)


def test_the_manifests_are_what_the_chart_renders() -> None:
    assert chart.MANIFESTS.read_text() == chart.manifests(), "stale: run `make manifests`"


def test_the_manifests_need_no_helm_and_no_definition_that_a_cluster_lacks() -> None:
    text = chart.MANIFESTS.read_text()
    assert not re.search(r"helm\.sh|: Helm$|\{\{", text, re.MULTILINE)
    groups = {one["apiVersion"].rpartition("/")[0] for one in Rendered(text).objects}
    assert groups == {"", "apps", "networking.k8s.io", "policy", "rbac.authorization.k8s.io"}
    assert {one["metadata"].get("namespace", "keda") for one in Rendered(text).objects} == {"keda"}
    assert not Rendered(text).all("Pod")


def test_chart_program_and_image_are_of_one_version() -> None:
    about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert about["version"] == about["appVersion"] == keda_gpu_scaler.__version__
    assert values()["image"]["repository"] == image_docker.IMAGE


# ---- what the schema refuses ----

MISTAKES: Mapping[str, tuple[Sequence[str], str]] = {
    "a key that is not there": (sets("frontent.enabled=true"), "'frontent' not allowed"),
    "a key within that is not there": (sets("frontend.replica=2"), "'replica' not allowed"),
    "a driver mode that is none": (sets("driver.mode=magic"), "/driver/mode"),
    "a vendor that is none": (sets("driver.also={nvidia}"), "/driver/also/0"),
    "a right of Intel without Intel's devices": (PERFMON, "driver.intel.perfmon: Invalid value: true"),
    "the right to read Intel's memory without its device files": (
        sets("driver.mode=intel", "driver.intel.perfmon=true"),
        "driver.intel.monitoringResource: Required value",
    ),
    "a resource that takes a GPU away": (
        sets("driver.mode=intel", "driver.intel.monitoringResource=gpu.intel.com/xe"), "/intel/monitoringResource",
    ),
    "agents without the mode of their driver": (
        ("--set-json", 'additionalAgents=[{"name":"a","driver":{"mig":true}}]'), "/additionalAgents/0/driver",
    ),
    "agents with a value that all share": (
        ("--set-json", 'additionalAgents=[{"name":"a","driver":{"mode":"amd"},"tls":{}}]'), "'tls' not allowed",
    ),
    "two DaemonSets of one name": (
        ("--set-json", f"additionalAgents={json.dumps(2 * [{'name': 'a', 'driver': {'mode': 'amd'}}])}"),
        'additionalAgents: Duplicate value: "a"',
    ),
    "a second DaemonSet with the name of the first": (
        ("--set-json", 'additionalAgents=[{"name":"default","driver":{"mode":"amd"}}]'),
        'additionalAgents: Duplicate value: "default"',
    ),
    "a text for a number": (sets("frontend.replicas=two"), "/frontend/replicas"),
    "no replicas": (sets("frontend.replicas=0"), "/frontend/replicas"),
    "a text for yes or no": (("--set-string", "frontend.enabled=true"), "/frontend/enabled"),
    "a quantity that is none": (sets("resources.requests.cpu=fast"), "/resources/requests/cpu"),
    "a relative path of the kubelet": (sets("podResources.path=kubelet"), "/podResources/path"),
    "an absolute path of the library": (sets("driver.hostPath.library=/lib/libnvidia-ml.so.1"), "/hostPath/library"),
    "a device that is none of CDI": (sets("driver.cdi.devices=all"), "/driver/cdi/devices"),
    "a digest that is none": (sets("image.digest=latest"), "/image/digest"),
    "a pull policy that is none": (sets("image.pullPolicy=Sometimes"), "/image/pullPolicy"),
    "a log level that is none": (sets("logLevel=loud"), "/logLevel"),
    "a toleration with a key misspelt": (sets("tolerations[0].opertor=Exists"), "'opertor' not allowed"),
    "a scale target without its group": (sets("rbac.scaleTargets[0].resource=rollouts"), "/rbac/scaleTargets/0"),
    "a scale target by its kind": (
        ("--set-json", 'rbac.scaleTargets=[{"group":"argoproj.io","resource":"Rollout"}]'), "/scaleTargets/0/resource",
    ),
    "a policy's peer that means everybody": (("--set-json", "networkPolicy.clients=[{}]"), "/networkPolicy/clients/0"),
    "a namespace that is none": (sets("networkPolicy.kedaNamespaces={KEDA}"), "/networkPolicy/kedaNamespaces/0"),
    "a label of the chart's own": (sets(r"commonLabels.app\.kubernetes\.io/name=x"), "/commonLabels"),
    "a label that is a list": (sets("podLabels.a={b}"), "/podLabels/a"),
    "a flag that is none": (sets("extraArgs={sample-interval=2}"), "/extraArgs/0"),
    "a duration without its unit": (sets("tls.certManager.duration=2160"), "/tls/certManager/duration"),
    "an affinity with a key misspelt": (("--set-json", 'affinity={"nodeAfinity":{}}'), "'nodeAfinity' not allowed"),
    "a pace that no engine needs": (sets("engines.scrapeInterval=0"), "/engines/scrapeInterval"),
    "a pace that wakes nobody": (sets("engines.demandInterval=600"), "/engines/demandInterval"),
    "a pace with its unit": (sets("engines.demandInterval=500ms"), "/engines/demandInterval"),
    "endpoints in one text": (
        ("--set-json", 'engines.allowEndpoints=["10.0.0.0/8,*.svc"]'), "/engines/allowEndpoints/0",
    ),
    "a credential without its Secret": (sets("engines.credentials[0].name=a"), "/engines/credentials/0"),
    "a credential whose name is too long for a volume": (
        sets(f"engines.credentials[0].name={55 * 'a'}", "engines.credentials[0].secretName=a"),
        "/engines/credentials/0/name",
    ),
    "two credentials of one name": (
        sets(*(f"engines.credentials[{at}].{key}=a" for at in (0, 1) for key in ("name", "secretName"))),
        'engines.credentials: Duplicate value: "a"',
    ),
    "names of certificates in one text": (
        ("--set-json", 'tls.kedaNames=["keda,other"]'), "/tls/kedaNames/0",
    ),
    "TLS without a certificate": (sets("tls.enabled=true"), "tls.secretName: Required value"),
    "cert-manager without an issuer": (
        sets("tls.enabled=true", "tls.certManager.enabled=true"), "tls.certManager.issuerRef.name: Required value",
    ),
    "a host path without its directory": (
        sets("driver.mode=hostPath", "driver.hostPath.library=libnvidia-ml.so.1"),
        "driver.hostPath.directory: Required value",
    ),
    "a host path without its library": (
        sets("driver.mode=hostPath", "driver.hostPath.directory=/opt"), "driver.hostPath.library: Required value",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_values_is_refused_and_its_key_named(mistake: str) -> None:
    flags, named = MISTAKES[mistake]
    with pytest.raises(ValueError, match=re.escape(named)):
        chart.template(*flags)


def test_schema_and_values_know_the_same_keys() -> None:
    schema = json.loads((chart.CHART / "values.schema.json").read_text())

    def compare(path: str, node: Mapping[str, Any], known: Any) -> Iterator[str]:
        is_open = node.get("type") != "object" or "properties" not in node or path == ".global"  # a parent chart's
        assert is_open or node["additionalProperties"] is False, path
        if not isinstance(known, Mapping) or not known or "properties" not in node:
            return
        for key in node["properties"].keys() ^ known.keys():
            yield f"{path}.{key}"
        for key in node["properties"].keys() & known.keys():
            yield from compare(f"{path}.{key}", node["properties"][key], known[key])

    # Helm's own, and those that a map of the defaults leaves out.
    free = {".updateStrategy.rollingUpdate.maxSurge"}
    assert set(compare("", schema, values())) - free == set()


def test_every_value_has_a_comment() -> None:
    """Its own or that of the block it begins: nothing at the top level and nothing that switches goes without."""
    lines = (chart.CHART / "values.yaml").read_text().splitlines()
    plain = {"image", "frontend", "rbac", "tls", "driver", "podResources", "service", "serviceAccount", "podMonitor"}
    plain |= {"networkPolicy", "dashboards", "affinity", "tolerations"}
    plain |= {f"{kind}{what}" for kind in ("pod", "extra") for what in ("Labels", "Annotations", "Env", "Volumes")}
    plain |= {"extraVolumeMounts", "commonAnnotations", "explain", "securityContext", "initContainers"}
    plain |= {"livenessProbe", "readinessProbe", "serviceMonitor", "prometheusRule", "admissionPolicy"}
    for at, line in enumerate(lines):
        if (found := re.match(r"(?:  )?(enabled|\w+):", line)) and (not line.startswith(" ") or found[1] == "enabled"):
            assert found[1] in plain or lines[at - 1].lstrip().startswith("#"), line


# ---- the commands of the pages ----


@pytest.mark.parametrize(
    ("release", "namespace", "flags"),
    [
        ("gpu-scaler", "gpu-scaler", ()),
        ("keda-gpu-scaler", "keda", sets(r"nodeSelector.nvidia\.com/gpu\.present=true")),
    ],
)
def test_the_address_is_the_same_whatever_the_release_is_called(
    release: str, namespace: str, flags: Sequence[str]
) -> None:
    rendered = render(*flags, namespace=namespace, release=release)
    service = rendered.one("Service", "keda-gpu-scaler")
    assert service["metadata"]["namespace"] == namespace
    assert service["spec"]["ports"] == [{"name": "grpc", "port": 6000, "targetPort": "grpc", "protocol": "TCP"}]
    assert rendered.pods()["agent"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.present": "true"}


@pytest.fixture(scope="module")
def chart_that_shows_its_notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Helm shows notes with a cluster alone: here they are an object like any other."""
    copy = tmp_path_factory.mktemp("chart") / chart.CHART.name
    shutil.copytree(chart.CHART, copy)
    notes = (copy / "templates" / "NOTES.txt").read_text()
    shown = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata: {notes: {{ include "notes" . | toJson }}}'
    (copy / "templates" / "notes.yaml").write_text(f'{{{{ define "notes" }}}}{notes}{{{{ end }}}}{shown}')
    return copy


@pytest.mark.parametrize("more", MORE)
def test_the_notes_tell_the_next_step(more: str, chart_that_shows_its_notes: Path) -> None:
    made = chart.helm("template", "one", str(chart_that_shows_its_notes), "-n", "two", *MORE[more])
    assert made.returncode == 0, made.stderr
    notes = Rendered(made.stdout).one("ConfigMap", "notes")["data"]["notes"]
    assert "scalerAddress: keda-gpu-scaler.two.svc.cluster.local:6000" in notes
    assert "helm test one --namespace two" in notes
    assert ("TLS is on" in notes) is (more in ("mutual TLS by cert-manager", "TLS by a Secret"))
    assert ("Only pods of keda reach port 6000" in notes) is (more != "open and without rights")
    assert "app.kubernetes.io/component: frontend." in notes
    assert ("List a gateway in another namespace in" in notes) is (more != "engines")


NO_MEMORY = "The memory in use of Intel's GPUs is unknown"
PARTITIONS = "If AMD's GPUs are partitioned"


@pytest.mark.parametrize(
    ("driver", "named"),
    [
        ("runtime class", ()),
        ("AMD", (PARTITIONS,)),
        ("Intel", (NO_MEMORY,)),
        ("Intel with its memory", ()),
        ("NVIDIA with AMD and Intel", (NO_MEMORY,)),
        (
            "AMD and Intel on nodes of their own",
            (NO_MEMORY, PARTITIONS, "A node gets one agent", "daemonset/keda-gpu-scaler-agents-intel"),
        ),
    ],
)
def test_the_notes_name_what_a_vendor_needs(
    driver: str, named: Sequence[str], chart_that_shows_its_notes: Path
) -> None:
    made = chart.helm("template", "one", str(chart_that_shows_its_notes), "-n", "two", *DRIVERS[driver])
    assert made.returncode == 0, made.stderr
    notes = Rendered(made.stdout).one("ConfigMap", "notes")["data"]["notes"]
    sentences = (NO_MEMORY, PARTITIONS, "A node gets one agent", "daemonset/keda-gpu-scaler-agents-intel")
    assert {sentence for sentence in sentences if sentence in notes} == set(named)


def test_two_installations_share_no_name() -> None:
    first, second = render(namespace="one"), render("--set", "fullnameOverride=other", namespace="one", release="other")
    elsewhere = render(namespace="two")
    for other in (second, elsewhere):
        names = [
            {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in rendered.objects}
            for rendered in (first, other)
        ]
        assert not names[0] & names[1]
    for service in second.all("Service"):
        assert first.selected(service["spec"]["selector"]) == set()


# ---- pods ----


@EVERY_SHAPE
def test_no_pod_has_more_than_it_needs(flags: Sequence[str]) -> None:
    for component, pod in render(*flags).pods().items():
        spec, one = pod["spec"], container(pod)
        context = {**spec["securityContext"], **one["securityContext"]}
        assert context["readOnlyRootFilesystem"] is True
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec.get("initContainers") is None
        is_agent = component.startswith("agent")
        if component == "agent" and is_privileged(flags):
            assert context["privileged"] is True
            assert "allowPrivilegeEscalation" not in context  # Kubernetes takes no false beside privileged
        else:
            assert "privileged" not in context
            assert context["allowPrivilegeEscalation"] is False
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            added = {"driver.mig=true": ["SYS_ADMIN"], "driver.intel.perfmon=true": ["PERFMON"]}
            add = [right for flag in flags if component == "agent" for right in added.get(flag, ())]
            expected = {"drop": ["ALL"], "add": add} if add else {"drop": ["ALL"]}
            assert context["capabilities"] == expected
        if is_agent:
            assert context["runAsUser"] == 0
        else:
            assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 65532)
            assert not any("hostPath" in volume for volume in spec.get("volumes", ()))


def is_privileged(flags: Sequence[str]) -> bool:
    drives_itself = bool({"driver.mode=gke", "driver.mode=hostPath"} & set(flags))
    return drives_itself and "driver.privileged=false" not in flags


@pytest.mark.parametrize("shape", SHAPES)
def test_engines_are_scraped_by_whoever_keda_asks_and_by_nobody_else(shape: str) -> None:
    pods = render(*SHAPES[shape], *chart.ENGINES).pods()
    asked = "frontend" if shape == "front end" else "agent"
    for component in pods.keys() - {"test"}:
        one = container(pods[component])
        arguments = {argument for argument in one["args"] if re.match("--(scrape|demand|allow|endpoint)-", argument)}
        mounts = {it["mountPath"] for it in one.get("volumeMounts", ()) if "endpoint" in it["name"]}
        if component != asked:
            assert not arguments
            assert not mounts
            continue
        assert arguments == {
            "--scrape-interval=1",
            "--demand-interval=0.25",
            "--allow-endpoints=10.0.0.0/8,*.ai.svc.cluster.local",
            "--endpoint-credentials=/etc/keda-gpu-scaler/endpoints",
        }
        assert mounts == {"/etc/keda-gpu-scaler/endpoints/gateway"}


def test_each_credential_is_a_secret_in_a_directory_of_its_own_that_the_pod_may_read_alone() -> None:
    longest = 54 * "a"
    given = [{"name": "a", "secretName": "one"}, {"name": longest, "secretName": "two"}]
    pod = render("--set-json", f"engines.credentials={json.dumps(given)}").pods()["frontend"]
    volumes = {one["name"]: one["secret"] for one in pod["spec"]["volumes"] if "secret" in one}
    assert all(len(name) <= 63 for name in volumes)  # a label's length, which Kubernetes holds volumes to
    mounts = {one["mountPath"].rpartition("/")[2]: one for one in container(pod)["volumeMounts"]}
    assert {name: volumes[one["name"]]["secretName"] for name, one in mounts.items()} == {"a": "one", longest: "two"}
    assert all(one["readOnly"] and "subPath" not in one for one in mounts.values())
    assert {one["defaultMode"] for one in volumes.values()} == {0o440}


@pytest.mark.parametrize(
    ("flags", "argument"),
    [
        pytest.param(sets("engines.demandInterval=0.25"), "--demand-interval=0.25", id="--set makes a text of it"),
        pytest.param(sets("engines.scrapeInterval=5"), "--scrape-interval=5", id="a whole number"),
        pytest.param(sets("engines.scrapeTimeout=8"), "--scrape-timeout=8", id="the timeout of a scrape"),
        pytest.param(
            ("--set-json", 'engines.allowEndpoints=["fd00::"]'),
            "--allow-endpoints=fd00::",
            id="what YAML takes for a key",
        ),
    ],
)
def test_a_value_of_engines_arrives_as_it_was_said(flags: Sequence[str], argument: str) -> None:
    assert argument in container(render(*flags).pods()["frontend"])["args"]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pace_of_engines_is_the_programs_own_by_default(shape: str) -> None:
    engines = values()["engines"]
    assert (engines["scrapeInterval"], engines["scrapeTimeout"], engines["demandInterval"]) == (
        Config().scrape_interval,
        Config().scrape_timeout,
        Config().demand_interval,
    )
    for pod in render(*SHAPES[shape]).pods().values():
        assert not [argument for argument in container(pod)["args"] if re.match("--(scrape|demand|allow)-", argument)]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("driver", "agents"),
    [
        pytest.param(sets("driver.mode=runtimeClass"), {"agent"}, id="NVIDIA"),
        pytest.param((*sets("driver.mode=gke"), *chart.VENDORS), {"agent"}, id="GKE, and other vendors' agents"),
        pytest.param(sets("driver.also={amd}"), {"agent"}, id="NVIDIA and AMD on one node"),
        pytest.param(sets("driver.mode=amd"), set(), id="AMD"),
    ],
)
def test_measured_shares_add_the_pid_namespace_to_agents_with_nvidias_driver_and_nothing_else(
    driver: Sequence[str], agents: set[str], shape: Sequence[str]
) -> None:
    without, measured = (render(*driver, *shape, *sets(f"measureShares={value}")).pods() for value in ("false", "true"))
    assert {name for name, pod in measured.items() if pod["spec"].pop("hostPID", False)} == agents
    for name in agents:
        container(measured[name])["args"].remove("--measure-shares")
    assert measured == without


@EVERY_SHAPE
def test_the_kubelet_finds_every_port_it_probes(flags: Sequence[str]) -> None:
    for component, pod in render(*flags).pods().items():
        if component == "test":
            continue
        one = container(pod)
        ports = {port["name"]: port["containerPort"] for port in one["ports"]}
        explain_port = ports.pop("explain", None)  # a port-forward leads there, and no probe
        assert (f"--explain-port={explain_port}" in one["args"]) is (explain_port is not None)
        assert ports == {"grpc": Config().port, "metrics": Config().metrics_port, "probes": Config().probe_port}
        probed = {one[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert probed == {"/livez", "/readyz"}
        assert {one[kind]["httpGet"]["port"] for kind in ("livenessProbe", "readinessProbe")} == {"probes"}
        assert "memory" in one["resources"]["limits"]
        assert "cpu" not in one["resources"]["limits"]


@EVERY_SHAPE
def test_the_program_takes_the_arguments_and_finds_the_files_that_they_name(flags: Sequence[str]) -> None:
    for pod in render(*flags).pods().values():
        one = container(pod)
        name, *arguments = one["args"]
        assert isinstance(cli, click.Group)
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        given = command.make_context(name, list(arguments)).params
        mounts = {mount["mountPath"]: mount["name"] for mount in one.get("volumeMounts", ())}
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
        assert set(mounts.values()) == set(volumes)
        for value in given.values():
            is_given = isinstance(value, str) and any(argument.endswith(value) for argument in arguments)
            if is_given and value.startswith("/"):
                # A file below a mount, or a directory of mounts.
                places = [path for path in mounts if value.startswith(f"{path}/") or path.startswith(f"{value}/")]
                assert places
                assert all(volumes[mounts[place]].keys() & {"hostPath", "secret"} for place in places)


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_driver_comes_as_the_mode_says(driver: str) -> None:
    pod = render(*DRIVERS[driver]).pods()["agent"]
    one = container(pod)
    environment = {entry["name"]: entry.get("value") for entry in one["env"]}
    library = [argument for argument in one["args"] if argument.startswith("--nvml-library")]
    host = [volume["hostPath"]["path"] for volume in pod["spec"]["volumes"] if volume["name"] == "driver"]
    runtime = pod["spec"].get("runtimeClassName")
    seen = (runtime, environment.get("NVIDIA_VISIBLE_DEVICES"), *host, *library)
    on_gke = (None, None, "/home/kubernetes/bin/nvidia", "--nvml-library=/driver/lib64/libnvidia-ml.so.1")
    assert (
        seen
        == {
            "runtime class": ("nvidia", "all"),
            "MIG": ("nvidia", "all"),
            "default runtime": (None, "all"),
            "CDI": ("nvidia", "nvidia.com/gpu=all"),
            "GKE": on_gke,
            "GKE with devices from elsewhere": on_gke,
            "host path": (None, None, "/opt/nvidia/lib", "--nvml-library=/driver/libnvidia-ml.so.1"),
            "AMD": (None, None),
            "Intel": (None, None),
            "Intel with its memory": (None, None),
            "NVIDIA with AMD and Intel": ("nvidia", "all"),
            "AMD and Intel on nodes of their own": ("nvidia", "all"),
        }[driver]
    )
    assert environment.get("NVIDIA_MIG_MONITOR_DEVICES") == ("all" if driver == "MIG" else None)


def test_agents_know_their_node_and_ask_its_kubelet() -> None:
    pod = render("--set", "podResources.path=/var/lib/k0s/kubelet/pod-resources").pods()["agent"]
    one = container(pod)
    [node] = [entry for entry in one["env"] if entry["name"] == "KEDA_GPU_SCALER_NODE_NAME"]
    assert node["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    assert f"--pod-resources={DEFAULT_PATH}" in one["args"]
    [mount] = [mount for mount in one["volumeMounts"] if mount["name"] == "pod-resources"]
    assert (mount["mountPath"], mount["readOnly"]) == (str(Path(DEFAULT_PATH).parent), True)
    [volume] = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "pod-resources"]
    assert volume["hostPath"] == {"path": "/var/lib/k0s/kubelet/pod-resources", "type": "Directory"}


@pytest.mark.parametrize(
    ("flags", "selector", "has_affinity"),
    [
        pytest.param((), {"nvidia.com/gpu.present": "true"}, False, id="by GPU feature discovery's label"),
        pytest.param(sets("driver.mode=gke"), None, True, id="by GKE's label"),
        pytest.param(sets("nodeSelector.a=1"), {"a": "1"}, False, id="by one's own label, and no other"),
        pytest.param(sets("driver.mode=gke", "nodeSelector.a=true"), {"a": "true"}, False, id="on GKE by one's own"),
        pytest.param(
            sets("driver.mode=amd"), {"feature.node.kubernetes.io/amd-gpu": "true"}, False, id="by AMD's label"
        ),
        pytest.param(
            sets("driver.mode=intel"), {"intel.feature.node.kubernetes.io/gpu": "true"}, False, id="by Intel's label"
        ),
    ],
)
def test_which_nodes_get_an_agent(flags: Sequence[str], selector: object, has_affinity: bool) -> None:
    spec = render(*flags).pods()["agent"]["spec"]
    assert spec.get("nodeSelector") == selector
    assert ("affinity" in spec) is has_affinity
    assert spec["tolerations"]


TAINTS = {"nvml": ["nvidia.com/gpu"], "amd": ["amd.com/gpu"], "intel": ["gpu.intel.com/i915", "gpu.intel.com/xe"]}


@pytest.mark.parametrize(
    ("flags", "backend"),
    [
        pytest.param((), "nvml", id="NVIDIA alone"),
        pytest.param(sets("driver.mode=gke"), "nvml", id="NVIDIA on GKE"),
        pytest.param(sets("driver.mode=amd"), "amd", id="AMD alone"),
        pytest.param(sets("driver.mode=intel"), "intel", id="Intel alone"),
        pytest.param(sets("driver.also={amd,intel}"), "nvml,amd,intel", id="all three"),
        pytest.param(sets("driver.mode=amd", "driver.also={amd,intel}"), "amd,intel", id="one that is named twice"),
    ],
)
def test_agents_read_the_vendors_of_their_driver_and_tolerate_their_taints(flags: Sequence[str], backend: str) -> None:
    pod = render(*flags).pods()["agent"]
    assert f"--backend={backend}" in container(pod)["args"]
    tolerated = [one["key"] for one in pod["spec"]["tolerations"]]
    assert tolerated == [taint for vendor in backend.split(",") for taint in TAINTS[vendor]]


def test_tolerations_of_ones_own_replace_those_of_the_vendors() -> None:
    pod = render(*sets("driver.mode=amd", "tolerations[0].operator=Exists")).pods()["agent"]
    assert pod["spec"]["tolerations"] == [{"operator": "Exists"}]


def test_agents_that_read_intels_memory_request_the_resource_for_monitoring_and_no_gpu() -> None:
    one = container(render(*sets("driver.mode=intel"), *PERFMON).pods()["agent"])
    assert one["resources"]["limits"] == {"memory": "256Mi", "gpu.intel.com/xe_monitoring": 1}
    for flags in DRIVERS.values():
        for pod in render(*flags).pods().values():
            kinds = container(pod).get("resources", {}).get("limits", {}).keys()
            assert kinds <= {"memory", "gpu.intel.com/xe_monitoring"}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_vendor_has_a_daemon_set_of_its_own_and_one_fleet(shape: str) -> None:
    rendered = render(*chart.VENDORS, *SHAPES[shape])
    assert {one["metadata"]["name"] for one in rendered.all("DaemonSet")} == {
        "keda-gpu-scaler-agents", "keda-gpu-scaler-agents-amd", "keda-gpu-scaler-agents-intel",
    }  # fmt: skip
    agents = {"agent", "agent-amd", "agent-intel"}
    selectors = [one["spec"]["selector"]["matchLabels"] for one in rendered.all("DaemonSet")]
    # Each selects its own agents alone, and the Service of the agents selects all of them.
    assert sorted(sorted(rendered.selected(one)) for one in selectors) == sorted([one] for one in agents)
    assert rendered.selected(rendered.one("Service", DEFAULT_SERVICE)["spec"]["selector"]) == agents
    policy = rendered.one("NetworkPolicy", "keda-gpu-scaler-agents")["spec"]["podSelector"]["matchLabels"]
    assert rendered.selected(policy) == agents


def test_rights_selectors_and_tolerations_of_the_first_daemon_set_are_not_those_of_others() -> None:
    flags = sets("driver.mig=true", "driver.privileged=true", "nodeSelector.a=b", "tolerations[0].operator=Exists")
    pod = render(*flags, *chart.VENDORS, "--set", "priorityClassName=ours").pods()["agent-amd"]
    assert container(pod)["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "privileged" not in container(pod)["securityContext"]
    assert pod["spec"]["nodeSelector"] == {"feature.node.kubernetes.io/amd-gpu": "true"}
    assert [one["key"] for one in pod["spec"]["tolerations"]] == ["amd.com/gpu"]
    assert "runtimeClassName" not in pod["spec"]
    assert pod["spec"]["priorityClassName"] == "ours"


def test_values_of_additional_agents_are_theirs_alone() -> None:
    own = {
        "name": "mixed",
        "driver": {"mode": "gke", "also": ["amd"], "privileged": False},
        "nodeSelector": {"a": 1},
        "resources": {"limits": {"memory": "300Mi"}},
        "extraArgs": ["--sample-interval=2"],
    }
    pods = render("--set-json", f"additionalAgents={json.dumps([own])}").pods()
    mixed, first = pods["agent-mixed"], pods["agent"]
    assert {"--backend=nvml,amd", "--sample-interval=2"} <= set(container(mixed)["args"])
    assert "privileged" not in container(mixed)["securityContext"]
    assert mixed["spec"]["nodeSelector"] == {"a": "1"}
    assert container(mixed)["resources"]["limits"] == {"memory": "300Mi"}
    assert container(mixed)["resources"]["requests"] == container(first)["resources"]["requests"]
    assert first["spec"]["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert container(first)["resources"]["limits"] == {"memory": "256Mi"}


def test_agents_of_two_daemon_sets_never_share_a_node() -> None:
    assert "affinity" not in render().pods()["agent"]["spec"]
    for component, pod in render(*chart.VENDORS).pods().items():
        if not component.startswith("agent"):
            continue
        [term] = pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        [expression] = term["labelSelector"]["matchExpressions"]
        own = pod["metadata"]["labels"]["keda-gpu-scaler/agents"]
        assert expression == {"key": "keda-gpu-scaler/agents", "operator": "NotIn", "values": [own]}
        assert term["topologyKey"] == "kubernetes.io/hostname"
        assert matches(term["labelSelector"]["matchLabels"], pod)


def test_an_anti_affinity_of_ones_own_is_kept() -> None:
    flags = ("--set-json", 'affinity={"podAntiAffinity":{},"nodeAffinity":{}}')
    affinity = render(*chart.VENDORS, *flags).pods()["agent"]["spec"]["affinity"]
    assert affinity == {"podAntiAffinity": {}, "nodeAffinity": {}}


def test_the_front_end_survives_a_node_and_a_drain() -> None:
    rendered = render()
    deployment, name = rendered.one("Deployment", "keda-gpu-scaler-frontend"), "keda-gpu-scaler-frontend"
    assert deployment["spec"]["replicas"] == 2
    budget = rendered.one("PodDisruptionBudget", name)["spec"]
    assert budget["maxUnavailable"] == 1
    assert rendered.selected(budget["selector"]["matchLabels"]) == {"frontend"}
    spread = rendered.pods()["frontend"]["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for one in spread:
        assert rendered.selected(one["labelSelector"]["matchLabels"]) == {"frontend"}
    arguments = container(rendered.pods()["frontend"])["args"]
    assert {"--backend=none", "--pod-resources=off", f"--peers=kubernetes:{DEFAULT_SERVICE}"} <= set(arguments)
    assert not render(*chart.ONE_NODE).all("Deployment", "PodDisruptionBudget")


# ---- who reaches whom ----


@EVERY_SHAPE
def test_kedas_service_leads_to_whoever_is_asked_and_the_headless_one_to_every_agent(flags: Sequence[str]) -> None:
    rendered = render(*flags)
    asked = "agent" if "frontend.enabled=false" in flags else "frontend"
    agents = {component for component in rendered.pods() if component.startswith("agent")}
    selector = rendered.one("Service", "keda-gpu-scaler")["spec"]["selector"]
    assert rendered.selected(selector) == (agents if asked == "agent" else {asked})
    headless = rendered.one("Service", DEFAULT_SERVICE)["spec"]
    assert rendered.selected(headless["selector"]) == agents
    assert (headless["clusterIP"], headless["publishNotReadyAddresses"]) == ("None", True)
    assert [port["name"] for port in headless["ports"]] == ["grpc"]
    account = rendered.pods()[asked]["spec"]
    assert (account["serviceAccountName"], account["automountServiceAccountToken"]) == ("keda-gpu-scaler", True)


def admitted(rendered: Rendered, component: str, port: str) -> tuple[set[str], list[Any]]:
    """Which of our own pods, and who else, may connect to a component's port."""
    pod = rendered.pods()[component]
    [policy] = [
        one["spec"] for one in rendered.all("NetworkPolicy") if matches(one["spec"]["podSelector"]["matchLabels"], pod)
    ]
    peers = [
        peer for rule in policy["ingress"] if port in {one["port"] for one in rule["ports"]} for peer in rule["from"]
    ]
    own = {
        name
        for peer in peers
        if peer.keys() == {"podSelector"}
        for name in rendered.selected(peer["podSelector"]["matchLabels"])
    }
    return own, [peer for peer in peers if peer.keys() != {"podSelector"}]


KEDA = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}
OBSERVERS = {"namespaceSelector": {"matchLabels": {"team": "observers"}}}


def test_only_keda_and_our_own_pods_reach_agents_without_a_front_end() -> None:
    rendered = render(*chart.ONE_NODE)
    assert admitted(rendered, "agent", "grpc") == ({"agent", "test"}, [KEDA])
    assert admitted(rendered, "agent", "metrics") == (set(), [])


def test_only_the_front_end_reaches_its_agents_and_they_reach_nobody() -> None:
    rendered = render()
    assert admitted(rendered, "agent", "grpc") == ({"frontend"}, [])
    assert admitted(rendered, "frontend", "grpc") == ({"test"}, [KEDA])
    agents = rendered.one("NetworkPolicy", "keda-gpu-scaler-agents")["spec"]
    assert (agents["policyTypes"], agents["egress"]) == (["Ingress", "Egress"], [])


@pytest.mark.parametrize("shape", SHAPES)
def test_whoever_is_asked_reaches_engines_and_demand_wherever_they_are(shape: str) -> None:
    rendered = render(*SHAPES[shape])
    name = "keda-gpu-scaler-frontend" if shape == "front end" else "keda-gpu-scaler-agents"
    policy = rendered.one("NetworkPolicy", name)["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert "egress" not in policy


@pytest.mark.parametrize("shape", SHAPES)
def test_scrapers_and_other_clients_are_let_in_by_name(shape: str) -> None:
    clients = ("--set-json", 'networkPolicy.clients=[{"ipBlock":{"cidr":"10.0.0.0/8"}}]')
    rendered = render(*SHAPES[shape], *chart.SCRAPED, *clients, "--set", "networkPolicy.kedaNamespaces={a,b}")
    asked = "frontend" if shape == "front end" else "agent"
    others = admitted(rendered, asked, "grpc")[1]
    namespaces = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": one}}} for one in ("a", "b")]
    assert others == [*namespaces, {"ipBlock": {"cidr": "10.0.0.0/8"}}]
    for component in {"agent", asked}:
        assert admitted(rendered, component, "metrics") == (set(), [OBSERVERS])


def test_the_pod_monitor_selects_every_instance_and_keeps_our_labels() -> None:
    rendered = render(*chart.SCRAPED, "--set", "podMonitor.enabled=true")
    spec = rendered.one("PodMonitor", "keda-gpu-scaler")["spec"]
    assert rendered.selected(spec["selector"]["matchLabels"]) == {"agent", "frontend", "test"}
    [expression] = spec["selector"]["matchExpressions"]
    assert expression == {"key": "app.kubernetes.io/component", "operator": "In", "values": ["agent", "frontend"]}
    [endpoint] = spec["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["honorLabels"]) == ("metrics", True)


def test_the_dashboard_arrives_whole() -> None:
    rendered = render("--set", "dashboards.enabled=true")
    dashboards = rendered.one("ConfigMap", "keda-gpu-scaler-dashboards")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    files = {path.name: json.loads(path.read_text()) for path in (chart.CHART / "dashboards").glob("*.json")}
    assert files
    assert {name: json.loads(text) for name, text in dashboards["data"].items()} == files


# ---- TLS ----


def test_the_certificate_bears_the_name_that_keda_and_peers_expect_and_serves_both_ends() -> None:
    rendered = render(*chart.CERTIFICATE, namespace="gpu")
    certificate = rendered.one("Certificate", "keda-gpu-scaler")["spec"]
    host = "keda-gpu-scaler.gpu.svc.cluster.local"
    assert certificate["dnsNames"] == [host, "keda-gpu-scaler.gpu.svc", "keda-gpu-scaler.gpu"]
    assert {"server auth", "client auth"} <= set(certificate["usages"])
    for component, pod in rendered.pods().items():
        [secret] = [volume["secret"]["secretName"] for volume in pod["spec"]["volumes"] if volume["name"] == "tls"]
        assert secret == certificate["secretName"] == "keda-gpu-scaler-tls"  # noqa: S105 - a Secret's name
        [mount] = [mount for mount in container(pod)["volumeMounts"] if mount["name"] == "tls"]
        assert "subPath" not in mount  # or a renewed certificate would never arrive
        arguments = container(pod)["args"]
        named = f"--address={host}:6000" if component == "test" else f"--tls-peer-name={host}"
        assert named in arguments
        shown = "--tls-cert" if component == "test" else "--tls-client-ca"
        assert any(argument.startswith(shown) for argument in arguments)


def test_without_a_clients_ca_nobody_is_asked_for_a_certificate() -> None:
    for pod in render(*MORE["TLS by a Secret"]).pods().values():
        arguments = container(pod)["args"]
        assert not any(argument.startswith("--tls-client-ca") for argument in arguments)
        assert "--tls-ca=/etc/keda-gpu-scaler/tls/ca.crt" in arguments


@pytest.mark.parametrize(
    ("values", "arguments"),
    [
        pytest.param((), [], id="by default none is given, and the program has its own defaults"),
        pytest.param(
            sets("tls.kedaNames={keda,keda-operator}"),
            ["--tls-keda-names=keda,keda-operator,keda-gpu-scaler.keda.svc.cluster.local"],
            id="KEDA, and the instances, whose certificate the test of the chart shows",
        ),
        pytest.param(
            sets("tls.watchNames={keda-gpu-scaler.keda.svc.cluster.local,top}", "tls.explainNames={alice}"),
            ["--tls-watch-names=keda-gpu-scaler.keda.svc.cluster.local,top", "--tls-explain-names=alice"],
            id="operators with a certificate",
        ),
        pytest.param(
            sets("tls.clientCA=", "tls.kedaNames={keda}"), [], id="without a CA of clients there are no names"
        ),
    ],
)
def test_the_roles_of_certificates_arrive_at_every_instance(values: Sequence[str], arguments: list[str]) -> None:
    rendered = render(*chart.CERTIFICATE, *values)
    for component in ("agent", "frontend"):
        args = container(rendered.pods()[component])["args"]
        assert [one for one in args if one.startswith("--tls") and "-names=" in one] == arguments


@pytest.mark.parametrize("shape", SHAPES)
def test_people_have_a_port_at_the_instances_that_keda_calls_and_no_policy_opens_it(shape: str) -> None:
    assert "--explain-port" not in render(*SHAPES[shape]).text
    rendered = render(*SHAPES[shape], *chart.EXPLAIN)
    asked = "frontend" if shape == "front end" else "agent"
    with_port = {
        component
        for component, pod in rendered.pods().items()
        if any(port["name"] == "explain" for port in container(pod).get("ports", ()))
    }
    assert with_port == {asked}
    for policy in rendered.all("NetworkPolicy"):
        opened = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
        assert set(opened) <= {"grpc", "metrics"}
    assert all(port["targetPort"] == "grpc" for one in rendered.all("Service") for port in one["spec"]["ports"])


# ---- what is added to everything ----


def test_labels_annotations_and_extras_arrive_where_they_belong() -> None:
    rendered = render(*chart.EXTRAS)
    for one in rendered.objects:
        assert one["metadata"]["labels"]["team"] == "serving", one["metadata"]["name"]
        assert one["metadata"]["annotations"]["note"] == "a"
    agent = rendered.pods()["agent"]
    assert agent["metadata"]["labels"]["a"] == "b"
    assert agent["metadata"]["annotations"] == {"note": "a", "c": "d"}
    one = container(agent)
    assert one["args"][-1] == "--sample-interval=2"  # the last of two wins
    assert {"name": "A", "value": "b"} in one["env"]
    assert {"name": "v", "mountPath": "/v"} in one["volumeMounts"]
    for pod in rendered.pods().values():
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_the_secrets_of_a_parent_chart_are_added_to_those_of_the_chart() -> None:
    flags = sets("global.imagePullSecrets[0].name=parent", "imagePullSecrets[0].name=own")
    for pod in render(*flags).pods().values():
        assert pod["spec"]["imagePullSecrets"] == [{"name": "own"}, {"name": "parent"}]


@pytest.mark.parametrize(
    ("flags", "image"),
    [
        ((), f"{image_docker.IMAGE}:{keda_gpu_scaler.__version__}"),
        (sets("image.repository=registry.example.com:5000/it", "image.tag=v9"), "registry.example.com:5000/it:v9"),
        (sets("image.tag=v9", f"image.digest=sha256:{64 * 'a'}"), f"{image_docker.IMAGE}@sha256:{64 * 'a'}"),
    ],
    ids=["of this version", "a tag elsewhere", "a digest before a tag"],
)
def test_every_pod_runs_the_one_image(flags: Sequence[str], image: str) -> None:
    pods = render(*flags).pods()
    assert pods.keys() == {"agent", "frontend", "test"}
    assert {container(pod)["image"] for pod in pods.values()} == {image}


# ---- every shape, last: the tests above rendered them ----


def distinct(renderings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each object once, with the name of the first rendering that has it: most are the same in many shapes."""
    known: set[str] = set()
    for name, text in renderings.items():
        for document in re.split(r"^---\n", text, flags=re.MULTILINE):
            if document.strip() and document not in known:
                known.add(document)
                yield name, document


def misspelt(*fields: str) -> dict[str, str]:
    """Return renderings with one misspelt field each, by this field."""
    text = (chart.GOLDEN / "mutual-tls-and-monitoring.yaml").read_text()
    assert all(f"{field}:" in text for field in fields)
    return {field: text.replace(f"{field}:", f"{field}s:", 1) for field in fields}


@pytest.mark.parametrize("version", tools.KUBERNETES_VERSIONS)
def test_every_object_of_every_shape_is_one_that_kubernetes_takes_and_a_misspelt_field_is_found(
    version: str, tmp_path: Path
) -> None:
    shapes = {name: render(*flags).text for name, flags in MATRIX.items()}
    shapes |= {"manifests": chart.MANIFESTS.read_text(), "overridden": render(*chart.OVERRIDDEN).text}
    wrong = misspelt("hostPath", "honorLabels", "dnsNames", "podSelector", "maxUnavailable")
    for name, document in distinct(shapes | wrong):  # one start for all: it spends its time on reading the schemas
        with (tmp_path / f"{name}.yaml").open("a") as file:
            file.write(f"---\n{document}")
    problems = conform(tmp_path, version)
    assert [one for one in problems if Path(one.partition(": ")[0]).stem not in wrong] == []
    assert len(problems) == len(wrong)
    for field in wrong:
        assert any(f"/{field}.yaml: " in one and f"{field}s" in one for one in problems), field
