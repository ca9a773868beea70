# SPDX-License-Identifier: Apache-2.0
"""Checks values with a JSON Schema (draft 7), as far as the project's own schema uses it.

A keyword that is not known here is an error, so that no part of a schema is passed over.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

_TYPES: Mapping[str, type] = {"object": dict, "array": list, "string": str}
_NO_MEANING = {"$schema", "title", "description", "definitions", "then"}


class SchemaChecker:
    """One schema with its definitions."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._root = schema
        self._keywords: dict[str, Callable[[Any, Any, Mapping[str, Any]], bool]] = {
            "$ref": lambda value, at, _: self.accepts(value, self._definition(at)),
            "type": lambda value, at, _: isinstance(value, _TYPES[at]),
            "enum": lambda value, at, _: value in at,
            "const": lambda value, at, _: value == at,
            "pattern": lambda value, at, _: not isinstance(value, str) or re.search(at, value) is not None,
            "minLength": lambda value, at, _: not isinstance(value, str) or len(value) >= at,
            "required": lambda value, at, _: not isinstance(value, dict) or set(at) <= set(value),
            "properties": self._properties,
            "additionalProperties": self._additional,
            "propertyNames": lambda value, at, _: (
                not isinstance(value, dict) or all(self.accepts(name, at) for name in value)
            ),
            "items": lambda value, at, _: not isinstance(value, list) or all(self.accepts(item, at) for item in value),
            "anyOf": lambda value, at, _: any(self.accepts(value, one) for one in at),
            "allOf": lambda value, at, _: all(self.accepts(value, one) for one in at),
            "not": lambda value, at, _: not self.accepts(value, at),
            "if": lambda value, at, schema: not self.accepts(value, at) or self.accepts(value, schema["then"]),
        }

    def accepts(self, value: Any, schema: Mapping[str, Any] | None = None) -> bool:
        """Whether a value is valid by the schema, or by a part of it."""
        part = self._root if schema is None else schema
        return all(self._keywords[key](value, part[key], part) for key in part if key not in _NO_MEANING)

    def _definition(self, reference: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._root["definitions"][reference.removeprefix("#/definitions/")]
        return found

    def _properties(self, value: Any, at: Mapping[str, Any], _: Mapping[str, Any]) -> bool:
        return not isinstance(value, dict) or all(self.accepts(value[key], at[key]) for key in at if key in value)

    def _additional(self, value: Any, at: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
        known = schema.get("properties", {})
        return not isinstance(value, dict) or all(self.accepts(it, at) for key, it in value.items() if key not in known)
