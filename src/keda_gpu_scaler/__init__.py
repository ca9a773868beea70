# SPDX-License-Identifier: Apache-2.0
"""keda-gpu-scaler: a KEDA external scaler that reads accelerators and inference engines."""

import importlib

from keda_gpu_scaler.core.trigger.engines import load_engines_with

__version__ = "0.1.0"

# core knows the table of engines, but may not import the package that fills it. An instance loads the package with the
# first trigger. The import is by name, because most modules that import this one may not import engines.
load_engines_with(lambda: importlib.import_module("keda_gpu_scaler.engines"))
