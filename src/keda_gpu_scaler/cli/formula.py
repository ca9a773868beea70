# SPDX-License-Identifier: Apache-2.0
"""Computes the formula of KEDA's scalingModifiers.

Law: a result is the one that KEDA gets. What this module does not compute is an error that says so, never a guess.

KEDA evaluates the formula with github.com/expr-lang/expr (1.17 in KEDA 2.20), casts the result to a float, and keeps
three decimals without rounding (KEDA: apis/keda/v1alpha1/scaledobject_webhook.go, pkg/scaling/modifiers/formula.go).
The grammar has the parts of that language that work on numbers, with its precedence of operators. Texts, maps, pipes,
variables (``let``) and ranges are not computed.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lark
from lark.visitors import Interpreter

from keda_gpu_scaler.core.quoting import quoted

MAX_FORMULA_LENGTH = 4096
_LARGEST_POWER = 1e6

_GRAMMAR = r"""
?start: expression
?expression: either
    | either "?" expression ":" expression                       -> conditional
    | "if" expression "{" expression "}" "else" "{" expression "}" -> conditional
?either: both | either ("||" | "or") both                        -> disjunction
?both: comparison | both ("&&" | "and") comparison               -> conjunction
?comparison: sum | comparison COMPARE sum                        -> compare
    | comparison "in" sum                                        -> contained
?sum: inverted | sum ADD inverted                                -> arithmetic
?inverted: product | ("!" | "not") inverted                      -> negation
?product: signed | product MULTIPLY signed                       -> arithmetic
?signed: power | "-" signed                                      -> minus
    | "+" signed                                                 -> plus
?power: fallback | fallback ("**" | "^") signed                  -> power
?fallback: primary | fallback "??" primary                       -> coalesce
?primary: NUMBER                                                 -> number
    | "true"                                                     -> true
    | "false"                                                    -> false
    | "nil"                                                      -> nil
    | "#"                                                        -> element
    | NAME                                                       -> variable
    | NAME "(" [argument ("," argument)*] ")"                    -> call
    | "[" [expression ("," expression)*] "]"                     -> array
    | "(" expression ")"
?argument: expression | "{" expression "}"

COMPARE: "==" | "!=" | "<=" | ">=" | "<" | ">"
ADD: "+" | "-"
MULTIPLY: "*" | "/" | "%"
NUMBER: /0[xX]_*[0-9a-fA-F][0-9a-fA-F_]*|(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?/
NAME: /(?!(?:or|and|not|in|if|else|true|false|nil|let)\b)[A-Za-z_$][A-Za-z0-9_$]*/
COMMENT: /\/\/[^\n]*/ | /\/\*(.|\n)*?\*\//
%ignore /\s+/
%ignore COMMENT
"""

_NUMBERS: Mapping[str, Callable[[float], float]] = {
    "abs": abs,
    "ceil": lambda value: float(math.ceil(value)) if math.isfinite(value) else value,
    "floor": lambda value: float(math.floor(value)) if math.isfinite(value) else value,
    "round": lambda value: _rounded(value) if math.isfinite(value) else value,
    "int": lambda value: float(math.trunc(_finite(value))),
    "float": float,
}
_LISTS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "max": max,
    "min": min,
    "sum": sum,
    "mean": lambda values: sum(values) / len(values) if values else 0.0,
    "median": lambda values: _median(values) if values else 0.0,
}
_LARGEST = 9e15
"""KEDA keeps a result as thousandths in an integer of 64 bits (resource.NewMilliQuantity)."""
_PREDICATES = ("all", "any", "count", "filter", "map", "none", "one", "sum")


class FormulaError(Exception):
    """A formula that has no result, or that is not computed here. The text is a sentence."""


def formula_result(text: str, values: Mapping[str, float]) -> float | None:
    """Return the result of a formula, with the three decimals that KEDA keeps; None where it is nil.

    Args:
        text: the formula.
        values: the value of each trigger by its name.

    Raises:
        FormulaError: it has no result that is a finite number, or it is not computed here.
    """
    try:
        result = _Evaluation(values).visit(_tree(text))
    except lark.exceptions.VisitError as error:  # pragma: no cover - an Interpreter raises errors as they are
        raise FormulaError(str(error)) from error
    except RecursionError as error:
        raise FormulaError("the formula is nested too deeply") from error
    except OverflowError as error:
        raise FormulaError("the result is too large") from error
    if result is None:
        return None
    number = _number(result)
    if not math.isfinite(number):
        raise FormulaError(f"the result is {number:g}, and the HPA needs a finite number")
    if abs(number) > _LARGEST:
        raise FormulaError(f"the result is {number:g}, and KEDA keeps at most {_LARGEST:g} of it")
    return math.trunc(number * 1000) / 1000


def formula_names(text: str) -> frozenset[str]:
    """Return the names of the triggers that a formula takes.

    Raises:
        FormulaError: it is not computed here.
    """
    return frozenset(str(one.children[0]) for one in _tree(text).find_data("variable"))


def _tree(text: str) -> lark.Tree[Any]:
    if len(text) > MAX_FORMULA_LENGTH:
        raise FormulaError(f"the formula has more than {MAX_FORMULA_LENGTH} characters")
    try:
        tree = _parser().parse(text)
    except lark.exceptions.UnexpectedInput as error:
        is_end = isinstance(error, lark.exceptions.UnexpectedToken) and error.token.type == "$END"
        at = "at its end" if is_end else f"at character {error.column}"
        raise FormulaError(f"{quoted(text, 200)} is not computed here: not understood {at}") from error
    except RecursionError as error:
        raise FormulaError("the formula is nested too deeply") from error
    return tree if isinstance(tree, lark.Tree) else lark.Tree("variable", [tree])


@functools.cache
def _parser() -> lark.Lark:
    return lark.Lark(_GRAMMAR, parser="lalr", maybe_placeholders=False)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormulaError(f"{_described(value)} is not a number")
    return float(value)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise FormulaError(f"{_described(value)} is neither true nor false")
    return value


def _described(value: object) -> str:
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return str(value).lower()
    return "a list" if isinstance(value, list) else f"{value:g}"


def _rounded(value: float) -> float:
    """Round half away from zero, as Go does."""
    return math.copysign(math.floor(abs(value) + 0.5), value)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise FormulaError(f"int takes {value:g}, which is not a finite number, and is not computed here")
    return value


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _quotient(dividend: float, divisor: float) -> float:
    """Divide as Go's floating point does."""
    if divisor:
        return dividend / divisor
    return math.nan if not dividend or math.isnan(dividend) else math.copysign(math.inf, dividend)


class _Evaluation(Interpreter[Any, Any]):
    """Evaluates a tree from its root, so that only the branch that is taken is evaluated.

    A number is a float, also where expr has an integer: up to 2**53 the two agree, and the result is cast to a float.
    """

    def __init__(self, values: Mapping[str, float]) -> None:
        super().__init__()
        self._values = values
        self._elements: list[Any] = []

    def number(self, tree: lark.Tree[Any]) -> float:
        text = str(tree.children[0]).replace("_", "")
        return float(int(text, 16)) if text[:2] in ("0x", "0X") else float(text)

    def true(self, tree: lark.Tree[Any]) -> bool:
        return True

    def false(self, tree: lark.Tree[Any]) -> bool:
        return False

    def nil(self, tree: lark.Tree[Any]) -> None:
        return None

    def variable(self, tree: lark.Tree[Any]) -> float:
        name = str(tree.children[0])
        if name not in self._values:
            raise FormulaError(f"the value of {quoted(name, 100)} is not known here")
        return self._values[name]

    def element(self, tree: lark.Tree[Any]) -> Any:
        if not self._elements:
            raise FormulaError("# stands outside a predicate")
        return self._elements[-1]

    def array(self, tree: lark.Tree[Any]) -> list[Any]:
        return [self._visit(child) for child in tree.children]

    def conditional(self, tree: lark.Tree[Any]) -> Any:
        condition, if_true, if_false = tree.children
        return self._visit(if_true if _truth(self._visit(condition)) else if_false)

    def disjunction(self, tree: lark.Tree[Any]) -> bool:
        return any(_truth(self._visit(child)) for child in tree.children)

    def conjunction(self, tree: lark.Tree[Any]) -> bool:
        return all(_truth(self._visit(child)) for child in tree.children)

    def negation(self, tree: lark.Tree[Any]) -> bool:
        return not _truth(self._visit(tree.children[0]))

    def compare(self, tree: lark.Tree[Any]) -> bool:
        left, operator, right = tree.children
        if isinstance(left, lark.Tree) and left.data == "compare":  # a < b < c compares each pair
            return _truth(self._visit(left)) and self._compared(left.children[2], str(operator), right)
        return self._compared(left, str(operator), right)

    def _compared(self, left: Any, operator: str, right: Any) -> bool:
        one, other = self._visit(left), self._visit(right)
        if operator in ("==", "!="):
            return bool((one == other) is (operator == "=="))
        low, high = _number(one), _number(other)
        return {"<": low < high, ">": low > high, "<=": low <= high, ">=": low >= high}[operator]

    def contained(self, tree: lark.Tree[Any]) -> bool:
        one, collection = [self._visit(child) for child in tree.children]
        return one in _list(collection)

    def arithmetic(self, tree: lark.Tree[Any]) -> float:
        left, operator, right = tree.children
        one, other = _number(self._visit(left)), _number(self._visit(right))
        match str(operator):
            case "+":
                return one + other
            case "-":
                return one - other
            case "*":
                return one * other
            case "/":
                return _quotient(one, other)
        raise FormulaError("% takes integers, and is not computed here")

    def minus(self, tree: lark.Tree[Any]) -> float:
        return -_number(self._visit(tree.children[0]))

    def plus(self, tree: lark.Tree[Any]) -> float:
        return _number(self._visit(tree.children[0]))

    def power(self, tree: lark.Tree[Any]) -> float:
        base, exponent = [_number(self._visit(child)) for child in tree.children]
        if abs(exponent) > _LARGEST_POWER:
            raise FormulaError(f"the exponent {exponent:g} is too large")
        try:
            result = base**exponent
        except ZeroDivisionError:
            return math.inf
        return result if isinstance(result, float) else math.nan

    def coalesce(self, tree: lark.Tree[Any]) -> Any:
        one = self._visit(tree.children[0])
        return self._visit(tree.children[1]) if one is None else one

    def call(self, tree: lark.Tree[Any]) -> Any:
        name, arguments = str(tree.children[0]), tree.children[1:]
        if name in _PREDICATES and len(arguments) == 2:
            return self._apply(name, _list(self._visit(arguments[0])), arguments[1])
        values = [self._visit(argument) for argument in arguments]
        if name in _NUMBERS and len(values) == 1:
            return _NUMBERS[name](_number(values[0]))
        if name in _LISTS and values:
            flat = [_number(one) for value in values for one in (value if isinstance(value, list) else [value])]
            return _LISTS[name](flat) if flat or name not in ("max", "min") else None
        if name in ("len", "count") and len(values) == 1:
            collection = _list(values[0])
            return float(len(collection) if name == "len" else sum(map(_truth, collection)))
        raise FormulaError(f"the function {quoted(name, 100)} with {len(values)} arguments is not computed here")

    def _apply(self, name: str, collection: Sequence[Any], predicate: Any) -> Any:
        found = []
        for element in collection:
            self._elements.append(element)
            found.append(self._visit(predicate))
            self._elements.pop()
        if name == "map":
            return found
        if name == "sum":
            return float(sum(map(_number, found)))
        matches = [_truth(one) for one in found]
        if name == "filter":
            return [one for one, is_match in zip(collection, matches, strict=True) if is_match]
        number = sum(matches)
        return {"all": number == len(matches), "any": number > 0, "none": number == 0, "one": number == 1}.get(
            name, float(number)
        )

    def _visit(self, child: Any) -> Any:
        return self.visit(child)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise FormulaError(f"{_described(value)} is not a list")
    return value
