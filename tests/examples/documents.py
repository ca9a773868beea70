# SPDX-License-Identifier: Apache-2.0
"""Reads the YAML documents of the examples."""

import copy
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HOME = Path(__file__).resolve().parents[2]
FOLDER = HOME / "deploy" / "examples"
OURS = ("external", "external-push")


class _Strict(yaml.SafeLoader):
    """As strict as kubectl: a key that stands there twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(problem=f"a key stands here twice: {keys}")
        return super().construct_mapping(node, deep)


@functools.cache
def _read(text: str) -> list[dict[str, Any]]:
    return list(yaml.load_all(text, _Strict))


def load(text: str) -> list[dict[str, Any]]:
    """Read every document. A text is parsed once, and each caller has documents of its own."""
    return copy.deepcopy(_read(text))


@dataclass(frozen=True)
class Example:
    """One file: its text, its documents, and the ScaledObject among them."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def text(self) -> str:
        return self.path.read_text()

    @property
    def documents(self) -> list[dict[str, Any]]:
        return load(self.text)

    @property
    def scaled(self) -> dict[str, Any]:
        (found,) = (one for one in self.documents if one["kind"] == "ScaledObject")
        return found

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.scaled["spec"]
        return spec

    @property
    def workload(self) -> str:
        name: str = self.scaled["metadata"]["name"]
        return name

    @property
    def triggers(self) -> list[dict[str, Any]]:
        """Those that ask this scaler."""
        return [trigger for trigger in self.spec["triggers"] if trigger["type"] in OURS]

    @property
    def others(self) -> list[dict[str, Any]]:
        """Those that ask somebody else."""
        return [trigger for trigger in self.spec["triggers"] if trigger["type"] not in OURS]


EXAMPLES = tuple(Example(path) for path in sorted(FOLDER.glob("*.yaml")))


def every_trigger() -> Iterator[tuple[Example, int, Mapping[str, Any]]]:
    """Every trigger that asks this scaler, with its place among them."""
    for example in EXAMPLES:
        for index, trigger in enumerate(example.triggers):
            yield example, index, trigger
