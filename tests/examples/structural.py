# SPDX-License-Identifier: Apache-2.0
"""Checks a document against a structural schema, as the API server does.

The law of this module: what the schema says and this does not understand is a failure, and never a pass. Unknown fields
are problems, as they are for ``kubectl apply``, which validates strictly.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_UNDERSTOOD = {"type", "properties", "required", "additionalProperties", "items", "enum", "pattern", "format"} | {
    "minimum", "maximum", "minLength", "minItems", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"
}  # fmt: skip
# Says nothing about a document by itself; anyOf stands only beside x-kubernetes-int-or-string, which says the same,
# and the rules in CEL are listed by ``rules``, for whoever checks them in words of their own.
_SILENT = {"description", "default", "anyOf", "x-kubernetes-validations", "x-kubernetes-list-type"} | {
    "x-kubernetes-list-map-keys", "x-kubernetes-map-type"
}  # fmt: skip
_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_FORMATS = {"int32": 1 << 31, "int64": 1 << 63}
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_OWN_METADATA = {"name", "namespace", "labels", "annotations"}


def problems(document: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """Return a sentence for everything that is wrong with a whole object."""
    return [*_metadata(document.get("metadata")), *_problems(document, schema, "")]


def rules(schema: Mapping[str, Any]) -> set[str]:
    """Return the CEL rules that a schema holds anywhere."""
    found = {rule["rule"] for rule in schema.get("x-kubernetes-validations", ())}
    inner = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    return found.union(*(rules(one) for one in inner if isinstance(one, dict)))


def _metadata(metadata: object) -> Iterator[str]:
    """Check what is the same for every kind, and in no kind's own schema."""
    if not isinstance(metadata, dict) or not _NAME.fullmatch(str(metadata.get("name"))):
        yield f"metadata: {metadata!r} has no name that an object may have"
        return
    for unknown in sorted(set(metadata) - _OWN_METADATA):
        yield f"metadata.{unknown}: nobody writes this by hand"


def _problems(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if unknown := set(schema) - _UNDERSTOOD - _SILENT:
        raise AssertionError(f"{path}: the schema says {unknown}")
    here = path or "the object"
    if schema.get("x-kubernetes-int-or-string"):
        allowed: tuple[type, ...] = (int, str)
    else:
        if "anyOf" in schema:
            raise AssertionError(path)
        allowed = _TYPES[schema["type"]]
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        yield f"{here}: {value!r} is no {schema.get('type', 'integer or string')}"
    elif isinstance(value, dict):
        yield from _fields(value, schema, path)
    elif isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{here}: must have at least {schema['minItems']} items"
        for index, item in enumerate(value):
            yield from _problems(item, schema["items"], f"{path}[{index}]")
    else:
        yield from (f"{here}: {sentence}" for sentence in _scalar(value, schema))


def _fields(value: dict[str, Any], schema: Mapping[str, Any], path: str) -> Iterator[str]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}.{name}: is required".lstrip(".")
    # What stands in an object without a word about its fields (an object's metadata, in a CRD) is checked elsewhere.
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or (not known and others is None)
    for name, item in value.items():
        inner = f"{path}.{name}".lstrip(".")
        if name in known:
            yield from _problems(item, known[name], inner)
        elif isinstance(others, dict):
            yield from _problems(item, others, inner)
        elif not is_open:
            yield f"{inner}: unknown field"


def _scalar(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{value!r} is none of {schema['enum']}"
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            yield "is too short"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{value!r} does not match {schema['pattern']}"
        return
    if value < schema.get("minimum", value) or value > schema.get("maximum", value):
        yield f"{value!r} is out of bounds"
    limit = _FORMATS.get(schema.get("format", ""))
    if limit is not None and not -limit <= value < limit:
        yield f"{value!r} does not fit {schema['format']}"
