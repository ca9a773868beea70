# SPDX-License-Identifier: Apache-2.0
"""Reads YAML documents, with the line and column of every key.

Law: every text ends in documents and findings, never in a traceback.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from keda_gpu_scaler.cli.validate.findings import Severity, ValidationFinding
from keda_gpu_scaler.kube.yaml_loader import PlainLoader

YamlPath = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""


@dataclass(frozen=True, slots=True)
class Document:
    """A value, and the YAML node that has its position."""

    value: Any
    node: yaml.Node

    def position(self, path: YamlPath) -> tuple[int, int]:
        """Return the line and column of a key or item; where it does not exist, those of its nearest parent."""
        node, mark = self.node, self.node.start_mark
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            mark, node = found
        return mark.line + 1, mark.column + 1


def read_documents(text: str) -> tuple[list[Document], list[ValidationFinding]]:
    """Return the documents before the first syntax error, and a finding about that error.

    Raises:
        RecursionError: the text is nested too deeply.
    """
    documents = []
    try:
        for document in _documents(text):
            documents.append(document)  # noqa: PERF402 - the documents before an error are kept
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        message = f"not readable as YAML: {reason}; render templates first"
        return documents, [ValidationFinding(line, column, Severity.ERROR, "", message)]
    return documents, []


def _documents(text: str) -> Iterator[Document]:
    loader = PlainLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield Document(loader.construct_document(node), node)
    finally:
        loader.dispose()


def _child(node: yaml.Node, step: str | int) -> tuple[yaml.Mark, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark, value) for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark, node.value[step]
    return None


def mapping(value: Any) -> Mapping[Any, Any]:
    """Return a mapping, empty where the value is none."""
    return value if isinstance(value, dict) else {}


def value_at(value: Any, path: YamlPath) -> Any:
    """Return the value at a path that exists."""
    for step in path:
        value = value[step]
    return value


def integer(spec: Mapping[str, Any], key: str, default: int) -> int:
    """Return an integer field, or the default where the field is not an integer."""
    value = spec.get(key, default)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def json_value(value: Any) -> Any:
    """Return a value that JSON has; a date or a set of YAML becomes its text."""
    return value if value is None or isinstance(value, str | int | float | bool | list | dict) else str(value)


def as_text(value: Any) -> str:
    """Return a value as the string that KEDA would read, if it were quoted."""
    return value if isinstance(value, str) else str(json_value(value)).lower()
