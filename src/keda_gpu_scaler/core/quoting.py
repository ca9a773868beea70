# SPDX-License-Identifier: Apache-2.0
"""How are a stranger's words shown? In quotes, escaped and cut short.

The law of this module: whatever comes in, printable ASCII of bounded length comes out, so that a complaint
that quotes it fits in one line, disturbs no terminal and forges no line of a log.
"""

import json


def quoted(value: object, limit: int = 40) -> str:
    """Quote a value as JSON does.

    Args:
        value: what JSON can hold. Text is cut to ``limit`` characters before it is escaped, anything else
            after it; of an object and of a list only the kind is told.
        limit: characters, the mark of an omission included; 4 at least.
    """
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= limit else value[: limit - 1] + "…")
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
