# SPDX-License-Identifier: Apache-2.0
"""Tests of the Grafana dashboard against the metrics that a running instance exports."""

import functools
import itertools
import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keda_gpu_scaler.server.metric_family import PREFIX
from keda_gpu_scaler.server.metrics import FAMILIES, PERFORMANCE_GAUGES
from keda_gpu_scaler.wire.tls import ClientTls, Pem
from tests.apiserver import FakeApiServer
from tests.certificates import NAME, Authority
from tests.dashboard.queries import MACROS, Query, variables
from tests.free_ports import free_port
from tests.kubelet import FakeKubelet
from tests.limits import WAIT_SECONDS
from tests.serving import Serving, recorded

HOME = Path(__file__).resolve().parents[2]
DASHBOARD: dict[str, Any] = json.loads(
    (HOME / "deploy" / "helm" / "keda-gpu-scaler" / "dashboards" / "keda-gpu-scaler.json").read_text()
)
VARIABLES: dict[str, dict[str, Any]] = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
PANELS: list[dict[str, Any]] = [one for one in DASHBOARD["panels"] if one["type"] != "row"]
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
HISTOGRAM = ("_bucket", "_sum", "_count")
RECORDING = (
    "timestamp, index, uuid, name, utilization.gpu [%], memory.used [MiB], memory.total [MiB], temperature.gpu, "
    "power.draw [W]",
    "2026/01/01 00:00:00.000, 0, GPU-0, NVIDIA H100, 92 %, 72000 MiB, 80000 MiB, 60, 600 W",
    "2026/01/01 00:00:01.000, 0, GPU-0, NVIDIA H100, 92 %, 72000 MiB, 80000 MiB, 60, 600 W",
)


@dataclass(frozen=True)
class PanelQuery:
    """One query of a panel."""

    panel: Mapping[str, Any]
    target: Mapping[str, Any]

    @property
    def expression(self) -> str:
        text: str = self.target["expr"]
        return text


QUERIES = [PanelQuery(panel, target) for panel in PANELS for target in panel["targets"]]
each_query = pytest.mark.parametrize(
    "query", [pytest.param(one, id=f"{one.panel['title']}, {one.target['refId']}") for one in QUERIES]
)
each_panel = pytest.mark.parametrize("panel", [pytest.param(one, id=one["title"]) for one in PANELS])


def metrics_with_watches_and_holders(port: int, request: Callable[[], object]) -> str:
    """Send requests until the metrics have a watch, a held device and demand, and return the metrics.

    The first value may come without them, because the clients of the API server and of the kubelet start later.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        request()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_SECONDS) as response:
            text: str = response.read().decode()
        if all(f"{PREFIX}{family}{{" in text for family in ("api_watches", "gpu_pod_share_ratio", "workload_demand")):
            return text
    raise AssertionError("the metrics have no watch on the API server, no held device, or no demand")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, frozenset[str]]:
    """Return what a running instance exports after a request: the labels of each series, by its name."""
    port = free_port()
    backend = recorded(tmp_path_factory.mktemp("dashboard"), *RECORDING)
    flags = ("--backend", backend, "--node-name", "gpu-1", "--metrics-port", str(port))
    folder = tmp_path_factory.mktemp("cluster")
    with FakeApiServer() as cluster, FakeKubelet(folder / "kubelet.sock") as kubelet:
        metadata = {
            "report": "average",
            "scope": "fleet",
            # The instance's own metrics replace those of a router.
            "demandEndpoint": f"http://127.0.0.1:{port}/metrics",
            "demandMetric": "keda_gpu_scaler_gpu_device_count",
        }
        trigger = {"type": "external", "metricType": "Value", "metadata": metadata}
        spec = {"scaleTargetRef": {"name": "llama"}, "maxReplicaCount": 1, "triggers": [trigger]}
        cluster.put("scaledobjects", "llama", spec=spec)
        cluster.scale("llama", 1)
        cluster.pod("llama-0", "gpu-1")
        kubelet.hold({"llama-0": ["GPU-0"]})
        connection = (
            *("--peers", "none", "--kubeconfig", str(cluster.kubeconfig(folder / "config"))),
            *("--pod-resources", str(kubelet.path)),
        )
        authority = Authority(folder)
        pair = authority.issue("server")
        certificates = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
        tls = ClientTls(Pem("--tls-ca", authority.certificate), server_name=NAME)
        with Serving(*flags, *connection, *certificates, "--allow-endpoints", "127.0.0.0/8", tls=tls) as serving:
            request = functools.partial(serving.value_in_the_end, **metadata)
            text = metrics_with_watches_and_holders(port, request)
    found: dict[str, frozenset[str]] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            assert found.setdefault(one.name, frozenset(one.labels)) == frozenset(one.labels)
    # No pod of this cluster shows how long its start took, so the instance has no such series.
    (cold_start,) = [one for one in FAMILIES if one.name == "workload_cold_start_seconds"]
    found[PREFIX + cold_start.name] = frozenset(cold_start.labels)
    # The readings that are taken on interest come from a driver only.
    found |= {PREFIX + gauge.family.name: frozenset(gauge.family.labels) for gauge in PERFORMANCE_GAUGES}
    return found


def kinds() -> dict[str, str]:
    """Return the type of every series, counter or gauge."""
    found: dict[str, str] = {}
    for family in FAMILIES:
        if family.kind == "histogram":
            found |= {PREFIX + family.name + suffix: "counter" for suffix in HISTOGRAM}
        else:
            found[PREFIX + family.name] = family.kind
    return found


# ---- the queries ----


@each_query
def test_a_query_selects_exported_series_and_labels(query: PanelQuery, exported: dict[str, frozenset[str]]) -> None:
    matched = Query(query.expression, exported).selection.matched
    assert matched, "it selects nothing"
    for name, labels in matched.items():
        assert labels <= exported[name] | {"instance"}, name


@each_query
def test_a_legend_uses_labels_of_the_result(query: PanelQuery, exported: dict[str, frozenset[str]]) -> None:
    named = set(re.findall(r"\{\{(\w+)\}\}", query.target["legendFormat"]))
    assert named <= Query(query.expression, exported).labels


@each_query
def test_rate_is_used_for_counters_and_only_for_counters(
    query: PanelQuery, exported: dict[str, frozenset[str]]
) -> None:
    selection = Query(query.expression, exported).selection
    assert {kinds()[name] for name in selection.rated} <= {"counter"}
    assert {kinds()[name] for name in selection.not_rated} <= {"gauge"}


@each_query
def test_an_unknown_value_stays_unknown(query: PanelQuery, exported: dict[str, frozenset[str]]) -> None:
    selection = Query(query.expression, exported).selection
    assert not selection.operators & {"or", "unless"}
    assert not selection.functions & {"absent", "absent_over_time", "vector"}
    assert "fill" not in query.expression


@each_query
def test_a_workload_series_is_selected_by_namespace_and_name(
    query: PanelQuery, exported: dict[str, frozenset[str]]
) -> None:
    for name, labels in Query(query.expression, exported).selection.matched.items():
        if name.startswith(f"{PREFIX}workload_"):
            assert labels == {"namespace", "name"}


def test_every_family_is_in_a_query(exported: dict[str, frozenset[str]]) -> None:
    selected = {name for query in QUERIES for name in Query(query.expression, exported).selection.matched}
    for family in FAMILIES:
        names = {PREFIX + family.name, *(PREFIX + family.name + suffix for suffix in HISTOGRAM)}
        assert names & selected, f"no panel shows {family.name}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("keda_gpu_scaler_gpu_load", "no series has the name", id="an unknown series"),
        pytest.param("sum by (gpu) (keda_gpu_scaler_gpu_device_count)", "no such label", id="an unknown label"),
        pytest.param(
            "keda_gpu_scaler_workload_value / keda_gpu_scaler_gpu_device_count",
            "never match",
            id="two series that never match",
        ),
        pytest.param(
            "histogram_quantile(0.5, sum(rate(keda_gpu_scaler_collection_duration_seconds_bucket[5m])))",
            "the label le is missing",
            id="a quantile without buckets",
        ),
        pytest.param("sort(keda_gpu_scaler_peers_unavailable)", "not supported", id="an unsupported function"),
    ],
)
def test_a_wrong_query_is_an_error(text: str, message: str, exported: dict[str, frozenset[str]]) -> None:
    with pytest.raises(AssertionError, match=message):
        Query(text, exported)


@pytest.mark.parametrize("text", ["sum(", "rate(keda_gpu_scaler_collections_total)", "1 +"])
def test_an_unparsable_query_is_an_error(text: str, exported: dict[str, frozenset[str]]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Query(text, exported)


# ---- the panels ----


@each_panel
def test_a_description_says_what_the_panel_shows_and_what_to_do(panel: dict[str, Any]) -> None:
    content, separator, remedy = panel["description"].partition("What to do ")
    assert separator
    assert len(content.split()) >= 5
    assert len(remedy.split()) >= 8
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    colours = [step["color"] for step in steps]
    if "red" in colours and panel["type"] == "timeseries":
        assert panel["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"]["mode"] == "line"
        assert "red line" in panel["description"]


EXPLAIN = "`keda-gpu-scaler explain NAMESPACE/NAME"


def is_about_one_workload(panel: dict[str, Any]) -> bool:
    return any('name=~"$workload"' in target["expr"] for target in panel["targets"])


@each_panel
def test_the_advice_about_a_workload_names_the_command_that_explains_it(panel: dict[str, Any]) -> None:
    remedy = panel["description"].partition("What to do ")[2]
    assert not is_about_one_workload(panel) or EXPLAIN in panel["description"]
    assert "probe" not in remedy.lower().split()


def nested_items(item: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, at any depth."""
    if isinstance(item, dict):
        for key, value in item.items():
            yield key, value
            yield from nested_items(value)
    elif isinstance(item, list):
        for value in item:
            yield from nested_items(value)


@each_panel
def test_a_gap_is_drawn_as_a_gap(panel: dict[str, Any]) -> None:
    if panel["type"] in ("timeseries", "state-timeline"):
        assert panel["fieldConfig"]["defaults"]["custom"]["spanNulls"] is False
    for key, value in nested_items(panel):
        assert key != "nullValueMode"
        assert key != "noValue" or value == "unknown"
        assert (key, value) != ("type", "special"), "a mapping may replace null by another value"


@each_panel
def test_a_panel_uses_the_selected_datasource(panel: dict[str, Any]) -> None:
    assert panel["datasource"] == DATASOURCE
    assert all(target["datasource"] == DATASOURCE for target in panel["targets"])
    names = [target["refId"] for target in panel["targets"]]
    assert len(names) == len(set(names))


def test_every_variable_is_known_and_used() -> None:
    known = set(VARIABLES) | {macro.removeprefix("$") for macro in MACROS} | {"__all"}
    used = set(variables(json.dumps(DASHBOARD)))
    assert used - known == set()
    assert set(VARIABLES) <= used


def test_a_datasource_is_named_only_by_its_variable() -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert {value for key, value in nested_items(DASHBOARD) if key == "uid"} == {DATASOURCE["uid"]}


@pytest.mark.parametrize("name", ["namespace", "workload", "instance", "vendor"])
def test_a_variable_gets_its_values_from_exported_series(name: str, exported: dict[str, frozenset[str]]) -> None:
    values = re.fullmatch(r"label_values\((.+), (\w+)\)", VARIABLES[name]["query"]["query"])
    assert values is not None
    query = Query(values[1], exported)
    assert values[2] in query.labels


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert at["x"] + at["w"] <= COLUMNS
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
