# SPDX-License-Identifier: Apache-2.0
"""Does the Grafana dashboard show what a running instance exports, and only what is known?"""

import itertools
import json
import re
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keda_gpu_scaler.server.http import FAMILIES, PREFIX
from tests.apiserver import FakeApiServer
from tests.dashboard.queries import MACROS, Query, variables
from tests.serving import WAIT_SECONDS, Serving, free_port, recorded

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
class Shown:
    """One query of a panel."""

    panel: Mapping[str, Any]
    target: Mapping[str, Any]

    @property
    def expression(self) -> str:
        text: str = self.target["expr"]
        return text


QUERIES = [Shown(panel, target) for panel in PANELS for target in panel["targets"]]
each_query = pytest.mark.parametrize(
    "shown", [pytest.param(one, id=f"{one.panel['title']}, {one.target['refId']}") for one in QUERIES]
)
each_panel = pytest.mark.parametrize("panel", [pytest.param(one, id=one["title"]) for one in PANELS])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, frozenset[str]]:
    """What a running instance that was asked exports: the labels of each series, by its name."""
    port = free_port()
    backend = recorded(tmp_path_factory.mktemp("dashboard"), *RECORDING)
    flags = ("--backend", backend, "--node-name", "gpu-1", "--metrics-port", str(port))
    folder = tmp_path_factory.mktemp("cluster")
    with FakeApiServer() as cluster:
        cluster.scaled_object("llama")
        reached = ("--peers", "none", "--kubeconfig", str(cluster.kubeconfig(folder / "config")))
        with Serving(*flags, *reached, "--allow-endpoints", "127.0.0.0/8") as serving:
            # Its own metrics stand in for a router's.
            serving.value_in_the_end(
                scope="fleet",
                demandEndpoint=f"http://127.0.0.1:{port}/metrics",
                demandMetric="keda_gpu_scaler_gpu_device_count",
            )
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_SECONDS) as answer:
                text = answer.read().decode()
    found: dict[str, frozenset[str]] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            assert found.setdefault(one.name, frozenset(one.labels)) == frozenset(one.labels)
    return found


def kinds() -> dict[str, str]:
    """Whether a series counts, or is as it is."""
    found: dict[str, str] = {}
    for family in FAMILIES:
        if family.kind == "histogram":
            found |= {PREFIX + family.name + suffix: "counter" for suffix in HISTOGRAM}
        else:
            found[PREFIX + family.name] = family.kind
    return found


# ---- the queries ----


@each_query
def test_it_asks_for_what_a_running_instance_exports(shown: Shown, exported: dict[str, frozenset[str]]) -> None:
    query = Query(shown.expression, exported)
    assert query.asked.matched, "it asks for nothing"
    for name, labels in query.asked.matched.items():
        assert labels <= exported[name] | {"instance"}, name


@each_query
def test_its_legend_names_labels_that_the_answer_has(shown: Shown, exported: dict[str, frozenset[str]]) -> None:
    named = set(re.findall(r"\{\{(\w+)\}\}", shown.target["legendFormat"]))
    assert named <= Query(shown.expression, exported).labels


@each_query
def test_counters_are_rated_and_gauges_are_not(shown: Shown, exported: dict[str, frozenset[str]]) -> None:
    asked = Query(shown.expression, exported).asked
    assert {kinds()[name] for name in asked.rated} <= {"counter"}
    assert {kinds()[name] for name in asked.not_rated} <= {"gauge"}


@each_query
def test_unknown_stays_unknown(shown: Shown, exported: dict[str, frozenset[str]]) -> None:
    asked = Query(shown.expression, exported).asked
    assert not asked.operators & {"or", "unless"}
    assert not asked.functions & {"absent", "absent_over_time", "vector"}
    assert "fill" not in shown.expression


@each_query
def test_a_workload_is_chosen_by_namespace_and_name(shown: Shown, exported: dict[str, frozenset[str]]) -> None:
    for name, labels in Query(shown.expression, exported).asked.matched.items():
        if name.startswith(f"{PREFIX}workload_"):
            assert labels == {"namespace", "name"}


def test_every_family_is_shown(exported: dict[str, frozenset[str]]) -> None:
    asked = {name for shown in QUERIES for name in Query(shown.expression, exported).asked.matched}
    for family in FAMILIES:
        names = {PREFIX + family.name, *(PREFIX + family.name + suffix for suffix in HISTOGRAM)}
        assert names & asked, f"no panel shows {family.name}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("keda_gpu_scaler_gpu_load", "nothing is called", id="a series that is not there"),
        pytest.param(
            "sum by (gpu) (keda_gpu_scaler_gpu_device_count)", "no such label", id="a label that is not there"
        ),
        pytest.param(
            "keda_gpu_scaler_workload_value / keda_gpu_scaler_gpu_device_count", "never meet", id="two that never meet"
        ),
        pytest.param(
            "histogram_quantile(0.5, sum(rate(keda_gpu_scaler_collection_duration_seconds_bucket[5m])))",
            "the buckets are gone",
            id="a quantile without buckets",
        ),
        pytest.param("sort(keda_gpu_scaler_peers_unavailable)", "not understood", id="a function nobody thought of"),
    ],
)
def test_a_wrong_query_is_found_out(text: str, said: str, exported: dict[str, frozenset[str]]) -> None:
    with pytest.raises(AssertionError, match=said):
        Query(text, exported)


@pytest.mark.parametrize("text", ["sum(", "rate(keda_gpu_scaler_collections_total)", "1 +"])
def test_what_prometheus_would_not_parse_is_found_out(text: str, exported: dict[str, frozenset[str]]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Query(text, exported)


# ---- the panels ----


@each_panel
def test_it_says_what_it_shows_and_what_to_do(panel: dict[str, Any]) -> None:
    shows, found, remedy = panel["description"].partition("What to do ")
    assert found
    assert len(shows.split()) >= 5
    assert len(remedy.split()) >= 8
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    colours = [step["color"] for step in steps]
    if "red" in colours and panel["type"] == "timeseries":
        assert panel["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"]["mode"] == "line"
        assert "red line" in panel["description"]


def everything_in(item: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(item, dict):
        for key, value in item.items():
            yield key, value
            yield from everything_in(value)
    elif isinstance(item, list):
        for value in item:
            yield from everything_in(value)


@each_panel
def test_a_gap_is_drawn_as_a_gap(panel: dict[str, Any]) -> None:
    if panel["type"] in ("timeseries", "state-timeline"):
        assert panel["fieldConfig"]["defaults"]["custom"]["spanNulls"] is False
    for key, value in everything_in(panel):
        assert key != "nullValueMode"
        assert key != "noValue" or value == "unknown"
        assert (key, value) != ("type", "special"), "a mapping may turn null into something else"


@each_panel
def test_it_asks_the_datasource_that_was_chosen(panel: dict[str, Any]) -> None:
    assert panel["datasource"] == DATASOURCE
    assert all(target["datasource"] == DATASOURCE for target in panel["targets"])
    names = [target["refId"] for target in panel["targets"]]
    assert len(names) == len(set(names))


def test_every_variable_is_known_and_used() -> None:
    known = set(VARIABLES) | {macro.removeprefix("$") for macro in MACROS} | {"__all"}
    used = set(variables(json.dumps(DASHBOARD)))
    assert used - known == set()
    assert set(VARIABLES) <= used


def test_no_datasource_is_named_but_by_its_variable() -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert {value for key, value in everything_in(DASHBOARD) if key == "uid"} == {DATASOURCE["uid"]}


@pytest.mark.parametrize("name", ["namespace", "workload", "instance"])
def test_a_variable_takes_its_values_from_what_is_exported(name: str, exported: dict[str, frozenset[str]]) -> None:
    values = re.fullmatch(r"label_values\((.+), (\w+)\)", VARIABLES[name]["query"]["query"])
    assert values is not None
    query = Query(values[1], exported)
    assert values[2] in query.labels


def test_panels_lie_beside_one_another_and_not_upon() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert at["x"] + at["w"] <= COLUMNS
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
