# SPDX-License-Identifier: Apache-2.0
"""Quotes untrusted text for messages.

Law: the result is printable ASCII of bounded length, whatever the input is. A message that quotes it fits in one line,
changes no terminal and forges no line of a log.
"""

import json


def quoted(value: object, limit: int = 40) -> str:
    """Quote a value as JSON does.

    Args:
        value: a JSON value. Text is cut to ``limit`` characters before it is escaped, a number after it. An object and
            a list are shown by their kind only.
        limit: number of characters, the mark of an omission included; at least 4.
    """
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= limit else value[: limit - 1] + "…")
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def titled(title: str, sentence: str) -> str:
    """Put the name of an object before a sentence about it; a sentence that begins with it stays as it is."""
    return sentence if sentence.startswith(f"{title}: ") else f"{title}: {sentence}"
