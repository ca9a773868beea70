# SPDX-License-Identifier: Apache-2.0
"""keda-gpu-scaler: a KEDA external scaler that reads accelerators and inference engines."""

__version__ = "0.1.0"
