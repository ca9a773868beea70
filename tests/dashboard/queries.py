# SPDX-License-Identifier: Apache-2.0
"""What does a PromQL query ask for, and which labels do its answers carry?

Parsed by ``promql-parser``, the Python binding of GreptimeDB's parser. The law of this module: an expression of a kind
that is not understood here is a failure, and never a pass.
"""

import functools
import importlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

SCRAPED = frozenset({"job", "instance", "node"})
"""Labels that whoever scrapes adds: the first two always, the last as deploy/grafana/README.md asks for."""
MACROS = {"$__rate_interval": "5m", "$__range": "3h", "$__interval": "15s"}
_PASSING = {"rate", "increase", "irate", "abs", "ceil", "floor", "clamp_max", "clamp_min", "sgn", "round"}
_OF_COUNTERS = {"rate", "increase", "irate"}
_CHOOSING = {"topk", "bottomk", "limitk"}


@functools.cache
def parser() -> Any:
    """Return the parser; without it the test is skipped, or fails on a CI server (environment variable CI)."""
    try:
        return importlib.import_module("promql_parser")
    except ImportError:
        if os.environ.get("CI"):
            pytest.fail("promql-parser is needed here: the dashboard's queries are not checked")
        pytest.skip("promql-parser is not installed: the dashboard's queries are not checked")


@dataclass
class Asked:
    """What a query asks for: labels by the series' name, and the names that stand within rate() and its like."""

    matched: dict[str, set[str]] = field(default_factory=dict)
    rated: set[str] = field(default_factory=set)
    not_rated: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)


class Query:
    """One parsed expression, over series that carry these labels."""

    def __init__(self, text: str, labels: Mapping[str, frozenset[str]]) -> None:
        for macro, stands_for in MACROS.items():
            text = text.replace(macro, stands_for)
        self._ast = parser()
        self._labels = labels
        self.asked = Asked()
        self.labels = self._walk(self._ast.parse(text), rated=False)

    def _walk(self, expression: Any, *, rated: bool) -> frozenset[str]:
        """Return the labels of what an expression gives, and note what it asks for on the way."""
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
        assert kind == "Call", f"{kind} is not understood"
        return self._call(expression)

    def _select(self, selector: Any, *, rated: bool) -> frozenset[str]:
        matched = self.asked.matched.setdefault(selector.name, set())
        matched |= {matcher.name for matcher in selector.matchers.matchers}
        (self.asked.rated if rated else self.asked.not_rated).add(selector.name)
        assert selector.name in self._labels, f"nothing is called {selector.name}"
        return self._labels[selector.name] | SCRAPED

    def _aggregate(self, expression: Any, *, rated: bool) -> frozenset[str]:
        inner = self._walk(expression.expr, rated=rated)
        by = expression.modifier
        if by is None:
            return inner if str(expression.op) in _CHOOSING else frozenset()
        assert by.type == self._ast.AggModifierType.By, "without keeps labels that nobody named"
        assert set(by.labels) <= inner, f"by {set(by.labels) - inner}: there is no such label"
        return frozenset(by.labels)

    def _combine(self, expression: Any, *, rated: bool) -> frozenset[str]:
        sides = [(side, self._walk(side, rated=rated)) for side in (expression.lhs, expression.rhs)]
        self.asked.operators.add(str(expression.op))
        assert expression.modifier is None or expression.modifier.matching is None, "on() and ignoring()"
        vectors = [labels for side, labels in sides if type(side).__name__ != "NumberLiteral"]
        assert len(set(vectors)) == 1, f"series of different labels never meet: {vectors}"
        return vectors[0]

    def _call(self, expression: Any) -> frozenset[str]:
        name = expression.func.name
        self.asked.functions.add(name)
        arguments = list(expression.args)
        if name == "histogram_quantile":
            inner = self._walk(arguments[-1], rated=False)
            assert "le" in inner, "the buckets are gone"
            return inner - {"le"}
        assert name in _PASSING, f"{name}() is not understood"
        return self._walk(arguments[0], rated=name in _OF_COUNTERS)


def variables(text: str) -> Iterator[str]:
    """Return the names of the dashboard's variables, and of Grafana's own, that stand in a text."""
    for part in text.split("$")[1:]:
        name = part.removeprefix("{")
        end = next((index for index, one in enumerate(name) if not (one.isalnum() or one == "_")), len(name))
        yield name[:end]
