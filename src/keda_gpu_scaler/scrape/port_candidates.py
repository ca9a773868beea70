# SPDX-License-Identifier: Apache-2.0
"""Lists the ports and paths of a pod at which an engine may answer, the likely ones first.

Law: each port occurs once, and the number of ports and paths is bounded for any pod and trigger.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from keda_gpu_scaler.core.state.scrape import AUTO, Endpoint
from keda_gpu_scaler.core.trigger.engines import ENGINES, Engine

MAX_DECLARED_PORTS = 16
_MAX_PATH_LENGTH = 256


@dataclass(frozen=True, slots=True)
class PortCandidates:
    """One port of a pod, and the paths to try there in this order.

    ``is_configured`` says that the trigger names the port. ``is_named`` says that the trigger, an annotation or a
    container of the pod names it, or that it is the default port of the trigger's engine: each such port counts that
    has an engine. Other ports are tried one after another until one has an engine.
    """

    port: int
    paths: tuple[str, ...]
    scheme: str
    is_configured: bool
    is_named: bool


def pod_ports(endpoint: Endpoint) -> tuple[PortCandidates, ...]:
    """Return the ports of a pod in the order in which their engines count.

    The trigger comes first, then the annotation, then the declared ports, those before that are the default of an
    engine, and then the default ports of the engines and their other ports. Path and scheme of the annotations belong
    to their port only.
    """
    engines = list(ENGINES.values()) if endpoint.engine == AUTO else [ENGINES[endpoint.engine]]
    if endpoint.ports:
        return tuple(_candidates(endpoint, port, engines, is_named=True) for port in dict.fromkeys(endpoint.ports))
    defaults = [engine.port for engine in engines]
    usual = list(dict.fromkeys([*defaults, *(port for engine in engines for port in engine.other_ports)]))
    declared = endpoint.declared_ports[:MAX_DECLARED_PORTS]
    named = [endpoint.annotated_port] if endpoint.annotated_port is not None else []
    named += [port for port in usual if port in declared or defaults == [port]]
    named += declared
    found = [_candidates(endpoint, port, engines, is_named=True) for port in dict.fromkeys(named)]
    found += [_candidates(endpoint, port, engines, is_named=False) for port in usual if port not in named]
    return tuple(found)


def _candidates(endpoint: Endpoint, port: int, engines: list[Engine], *, is_named: bool) -> PortCandidates:
    is_annotated = port == endpoint.annotated_port
    return PortCandidates(
        port=port,
        paths=tuple(dict.fromkeys(_paths(endpoint, port, engines))),
        scheme=endpoint.scheme or (is_annotated and endpoint.annotated_scheme) or "http",
        is_configured=port in endpoint.ports,
        is_named=is_named,
    )


def _paths(endpoint: Endpoint, port: int, engines: list[Engine]) -> Iterator[str]:
    own = _own_paths(endpoint, port, engines)
    if endpoint.path is not None:
        yield endpoint.path
        if endpoint.path.endswith("/"):
            base = endpoint.path.rstrip("/")
            yield from (base + path for path in own if len(base + path) <= _MAX_PATH_LENGTH)
        return
    has_annotated_path = port == endpoint.annotated_port or (endpoint.annotated_port is None and not endpoint.ports)
    if has_annotated_path and endpoint.annotated_path is not None:
        yield endpoint.annotated_path
    yield from own


def _own_paths(endpoint: Endpoint, port: int, engines: Iterable[Engine]) -> list[str]:
    """Return the default paths of the engines: of each engine at a port that was named for metrics or scraping."""
    engines = list(engines)
    if port in endpoint.ports or port == endpoint.annotated_port:
        return [path for engine in engines for path in engine.paths]
    return [path for engine in engines if port in engine.ports for path in engine.paths] or [*engines[0].paths]
