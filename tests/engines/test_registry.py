# SPDX-License-Identifier: Apache-2.0
"""Tests that one new file in ``engines`` makes an engine known everywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.engines import JSON_READERS, METRIC_MAPS
from keda_gpu_scaler.engines.scrape_parser import UnknownPageError, parse_page

HOME = Path(__file__).resolve().parents[2]

DUMMY = """
from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine, LoadRung
from keda_gpu_scaler.engines.metric_map import MetricMap, source

ENGINE = Engine(
    "dummy",
    "Dummy Engine",
    4321,
    detection_order=15,
    path="/dummy/metrics",
    remark="start it with `--dummy`",
    reports_kv_cache=False,
    preallocating_containers=ContainerNames(
        "Dummy", image_words=("dummyword",), image_parts=("dummy/part",), commands=("dummyd",)
    ),
    load_rung=LoadRung.SERVICE_TIME,
)
METRIC_MAP = MetricMap(identifying_series=("dummy_waiting",), waiting=(source("dummy_waiting"),))
"""

JSON_DUMMY = """
from keda_gpu_scaler.core.trigger.engines import Engine
from keda_gpu_scaler.engines.exposition import SeriesSample

ENGINE = Engine("jsondummy", "JSON Dummy", 4322, detection_order=95, path="/load", reports_queue=False)

def read_json(page):
    return (SeriesSample("jsondummy_load", {}, page["load"]),) if "load" in page else None

def write_json(samples):
    return {"load": samples[0].value}
"""

# The folder joins the package's path before the package is executed, as if the file lay in it.
LOAD = """
import importlib.util, json, sys
sys.path.insert(0, {home!r})
spec = importlib.util.find_spec("keda_gpu_scaler.engines")
spec.submodule_search_locations.append({folder!r})
package = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
"""

OBSERVE = """
from keda_gpu_scaler.cli.validate.engine_images import engine_of
from keda_gpu_scaler.core.evaluate.engine_load import engine_load
from keda_gpu_scaler.core.selectors import parse_series
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.trigger.parser import PARAMETERS, TriggerError, parse_trigger
from keda_gpu_scaler.core.types import PodRef
from keda_gpu_scaler.engines.scrape_parser import parse_page
from keda_gpu_scaler.scrape.port_candidates import pod_ports
from scripts.reference import pages

def container(**fields):
    return engine_of({"spec": {"containers": [fields]}})

def choices():
    try:
        parse_trigger({"profile": "llm", "engine": "?"})
    except TriggerError as error:
        return error.problems[0]

page = parse_page(b"dummy_waiting 3\\n", "text/plain", at_seconds=1.0)
trigger = parse_trigger({"metricType": "saturation", "engine": "dummy"})
history = ScrapeResult((TargetHistory("10.0.0.1:4321", (page,)),))
load = engine_load(trigger.engine, trigger.metric, history, window_seconds=10.0, stale_after_seconds=10.0, now=1.0)
loaded = parse_page(
    b'{"load": 7}', "application/json", at_seconds=1.0, selectors=[parse_series("jsondummy_load")]
)
pod = Endpoint(PodRef("ai", "llama-0"), "10.0.0.1", engine="dummy")
print(json.dumps({
    "order": list(ENGINES),
    "choices": choices(),
    "engine of a trigger": trigger.engine.engine,
    "meaning": next(one.description for one in PARAMETERS if one.key == "engine"),
    "reference": [line for line in pages()["trigger.md"].splitlines() if line.startswith("| `dummy`")],
    "engine of a page": [page.engine, page.waiting],
    "engine of a JSON page": [loaded.engine, loaded.selected["jsondummy_load"].value],
    "saturation without a KV cache": load.value,
    "targets": [f"{one.port}{path}" for one in pod_ports(pod) for path in one.paths],
    "image word": container(image="registry.example.com/dummyword:1"),
    "image part": container(image="registry.example.com/dummy/part:1"),
    "command": container(image="mine", command=["/bin/dummyd"]),
}))
"""


def run(folder: Path, script: str = "") -> subprocess.CompletedProcess[str]:
    """Import the package with a folder of further engines in a process of its own."""
    program = LOAD.format(home=str(HOME), folder=str(folder)) + script
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_a_new_file_makes_its_engine_known_everywhere(tmp_path: Path) -> None:
    (tmp_path / "dummy.py").write_text(DUMMY)
    (tmp_path / "jsondummy.py").write_text(JSON_DUMMY)
    outcome = run(tmp_path, OBSERVE)
    assert outcome.returncode == 0, outcome.stderr
    known = ["vllm", "dummy", *list(ENGINES)[1:], "jsondummy"]
    assert json.loads(outcome.stdout) == {
        "order": known,
        "choices": f'metadata.engine: Unsupported value: "?": supported values: auto, {", ".join(known)}',
        "engine of a trigger": "dummy",
        "meaning": "the engine that runs in the pods: "
        + ", ".join(f"`{name}`" for name in known)
        + ". `auto` recognises it by its page",
        "reference": [
            "| `dummy` | Dummy Engine | 4321 | `/dummy/metrics` | time of computation | start it with `--dummy` |"
        ],
        "engine of a page": ["dummy", 3.0],
        "engine of a JSON page": ["jsondummy", 7],
        "saturation without a KV cache": 60.0,
        "targets": ["4321/dummy/metrics"],
        "image word": "Dummy",
        "image part": "Dummy",
        "command": "Dummy",
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("", "keda_gpu_scaler.engines.broken: ENGINE is missing", id="a file without an engine"),
        pytest.param(
            DUMMY.replace("METRIC_MAP =", "OTHER ="),
            "keda_gpu_scaler.engines.broken: define METRIC_MAP or read_json",
            id="an engine without a way to read its page",
        ),
        pytest.param(
            DUMMY.replace("detection_order=15", "detection_order=20"),
            "detection_order 20 belongs to ",
            id="an engine with the detection order of another",
        ),
        pytest.param(DUMMY.replace('"dummy"', '"vllm"'), "engine vllm: it is registered twice", id="a name twice"),
    ],
)
def test_a_file_that_cannot_be_registered_is_an_error_that_says_why(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "broken.py").write_text(source)
    outcome = run(tmp_path)
    assert outcome.returncode != 0
    assert message in outcome.stderr


def test_every_registered_engine_is_read_in_one_way() -> None:
    assert not METRIC_MAPS.keys() & JSON_READERS.keys()
    assert METRIC_MAPS.keys() | JSON_READERS.keys() == set(ENGINES)


def test_an_unknown_json_page_is_refused_with_the_names_of_the_known_ones() -> None:
    with pytest.raises(UnknownPageError) as error:
        parse_page(b"[]", "application/json", at_seconds=0.0)
    for engine in JSON_READERS:
        assert ENGINES[engine].path in str(error.value)
