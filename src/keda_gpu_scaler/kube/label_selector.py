# SPDX-License-Identifier: Apache-2.0
"""Applies the label selectors of Kubernetes to labels in memory.

The grammar is that of k8s.io/apimachinery/pkg/labels (Parse), without the comparisons ``<`` and ``>``. As there, ``!=``
and ``notin`` hold where the label does not exist.
"""

import re
from collections.abc import Callable, Mapping

Matches = Callable[[Mapping[str, str]], bool]
"""Whether a selector selects an object with these labels."""
_KEY = r"(?:[A-Za-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9_.-]{0,63}"
_REQUIREMENT = re.compile(
    rf"\s*(?:!\s*(?P<absent>{_KEY})"
    rf"|(?P<key>{_KEY})\s*(?:(?P<equality>==|=|!=)\s*(?P<value>{_VALUE})"
    r"|(?P<set>in|notin)\s*\((?P<values>[A-Za-z0-9_., -]*)\))?)\s*(?:,|\Z)",
    re.ASCII,
)


def parse_selector(text: str) -> Matches | None:
    """Return the predicate of a selector, None where the text has a form that is not supported here."""
    requirements: list[Matches] = []
    at = 0
    while at < len(text):
        found = _REQUIREMENT.match(text, at)
        if found is None:
            return None
        requirements.append(_requirement(found))
        at = found.end()
    if text.rstrip().endswith(","):
        return None
    return lambda labels: all(holds(labels) for holds in requirements)


def _requirement(found: re.Match[str]) -> Matches:
    if absent := found["absent"]:
        return lambda labels: absent not in labels
    key = found["key"]
    if equality := found["equality"]:
        value, is_equal = found["value"], equality != "!="
        return lambda labels: (labels.get(key) == value) is is_equal
    if found["set"]:
        values, is_in = frozenset(one.strip() for one in found["values"].split(",")), found["set"] == "in"
        return lambda labels: (labels.get(key) in values) is is_in
    return lambda labels: key in labels
