# SPDX-License-Identifier: Apache-2.0
"""Says how many examples a property draws: a quarter in an ordinary run, all in a long one.

Outside CI, where Hypothesis draws the same ones each time, the examples of each run are others: many ordinary runs
draw more than one long run. ``make test-long`` draws all, and so does CI.
"""

import os

VARIABLE = "KEDA_GPU_SCALER_TEST_EXAMPLES"
"""The environment variable of a long run: its value is "all"."""
DEFAULT = 100
"""The examples of a property that names no other number: Hypothesis' own default."""
_PART = 4


def examples(number: int) -> int:
    """Return how many of a property's examples this run draws."""
    return number if os.environ.get(VARIABLE) == "all" else number // _PART
