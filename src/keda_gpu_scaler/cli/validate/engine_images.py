# SPDX-License-Identifier: Apache-2.0
"""Which workloads in these manifests serve with an engine that takes its memory when it starts and keeps it?

The law of this module: an engine is known by what is started, its image or its command, and never by a workload's name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_NOT_WORDS = re.compile(r"[^a-z0-9]+")
# By a word of the image's name or tag: vllm/vllm-openai, lmsysorg/sglang, tritonserver:25.08-trtllm-python-py3.
_BY_WORD = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM", "lmdeploy": "LMDeploy"}
_BY_PART = {
    "text-generation-inference": "TGI",
    "tensorrt-llm": "TensorRT-LLM",
    "tensorrtllm": "TensorRT-LLM",
    "nvcr.io/nim/": "NIM",
}
_BY_COMMAND = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "text-generation-launcher": "TGI",
    "trtllm-serve": "TensorRT-LLM",
    "lmdeploy": "LMDeploy",
}
# These stand before engines, and hold no GPU: vllm-router, sglang-router.
_IN_FRONT = frozenset({"router", "gateway"})


@dataclass(frozen=True, slots=True)
class ManifestWorkload:
    """A workload, and the engine that it starts; ``namespace`` is empty where its manifest leaves it out."""

    kind: str
    namespace: str
    name: str
    engine: str

    def is_meant(self, kind: str, namespace: str, name: str) -> bool:
        """Whether a scale target's reference may mean it: a namespace that is left out is any."""
        return (kind, name) == (self.kind, self.name) and (not namespace or self.namespace in ("", namespace))


def serving(values: Iterable[Any]) -> Iterator[ManifestWorkload]:
    """Find the workloads among the objects of manifests, also within a List."""
    for value in values:
        items = value.get("items") if isinstance(value, Mapping) else None
        for one in items if isinstance(items, list) else [value]:
            metadata = one.get("metadata") if isinstance(one, Mapping) else None
            if isinstance(metadata, Mapping) and (engine := engine_of(one)):
                namespace = metadata.get("namespace") or ""
                yield ManifestWorkload(str(one.get("kind")), str(namespace), str(metadata.get("name")), engine)


def engine_of(value: Any) -> str | None:
    """Tell which engine the containers start that stand anywhere in an object; None where none is known."""
    return next((engine for one in _containers(value) if (engine := _started(one))), None)


def _containers(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every kind keeps its pods elsewhere, and calls their containers alike."""
    # An alias may stand for the same thing a million times, or for what it stands in: nothing is looked at twice.
    waiting, seen = [value], {id(value)}
    while waiting:
        one = waiting.pop()
        inner = one.values() if isinstance(one, Mapping) else one if isinstance(one, list) else ()
        containers = one.get("containers") if isinstance(one, Mapping) else None
        if isinstance(containers, list):
            yield from (container for container in containers if isinstance(container, Mapping))
        for each in inner:
            if id(each) not in seen:
                seen.add(id(each))
                waiting.append(each)


def _started(container: Mapping[str, Any]) -> str | None:
    image = str(container.get("image", "")).lower()
    # A registry may be called as it likes.
    words = set(_NOT_WORDS.split(image.partition("/")[2] or image))
    if words & _IN_FRONT:
        return None
    by_word = next((engine for word, engine in _BY_WORD.items() if word in words), None)
    by_part = next((engine for part, engine in _BY_PART.items() if part in image), None)
    return by_word or by_part or _by_command(container)


def _by_command(container: Mapping[str, Any]) -> str | None:
    for key in ("command", "args"):
        words = container.get(key)
        # A shell's script is one word of several: sh -c "exec vllm serve …".
        for word in " ".join(map(str, words)).split() if isinstance(words, list) else ():
            # A path's last part; of a Python module's name (vllm.entrypoints.openai.api_server) the first.
            engine = _BY_COMMAND.get(word.rpartition("/")[2].partition(".")[0])
            if engine:
                return engine
    return None
