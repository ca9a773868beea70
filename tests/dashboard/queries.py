# SPDX-License-Identifier: Apache-2.0
"""Analyses a PromQL query: the series and labels that it selects, and the labels of its result.

The parser is ``promql-parser``, the Python binding of GreptimeDB's parser. Law: an unsupported expression is an error,
and never passes.
"""

import functools
import importlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

SCRAPED = frozenset({"job", "instance", "node"})
"""Labels that the scrape adds. Prometheus adds the first two, and deploy/grafana/README.md requires the last one."""
MACROS = {"$__rate_interval": "5m", "$__range": "3h", "$__interval": "15s"}
_PASSING = {"rate", "increase", "irate", "abs", "ceil", "floor", "clamp_max", "clamp_min", "sgn", "round"}
_OF_COUNTERS = {"rate", "increase", "irate"}
_SELECTING = {"topk", "bottomk", "limitk"}


@functools.cache
def parser() -> Any:
    """Return the parser. Without it the test is skipped; on a CI server (environment variable CI) it fails."""
    try:
        return importlib.import_module("promql_parser")
    except ImportError:
        if os.environ.get("CI"):
            pytest.fail("promql-parser is required: the queries of the dashboard are not checked")
        pytest.skip("promql-parser is not installed: the queries of the dashboard are not checked")


@dataclass
class Selection:
    """What a query selects: the matched labels by series, and the series inside and outside of rate() and the like."""

    matched: dict[str, set[str]] = field(default_factory=dict)
    rated: set[str] = field(default_factory=set)
    not_rated: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)


class Query:
    """One parsed expression over series with the given labels."""

    def __init__(self, text: str, labels: Mapping[str, frozenset[str]]) -> None:
        for macro, replacement in MACROS.items():
            text = text.replace(macro, replacement)
        self._ast = parser()
        self._labels = labels
        self.selection = Selection()
        self.labels = self._walk(self._ast.parse(text), rated=False)

    def _walk(self, expression: Any, *, rated: bool) -> frozenset[str]:
        """Return the labels of the result of an expression, and record what the expression selects."""
        kind = type(expression).__name__
        if kind == "NumberLiteral":
            return frozenset()
        if kind == "ParenExpr":
            return self._walk(expression.expr, rated=rated)
        if kind == "MatrixSelector":
            return self._select(expression.vector_selector, rated=rated)
        if kind == "VectorSelector":
            return self._select(expression, rated=rated)
        if kind == "AggregateExpr":
            return self._aggregate(expression, rated=rated)
        if kind == "BinaryExpr":
            return self._combine(expression, rated=rated)
        _require(kind == "Call", f"{kind} is not supported")
        return self._call(expression)

    def _select(self, selector: Any, *, rated: bool) -> frozenset[str]:
        matched = self.selection.matched.setdefault(selector.name, set())
        matched |= {matcher.name for matcher in selector.matchers.matchers}
        (self.selection.rated if rated else self.selection.not_rated).add(selector.name)
        _require(selector.name in self._labels, f"no series has the name {selector.name}")
        return self._labels[selector.name] | SCRAPED

    def _aggregate(self, expression: Any, *, rated: bool) -> frozenset[str]:
        inner = self._walk(expression.expr, rated=rated)
        by = expression.modifier
        if by is None:
            return inner if str(expression.op) in _SELECTING else frozenset()
        _require(by.type == self._ast.AggModifierType.By, "without() keeps labels that the query does not name")
        _require(set(by.labels) <= inner, f"by {set(by.labels) - inner}: there is no such label")
        return frozenset(by.labels)

    def _combine(self, expression: Any, *, rated: bool) -> frozenset[str]:
        sides = [(side, self._walk(side, rated=rated)) for side in (expression.lhs, expression.rhs)]
        self.selection.operators.add(str(expression.op))
        modifier = expression.modifier
        _require(modifier is None or modifier.matching is None, "on() and ignoring() are not supported")
        vectors = [labels for side, labels in sides if not _is_number(side)]
        _require(len(set(vectors)) == 1, f"series with different labels never match: {vectors}")
        return vectors[0]

    def _call(self, expression: Any) -> frozenset[str]:
        name = expression.func.name
        self.selection.functions.add(name)
        arguments = list(expression.args)
        if name == "time":
            return frozenset()
        if name == "histogram_quantile":
            inner = self._walk(arguments[-1], rated=False)
            _require("le" in inner, "the label le is missing")
            return inner - {"le"}
        _require(name in _PASSING, f"{name}() is not supported")
        return self._walk(arguments[0], rated=name in _OF_COUNTERS)


def _is_number(side: Any) -> bool:
    kind = type(side).__name__
    return kind == "NumberLiteral" or (kind == "Call" and side.func.name == "time")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def variables(text: str) -> Iterator[str]:
    """Yield the names of the variables in a text, of the dashboard and of Grafana."""
    for part in text.split("$")[1:]:
        name = part.removeprefix("{")
        end = next((index for index, one in enumerate(name) if not (one.isalnum() or one == "_")), len(name))
        yield name[:end]
