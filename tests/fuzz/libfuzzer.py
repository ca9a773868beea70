# SPDX-License-Identifier: Apache-2.0
"""Runs one fuzz target under libFuzzer: ``python -m tests.fuzz.libfuzzer TARGET [flag or folder…]``.

``scripts/fuzz.py`` starts it. The code of this program, of PyYAML and of lark is instrumented when it is imported.
"""

import logging
import sys

import atheris


def main(name: str) -> None:
    """Fuzz until a limit of libFuzzer's flags, or until the first finding."""
    with atheris.instrument_imports(include=["keda_gpu_scaler", "yaml", "lark"]):
        from tests.fuzz.targets import TARGETS
    logging.disable(logging.CRITICAL)
    atheris.Setup(sys.argv, TARGETS[name].check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv.pop(1))
