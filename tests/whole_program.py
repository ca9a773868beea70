# SPDX-License-Identifier: Apache-2.0
"""Imports every module of the program into a process from which others are forked.

A command imports what it needs when it needs it, and a forked one finds it here. What a command imports when it starts
from nothing is for the tests that run ``python -m keda_gpu_scaler``.
"""

import gc
import importlib
import pkgutil

import keda_gpu_scaler

_IMPORTED_LATE = (
    *("_strptime", "concurrent.futures.thread", "ctypes", "encodings.idna", "encodings.utf_8_sig", "statistics"),
    *("anyio._backends._asyncio", "click._textwrap", "grpc.experimental", "httpcore._async.connection_pool"),
    *("httpcore._backends.anyio", "httpx", "xml.parsers.expat", "yaml"),
    *("rich._unicode_data.unicode17-0-0", "rich.live", "rich.table"),
)
"""What the standard library and the dependencies import in a call and not at their own import."""

for _name in (
    *(module.name for module in pkgutil.walk_packages(keda_gpu_scaler.__path__, "keda_gpu_scaler.")),
    *_IMPORTED_LATE,
):
    if not _name.endswith("__main__"):
        importlib.import_module(_name)
gc.collect()
gc.freeze()  # a collection in a forked process does not write to the pages that it shares with the others
