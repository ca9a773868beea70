# SPDX-License-Identifier: Apache-2.0
"""Constructs the values of YAML, with one kind of error.

Law: a scalar that its type cannot have is a ``yaml.YAMLError`` with its position. PyYAML raises other errors for a date
that does not exist, an integer of thousands of digits, or ``!!int x``.
"""

from typing import Any

import yaml

_ERRORS = (ValueError, LookupError, AttributeError, TypeError)


class PlainLoader(yaml.SafeLoader):
    """A ``SafeLoader`` whose only errors are ``YAMLError`` and, for text that is nested too deeply, RecursionError."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node.

        Raises:
            ConstructorError: the node has no value.
        """
        try:
            return super().construct_object(node, deep)
        except _ERRORS as error:
            kind = str(node.tag).rpartition(":")[2]
            problem = f"a value is not a possible {kind}; put it in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error
