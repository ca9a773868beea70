# SPDX-License-Identifier: Apache-2.0
"""keda-gpu-scaler: a KEDA external scaler that reads the accelerators themselves."""

__version__ = "0.1.0"
