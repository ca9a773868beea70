# SPDX-License-Identifier: Apache-2.0
"""Finds the workloads in manifests whose engine takes its memory when it starts and keeps it.

Law: an engine is recognised by what a container runs, its image or its command, and never by a workload's name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keda_gpu_scaler.core.trigger.engines import ENGINES, ContainerNames

_WORD_SEPARATORS = re.compile(r"[^a-z0-9]+")
_PROBES = ("readinessProbe", "startupProbe")
# These run in front of engines and use no GPU: vllm-router, sglang-router.
_FRONT_WORDS = frozenset({"router", "gateway"})


@dataclass(frozen=True, slots=True)
class ManifestWorkload:
    """A workload, and the engine that it runs; ``namespace`` is empty where the manifest has none.

    ``is_probed`` says that a container with the engine has a readiness probe, or a startup probe: before a startup
    probe succeeds, the kubelet reports the container as not ready. ``products`` are the engines of all its containers,
    ``ports`` the ports that they declare.
    """

    kind: str
    namespace: str
    name: str
    engine: str
    is_probed: bool = True
    products: frozenset[str] = frozenset()
    ports: frozenset[int] = frozenset()

    def matches(self, kind: str, namespace: str, name: str) -> bool:
        """Whether a scale target's reference may select this workload; an empty namespace matches every namespace."""
        return (kind, name) == (self.kind, self.name) and (not namespace or self.namespace in ("", namespace))


def serving(values: Iterable[Any]) -> Iterator[ManifestWorkload]:
    """Yield the workloads with such an engine among the objects of manifests, also those within a List."""
    for value in values:
        items = value.get("items") if isinstance(value, Mapping) else None
        for one in items if isinstance(items, list) else [value]:
            metadata = one.get("metadata") if isinstance(one, Mapping) else None
            if isinstance(metadata, Mapping) and (engine := engine_of(one)):
                kind, name, namespace = one.get("kind"), metadata.get("name"), metadata.get("namespace") or ""
                yield ManifestWorkload(
                    str(kind), str(namespace), str(name), engine, _is_probed(one), _products(one), _ports(one)
                )


def engine_of(value: Any) -> str | None:
    """Return the product name of the engine that a container within an object runs; None where no engine is known."""
    return next((engine for one in _containers(value) if (engine := _engine_of_container(one))), None)


def _products(value: Any) -> frozenset[str]:
    return frozenset(engine for one in _containers(value) if (engine := _engine_of_container(one)))


def _ports(value: Any) -> frozenset[int]:
    """Return the ports that any container declares."""
    declared = (one.get("ports") for one in _containers(value))
    ports = (port for one in declared if isinstance(one, list) for port in one if isinstance(port, Mapping))
    numbers = (port.get("containerPort") for port in ports)
    return frozenset(number for number in numbers if isinstance(number, int))


def _is_probed(value: Any) -> bool:
    """Whether any container with an engine has a probe. In a group of pods, only the leader may have one."""
    engines = (one for one in _containers(value) if _engine_of_container(one))
    return any(one.get(probe) for one in engines for probe in _PROBES)


def _containers(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every container in an object. Kinds keep their pods in different places, but all use this key."""
    # A YAML alias may refer to one object a million times, or to an object around it: each object is visited once.
    waiting, visited = [value], {id(value)}
    while waiting:
        one = waiting.pop()
        inner = one.values() if isinstance(one, Mapping) else one if isinstance(one, list) else ()
        containers = one.get("containers") if isinstance(one, Mapping) else None
        if isinstance(containers, list):
            yield from (container for container in containers if isinstance(container, Mapping))
        for each in inner:
            if id(each) not in visited:
                visited.add(id(each))
                waiting.append(each)


def _known_names() -> Iterator[ContainerNames]:
    """Yield the container names of every engine that keeps its memory."""
    return (engine.preallocating_containers for engine in ENGINES.values() if engine.preallocating_containers)


def _engine_of_container(container: Mapping[str, Any]) -> str | None:
    image = str(container.get("image", "")).lower()
    # The registry's host name says nothing about the image.
    words = set(_WORD_SEPARATORS.split(image.partition("/")[2] or image))
    if words & _FRONT_WORDS:
        return None
    for names in _known_names():
        if not words.isdisjoint(names.image_words):
            return names.product
    for names in _known_names():
        if any(part in image for part in names.image_parts):
            return names.product
    return _engine_of_command(container)


def _engine_of_command(container: Mapping[str, Any]) -> str | None:
    for key in ("command", "args"):
        words = container.get(key)
        # A shell's script is one argument with several words: sh -c "exec vllm serve …".
        for word in " ".join(map(str, words)).split() if isinstance(words, list) else ():
            # The last part of a path; the first part of a Python module (vllm.entrypoints.openai.api_server).
            program = word.rpartition("/")[2].partition(".")[0]
            for names in _known_names():
                if program in names.commands:
                    return names.product
    return None
