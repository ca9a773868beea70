# SPDX-License-Identifier: Apache-2.0
"""Tests of the ports and paths of a pod that are tried."""

from dataclasses import replace

import pytest

from keda_gpu_scaler.core.state.scrape import Endpoint
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.scrape.port_candidates import MAX_DECLARED_PORTS, pod_ports
from tests.scrape.scene import POD

VLLM = replace(POD, engine="vllm")
EVERY_PATH = ("/metrics", "/prometheus/metrics", "/v1/metrics", "/api/ps")
DEFAULT_PORTS = [engine.port for engine in ENGINES.values()]
OTHER_PORTS = [port for engine in ENGINES.values() for port in engine.other_ports]
USUAL_PORTS = tuple(dict.fromkeys([*DEFAULT_PORTS, *OTHER_PORTS]))


def named(endpoint: Endpoint) -> list[str]:
    """The named ports, with their paths, as text."""
    return [f"{it.scheme}:{it.port}{' '.join(it.paths)}" for it in pod_ports(endpoint) if it.is_named]


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        pytest.param(
            replace(VLLM, ports=(9000,), path="/m", scheme="https"), ["https:9000/m"], id="all parameters are set"
        ),
        pytest.param(
            replace(POD, engine="nim"),
            ["http:8000/v1/metrics /metrics"],
            id="the default port and the paths of an engine",
        ),
        pytest.param(
            replace(POD, engine="nim", ports=(9000,)),
            ["http:9000/v1/metrics /metrics"],
            id="a port, and the paths of an engine",
        ),
        pytest.param(
            replace(VLLM, declared_ports=(8080, 8000)),
            ["http:8000/metrics", "http:8080/metrics"],
            id="the default port before the declared ports",
        ),
        pytest.param(
            replace(POD, ports=(9000,)), [f"http:9000{' '.join(EVERY_PATH)}"], id="a port, and the path of each engine"
        ),
        pytest.param(replace(POD, ports=(9000,), path="/m"), ["http:9000/m"], id="a port and a path"),
        pytest.param(
            replace(VLLM, ports=(8001, 8000, 8001), declared_ports=(9090,)),
            ["http:8001/metrics", "http:8000/metrics"],
            id="only the ports of the trigger, each once and in its order",
        ),
        pytest.param(
            replace(VLLM, annotated_port=15020, annotated_path="/stats/prometheus", declared_ports=(8000,)),
            ["http:15020/stats/prometheus /metrics", "http:8000/metrics"],
            id="the annotated port with its path, and then the engine's",
        ),
        pytest.param(
            replace(VLLM, annotated_port=9100, annotated_scheme="https", declared_ports=(8000,)),
            ["https:9100/metrics", "http:8000/metrics"],
            id="the annotated scheme belongs to the annotated port",
        ),
        pytest.param(
            replace(VLLM, ports=(8000,), annotated_port=9100, annotated_path="/stats", annotated_scheme="https"),
            ["http:8000/metrics"],
            id="an annotation of another port than the trigger's",
        ),
        pytest.param(
            replace(VLLM, ports=(9100,), annotated_port=9100, annotated_path="/stats", annotated_scheme="https"),
            ["https:9100/stats /metrics"],
            id="an annotation of the trigger's port",
        ),
        pytest.param(
            replace(VLLM, annotated_path="/stats"), ["http:8000/stats /metrics"], id="an annotated path without a port"
        ),
        pytest.param(
            replace(VLLM, ports=(8000,), annotated_path="/stats"),
            ["http:8000/metrics"],
            id="a port of the trigger, and an annotated path without a port",
        ),
        pytest.param(
            replace(POD, ports=(8000,), path="/llama/"),
            [f"http:8000/llama/ {' '.join('/llama' + path for path in EVERY_PATH)}"],
            id="a base path, before the paths of the engines",
        ),
        pytest.param(
            replace(POD, declared_ports=(8000,)),
            ["http:8000/metrics /prometheus/metrics /v1/metrics"],
            id="a declared port has the paths of the engines with this port",
        ),
    ],
)
def test_the_named_ports_of_a_pod(endpoint: Endpoint, expected: list[str]) -> None:
    assert named(endpoint) == expected


def test_without_parameters_each_port_of_an_engine_is_tried_in_the_order_of_the_table() -> None:
    assert [it.port for it in pod_ports(POD)] == list(USUAL_PORTS)
    assert {(it.port, path) for it in pod_ports(POD) for path in it.paths} == {
        (port, path) for engine in ENGINES.values() for port in engine.ports for path in engine.paths
    }
    assert not any(it.is_named for it in pod_ports(POD))


@pytest.mark.parametrize(
    ("engine", "declared", "expected"),
    [
        pytest.param("tgi", (), [(3000, True), (80, False)], id="TGI, whose image listens on 80"),
        pytest.param("tgi", (80,), [(3000, True), (80, True)], id="TGI, with the port of its image declared"),
        pytest.param("tei", (), [(3000, True), (80, False), (9000, False)], id="TEI by HTTP and by gRPC"),
        pytest.param("dynamo", (), [(9090, True), (8081, False)], id="a worker of Dynamo without the operator"),
        pytest.param("vllm", (), [(8000, True)], id="an engine with one port"),
    ],
)
def test_the_ports_of_an_images_variants_are_tried_after_the_default_port(
    engine: str, declared: tuple[int, ...], expected: list[tuple[int, bool]]
) -> None:
    found = pod_ports(replace(POD, engine=engine, declared_ports=declared))
    assert [(it.port, it.is_named) for it in found] == expected


def test_declared_ports_come_first_and_their_number_is_limited() -> None:
    found = pod_ports(replace(POD, declared_ports=(9100, 30000, *range(7001, 7040))))
    assert [it.port for it in found[:3]] == [30000, 9100, 7001]
    assert sum(it.is_named for it in found) == MAX_DECLARED_PORTS
    assert set(USUAL_PORTS) <= {it.port for it in found}


@pytest.mark.parametrize("engine", [None, *ENGINES], ids=lambda engine: engine or "any")
def test_no_candidate_occurs_twice(engine: str | None) -> None:
    found = pod_ports(replace(POD, engine=engine or "auto", declared_ports=(8000, 8000, 8002, 8080), annotated_port=80))
    assert len({it.port for it in found}) == len(found)
    assert all(len(set(it.paths)) == len(it.paths) for it in found)
